"""Records: the rows of the log, one kind of payload each.

A record that closes a step carries the step's key, which is a place (`agent/0/infer/2/tool/1`), never a name. Records
without a key open something, note an attempt, or come from outside (`post`). What a run has done is the fold of its
records; the conversation, the events and the state are views of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, TypeAlias

import msgspec

from perdure.types.base import Base
from perdure.types.chunks import FinishReason
from perdure.types.messages import Message, ToolResultMessage
from perdure.types.status import RunStatus, StopReason
from perdure.types.upcast import upcast
from perdure.types.usage import Usage
from perdure.types.waits import Wait, WaitAnswer

SCHEMA_VERSION = 1

Outcome: TypeAlias = Literal["ok", "error", "denied", "timeout", "unknown", "not_run", "interrupted"]
JsonPatch: TypeAlias = list[dict[str, Any]]


class ErrorInfo(Base):
    """An exception as it is kept: its type, its message, and where it happened."""

    type: str
    message: str
    where: str = ""


class PromptRange(Base, tag="range"):
    """Messages `start` to `end` (exclusive) of the transcript as it stood before the inference."""

    start: int
    end: int


class PromptRef(Base):
    """What an inference's prompt was made of, without repeating it.

    `system` and `tools` are hashes of texts kept once in `InferenceDone.texts`; `pieces` is None when the prompt was
    the whole transcript, of `count` messages.
    """

    count: int
    system: str | None = None
    tools: str | None = None
    pieces: tuple[PromptRange | Message, ...] | None = None


class RunStarted(Base, tag="run_started"):
    """A run was accepted, with everything that it starts from.

    `fingerprints` says in short what its code was, `input` is what a function was given.
    """

    definition: str
    program: Literal["agent", "network", "function"]
    messages: tuple[Message, ...]
    history: tuple[Message, ...] = ()
    system_prompt: str | None = None
    state: Any = None
    options: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    user_id: str | None = None
    parent: str | None = None
    parent_key: str | None = None
    fingerprints: dict[str, Any] | None = None
    input: Any = None


class InferenceDone(Base, tag="inference"):
    """One inference, whole: hooks, model, validation.

    `answered` are the results of calls that the inference itself closed (an answer given through a tool); `feedback`
    is what the model is told when its answer did not fit the output type; `said` is what it had said, if a hook has
    made something else of that.
    """

    agent: str
    messages: tuple[Message, ...] = ()
    finish: FinishReason = "stop"
    model: str = ""
    provider: str = ""
    usage: Usage = Usage()
    prompt: PromptRef = PromptRef(0)
    texts: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    patch: JsonPatch | None = None
    scheduled: tuple[str, ...] = ()
    stop: Literal["hook", "budget"] | None = None
    stop_detail: str = ""
    has_output: bool = False
    output: Any = None
    answered: tuple[ToolResultMessage, ...] = ()
    feedback: tuple[Message, ...] = ()
    interrupted: bool = False
    said: tuple[Message, ...] | None = None


class Handled(Base):
    """What a tool had done before the hooks after it."""

    content: Any
    outcome: Outcome = "ok"
    patch: JsonPatch | None = None


class ToolDone(Base, tag="tool"):
    """One tool call, whole: validation, hooks, approval, handler; `usage` is that of the child runs it started.

    What hooks have changed is kept: `args` are the arguments after them, `handled` what the tool had done before those
    behind it, and `by_hook` says that a hook has answered instead of the tool.
    """

    agent: str
    result: ToolResultMessage
    outcome: Outcome = "ok"
    patch: JsonPatch | None = None
    scheduled: tuple[str, ...] = ()
    usage: Usage = Usage()
    args: dict[str, Any] | None = None
    handled: Handled | None = None
    by_hook: bool = False


class Pick(Base):
    """The router's choice of one agent, or of several that run at once; `args` go to `Network(resolve=...)`."""

    agents: tuple[str, ...]
    args: dict[str, Any] | None = None


class RouteDone(Base, tag="route"):
    """A routing decision, as names; `ask` names the routing agent that a code router handed over to."""

    picks: tuple[Pick, ...] = ()
    ask: str | None = None
    by: str = ""
    reason: Literal["router", "stop_when"] = "router"
    patch: JsonPatch | None = None
    usage: Usage = Usage()


