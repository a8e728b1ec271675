"""The driver loop: do what the program wants, append what came of it, fold it, ask again.

Records that need no doing are held back and committed together with their neighbours, at the latest before the next
effect: a text turn is two commits. A stop (cancel, deadline, budget) is a record like any other; what is running is
cut off and gives what it has, nothing finished is lost, and the program closes what is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from perdure.db.database import StoreError
from perdure.durable.endings import Left, Parked, describe
from perdure.durable.kernel import Kernel
from perdure.durable.live import Feed
from perdure.durable.patience import patiently
from perdure.durable.program import Do, Finish, Keep, Program, Waiting
from perdure.durable.tried import Tried
from perdure.log.log import CancelWins, Entry, Token
from perdure.types.base import sound
from perdure.types.errors import Conflict, PerdureError
from perdure.types.events import AnyEvent, RunFailed, RunWaiting, Sink
from perdure.types.project import Projector
from perdure.types.records import (
    Answered,
    AttemptFailed,
    CancelAsked,
    Claimed,
    ErrorInfo,
    Payload,
    Record,
    RunStatus,
    StepFailed,
)

S = TypeVar("S")
T = TypeVar("T")
Stop = Literal["cancelled", "interrupted", "deadline", "budget"]


class RunIO:
    """One run's way out: to the log, to whoever listens, and to whoever wants to stop it.

    Args:
        kernel: the log and clock.
        token: proof of owning the run.
        sink: where events go; None if nobody listens.
        head: the sequence number of the session's last record.

    Attributes:
        alone: whether nobody else has written to the session since.
        answered: whether somebody has answered since the run last looked whether it must wait.
        in_step: whether the driver is where a stop may cut it off: inside a step, never inside an append.
        tried: what was begun or has failed before.
    """

    __slots__ = (
        "_cancelling",
        "_cut_off",
        "_gaps",
        "_pending",
        "_task",
        "_timer",
        "_writing",
        "alone",
        "answered",
        "cancelled_outside",
        "cause",
        "committed",
        "driven",
        "feed",
        "in_step",
        "kernel",
        "leaving",
        "projector",
        "seq",
        "sink",
        "stop",
        "stop_detail",
        "token",
        "tried",
    )

    def __init__(self, kernel: Kernel, token: Token, sink: Sink | None = None, head: int = 0) -> None:
        self.kernel = kernel
        self._gaps = kernel.lease.gaps if kernel.lease is not None else 0
        self.token = token
        self.feed = Feed(kernel.live, token, head) if kernel.live is not None else None
        self.sink = sink if self.feed is None else self.feed.beside(sink)
        self.projector = Projector(token.run_id, token.session_id) if self.sink is not None else None
        self.seq = head
        self.committed = head
        self.alone = True
        self._writing: asyncio.Lock | None = None
        self.stop: Stop | None = None
        self.stop_detail = ""
        self.cause: BaseException | None = None
        self.answered = False
        self.driven: tuple[Program[Any], Any] | None = None
        self.leaving = False
        self.cancelled_outside = False
        self._cancelling = 0
        self._cut_off = False
        self.in_step = False
        self.tried = Tried()
        self._pending: list[Entry] = []
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- events ------------------------------------------------------------------------------------------------------

    def emit(self, events: Sequence[AnyEvent]) -> None:
        """Tell whoever listens."""
        if self.sink is not None:
            for event in events:
                self.sink(event)

    # -- stopping ----------------------------------------------------------------------------------------------------

    def ask_stop(self, reason: Stop, detail: str = "") -> None:
        """Stop the run: what is running is cut off, and the run closes. The first reason counts."""
        if self.stop is not None:
            return
        self.stop = reason
        self.stop_detail = detail
        if self.in_step and self._task is not None:
            self._cut_off = True
            self._task.cancel()

    def leave(self) -> None:
        """Stop driving without ending the run: nothing more is written, and whoever owns it next goes on."""
        self.leaving = True
        if self._task is not None:
            self._task.cancel()

    def stop_at(self, when: float, reason: Stop, detail: str) -> None:
        """Stop the run at a moment of the event loop's clock."""
        self._timer = asyncio.get_running_loop().call_at(when, self.ask_stop, reason, detail)

    def interrupted(self) -> bool:
        """Say, on a CancelledError inside a step, whether the run is being stopped.

        If so the step returns what it has. If not, the step's own code raised it, and it counts as any exception.
        """
        if self.leaving:
            raise Left
        task = asyncio.current_task()
        if task is None or task is not self._task:
            return task is not None and task.cancelling() > 0
        if self._cut_off:
            self._cut_off = False
            task.uncancel()
            self.cancelled_outside = task.cancelling() > self._cancelling
            return True
        if task.cancelling() > self._cancelling:
            self.cancelled_outside = True
            self.stop = self.stop or "cancelled"
            return True
        return False

    async def settle(self) -> None:
        """Receive a cancellation of ours that no step has met, so that it cannot hit the closing of the run."""
        if self._cut_off:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.interrupted()

    def opened(self, task: asyncio.Task[Any] | None) -> None:
        """Say which task drives the run now, if any."""
        self._task = task
        self._cancelling = task.cancelling() if task is not None else 0
        if task is None and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.feed is not None:
            self.feed.end() if task is None else self.feed.begin()

    # -- the log -----------------------------------------------------------------------------------------------------

    async def flush(self, status: RunStatus | None = None) -> None:
        """Commit everything that is held back, and learn what others have posted in between.

        A finished step is never thrown away and never repeated: while the store cannot take its record, the driver
        holds it and tries again. A caller that is cancelled meanwhile hears of it when the records are committed.

        Raises:
            Conflict: another owner has the run since.
            StoreError: the store cannot take it, and waiting will not help.
        """
        if not self.kernel.durable:
            if self._pending or status is not None:
                await self._write(status)
            return
        lock = self._writing
        if not self._pending and status is None and (lock is None or not lock.locked()):
            return
        await self._whole(lambda: self._write(status))

    async def transact(self, key: str, work: Callable[[], Awaitable[tuple[int, Payload]]]) -> Record:
        """Commit what is held back, then a step together with its record; `work` may be repeated."""

        async def write() -> Record:
            await self._write(None)
            before = self.committed
            last, payload = await patiently(self.kernel.clock, work, self._leaves)
            self.seq += 1
            await self._learn(before, last, 1)
            record = Record(self.seq, self.token.run_id, self.token.session_id, key, payload, self.kernel.clock.now())
            self._fold(record)
            return record

        record = await self._whole(write)
        if self.projector is not None:
            self.emit(self.projector.record(record))
        return record

    async def _whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Let something be written to its end, with what siblings hold back; who is cancelled hears of it then."""
        writing = asyncio.create_task(self._in_order(work))
        cancelled = False
        while not writing.done():
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError:
                cancelled = True
        result = writing.result()
        if cancelled:
            raise asyncio.CancelledError
        return result

    async def _in_order(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._writing is None:
            self._writing = asyncio.Lock()
        async with self._writing:
            return await work()

    async def _write(self, status: RunStatus | None) -> None:
        entries, self._pending = self._pending, []
        if not entries and status is None:
            return  # somebody else's commit has taken them along
        before = self.committed
        kernel = self.kernel
        try:
            try:
                last = await kernel.log.append(self.token, entries, status)
            except StoreError as error:
                last = await self._insist(entries, status, error)
        except CancelWins:
            self._pending = [*entries, *self._pending]
            raise
        if self.feed is not None or last != before + len(entries):
            return await self._learn(before, last, len(entries), [one.payload for one in entries])
        self.committed = last

    async def _learn(self, before: int, last: int, count: int, ours: Sequence[Payload] = ()) -> None:
        """Take note of what the log has written, and of what others have posted in between."""
        self.committed = max(last, before)
        if self.feed is not None:
            self.feed.wrote(self.committed)
        if last == before + count:
            return
        self.alone = False
        self.seq += last - before - count
        kernel, run_id = self.kernel, self.token.run_id
        for record in await patiently(kernel.clock, lambda: kernel.log.read_run(run_id, before), self._leaves):
            payload = record.payload
            if isinstance(payload, CancelAsked) and self.stop is None:
                self.stop = payload.reason
                self.stop_detail = payload.detail
            elif isinstance(payload, Answered) and self.driven is not None and payload not in ours:
                program, state = self.driven
                notes = program.fold(state, record)
                self.answered = True
                if self.projector is not None:
                    self.emit([*self.projector.record(record), *notes])

    async def _insist(self, entries: Sequence[Entry], status: RunStatus | None, error: StoreError) -> int:
        """Hold what the store could not take, and repeat the append until it is acknowledged or refused."""
        held, unknown = self.kernel.held, error.unknown
        size = held.take(entries) if held is not None else 0

        async def again() -> int:
            nonlocal unknown
            try:
                return await self.kernel.log.append(self.token, entries, status, repeat=unknown)
            except StoreError as error:
                unknown = unknown or error.unknown
                raise

        try:
            return await patiently(self.kernel.clock, again, self._leaves, error)
        finally:
            if held is not None:
                held.let_go(size)

    def _leaves(self) -> bool:
        return self.leaving

    def take_back(self) -> None:
        """Forget the terminal record that the log has refused."""
        self._pending.pop()
        self.seq -= 1

    async def sure(self) -> None:
        """Make sure, before a handler is entered, that the run is still ours, if this process was silent for long.

        While the process holds too much that the store cannot take, it waits.

        Raises:
            Conflict: another owner has the run since.
        """
        kernel = self.kernel
        if kernel.held is not None:
            await kernel.held.room()
        lease = kernel.lease
        if lease is not None and (lease.doubtful() or lease.gaps != self._gaps):
            gaps = lease.gaps
            run = await patiently(kernel.clock, lambda: kernel.log.run(self.token.run_id), self._leaves)
            if run.epoch != self.token.epoch:
                raise Conflict(
                    f"The run {run.id!r} belongs to another owner since epoch {run.epoch}; this one must stop."
                )
            self._gaps = gaps

    def hold(self, key: str | None, payload: Payload) -> Record:
        """Hold a record back for the next commit, and give it as the fold will see it."""
        self.seq += 1
        token, now = self.token, self.kernel.clock.now()
        self._pending.append(Entry(key, payload, now))
        return Record(self.seq, token.run_id, token.session_id, key, payload, now)

    def record(self, key: str | None, payload: Payload) -> Record:
        """Give a payload as the fold will see it, at the place of the last record."""
        return Record(self.seq, self.token.run_id, self.token.session_id, key, payload, self.kernel.clock.now())

    async def keep(self, key: str | None, payload: Payload) -> None:
        """Commit a record at once, in the middle of a step, and fold it."""
        record = self.hold(key, payload)
        self._fold(record)
        await self.flush()
        if self.projector is not None:
            self.emit(self.projector.record(record))

    def _fold(self, record: Record) -> None:
        """Take a record into the run's state, in the middle of a step."""
        self.tried.note(record)
        if self.driven is not None:
            program, state = self.driven
            program.fold(state, record)

    async def attempt_failed(self, step: str, attempt: int, error: Exception, wait: float) -> None:
        """Note that an attempt failed, and wait before the next."""
        await self.keep(None, AttemptFailed(step, attempt, describe(error), wait))
        await self.kernel.clock.sleep(wait)
        await self.sure()


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
    io.opened(asyncio.current_task())
    io.driven = (program, state)
    driver = _Driver(program, state, io)
    try:
        return await driver.loop()
    except BaseException as error:
        await driver.abandon(error)
        raise
    finally:
        io.opened(None)


