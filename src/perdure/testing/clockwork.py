"""Virtual time for several processes in one thread: each has an event loop, one seed decides whose turn it is.

Within a process callbacks run in the order in which they were asked for, as asyncio promises; between processes, and
wherever something takes time, chance decides. A process that was killed never runs again, not even its `finally`.
"""

import asyncio
import heapq
import sys
import weakref
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from random import Random
from typing import Any

STEP = 2e-6
"""Seconds that a callback takes."""
MOST = 30_000
"""How many callbacks there may be; whoever needs more goes round in circles."""


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process, whose monotonic clock is `ahead` of the others."""

    def __init__(self, turns: "Turns", ahead: float) -> None:
        self.turns = turns
        self.ahead = ahead
        self.alive = True
        self.paused = False
        self.woken = -1
        self.ready: deque[asyncio.Handle] = deque()
        self.unseen: list[dict[str, Any]] = []
        self.process: Any = None
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._tasks: list[asyncio.Task[Any]] = []

    # -- what asyncio asks for ---------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.turns.now + self.ahead

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when - self.ahead, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > 200:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """Call a function in place of a thread's doing it: it takes no time."""
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.alive:
            self.unseen.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    # -- what the scheduler asks for ---------------------------------------------------------------------------------

    def next_time(self) -> float | None:
        """When there is something to do again."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def is_ready(self) -> bool:
        while self._timers and (self._timers[0][0] <= self.turns.now or self._timers[0][2].cancelled()):
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self.ready.append(handle)
        return bool(self.ready)

    def step(self) -> None:
        """Run one callback."""
        handle = self.ready.popleft()
        if not handle.cancelled():
            self.within(handle._run)

    def within(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call something as this process."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return call(*args)
        finally:
            events._set_running_loop(before)

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.within(lambda: self.create_task(coro))

    def bury(self) -> None:
        """Free what a process that is over has left, without running it on."""
        self.alive = False
        self.within(self._close_tasks)
        self.ready.clear()
        self._timers.clear()

    def _close_tasks(self) -> None:
        """Close what every task runs, and what begins while it is closed, until nothing is left."""
        while self._tasks:
            task = self._tasks.pop()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            for _ in range(20):  # a clean-up that awaits something stops there, and is closed again
                if task.done() or coroutine.cr_frame is None:
                    break
                with suppress(BaseException):
                    coroutine.close()


class Turns:
    """Virtual time, and whose turn it is; who needs more than `most` callbacks goes round in circles."""

    def __init__(self, chance: Random, most: int = MOST) -> None:
        self._most = most
        self.chance = chance
        self.now = 0.0
        self.skipped = 0.0
        self.steps = 0
        self.loops: list[ProcessLoop] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], ProcessLoop] = weakref.WeakKeyDictionary()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have something happen to the world at a moment."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def skip(self, to: float) -> None:
        """Go on at a later moment at once, where nothing happens meanwhile."""
        self.skipped += max(0.0, to - self.now)
        self.now = max(self.now, to)

    def run(self, done: Callable[[], bool], until: float) -> bool:
        """Let time pass until something is done, at most until a moment; say whether it is done.

        What is skipped meanwhile does not count.
        """
        until -= self.skipped
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._began, finalizer=self._ended)
        try:
            while not done():
                if self.now - self.skipped > until or self.steps > self._most or not self._turn():
                    return False
            return True
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> bool:
        self.steps += 1
        self.now += STEP
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        running = [one for one in self.loops if one.alive and not one.paused]
        ready = [one for one in running if one.is_ready()]
        if ready:
            (ready[0] if len(ready) == 1 else self.chance.choice(ready)).step()
            return True
        times = [when for one in running if (when := one.next_time()) is not None]
        if self._events:
            times.append(self._events[0][0])
        if not times:
            return False
        self.now = max(self.now, min(times))
        return True

    def _began(self, generator: AsyncGenerator[Any, Any]) -> None:
        loop = events._get_running_loop()
        if isinstance(loop, ProcessLoop):
            self._generators[generator] = loop

    def _ended(self, generator: AsyncGenerator[Any, Any]) -> None:
        loop = self._generators.get(generator)
        if loop is not None and loop.alive:
            loop.spawn(generator.aclose())  # type: ignore[arg-type]
