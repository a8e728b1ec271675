"""A thread that owns a connection: scripts come in through a queue, and what is waiting is committed together.

A group commit is many independent transactions: each script has a savepoint, so that one that fails fails alone, and
its caller is answered only after the group's commit. A connection that failed is closed and
opened again before anything else is done: only a new one tells what was really committed.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from perdure.db.database import Exists, Row, Script, Sql, StoreBusy, StoreError

T = TypeVar("T")
GROUP = 256
"""The most scripts in one commit."""


class Connection(ABC):
    """What the thread needs of a connection; every method is called by that thread alone."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction."""

    @abstractmethod
    def commit(self) -> None:
        """Commit it."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo it, if one is open."""

    @abstractmethod
    def savepoint(self) -> None:
        """Mark where one script begins."""

    @abstractmethod
    def release(self) -> None:
        """Keep what was done since the mark."""

    @abstractmethod
    def undo(self) -> None:
        """Undo what was done since the mark."""

    @abstractmethod
    def execute(self, statement: Sql) -> list[Row]:
        """Run one statement."""

    @abstractmethod
    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        """Say an error of the driver in our words."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Job:
    """A script, who waits for it, and what came of it; the thread's opening and closing have no script."""

    __slots__ = ("error", "future", "loop", "make", "value")

    def __init__(self, make: Callable[[], Script[Any]] | None = None) -> None:
        self.make = make
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None


