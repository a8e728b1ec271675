"""From what providers and SDKs say of a failure to our error classes."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from perdure.models.failures import classify, retry_after, translate
from perdure.types.errors import (
    AuthenticationFailed,
    BadRequest,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelError,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)


@pytest.mark.parametrize(
    ("status", "codes", "message", "kind"),
    [
        (400, ["invalid_request_error"], "no such field", BadRequest),
        (400, ["context_length_exceeded"], "x", ContextTooLong),
        (400, [], "This model's maximum context length is 8192 tokens.", ContextTooLong),
        (400, ["invalid_request_error"], "prompt is too long: 200001 tokens > 200000 maximum", ContextTooLong),
        (
            400,
            ["INVALID_ARGUMENT"],
            "The input token count exceeds the maximum number of tokens allowed",
            ContextTooLong,
        ),
        (413, ["request_too_large"], "x", ContextTooLong),
        (400, ["INVALID_ARGUMENT"], "API key not valid. Please pass a valid API key.", AuthenticationFailed),
        (400, ["invalid_request_error"], "Your credit balance is too low", AuthenticationFailed),
        (400, ["content_filter"], "x", ContentRefused),
        (400, [], "The response was filtered due to Azure OpenAI's content management policy", ContentRefused),
        (401, [], "x", AuthenticationFailed),
        (402, [], "Insufficient Balance", AuthenticationFailed),
        (403, ["PERMISSION_DENIED"], "x", AuthenticationFailed),
        (404, ["model_not_found"], "x", BadRequest),
        (408, [], "x", ModelTimeout),
        (409, [], "x", Overloaded),
        (422, [], "x", BadRequest),
        (429, ["rate_limit_error"], "Request too large: reduce the length of the messages", RateLimited),
        (429, ["insufficient_quota"], "x", AuthenticationFailed),
        (500, [], "the maximum context length", Overloaded),
        (529, ["overloaded_error"], "x", Overloaded),
        (302, [], "x", BadResponse),
        (None, ["overloaded_error"], "x", Overloaded),
        (None, ["RESOURCE_EXHAUSTED"], "x", RateLimited),
        (None, ["authentication_error"], "x", AuthenticationFailed),
        (None, ["503"], "x", Overloaded),
        (None, ["invalid_request_error"], "prompt is too long", ContextTooLong),
        (None, [None, "news_to_us"], "x", BadResponse),
    ],
)
def test_classes(status, codes, message, kind) -> None:
    error = classify(message, provider="p", model="m", status=status, codes=codes, retry_after=3.0)
    assert type(error) is kind
    assert str(error).startswith("p:m: ")
    assert error.retry_after == 3.0


def test_a_long_message_is_cut() -> None:
    assert len(str(classify("x" * 100_000, provider="p", model="m", status=500))) < 3_000


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, None),
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers, expected) -> None:
    assert retry_after(headers) == expected


def test_retry_after_as_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3_000 < (retry_after({"retry-after": soon}) or 0) <= 3_600


class APIError(Exception):
    """As the SDKs name theirs; read by its attributes, wherever it comes from."""

    def __init__(self, message: str = "", **attributes) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            setattr(self, name, value)


class APIConnectionError(APIError):
    pass


class APITimeoutError(APIConnectionError):
    pass


class ReadTimeout(Exception):
    pass


class TransportError(Exception):
    pass


class Response:
    headers = {"retry-after": "9"}


GOOGLE = {
    "error": {
        "code": 429,
        "message": "quota",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}, "x"],
    }
}


@pytest.mark.parametrize(
    ("error", "kind", "wait"),
    [
        (APIError("x", status_code=429, body={"message": "slow"}, response=Response()), RateLimited, 9.0),
        (APIError("x", status_code=429, body={"code": "insufficient_quota"}), AuthenticationFailed, None),
        (APIError("x", status_code=400, body={"error": {"type": "invalid_request_error"}}), BadRequest, None),
        (APIError("x", code=429, details=GOOGLE), RateLimited, 7.5),
        (APIError("x", code=503, details=[GOOGLE]), Overloaded, 7.5),
        (APIError("x", code="overloaded_error", body={"message": "busy"}), Overloaded, None),
        (
            APIError("x", body={"type": "error", "error": {"type": "overloaded_error", "message": "b"}}),
            Overloaded,
            None,
        ),
        (APIConnectionError("Connection error."), ModelUnreachable, None),
        (APITimeoutError("Request timed out."), ModelTimeout, None),
        (TransportError("reset"), ModelUnreachable, None),
        (ConnectionResetError("reset"), ModelUnreachable, None),
        (TimeoutError(), ModelTimeout, None),
        (json.JSONDecodeError("bad", "x", 0), BadResponse, None),
    ],
)
def test_exceptions_of_sdks(error, kind, wait) -> None:
    wrong = translate(error, provider="p", model="m")
    assert wrong is not None
    assert type(wrong) is kind
    assert wrong.retry_after == wait


def test_what_is_none_of_a_providers_is_left_alone() -> None:
    assert translate(ValueError("a mistake"), provider="p", model="m") is None
    assert translate(TypeError("a mistake"), provider="p", model="m") is None
    ours = Overloaded("x")
    assert translate(ours, provider="p", model="m") is ours


def test_the_cause_of_a_lost_connection_is_told_and_the_key_is_not() -> None:
    error = APIConnectionError("Connection error.")
    error.__cause__ = OSError("no route to host")
    assert "no route to host" in str(translate(error, provider="p", model="m"))
    leaky = APIError("x", status_code=401, body={"message": "Wrong key: sk-secret-1."})
    said = str(translate(leaky, provider="p", model="m", secret="sk-secret-1"))
    assert "Wrong key: [key]." in said


def test_every_class_is_a_model_error() -> None:
    assert issubclass(ReadTimeout, Exception)
    assert isinstance(translate(TimeoutError(), provider="p", model="m"), ModelError)
