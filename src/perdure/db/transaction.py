"""What a user's code may do inside a transaction of ours: read and write its own tables, quickly.

The code is given a `Transaction` (an async function an `AsyncTransaction`) and nothing else of the connection. It ends
with the code: kept and used later, it refuses.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from perdure.db.database import Call, CallFailed, Row
from perdure.types.errors import TransactionError

Params: TypeAlias = Sequence[Any] | Mapping[str, Any]
SQLITE_SECONDS = 0.25
"""How long code may hold the one writer of a SQLite file."""
POSTGRES_SECONDS = 20.0
"""How long code may hold a connection to PostgreSQL."""

_ENDED = "This transaction is over; use it only inside the function that it was given to."


class Transaction(Protocol):
    """A transaction that a plain function writes in; what it writes and its step are committed together."""

    def execute(self, sql: str, params: Params = (), /) -> int:
        """Run a statement, with `?` for each parameter, and say how many rows it has changed.

        Raises:
            TransactionError: the statement is none that is allowed here.
        """
        ...

    def fetch(self, sql: str, params: Params = (), /) -> list[Row]:
        """Run a statement and give its rows."""
        ...


class AsyncTransaction(Protocol):
    """A transaction that an async function writes in, on PostgreSQL."""

    async def execute(self, sql: str, params: Params = (), /) -> int:
        """Run a statement, with `?` for each parameter, and say how many rows it has changed.

        Raises:
            TransactionError: the statement is none that is allowed here.
        """
        ...

    async def fetch(self, sql: str, params: Params = (), /) -> list[Row]:
        """Run a statement and give its rows."""
        ...


def _late(seconds: float) -> TransactionError:
    return TransactionError(
        f"The transaction took longer than {seconds:g} s and was undone: while it runs, others wait for the database. "
        "Do nothing in it but read and write rows, and fewer at once."
    )


def _undone(why: str) -> TransactionError:
    return TransactionError(f"The transaction was undone in the middle ({why}), so nothing of it is kept.")


# -- SQLite ----------------------------------------------------------------------------------------------------------

_READING = frozenset((sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE))
_WRITING = frozenset((sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE))
_FORBIDDEN = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT or ROLLBACK",
    sqlite3.SQLITE_SAVEPOINT: "savepoints",
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_PRAGMA: "PRAGMA",
}
_STEPS = 1000
"""How many instructions of SQLite's machine pass between two looks at the clock."""


