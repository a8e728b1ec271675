"""What a session is read from: its own records, and before them those of the sessions that it was forked from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from perdure.db.database import Script, Sql
from perdure.log.schema import ROOM
from perdure.types.records import Record


class Part(NamedTuple):
    """Records of one session: those behind `low`, up to `high`.

    `names` says which of its runs go on under another id in the session that is read.
    """

    session: str
    number: int
    low: int
    high: int
    names: Mapping[str, str]

    def between(self, after: int, before: int) -> tuple[int, int]:
        """The slots (both exclusive) of what lies in it between two sequence numbers (both exclusive)."""
        first = self.number * ROOM
        return first + max(after, self.low), first + min(before, self.high + 1)

    def called(self, run_id: str) -> tuple[str, ...]:
        """What a run of the session that is read is called in this part."""
        return tuple(own for own, shown in self.names.items() if shown == run_id) or (run_id,)

    def shown(self, record: Record, session_id: str) -> Record:
        """A record as the session that is read shows it."""
        if record.session_id == session_id:
            return record
        return replace(record, session_id=session_id, run_id=self.names.get(record.run_id, record.run_id))


def parts_of(container: str, session_id: str) -> Script[list[Part]]:
    """The parts that a session is read from, its own first; none if there is no such session."""
    parts: list[Part] = []
    id: str | None = session_id
    high = ROOM - 1
    names: dict[str, str] = {}
    while id is not None:
        rows = yield Sql(
            "SELECT number, base, base_seq, base_run, fork_run FROM sessions WHERE container = ? AND id = ?",
            (container, id),
        )
        if not rows:
            break
        number, base, low, origin, run = rows[0]
        parts.append(Part(id, int(number), int(low), high, names))
        if origin is not None and run is not None:
            shown = names.get(run, str(run))
            names = {own: one for own, one in names.items() if own != run} | {str(origin): shown}
        id, high = base, int(low)
    return parts
