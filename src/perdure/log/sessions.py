"""Sessions as rows: listing them and their runs page by page, and locking one to change it as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.log import RunRow
from perdure.log.schema import ROOM
from perdure.log.sql import SqlLog
from perdure.types.base import Base
from perdure.types.errors import DefinitionError, UnknownName
from perdure.types.records import SCHEMA_VERSION, Payload, RunStatus, encode_payload, kind_of

PAGE = 100
"""How many rows a page has unless asked for otherwise."""
MOST = 10_000
"""How many rows a page may have."""
_STATUSES: tuple[str, ...] = get_args(RunStatus)


class SessionRow(Base):
    """A session as the log knows it; `parent` is the run that started it, `head` its last record's number.

    A fork goes on from the record `base_seq` of its `base`. The `state` is `created` until somebody starts it as one.
    """

    id: str
    user_id: str | None
    title: str | None
    parent: str | None
    created_at: float
    head: int
    runs: int
    open: int
    base: str | None = None
    base_seq: int = 0
    state: str = "created"


def check_page(limit: int) -> None:
    """See to it that a page has at least one row and not too many.

    Raises:
        DefinitionError: it has not.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MOST:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"limit={limit!r}: a page has 1 to {MOST:,} rows; `after` gives the next one.")


async def list_sessions(log: SqlLog, *, after: str | None = None, limit: int = PAGE) -> list[SessionRow]:
    """List sessions, the newest first, without those of child runs.

    Args:
        log: the container's log.
        after: the last session of the page before.
        limit: at most so many.

    Raises:
        UnknownName: the page before ended with a session that is not there.
        DefinitionError: the page is too large.
    """

    check_page(limit)

    def script() -> Script[list[Row]]:
        below = 2**62
        if after is not None:
            rows = yield Sql("SELECT number FROM sessions WHERE container = ? AND id = ?", (log.container, after))
            if not rows:
                raise UnknownName("session", after)
            below = int(rows[0][0])
        return (
            yield Sql(
                "SELECT s.id, s.user_id, s.title, s.parent, s.created_at, COALESCE((SELECT MAX(slot) FROM records "
                f"WHERE slot > s.number * {ROOM} AND slot < (s.number + 1) * {ROOM}), 0), COUNT(r.id), "
                "COALESCE(SUM(CASE WHEN r.status IN ('completed', 'failed', 'cancelled') THEN 0 ELSE 1 END), 0), "
                "s.base, s.base_seq, COALESCE(s.status, 'created') "
                "FROM (SELECT * FROM sessions WHERE container = ? AND number < ? AND parent IS NULL "
                "ORDER BY number DESC LIMIT ?) s LEFT JOIN runs r ON r.container = s.container AND r.session = s.id "
                "GROUP BY s.number, s.id, s.user_id, s.title, s.parent, s.created_at, s.base, s.base_seq, s.status "
                "ORDER BY s.number DESC",
                (log.container, below, limit),
            )
        )

    return [
        SessionRow(
            *(id, user, title, parent, float(at), int(slot) % ROOM, int(runs), int(opened) if runs else 0),
            *(base, int(base_seq), str(state)),
        )
        for id, user, title, parent, at, slot, runs, opened, base, base_seq, state in await log.db.read(script)
    ]


async def list_runs(
    log: SqlLog,
    *,
    status: str | None = None,
    session_id: str | None = None,
    after: str | None = None,
    limit: int = PAGE,
) -> list[RunRow]:
    """List runs, the newest first.

    Args:
        log: the container's log.
        status: only runs of this status.
        session_id: only runs of this session.
        after: the last run of the page before.
        limit: at most so many.

    Raises:
        UnknownName: the page before ended with a run that is not there.
        DefinitionError: the page is too large, or there is no such status.
    """
    check_page(limit)
    if status is not None and status not in _STATUSES:
        raise DefinitionError(f"There is no status {status!r} of a run; it is one of {', '.join(_STATUSES)}.")
    last = None if after is None else await log.run(after)
    return await log.runs(status=status, session_id=session_id, limit=limit, after=last)


def lock_session(db: Database, container: str, id: str) -> Script[int | None]:
    """Lock a session to write to it; gives its number, None if there is none."""
    text = f"SELECT number FROM sessions WHERE container = ? AND id = ?{' FOR UPDATE' * (db.dialect == 'postgres')}"
    rows = yield Sql(text, (container, id))
    return int(rows[0][0]) if rows else None


def add_record(log: SqlLog, number: int, session_id: str, run_id: str, payload: Payload, now: float) -> Script[int]:
    """Write a record behind the last one of a session that is locked, and give its number in it."""
    first = number * ROOM
    rows = yield Sql("SELECT MAX(slot) FROM records WHERE slot > ? AND slot < ?", (first, first + ROOM))
    slot = (first if rows[0][0] is None else int(rows[0][0])) + 1
    place = {"slot": slot, "container": log.container, "session": session_id, "seq": slot % ROOM, "run": run_id}
    what = {"kind": kind_of(payload), "version": SCHEMA_VERSION, "payload": encode_payload(payload), "created_at": now}
    yield insertion("records", {**place, **what})
    return slot % ROOM


def insertion(table: str, row: Mapping[str, Any]) -> Sql:
    """Insert one row."""
    marks = ", ".join("?" * len(row))
    return Sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", (*row.values(),), blind=True)
