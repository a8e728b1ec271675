"""A history adapter for any SQL database, through SQLAlchemy: SQLite, PostgreSQL, MySQL, MariaDB.

Two tables: a thread's row holds its number of entries and is locked by whoever appends, so numbers have neither gaps
nor repeats; an entry is unique by thread and id. Statements run in threads, so every sync driver will do, and a run
that is cancelled never leaves a connection in the middle of a statement.
"""

from __future__ import annotations

import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from perdure.durable.threads import in_thread
from perdure.history.threads import Entry, ThreadStore
from perdure.types.errors import ConfigurationError, DefinitionError, HistoryError, HistoryUnavailable, MissingExtra

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, MetaData, Table

T = TypeVar("T")
ATTEMPTS = 8
_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
_EXTRAS = {"psycopg": "postgres", "psycopg2": "postgres", "pymysql": "mysql"}
_AGAIN = {"40001", "40P01", "55P03", 1213, 1205, 1020}
"""What a database says when two have met and one may simply try again."""


class SqlHistory(ThreadStore):
    """Keeps conversations in an SQL database.

    Args:
        database: an address such as `sqlite:///threads.db`, `postgresql://…` or `mariadb://…`, or a SQLAlchemy engine
            (a sync one), which stays its owner's to dispose of.
        tables: what the names of the two tables begin with; they are made at first use.

    Raises:
        MissingExtra: SQLAlchemy or the database's driver is not installed.
        ConfigurationError: the address cannot be read.
        DefinitionError: the engine is none, or an async one, or the tables cannot have this name.
    """

    def __init__(self, database: str | URL | Engine, *, tables: str = "perdure_history") -> None:
        if not isinstance(tables, str) or not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", tables):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"tables={tables!r}: use 1 to 40 lower-case letters, digits and _.")
        self._owned = isinstance(database, str) or hasattr(database, "drivername")
        self._engine = _engine(cast("Any", database)) if self._owned else _checked(database)
        self._metadata, self._threads, self._entries = _tables(tables)
        self._made = False
        self._making = threading.Lock()
        memory = self._engine.dialect.name == "sqlite" and self._engine.url.database in (None, "", ":memory:")
        self._alone = threading.RLock() if memory else nullcontext()

    def __repr__(self) -> str:
        return f"SqlHistory({self._engine.url.render_as_string(hide_password=True)!r})"

    async def close(self) -> None:
        """Close the connections, if they are this adapter's own."""
        if self._owned:
            await in_thread(self._engine.dispose)

    async def put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        """Append entries in one transaction."""
        await in_thread(self._transact, self._append, thread_id, entries, user_id)

    async def texts(self, thread_id: str) -> Sequence[str]:
        """Read the entries in their order."""
        return await in_thread(self._transact, self._read, thread_id)

    async def forget(self, thread_id: str) -> bool:
        """Delete the thread's row, then its entries."""
        return await in_thread(self._transact, self._delete, thread_id)

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _transact(self, work: Callable[..., T], *args: Any) -> T:
        """Do something in a transaction, again if two have met in it."""
        from sqlalchemy import exc

        attempt = 0
        while True:
            attempt += 1
            try:
                with self._alone:
                    self._make()
                    with self._engine.begin() as connection:
                        return work(connection, *args)
            except exc.SQLAlchemyError as error:
                lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
                if not ((_met(error) and attempt < ATTEMPTS) or (lost and attempt < 2)):
                    raise self._failure(error) from error
            except ModuleNotFoundError as error:  # a driver that is loaded at the first connection
                raise _missing(error) from error
            time.sleep(random.uniform(0.005, 0.02) * attempt)

    def _make(self) -> None:
        """Make the tables if they are not there; somebody else may do so at the same time."""
        if self._made:
            return
        from sqlalchemy import exc, inspect

        with self._making:
            names = [table.name for table in self._metadata.sorted_tables]
            for attempt in range(ATTEMPTS):
                there = inspect(self._engine)
                if all(there.has_table(name) for name in names):
                    break
                try:
                    self._metadata.create_all(self._engine)
                    break
                except exc.DBAPIError:
                    if attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
            self._made = True

    def _append(self, connection: Connection, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        from sqlalchemy import select, update

        threads, table, now = self._threads, self._entries, time.time()
        lock = update(threads).where(threads.c.id == thread_id).values(updated_at=now)
        if not connection.execute(lock).rowcount:
            row = {"id": thread_id, "user_id": user_id, "length": 0, "created_at": now, "updated_at": now}
            connection.execute(_insert_or_ignore(threads, connection.dialect.name), row)
            connection.execute(lock)
        if not entries:
            return
        length = connection.execute(select(threads.c.length).where(threads.c.id == thread_id)).scalar_one()
        known = select(table.c.entry).where(
            table.c.thread_id == thread_id, table.c.entry.in_([one.id for one in entries])
        )
        have = set(connection.execute(known).scalars())
        rows = [
            {"thread_id": thread_id, "seq": seq, "entry": one.id, "created_at": one.created_at, "text": one.text}
            for seq, one in enumerate((one for one in entries if one.id not in have), length + 1)
        ]
        if rows:
            connection.execute(table.insert(), rows)
            longer = update(threads).where(threads.c.id == thread_id).values(length=length + len(rows))
            connection.execute(longer)

    def _read(self, connection: Connection, thread_id: str) -> Sequence[str]:
        from sqlalchemy import select

        table = self._entries
        found = select(table.c.text).where(table.c.thread_id == thread_id).order_by(table.c.seq)
        return list(connection.execute(found).scalars())

    def _delete(self, connection: Connection, thread_id: str) -> bool:
        from sqlalchemy import delete

        threads, table = self._threads, self._entries
        gone = connection.execute(delete(threads).where(threads.c.id == thread_id)).rowcount
        connection.execute(delete(table).where(table.c.thread_id == thread_id))
        return bool(gone)

    def _failure(self, error: Exception) -> HistoryError:
        """Say what the database said, without statements, what was in them, or a password."""
        from sqlalchemy import exc

        said = str(getattr(error, "orig", None) or error).strip()
        password = self._engine.url.password
        if password:
            said = said.replace(password, "***")
        passing = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)
        lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
        if isinstance(error, passing) or lost:
            return HistoryUnavailable(f"{self!r} cannot be used now: {said}. Is it there, and may this user write?")
        return HistoryError(f"{self!r} failed: {type(error).__name__}: {said}")


