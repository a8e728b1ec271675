"""One tree of exceptions; each message says what happened, where, and what to do."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any


class PerdureError(Exception):
    """The root of everything that Perdure raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error be copied and sent to another process, whatever its own arguments are."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[PerdureError], args: tuple[Any, ...], known: dict[str, Any]) -> PerdureError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(known)
    return error


class DefinitionError(PerdureError, ValueError):
    """An agent, tool, network or option was defined wrongly; raised when it is made, not when it runs."""


class ConfigurationError(PerdureError):
    """Something outside the code is missing: a package, a key, a model."""


class MissingExtra(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"The package '{package}' is not installed. Install it with: pip install 'perdure[{extra}]'")
        self.package = package
        self.extra = extra


class MissingKey(ConfigurationError):
    """A provider needs an API key and none was given."""

    def __init__(self, provider: str, variable: str) -> None:
        super().__init__(f"No API key for {provider}. Set the environment variable {variable}, or pass api_key=...")
        self.provider = provider
        self.variable = variable


class NoModel(ConfigurationError):
    """An agent is run and neither the run, the agent nor the network names a model."""


class NeedsRuntime(PerdureError):
    """Something was asked for that needs a place to last, and there is no runtime."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(f"{what} needs a place to last: open a Runtime" + (f", or {instead}" if instead else ""))


class Unserialisable(PerdureError, TypeError):
    """A value that must be kept has no JSON form; `where` is the path to the offending part, and its type."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(
            f"The {what} cannot be kept, because it is not JSON-serialisable ({where}). "
            "Return or store plain values, dataclasses, pydantic models or msgspec structs."
        )
        self.where = where


class InvalidId(PerdureError, ValueError):
    """An id has a shape that is not allowed."""


class Conflict(PerdureError):
    """The same id was used again for something else."""


class QuotaExceeded(PerdureError):
    """A container has no room for another run; nothing was begun and nothing was paid."""


class UnknownName(PerdureError, LookupError):
    """A name does not belong to any agent, tool or definition known here."""

    def __init__(self, kind: str, name: str, known: list[str] | None = None) -> None:
        listed = "" if known is None else f" Known: {', '.join(repr(one) for one in known) or 'none'}."
        super().__init__(f"There is no {kind} named {name!r}.{listed}")
        self.kind = kind
        self.name = name
        self.known = known or []


class SessionNotFound(UnknownName):
    """A session was asked for that has never been."""

    code = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__("session", session_id, [])


class InvalidSessionState(PerdureError):
    """A session's state does not allow what was asked for; nothing was changed."""

    code = "INVALID_SESSION_STATE"

    def __init__(self, session_id: str, state: str, what: str, instead: str) -> None:
        super().__init__(f"The session {session_id!r} is {state}, so it {what}; {instead}.")
        self.session_id = session_id
        self.state = state


# -- models ---------------------------------------------------------------------------------------------------------


class ModelError(PerdureError):
    """A call of a model failed.

    Args:
        message: what the provider said.
        provider: the provider's name.
        model: the model's name.
        status: the HTTP status, if there was one.
        retry_after: seconds the provider asks to wait before the next attempt.
    """

    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        model: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        where = f"{provider}:{model}: " if provider else ""
        super().__init__(f"{where}{message}" + (f" (HTTP {status})" if status else ""))
        self.message = message
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after = retry_after


class AuthenticationFailed(ModelError):
    """The provider refused the key or its rights (401, 403)."""


class RateLimited(ModelError):
    """The provider asks to slow down (429)."""

    retryable = True


class Overloaded(ModelError):
    """The provider cannot serve at the moment (5xx, 529)."""

    retryable = True


class ModelUnreachable(ModelError):
    """The connection to the provider failed, or broke in the middle of the answer."""

    retryable = True


class ModelTimeout(ModelError):
    """The provider did not answer within the time limit."""

    retryable = True


class ContextTooLong(ModelError):
    """The prompt is longer than the model can read."""


class BadRequest(ModelError):
    """The provider refused the request as wrong (4xx)."""


class BadResponse(ModelError):
    """The provider answered with something that is not an answer."""

    retryable = True


class ContentRefused(ModelError):
    """The provider's own filter refused the prompt or the answer."""


# -- runs -----------------------------------------------------------------------------------------------------------


class RunError(PerdureError):
    """A run ended in another way than with an answer; `result` is what it had reached."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class RunFailed(RunError):
    """A run failed; the cause is the exception's `__cause__`."""


class RunCancelled(RunError):
    """A run was cancelled, interrupted, or passed its deadline."""


class RunWaiting(RunError):
    """The output of a run was read while it waits for somebody or something."""


class OutputInvalid(PerdureError):
    """A model's answer did not fit the output type, also after retries."""


class ModelRetry(PerdureError):
    """Raised by a tool or output validator: the message goes back to the model, which may try again."""


class NotDone(PerdureError):
    """Raised by a tool that is certain that nothing has happened yet, so that even a `once` tool may be tried again."""


class AmbiguousStep(PerdureError):
    """A step id was used again while another step of the same body was open; use `step.scope(...)`."""


class StepOutsideSteps(PerdureError):
    """A tool used steps, waits or child runs without declaring `effect="steps"`."""


class StepError(PerdureError):
    """A step that must not be done again has ended with an exception; it is raised whenever the body is entered."""

    def __init__(self, message: str, type: str = "") -> None:
        super().__init__(message)
        self.type = type


class StepInDoubt(StepError):
    """A step that must not be done again was begun and never ended: whether it took effect is unknown."""


class StepUndone(StepError):
    """A step that must not be done again was begun and never ended, and what it may have done has been undone."""


class InvokeError(StepError):
    """A run that a step had invoked did not complete; `type` is empty if it was cancelled."""

    def __init__(self, message: str, type: str = "", run_id: str = "") -> None:
        super().__init__(message, type)
        self.run_id = run_id


class InvokeTimeout(InvokeError):
    """A run that a step had invoked did not end in time, and was cancelled."""


class NonRetriable(PerdureError):
    """Raised by a function: trying again would not help, so the run fails now."""


class OverBudget(NonRetriable):
    """A model was to be called whose run, or the run above it, has used its budget."""


class RetryAfter(PerdureError):
    """Raised by a function that wants to be tried again later.

    Args:
        when: seconds from now, a timedelta, or a moment with a time zone.
        message: why.
    """

    def __init__(self, when: float | timedelta | datetime, message: str = "") -> None:
        super().__init__(message or f"try again after {when}")
        if isinstance(when, datetime) and when.tzinfo is None:
            raise DefinitionError(f"RetryAfter({when!r}): give a time with a time zone, or seconds.")
        self.when = when

    def seconds(self, now: float) -> float:
        """Say how long that is, given the time in seconds since the epoch."""
        if isinstance(self.when, datetime):
            return max(0.0, self.when.timestamp() - now)
        return max(0.0, self.when.total_seconds() if isinstance(self.when, timedelta) else float(self.when))


class TransactionError(PerdureError):
    """The function of a transaction did what it may not, or took too long; nothing of it is kept."""


class HistoryError(PerdureError):
    """A history adapter failed, or gave what is no conversation; nothing was changed in the run's own log."""


class HistoryUnavailable(HistoryError):
    """The store behind a history adapter could not be reached, or did not answer in time; a later try may succeed."""


class ToolServerError(PerdureError):
    """A tool server (MCP) could not be reached, or broke off."""


class ToolServerUnreachable(ToolServerError, NotDone):
    """A tool server could not be reached, so that nothing was asked of it."""
