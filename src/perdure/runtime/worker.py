"""The worker of a runtime: it beats, watches the store, ends waits in time, and takes over what nobody alive drives.

Runs that were there when a process died twice, and of which nothing was finished since, are suspects: they are driven
one per process, so that the one that kills its process is alone when it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perdure.db.database import Database, StoreError
from perdure.durable.kernel import Clock, SystemClock
from perdure.log.events import with_events
from perdure.log.owners import Left, Owners, Timing, fair
from perdure.log.policy import read_policies
from perdure.log.waits import soonest, with_due
from perdure.runtime.pulse import Pulse
from perdure.runtime.store_clock import StoreClock
from perdure.runtime.turns import Turns
from perdure.runtime.watched import Watched

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

SUSPECT = 2
"""How many deaths without anything finished make a run a suspect."""

AHEAD = 4
"""How many times as many runs as it may have taken over a process knows to be next, so that it seldom has to look."""

TIDY = 600.0
"""Seconds between two looks for events that need not be kept any more."""

_log = logging.getLogger("perdure")


class Worker:
    """One process's beat, and its eyes.

    Args:
        runtime: whose it is.
        db: the opened database.
        clock: the machine's clock.
        timing: how long is what.
        most: how many runs it has taken over at once at most; with 0 it takes over none.
    """

    def __init__(self, runtime: Runtime, db: Database, clock: Clock, timing: Timing, most: int) -> None:
        self._runtime = runtime
        self._db = db
        self._clock = clock
        self._timing = timing
        self._most = most
        self._more = False
        self.owners = Owners(db, timing)
        self.turns = Turns()
        self.sessions = Watched(db)
        self._beaten = -timing.death
        self.gaps = 0
        self._queued: dict[str, float] = {}
        self._suspect: str | None = None
        self._taken: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._again: set[tuple[str, str]] = set()
        self._next: deque[Left] = deque()
        self._dead: Mapping[str, int] = {}
        self._got = False
        self._looking: asyncio.Task[None] | None = None
        self._sweeping = asyncio.Lock()
        self._change = asyncio.Event()
        self._interest = asyncio.Event()
        self._listeners = 0
        self._watchers: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._pulse: Pulse | None = None
        self.store = StoreClock(clock)
        self._due: float | None = None
        self._changed: float | None = None
        self._tidying: asyncio.Task[list[str]] | None = None
        self._serves = 0
        self._served: dict[str, int] = {}
        self._tidied = clock.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._work(), name="perdure-worker")
        if isinstance(self._clock, SystemClock):  # in a simulation no thread has a place
            self._pulse = Pulse(self._timing, self._late, lambda: self.beat(apart=True))

    async def stop(self) -> None:
        """Stop watching, and leave the runs that were taken over as they are."""
        ours = [one for one in (self._task, self._looking, self._tidying) if one is not None]
        for one in ours:
            one.cancel()
        if ours:
            await asyncio.wait(ours)
        taken = list(self._taken.items())
        for (_, id), task in taken:
            self._runtime.leave(id, task)
        if taken:
            await asyncio.wait([task for _, task in taken])
        if self._pulse is not None:
            await self._pulse.stop()

    # -- the lease ---------------------------------------------------------------------------------------------------

    def doubtful(self) -> bool:
        """Whether others may take this process for dead by now."""
        return self._clock.monotonic() - self._beaten > self._timing.death / 2

    async def fresh(self) -> None:
        """Beat before a run is taken in, if the last beat is old: others must know who has it."""
        if self.doubtful():
            await self.beat()

    async def dead(self) -> dict[str, int]:
        """Say which owners are dead by now, each with its last beat."""
        return await self.owners.dead(self._clock.monotonic)

    async def beat(self, *, apart: bool = False) -> None:
        """Show that this process is alive; `apart` from another event loop, because its own is blocked."""
        now = self._clock.monotonic()
        if self.doubtful():
            self.gaps += 1
        await self.owners.beat(apart=apart)
        self._beaten = now

    def _late(self) -> bool:
        """Whether a beat is due since long; a thread asks."""
        return self._wanted() and self._clock.monotonic() - self._beaten >= 2 * self._timing.beat

    # -- watching ----------------------------------------------------------------------------------------------------

    def listen(self) -> asyncio.Event:
        """An event that is set when somebody may have written; ask for it before looking, then wait for it."""
        return self._change

    async def until(self, event: asyncio.Event) -> None:
        """Wait for a change that `listen` gave, or for a turn, while the store is watched."""
        self._listeners += 1
        self._interest.set()
        try:
            await event.wait()
        finally:
            self._listeners -= 1

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Generator[None]:
        """Have something called whenever somebody may have written, as long as this is open."""
        self._watchers.append(look)
        self._interest.set()
        try:
            yield
        finally:
            self._watchers.remove(look)

    @contextmanager
    def following(self, session: tuple[str, str], seen: Callable[[], int], wake: Callable[[], None]) -> Generator[None]:
        """Have somebody told of what is new in a session behind what it has seen, as long as this is open."""
        with self.sessions.reading(session, seen, wake):
            self._interest.set()
            yield

    def tell(self, *, more: bool = False) -> None:
        """Have everybody who waits look again.

        Args:
            more: whether this process itself looks at once for runs that nobody drives.
        """
        if more:
            self._more = self._got = True
            self._fill()
        change, self._change = self._change, asyncio.Event()
        change.set()
        for look in self._watchers:
            look()
        if self._runtime.closing:
            self.sessions.wake()

    def _wanted(self) -> bool:
        """Whether somebody here wants to know what others write, or others must know that this process is alive."""
        watched = bool(self._listeners or self._watchers or self.sessions)
        return watched or bool(self._taken) or self._runtime.busy()

    async def _work(self) -> None:
        next_sweep = self._clock.monotonic()
        faults = 0
        while True:
            try:
                now = self._clock.monotonic()
                if self._wanted() and now - self._beaten >= self._timing.beat:
                    await self.beat()
                if self._due is not None and now >= self._due:
                    await self.end_due()
                if now >= next_sweep:
                    await self.sweep()
                    await self._runtime.see_agents()
                    next_sweep = self._clock.monotonic() + self._timing.sweep
                await self._look(self._pause())
                faults = 0
            except StoreError as error:
                _log.warning("The store cannot be watched: %s", error)
                await self._clock.sleep(self._timing.sweep)
            except Exception:  # nobody would beat any more, nor end waits, nor take runs over
                faults += 1
                _log.exception("Watching the store has failed; please report this. It goes on.")
                next_sweep = self._clock.monotonic() + self._timing.sweep * min(faults, 30)
                await self._clock.sleep(min(self._timing.sweep, self._timing.beat))

    async def _look(self, seconds: float) -> None:
        """Let time pass, and notice what others write as long as somebody here wants to know."""
        if not self._wanted():
            self._interest.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._interest.wait()
            except TimeoutError:
                pass
            return
        await self._db.changed(seconds)
        if self._runtime.busy():  # also when nothing was noticed: a notification may be lost
            for name, id, cancelled, woken in await self.owners.spoken_to():
                container = self._runtime.container(name)
                if cancelled:
                    await container.notice_cancel(id)
                container.notice_answer(id, woken)
        for container, ids in self.turns.all().items():
            self.turns.wake(container, await self.owners.turns(container, ids))
        await self.sessions.look()
        self.tell()

    def _pause(self) -> float:
        """For how long nothing is to be done: until the next look for what is left, or until a wait is over."""
        pause = min(self._timing.sweep, self._timing.beat)
        return pause if self._due is None else max(0.0, min(pause, self._due - self._clock.monotonic()))

    # -- waits -------------------------------------------------------------------------------------------------------

    async def end_due(self) -> None:
        """End waits whose time has come, and see when the next one is over."""
        seconds = await self._next_wait()
        while seconds is not None and seconds <= 0:
            ended = 0
            for name in await self._db.read(lambda: with_due(self._db)):
                if self._runtime.knows(name):
                    log = self._runtime.container(name).log
                    ended += await log.due() + await log.overdue()
            seconds = await self._next_wait()
            if not ended:  # by another process, which has not committed yet
                break
        self._due = None if seconds is None else self._clock.monotonic() + max(0.01, seconds)
        if self._clock.monotonic() - self._tidied >= TIDY:
            self._tidied = self._clock.monotonic()
            for name in await self._db.read(with_events):
                if self._runtime.knows(name):
                    await self._runtime.container(name).log.forget_events()
            self._tidy()

    def _tidy(self) -> None:
        """Remove in the background what is too old: this process must beat meanwhile."""
        if self._tidying is None and self._runtime.forgets():
            self._tidying = asyncio.create_task(self._runtime.tidy(), name="perdure-tidy")
            self._tidying.add_done_callback(self._tidied_up)

    def _tidied_up(self, task: asyncio.Task[list[str]]) -> None:
        self._tidying = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("What is too old could not be removed; it is tried again: %s", task.exception())

    async def _next_wait(self) -> float | None:
        """Ask the store for its time, and in how many seconds the next wait is over."""
        before = self._clock.monotonic()
        now, expires, changed = await self._db.read(lambda: soonest(self._db))
        self.store.said(now, before)
        if changed != self._changed:
            known = self._runtime.policies
            policies = await read_policies(self._db)
            if self._runtime.policies is known:  # else one was changed here meanwhile, and this may be older
                self._runtime.hold(policies)
                self._changed = changed
        return None if expires is None else expires - now

    def expected(self, expires: float) -> None:
        """A wait is over at a moment of the store's clock, unless it ends before."""
        due = self._clock.monotonic() + max(0.0, expires - self.store.now())
        if self._due is None or due < self._due:
            self._due = due
            self._interest.set()

    def woken(self, container: str, run_ids: Sequence[str]) -> None:
        """Runs can go on: take them over at once, as far as there is room, and the next when there is."""
        self.tell()
        for id in run_ids:
            if (container, id) in self._taken:
                self._again.add((container, id))
            elif len(self._next) < AHEAD * self._most:
                self._next.append(_goes_on(container, id))
            else:
                self._more = True
        self._fill()

    def drive_on(self, container: str, run_id: str) -> None:
        """Take a run over that can go on; if it is just being let go here, again when it is."""
        if (container, run_id) in self._taken:
            self._again.add((container, run_id))
        else:
            self._take(_goes_on(container, run_id), {})

    # -- taking over -------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """End waits whose time has come, then take over what nobody alive drives, fair between containers."""
        async with self._sweeping:
            await self.end_due()
            if self._most:
                await self._find()

    async def _find(self) -> None:
        await self._runtime.schedule.start_due(lambda name: self._runtime.container(name).log, self.store)
        now = self._clock.monotonic()
        dead = self._dead = await self.owners.dead(self._clock.monotonic)
        many = AHEAD * self._most
        known = self._runtime.registry.names()
        here = self._runtime.live() | {id for _, id in self._taken}
        left = await self.owners.left(dead, here, many, known, self._runtime.image_prefix)
        ready = [one for one in left if self._runtime.knows(one.container) and self._may_take(one, now)]
        there = {one.run_id for one in left}
        self._queued = {id: since for id, since in self._queued.items() if id in there}
        # who was served longest ago comes first: of what only so many may be active, each container has its share
        ready.sort(key=lambda one: self._served.get(one.container, 0))
        calm = fair(one for one in ready if one.deaths < SUSPECT)
        suspects = sorted((one for one in ready if one.deaths >= SUSPECT), key=lambda one: one.deaths)
        self._more = self._got = False
        if self._suspect is None:
            self._more = sum(one.owner is None for one in calm) >= many
            self._next = deque(calm)
            self._fill()
            if suspects and not calm and not self._runtime.drives():
                self._suspect = suspects[0].run_id
                self._take(suspects[0], dead)
        await self.owners.forget({id: beat for id, beat in dead.items() if all(run.owner != id for run in left)})

    def _may_take(self, one: Left, now: float) -> bool:
        """Whether a run is to be had: a queued one is left for a while to whoever has queued it and lives."""
        if (one.container, one.run_id) in self._taken:
            return False
        if one.owner is not None or one.again or one.queuer is None or one.queuer in self._dead:
            return True
        return now - self._queued.setdefault(one.run_id, now) >= self._timing.beat

    def _fill(self) -> None:
        """Take over what is next, as far as there is room."""
        while self._next and len(self._taken) < self._most and not self._runtime.closing:
            one = self._next.popleft()
            if (one.container, one.run_id) not in self._taken:
                self._take(one, self._dead)
        # as long as some of them can be driven here: whose code is elsewhere is looked at from time to time
        wanted = self._more and self._got and not self._next and len(self._taken) < max(1, self._most)
        if wanted and self._most and self._looking is None and not self._runtime.closing:
            self._looking = asyncio.create_task(self._find_more(), name="perdure-more")

    async def _find_more(self) -> None:
        try:
            await self.sweep()
        except StoreError as error:
            _log.warning("The store cannot be searched for runs that can go on: %s", error)
        except Exception:
            _log.exception("The store cannot be searched for runs that can go on; please report this.")
        finally:
            self._looking = None
        self._fill()

    def _take(self, one: Left, dead: Mapping[str, int]) -> None:
        self._serves += 1
        self._served[one.container] = self._serves
        task = asyncio.create_task(self._drive(one, dead), name=f"perdure-{one.run_id}")
        self._taken[one.container, one.run_id] = task

    async def _drive(self, one: Left, dead: Mapping[str, int]) -> None:
        try:
            if await self._runtime.container(one.container).take_over(one, dead):
                self._got = True
                now, following = self._clock.monotonic(), await self.owners.next_turn(one.container, one.run_id)
                if following is not None and following.deaths < SUSPECT and self._may_take(following, now):
                    self._next.append(following)
        except StoreError as error:
            _log.warning("Run %s could not be taken over; it is tried again: %s", one.run_id, error)
        except Exception:
            _log.exception("Run %s could not be taken over; it is tried again.", one.run_id)
        finally:
            key = (one.container, one.run_id)
            del self._taken[key]
            if self._suspect == one.run_id:
                self._suspect = None
            if key in self._again:
                self._again.discard(key)
                if not self._runtime.closing:
                    self.drive_on(*key)
            self._fill()


def _goes_on(container: str, run_id: str) -> Left:
    """A run that was driven before and can go on."""
    return Left(container, run_id, None, 0, 0, True)
