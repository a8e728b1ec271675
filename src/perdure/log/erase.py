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

import msgspec

from perdure.db.database import Database, Row, Script, Sql, StoreBusy
from perdure.db.migrate import has_part
from perdure.log.forks import forks_of
from perdure.log.log import ENDED
from perdure.log.schema import EVENTS, ROOM
from perdure.log.search import forget, merge
from perdure.log.sessions import add_record, lock_session
from perdure.log.sql import SqlLog
from perdure.log.waits import over
from perdure.types.base import Base, encode_json
from perdure.types.errors import Conflict, UnknownName
from perdure.types.records import Erased, RunFinished, encode_payload

_TRIES = 50
_FORGET_IMAGE = (
    "UPDATE images SET session = '', name = '', description = NULL, system_prompt = NULL, model = NULL, "
    "mcp_servers = NULL, definition = NULL, metadata = '{}' WHERE container = ? AND session = ? RETURNING 1"
)
"""Nothing of an image is left but its id, until its folder is gone too."""
_EMPTY = b"{}"


class Erasure(Base):
    """What was erased, as ids and counts; nothing of what was said is in it.

    `sessions` are those that were asked for, those of their child runs and their forks; `records`, `runs`, `blobs`,
    `waits`, `answers`, `events`, `texts` (of the search index) and `images` (with their folders) say how many were, and
    `containers` in which containers it was looked for. `complete` says that the bytes are gone from the store's files
    too; on PostgreSQL they go when it vacuums. `at` is in seconds since the epoch.
    """

    sessions: tuple[str, ...]
    records: int
    complete: bool
    runs: int = 0
    blobs: int = 0
    waits: int = 0
    answers: int = 0
    events: int = 0
    texts: int = 0
    images: int = 0
    containers: tuple[str, ...] = ()
    at: float = 0.0

    def and_(self, other: Erasure) -> Erasure:
        """Both of them, as of the later one."""
        both = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        sessions = tuple(dict.fromkeys([*self.sessions, *other.sessions]))
        where = tuple(dict.fromkeys([*self.containers, *other.containers]))
        complete, at = self.complete and other.complete, max(self.at, other.at)
        return Erasure(sessions, complete=complete, containers=where, at=at, **both)


_COUNTS = ("records", "runs", "blobs", "waits", "answers", "events", "texts", "images")


class _Open(NamedTuple):
    id: str
    status: str
    session: str
    number: int


async def erase_session(
    log: SqlLog, session_id: str, *, end: bool = False, settled: bool = True, wholly: bool = False
) -> Erasure:
    """Erase a session, those of its child runs, and its forks.

    Args:
        log: the container's log.
        session_id: the session.
        end: whether runs that nobody drives (queued, waiting, parked) are cancelled with it.
        settled: whether it is also seen to that the bytes are gone; else `settle` is called later.
        wholly: whether images of these sessions go too.

    Raises:
        UnknownName: there is no such session.
        Conflict: a run of it is open.
        StoreBusy: it is erased, but a reader keeps the old bytes in the file's write-ahead log.
    """
    container, now = log.container, log.now()

    woken: list[str] = []

    def script() -> Script[Erasure]:
        woken.clear()
        rows = yield Sql("SELECT id FROM runs WHERE container = ? AND session = ? ORDER BY id", (container, session_id))
        for (id,) in rows:
            yield from log.lock_above(str(id))  # from the top down
        found = yield from _family(log, session_id)
        still = yield from _still_open(log, found)
        stuck = [one for one in still if not end or one.status == "running"]
        if stuck:
            raise still_open(session_id, [(one.id, one.status) for one in stuck])
        gone = Erasure(tuple(found), 0, False, at=now)
        for one in still:
            waits = yield Sql("DELETE FROM waiters WHERE container = ? AND run = ? RETURNING 1", (container, one.id))
            gone = gone.and_(Erasure((), 0, False, waits=len(waits)))
            yield from _end(log, one, now)
            woken.extend((yield from log.tell_above(one.id, now)))
        for id, number in found.items():
            gone = gone.and_((yield from _erase_one(log, id, number)))
            if wholly:
                images = yield Sql(_FORGET_IMAGE, (container, id))
                gone = gone.and_(Erasure((), 0, False, images=len(images)))
            last = yield from add_record(log, number, id, "", Erased(), now)
            yield Sql("UPDATE sessions SET gone = ? WHERE number = ?", (last, number))
        return gone

    erased = await log.db.write(script, notify=True)
    log.tell(woken)
    return msgspec.structs.replace(erased, complete=await settle(log.db)) if settled else erased


