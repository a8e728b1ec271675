"""A SQLite file whose writer and reader have no threads: a simulated process's own event loop serves their queues.

Scripts, groups, savepoints, answers after the commit, and closing a connection that has failed are the real code; only
the thread and its queue are replaced, so that a process can be ended anywhere, also within a commit.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from perdure.db.database import Script, StoreError
from perdure.db.sqlite import SqliteDatabase
from perdure.db.writer import GROUP, Connection, Worker, answer_jobs
from perdure.db.writer import Job as Job

T = TypeVar("T")


class Killed(BaseException):
    """The process was killed inside the store."""


class Process(Protocol):
    """The simulated process that has a file open."""

    def latency(self) -> float:
        """How long something takes, in seconds."""
        ...

    def opened(self, connection: Connection, *, writes: bool) -> Connection:
        """Take note of a connection, and perhaps watch what is done with it."""
        ...

    async def hear(self, seconds: float) -> bool:
        """Wait until another process has written."""
        ...


class InlineWorker(Worker):
    """The worker without its thread."""

    def __init__(self, process: Process, connect: Callable[[bool], Connection], most: int) -> None:
        super().__init__("inline", connect, most=most)
        self._process = process
        self._queue: list[Job] = []
        self._at_work = False
        self._idle: asyncio.Event | None = None
        self._connection: Connection | None = None

    async def start(self) -> None:
        """Connect."""
        await asyncio.sleep(self._process.latency())
        self._connection = self._connect(True)

    async def submit(self, make: Callable[[], Script[T]]) -> T:
        """Run a script when its turn comes."""
        if self._closing is not None:
            raise StoreError("The database is closed; open it again.")
        job = Job(make)
        self._queue.append(job)
        self._wake()
        return await job.future

    async def stop(self) -> None:
        """Finish the queue and close the connection."""
        if self._closing is not None:
            return
        if self._queue or self._at_work:
            self._idle = asyncio.Event()
            await self._idle.wait()
        self._closing = Job()
        if self._connection is not None:
            self._connection.close()

    def _wake(self) -> None:
        if not self._at_work and self._queue:
            self._at_work = True
            asyncio.get_running_loop().call_later(self._process.latency(), self._turn)

    def _turn(self) -> None:
        jobs = self._queue[: self._most]
        del self._queue[: self._most]
        self._connection = self.serve(jobs, self._connection)
        asyncio.get_running_loop().call_later(self._process.latency(), self._told, jobs)

    def _told(self, jobs: list[Job]) -> None:
        answer_jobs(jobs)
        self._at_work = False
        if self._idle is not None and not self._queue:
            self._idle.set()
        self._wake()


class InlineDatabase(SqliteDatabase):
    """A file as one simulated process has it open."""

    def __init__(self, process: Process, path: str, clock: Callable[[], float] | None = None) -> None:
        super().__init__(path, "normal", patience=0.01)
        self._process = process
        self._time = clock

    @property
    def clock(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The store's time, as SQL."""
        return SqliteDatabase.clock if self._time is None else repr(self._time())

    async def open(self) -> None:
        """Open the file for writing and reading."""
        self._writer = InlineWorker(self._process, self._connect_writer, GROUP)
        self._reader = InlineWorker(self._process, self._connect_reader, 1)
        await self._writer.start()
        await self._reader.start()

    def _connect_writer(self, first: bool) -> Connection:
        return self._process.opened(super()._connect_writer(first), writes=True)

    def _connect_reader(self, first: bool) -> Connection:
        return self._process.opened(super()._connect_reader(first), writes=False)

    async def changed(self, seconds: float) -> bool:
        """Hear of what others write."""
        return await self._process.hear(seconds)


def cut(connection: Connection) -> None:
    """Close a connection as the death of its process does: nothing that was not committed is kept."""
    raw: sqlite3.Connection = vars(connection)["_db"]
    with suppress(sqlite3.ProgrammingError):  # closed before
        raw.set_authorizer(None)  # it may be in the middle of a user's code
        raw.rollback()  # closing alone leaves the file locked as long as a statement is there
        raw.close()
