"""What a run can wait for, and how it is answered.

A wait's id names its run, so that whoever has the id can answer it: before the wait is recorded, after every process
has gone, and after it is over (then the answer is kept as a late one).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from perdure.types.base import Base
from perdure.types.errors import DefinitionError, InvalidId
from perdure.types.ids import derive_id
from perdure.types.sent_event import SentEvent


class Approval(Base, tag="approval"):
    """A person must allow a tool call with exactly these arguments.

    `args` are the validated arguments after the hooks; approving runs the tool with just these. `run_id` is the run
    that asks, which may be a child of the one that was started. `expires` is when it is over by itself, in seconds
    since the epoch; None if never.
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


class Deny(Base, tag="deny"):
    """Refuse what was asked; the model is told why."""

    why: str = ""
    by: str | None = None


class Answer(Base, tag="answer"):
    """Answer a question with a text."""

    text: str
    by: str | None = None


class Received(Base, tag="received"):
    """The event that was waited for has come."""

    event: SentEvent


class Elapsed(Base, tag="elapsed"):
    """The moment has come at which the wait is over by itself."""


class ChildEnded(Base, tag="child_ended"):
    """The run that was waited for has ended; its log says how."""

    run_id: str


WaitAnswer: TypeAlias = Approve | Deny | Answer | Received | Elapsed | ChildEnded


def wait_id(run_id: str, place: str) -> str:
    """Make the id of the wait at a place in a run."""
    return f"{run_id}~{derive_id('wait', run_id, place)}"


def run_of_wait(id: str) -> str:
    """Say which run a wait belongs to.

    Raises:
        InvalidId: it is the id of no wait.
    """
    run_id, found, wait = id.rpartition("~")
    if not found or not run_id or not wait.startswith("wait_"):
        raise InvalidId(f"{id!r} is not the id of a wait; result.waits and the event WaitOpened give them.")
    return run_id


def check_answer(wait: Wait, answer: object) -> None:
    """Refuse what does not answer a wait.

    Raises:
        DefinitionError: a person answers this wait otherwise, or no person does.
    """
    match wait:
        case Approval():
            if not isinstance(answer, (Approve, Deny)):
                raise DefinitionError(f"The wait {wait.id!r} is answered with {answer!r}; give Approve() or Deny(why).")
        case Question():
            if not isinstance(answer, Answer):
                raise DefinitionError(f"The question {wait.id!r} is answered with {answer!r}; give Answer(text).")
            if wait.choices and answer.text not in wait.choices:
                raise DefinitionError(
                    f"The question {wait.id!r} is answered with {answer.text!r}; its choices are "
                    f"{', '.join(map(repr, wait.choices))}."
                )
        case _:
            raise DefinitionError(f"The wait {wait.id!r} is for {about(wait)}; nobody can answer it.")


def about(wait: Wait) -> str:
    """Say in a few words what a wait is for."""
    match wait:
        case Approval():
            return wait.tool
        case Question():
            return wait.text if len(wait.text) <= 60 else wait.text[:59] + "…"
        case EventWait():
            return f"event {wait.name}"
        case Timer():
            return "timer"
        case ChildRun():
            return f"run {wait.child}"
