"""Short transactions on the event loop's own thread, for stores whose commits do not wait for the disk.

Waking another thread and being woken by it takes longer than such a commit. What is asked for in one turn of the event
loop is committed together. Whenever the file is not free at once, because the writer's thread or another process has
it, that thread does the work instead and waits: the event loop never does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from perdure.db.database import Script, StoreBusy, StoreError
from perdure.db.writer import Connection, Job, Server, Worker, fail, settle

T = TypeVar("T")
MOST = 64
"""The most scripts in one turn of the event loop, which others wait for."""
COMMITS = 500
"""Commits after which the worker looks whether the write-ahead log has grown long."""
_log = logging.getLogger("perdure")


class Here(Server):
    """The connection of one event loop.

    Args:
        connect: makes the connection, which must not wait for a lock.
        worker: the writer's thread.
        checkpoint: has the worker copy the write-ahead log into the file; those who write meanwhile wait for it.
    """

    def __init__(
        self, connect: Callable[[bool], Connection], worker: Worker, checkpoint: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(connect)
        self._worker = worker
        self._checkpoint = checkpoint
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._jobs: list[Job] = []
        self._commits = 0
        self._copying: asyncio.Task[None] | None = None

    async def submit(self, make: Callable[[], Script[T]]) -> T:
        """Run a script soon; a caller that is cancelled does not undo what it has handed in."""
        if self._worker.busy or asyncio.get_running_loop() is not self._loop:
            return await self._worker.submit(make)
        job = Job(make)
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._loop.call_soon(self._turn)
        return await job.future

    def _turn(self) -> None:
        jobs, self._jobs = self._jobs[:MOST], self._jobs[MOST:]
        if self._jobs:
            self._loop.call_soon(self._turn)
        if self._worker.busy:
            return self._hand_over(jobs)
        connection, self._connection = self._connection, None
        broken: BaseException | None = None
        try:
            self._connection = self.serve(jobs, connection)
        except BaseException as error:  # such as Ctrl-C, in the middle of a commit
            broken = error
            if connection is not None:
                with suppress(Exception):
                    connection.close()
            fail(jobs, _broken_off(unknown=True))
        for job in jobs:
            if job.error is not None and not isinstance(job.error, Exception):  # or in the middle of a script
                broken, job.error = job.error, _broken_off(unknown=False)
        taken = [job for job in jobs if isinstance(job.error, StoreBusy)]
        if taken:
            self._hand_over(taken)
        settle([job for job in jobs if job not in taken] if taken else jobs)
        if broken is not None:
            raise broken
        self._commits += 1
        if self._commits >= COMMITS and self._copying is None:
            self._commits = 0
            self._copying = asyncio.create_task(self._copy(), name="perdure-checkpoint")

    def _hand_over(self, jobs: list[Job]) -> None:
        """Let the thread do it: nothing of it has happened."""
        for job in jobs:
            job.error = None
            try:
                self._worker.put(job)
            except StoreError as error:
                fail([job], error)
                settle([job])

    async def _copy(self) -> None:
        try:
            await self._checkpoint()
        except StoreError as error:  # the next one copies more
            _log.warning("%s", error)
        finally:
            self._copying = None

    async def stop(self) -> None:
        """Finish what was asked for, and close the connection."""
        while self._jobs:
            self._turn()
        if self._copying is not None:
            await asyncio.wait([self._copying])
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _broken_off(*, unknown: bool) -> StoreError:
    return StoreError("A commit was broken off; it can be repeated.", retryable=True, unknown=unknown)
