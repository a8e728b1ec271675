"""What open steps have said so far, in a table, for readers in other processes.

It is written beside the log and never awaited by a run. What closes a step deletes its rows in the same transaction; a
row that comes too late, of a step that is closed or of an owner that is none any more, is told from the records.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import msgspec

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.log import Token
from perdure.types.events import AnyEvent
from perdure.types.live import Part, Place

_OWNED = "SELECT 1 FROM sessions WHERE container = ? AND id = ? AND turn = ? AND epoch = ? AND nonce = ?"
_INSERT = (
    "INSERT INTO live (container, session, run, step, epoch, n, payload) "
    f"SELECT ?, ?, ?, ?, ?, ?, ? WHERE EXISTS ({_OWNED}) ON CONFLICT DO NOTHING"
)
_encode = msgspec.json.Encoder().encode


@cache
def _decoder() -> msgspec.json.Decoder[Part]:
    return msgspec.json.Decoder(Part)


class LiveTable:
    """The table of one store.

    Args:
        db: the opened database.
    """

    def __init__(self, db: Database) -> None:
        self.db = db
        self._kept: dict[tuple[str, str], set[str]] = {}

    async def write(self, said: Sequence[tuple[str, Token, Part]]) -> None:
        """Add what steps have said; of an owner that is none any more nothing is written.

        Args:
            said: containers, the tokens of owners, and what their steps have said.

        Raises:
            StoreError: the database failed.
        """
        rows: list[tuple[tuple[str, str], Token, Part, bytes]] = []
        for container, token, part in said:
            self._kept.setdefault((container, token.run_id), set()).add(part.step)
            rows.append(((container, token.session_id), token, part, _encode(part)))

        def script() -> Script[None]:
            for mine, token, part, data in rows:
                owner = (*mine, token.run_id, token.epoch, token.nonce)
                row = (*mine, part.run_id, part.step, part.epoch, part.end, data)
                yield Sql(_INSERT, (*row, *owner), blind=True)

        await self.db.write(script, notify=True)
        late = [
            (mine, part)
            for mine, _, part, _ in rows
            if part.step not in self._kept.get((mine[0], part.run_id), ())  # closed meanwhile: what deletes came first
        ]
        if late:
            await self.db.write(lambda: _delete(late))

    def said(self, container: str, run_id: str, steps: Collection[str] | None) -> list[str]:
        """Which of these steps of a run (all, if None) have rows from this process, or may have soon."""
        kept = self._kept.get((container, run_id))
        return [one for one in kept if steps is None or one in steps] if kept else []

    def clear(self, container: str, session_id: str, run_id: str, steps: Sequence[str] | None = None) -> Script[None]:
        """Delete the rows of steps, or of all steps of a run."""
        only = f" AND step IN ({', '.join('?' * len(steps))})" if steps is not None else ""
        text = f"DELETE FROM live WHERE container = ? AND session = ? AND run = ?{only}"
        yield Sql(text, (container, session_id, run_id, *(steps or ())), blind=True)

    def cleared(self, container: str, run_id: str, steps: Sequence[str]) -> None:
        """Know that the rows of steps were deleted."""
        kept = self._kept.get((container, run_id))
        if kept is not None:
            kept.difference_update(steps)
            if not kept:
                del self._kept[container, run_id]

    async def read(self, container: str, session_id: str, shown: Sequence[tuple[str, Place]]) -> list[Part]:
        """Read what open steps of a session have said.

        Args:
            container: whose session it is.
            session_id: the session.
            shown: how far steps of runs are known; of others everything is read.
        """
        known = " AND NOT (run = ? AND step = ? AND epoch = ? AND n <= ?)" * len(shown)
        params = [value for run, one in shown for value in (run, one.step, one.epoch, one.n)]

        def script() -> Script[list[Row]]:
            text = f"SELECT payload FROM live WHERE container = ? AND session = ?{known} ORDER BY run, step, epoch, n"
            return (yield Sql(text, (container, session_id, *params)))

        return joined([_decoder().decode(bytes(row[0])) for row in await self.db.read(script)])


def _delete(late: Sequence[tuple[tuple[str, str], Part]]) -> Script[None]:
    for mine, part in late:
        text = "DELETE FROM live WHERE container = ? AND session = ? AND run = ? AND step = ? AND epoch = ?"
        yield Sql(text, (*mine, part.run_id, part.step, part.epoch), blind=True)


def joined(parts: Sequence[Part]) -> list[Part]:
    """Join what follows each other of one step and attempt."""
    out: list[Part] = []
    events: list[AnyEvent] = []
    end = 0
    for part in parts:
        last = out[-1] if out else None
        if last is not None and end == part.start and _same(last, part):
            base = max(last.base, part.base)
            out[-1] = Part(last.run_id, last.step, last.epoch, base, last.start, ())
        else:
            if last is not None:
                out[-1] = msgspec.structs.replace(last, events=tuple(events))
            out.append(part)
            events = []
        events += part.events
        end = part.end
    if out:
        out[-1] = msgspec.structs.replace(out[-1], events=tuple(events))
    return out


def _same(one: Part, other: Part) -> bool:
    return (one.run_id, one.step, one.epoch) == (other.run_id, other.step, other.epoch)
