"""Erasing a session: what was said goes, and that something was there stays.

The envelope of a record (its place, run, key, kind and time) is kept, its payload is replaced once by a mark. With it
go blobs, prompt texts, inputs, outputs, answers to waits, the data of events that were sent from here, user ids and
titles, what a search finds, the sessions of child runs, and forks, which read what was said here. A copy, a backup or
an export that was made before is out of reach. The bytes leave a SQLite file with the commit and its write-ahead log
with the checkpoint after it; PostgreSQL keeps old versions of rows until it vacuums.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from perdure.db.database import Row, Script, Sql, StoreBusy
from perdure.log.forks import forks_of
from perdure.log.log import ENDED
from perdure.log.schema import ROOM
from perdure.log.search import forget, merge
from perdure.log.sessions import add_record, lock_session
from perdure.log.sql import SqlLog
from perdure.log.waits import over
from perdure.types.base import Base
from perdure.types.errors import Conflict, UnknownName
from perdure.types.records import Erased, RunFinished, encode_payload

_TRIES = 50


class Erasure(Base):
    """What was erased: the session, those of its child runs and its forks, and how many records.

    `complete` says that the bytes are gone from the store's files too; on PostgreSQL they go when it vacuums.
    """

    sessions: tuple[str, ...]
    records: int
    complete: bool


class _Open(NamedTuple):
    id: str
    status: str
    session: str
    number: int


async def erase_session(log: SqlLog, session_id: str, *, end: bool = False) -> Erasure:
    """Erase a session, those of its child runs, and its forks.

    Args:
        log: the container's log.
        session_id: the session.
        end: whether runs that nobody drives (queued, waiting, parked) are cancelled with it.

    Raises:
        UnknownName: there is no such session.
        Conflict: a run of it is open.
        StoreBusy: it is erased, but a reader keeps the old bytes in the file's write-ahead log.
    """
    container, now = log.container, log.now()

    def script() -> Script[tuple[dict[str, int], int]]:
        found = yield from _family(log, session_id)
        still = yield from _still_open(log, found)
        stuck = [one for one in still if not end or one.status == "running"]
        if stuck:
            raise still_open(session_id, [(one.id, one.status) for one in stuck])
        for one in still:
            yield from _end(log, one, now)
        erased = 0
        for id, number in found.items():
            erased += yield from _wipe(number)
            yield from forget(log.db, (number * ROOM, (number + 1) * ROOM))
            yield Sql("UPDATE sessions SET user_id = NULL, title = NULL, metadata = NULL WHERE number = ?", (number,))
            mine = (container, id)
            yield Sql("UPDATE runs SET user_id = NULL, input_hash = '' WHERE container = ? AND session = ?", mine)
            inside = "container = ? AND run IN (SELECT id FROM runs WHERE container = ? AND session = ?)"
            yield Sql(f"DELETE FROM answers WHERE {inside}", (container, *mine))
            yield Sql(f"UPDATE events SET data = ? WHERE {inside}", (b"{}", container, *mine))
            yield from add_record(log, number, id, "", Erased(), now)
        return found, erased

    found, erased = await log.db.write(script, notify=True)
    complete = log.db.dialect == "sqlite"
    if complete:
        await merge(log.db)
        await _truncate(log, session_id)
    return Erasure(tuple(found), erased, complete)


def still_open(session_id: str, runs: Sequence[tuple[str, str]]) -> Conflict:
    """Make the error of a session that has open runs."""
    listed = ", ".join(f"{id} ({status})" for id, status in runs)
    return Conflict(
        f"The session {session_id!r} has open runs: {listed}. Wait for their end or cancel them, then erase it; or "
        "erase it with cancel=True."
    )


def _family(log: SqlLog, session_id: str) -> Script[dict[str, int]]:
    """Lock a session and those of its child runs and forks, and of theirs; an older one has a lower number."""
    number = yield from lock_session(log.db, log.container, session_id)
    if number is None:
        raise UnknownName("session", session_id, [])
    found = {session_id: number}
    fresh = [session_id]
    while fresh:
        children: list[str] = []
        for id in fresh:
            rows = yield Sql(
                "SELECT c.id FROM sessions c JOIN runs r ON r.container = c.container AND r.id = c.parent "
                "WHERE r.container = ? AND r.session = ? ORDER BY c.number",
                (log.container, id),
            )
            children += [str(row[0]) for row in rows if row[0] not in found]
            children += [one for one in (yield from forks_of(log.container, id)) if one not in found]
        for child in children:
            number = yield from lock_session(log.db, log.container, child)
            if number is not None:
                found[child] = number
        fresh = children
    return found


def _still_open(log: SqlLog, sessions: dict[str, int]) -> Script[list[_Open]]:
    still: list[_Open] = []
    marks = ", ".join("?" * len(ENDED))
    for id, number in sessions.items():
        rows = yield Sql(
            "SELECT id, status FROM runs WHERE container = ? AND session = ? "
            f"AND status NOT IN ({marks}) ORDER BY position",
            (log.container, id, *ENDED),
        )
        still += [_Open(str(run), str(status), id, number) for run, status in rows]
    return still


def _end(log: SqlLog, run: _Open, now: float) -> Script[None]:
    """Cancel a run that nobody drives; whatever it left open need not be closed, as nothing of it is kept."""
    last = yield from add_record(log, run.number, run.session, run.id, RunFinished("cancelled", "cancelled"), now)
    yield Sql(
        "UPDATE runs SET status = 'cancelled', held = NULL, owner = NULL, cancelled = 1, last = ?, nonce = '', "
        "epoch = epoch + 1 WHERE container = ? AND id = ?",
        (last, log.container, run.id),
    )
    yield Sql("UPDATE sessions SET turn = NULL, epoch = 0, nonce = '' WHERE number = ?", (run.number,))
    yield from over(log.container, run.id, ended=True)


def _wipe(number: int) -> Script[int]:
    """Replace the payloads of a session's records."""
    inside = (number * ROOM, (number + 1) * ROOM)
    rows = yield Sql("SELECT kind, COUNT(*) FROM records WHERE slot > ? AND slot < ? GROUP BY kind", inside)
    own = encode_payload(Erased())
    for kind, _ in rows:
        mark = encode_payload(Erased(str(kind)))
        yield Sql(
            "UPDATE records SET payload = ?, blob = 0 WHERE slot > ? AND slot < ? AND kind = ? AND "
            "(payload IS NULL OR (payload <> ? AND payload <> ?))",
            (mark, *inside, kind, mark, own),
        )
    yield Sql("DELETE FROM blobs WHERE slot > ? AND slot < ?", inside)
    return sum(int(count) for kind, count in rows if kind != "erased")


async def _truncate(log: SqlLog, session_id: str) -> None:
    """Copy the write-ahead log into the file and empty it: until then it has the old bytes."""
    rows = await log.db.read(_file)
    path = Path(str(rows[0][0]))
    for _ in range(_TRIES):
        if await asyncio.to_thread(_checkpoint, path):
            return
        await asyncio.sleep(0.1)
    raise StoreBusy(
        f"The session {session_id!r} is erased, but another reader of {path} keeps the old bytes in {path.name}-wal. "
        "Erase it again when the reader has gone; they also go when the last process closes the file.",
        retryable=True,
    )


def _file() -> Script[list[Row]]:
    return (yield Sql("SELECT file FROM pragma_database_list WHERE name = 'main'"))


def _checkpoint(path: Path) -> bool:
    db = sqlite3.connect(path, timeout=5, isolation_level=None)
    try:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    except sqlite3.OperationalError:  # locked for too long
        return False
    finally:
        db.close()
