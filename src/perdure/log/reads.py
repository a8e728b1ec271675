"""Reading one container's log: runs, records, sessions."""

from __future__ import annotations

from typing import Any

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.log import ENDED, OPEN, RunRow
from perdure.log.parts import parts_of
from perdure.log.rows import LAST_SLOT, RECORD, RUN, record_of, run_of
from perdure.log.schema import ROOM
from perdure.types.errors import UnknownName
from perdure.types.records import Record, Rewound, decode_payload


class Reads:
    """What can be read of one container's log."""

    db: Database
    container: str

    async def compacted(self, session_id: str, before: int | None = None) -> int:
        """Say the sequence number of a session's last compacted record that no rewind hides; 0 if there is none."""

        def script() -> Script[int]:
            end = ROOM if before is None else before
            for one in (yield from parts_of(self.container, session_id)):
                rows = yield Sql(
                    "SELECT seq, kind, CASE WHEN kind = 'rewound' THEN payload END FROM records WHERE slot > ? AND "
                    "slot < ? AND kind IN ('compacted', 'rewound') ORDER BY slot DESC",
                    one.between(0, end),
                )
                for seq, kind, payload in rows:
                    if seq >= end:
                        continue
                    if kind == "compacted":
                        return int(seq)
                    rewound = decode_payload(bytes(payload))
                    end = rewound.to + 1 if isinstance(rewound, Rewound) else end  # else it was erased
            return 0

        return await self.db.read(script)

    async def read_run(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order; those of a run that it goes on from come first.

        Raises:
            UnknownName: there is no such run.
        """

        def script() -> Script[list[Record]]:
            start, end, session, goes_on = yield from self._bounds(run_id)
            if goes_on:
                return (yield from self._read(session, after, None, run_id))
            rows = yield Sql(
                f"{RECORD} WHERE r.slot >= ? AND r.slot < ? AND r.slot > ? AND r.run = ? ORDER BY r.slot",
                (start, end, start - start % ROOM + after, run_id),
            )
            return [record_of(row) for row in rows]

        return await self.db.read(script)

    def _bounds(self, run_id: str) -> Script[tuple[int, int, str, bool]]:
        """The slots that a run's records are in: from its first to behind its last, which is open if it is.

        Then its session, and whether it goes on from a run of that one's base.
        """
        rows = yield Sql(
            "SELECT s.number, r.position, r.last, r.status, s.id, s.fork_run FROM runs r JOIN sessions s ON "
            "s.container = r.container AND s.id = r.session WHERE r.container = ? AND r.id = ?",
            (self.container, run_id),
        )
        if not rows:
            raise UnknownName("run", run_id)
        number, position, last, status, session, fork_run = rows[0]
        end = number * ROOM + (last + 1 if status in ENDED else ROOM)
        return number * ROOM + position, end, session, fork_run == run_id

    async def read_session(self, session_id: str, after: int = 0, before: int | None = None) -> list[Record]:
        """Read a session's records between two sequence numbers (both exclusive), in order; a fork's base included."""
        return await self.db.read(lambda: self._read(session_id, after, before))

    def _read(self, session_id: str, after: int, before: int | None, run_id: str | None = None) -> Script[list[Record]]:
        """Read records of a session, or of one run in it, as the session shows them."""
        records: list[Record] = []
        parts = yield from parts_of(self.container, session_id)
        for one in reversed(parts):
            start, end = one.between(after, ROOM if before is None else before)
            if start + 1 >= end:
                continue
            only, names = "", one.called(run_id) if run_id is not None else ()
            if names:
                only = f" AND r.run IN ({', '.join('?' * len(names))})"
            rows = yield Sql(f"{RECORD} WHERE r.slot > ? AND r.slot < ?{only} ORDER BY r.slot", (start, end, *names))
            records += [one.shown(record_of(row), session_id) for row in rows]
        return records

    async def run(self, run_id: str) -> RunRow:
        """Read a run's row.

        Raises:
            UnknownName: there is no such run.
        """
        rows = await self._runs("id = ?", (run_id,), 1)
        if not rows:
            raise UnknownName("run", run_id)
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

    async def started_by(self, run_id: str) -> list[str]:
        """List the runs that a run has started, also those that are over."""
        return [one.id for one in await self._runs("parent = ? ORDER BY id", (run_id,), 1000)]

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
