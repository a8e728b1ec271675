"""Forks and rewinds in a database: a fork is a row that names its base, a rewind is a record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from perdure.db.database import Database, Exists, Script, Sql
from perdure.log.log import (
    ENDED,
    Fork,
    Point,
    beyond,
    ended_as,
    fork_records,
    forked_otherwise,
    is_erased,
    still_open,
    written_since,
)
from perdure.log.parts import Part, parts_of
from perdure.log.policy import Quota, check_sessions
from perdure.log.rows import LAST_SLOT, RECORD, Coded, record_of
from perdure.log.schema import ROOM
from perdure.log.session_events import posted_before
from perdure.types.errors import UnknownName
from perdure.types.records import Erased, encode_payload, kind_of


class Forks(ABC):
    """What makes sessions of sessions, and marks points in them."""

    db: Database
    now: Callable[[], float]
    owner: str
    container: str
    quota: Quota | None

    @abstractmethod
    def _insert(self, last: int, session: str, run_id: str, coded: Sequence[Coded], now: float) -> Script[None]: ...

    @abstractmethod
    def _lock(self, session_id: str) -> Sql: ...

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
        now = self.now()
        records = [
            Coded(one.key, kind_of(one.payload), encode_payload(one.payload), one.at) for one in fork_records(fork)
        ]

        def script() -> Script[int]:
            base, origin = yield from self._base(fork)
            ended, run = ended_as(fork), fork.run
            posted = yield from posted_before(self.container, fork.base, fork.seq)
            rows = yield Sql(
                "INSERT INTO sessions (container, id, turn, user_id, title, base, base_seq, base_run, fork_run, "
                "created_at, status, metadata, events) SELECT container, ?, ?, user_id, COALESCE(?, title), ?, ?, ?, "
                "?, ?, CASE WHEN status IS NOT NULL THEN 'active' END, metadata, ? FROM sessions WHERE number = ? "
                "RETURNING number",
                (
                    *(fork.id, run.id if run is not None and ended is None else None, fork.title),
                    *(base.session, fork.seq, origin, run.id if run is not None else None, now, posted, base.number),
                ),
            )
            yield from check_sessions(self.db, self.container, self.quota)
            last = int(rows[0][0]) * ROOM + fork.seq
            if run is not None:
                head = fork.seq + len(records)
                yield Sql(
                    "INSERT INTO runs (container, id, session, definition, status, input_hash, position, last, "
                    "claimed_at, user_id, created_at, lane, queuer, event) VALUES "
                    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT COALESCE(MAX(number), 0) FROM events))",
                    (
                        *(self.container, run.id, fork.id, run.definition, ended or "queued", run.input_hash),
                        *(fork.position, head, head, run.user_id, now, run.lane, self.owner),
                    ),
                    blind=True,
                )
            yield from self._insert(last, fork.id, run.id if run is not None else "", records, now)
            return fork.seq + len(records)

        try:
            return await self.db.write(script, notify=True)
        except Exists:
            return await self.db.read(lambda: self._same(fork))

    def _base(self, fork: Fork) -> Script[tuple[Part, str | None]]:
        """Lock the session that has the cut's record as its own, and say what the run that was at work is called there.

        Whoever erases it has locked it too.
        """
        parts = yield from parts_of(self.container, fork.base)
        if not parts:
            raise UnknownName("session", fork.base)
        base = next((one for one in parts if one.low < fork.seq <= one.high), parts[-1])
        if self.db.dialect == "postgres":
            yield self._lock(base.session)
        rows = yield Sql(f"{RECORD} WHERE r.slot = ?", (base.number * ROOM + fork.seq,))
        if not rows:
            last = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE number = ?", (parts[0].number,))
            raise beyond(fork.base, fork.seq, int(last[0][0]) % ROOM)
        if isinstance(record_of(rows[0]).payload, Erased):
            raise is_erased(fork.base, fork.seq)
        return base, base.called(fork.origin)[0] if fork.origin else None

    def _same(self, fork: Fork) -> Script[int]:
        """See that a session which is there is the fork that was asked for."""
        rows = yield Sql(
            f"SELECT number * {ROOM} + base_seq, fork_run, {LAST_SLOT} FROM sessions WHERE container = ? AND id = ? "
            "AND base IS NOT NULL",
            (self.container, fork.id),
        )
        if not rows or rows[0][1] != (fork.run.id if fork.run is not None else None):
            raise forked_otherwise(fork.id)
        slot, _, last = rows[0]
        first = encode_payload(fork_records(fork)[0].payload)
        rows = yield Sql("SELECT payload FROM records WHERE slot = ?", (slot + 1,))
        if not rows or bytes(rows[0][0]) != first:
            raise forked_otherwise(fork.id)
        return int(last) % ROOM

    async def mark(self, session_id: str, payload: Point, head: int) -> int:
        """Write the point that readers of a session start from.

        Raises:
            UnknownName: there is no such session.
            Conflict: a run of the session has not ended, or another record has come behind `head`.
        """
        coded = Coded(None, kind_of(payload), encode_payload(payload))
        mine, now = (self.container, session_id), self.now()

        def script() -> Script[int]:
            if self.db.dialect == "postgres":
                yield self._lock(session_id)
            rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
            if not rows:
                raise UnknownName("session", session_id)
            last = int(rows[0][0])
            rows = yield Sql(
                "SELECT id, status FROM runs WHERE container = ? AND session = ? AND status NOT IN "
                f"{ENDED} ORDER BY position LIMIT 1",
                mine,
            )
            if rows:
                id, status = rows[0]
                raise still_open(session_id, str(id), str(status), payload)
            if last % ROOM != head:
                raise written_since(session_id, head, last % ROOM, payload)
            yield from self._insert(last, session_id, "", [coded], now)
            return head + 1

        return await self.db.write(script, notify=True)

    async def bases(self, session_id: str) -> list[str]:
        """List the sessions that a session goes on from, the nearest first."""
        parts = await self.db.read(lambda: parts_of(self.container, session_id))
        return [one.session for one in parts[1:]]

    async def forks(self, session_id: str) -> list[str]:
        """List the sessions that go on from a session, and from those in turn."""

        def script() -> Script[list[str]]:
            found: list[str] = []
            fresh = [session_id]
            while fresh:
                below: list[str] = []
                for id in fresh:
                    below += yield from forks_of(self.container, id)
                found += below
                fresh = below
            return found

        return await self.db.read(script)


def forks_of(container: str, session_id: str) -> Script[list[str]]:
    """The sessions that have a session as their base."""
    rows = yield Sql(
        "SELECT id FROM sessions WHERE container = ? AND base = ? ORDER BY number", (container, session_id)
    )
    return [str(row[0]) for row in rows]