def _met(error: Exception) -> bool:
    orig: Any = getattr(error, "orig", None)
    args: Any = getattr(orig, "args", ())
    return getattr(orig, "sqlstate", None) in _AGAIN or (bool(args) and isinstance(args[0], int) and args[0] in _AGAIN)


def _checked(engine: Any) -> Engine:
    if hasattr(engine, "sync_engine"):
        raise DefinitionError(
            "SqlHistory takes a sync engine: its statements run in threads. Give engine.sync_engine's address."
        )
    if not hasattr(engine, "begin") or not hasattr(engine, "dialect"):
        raise DefinitionError(f"SqlHistory takes an address or a SQLAlchemy engine, not {type(engine).__name__}.")
    return engine


def _engine(database: str | URL) -> Engine:
    try:
        import sqlalchemy as sa
        from sqlalchemy import event
        from sqlalchemy.pool import StaticPool
    except ModuleNotFoundError as error:
        raise MissingExtra("sqlalchemy", "sql") from error
    try:
        url = sa.make_url(database)
        url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        options: dict[str, Any] = {"hide_parameters": True, "pool_pre_ping": True}
        kind = url.get_backend_name()
        if kind == "sqlite":
            options["connect_args"] = {"timeout": 20.0, "check_same_thread": False}
            if url.database in (None, "", ":memory:"):
                options["poolclass"] = StaticPool
        elif kind == "postgresql" and url.get_driver_name() == "psycopg":
            options["connect_args"] = {"connect_timeout": 10}
        elif url.get_driver_name() == "pymysql":
            options["connect_args"] = {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60}
        if "poolclass" not in options:
            options["pool_timeout"] = 20.0
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    except Exception as error:
        raise ConfigurationError(
            "The address of the history database cannot be read. Write it as sqlite:///file.db, "
            "postgresql://user:password@host/database or mariadb://user:password@host/database, with special "
            f"characters of the password URL-encoded ({type(error).__name__})."
        ) from None  # what it says may show the password
    if kind == "sqlite":
        event.listen(engine, "connect", _wal)
    return engine


def _wal(connection: Any, _record: Any) -> None:
    """Let readers of a file not wait for whoever writes."""
    with suppress(sqlite3.OperationalError):  # another process is just saying so too, or the file is read-only
        connection.execute("PRAGMA journal_mode=WAL").close()


def _missing(error: ModuleNotFoundError) -> ConfigurationError:
    package = (error.name or "").partition(".")[0].lower()
    if package in _EXTRAS:
        return MissingExtra(package, _EXTRAS[package])
    return ConfigurationError(f"The driver {package!r} of the history database is not installed; install it with pip.")


def _tables(prefix: str) -> tuple[MetaData, Table, Table]:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql

    def short(length: int) -> Any:  # ids are ASCII, and told apart by case
        own = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
        return sa.String(length).with_variant(own, "mysql", "mariadb")

    content = sa.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    metadata = sa.MetaData()
    threads = sa.Table(
        f"{prefix}_threads",
        metadata,
        sa.Column("id", short(200), primary_key=True),
        sa.Column("user_id", short(200), index=True),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    entries = sa.Table(
        f"{prefix}_entries",
        metadata,
        sa.Column("thread_id", short(200), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entry", short(32), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("text", content, nullable=False),
        sa.UniqueConstraint("thread_id", "entry", name=f"{prefix}_entry"),
    )
    return metadata, threads, entries


def _insert_or_ignore(table: Table, dialect: str) -> Any:
    """An insertion that does nothing where the row is there."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table).on_conflict_do_nothing()
    if dialect in ("mysql", "mariadb"):
        return table.insert().prefix_with("IGNORE")
    raise DefinitionError(f"SqlHistory knows SQLite, PostgreSQL, MySQL and MariaDB, not {dialect!r}.")