class AgentDone(Base, tag="agent_finished"):
    """An agent's turn ended; `messages` replaces what it said if a finish hook changed it."""

    agent: str
    stop_reason: StopReason
    messages: tuple[Message, ...] | None = None
    has_output: bool = False
    output: Any = None
    patch: JsonPatch | None = None
    scheduled: tuple[str, ...] = ()
    detail: str = ""


class Started(Base, tag="started"):
    """A tool or step that must not run twice is about to run: an open start of an older epoch is in doubt.

    `args` are the tool's arguments if a hook has changed them, `arguments` is the hash of those of an inner step.
    """

    step: str
    args: dict[str, Any] | None = None
    arguments: str = ""


class Claimed(Base, tag="claim"):
    """A new owner has the run; `died` says that the one before it died with it, `alone` that it drove nothing else.

    `parked` says why the owner did not go on with it, `changes` what of its code differs from what the log has, and
    `fingerprints` what its code is then.
    """

    epoch: int
    died: bool = False
    alone: bool = False
    parked: str = ""
    changes: tuple[str, ...] = ()
    fingerprints: dict[str, Any] | None = None


class StepDone(Base, tag="step"):
    """A step that a user wrote inside a tool; `error` is how one ended that must not be done again."""

    name: str
    result: Any = None
    arguments: str = ""
    error: ErrorInfo | None = None


class TransactionDone(StepDone, tag="transaction"):
    """A step whose writes were committed together with this record."""


class InferDone(StepDone, tag="infer"):
    """A model call that a user wrote as a step: `asked` is the prompt, `messages` the answer."""

    messages: tuple[Message, ...] = ()
    asked: tuple[Message, ...] = ()
    model: str = ""
    provider: str = ""
    usage: Usage = Usage()


class PastResult(Base):
    """What an agent did in an earlier run, as a history gave it: the messages from `start` to `end` of what it gave."""

    agent_name: str
    id: str
    created_at: float
    start: int
    end: int


class Imported(StepDone, tag="imported"):
    """What a history adapter gave of a conversation that the log did not have: it stands before what was asked."""

    messages: tuple[Message, ...] = ()
    results: tuple[PastResult, ...] = ()


class ChildDone(Base, tag="child"):
    """A child run ended; of one that was invoked this has what came of it, and the hash of what it was given."""

    run_id: str
    status: RunStatus
    usage: Usage = Usage()
    output: Any = None
    error: ErrorInfo | None = None
    arguments: str = ""


class WaitOpened(Base, tag="wait"):
    """A step waits for somebody outside, for all of these.

    `args`, `patch` and `scheduled` are what the hooks before the tool have made of the call: it is entered again with
    just these, and the hooks are not.
    """

    agent: str
    waits: tuple[Wait, ...]
    args: dict[str, Any] | None = None
    patch: JsonPatch | None = None
    scheduled: tuple[str, ...] = ()


class AttemptLost(Base, tag="attempt_lost"):
    """A model was asked whose answer is not kept; what that is taken to have consumed.

    A process died or left while the inference may have been in flight; or, if it is `told`, the attempt has failed and
    the provider has said what it used.
    """

    step: str
    usage: Usage
    told: bool = False


class StepFailed(Base, tag="failed"):
    """A step ended with an exception that ends the run; whatever it leaves open is closed by records of its own.

    `reached` says that its model had been asked, or its tool called, before; `cut` is what the model had said by then.
    """

    step: str
    error: ErrorInfo
    reached: bool = False
    cut: InferenceDone | None = None


class AttemptFailed(Base, tag="attempt"):
    """One attempt of a step failed and another follows after `wait` seconds.

    `model` names the model of a chain that failed, when the next one of it was asked within the same attempt.
    """

    step: str
    attempt: int
    error: ErrorInfo
    wait: float
    model: str = ""


class RunFinished(Base, tag="run_finished"):
    """The terminal record of a run."""

    status: RunStatus
    stop_reason: StopReason
    has_output: bool = False
    output: Any = None
    usage: Usage = Usage()
    error: ErrorInfo | None = None


