"""Whether a store is whole: the database's own check, then what the log's tables must say of each other."""

from __future__ import annotations

import msgspec

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.schema import ROOM
from perdure.types.base import Base
from perdure.types.records import decode_payload

MOST = 20
"""How many examples of one kind of damage are named."""
_PAGE = 256


class Damage(Base):
    """Something that is not as it must be, and what it means."""

    what: str
    where: str


_RULES = (
    (
        "a record has lost its payload: restore a backup; its step is not repeated",
        "SELECT r.container, r.session || ' #' || r.seq FROM records r LEFT JOIN blobs b ON b.slot = r.slot "
        "WHERE r.payload IS NULL AND b.payload IS NULL",
    ),
    (
        "records are missing between two others: restore a backup",
        "SELECT s.container, s.id || ', ' || (MAX(r.seq) - s.base_seq - COUNT(*)) || ' missing' FROM sessions s "
        f"JOIN records r ON r.slot > s.number * {ROOM} AND r.slot < (s.number + 1) * {ROOM} "
        "GROUP BY s.number, s.container, s.id, s.base_seq HAVING MAX(r.seq) - s.base_seq <> COUNT(*)",
    ),
    (
        "a record belongs to no session of that name",
        "SELECT r.container, r.session || ' #' || r.seq FROM records r LEFT JOIN sessions s ON "
        f"s.number = (r.slot - r.seq) / {ROOM} AND s.container = r.container AND s.id = r.session "
        "WHERE s.number IS NULL",
    ),
    (
        "a fork has lost what it goes on from: restore a backup",
        "SELECT s.container, s.id || ', of ' || s.base || ' #' || s.base_seq FROM sessions s "
        "LEFT JOIN sessions b ON b.container = s.container AND b.id = s.base "
        f"LEFT JOIN records r ON r.slot = b.number * {ROOM} + s.base_seq WHERE s.base IS NOT NULL AND r.slot IS NULL",
    ),
    (
        "a run has ended without its last record",
        "SELECT container, id FROM runs r WHERE status IN ('completed', 'failed', 'cancelled') AND NOT EXISTS ("
        f"SELECT 1 FROM sessions s JOIN records f ON f.slot > s.number * {ROOM} AND f.slot < (s.number + 1) * {ROOM} "
        "AND f.run = r.id AND f.kind = 'run_finished' WHERE s.container = r.container AND s.id = r.session)",
    ),
    (
        "a session's turn belongs to a run that is not open",
        "SELECT s.container, s.id FROM sessions s LEFT JOIN runs r ON r.container = s.container AND r.id = s.turn "
        "WHERE s.turn IS NOT NULL AND (r.id IS NULL OR r.status IN ('completed', 'failed', 'cancelled'))",
    ),
    (
        "a run waits for nothing, so nobody wakes it: cancel it, or restore a backup",
        "SELECT container, id FROM runs r WHERE status = 'waiting' AND cancelled = 0 "
        "AND (parent IS NULL OR detached = 1) "
        "AND NOT EXISTS (SELECT 1 FROM waiters w WHERE w.container = r.container AND w.run = r.id)",
    ),
    (
        "a wait belongs to a run that is not open",
        "SELECT w.container, w.id FROM waiters w LEFT JOIN runs r ON r.container = w.container AND r.id = w.run "
        "WHERE r.id IS NULL OR r.status IN ('completed', 'failed', 'cancelled')",
    ),
)


async def check(db: Database, *, deep: bool = False) -> list[Damage]:
    """Look for damage.

    Args:
        db: the opened store; others may go on writing to it.
        deep: whether every page of a SQLite file and every payload is read too, which takes as long as reading all of
            the store.
    """
    found: list[Damage] = []
    if db.dialect == "sqlite":
        pragma = f"PRAGMA {'integrity_check' if deep else 'quick_check'}({MOST})"
        found += [
            Damage("the file is damaged: restore a backup", str(text))
            for (text,) in await db.read(lambda: _rows(pragma))
            if text != "ok"
        ]
    for what, text in _RULES:
        rows = await db.read(lambda text=text: _rows(f"{text} LIMIT {MOST}"))
        found += [Damage(what, f"{container}/{where}") for container, where in rows]
    return found + await _unreadable(db) if deep else found


def _rows(text: str, *params: object) -> Script[list[Row]]:
    return (yield Sql(text, params))


async def _unreadable(db: Database) -> list[Damage]:
    found: list[Damage] = []
    slot = -1
    while len(found) < MOST:
        rows = await db.read(
            lambda slot=slot: _rows(
                "SELECT r.slot, r.container, r.session, r.seq, r.version, COALESCE(r.payload, b.payload) "
                "FROM records r LEFT JOIN blobs b ON r.blob = 1 AND b.slot = r.slot WHERE r.slot > ? "
                f"ORDER BY r.slot LIMIT {_PAGE}",
                slot,
            )
        )
        if not rows:
            break
        slot = int(rows[-1][0])
        for _, container, session, seq, version, payload in rows:
            try:
                decode_payload(bytes(payload or b"{}"), int(version))
            except msgspec.MsgspecError as error:
                where = f"{container}/{session} #{seq} ({error})"
                found.append(Damage("a record cannot be read: a newer Perdure wrote it, or it is damaged", where))
    return found
