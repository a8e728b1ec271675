"""A copy of a running store as one SQLite file, consistent as of one moment.

A SQLite file is copied page by page while others go on writing. A PostgreSQL database is read in one snapshot, row by
row, into a new file: a store like any other, though for a restore into PostgreSQL `pg_dump` is the tool. The copy is
written beside its place, checked, marked as one, and only then given its name.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from perdure.db.database import Database, Row, Script, Sql, StoreCorrupt, StoreError
from perdure.db.migrate import migrate
from perdure.db.sqlite import SqliteDatabase
from perdure.log.copies import NOWHERE
from perdure.log.schema import MIGRATIONS
from perdure.types.ids import new_id

_OF_PROCESSES = ("perdure_store", "owners", "live")
_ROWS = 500


async def backup(db: Database, target: Path) -> int:
    """Copy an opened store to a new file.

    Args:
        db: the store; others may go on writing to it.
        target: the file to be made.

    Returns:
        The size of the copy, in bytes.

    Raises:
        StoreError: the file is there already, its folder is not, or the copy is not whole.
    """
    part = _part_of(target)
    try:
        if db.dialect == "sqlite":
            rows = await db.read(_file)
            await asyncio.to_thread(_copy, str(rows[0][0]), part)
        else:
            await _copy_rows(db, part)
        return await asyncio.to_thread(_finish, part, target)
    finally:
        _remove(part)


def _part_of(target: Path) -> Path:
    if target.exists():
        raise StoreError(f"{target} is there already; name a new file for the backup.")
    if not target.parent.is_dir():
        raise StoreError(f"There is no folder {target.parent} for the backup; make it first.")
    part = target.with_name(f".{target.name}.part")
    _remove(part)
    return part


def _remove(part: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + end).unlink(missing_ok=True)


def _file() -> Script[list[Row]]:
    return (yield Sql("SELECT file FROM pragma_database_list WHERE name = 'main'"))


def _copy(source: str, part: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{Path(source).as_uri()}?mode=ro", uri=True, timeout=30)) as old,
            closing(sqlite3.connect(part)) as new,
        ):
            old.backup(new)  # in one step: others may write meanwhile, and it need not begin again
    except sqlite3.Error as error:
        raise StoreError(f"{source} could not be copied: {error}. Nothing was made.") from error


def _finish(part: Path, target: Path) -> int:
    """See that the copy is whole, mark it as one, and give it its name."""
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreCorrupt(f"The copy is damaged ({found}), and so may be the store; nothing was made.")
        db.execute(
            "INSERT INTO perdure_store VALUES ('place', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (NOWHERE,),
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    part.rename(target)
    return target.stat().st_size


async def _copy_rows(db: Database, part: Path) -> None:
    """Copy every table's rows, a bounded number at a time."""
    made = SqliteDatabase(str(part), "normal")
    await made.open()
    try:
        await migrate(made, MIGRATIONS, new_id("store"))
    finally:
        await made.close()
    with closing(sqlite3.connect(part, isolation_level=None)) as new:
        rows = new.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        tables = [str(name) for (name,) in rows if name not in _OF_PROCESSES]

        def script() -> Script[None]:
            new.execute("BEGIN")
            for table in tables:
                columns = [str(row[1]) for row in new.execute(f"PRAGMA table_info({table})")]
                insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
                yield Sql(f"DECLARE copied NO SCROLL CURSOR FOR SELECT {', '.join(columns)} FROM {table}")
                while some := (yield Sql(f"FETCH {_ROWS} FROM copied")):
                    new.executemany(insert, some)
                yield Sql("CLOSE copied")
            new.execute("COMMIT")

        def afresh() -> Script[None]:  # a connection that was lost is tried again
            if new.in_transaction:
                new.execute("ROLLBACK")
            return script()

        await db.read(afresh)
