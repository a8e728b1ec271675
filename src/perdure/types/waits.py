"""What a run can wait for, and how it is answered.

A wait's id names its run, so that whoever has the id can answer it: before the wait is recorded, after every process
has gone, and after it is over (then the answer is kept as a late one).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from perdure.types.base import Base, sound
from perdure.types.errors import Conflict, DefinitionError, InvalidId
from perdure.types.ids import derive_id
from perdure.types.messages import MAX_MESSAGE_BYTES
from perdure.types.sent_event import SentEvent


class Approval(Base, tag="approval"):
    """A person must allow a tool call with exactly these arguments, or what a tool has asked by `ctx.approve`.

    `args` are the arguments after the hooks, validated and with the defaults that the code had when it asked; approving
    runs the tool with just these. `run_id` is the run that asks, which may be a child of the one that was started.
    `expires` is when it is over by itself, in seconds since the epoch; None if never.
    """

    id: str
    tool: str
    args: dict[str, Any]
    run_id: str
    agent: str = ""
    call_id: str = ""
    reason: str = ""
    expires: float | None = None


class Question(Base, tag="question"):
    """A person must answer in words, with one of `choices` if there are any."""

    id: str
    text: str
    run_id: str
    agent: str = ""
    choices: tuple[str, ...] = ()
    expires: float | None = None


class EventWait(Base, tag="event"):
    """An event of this name must come whose data hold what `match` says, by dotted paths such as `invoice.id`.

    Events count that have come since the run was created, or behind `since`, in seconds since the epoch.
    """

    id: str
    name: str
    run_id: str
    match: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    since: float | None = None
    expires: float | None = None


class Timer(Base, tag="timer"):
    """A moment must come: `expires`, in seconds since the epoch."""

    id: str
    run_id: str
    expires: float


class ChildRun(Base, tag="child"):
    """A run that this one has started must end, or wait for what no child may wait for."""

    id: str
    child: str
    definition: str
    run_id: str
    expires: float | None = None


Wait: TypeAlias = Approval | Question | EventWait | Timer | ChildRun


class Approve(Base, tag="approve"):
    """Allow what was asked; `by` is who allowed it."""

    by: str | None = None

    def __bool__(self) -> Literal[True]:
        """It is allowed."""
        return True


class Deny(Base, tag="deny"):
    """Refuse what was asked; the model is told why."""

    why: str = ""
    by: str | None = None

    def __bool__(self) -> Literal[False]:
        """It is not allowed."""
        return False


class Answer(Base, tag="answer"):
    """Answer a question with a text."""

    text: str
    by: str | None = None


class Received(Base, tag="received"):
    """The event that was waited for has come."""

    event: SentEvent


class Elapsed(Base, tag="elapsed"):
    """The moment has come at which the wait is over by itself."""

    def __bool__(self) -> Literal[False]:
        """Nobody has allowed anything."""
        return False

    @property
    def why(self) -> str:
        """What to tell whoever wanted it."""
        return "Nobody answered in time."


class ChildEnded(Base, tag="child_ended"):
    """The run that was waited for has ended; its log says how."""

    run_id: str


WaitAnswer: TypeAlias = Approve | Deny | Answer | Received | Elapsed | ChildEnded
Decision: TypeAlias = Approve | Deny | Elapsed
"""What `ctx.approve` gives: true only for `Approve`; the others say `why` not."""

HAPPENED, REPEAT, GIVE_UP = DOUBT = ("it happened", "do it again", "give up")
"""What a person can say of a call that a crash has left in doubt."""

MAX_NAME = 200
"""How many bytes the name of who answers may have."""


_WAIT = re.compile(r"wait_[0-9a-f]{28}\Z")


def wait_id(run_id: str, place: str) -> str:
    """Make the id of the wait at a place in a run."""
    return f"{run_id}~{derive_id('wait', run_id, place)}"


def run_of_wait(id: str, *, given: bool = False) -> str:
    """Say which run a wait belongs to.

    Args:
        id: the wait's id.
        given: whether somebody has given it, who may have made a slip: then it must look as `wait_id` makes it, because
            an answer to a wait that is not there yet is kept.

    Raises:
        InvalidId: it is the id of no wait.
    """
    run_id, found, wait = id.rpartition("~")
    if not found or not run_id or not (_WAIT.match(wait) if given else wait.startswith("wait_")):
        raise InvalidId(f"{id!r} is not the id of a wait; result.waits and the event WaitOpened give them.")
    return run_id


def check_answer(wait: Wait, answer: object) -> Approve | Deny | Answer:
    """Refuse what does not answer a wait.

    Returns:
        The answer, as it can be kept.

    Raises:
        DefinitionError: a person answers this wait otherwise, or no person does.
    """
    if not isinstance(wait, (Approval, Question)):
        raise DefinitionError(f"The wait {wait.id!r} is for {about(wait)}; nobody can answer it.")
    if isinstance(wait, Approval) and not isinstance(answer, (Approve, Deny)):
        raise DefinitionError(f"The wait {wait.id!r} is answered with {_short(answer)}; give Approve() or Deny(why).")
    if isinstance(wait, Question) and not isinstance(answer, Answer):
        raise DefinitionError(f"The question {wait.id!r} is answered with {_short(answer)}; give Answer(text).")
    read = read_answer(answer)
    if isinstance(wait, Question) and wait.choices and isinstance(read, Answer) and read.text not in wait.choices:
        raise DefinitionError(
            f"The question {wait.id!r} is answered with {_short(read.text)}; its choices are "
            f"{', '.join(map(repr, wait.choices))}."
        )
    return read


def read_answer(answer: object) -> Approve | Deny | Answer:
    """Check what a person has said.

    Returns:
        The answer, as it can be kept.

    Raises:
        DefinitionError: it is no answer of a person's, or holds more than is accepted.
    """
    match answer:
        case Approve():
            return Approve(_words(answer, "by", answer.by, MAX_NAME))
        case Deny():
            why = _words(answer, "why", answer.why, MAX_MESSAGE_BYTES)
            return Deny(why or "", _words(answer, "by", answer.by, MAX_NAME))
        case Answer():
            text = _words(answer, "text", answer.text, MAX_MESSAGE_BYTES)
            return Answer(text or "", _words(answer, "by", answer.by, MAX_NAME))
        case _:
            raise DefinitionError(f"{_short(answer)} is no answer; give Approve(), Deny(why) or Answer(text).")


def _words(answer: object, name: str, value: object, most: int) -> str | None:
    if value is None and name == "by":
        return None
    what = f"{type(answer).__name__}({name}=…)"
    if not isinstance(value, str):
        raise DefinitionError(f"{what} is a text, not {_short(value)}.")
    said = sound(value)
    size = len(said.encode())
    if size > most:
        raise DefinitionError(f"{what} has {size:,} bytes and at most {most:,} are accepted.")
    return said


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else shown[:99] + "…"


def about(wait: Wait) -> str:
    """Say in a few words what a wait is for."""
    match wait:
        case Approval():
            return wait.tool
        case Question():
            return _cut(wait.text)
        case EventWait():
            return f"event {wait.name}"
        case Timer():
            return "timer"
        case ChildRun():
            return f"run {wait.child}"


def told(answer: WaitAnswer) -> str:
    """Say in a few words how a wait ended, and by whom."""
    by = f" by {answer.by}" if isinstance(answer, (Approve, Deny, Answer)) and answer.by else ""
    match answer:
        case Approve():
            return f"allowed{by}"
        case Deny():
            return f"denied{by}{f': {_cut(answer.why)}' if answer.why else ''}"
        case Answer():
            return f"answered{by}: {_cut(answer.text)}"
        case Received():
            return f"ended by the event {answer.event.name}"
        case Elapsed():
            return "over by itself"
        case ChildEnded():
            return f"ended by the run {answer.run_id}"


def late(id: str, answer: WaitAnswer, at: float) -> Conflict:
    """Make the error of an answer that came when the wait was over."""
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return Conflict(f"The wait {id!r} is over: it was {told(answer)}, at {when}. This answer changes nothing.")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
