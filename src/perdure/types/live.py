"""What is going on and has no record yet, and how far somebody has been shown a session.

An open step (an answer that is being written, a tool that runs) has a number that counts what it has said: a piece of
text counts as its length, anything else as one. So a piece may be cut or joined, and a number still means one place.
"""

from __future__ import annotations

import re

from perdure.types.base import Base
from perdure.types.errors import InvalidId
from perdure.types.events import AnyEvent, ReasoningDelta, TextDelta, ToolArgsDelta

_CURSOR = re.compile(r"(\d{1,15})(?:-(\d{1,9}))?(?:@(\d{1,15})((?:~[A-Za-z0-9_/]+\.\d{1,9}\.\d{1,15})+))?")


def size(event: AnyEvent) -> int:
    """Say how much an event of an open step counts."""
    return len(event.text) if isinstance(event, (TextDelta, ReasoningDelta, ToolArgsDelta)) else 1


class Part(Base):
    """Some of what an open step has said, in one attempt.

    `epoch` is that of the run's owner, `base` the last record that was committed when this was said, `start` the
    step's number before it.
    """

    run_id: str
    step: str
    epoch: int
    base: int
    start: int
    events: tuple[AnyEvent, ...]

    @property
    def end(self) -> int:
        """The step's number behind it."""
        return self.start + sum(size(one) for one in self.events)


class Place(Base):
    """How far an open step was shown: the number `n` in the attempt of an owner with this epoch."""

    step: str
    epoch: int
    n: int


class Cursor(Base):
    """A place in a session's events, as a reader hands it back.

    Written `seq` behind the last event of a record, `seq-left` where some of its events are still to come, and
    `seq@position~step.attempt.n` where steps without a record were shown in part; `position` is the first record of
    the run that they belong to.
    """

    seq: int = 0
    left: int = 0
    position: int = 0
    open: tuple[Place, ...] = ()

    def __str__(self) -> str:
        text = f"{self.seq}-{self.left}" if self.left else str(self.seq)
        if self.open:
            text += f"@{self.position}"
            for one in self.open:
                text += f"~{one.step}.{one.epoch}.{one.n}"
        return text

    @staticmethod
    def read(given: Cursor | str | int | None) -> Cursor:
        """Read a cursor that a reader hands back; None is the beginning."""
        if given is None:
            return Cursor()
        if isinstance(given, Cursor):
            return given
        match = _CURSOR.fullmatch(str(given))
        if match is None or isinstance(given, bool):
            raise InvalidId(
                f"after={str(given)[:80]!r} is no cursor: give the `cursor` of an event of this session as it is, the "
                "number of a record, or None for the beginning."
            )
        seq, left, position, places = match.groups()
        open: list[Place] = []
        for one in (places or "").split("~")[1:]:
            step, epoch, n = one.rsplit(".", 2)
            open.append(Place(step, int(epoch), int(n)))
        return Cursor(int(seq), int(left or 0), int(position or 0), tuple(open))
