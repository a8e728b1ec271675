"""One run's way out: to the log, to whoever listens, and to whoever wants to stop it.

What the store cannot take is held and repeated; what others have posted in between is folded before the run goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from perdure.db.database import StoreError
from perdure.durable.call_waits import CallWaits
from perdure.durable.endings import Left, describe
from perdure.durable.kernel import Kernel
from perdure.durable.live import Feed
from perdure.durable.patience import patiently
from perdure.durable.program import Program
from perdure.durable.tried import Tried
from perdure.log.log import CancelWins, Entry, Token
from perdure.types.errors import Conflict
from perdure.types.events import AnyEvent, Sink
from perdure.types.project import Projector
from perdure.types.records import (
    Answered,
    AttemptFailed,
    CancelAsked,
    InferenceDone,
    Payload,
    Record,
    RunStatus,
)
from perdure.types.sent_event import SentEvent

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
        gaps: how often this process had been silent before it asked for the run.

    Attributes:
        alone: whether nobody else has written to the session since.
        below: whether another run has started this one, and is parked in its place.
        answered: whether somebody has answered since the run last looked whether it must wait.
        reached: the places of steps whose model was asked or whose tool was called, with what a model that has failed
            had said.
        cutting: whether a cancellation of ours is on its way to the driving task.
        in_step: whether the driver is where a stop may cut it off: inside a step, never inside an append.
        nudged: is done when the driver shall look at what others have posted.
        tried: what was begun or has failed before.
        waits: what calls wait for.
        count: counts what others have consumed under the same budgets, if there are any.
        died: whether the owner before this one has died, and nothing was finished since.
        ends_at: when the run has used its time, by the store's clock.
    """

    __slots__ = (
        "_cancelling",
        "_gaps",
        "_pending",
        "_task",
        "_timer",
        "_writing",
        "alone",
        "answered",
        "below",
        "cancelled_outside",
        "cause",
        "committed",
        "count",
        "cutting",
        "died",
        "driven",
        "ends_at",
        "feed",
        "in_step",
        "kernel",
        "leaving",
        "nudged",
        "projector",
        "reached",
        "seq",
        "sink",
        "stop",
        "stop_detail",
        "token",
        "tried",
        "waits",
    )

    def __init__(self, kernel: Kernel, token: Token, sink: Sink | None = None, head: int = 0, gaps: int = 0) -> None:
        self.kernel = kernel
        self._gaps = gaps
        self.token = token
        self.feed = Feed(kernel.live, token, head) if kernel.live is not None else None
        self.sink = sink if self.feed is None else self.feed.beside(sink)
        self.projector = Projector(token.run_id, token.session_id) if self.sink is not None else None
        self.seq = head
        self.committed = head
        self.alone = True
        self.below = False
        self._writing: asyncio.Lock | None = None
        self.stop: Stop | None = None
        self.stop_detail = ""
        self.ends_at: float | None = None
        self.died = False
        self.count: Callable[[], Awaitable[None]] | None = None
        self.cause: BaseException | None = None
        self.answered = False
        self.driven: tuple[Program[Any], Any] | None = None
        self.leaving = False
        self.cancelled_outside = False
        self._cancelling = 0
        self.cutting = False
        self.in_step = False
        self.nudged: asyncio.Future[None] | None = None
        self.reached: dict[str, InferenceDone | None] = {}
        self.tried = Tried()
        self.waits = CallWaits() if kernel.durable else None  # in memory nobody keeps waits for others
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
            self.cutting = True
            self._task.cancel()

    def leave(self) -> None:
        """Stop driving without ending the run: nothing more is written, and whoever owns it next goes on."""
        self.leaving = True
        if self._task is not None:
            self._task.cancel()

    def nudge(self) -> None:
        """Have the driver look at what others have posted, if it only waits for steps that run."""
        if self.nudged is not None and not self.nudged.done():
            self.nudged.set_result(None)

    async def look(self) -> None:
        """Learn of what others have posted, without writing anything."""

        async def read() -> None:
            before, run_id = self.committed, self.token.run_id
            log = self.kernel.log
            records = await patiently(self.kernel.clock, lambda: log.read_run(run_id, before), self._leaves)
            if records:
                await self._learn(before, records[-1].seq, 0)

        await self._whole(read)

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
        if self.cutting:
            self.cutting = False
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
        if self.cutting:
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

    @property
    def holds(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._pending)

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
                until = self.ends_at if status == "waiting" else None
                last = await kernel.log.append(self.token, entries, status, seen=before, until=until)
            except StoreError as error:
                last = await self._insist(entries, status, error, before)
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

    async def _insist(self, entries: Sequence[Entry], status: RunStatus | None, error: StoreError, seen: int) -> int:
        """Hold what the store could not take, and repeat the append until it is acknowledged or refused."""
        held, unknown, log = self.kernel.held, error.unknown, self.kernel.log
        until = self.ends_at if status == "waiting" else None
        size = held.take(entries) if held is not None else 0

        async def again() -> int:
            nonlocal unknown
            try:
                return await log.append(self.token, entries, status, repeat=unknown, seen=seen, until=until)
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
        if self.count is not None:
            await patiently(kernel.clock, self.count, self._leaves)
        lease = kernel.lease
        if lease is not None and (lease.doubtful() or lease.gaps != self._gaps):
            gaps = lease.gaps
            run = await patiently(kernel.clock, lambda: kernel.log.run(self.token.run_id), self._leaves)
            if run.epoch != self.token.epoch:
                raise Conflict(
                    f"The run {run.id!r} belongs to another owner since epoch {run.epoch}; this one must stop."
                )
            self._gaps = gaps

    def hold(self, key: str | None, payload: Payload, sends: tuple[SentEvent, ...] = ()) -> Record:
        """Hold a record back for the next commit, with events that go with it, and give it as the fold will see it."""
        self.seq += 1
        if key is not None:
            self.died = False
        token, now = self.token, self.kernel.clock.now()
        if self.waits is None:
            self._pending.append(Entry(key, payload, now, sends))
        else:
            self._pending.append(Entry(key, payload, now, sends, self.waits.over(key, payload)))
        return Record(self.seq, token.run_id, token.session_id, key, payload, now)

    def record(self, key: str | None, payload: Payload) -> Record:
        """Give a payload as the fold will see it, at the place of the last record."""
        return Record(self.seq, self.token.run_id, self.token.session_id, key, payload, self.kernel.clock.now())

    def note(self, key: str | None, payload: Payload, sends: tuple[SentEvent, ...] = ()) -> Record:
        """Hold a record back in the middle of a step, and fold it."""
        record = self.hold(key, payload, sends)
        self._fold(record)
        return record

    async def keep(self, key: str | None, payload: Payload, sends: tuple[SentEvent, ...] = ()) -> None:
        """Commit a record at once, in the middle of a step, and fold it; events are sent with it."""
        record = self.note(key, payload, sends)
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
