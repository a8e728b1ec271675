"""Retention: what is too old goes, a session at a time, and its numbers are never given again.

What goes is rows: records, runs, what came with them. The session's row and one record that says so stay, as the
beginning of what may come later, so that numbers go on and whoever has read it before sees that it is void. A session
stays whole as long as a run of it or of its child runs is open, and as long as a fork goes on from it.
"""

from __future__ import annotations

from typing import NamedTuple

from perdure.db.database import Script, Sql
from perdure.log.forks import forks_of
from perdure.log.log import ENDED
from perdure.log.schema import ROOM
from perdure.log.search import forget
from perdure.log.sessions import add_record, lock_session
from perdure.log.sql import SqlLog
from perdure.types.records import Erased

_PAGE = 100


class Old(NamedTuple):
    """A session that may be too old: its number and id."""

    number: int
    id: str


async def old_sessions(log: SqlLog, before: float, after: int = 0) -> tuple[list[Old], int | None]:
    """Look for sessions whose last record is older than a moment, some at a time.

    Args:
        log: the container's log.
        before: the moment, in seconds since the epoch.
        after: the number behind which to look.

    Returns:
        The sessions, and behind which number to look next; None at the end.
    """

    def script() -> Script[tuple[list[Old], int | None]]:
        last = (
            f"(SELECT MAX(slot) FROM records WHERE slot > s.number * {ROOM} + s.base_seq + 1 AND "
            f"slot < (s.number + 1) * {ROOM})"
        )
        rows = yield Sql(
            f"SELECT s.number, s.id, (SELECT created_at FROM records WHERE slot = {last}) FROM sessions s "
            "WHERE s.container = ? AND s.number > ? AND s.parent IS NULL AND s.created_at < ? "
            "ORDER BY s.number LIMIT ?",
            (log.container, after, before, _PAGE),
        )
        old = [Old(int(number), str(id)) for number, id, at in rows if at is not None and at < before]
        return old, int(rows[-1][0]) if len(rows) == _PAGE else None

    return await log.db.read(script)


async def prune(log: SqlLog, session: Old, before: float) -> list[str]:
    """Remove what is in a session and in those of its child runs, if it is still too old and nothing needs it.

    Returns:
        The sessions of which something was removed.
    """
    now = log.now()

    def script() -> Script[list[str]]:
        family: list[Old] = []
        fresh = [session]
        while fresh:
            for one in fresh:
                if (yield from lock_session(log.db, log.container, one.id)) != one.number:
                    return []
                if (yield from _needed(log, one, before)):
                    return []
            family += fresh
            children: list[Old] = []
            for one in fresh:
                rows = yield Sql(
                    "SELECT c.number, c.id FROM runs r JOIN runs k ON k.container = r.container AND k.parent = r.id "
                    "JOIN sessions c ON c.container = k.container AND c.id = k.session AND c.parent = r.id "
                    "WHERE r.container = ? AND r.session = ? ORDER BY c.number",
                    (log.container, one.id),
                )
                children += [Old(int(number), str(id)) for number, id in dict.fromkeys(tuple(row) for row in rows)]
            known = {one.number for one in family}
            fresh = [one for one in children if one.number not in known]
        for one in family:
            yield from _remove(log, one, now)
        return [one.id for one in family]

    return await log.db.write(script, notify=True)


def _needed(log: SqlLog, session: Old, before: float) -> Script[bool]:
    """Whether something is open in a session, goes on from it, or has happened in it lately."""
    mine = (log.container, session.id)
    if (yield Sql(f"SELECT 1 FROM runs WHERE container = ? AND session = ? AND status NOT IN {ENDED} LIMIT 1", mine)):
        return True
    if (yield from forks_of(log.container, session.id)):
        return True
    first = session.number * ROOM
    rows = yield Sql(
        "SELECT created_at FROM records WHERE slot = (SELECT MAX(slot) FROM records WHERE slot > ? AND slot < ?)",
        (first, first + ROOM),
    )
    return bool(rows) and float(rows[0][0]) >= before


def _remove(log: SqlLog, session: Old, now: float) -> Script[None]:
    mine = (log.container, session.id)
    first = session.number * ROOM
    seq = yield from add_record(log, session.number, session.id, "", Erased(), now)
    inside = (first, first + seq)
    yield from forget(log.db, inside)
    yield Sql("DELETE FROM records WHERE slot > ? AND slot < ?", inside)
    yield Sql("DELETE FROM blobs WHERE slot > ? AND slot < ?", inside)
    yield Sql("DELETE FROM live WHERE container = ? AND session = ?", mine)
    of_runs = "container = ? AND run IN (SELECT id FROM runs WHERE container = ? AND session = ?)"
    yield Sql(f"DELETE FROM answers WHERE {of_runs}", (log.container, *mine))
    yield Sql(f"UPDATE events SET data = ?, run = NULL, user_id = NULL WHERE {of_runs}", (b"{}", log.container, *mine))
    yield Sql("DELETE FROM runs WHERE container = ? AND session = ?", mine)
    yield Sql(
        "UPDATE sessions SET base = NULL, base_seq = ?, base_run = NULL, fork_run = NULL, user_id = NULL, "
        "title = NULL, metadata = NULL, gone = ? WHERE number = ?",
        (seq - 1, seq, session.number),
    )
