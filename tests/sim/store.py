"""The store under the simulator: the real log on a real SQLite file, its writer inline, and faults where chance says.

What is replaced is the thread and its queue. Scripts, groups, savepoints, answers after the commit, and closing a
connection that has failed are the real code.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.db.database import Row, Script, Sql, StoreError
from perdure.db.sqlite import SqliteDatabase
from perdure.db.writer import GROUP, Connection, Worker, _answer, _Job

if TYPE_CHECKING:
    from tests.sim.world import Process


CLAIM = "UPDATE runs SET status = 'running', owner = ?"
"""How a claim begins to write."""


EPOCH = 1_700_000_000.0
"""When the world begins."""


class Killed(BaseException):
    """The process was killed inside the store."""


class InlineWorker(Worker):
    """The worker without its thread: its queue is served by the process's own event loop, after some time."""

    def __init__(self, process: "Process", connect: Callable[[bool], Connection], most: int) -> None:
        super().__init__("inline", connect, most=most)
        self._process = process
        self._queue: list[_Job] = []
        self._at_work = False
        self._idle: asyncio.Event | None = None
        self._connection: Connection | None = None

    async def start(self) -> None:
        await asyncio.sleep(self._process.latency())
        self._connection = self._connect(True)

    async def submit(self, make: Callable[[], Script[Any]]) -> Any:
        if self._closing is not None:
            raise StoreError("The database is closed; open it again.")
        job = _Job(make)
        self._queue.append(job)
        self._wake()
        return await job.future

    async def stop(self) -> None:
        if self._closing is not None:
            return
        if self._queue or self._at_work:
            self._idle = asyncio.Event()
            await self._idle.wait()
        self._closing = _Job()
        if self._connection is not None:
            self._connection.close()

    def _wake(self) -> None:
        if not self._at_work and self._queue:
            self._at_work = True
            asyncio.get_running_loop().call_later(self._process.latency(), self._turn)

    def _turn(self) -> None:
        jobs = self._queue[: self._most]
        del self._queue[: self._most]
        self._connection = self._serve(jobs, self._connection)
        asyncio.get_running_loop().call_later(self._process.latency(), self._answer, jobs)

    def _answer(self, jobs: list[_Job]) -> None:
        _answer(jobs)
        self._at_work = False
        if self._idle is not None and not self._queue:
            self._idle.set()
        self._wake()


class Faulty(Connection):
    """A connection to the file, with faults."""

    def __init__(self, process: "Process", inner: Connection, *, writes: bool) -> None:
        self._process = process
        self._inner = inner
        self._writes = writes
        process.connections.append(inner)

    def _meet(self, where: str) -> str | None:
        if not self._process.loop.alive:
            raise Killed
        return self._process.fault(where, writes=self._writes)

    def begin(self) -> None:
        fault = self._meet("begin")
        if fault is not None:
            raise error_of("SQLITE_BUSY" if fault == "busy" and self._writes else "SQLITE_IOERR_READ")
        self._inner.begin()

    def execute(self, statement: Sql) -> list[Row]:
        fault = self._meet("execute")
        if fault is not None:
            raise error_of("SQLITE_FULL" if fault == "full" and self._writes else "SQLITE_IOERR_READ")
        if statement.text.startswith(CLAIM):
            self._process.world.claims(self._process, str(statement.params[-1]))
        return self._inner.execute(statement)

    def commit(self) -> None:
        fault = self._meet("commit")
        if fault == "full":
            self._inner.rollback()
            raise error_of("SQLITE_FULL")
        if fault == "lost":
            self._inner.rollback()
            raise error_of("SQLITE_IOERR_FSYNC")
        self._inner.commit()
        self._process.world.committed(self._process, writes=self._writes)
        self._meet("committed")
        if fault is not None:
            raise error_of("SQLITE_IOERR_FSYNC")

    def rollback(self) -> None:
        self._meet("rollback")
        self._inner.rollback()

    def savepoint(self) -> None:
        self._inner.savepoint()

    def release(self) -> None:
        self._inner.release()

    def undo(self) -> None:
        self._meet("undo")
        self._inner.undo()

    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        return self._inner.error(error, committing=committing)

    def close(self) -> None:
        self._inner.close()


def error_of(name: str) -> sqlite3.OperationalError:
    """Make an error of SQLite's."""
    error = sqlite3.OperationalError(f"simulated {name}")
    error.sqlite_errorname = name
    return error


class SimDatabase(SqliteDatabase):
    """The file as one process has it open."""

    def __init__(self, process: "Process", path: str) -> None:
        super().__init__(path, "normal", patience=0.01)
        self._process = process

    @property
    def clock(self) -> str:  # type: ignore[override]
        """The store's time; only the world's counts."""
        return repr(EPOCH + self._process.world.turns.now)

    async def open(self) -> None:
        self._writer = InlineWorker(self._process, self._connect_writer, GROUP)
        self._reader = InlineWorker(self._process, self._connect_reader, 1)
        await self._writer.start()
        await self._reader.start()

    def _connect_writer(self, first: bool) -> Connection:
        return Faulty(self._process, super()._connect_writer(first), writes=True)

    def _connect_reader(self, first: bool) -> Connection:
        return Faulty(self._process, super()._connect_reader(first), writes=False)

    async def changed(self, seconds: float) -> bool:
        """Hear of what others write, late or never: it is a hint."""
        return await self._process.hear(seconds)
