"""The `Log` protocol: two ways to write, and reading in order.

`append` belongs to the owner of a run, who shows its token; `post` is open to everyone and takes inbox payloads only.
Sequence numbers are given per session, without gaps, in the order of commitment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, cast

from perdure.types.base import Base
from perdure.types.errors import Conflict, InvalidId
from perdure.types.records import (
    Answered,
    CancelAsked,
    Compacted,
    Forked,
    Payload,
    Record,
    Rewound,
    RunFinished,
    RunStatus,
)
from perdure.types.sent_event import SentEvent


class Token(Base):
    """Proof of owning a run: its epoch and a nonce; both must match."""

    run_id: str
    session_id: str
    epoch: int
    nonce: str


class Entry(Base):
    """A record to be written: the key of the step that it closes, if any, its payload, and when it was made.

    The time is the one that the owner has folded already (the store's own, if None): the state that a run had and the
    one that its log gives are the same. `sends` are events that are sent if and only if it is written, `over` waits
    that nobody is interested in any more once it is.
    """

    key: str | None
    payload: Payload
    at: float | None = None
    sends: tuple[SentEvent, ...] = ()
    over: tuple[str, ...] = ()


class NewRun(Base):
    """A run to be accepted; `input_hash` tells a repetition from another run with the same id.

    `detached` says of a child that whoever has its definition drives it, and not whoever drives its parent; `lane`
    names the runs of which only so many are active at once. Neither begins before it is claimed.
    """

    id: str
    session_id: str
    definition: str
    input_hash: str = ""
    user_id: str | None = None
    parent: str | None = None
    parent_key: str | None = None
    detached: bool = False
    lane: str | None = None


class RunRow(Base):
    """A run as the log knows it; `position` is the sequence number of its first record.

    `held` is the status that a parked run will have again when somebody takes the copy over that it is in; `ends_at` by
    when it ends, by the store's clock, if it has waited and its time is limited.
    """

    id: str
    session_id: str
    definition: str
    status: RunStatus
    epoch: int
    owner: str | None
    position: int
    deaths: int
    parent: str | None
    user_id: str | None
    input_hash: str
    created_at: float
    held: RunStatus | None = None
    detached: bool = False
    lane: str | None = None
    ends_at: float | None = None


class Accepted(Base):
    """What became of a run that was handed in: owned by the caller, queued behind another, or known already.

    `behind` is the run that has the session's turn, if another one has it.
    """

    run: RunRow
    token: Token | None
    head: int
    known: bool
    behind: str | None = None


class Fork(Base):
    """A session to be made that goes on from another one.

    Args:
        id: the new session.
        base: the session that it goes on from.
        seq: the last record that it reads of it.
        title: its title; the base's if None.
        run: the run that goes on, or was cut off, in the new session, if the cut is inside of one.
        origin: the run of the base that it is a continuation of.
        position: that one's first record.
        entries: what is written of it at once; if there is an end among it, it has ended.
    """

    id: str
    base: str
    seq: int
    title: str | None = None
    run: NewRun | None = None
    origin: str = ""
    position: int = 0
    entries: tuple[Entry, ...] = ()


Point: TypeAlias = Compacted | Rewound
"""What is written between two turns, for readers to start from."""

OnBusy: TypeAlias = Literal["queue", "reject", "interrupt"]
"""What becomes of a run whose session is at work."""


class CancelWins(Conflict):
    """A finishing append was refused, because a cancel has a lower sequence number."""


INBOX = (Answered, CancelAsked)
"""The payloads that anyone may post."""

OPEN = ("queued", "running", "waiting")
"""The statuses of runs that go on."""

ENDED = ("completed", "failed", "cancelled")
"""The statuses of runs that are over."""


def seen_beat(dead: Collection[str], owner: str) -> int | None:
    """At which beat an owner was taken for dead, if that was said."""
    return cast("Mapping[str, int]", dead)[owner] if isinstance(dead, Mapping) else None


def stops(payload: Payload) -> bool:
    """Whether a payload forbids the run to be completed; a spent budget does not, it is a result like any other."""
    return type(payload) is CancelAsked and payload.reason != "budget"


def at_work(session_id: str, run_id: str) -> Conflict:
    """Make the error of a run that was not to wait."""
    return Conflict(f"The session {session_id!r} is at work on run {run_id!r}; on_busy='reject' was asked.")


def used_otherwise(run_id: str, definition: str) -> Conflict:
    """Make the error of a run id that belongs to another run."""
    return Conflict(
        f"The run id {run_id!r} was used for {definition!r} with another input; the same id with the same input is "
        "the same run, so give another id."
    )


def still_open(session_id: str, run_id: str, status: str, what: Point) -> Conflict:
    """Make the error of a session that cannot be compacted or rewound because of one of its runs."""
    return Conflict(
        f"The session {session_id!r} cannot be {_done(what)} while its run {run_id!r} is {status}; wait for its end "
        "or cancel it."
    )


def written_since(session_id: str, head: int, last: int, what: Point) -> Conflict:
    """Make the error of a compaction or a rewind that somebody was quicker than."""
    return Conflict(
        f"The session {session_id!r} was written to while it was {_done(what)} (record {last} came behind {head}); do "
        "it again."
    )


def _done(what: Point) -> str:
    return "rewound" if isinstance(what, Rewound) else "compacted"


def forked_otherwise(session_id: str) -> Conflict:
    """Make the error of a fork whose session is there and is not the same fork."""
    return Conflict(
        f"The session {session_id!r} is there already, and is not this fork: the same place forked again under the "
        "same ids gives the same fork, so give another id."
    )


def is_erased(session_id: str, seq: int) -> Conflict:
    """Make the error of a fork of what was erased."""
    return Conflict(f"The record {seq} of the session {session_id!r} was erased; there is nothing to go on from.")


def beyond(session_id: str, seq: int, head: int) -> InvalidId:
    """Make the error of a place that a session does not have."""
    if not head:
        return InvalidId(f"The session {session_id!r} has no record yet, so there is nothing to go on from.")
    return InvalidId(f"The session {session_id!r} has the records 1 to {head}, and no record {seq}; give one of them.")


def fork_records(fork: Fork) -> list[Entry]:
    """What a fork has as its own first records; they belong to its run, if it has one."""
    return [Entry(None, Forked(fork.base, fork.seq, fork.origin)), *fork.entries]


def ended_as(fork: Fork) -> RunStatus | None:
    """How the run of a fork has ended, if it has no more to do."""
    return next((one.payload.status for one in fork.entries if isinstance(one.payload, RunFinished)), None)


class Log(Protocol):
    """Where records are kept, for one container."""

    async def accept(self, new: NewRun, payload: Payload, on_busy: OnBusy = "queue") -> Accepted:
        """Take a run in, in one commit: it begins at once if its session is free, else it queues.

        Args:
            new: the run.
            payload: what it starts from; its first record.
            on_busy: what to do if the session is not free: queue, refuse, or cancel all that is open in it and queue.

        Raises:
            Conflict: the id belongs to a run with another input or definition, or the session is at work and
                `on_busy` is `"reject"`.
        """
        ...

    async def claim(self, run_id: str, *, dead: Collection[str] = ()) -> tuple[Token, int] | None:
        """Own a run with a new epoch, if nobody alive owns it and it has its session's turn.

        Args:
            run_id: the run.
            dead: owners that are known to be dead; a run of any other owner is left alone. In a mapping each has the
                beat at which it was seen (0: it was not known): one that has beaten since is alive.

        Returns:
            The token and the session's head; None if the run is not to be had.

        Raises:
            UnknownName: there is no such run.
        """
        ...

    async def append(
        self,
        token: Token,
        entries: Sequence[Entry],
        status: RunStatus | None = None,
        *,
        repeat: bool = False,
        seen: int | None = None,
        until: float | None = None,
    ) -> int:
        """Write records of one step, all or none; a terminal record ends the run and frees its session.

        Args:
            token: proof of owning the run.
            entries: the records; a step that is closed already with the same payload is not closed again.
            status: the run's status from now on, if it changes without a terminal record.
            repeat: whether this very append was tried before with an unknown outcome; what the run has of it is not
                written again.
            seen: up to which record the owner has folded; a wait that has ended since lets the run not wait.
            until: when a run that waits from now on goes on to its end, by the store's clock.

        Returns:
            The sequence number of the last record; higher than expected if others have written, or a wait that is
            recorded here has ended already.

        Raises:
            Conflict: another owner has the run since, it has ended, or another payload closes a step already.
            CancelWins: the run was to be completed, and a cancel came first.
        """
        ...

    async def post(self, run_id: str, payload: Payload) -> int:
        """Write an inbox record, without a token; a cancel is posted to all open descendants of the run with it.

        Returns:
            Its sequence number.

        Raises:
            UnknownName: there is no such run.
            TypeError: the payload is not of an inbox kind.
        """
        ...

    async def mark(self, session_id: str, payload: Point, head: int) -> int:
        """Write the point that readers of a session start from.

        Args:
            session_id: the session.
            payload: what stands for what was said, or where it goes on from.
            head: the session's last record, as the caller knows it.

        Returns:
            Its sequence number.

        Raises:
            UnknownName: there is no such session.
            Conflict: a run of the session has not ended, or another record has come behind `head`.
        """
        ...

    async def fork(self, fork: Fork) -> int:
        """Make a session that goes on from a place in another one; nothing is copied.

        The same fork again is the same.

        Returns:
            The sequence number of its last record.

        Raises:
            UnknownName: there is no such base.
            InvalidId: the base has no such record.
            Conflict: what was there was erased, or one of the ids is in use for something else.
        """
        ...

    async def compacted(self, session_id: str, before: int | None = None) -> int:
        """Say the sequence number of a session's last compacted record that no rewind hides; 0 if there is none.

        Args:
            session_id: the session.
            before: only those with a lower sequence number.
        """
        ...

    async def read_run(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order.

        Raises:
            UnknownName: there is no such run.
        """
        ...

    async def read_session(self, session_id: str, after: int = 0, before: int | None = None) -> list[Record]:
        """Read a session's records between two sequence numbers (both exclusive), in order."""
        ...

    async def run(self, run_id: str) -> RunRow:
        """Read a run's row.

        Raises:
            UnknownName: there is no such run.
        """
        ...
