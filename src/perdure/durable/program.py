"""What the driver can drive: a pure state machine over records, and one impure door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, final

import msgspec

from perdure.types.events import AnyEvent
from perdure.types.records import Payload, Record, RunFinished
from perdure.types.waits import Wait

S = TypeVar("S")


@final
class Do(msgspec.Struct, frozen=True):
    """A step to be performed; `key` is the place that its record closes, `what` the program's own note of it."""

    key: str
    what: Any


@final
class Keep(msgspec.Struct, frozen=True):
    """A step with nothing to perform: only its record is kept."""

    key: str
    payload: Payload


@final
class Waiting(msgspec.Struct, frozen=True):
    """Nothing can be done until these are answered."""

    waits: tuple[Wait, ...]


@final
class Finish(msgspec.Struct, frozen=True):
    """The run is over."""

    payload: RunFinished


Action: TypeAlias = Do | Sequence[Do] | Keep | Waiting | Finish
"""What a program wants next. Several `Do`s are all that may run now, those that are running already included."""


class Program(Protocol[S]):
    """A kind of run: an agent's loop, a network's loop.

    `fold` and `next` are pure: no clock, no socket, no randomness. `fold` changes the state it is given and must leave
    it equal whether the record was just made or read from the log.
    """

    def start(self) -> S:
        """Make the state before any record."""
        ...

    def fold(self, state: S, record: Record, /) -> Sequence[AnyEvent]:
        """Take one record into the state, and say what of it no record shows by itself (such as a conflict)."""
        ...

    def next(self, state: S, /) -> Action:
        """Say what is to be done now."""
        ...

    async def perform(self, state: S, do: Do, io: Any) -> Payload | Keep:
        """Do one step and return what closes it, or a `Keep` for another place if it must wait.

        Cut off by a cancellation that `io.interrupted()` confirms, it returns promptly what it has.
        """
        ...
