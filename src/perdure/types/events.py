"""Events: what happens in a run, as flat typed classes for `match`; the envelope for bus and wire is a view.

A run opens with `RunStarted` and ends with exactly one of `RunCompleted`, `RunWaiting`, `RunFailed`, `RunCancelled`.
Whatever is opened in between (a message, a tool, an agent) is closed, also when the run fails or is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from msgspec import field

from perdure.types.base import Base, decode_json, encode_json
from perdure.types.messages import Message
from perdure.types.records import ErrorInfo, JsonPatch, Outcome, StopReason
from perdure.types.usage import Usage
from perdure.types.waits import Wait, WaitAnswer


class Event(Base, kw_only=True):
    """What every event carries: the run, the session, and where known the agent, the step and the record.

    `cursor` is set on events that a session is read by: handed back as `after=`, it continues behind this event.
    """

    run_id: str = ""
    session_id: str = ""
    agent: str | None = None
    step: str | None = None
    seq: int | None = None
    cursor: str = ""


class RunStarted(Event, tag=True, kw_only=True):
    """A run began."""

    definition: str
    input: tuple[Message, ...] = ()
    parent: str | None = None


class RunCompleted(Event, tag=True, kw_only=True):
    """A run ended with a result."""

    stop_reason: StopReason
    output: Any = None
    usage: Usage = Usage()


class RunWaiting(Event, tag=True, kw_only=True):
    """A run waits for somebody or something outside."""

    waits: tuple[Wait, ...]


class RunResumed(Event, tag=True, kw_only=True):
    """A run that waited goes on."""


class RunFailed(Event, tag=True, kw_only=True):
    """A run failed."""

    error: ErrorInfo
    usage: Usage = Usage()


class RunCancelled(Event, tag=True, kw_only=True):
    """A run was cancelled, interrupted, or passed its deadline."""

    stop_reason: StopReason
    usage: Usage = Usage()


class AgentStarted(Event, tag=True, kw_only=True):
    """An agent's turn began."""


class AgentFinished(Event, tag=True, kw_only=True):
    """An agent's turn ended."""

    stop_reason: StopReason


class RouteDecided(Event, tag=True, kw_only=True):
    """The router chose the next agents; none means that the run ends."""

    agents: tuple[str, ...]
    by: str = ""


class MessageStarted(Event, tag=True, kw_only=True):
    """A model began to answer."""

    message_id: str


class TextDelta(Event, tag=True, kw_only=True):
    """A piece of text."""

    text: str
    message_id: str = ""


class ReasoningDelta(Event, tag=True, kw_only=True):
    """A piece of a thought."""

    text: str
    message_id: str = ""


class ToolCallStarted(Event, tag=True, kw_only=True):
    """A model began to write a tool call."""

    tool: str
    call_id: str
    message_id: str = ""


class ToolArgsDelta(Event, tag=True, kw_only=True):
    """A piece of a tool call's arguments, as JSON text."""

    text: str
    call_id: str
    message_id: str = ""


class ToolCallReady(Event, tag=True, kw_only=True):
    """A tool call is complete."""

    tool: str
    call_id: str
    args: Any
    message_id: str = ""


class MessageFinished(Event, tag=True, kw_only=True):
    """A model's answer ended; `messages` is what it said, whole, and `finish` why it is short, if it is."""

    message_id: str
    messages: tuple[Message, ...] = ()
    interrupted: bool = False
    finish: Literal["max_tokens", "refused"] | None = None


class MessageReset(Event, tag=True, kw_only=True):
    """What was streamed of this message is void; it begins anew."""

    message_id: str
    reason: str = ""


class ToolStarted(Event, tag=True, kw_only=True):
    """A tool began to run."""

    tool: str
    call_id: str
    args: Any


class ToolProgress(Event, tag=True, kw_only=True):
    """Something that a running tool reports with `ctx.emit(...)`."""

    tool: str
    call_id: str
    data: Any


class ToolFinished(Event, tag=True, kw_only=True):
    """A tool call was closed; `result` is what the model is told."""

    tool: str
    call_id: str
    result: Any
    outcome: Outcome = "ok"

    @property
    def is_error(self) -> bool:
        """Whether the model is told of an error."""
        return self.outcome != "ok"