def _erase_one(log: SqlLog, id: str, number: int) -> Script[Erasure]:
    """Erase one session that is locked, and in which nothing is open."""
    mine, inside = (log.container, id), (number * ROOM, (number + 1) * ROOM)
    records, blobs = yield from _wipe(number)
    texts = yield from forget(log.db, inside)
    yield Sql("UPDATE sessions SET user_id = NULL, title = NULL, metadata = NULL WHERE number = ?", (number,))
    runs = yield Sql(
        "UPDATE runs SET user_id = NULL, input_hash = '' WHERE container = ? AND session = ? RETURNING 1", mine
    )
    yield Sql("DELETE FROM live WHERE container = ? AND session = ?", mine)
    of_runs = "container = ? AND run IN (SELECT id FROM runs WHERE container = ? AND session = ?)"
    answers = yield Sql(f"DELETE FROM answers WHERE {of_runs} RETURNING 1", (log.container, *mine))
    events = yield Sql(
        f"UPDATE events SET data = ?, user_id = NULL WHERE {of_runs} AND (data <> ? OR user_id IS NOT NULL) "
        "RETURNING 1",
        (_EMPTY, log.container, *mine, _EMPTY),
    )
    counts = (len(runs), blobs, 0, len(answers), len(events), texts)
    return Erasure((), records, False, *counts)


async def sessions_of(log: SqlLog, user_id: str, limit: int = 100) -> list[str]:
    """Name some sessions of a user, and those in which a run or an event was theirs; those of child runs come last.

    Args:
        log: the container's log.
        user_id: the user.
        limit: at most so many.
    """

    posted = b'"user_id":' + encode_json(user_id)

    def script() -> Script[list[Row]]:
        of_runs = "EXISTS (SELECT 1 FROM runs r WHERE r.container = s.container AND r.session = s.id AND r.user_id = ?)"
        where, params = f"s.user_id = ? OR {of_runs}", (user_id, user_id)
        if (yield from has_part(EVENTS)):  # an event says itself whose it is
            found = "POSITION(? IN {})" if log.db.dialect == "postgres" else "INSTR({}, ?)"
            of_events = (
                "EXISTS (SELECT 1 FROM records e LEFT JOIN blobs b ON e.blob = 1 AND b.slot = e.slot WHERE "
                f"e.slot > s.number * {ROOM} AND e.slot < (s.number + 1) * {ROOM} AND e.kind = 'event' AND "
                f"{found.format('COALESCE(e.payload, b.payload)')} > 0)"
            )
            where, params = f"{where} OR {of_events}", (*params, posted)
        return (
            yield Sql(
                f"SELECT s.id FROM sessions s WHERE s.container = ? AND ({where}) "
                "ORDER BY CASE WHEN s.parent IS NULL THEN 0 ELSE 1 END, s.number LIMIT ?",
                (log.container, *params, limit),
            )
        )

    return [str(row[0]) for row in await log.db.read(script)]


async def erase_events(log: SqlLog, user_id: str) -> Erasure:
    """Erase what was told of a user by events from outside; that there were such events stays."""

    def script() -> Script[list[Row]]:
        text = "UPDATE events SET data = ?, user_id = NULL WHERE container = ? AND user_id = ? RETURNING 1"
        return (yield Sql(text, (_EMPTY, log.container, user_id)))

    return Erasure((), 0, True, events=len(await log.db.write(script)), at=log.now())


async def settle(db: Database) -> bool:
    """See to it that what was erased is gone from the store's files; says whether it is.

    Raises:
        StoreBusy: a reader keeps the old bytes in the file's write-ahead log.
    """
    if db.dialect != "sqlite":
        return False  # PostgreSQL keeps old versions of rows until it vacuums
    await merge(db)
    await _truncate(db)
    return True


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
        raise UnknownName("session", session_id)
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


def _wipe(number: int) -> Script[tuple[int, int]]:
    """Replace the payloads of a session's records that have one; says how many records, and how many of them large."""
    inside = (number * ROOM, (number + 1) * ROOM)
    rows = yield Sql("SELECT DISTINCT kind FROM records WHERE slot > ? AND slot < ?", inside)
    own = encode_payload(Erased())
    erased = 0
    for (kind,) in rows:
        mark = encode_payload(Erased(str(kind)))
        gone = yield Sql(
            "UPDATE records SET payload = ?, blob = 0 WHERE slot > ? AND slot < ? AND kind = ? AND "
            "(payload IS NULL OR (payload <> ? AND payload <> ?)) RETURNING 1",
            (mark, *inside, kind, mark, own),
        )
        erased += len(gone)
    blobs = yield Sql("DELETE FROM blobs WHERE slot > ? AND slot < ? RETURNING 1", inside)
    return erased, len(blobs)


async def _truncate(db: Database) -> None:
    """Copy the write-ahead log into the file and empty it: until then it has the old bytes."""
    rows = await db.read(_file)
    path = Path(str(rows[0][0]))
    for _ in range(_TRIES):
        if await asyncio.to_thread(_checkpoint, path):
            return
        await asyncio.sleep(0.1)
    raise StoreBusy(
        f"It is erased, but another reader of {path} keeps the old bytes in {path.name}-wal. Erase it again when the "
        "reader has gone; they also go when the last process closes the file.",
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