class _SqliteTransaction:
    """The writer's connection while a user's function has it."""

    def __init__(self, db: sqlite3.Connection, tables: Collection[str]) -> None:
        self._db = db
        self._tables = tables
        self._ends = time.monotonic() + SQLITE_SECONDS
        self._refused = ""
        self.over = ""

    def execute(self, sql: str, params: Params = (), /) -> int:
        return max(self._run(sql, params).rowcount, 0)

    def fetch(self, sql: str, params: Params = (), /) -> list[Row]:
        return self._run(sql, params, read=True).fetchall()

    def _run(self, sql: str, params: Params, *, read: bool = False) -> sqlite3.Cursor:
        if self.over:
            raise TransactionError(self.over)
        self.in_time()
        try:
            cursor = self._db.execute(sql, params)
            return cursor if read else _read_to_the_end(cursor)
        except sqlite3.Error:
            self.in_time()
            if self._refused:
                refused, self._refused = self._refused, ""
                raise TransactionError(refused) from None
            raise
        finally:
            self.whole()

    def whole(self) -> None:
        """See that the transaction is still the one that was begun."""
        if not self._db.in_transaction:
            self.over = self.over or str(_undone("a statement said ROLLBACK, or the database failed"))

    def late(self) -> bool:
        """Whether the time is over; asked by SQLite while it works."""
        return time.monotonic() > self._ends

    def in_time(self) -> None:
        """Refuse to go on when the time is over."""
        if self.late():
            raise _late(SQLITE_SECONDS)

    def allow(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Say what SQLite may do; asked for each thing that a statement is going to do, triggers included."""
        if action in _READING:
            return sqlite3.SQLITE_OK
        if action in _FORBIDDEN:
            self._refused = f"A transaction's function may not use {_FORBIDDEN[action]}: it only reads and writes rows."
        elif first in self._tables or (action not in _WRITING and second in self._tables):
            name = first if first in self._tables else second
            self._refused = f"The table {name!r} is Perdure's own; a transaction's function may only read it."
        else:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


def _read_to_the_end(cursor: sqlite3.Cursor) -> sqlite3.Cursor:
    if cursor.description is not None:
        cursor.fetchall()
    return cursor


def call_in_sqlite(db: sqlite3.Connection, call: Call, tables: Collection[str]) -> Any:
    """Call a user's function on the writer's connection, inside a transaction that is open.

    Raises:
        CallFailed: what the function raised, or what it was refused.
        sqlite3.Error: the database itself failed.
    """
    tx = _SqliteTransaction(db, tables)
    db.set_authorizer(tx.allow)
    db.set_progress_handler(tx.late, _STEPS)
    try:
        value = call.fn(tx)
        tx.in_time()
        if tx.over:
            raise TransactionError(tx.over)
        return value
    except sqlite3.Error as error:
        if (getattr(error, "sqlite_errorname", None) or "").startswith(_FAULTS):
            raise
        raise CallFailed(error, late=tx.late()) from error
    except Exception as error:
        raise CallFailed(error, late=tx.late()) from error
    finally:
        tx.over = _ENDED
        db.set_authorizer(None)
        db.set_progress_handler(None, _STEPS)


_FAULTS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_CORRUPT", "SQLITE_NOTADB")
"""What the database says of itself, and not of a statement."""

# -- PostgreSQL ------------------------------------------------------------------------------------------------------

_ALLOWED = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|CREATE)\b",
    re.IGNORECASE | re.DOTALL,
)
_OUTSIDE = ("08", "40", "53", "55P03", "57P")
"""What is no fault of a statement: the connection, a lost race, the server's disk and memory, locks, a restart."""
_WRITTEN = (
    "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables WHERE relname::text = ANY(%s)"
)


class PostgresTransaction:
    """A connection of the pool while a user's function has it; the protocol's async methods.

    Args:
        connection: the connection, in a transaction.
        translate: writes a statement with the driver's marks for parameters.
    """

    def __init__(self, connection: Any, translate: Callable[[str], str]) -> None:
        self._connection = connection
        self._translate = translate
        self._working: asyncio.Task[Any] | None = None
        self.over = ""

    async def execute(self, sql: str, params: Params = (), /) -> int:
        return max((await self._run(sql, params)).rowcount, 0)

    async def fetch(self, sql: str, params: Params = (), /) -> list[Row]:
        cursor = await self._run(sql, params)
        return await cursor.fetchall() if cursor.description else []

    async def _run(self, sql: str, params: Params) -> Any:
        if self.over:
            raise TransactionError(self.over)
        if not _ALLOWED.match(sql):
            raise TransactionError(
                f"A transaction's function may not use {sql.strip()[:40]!r}: it only reads and writes rows."
            )
        self._working = asyncio.current_task()
        try:
            # prepared, so that the server takes one statement and no second one behind it
            return await self._connection.execute(self._translate(sql), params, prepare=True)
        except Exception as error:
            self.over = str(_undone(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
            raise
        finally:
            self._working = None

    def end(self) -> None:
        """Refuse everything from now on, and cut off what a thread still asks for."""
        self.over = _ENDED
        if self._working is not None and self._working is not asyncio.current_task():
            self._working.cancel()


async def call_in_postgres(connection: Any, call: Call, tables: Sequence[str], translate: Callable[[str], str]) -> Any:
    """Call a user's function on a connection, inside a transaction that is open, and see what it has written.

    What the server counts tells of rows, not of a table that was emptied or changed as a whole; such statements are
    refused where they are said, and not seen inside a function of the database.

    Raises:
        CallFailed: what the function raised, or what it was refused.
        psycopg.Error: the database itself failed, or the transaction lost against another one.
    """
    import psycopg

    before = await _written(connection, tables)
    tx = PostgresTransaction(connection, translate)
    limit = asyncio.timeout(POSTGRES_SECONDS)
    try:
        try:
            async with limit:
                value = await call.fn(tx)
        except TimeoutError as error:
            raise CallFailed(_late(POSTGRES_SECONDS) if limit.expired() else error) from error
        if tx.over:
            raise CallFailed(TransactionError(tx.over))
    except psycopg.Error as error:
        if (error.sqlstate or "08").startswith(_OUTSIDE):
            raise
        raise CallFailed(error) from error
    except CallFailed:
        raise
    except Exception as error:
        raise CallFailed(error) from error
    finally:
        tx.end()
    for name, _ in await _written(connection, tables) - before:
        why = f"The table {name!r} is Perdure's own; a transaction's function may only read it."
        raise CallFailed(TransactionError(why))
    return value


async def _written(connection: Any, tables: Sequence[str]) -> set[Row]:
    """How many rows this connection has written to tables that the server has not added to its totals yet."""
    return set(await (await connection.execute(_WRITTEN, (list(tables),))).fetchall())
