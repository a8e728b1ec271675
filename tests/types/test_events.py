"""Events: every class is JSON, has a name of its own, and the envelope shows all of it."""

import inspect
import json
import re
from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest

import perdure
from perdure import Approval, Approve, Usage, events
from perdure.types.attachments import image
from perdure.types.messages import TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, user
from perdure.types.records import ErrorInfo

KINDS: tuple[type[Any], ...] = get_args(events.AnyEvent)
AT: dict[str, Any] = {
    **{"run_id": "run_1", "session_id": "session_1", "agent": "A", "step": "agent/0/infer/0"},
    **{"seq": 7, "cursor": "7"},
}
CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
FIELDS: dict[str, Any] = {
    "definition": "Desk",
    "input": (user(["see", image(b"\0\xff")]),),
    "parent": "run_0",
    "stop_reason": "max_iter",
    "output": {"a": [1, None, 2.5]},
    "usage": Usage(1, 2, model_calls=1, cost=Decimal("0.10")),
    "waits": (Approval("wait_1", "refund", {"amount": 5}, "run_1"),),
    "wait": Approval("wait_1", "refund", {"amount": 5}, "run_1"),
    "wait_id": "wait_1",
    "answer": Approve("ada"),
    "at": 1764000000.5,
    "error": ErrorInfo("ValueError", "no", "agent/0/infer/0"),
    "agents": ("A", "B"),
    "by": "route",
    "message_id": "run_1/agent/0/infer/0",
    "messages": (
        TextMessage("assistant", "hi"),
        ToolCallMessage((CALL,)),
        ToolResultMessage(CALL, {"data": "rain"}),
    ),
    "interrupted": True,
    "finish": "max_tokens",
    "reason": "overloaded",
    "text": "hi",
    "tool": "weather",
    "call_id": "call_1",
    "args": {"city": "Oslo"},
    "data": {"done": 0.5},
    "result": {"data": "rain"},
    "outcome": "error",
    "name": "charge",
    "attempt": 2,
    "patch": [{"op": "add", "path": "/a", "value": 1}],
    "path": "/a",
    "winner": "agent/0/infer/0/tool/1",
    "loser": "agent/0/infer/0/tool/0",
    "event_type": "agent_message",
    "content": "hello",
    "event_id": "evt_1",
    "sequence": 3,
    "event_data": {"n": [1, None]},
    "metadata": {"from_agent": "a"},
    "parent_event_id": "evt_0",
    "user_id": "ada",
    "state": "ended",
    "base": "session_0",
    "base_seq": 7,
    "to": 7,
    "detail": "9 of 9 tokens are used",
}


def own_fields(kind: type[Any]) -> list[str]:
    """What a class has beside that which every event has."""
    return [name for name in kind.__struct_fields__ if name not in AT]


def example(kind: type[Any]) -> Any:
    """An event of a class with every field set."""
    own = {name: FIELDS[name] for name in own_fields(kind)}
    if kind is events.StepRetrying:
        own["wait"] = 0.5  # here it is seconds, and elsewhere what is waited for
    return kind(**own, **AT)


def test_every_event_class_is_in_the_union():
    classes = {
        one
        for one in vars(events).values()
        if isinstance(one, type) and issubclass(one, events.Event) and one is not events.Event
    }
    assert classes == set(KINDS)


def test_type_names_are_unique_and_snake_case():
    names = [events.type_name(example(kind)) for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert {"run_started", "tool_call_ready", "tool_args_delta"} <= set(names)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_survives_json(kind: type[Any]):
    event = example(kind)
    decoder = msgspec.json.Decoder(events.AnyEvent)
    assert decoder.decode(msgspec.json.encode(event)) == event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_envelope_shows_all_of_an_event_as_plain_json(kind: type[Any]):
    event = example(kind)
    shown = events.envelope(event, seq=3, timestamp=1_700_000_000.1234)
    assert json.loads(json.dumps(shown)) == shown, "plain values only"
    assert list(shown) == ["type", "timestamp", "data", "source", "category", "intent", "context", "seq"]
    assert shown["type"] == events.type_name(event)
    assert shown["timestamp"] == 1_700_000_000_123
    assert shown["seq"] == 3, "its number in this stream, and not the record's"
    assert shown["context"] == {name: AT[name] for name in ("run_id", "session_id", "agent", "step")}
    assert sorted(shown["data"]) == sorted(own_fields(kind))
    for name in own_fields(kind):
        assert shown["data"][name] == json.loads(msgspec.json.encode(getattr(event, name)))
    assert shown["intent"] == ("request" if kind is events.WaitOpened else "notification")
    assert shown["category"] in {"lifecycle", "message", "stream", "state", "request", "action"}


def test_the_context_leaves_out_what_is_not_known():
    shown = events.envelope(events.RunResumed(run_id="run_1"), seq=0, timestamp=0)
    assert shown["context"] == {"run_id": "run_1"}
    assert shown["data"] == {}


@pytest.mark.parametrize(
    ("kind", "category"),
    [
        (events.RunStarted, "lifecycle"),
        (events.AgentFinished, "lifecycle"),
        (events.MessageStarted, "message"),
        (events.TextDelta, "stream"),
        (events.ReasoningDelta, "stream"),
        (events.ToolCallReady, "stream"),
        (events.ToolFinished, "stream"),
        (events.StateChanged, "state"),
        (events.WaitOpened, "request"),
        (events.UsageUpdated, "action"),
    ],
)
def test_the_category_of_an_event(kind: type[Any], category: str):
    assert events.envelope(example(kind), seq=0, timestamp=0)["category"] == category


def test_four_events_end_a_run():
    assert set(events.TERMINAL) == {
        events.RunCompleted,
        events.RunWaiting,
        events.RunFailed,
        events.RunCancelled,
    }


@pytest.mark.parametrize(("outcome", "is_error"), [("ok", False), ("error", True), ("unknown", True), ("denied", True)])
def test_a_tool_that_did_not_end_well_is_an_error(outcome: Any, is_error: bool):
    event = events.ToolFinished(tool="t", call_id="1", result=None, outcome=outcome)
    assert event.is_error is is_error


def test_every_event_is_found_where_it_is_looked_for():
    from perdure.events import TextDelta
    from perdure.types import events as own

    assert TextDelta is perdure.TextDelta
    assert {one for one in vars(own).values() if inspect.isclass(one) and issubclass(one, own.Event)} <= {
        getattr(events, kind.__name__, None) for kind in (*KINDS, own.Event)
    }
    names = {kind.__name__ for kind in KINDS}
    assert {name for name in names if getattr(perdure, name) is not getattr(events, name)} == {
        "RunFailed",
        "RunCancelled",
        "RunWaiting",
    }
