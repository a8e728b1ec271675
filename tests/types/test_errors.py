"""Errors: one tree, and messages that say what to do."""

import pickle
from typing import Any

import pytest

from perdure.types import errors as er

CLASSES = [one for one in vars(er).values() if isinstance(one, type) and issubclass(one, Exception)]


def test_every_error_of_ours_is_in_one_tree():
    assert all(issubclass(one, er.PerdureError) for one in CLASSES)
    assert len({one.__name__ for one in CLASSES}) == len(CLASSES)
    assert all(one.__doc__ for one in CLASSES)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            er.MissingExtra("openai", "openai"),
            "The package 'openai' is not installed. Install it with: pip install 'perdure[openai]'",
        ),
        (
            er.MissingKey("openai", "OPENAI_API_KEY"),
            "No API key for openai. Set the environment variable OPENAI_API_KEY, or pass api_key=...",
        ),
        (
            er.UnknownName("agent", "Biller", ["Billing", "Writer"]),
            "There is no agent named 'Biller'. Known: 'Billing', 'Writer'.",
        ),
        (er.UnknownName("tool", "x", []), "There is no tool named 'x'. Known: none."),
        (er.UnknownName("run", "x"), "There is no run named 'x'."),
        (er.NeedsRuntime("session_id"), "session_id needs a place to last: open a Runtime"),
        (
            er.NeedsRuntime("session_id", "pass messages="),
            "session_id needs a place to last: open a Runtime, or pass messages=",
        ),
        (
            er.Unserialisable("state", ".a: object"),
            "The state cannot be kept, because it is not JSON-serialisable (.a: object). "
            "Return or store plain values, dataclasses, pydantic models or msgspec structs.",
        ),
        (er.RateLimited("slow down", provider="openai", model="m", status=429), "openai:m: slow down (HTTP 429)"),
        (er.BadResponse("no end"), "no end"),
    ],
)
def test_what_an_error_says(error: Exception, message: str):
    assert str(error) == message


def test_what_an_error_knows():
    missing = er.MissingExtra("google.genai", "gemini")
    assert (missing.package, missing.extra) == ("google.genai", "gemini")
    key = er.MissingKey("gemini", "GEMINI_API_KEY")
    assert (key.provider, key.variable) == ("gemini", "GEMINI_API_KEY")
    unknown = er.UnknownName("agent", "A", ["B"])
    assert (unknown.kind, unknown.name, unknown.known) == ("agent", "A", ["B"])
    limited = er.RateLimited("slow down", provider="p", model="m", status=429, retry_after=2.5)
    assert (limited.message, limited.provider, limited.model) == ("slow down", "p", "m")
    assert (limited.status, limited.retry_after) == (429, 2.5)
    assert er.RunFailed("x", "result").result == "result"
    assert er.Unserialisable("state", ".a: object").where == ".a: object"


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (er.DefinitionError, ValueError),
        (er.InvalidId, ValueError),
        (er.Unserialisable, TypeError),
        (er.UnknownName, LookupError),
        (er.MissingKey, er.ConfigurationError),
        (er.MissingExtra, er.ConfigurationError),
        (er.NoModel, er.ConfigurationError),
        (er.RunFailed, er.RunError),
        (er.RunCancelled, er.RunError),
        (er.RunWaiting, er.RunError),
        (er.ToolServerUnreachable, er.NotDone),
    ],
)
def test_an_error_is_also_what_an_old_hand_would_catch(kind: type, also: type):
    assert issubclass(kind, also)


def test_a_cancelled_run_is_an_exception_that_a_handler_may_catch():
    assert issubclass(er.RunCancelled, Exception)


def test_which_failures_of_models_may_pass_if_tried_again():
    kinds = {one.__name__: one.retryable for one in CLASSES if issubclass(one, er.ModelError)}
    assert {name for name, retryable in kinds.items() if retryable} == {
        "RateLimited",
        "Overloaded",
        "ModelUnreachable",
        "ModelTimeout",
        "BadResponse",
    }


@pytest.mark.parametrize(
    "error",
    [
        er.MissingExtra("openai", "openai"),
        er.MissingKey("openai", "OPENAI_API_KEY"),
        er.UnknownName("agent", "A", ["B"]),
        er.NeedsRuntime("session_id", "pass messages="),
        er.Unserialisable("state", ".a: object"),
        er.RateLimited("slow", provider="p", model="m", status=429, retry_after=1.0),
        er.RunFailed("no"),
        er.DefinitionError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_can_go_to_another_process(error: Any):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