class Compacted(Base, tag="compacted"):
    """What was said in a session so far, or what stands for it from now on: readers need nothing that came before.

    It belongs to no run (its `run_id` is empty), and all that were there before have ended.
    """

    messages: tuple[Message, ...]


class Forked(Base, tag="forked"):
    """A session goes on from another one, whose records up to `seq` it reads as its own first ones.

    `origin` is the run that was at work there, if one was; it is read here as the run that this record belongs to.
    """

    base: str
    seq: int
    origin: str = ""


class Rewound(Base, tag="rewound"):
    """A session goes on from its record `to`: what came behind that is still there, and is not looked at any more.

    It belongs to no run (its `run_id` is empty), and all that were there before have ended.
    """

    to: int


class SessionEvent(Base, tag="event"):
    """Somebody outside of a run has said or done something in a session; it belongs to no run.

    `sequence` is its number among the session's events. Its record's key is made of its `event_id`, so that there is
    one of each.
    """

    event_type: str
    content: str
    event_id: str
    sequence: int
    event_data: Any = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    parent_event_id: str | None = None
    user_id: str | None = None


class StateSet(Base, tag="session"):
    """A session was started, suspended, resumed, ended or archived; it belongs to no run.

    `retain_context` says of its end whether what is remembered of it may be used in other sessions.
    """

    state: Literal["active", "suspended", "resumed", "ended", "archived"]
    retain_context: bool | None = None


class Answered(Base, tag="answer"):
    """Inbox: a wait was answered."""

    wait_id: str
    answer: WaitAnswer


class CancelAsked(Base, tag="cancel"):
    """Inbox: somebody wants the run to end."""

    reason: Literal["cancelled", "interrupted", "deadline", "budget"] = "cancelled"
    detail: str = ""


class Unparked(Base, tag="unparked"):
    """Somebody wants a run to go on that was parked, or that its owner shall not have any more.

    `accepted` says that it goes on with changed code: what was finished before is used as it is.
    """

    forced: bool = False
    accepted: bool = False


class Erased(Base, tag="erased"):
    """What stood here was erased; `was` is its kind. Without one, all that stands before in the session was erased."""

    was: str = ""


Payload: TypeAlias = (
    RunStarted
    | InferenceDone
    | ToolDone
    | RouteDone
    | AgentDone
    | Started
    | Claimed
    | StepDone
    | TransactionDone
    | InferDone
    | Imported
    | ChildDone
    | WaitOpened
    | StepFailed
    | AttemptFailed
    | AttemptLost
    | RunFinished
    | Compacted
    | Forked
    | Rewound
    | SessionEvent
    | StateSet
    | Answered
    | CancelAsked
    | Unparked
    | Erased
)


class Record(Base):
    """One row of the log.

    `seq` is its place in the session, `key` the place of the step it closes (None if it closes none), `step` the step
    it belongs to, `created_at` seconds since the epoch.
    """

    seq: int
    run_id: str
    session_id: str
    key: str | None
    payload: Payload
    created_at: float
    version: int = SCHEMA_VERSION

    @property
    def kind(self) -> str:
        """The payload's kind, as it is stored."""
        return kind_of(self.payload)


def kind_of(payload: Payload) -> str:
    """Say which kind a payload is, as it is stored."""
    return type(payload).__struct_config__.tag  # type: ignore[return-value]  # every payload class has a string tag


_payload_encoder = msgspec.json.Encoder()
encode_payload = _payload_encoder.encode


@cache
def _payload_decoder() -> msgspec.json.Decoder[Payload]:
    return msgspec.json.Decoder(Payload)  # made at first use: it takes milliseconds, and in memory nothing is read


def decode_payload(data: bytes, version: int = SCHEMA_VERSION) -> Payload:
    """Read a payload from the bytes in the log, which were written by this version.

    Raises:
        msgspec.ValidationError: the bytes are of no known kind or shape.
    """
    if version < SCHEMA_VERSION:
        data = upcast(data, version, SCHEMA_VERSION)
    return _payload_decoder().decode(data)