_NOT_OURS = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, Left, Parked)
"""What ends the task or the process and not just a step."""


class _Driver:
    __slots__ = ("ended", "failing", "folded_stop", "io", "parked", "program", "running", "state")

    def __init__(self, program: Program[Any], state: Any, io: RunIO) -> None:
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
        await self.flush()
        if io.stop is not None:
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
        except _NOT_OURS:
            raise
        except BaseException as error:
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
        try:
            return await self.program.perform(self.state, do, self.io)
        except _NOT_OURS:
            raise
        except BaseException as error:
            return self.failed(do, error)

    def failed(self, do: Do, error: BaseException) -> Payload:
        if self.io.cause is None:
            self.io.cause = error
        return StepFailed(do.key, describe(error, do.key))

    async def some(self) -> None:
        """Wait until at least one running step is done; fold those that are, in the order they were started."""
        io = self.io
        await self.flush()
        if io.stop is not None and not self.folded_stop:
            return await self.cut_off()
        io.in_step = True
        try:
            await asyncio.wait(self.running.values(), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            io.interrupted()
        finally:
            io.in_step = False
        self.collect()

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
        if isinstance(error, Parked):
            io.hold(None, Claimed(io.token.epoch, parked=sound(str(error))))
        if io.leaving or isinstance(error, Parked):
            with suppress(Conflict, StoreError):  # whoever has it since, or finds this process gone, goes on
                await io.flush("queued" if io.leaving else "parked")
        elif io.projector is not None and not self.ended and not isinstance(error, Conflict):
            token = io.token
            end = RunFailed(error=describe(error), run_id=token.run_id, session_id=token.session_id)
            io.emit([*io.projector.close("error"), end])

    async def wait(self, action: Waiting) -> Waiting | Finish:
        io = self.io
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
        await io.settle()
        record = io.hold(None, action.payload)
        try:
            await self.flush()
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
