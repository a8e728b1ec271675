"""What holds for a whole container: how long it keeps what was said, and how much it may hold.

It is kept in the container's row. A container without quotas is asked nothing when a run is taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from perdure.db.database import Database, Script, Sql
from perdure.log.log import NewRun
from perdure.log.schema import ROOM
from perdure.types.base import Base, convert, decode_json, encode_json, plain
from perdure.types.errors import DefinitionError, QuotaExceeded

_PAGE = 500


class Quota(Base):
    """How much a container may hold; what is None has no limit.

    `sessions` counts conversations, without those of child runs and those of which all was erased or removed;
    `open_runs` runs that have not ended, without child runs. They are counted when one is taken in. `records` and
    `bytes` (of payloads) are measured from time to time, so that a little more may come in.
    """

    sessions: int | None = None
    open_runs: int | None = None
    records: int | None = None
    bytes: int | None = None

    def checked(self) -> Quota:
        """Itself, if it makes sense.

        Raises:
            DefinitionError: a limit is no number from 0.
        """
        for name in self.__struct_fields__:
            value: Any = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise DefinitionError(f"Quota({name}={value!r}): give a whole number from 0, or None for no limit.")
        return self


class Policy(Base):
    """What holds for a container: after how many seconds a session is removed, and its quota."""

    retention: float | None = None
    quota: Quota | None = None


async def read_policies(db: Database) -> dict[str, Policy]:
    """Read what holds for all containers for which something was said."""

    def script() -> Script[dict[str, Policy]]:
        rows = yield Sql("SELECT id, config FROM containers WHERE config LIKE '%\"policy\"%'")
        return {str(id): _policy(str(config)) for id, config in rows}

    return await db.read(script)


async def change_policy(db: Database, container: str, now: float, changes: Mapping[str, Any]) -> Policy:
    """Change what is given of a container's policy; the container is made if need be."""
    lock = " FOR UPDATE" if db.dialect == "postgres" else ""

    def script() -> Script[Policy]:
        yield Sql(
            "INSERT INTO containers (id, config, created_at, updated_at) VALUES (?, '{}', ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (container, now, now),
        )
        rows = yield Sql(f"SELECT config FROM containers WHERE id = ?{lock}", (container,))
        config = cast("dict[str, Any]", decode_json(rows[0][0]))
        known = _policy(str(rows[0][0]))
        policy = Policy(changes.get("retention", known.retention), changes.get("quota", known.quota))
        config["policy"] = plain(policy)
        text = encode_json(config).decode()
        rows = yield Sql("SELECT MAX(updated_at) FROM containers")
        at = max(now, float(rows[0][0]) + 0.001)  # by this others see that something was changed
        yield Sql("UPDATE containers SET config = ?, updated_at = ? WHERE id = ?", (text, at, container))
        return policy

    return await db.write(script, notify=True)


def _policy(config: str) -> Policy:
    given = cast("dict[str, Any]", decode_json(config))
    return convert(given.get("policy") or {}, Policy)


def check_quota(db: Database, container: str, new: NewRun, quota: Quota) -> Script[None]:
    """Refuse a run that a container has no room for; a repetition and a child of one that is there are let in.

    Raises:
        QuotaExceeded: it has not.
    """
    if new.parent is not None or (quota.sessions is None and quota.open_runs is None):
        return
    yield from lock_quota(db, container)
    if (yield Sql("SELECT 1 FROM runs WHERE container = ? AND id = ?", (container, new.id))):
        return
    if quota.open_runs is not None:
        each = "SELECT COUNT(*) FROM runs WHERE status = '{}' AND container = ? AND parent IS NULL"
        parts = [f"({each.format(status)})" for status in ("queued", "running", "waiting")]
        rows = yield Sql(f"SELECT {' + '.join(parts)}", (container,) * len(parts))
        if int(rows[0][0]) >= quota.open_runs:
            raise exceeded(container, "open runs", int(rows[0][0]), quota.open_runs)
    if quota.sessions is not None:
        known = f"SELECT 1 FROM sessions s WHERE container = ? AND id = ? AND {_HAS}"
        if (yield Sql(known, (container, new.session_id))):
            return
        held = yield from _sessions(container)
        if held >= quota.sessions:
            raise exceeded(container, "sessions", held, quota.sessions)


def check_sessions(db: Database, container: str, quota: Quota | None, more: int = 0) -> Script[None]:
    """Refuse a session that was just made, or `more` that are to be, if that are more than there may be.

    Raises:
        QuotaExceeded: there are.
    """
    if quota is None or quota.sessions is None:
        return
    yield from lock_quota(db, container)
    held = yield from _sessions(container)
    if held + more > quota.sessions:
        raise exceeded(container, "sessions", held + more - 1, quota.sessions)


