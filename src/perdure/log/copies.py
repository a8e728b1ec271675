"""A copy of a store is another store: it gets an id of its own, and holds the runs that were open in it.

A store notes where it lies: a SQLite file its inode, a PostgreSQL database its server and number. Opened at another
place it is a copy: by `backup` (which erases the note), `cp` to a new file, `pg_dump`, `CREATE DATABASE … TEMPLATE`.
Two things cannot be told: a file that was overwritten in place by `cp` keeps its inode, and a server that was restored
as a whole keeps its name. A file that was moved to another disk is taken for a copy, which is the safe mistake.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from perdure.db.database import Database, Row, Script, Sql, StoreError

NOWHERE = "copy"
"""The place of a copy that was never opened."""

_POSTGRES_PLACE = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || oid::text FROM pg_database "
    "WHERE datname = current_database()"
)


class Opened(NamedTuple):
    """What was found when a store was opened: its id, whether it is a new copy, how many runs it holds."""

    id: str
    is_copy: bool
    held: int


async def open_copy(db: Database, new_id: str, *, take_over: bool) -> Opened:
    """See whether a store is a copy; if so, name it anew and hold its open runs.

    Args:
        db: the opened database, with the log's tables.
        new_id: the id that a copy gets.
        take_over: whether runs that are held go on here.
    """
    here = await _place(db)
    before, opened = await db.read(_look)
    moved = here is not None and before != here

    def script() -> Script[Opened]:
        known, now = yield from _look()
        is_copy = known is not None and here is not None and known != here
        if here is not None:
            yield Sql(
                "INSERT INTO perdure_store VALUES ('place', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (here,),
            )
        if is_copy:
            yield from _hold(new_id)
        if take_over:
            yield Sql("UPDATE runs SET status = held, held = NULL WHERE status = 'parked' AND held IS NOT NULL")
        _, after = yield from _look()
        return Opened(after.id, is_copy, now.held if take_over else after.held)

    if not moved and not (take_over and opened.held):
        return opened
    return await db.write(script, notify=True)


def _look() -> Script[tuple[str | None, Opened]]:
    rows = yield Sql("SELECT name, value FROM perdure_store WHERE name IN ('id', 'place')")
    known = {str(name): str(value) for name, value in rows}
    held = yield Sql("SELECT COUNT(*) FROM runs WHERE status = 'parked' AND held IS NOT NULL")
    return known.get("place"), Opened(known["id"], False, int(held[0][0]))


def _hold(new_id: str) -> Script[None]:
    """Park what is open, each run at its place in its session; whoever had it has no token any more."""
    yield Sql("UPDATE perdure_store SET value = ? WHERE name = 'id'", (new_id,))
    yield Sql("DELETE FROM owners")
    yield Sql(
        "UPDATE runs SET held = CASE status WHEN 'running' THEN 'queued' ELSE status END, status = 'parked', "
        "owner = NULL, nonce = '' WHERE status IN ('queued', 'running', 'waiting')"
    )
    yield Sql("UPDATE sessions SET nonce = '' WHERE turn IS NOT NULL")


async def _place(db: Database) -> str | None:
    """Say where a store lies; None if that cannot be told."""
    if db.dialect == "postgres":
        with suppress(StoreError):  # a server that does not say so to this user
            rows = await db.read(lambda: _rows(_POSTGRES_PLACE))
            return f"server {rows[0][0]}"
        return None
    rows = await db.read(lambda: _rows("SELECT file FROM pragma_database_list WHERE name = 'main'"))
    return _inode(Path(str(rows[0][0])))


def _inode(path: Path) -> str | None:
    return f"inode {path.stat().st_ino}" if path.is_file() else None


def _rows(text: str) -> Script[list[Row]]:
    return (yield Sql(text))
