"""SQLite through the standard library: WAL, one writer thread with group commit, one reader thread.

Where a commit does not wait for the disk, short transactions are done on the event loop's own thread if nobody else has
the file at that moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

from perdure.db.database import (
    Call,
    Exists,
    Guard,
    Row,
    Script,
    Sql,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
)
from perdure.db.here import Here
from perdure.db.transaction import call_in_sqlite
from perdure.db.writer import GROUP, Connection, Worker
from perdure.types.errors import PerdureError

T = TypeVar("T")
POLL = 0.02
"""Seconds between two looks at whether somebody has written."""
CHECKPOINT = 4000
"""Pages in the write-ahead log (16 MB) after which they are copied into the file; a page that changed often once."""
LOOK = 0.1
"""Seconds between two looks at whether the file is still there."""


class SqliteDatabase:
    """One file, safe for several processes on one machine.

    Args:
        path: the file; made if it is not there, in a folder that must exist.
        durability: `"full"` syncs each group of commits, `"normal"` leaves that to checkpoints.
        patience: seconds to wait for another process that holds the file.
    """

    dialect: Literal["sqlite", "postgres"] = "sqlite"
    clock = "(julianday('now') - 2440587.5) * 86400.0"

    def __init__(self, path: str, durability: Literal["full", "normal"] = "full", patience: float = 30.0) -> None:
        self.path = Path(path)
        self.url = f"sqlite:///{path}"
        self._synchronous = "FULL" if durability == "full" else "NORMAL"
        self._patience = patience
        self._guard: list[Guard] = []
        self._protected: set[str] = set()
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._here: Here | None = None
        self._version = -1

    async def open(self) -> None:
        """Open the file for writing and reading."""
        if not self.path.parent.is_dir():
            raise StoreMissing(f"Cannot open {self.path}: there is no folder {self.path.parent}; make it first.")
        self._writer = Worker("perdure-writer", self._connect_writer, most=GROUP)
        self._reader = Worker("perdure-reader", self._connect_reader)
        try:
            await self._writer.start()
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            self._writer = self._reader = None
            raise
        if self._synchronous == "NORMAL":
            self._here = Here(self._connect_here, self._writer, self._checkpoint)

    def _connect_writer(self, first: bool) -> Connection:
        return _Writer(self.path, self._patience, self._synchronous, self._guard, self._protected, create=first)

    def _connect_reader(self, first: bool) -> Connection:
        return _Sqlite(self.path, self._patience)

    def _connect_here(self, first: bool) -> Connection:
        return _Here(self.path, 0.0, self._synchronous, self._guard, self._protected, create=False)

    async def _checkpoint(self) -> None:
        if self._writer is not None:
            await self._writer.submit(_touch)

    def guard(self, guard: Guard) -> None:
        """Ask something at the beginning of every writing transaction from now on."""
        self._guard.append(guard)

    def protect(self, tables: Sequence[str]) -> None:
        """Let no code of a user's write to these tables."""
        self._protected.update(tables)

    async def write(self, make: Callable[[], Script[T]], *, notify: bool = False, brief: bool = False) -> T:
        """Run a script in the next group; returns after the group's commit."""
        if self._writer is None:
            raise StoreError(f"{self.url} is closed; open it again.")
        if brief and self._here is not None:
            return await self._here.submit(make)
        return await self._writer.submit(make)

    async def write_apart(self, make: Callable[[], Script[T]]) -> T:
        """Run a script in the next group: the writer answers every event loop."""
        return await self.write(make)

    async def read(self, make: Callable[[], Script[T]]) -> T:
        """Run a script that only reads."""
        if self._reader is None:
            raise StoreError(f"{self.url} is closed; open it again.")
        return await self._reader.submit(make)

    async def changed(self, seconds: float) -> bool:
        """Look every 20 ms whether somebody has written; a look costs some microseconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            version = await self.read(_data_version)
            if version != self._version:
                self._version = version
                return True
            left = end - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(POLL, left))

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        writer, reader, here = self._writer, self._reader, self._here
        self._writer = self._reader = self._here = None
        if here is not None:
            await here.stop()
        if reader is not None:
            await reader.stop()
        if writer is not None:
            await writer.stop()


def _data_version() -> Script[int]:
    rows = yield Sql("PRAGMA data_version")
    return int(rows[0][0])


class _Sqlite(Connection):
    """One connection that reads, used by one thread."""

    _begin = "BEGIN"
    _own_thread = True

    def __init__(self, path: Path, patience: float, *, create: bool = False) -> None:
        self._path = path
        self._patience = patience
        try:
            # `rw`: a file that was deleted is not silently made again, empty
            uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
            self._db = sqlite3.connect(
                uri,
                uri=True,
                timeout=patience,
                isolation_level=None,
                cached_statements=256,
                check_same_thread=self._own_thread,
            )
            try:
                self._set_up()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self.error(error) from error
        self._execute = self._db.cursor().execute  # one cursor for all: each statement is read to its end

    def _set_up(self) -> None:
        self._db.execute("PRAGMA query_only = ON")
        self._db.execute("PRAGMA schema_version").fetchall()  # sees whether it is a database

    def begin(self) -> None:
        self._execute(self._begin)

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._execute("ROLLBACK")

    def savepoint(self) -> None:
        self._execute("SAVEPOINT one")

    def release(self) -> None:
        self._execute("RELEASE one")

    def undo(self) -> None:
        self._execute("ROLLBACK TO one")
        self._execute("RELEASE one")

    def execute(self, statement: Sql) -> list[Row]:
        return self._execute(statement.text, statement.params).fetchall()

    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        if isinstance(error, sqlite3.Error):
            return map_error(error, self._path, self._patience, committing=committing)
        return error

    def close(self) -> None:
        self._db.close()


class _Writer(_Sqlite):
    """The connection that writes."""

    # never deferred: a transaction that begins as a reader cannot always become a writer
    _begin = "BEGIN IMMEDIATE"

    def __init__(
        self, path: Path, patience: float, synchronous: str, guards: list[Guard], protected: set[str], *, create: bool
    ) -> None:
        self._synchronous = synchronous
        self._protected = protected
        self._guards = guards
        self._seen: Row | None = None
        super().__init__(path, patience, create=create)
        self._inode = path.stat().st_ino
        self._look_at = 0.0

    def _set_up(self) -> None:
        mode = self._write_ahead()
        if mode != "wal":
            raise StoreError(
                f"{self._path} cannot use a write-ahead log (its mode is {mode!r}): keep it on a local disk, not on a "
                "network file system."
            )
        self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute("PRAGMA secure_delete = ON")  # what is erased is not left in the file's free space
        self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")

    def _write_ahead(self) -> str:
        """Switch to the write-ahead log; SQLite itself does not wait here for others who open the same new file."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return str(self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
            time.sleep(POLL)

    def begin(self) -> None:
        self._execute(self._begin)
        if self._guards:
            version = self._execute("PRAGMA data_version").fetchone()
            if version != self._seen:  # another process has written, perhaps what the guards look at
                for guard in self._guards:
                    guard.check(self.execute(guard.statement))
                self._seen = version

    def execute(self, statement: Sql) -> list[Row]:
        if type(statement) is Call:
            return [(call_in_sqlite(self._db, statement, self._protected),)]
        return self._execute(statement.text, statement.params).fetchall()

    def commit(self) -> None:
        self._execute("COMMIT")
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._see_the_file()

    def _see_the_file(self) -> None:
        """Notice that the file is not there any more; SQLite itself would go on writing to one without a name."""
        try:
            if self._path.stat().st_ino == self._inode:
                return
        except FileNotFoundError:
            pass
        raise StoreMissing(
            f"The file {self._path} was deleted or replaced while it was open. Put it back, and the work goes on.",
            retryable=True,
            unknown=True,
        )

    def close(self) -> None:
        with suppress(sqlite3.Error):  # the file may be gone or full; what is committed is in the log beside it
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        super().close()


