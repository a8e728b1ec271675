"""Reading one container's log: runs, records, sessions."""

from __future__ import annotations

from typing import Any

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.log import (
    ENDED,
    OPEN,
    RunRow,
)
from perdure.log.rows import (
    LAST_SLOT,
    RECORD,
    RUN,
    record_of,
    run_of,
)
from perdure.log.schema import ROOM
from perdure.types.errors import UnknownName
from perdure.types.records import (
    Record,
)


class Reads:
    """What can be read of one container's log."""

    db: Database
    container: str

    async def compacted(self, session_id: str, before: int | None = None) -> int:
        """Say the sequence number of a session's last compacted record; 0 if there is none."""

        def script() -> Script[list[Row]]:
            text = (
                f"SELECT MAX(r.slot) FROM records r JOIN sessions s ON r.slot > s.number * {ROOM} "
                f"AND r.slot < s.number * {ROOM} + ? WHERE s.container = ? AND s.id = ? AND r.kind = 'compacted'"
            )
            end = ROOM if before is None else before
            return (yield Sql(text, (end, self.container, session_id)))

        rows = await self.db.read(script)
        return int(rows[0][0] or 0) % ROOM

    async def read_run(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order.

        Raises:
            UnknownName: there is no such run.
        """

        def script() -> Script[list[Row]]:
            start, end = yield from self._bounds(run_id)
            return (
                yield Sql(
                    f"{RECORD} WHERE r.slot >= ? AND r.slot < ? AND r.slot > ? AND r.run = ? ORDER BY r.slot",
                    (start, end, start - start % ROOM + after, run_id),
                )
            )

        return [record_of(row) for row in await self.db.read(script)]

    def _bounds(self, run_id: str) -> Script[tuple[int, int]]:
        """The slots that a run's records are in: from its first to behind its last, which is open if it is."""
        rows = yield Sql(
            "SELECT s.number, r.position, r.last, r.status FROM runs r JOIN sessions s ON s.container = r.container "
            "AND s.id = r.session WHERE r.container = ? AND r.id = ?",
            (self.container, run_id),
        )
        if not rows:
            raise UnknownName("run", run_id, [])
        number, position, last, status = rows[0]
        return number * ROOM + position, number * ROOM + (last + 1 if status in ENDED else ROOM)

    async def read_session(self, session_id: str, after: int = 0, before: int | None = None) -> list[Record]:
        """Read a session's records between two sequence numbers (both exclusive), in order."""
        container = self.container

        def script() -> Script[list[Row]]:
            rows = yield Sql("SELECT number FROM sessions WHERE container = ? AND id = ?", (container, session_id))
            if not rows:
                return []
            first = int(rows[0][0]) * ROOM
            return (
                yield Sql(
                    f"{RECORD} WHERE r.slot > ? AND r.slot < ? ORDER BY r.slot",
                    (first + after, first + (ROOM if before is None else before)),
                )
            )

        return [record_of(row) for row in await self.db.read(script)]

    async def run(self, run_id: str) -> RunRow:
        """Read a run's row.

        Raises:
            UnknownName: there is no such run.
        """
        rows = await self._runs("id = ?", (run_id,), 1)
        if not rows:
            raise UnknownName("run", run_id, [])
        return rows[0]

    async def runs(
        self,
        *,
        status: str | None = None,
        session_id: str | None = None,
        limit: int = 100,
        after: RunRow | None = None,
    ) -> list[RunRow]:
        """List runs, the newest first; those behind a run if it is given."""
        where, params = "1 = 1", ()
        if after is not None:
            where, params = "(created_at, id) < (?, ?)", (after.created_at, after.id)
        if status is not None:
            named = status in OPEN  # as the indexes name it
            where = f"{where} AND status = '{status}'" if named else f"{where} AND status = ?"
            params = params if named else (*params, status)
        if session_id is not None:
            where, params = f"{where} AND session = ?", (*params, session_id)
        return await self._runs(f"{where} ORDER BY created_at DESC, id DESC", params, limit)

    async def cancelled(self, run_id: str) -> bool:
        """Say whether somebody has asked for the end of a run."""

        def script() -> Script[list[Row]]:
            return (yield Sql("SELECT cancelled FROM runs WHERE container = ? AND id = ?", (self.container, run_id)))

        return any(row[0] for row in await self.db.read(script))

    async def children(self, run_id: str) -> list[RunRow]:
        """List the open runs that a run has started."""
        return await self._runs(f"parent = ? AND status IN {OPEN} ORDER BY id", (run_id,), 1000)

    async def _runs(self, where: str, params: tuple[Any, ...], limit: int) -> list[RunRow]:
        def script() -> Script[list[Row]]:
            text = f"SELECT {RUN} FROM runs WHERE container = ? AND {where} LIMIT ?"
            return (yield Sql(text, (self.container, *params, limit)))

        return [run_of(row) for row in await self.db.read(script)]

    async def head(self, session_id: str) -> int:
        """Say the sequence number of a session's last record; 0 if there is none."""

        def script() -> Script[list[Row]]:
            text = f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?"
            return (yield Sql(text, (self.container, session_id)))

        rows = await self.db.read(script)
        return int(rows[0][0]) % ROOM if rows else 0