_HAS = (
    "(s.gone = 0 OR EXISTS (SELECT 1 FROM records WHERE "
    f"slot > s.number * {ROOM} + s.gone AND slot < (s.number + 1) * {ROOM}))"
)
"""Whether a session has anything that was not erased or removed."""


def _sessions(container: str) -> Script[int]:
    rows = yield Sql(f"SELECT COUNT(*) FROM sessions s WHERE container = ? AND parent IS NULL AND {_HAS}", (container,))
    return int(rows[0][0])


def lock_quota(db: Database, container: str) -> Script[None]:
    """Have two that take something in at once see each other; on SQLite there is one writer anyway."""
    if db.dialect == "postgres":
        yield Sql("SELECT pg_advisory_xact_lock(hashtext(?))", (f"perdure quota {container}",))


def exceeded(container: str, what: str, held: int, limit: int) -> QuotaExceeded:
    """Make the error of a container that has no room."""
    return QuotaExceeded(
        f"The container {container!r} has {held:,} of at most {limit:,} {what}, so nothing new is taken in. Wait for "
        "open ones to end, erase some, shorten its retention, or raise its quota: container.configure(quota=…)."
    )


class Usage(Base):
    """What a container holds: sessions as a quota counts them, open runs, records, and bytes of payloads."""

    sessions: int
    open_runs: int
    records: int
    bytes: int


class Meter:
    """Measures what a container holds; of what it has measured before it reads only what is new.

    Args:
        db: the opened database.
        container: the container.
    """

    def __init__(self, db: Database, container: str) -> None:
        self._db = db
        self._container = container
        self._known: dict[int, tuple[int, int, int]] = {}

    async def measure(self) -> Usage:
        """Count and add up, some sessions at a time."""
        sizes: dict[int, tuple[int, int, int]] = {}
        after: int | None = 0
        top = 0
        while after is not None:
            some, more, after = await self._db.read(lambda a=after: self._some(a))
            sizes.update(some)
            top += more
        self._known = sizes
        open_runs = await self._db.read(self._open)
        records = sum(head - base for head, base, _ in sizes.values())
        return Usage(top, open_runs, records, sum(size for _, _, size in sizes.values()))

    def _open(self) -> Script[int]:
        rows = yield Sql(
            "SELECT COUNT(*) FROM runs WHERE container = ? AND parent IS NULL AND "
            "status IN ('queued', 'running', 'waiting')",
            (self._container,),
        )
        return int(rows[0][0])

    def _some(self, after: int) -> Script[tuple[dict[int, tuple[int, int, int]], int, int | None]]:
        rows = yield Sql(
            "SELECT s.number, s.base_seq, s.parent, s.gone, (SELECT MAX(slot) FROM records WHERE "
            f"slot > s.number * {ROOM} AND slot < (s.number + 1) * {ROOM}) FROM sessions s "
            "WHERE s.container = ? AND s.number > ? ORDER BY s.number LIMIT ?",
            (self._container, after, _PAGE),
        )
        sizes: dict[int, tuple[int, int, int]] = {}
        top = 0
        for number, base, parent, gone, last in rows:
            head = int(last) % ROOM if last is not None else int(base)
            top += parent is None and (not gone or head > gone)
            sizes[int(number)] = (head, int(base), (yield from self._size(int(number), head, int(base))))
        return sizes, top, int(rows[-1][0]) if len(rows) == _PAGE else None

    def _size(self, number: int, head: int, base: int) -> Script[int]:
        """The bytes of a session's payloads: what was known, and what is new, unless something was erased."""
        known_head, known_base, known = self._known.get(number, (base, base, 0))
        if (known_head, known_base) == (head, base):
            return known
        text = (
            "SELECT COALESCE(SUM(LENGTH(r.payload)), 0) + COALESCE(SUM(LENGTH(b.payload)), 0), "
            "COALESCE(SUM(CASE WHEN r.kind = 'erased' THEN 1 ELSE 0 END), 0) FROM records r "
            "LEFT JOIN blobs b ON r.blob = 1 AND b.slot = r.slot WHERE r.slot > ? AND r.slot <= ?"
        )
        first = number * ROOM
        rows = yield Sql(text, (first + known_head, first + head))
        if known_base == base and not rows[0][1]:
            return known + int(rows[0][0])
        rows = yield Sql(text, (first, first + head))
        return int(rows[0][0])
