"""What went wrong with a call of a model: from what a provider said to one of our `ModelError`s.

`classify` decides by status, code and message, and is all that a decoder needs for an error inside a stream.
`translate` reads the exceptions of any of the SDKs by their common attributes, so no SDK is imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

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

# What providers name their errors, where there is no status: in the middle of a stream.
_STATUS_OF_CODE = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "api_error": 500,
    "server_error": 500,
    "internal": 500,
    "internal_server_error": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_NO_RIGHTS = {"insufficient_quota", "billing_not_active", "billing_error", "billing_hard_limit_reached"}
_TOO_LONG = {"context_length_exceeded", "context_window_exceeded", "model_context_window_exceeded", "request_too_large"}
_FILTERED = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"} | {
    "invalid_prompt",
    "prohibited_content",
}

_TOO_LONG_TEXT = re.compile(
    r"context[ _](length|window|size)|prompt is too long|input is too long|too many (input )?tokens"
    r"|exceeds? the (maximum|available|model's) (number of|context|input)|maximum (input|prompt) length"
    r"|reduce the length of the (messages|prompt|input)",
    re.IGNORECASE,
)
_NO_RIGHTS_TEXT = re.compile(
    r"api[ _]key not valid|api[ _]key[ _]invalid|invalid api key|credit balance is too low|insufficient balance"
    r"|exceeded your current quota, please check your plan and billing",
    re.IGNORECASE,
)
_FILTERED_TEXT = re.compile(r"content management policy|content[ _]filter|blocked by .*safety", re.IGNORECASE)
_DELAY = re.compile(r"(\d+(?:\.\d+)?)s\Z")
_MOST = 2_000

SHORTEST_KEY = 8
"""Shorter ones are no secrets, and occur in any message."""


def classify(
    message: str,
    *,
    provider: str,
    model: str,
    status: int | None = None,
    codes: Sequence[str | None] = (),
    retry_after: float | None = None,
) -> ModelError:
    """Make the error that says what kind of failure this is, and so whether trying again can help."""
    names = {code.lower() for code in codes if code}
    # Some servers say the status where others have a name, also in the middle of a stream.
    status = status or next((int(name) for name in names if re.fullmatch(r"[45]\d\d", name)), None)
    number = status or next((_STATUS_OF_CODE[name] for name in names if name in _STATUS_OF_CODE), None)
    kind = _kind(number, names, message)
    shown = message if len(message) <= _MOST else message[:_MOST] + "…"
    return kind(shown, provider=provider, model=model, status=status, retry_after=retry_after)


def _kind(status: int | None, names: set[str], message: str) -> type[ModelError]:
    refused = status is None or 400 <= status < 500
    if refused:
        if names & _FILTERED:
            return ContentRefused
        # An empty account is not mended by waiting, so it is a matter of rights even where it comes as a 429.
        if status in (401, 402, 403) or names & _NO_RIGHTS or (status != 429 and _NO_RIGHTS_TEXT.search(message)):
            return AuthenticationFailed
        if status == 413 or names & _TOO_LONG or (status != 429 and _TOO_LONG_TEXT.search(message)):
            return ContextTooLong
        if status != 429 and _FILTERED_TEXT.search(message):
            return ContentRefused
    if status is None:
        return BadResponse
    if status == 429:
        return RateLimited
    if status == 408:
        return ModelTimeout
    if status >= 500 or status in (409, 425):
        return Overloaded
    return BadRequest if status >= 400 else BadResponse


def translate(error: BaseException, *, provider: str, model: str, secret: str = "") -> ModelError | None:
    """Turn an exception of an SDK or of the connection into one of ours.

    Returns:
        The error to raise, or None if this exception is none of a provider's (a mistake in the program).
    """
    if isinstance(error, ModelError):
        return error
    names = {kind.__name__ for kind in type(error).__mro__}
    said = _said(error)
    if len(secret) >= SHORTEST_KEY:
        said = said.replace(secret, "[key]")
    if isinstance(error, TimeoutError) or names & {"APITimeoutError", "TimeoutException", "ServerTimeoutError"}:
        return ModelTimeout(said or "no answer in time", provider=provider, model=model)
    status = _status(error)
    if status is not None and "APIResponseValidationError" not in names:
        codes = _codes(error)
        wait = retry_after(_headers(error)) or _retry_delay(_body(error))
        return classify(said, provider=provider, model=model, status=status, codes=codes, retry_after=wait)
    if names & {"APIConnectionError", "TransportError", "ClientError"} or isinstance(error, OSError):
        cause = error.__cause__
        reason = f"{said} ({cause})" if cause is not None and str(cause) and str(cause) not in said else said
        return ModelUnreachable(reason or type(error).__name__, provider=provider, model=model)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) or names & {
        "APIResponseValidationError",
        "ValidationError",
        "UnknownApiResponseError",
        "DecodingError",
    }:
        return BadResponse(f"not an answer: {said[:500]}", provider=provider, model=model)
    if "APIError" in names:  # inside a stream: a body, but no status
        return classify(said, provider=provider, model=model, codes=_codes(error))
    return None


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Read from the headers of an answer how many seconds the provider asks to wait."""
    if headers is None:
        return None
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or not value:
        return seconds
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def _status(error: BaseException) -> int | None:
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        # An error inside a stream comes with the stream's own status, which says that all is well.
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return None


def _headers(error: BaseException) -> Mapping[str, str] | None:
    return getattr(getattr(error, "response", None), "headers", None)


def _body(error: BaseException) -> dict[str, Any]:
    """The provider's own account of the error; some wrap it in `error`, some in a list, some not at all."""
    body: Any = getattr(error, "body", None)
    if body is None:
        body = getattr(error, "details", None)
    if isinstance(body, list) and body:
        body = cast("list[Any]", body)[0]
    if not isinstance(body, dict):
        return {}
    inner: Any = cast("dict[str, Any]", body).get("error")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else cast("dict[str, Any]", body)


def _codes(error: BaseException) -> list[str]:
    body = _body(error)
    inner: Any = body.get("innererror")
    found: list[Any] = [body.get("code"), body.get("type"), body.get("status")]
    found += [cast("dict[str, Any]", inner).get("code")] if isinstance(inner, dict) else []
    found += [getattr(error, name, None) for name in ("code", "type", "status")]
    return [one for one in found if isinstance(one, str)]


def _said(error: BaseException) -> str:
    body: Any = getattr(error, "body", None)
    if isinstance(body, str) and body.strip():  # no JSON: the page of a proxy
        return f"{error}: {body.strip()}"
    told = _body(error)
    for name in ("message", "error", "detail"):
        if isinstance(told.get(name), str) and told[name]:
            return told[name]
    message = str(getattr(error, "message", None) or error or type(error).__name__)
    if told and "{" not in message:  # a shape of the server's own, which the SDK does not show
        message = f"{message}: {json.dumps(told, ensure_ascii=False, default=str)}"
    return message


def _retry_delay(body: Mapping[str, Any]) -> float | None:
    """Google's way: an entry of the details with `retryDelay`, such as "7s"."""
    details: Any = body.get("details")
    for one in cast("list[Any]", details) if isinstance(details, list) else []:
        delay: Any = cast("dict[str, Any]", one).get("retryDelay") if isinstance(one, dict) else None
        found = _DELAY.match(delay) if isinstance(delay, str) else None
        if found:
            return float(found[1])
    return None