class StepStarted(Event, tag=True, kw_only=True):
    """A step that a user wrote began."""

    name: str


class StepFinished(Event, tag=True, kw_only=True):
    """A step that a user wrote ended."""

    name: str


class StepRetrying(Event, tag=True, kw_only=True):
    """An attempt failed; another one follows after `wait` seconds."""

    attempt: int
    wait: float
    error: ErrorInfo


class WaitOpened(Event, tag=True, kw_only=True):
    """A step waits for somebody outside."""

    wait: Wait


class WaitResolved(Event, tag=True, kw_only=True):
    """A wait is over; `answer` says by whom, `at` when, in seconds since the epoch."""

    wait_id: str
    answer: WaitAnswer
    at: float | None = None


class StateChanged(Event, tag=True, kw_only=True):
    """A step changed the state's data; `patch` is RFC 6902."""

    patch: JsonPatch


class StateConflict(Event, tag=True, kw_only=True):
    """Two parallel steps wrote one path; the later one in call order won."""

    path: str
    winner: str
    loser: str


class UsageUpdated(Event, tag=True, kw_only=True):
    """An inference was paid for; `usage` is its own."""

    usage: Usage


class BudgetExceeded(Event, tag=True, kw_only=True):
    """A budget is used up; nothing more is started."""

    detail: str


class SessionForked(Event, tag=True, kw_only=True):
    """This session goes on from record `base_seq` of the session `base`; what came before this event is that one's."""

    base: str
    base_seq: int


class SessionRewound(Event, tag=True, kw_only=True):
    """The session goes on from record `to`: whatever has a higher `seq` than that, up to this event, is void."""

    to: int


class EventPosted(Event, tag=True, kw_only=True):
    """Somebody outside of a run has said or done something in the session; `sequence` counts the session's events."""

    event_type: str
    content: str
    event_id: str
    sequence: int
    event_data: Any = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    parent_event_id: str | None = None
    user_id: str | None = None


class SessionChanged(Event, tag=True, kw_only=True):
    """The session was started (`active`), suspended, resumed, ended or archived."""

    state: str


AnyEvent: TypeAlias = (
    RunStarted
    | RunCompleted
    | RunWaiting
    | RunResumed
    | RunFailed
    | RunCancelled
    | AgentStarted
    | AgentFinished
    | RouteDecided
    | MessageStarted
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolArgsDelta
    | ToolCallReady
    | MessageFinished
    | MessageReset
    | ToolStarted
    | ToolProgress
    | ToolFinished
    | StepStarted
    | StepFinished
    | StepRetrying
    | WaitOpened
    | WaitResolved
    | StateChanged
    | StateConflict
    | UsageUpdated
    | BudgetExceeded
    | SessionForked
    | SessionRewound
    | EventPosted
    | SessionChanged
)
Sink: TypeAlias = Callable[[AnyEvent], None]
"""Where events go; it must not raise and must not block."""

TERMINAL = (RunCompleted, RunWaiting, RunFailed, RunCancelled)

_GROUPS = {
    "run": "lifecycle",
    "session": "lifecycle",
    "agent": "lifecycle",
    "message": "message",
    "text": "stream",
    "reasoning": "stream",
    "tool": "stream",
    "state": "state",
    "wait": "request",
}
_CONTEXT = ("run_id", "session_id", "agent", "step")


def type_name(event: AnyEvent) -> str:
    """Say an event's name on bus and wire, such as `tool_started`."""
    name = type(event).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")


def envelope(event: AnyEvent, *, seq: int, timestamp: float) -> dict[str, Any]:
    """Show an event as bus and wire carry it.

    Returns:
        `type, timestamp` (milliseconds), `data, source, category, intent, context, seq`, all plain JSON values.
    """
    fields: dict[str, Any] = decode_json(encode_json(event))
    name = type_name(event)
    data = {key: value for key, value in fields.items() if key not in _CONTEXT and key not in ("type", "seq", "cursor")}
    return {
        "type": name,
        "timestamp": int(timestamp * 1000),
        "data": data,
        "source": "agent",
        "category": _GROUPS.get(name.partition("_")[0], "action"),
        "intent": "request" if isinstance(event, WaitOpened) else "notification",
        "context": {key: fields[key] for key in _CONTEXT if fields.get(key)},
        "seq": seq,
    }