class Server:
    """Runs scripts on a connection, many in one transaction, and opens another connection after a failure.

    Args:
        connect: makes the connection; told whether it is the first one.
    """

    def __init__(self, connect: Callable[[bool], Connection]) -> None:
        self._connect = connect

    def serve(self, jobs: Sequence[Job], connection: Connection | None) -> Connection | None:
        """Run jobs, and give the connection that is left."""
        try:
            connection = connection or self._connect(False)
        except Exception as error:
            fail(jobs, error)
            return None
        try:
            self._together(connection, jobs)
            return connection
        except _Broken as broken:
            fail(jobs, broken.error)
            if isinstance(broken.error, StoreBusy):
                return connection
            with suppress(Exception):  # it failed already, and that is what the callers are told
                connection.close()
            if not broken.by_script or len(jobs) == 1:
                return None
        connection = None
        for job in jobs:  # one of them broke it for all: each on its own
            job.error = None
            connection = self.serve([job], connection)
        return connection

    def _together(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Run jobs in one transaction, each undone alone if it fails.

        Raises:
            _Broken: the transaction as a whole failed; nothing of it is committed, unless its error says `unknown`.
        """
        alone = len(jobs) == 1
        committing = False
        try:
            connection.begin()
            for job in jobs:
                if not alone:
                    connection.savepoint()
                try:
                    job.value = run_script(connection.execute, job.make)
                except BaseException as caught:
                    job.error = error = connection.error(caught)
                    if isinstance(error, StoreError) and not isinstance(error, Exists):
                        raise _Broken(error, by_script=True) from caught
                    if alone:
                        return connection.rollback()
                    try:
                        connection.undo()
                    except Exception as gone:  # what it did has undone the whole transaction
                        raise _Broken(connection.error(gone), by_script=True) from caught
                else:
                    if not alone:
                        connection.release()
            committing = True
            connection.commit()
        except Exception as caught:
            with suppress(Exception):  # the connection is closed next, which undoes all that is not committed
                connection.rollback()
            if isinstance(caught, _Broken):
                raise
            raise _Broken(connection.error(caught, committing=committing)) from caught


class Worker(Server):
    """The thread and its queue.

    Args:
        name: the thread's name.
        connect: makes the connection, in the thread; told whether it is the first one.
        most: how many scripts are committed together at most.

    Attributes:
        at_work: whether the thread is in the middle of a transaction.
    """

    def __init__(self, name: str, connect: Callable[[bool], Connection], *, most: int = 1) -> None:
        super().__init__(connect)
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._closing: Job | None = None
        self._thread: threading.Thread
        self.at_work = False

    async def start(self) -> None:
        """Start the thread and connect.

        Raises:
            StoreError: the connection failed.
        """
        opened = Job()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=self._name, daemon=True)
        self._thread.start()
        try:
            await opened.future
        except BaseException as error:
            self._closing = opened
            if isinstance(error, Exception):
                self._thread.join()
            else:  # cancelled: nobody waits for the connection, so the thread closes it as soon as it has it
                self._jobs.put(opened)
            raise

    async def submit(self, make: Callable[[], Script[T]]) -> T:
        """Run a script in the thread; a caller that is cancelled does not undo what it has handed in."""
        job = Job(make)
        self.put(job)
        return await job.future

    def put(self, job: Job) -> None:
        """Take a job, which is answered when it is done."""
        with self._lock:  # nothing may come in behind the closing job: nobody would answer it
            if self._closing is not None:
                raise StoreError("The database is closed; open it again.")
            self._jobs.put(job)

    @property
    def busy(self) -> bool:
        """Whether the thread has something to do, as far as one can tell without waiting for it."""
        return self.at_work or not self._jobs.empty()

    async def stop(self) -> None:
        """Finish the queue, close the connection, and wait for the thread to end."""
        closing = Job()
        with self._lock:
            if self._closing is not None:
                return
            self._closing = closing
            self._jobs.put(closing)
        await closing.future
        self._thread.join()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self, opened: Job) -> None:
        connection: Connection | None = None
        try:
            connection = self._connect(True)
        except BaseException as error:
            opened.error = error
        answer_jobs([opened])
        if connection is None:
            return
        while jobs := self._take():
            self.at_work = True
            connection = self.serve(jobs, connection)
            self.at_work = False
            answer_jobs(jobs)
        closed = self._closing or opened
        try:
            if connection is not None:
                connection.close()
        except Exception as error:
            closed.error = error
        answer_jobs([closed])

    def _take(self) -> list[Job]:
        """Wait for jobs; none means that it is time to close."""
        jobs = [self._jobs.get()]
        waiting = min(self._jobs.qsize(), self._most - 1)
        if waiting > 0:
            jobs += [self._jobs.get_nowait() for _ in range(waiting)]
        if jobs[-1] is self._closing:
            closing = jobs.pop()
            if jobs:
                self._jobs.put(closing)
        return jobs


class _Broken(Exception):
    """A transaction failed as a whole, perhaps because of one script among several."""

    def __init__(self, error: BaseException, *, by_script: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.by_script = by_script


def run_script(execute: Callable[[Sql], list[Row]], make: Callable[[], Script[T]] | None) -> T:
    """Run a script to its end, statement by statement; an error of a statement is raised inside the script."""
    assert make is not None
    script = make()
    try:
        statement = next(script)
        while True:
            try:
                rows = execute(statement)
            except Exception as error:
                statement = script.throw(error)
            else:
                statement = script.send(rows)
    except StopIteration as end:
        return end.value
    finally:
        script.close()


def fail(jobs: Sequence[Job], error: BaseException) -> None:
    """Let jobs end with an error."""
    for job in jobs:
        job.error = error


def answer_jobs(jobs: Sequence[Job]) -> None:
    """Answer callers, once per event loop."""
    loop = jobs[0].loop
    elsewhere: Sequence[Job] = ()
    if len(jobs) > 1:
        elsewhere = [job for job in jobs if job.loop is not loop]
        if elsewhere:
            jobs = [job for job in jobs if job.loop is loop]
    try:
        loop.call_soon_threadsafe(settle, jobs)
    except RuntimeError:
        if not loop.is_closed():  # else nobody waits
            raise
    if elsewhere:
        answer_jobs(elsewhere)


def settle(jobs: Sequence[Job]) -> None:
    """Answer callers of the event loop that this is called in."""
    for job in jobs:
        if job.future.done():
            continue  # its caller was cancelled
        if job.error is None:
            job.future.set_result(job.value)
        else:
            job.future.set_exception(job.error)
