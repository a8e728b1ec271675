"""PostgreSQL through psycopg 3: a pool of connections, `LISTEN/NOTIFY` as a hint.

Every script is a transaction of its own, in READ COMMITTED: each statement sees what was committed before it began. One
that loses against another, or whose connection turns out to be dead, is repeated; only an outcome that is not known is
left to the caller. Statements whose rows nobody waits for travel together with the next one: an append is two round
trips.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from perdure.db.database import (
    Call,
    Exists,
    Guard,
    Row,
    Script,
    Sql,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
)
from perdure.db.transaction import call_in_postgres
from perdure.types.errors import DefinitionError, MissingExtra, PerdureError

if TYPE_CHECKING:
    import psycopg
    import psycopg_pool

T = TypeVar("T")
CHANNEL = "perdure"
GAP = 0.01
"""Seconds between two times that `changed` says yes, at least: a look costs some transactions."""
REPEATS = 8
"""How often a transaction is repeated that lost against another one, or met a dead connection."""


class PostgresDatabase:
    """One PostgreSQL database.

    Args:
        url: `postgresql://user@host/name`.
        connections: the most connections at once.
        patience: seconds to wait for the server, for a free connection, or for rows that others have locked.
    """

    dialect: Literal["sqlite", "postgres"] = "postgres"
    clock = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"

    def __init__(self, url: str, connections: int = 10, patience: float = 30.0) -> None:
        self._address = url
        self.url = _shown(url)
        self._connections = connections
        self._patience = patience
        self._guard: list[Guard] = []
        self._protected: list[str] = []
        self._told = 0.0
        self._pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._at_work: set[asyncio.Task[Any]] = set()
        self._listener: psycopg.AsyncConnection[Any] | None = None

    async def open(self) -> None:
        """Open the pool and make sure that the server answers.

        Raises:
            StoreUnreachable: it does not.
            MissingExtra: psycopg is not installed.
            DefinitionError: the address is not one.
        """
        try:
            import psycopg
            import psycopg_pool
        except ImportError as error:
            raise MissingExtra("psycopg", "postgres") from error
        kwargs = self._options()
        try:  # the pool would try again and again; a wrong address is said at once
            first = await psycopg.AsyncConnection.connect(self._address, **kwargs)
            await first.close()
        except psycopg.Error as error:
            raise StoreUnreachable(
                f"{self.url} does not answer ({_first_line(error)}). Check that the server runs and the address is "
                "right.",
                retryable=True,
            ) from error
        pool = psycopg_pool.AsyncConnectionPool[Any](
            self._address,
            min_size=1,
            max_size=self._connections,
            open=False,
            timeout=self._patience,
            reconnect_timeout=2.0,  # then it begins anew: its pauses double, and a server that is back is seen late
            kwargs=kwargs,
            configure=self._configure,
        )
        await pool.open()
        self._pool = pool

    def _options(self) -> dict[str, Any]:
        """How to connect: a server that has gone is noticed, unless the address says otherwise."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(self._address)
        except psycopg.Error:
            raise DefinitionError(  # the driver's own message would show the password
                f"{self.url} is no address of a PostgreSQL database; write postgresql://user@host/name."
            ) from None
        ours = {
            "connect_timeout": max(2, int(self._patience)),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": int(self._patience * 1000),
        }
        return {"autocommit": True, **{name: value for name, value in ours.items() if name not in given}}

    async def _configure(self, connection: Any) -> None:
        """Let nobody wait for ever: neither us for locks, nor others for ours if this process stops in the middle."""
        limit = int(self._patience * 1000)
        await connection.execute(f"SET lock_timeout = {limit}; SET idle_in_transaction_session_timeout = {limit}")
        # at once or never: in a pipeline the driver checks only a first use, and after a failed statement it would
        # otherwise go on with names that the server has never heard of
        connection.prepare_threshold = 0

    def guard(self, guard: Guard) -> None:
        """Ask something at the beginning of every writing transaction from now on."""
        self._guard.append(guard)

    def protect(self, tables: Sequence[str]) -> None:
        """Let no code of a user's write to these tables."""
        self._protected += tables

    async def write(self, make: Callable[[], Script[T]], *, notify: bool = False, brief: bool = False) -> T:
        """Run a script in a transaction; one that certainly was not committed is repeated."""
        for attempt in range(REPEATS):
            try:
                return await self._run(make, notify=notify)
            except (_Lost, StoreUnreachable) as error:
                if error.unknown or attempt == REPEATS - 1 or isinstance(error, _NoConnection):
                    raise
                await asyncio.sleep(0.002 * 2**attempt)
        raise AssertionError("unreachable")

    async def write_apart(self, make: Callable[[], Script[T]]) -> T:
        """Run a script in a transaction, on a connection of its own."""
        import psycopg

        committing = False
        try:
            async with await psycopg.AsyncConnection.connect(self._address, **self._options()) as connection:
                await self._configure(connection)
                transaction = _Transaction(connection, "BEGIN", self._guard, self._protected)
                value = await transaction.run(make())
                committing = True
                await transaction.commit([])
                return value
        except psycopg.Error as error:
            raise map_error(error, self.url, unknown=committing) from error

    async def read(self, make: Callable[[], Script[T]]) -> T:
        """Run a script that only reads, in one snapshot."""
        for attempt in range(REPEATS):
            try:
                return await self._run(make, begin="BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            except StoreUnreachable as error:
                if attempt == REPEATS - 1 or isinstance(error, _NoConnection):
                    raise
        raise AssertionError("unreachable")

    async def _run(self, make: Callable[[], Script[T]], *, begin: str = "BEGIN", notify: bool = False) -> T:
        """Run a transaction to its end, also if its caller gives up: none is cut off in the middle."""
        task = asyncio.create_task(self._transact(make, begin, notify=notify))
        self._at_work.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait([task])
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though nobody may wait for it any more

    async def _transact(self, make: Callable[[], Script[T]], begin: str, *, notify: bool) -> T:
        import psycopg
        import psycopg_pool

        pool = self._pool
        if pool is None:
            raise StoreError(f"{self.url} is closed; open it again.")
        try:
            connection = await pool.getconn()
        except psycopg_pool.PoolTimeout as error:
            raise _NoConnection(
                f"{self.url}: no connection within {self._patience:g} s: the server is away, or all {self._connections}"
                " connections are in use. The work goes on when there is one.",
                retryable=True,
            ) from error
        transaction = _Transaction(connection, begin, self._guard if begin == "BEGIN" else (), self._protected)
        try:
            try:
                value = await transaction.run(make())
                await transaction.commit([Sql(f"NOTIFY {CHANNEL}")] if notify else [])
                return value
            except BaseException:
                with suppress(psycopg.Error):  # a dead connection has undone it, and the pool drops it
                    await connection.execute("ROLLBACK")
                raise
        except psycopg.Error as error:
            raise map_error(error, self.url, unknown=transaction.committing) from error
        finally:
            await pool.putconn(connection)

    async def changed(self, seconds: float) -> bool:
        """Wait for a notification; a hint only, so a caller looks again anyway when the time is up."""
        import psycopg

        try:
            if self._listener is None or self._listener.closed:
                self._listener = await self._listening()
                return True  # whatever happened before we listened
            early = self._told + GAP - time.monotonic()
            if early > 0:  # what comes in quick succession is looked at together
                await asyncio.sleep(early)
            async for _ in self._listener.notifies(timeout=seconds, stop_after=1):
                self._told = time.monotonic()
                return True
            return False
        except psycopg.Error as error:
            raise map_error(error, self.url) from error

    async def _listening(self) -> Any:
        import psycopg

        connection = await psycopg.AsyncConnection.connect(self._address, **self._options())
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Finish what was asked for and close all connections."""
        pool, self._pool = self._pool, None
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        if self._at_work:
            await asyncio.wait(self._at_work)
        if pool is not None:
            await pool.close(self._patience)  # a connection that is just being made is waited for, and not left


class _Lost(StoreBusy):
    """A transaction lost against another one: the same again may win."""


class _NoConnection(StoreUnreachable):
    """There was no connection to be had, after waiting for one."""


class _Transaction:
    """One script on one connection."""

    def __init__(self, connection: Any, begin: str, guards: Sequence[Guard], protected: Sequence[str]) -> None:
        self.committing = False
        self._connection = connection
        self._guards = guards
        self._protected = protected
        self._unsent = [Sql(begin), *(guard.statement for guard in guards)]

    async def run(self, script: Script[T]) -> T:
        """Run a script's statements; an error of a statement is raised inside the script."""
        try:
            statement = next(script)
            while True:
                try:
                    rows: list[Row] = []
                    if type(statement) is Call:
                        rows = [(await self._call(statement),)]
                    else:
                        self._unsent.append(statement)
                        if not statement.blind:
                            rows = await self._send()
                except Exception as error:
                    statement = script.throw(error)
                else:
                    statement = script.send(rows)
        except StopIteration as end:
            return end.value
        finally:
            script.close()

    async def _call(self, call: Call) -> Any:
        """Send what waits, then let a user's code have the connection."""
        if self._unsent:
            await self._pipeline()
        return await call_in_postgres(self._connection, call, self._protected, _placeholders)

    async def commit(self, last: Sequence[Sql]) -> None:
        """Commit, together with what was not sent yet."""
        if self._guards:  # nothing was sent: see what the guards say first
            await self._send()
        self.committing = True
        self._unsent += [*last, Sql("COMMIT")]
        cursor = await self._pipeline()
        if cursor.statusmessage != "COMMIT":  # after a failed statement the server undoes all, and only says so here
            raise StoreError("A script went on after one of its statements had failed; nothing was committed.")

    async def _send(self) -> list[Row]:
        """Send what waits, and give the rows of the last statement."""
        cursor = await self._pipeline()
        return cast("list[Row]", await cursor.fetchall()) if cursor.description else []

    async def _pipeline(self) -> Any:
        """Send what waits in one go, let the guards look at what they asked for, and give the last cursor."""
        unsent, self._unsent = self._unsent, []
        guards, self._guards = self._guards, ()
        if len(unsent) == 1:
            return await self._execute(unsent[0])
        cursors: list[Any] = []
        failed = await self._together(unsent, cursors)
        if failed is not None:
            raise failed
        for n, guard in enumerate(guards, 1):  # behind the statement that begins
            guard.check(await cursors[n].fetchall())
        return cursors[-1]

    async def _together(self, statements: Sequence[Sql], cursors: list[Any]) -> Exception | None:
        """Send statements in one go, and give the first error: those behind it only say that there was one."""
        import psycopg

        failed: Exception | None = None
        try:
            async with self._connection.pipeline():
                try:
                    cursors += [await self._execute(one) for one in statements]
                except psycopg.Error as error:  # seen before all was sent: the pipeline must end in order all the same
                    failed = error
        except psycopg.Error as error:
            failed = failed or error
        return failed

    async def _execute(self, statement: Sql) -> Any:
        return await self._connection.execute(_placeholders(statement.text), statement.params)


@lru_cache(maxsize=512)
def _placeholders(text: str) -> str:
    return text.replace("%", "%%").replace("?", "%s")


def _shown(url: str) -> str:
    """An address without its password."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    query = urlencode([one for one in parse_qsl(parts.query) if one[0] in ("host", "port")], safe="/")
    return f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}{parts.path}{'?' * bool(query)}{query}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_AWAY = ("08", "25P03", "25P04", "53", "55000", "57", "58")
"""What the server says when it, and not what was asked of it, is the reason: no connection, no room, going down."""


def map_error(error: Exception, url: str, *, unknown: bool = False) -> PerdureError:
    """Say in our words what PostgreSQL says in its own."""
    import psycopg

    state = getattr(error, "sqlstate", None) or ""
    text = _first_line(error)
    if state in ("40001", "40P01"):
        return _Lost(f"{url}: the transaction lost against another one ({text}).", retryable=True)
    if state == "55P03":
        return StoreBusy(f"{url}: somebody else holds the same rows for too long ({text}).", retryable=True)
    if state == "23505":
        return Exists(f"{url}: {text}")
    if state == "53100":
        return StoreFull(f"{url}: the server's disk is full ({text}). Free some; the work goes on.", retryable=True)
    if state == "25006":
        return StoreReadOnly(f"{url} only reads ({text}); connect to the primary server.", retryable=True)
    lost = not state or state.startswith(_AWAY)  # an OperationalError may also say that the statement is too large
    if lost and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)):
        return StoreUnreachable(
            f"The connection to {url} failed ({text}). The work goes on when the server is back.",
            retryable=True,
            unknown=unknown,
        )
    return StoreError(f"{url}: {text}" + (f" ({state})" if state else ""))
