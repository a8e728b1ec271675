"""The driver loop: do what the program wants, append what came of it, fold it, ask again.

Records that need no doing are held back and committed together with their neighbours, at the latest before the next
effect: a text turn is two commits. A stop (cancel, deadline, budget) is a record like any other; what is running is
cut off and gives what it has, nothing finished is lost, and the program closes what is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from perdure.db.database import StoreError
from perdure.durable.endings import Left, Parked, describe
from perdure.durable.program import Do, Finish, Keep, Program, Waiting
from perdure.durable.run_io import RunIO
from perdure.log.log import CancelWins
from perdure.types.base import sound
from perdure.types.errors import Conflict, PerdureError
from perdure.types.events import RunFailed, RunWaiting
from perdure.types.records import (
    CancelAsked,
    Claimed,
    ErrorInfo,
    Payload,
    RunStatus,
    StepFailed,
)

S = TypeVar("S")
T = TypeVar("T")


async def drive(program: Program[S], state: S, io: RunIO) -> Waiting | Finish:
    """Drive a run until it is finished or waits for somebody outside.

    Args:
        program: the kind of run.
        state: its state, with every record folded that the log has.
        io: the run's way out.

    Returns:
        What it waits for, or how it ended; every record is committed.

    Raises:
        asyncio.CancelledError: the calling task was cancelled from outside; the run is closed as cancelled before.
    """
    task = asyncio.current_task()
    io.opened(task)
    io.driven = (program, state)
    driver = _Driver(program, state, io, task)
    try:
        return await driver.loop()
    except BaseException as error:
        await driver.abandon(error)
        raise
    finally:
        io.opened(None)


_NOT_OURS = (asyncio.CancelledError, KeyboardInterrupt, Left, Parked)
"""What ends the task or the process and not just a step."""


class _Driver:
    __slots__ = ("ended", "failing", "folded_stop", "io", "parked", "program", "running", "state", "task")

    def __init__(self, program: Program[Any], state: Any, io: RunIO, task: asyncio.Task[Any] | None) -> None:
        self.task = task
        self.program = program
        self.state = state
        self.io = io
        self.running: dict[str, asyncio.Task[Payload | Keep]] = {}
        self.ended = False
        self.failing = False
        self.parked: Parked | None = None
        self.folded_stop = False

    async def loop(self) -> Waiting | Finish:
        program, state, io, running = self.program, self.state, self.io, self.running
        while True:
            if io.stop is not None and not self.folded_stop:
                await self.cut_off()
            while (self.failing or self.parked) and running:  # what runs beside a failure is finished and kept
                await self.some()
            if self.parked is not None:
                raise self.parked
            action = program.next(state)
            if type(action) is Do:
                await (self.parallel([action]) if running else self.inline(action))
            elif type(action) is Keep:
                self.take(action.key, action.payload)
            elif type(action) is Finish:
                return await self.finish(action)
            elif type(action) is Waiting:
                if not running:
                    return await self.wait(action)
                await self.some()
            else:
                await self.parallel(action)

    async def flush(self, status: RunStatus | None = None) -> None:
        """Commit what is held back; a cancellation from outside that comes meanwhile becomes the run's stop."""
        try:
            await self.io.flush(status)
        except asyncio.CancelledError:
            if not self.io.interrupted():
                raise

    def take(self, key: str | None, payload: Payload) -> None:
        """Hold a record, fold it and show it."""
        io = self.io
        record = io.hold(key, payload)
        notes = self.program.fold(self.state, record)
        if type(payload) is StepFailed:
            self.failing = True
        if io.projector is not None:
            io.emit(io.projector.record(record))
            io.emit(notes)

    def done(self, key: str, payload: Payload | Keep) -> None:
        """Take what a step gave: what closes it, or a record for another place (a wait that it opened)."""
        if type(payload) is Keep:
            self.take(payload.key, payload.payload)
        else:
            # a failure closes nothing: what the step leaves open gets a closing record of its own
            self.take(None if type(payload) is StepFailed else key, payload)

    async def inline(self, do: Do) -> None:
        """Perform the only step there is in this task: no task is made for it."""
        io = self.io
        if io.kernel.durable or io.holds:
            await self.flush()
            if io.stop is not None and not self.folded_stop:
                return
        if io.kernel.lease is not None:
            await io.sure()
        io.in_step = True
        try:
            payload = await self.program.perform(self.state, do, io)
        except asyncio.CancelledError as error:
            if io.interrupted():
                return  # the step has nothing to keep; the stop is folded next
            payload = self.failed(do, error)
        except BaseException as error:
            if self.not_ours(error, self.task):
                raise
            payload = self.failed(do, error)
        finally:
            io.in_step = False
        self.done(do.key, payload)

    async def parallel(self, dos: Sequence[Do]) -> None:
        """Start what is not running yet, then wait until something is done."""
        running = self.running
        fresh = [do for do in dos if do.key not in running]
        if fresh:
            await self.flush()
            await self.io.sure()
            for do in fresh:
                running[do.key] = asyncio.create_task(self.one(do), name=do.key)
        await self.some()

    async def one(self, do: Do) -> Payload | Keep:
        mine = asyncio.current_task()
        try:
            return await self.program.perform(self.state, do, self.io)
        except BaseException as error:
            if self.not_ours(error, mine):
                raise
            return self.failed(do, error)

    def not_ours(self, error: BaseException, mine: asyncio.Task[Any] | None) -> bool:
        """Whether an error ends the task or the process and not just a step; a coroutine that is closed is in no task,
        so a `GeneratorExit` in its own one is what the step's code has raised."""
        if not isinstance(error, GeneratorExit):
            return isinstance(error, _NOT_OURS)
        try:
            return asyncio.current_task() is not mine
        except RuntimeError:  # no event loop is running
            return True

    def failed(self, do: Do, error: BaseException) -> Payload:
        if self.io.cause is None:
            self.io.cause = error
        reached = self.io.reached
        return StepFailed(do.key, describe(error, do.key), do.key in reached, reached.get(do.key))

    async def some(self) -> None:
        """Wait until at least one running step is done; fold those that are, in the order they were started."""
        io = self.io
        await self.flush()
        if io.stop is not None and not self.folded_stop:
            return await self.cut_off()
        io.in_step = True
        nudged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        io.nudged = nudged
        try:
            await asyncio.wait([nudged, *self.running.values()], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            io.interrupted()
        finally:
            io.in_step = False
            io.nudged = None
        self.collect()
        if nudged.done():
            await self.look()

    async def look(self) -> None:
        """Fold what others have posted while steps run; they go on."""
        try:
            await self.io.look()
        except asyncio.CancelledError:
            if not self.io.interrupted():
                raise

    def collect(self) -> None:
        for key in [key for key, task in self.running.items() if task.done()]:
            task = self.running.pop(key)
            if not task.cancelled():
                error = task.exception()
                if isinstance(error, Parked):
                    self.parked = error
                else:
                    self.done(key, task.result())
            elif self.io.stop is None:
                error = ErrorInfo("CancelledError", "the step's own code cancelled it", key)
                self.done(key, StepFailed(key, error))

    async def cut_off(self) -> None:
        """Cut off what is running, take what it gives, and fold the stop."""
        io = self.io
        await io.settle()
        for task in self.running.values():
            task.cancel()
        while self.running:
            try:
                await asyncio.wait(self.running.values())
            except asyncio.CancelledError:
                io.interrupted()  # asked twice: the steps are ending already, so wait for them
            self.collect()
        self.folded_stop = True
        self.take(None, CancelAsked(io.stop or "cancelled", io.stop_detail))

    async def abandon(self, error: BaseException) -> None:
        """Leave nothing behind when the run cannot go on, such as when the log refuses a record."""
        io = self.io
        if isinstance(error, GeneratorExit):
            return  # whoever closes this coroutine waits for nothing
        for task in self.running.values():
            task.cancel()
        if self.running:
            await asyncio.wait(self.running.values())
        for key, task in self.running.items():
            # what a step still says counts only if the run is left; its exception has been seen either way
            if not task.cancelled() and task.exception() is None and io.leaving:
                self.done(key, task.result())
        if isinstance(error, Parked) and not io.below:
            io.hold(None, Claimed(io.token.epoch, parked=sound(str(error))))
        if io.leaving or isinstance(error, Parked):
            with suppress(Conflict, StoreError):  # whoever has it since, or finds this process gone, goes on
                await io.flush("queued" if io.leaving else None if io.below else "parked")
        elif io.projector is not None and not self.ended and not isinstance(error, Conflict):
            token = io.token
            end = RunFailed(error=describe(error), run_id=token.run_id, session_id=token.session_id)
            io.emit([*io.projector.close("error"), end])

    async def wait(self, action: Waiting) -> Waiting | Finish:
        io = self.io
        io.answered = False  # what was folded before is in the state that asks to wait
        await self.flush("waiting")
        if io.answered or (io.stop is not None and not self.folded_stop):  # somebody was faster
            io.answered = False
            await io.flush("running")
            return await self.loop()
        if io.sink is not None:
            at = {"run_id": io.token.run_id, "session_id": io.token.session_id}
            io.emit([RunWaiting(waits=action.waits, seq=io.seq, **at)])
        return action

    async def finish(self, action: Finish) -> Waiting | Finish:
        io = self.io
        if self.running:
            raise PerdureError(
                f"Run {io.token.run_id} wanted to finish while {', '.join(self.running)} still ran; please report this."
            )
        if io.cutting:
            await io.settle()
        record = io.hold(None, action.payload)
        try:
            await (self.flush() if io.kernel.durable else io.flush())  # what never waits is never cancelled
        except CancelWins:  # somebody cancelled while the last answer was on its way
            io.take_back()
            io.stop, self.folded_stop = "cancelled", False
            return await self.loop()
        self.ended = True
        self.program.fold(self.state, record)
        if io.projector is not None:
            io.emit(io.projector.record(record))
        if io.cancelled_outside:
            raise asyncio.CancelledError
        return action