class _Here(_Writer):
    """The connection that an event loop writes with; the write-ahead log is copied elsewhere."""

    _own_thread = False  # whoever closes the database may be another one

    def _set_up(self) -> None:
        super()._set_up()
        self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def close(self) -> None:
        _Sqlite.close(self)


def _touch() -> Script[None]:
    """Write what changes nothing: its commit copies the write-ahead log if that has grown long."""
    rows = yield Sql("PRAGMA user_version")
    yield Sql(f"PRAGMA user_version = {int(rows[0][0])}")


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", None) or ""


def map_error(error: sqlite3.Error, path: Path, patience: float, *, committing: bool = False) -> PerdureError:
    """Say in our words what SQLite says in its own."""
    text = str(error)
    name = _name(error)
    if name == "SQLITE_FULL":
        return StoreFull(
            f"The disk of {path} is full. Nothing acknowledged is lost; free some space and the work goes on.",
            retryable=True,
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreBusy(
            f"{path} was locked by another process for {patience:g} s. See which process holds it; the work goes on "
            "when it lets go.",
            retryable=True,
        )
    if name.startswith("SQLITE_READONLY"):
        return StoreReadOnly(
            f"{path} cannot be written to: check the rights of the file, its folder and its disk.", retryable=True
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreCorrupt(
            f"{path} is damaged or is no database ({text}). Restore a backup; `perdure doctor` says what can be read."
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreMissing(
            f"{path} cannot be opened: check that it exists and that you may read and write it.", retryable=True
        )
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"):
        return Exists(f"{path}: {text}")
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"Reading or writing {path} failed ({text}, {name}); check the disk.", retryable=True, unknown=committing
        )
    return StoreError(f"{path}: {text}" + (f" ({name})" if name else ""))
