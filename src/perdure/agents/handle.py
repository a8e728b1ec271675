"""A handle on a run that goes on in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, cast

from typing_extensions import TypeVar

from perdure.agents.in_sync import EachInSync, InSync, Loop
from perdure.agents.outcome import RunResult, raise_for
from perdure.types.events import TERMINAL, AnyEvent, RunWaiting
from perdure.types.status import RunStatus

if TYPE_CHECKING:
    from perdure.agents.running import Running

Out = TypeVar("Out", default=Any)
S = TypeVar("S", default=Any)


_going_on: set[Run[Any, Any]] = set()
"""Runs that are not over: the event loop itself keeps no task alive."""


class Run(Generic[Out, S]):
    """A run in the background: its id, status, events and result; it can be cancelled.

    Every reader of `events()` gets all events from the beginning, and then follows.
    """

    def __init__(
        self,
        running: Running,
        drive: Callable[[], Coroutine[Any, Any, RunResult[Any, Any]]] | None = None,
        ask_cancel: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._running = running
        self._ask_cancel = ask_cancel
        self.goes_on: Callable[[], Coroutine[Any, Any, RunResult[Any, Any]]] | None = None
        """Follows the run to its end when it has waited; None if only this process can go on with it."""
        self._later: asyncio.Task[RunResult[Any, Any]] | None = None
        self._events: list[AnyEvent] = []
        self._more: asyncio.Event | None = None
        self._over = False
        running.sink = self._take
        self._task: asyncio.Task[RunResult[Any, Any]] = asyncio.create_task(
            (drive or running.drive)(), name=f"perdure-{running.env.run_id}"
        )
        self._task.add_done_callback(self._end)
        _going_on.add(self)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._running.env.run_id

    @property
    def session_id(self) -> str:
        """The session that it belongs to."""
        return self._running.env.session_id

    @property
    def status(self) -> RunStatus:
        """Where the run is."""
        if not self._task.done():
            return "running"
        later = self._later
        if later is not None and later.done() and not later.cancelled() and later.exception() is None:
            return later.result().status
        if self._task.cancelled() or self._task.exception() is not None:
            return "cancelled" if self._task.cancelled() else "failed"
        status = self._task.result().status
        return self._running.status if status == "waiting" else status  # it may have been answered since

    async def events(self) -> AsyncIterator[AnyEvent]:
        """Follow the run from its beginning to its terminal event; does not raise when the run fails.

        That a run waits ends the events too, unless it goes on already, or lives in a runtime, where somebody may
        answer.
        """
        place = 0
        while True:
            while place < len(self._events):
                event = self._events[place]
                place += 1
                yield event
                ends = isinstance(event, TERMINAL) and event.run_id == self.id
                if ends and isinstance(event, RunWaiting) and self.goes_on is not None:
                    self._follow(self.goes_on)
                elif ends and (not isinstance(event, RunWaiting) or self.status == "waiting"):
                    return
            resumed = self._running.resumed
            if self._over and resumed is None:
                return
            if self._more is None:  # made only where a reader waits, and shared by all that do
                self._more = asyncio.Event()
                if resumed is not None:
                    resumed.add_done_callback(lambda _: self._wake())
            await self._more.wait()

    async def result(self) -> RunResult[Out, S]:
        """Wait for the run's end; without a runtime, or until it waits for somebody outside.

        Raises:
            RunFailed: the run failed.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        result = await self.reached()
        if result.status != "waiting" or self.goes_on is None:
            return result
        later = self._follow(self.goes_on)
        await asyncio.wait([later])
        return self._checked(later.result())

    async def reached(self) -> RunResult[Out, S]:
        """Wait until the run has ended, or waits for somebody outside; answered since, it is waited for again."""
        if not self._task.done():
            await asyncio.wait([self._task])
        if self._task.cancelled():
            raise asyncio.CancelledError
        result = self._task.result()
        if result.status == "waiting":
            if self._running.resumed is not None:
                await asyncio.wait([self._running.resumed])
            result = self._running.result()
        return self._checked(result)

    def _checked(self, result: RunResult[Any, Any]) -> RunResult[Out, S]:
        raise_for(result, self._running.definition.name, self._running.cause, self._running.loop.error)
        return cast("RunResult[Out, S]", result)

    def _follow(self, goes_on: Callable[[], Coroutine[Any, Any, RunResult[Any, Any]]]) -> asyncio.Task[Any]:
        """Follow a run that has waited, one task for all who want to know."""
        if self._later is None:
            self._over = False
            self._later = asyncio.create_task(goes_on(), name=f"perdure-follow-{self.id}")
            self._later.add_done_callback(self._end)
            _going_on.add(self)
        return self._later

    async def cancel(self) -> None:
        """Stop the run: what is running is cut off, what is finished is kept; returns when it is closed."""
        if not self._task.done():
            await asyncio.sleep(0)  # let a run that has just been made begin, so that it is closed by its own hand
            if self._running.io is not None:
                self._running.io.ask_stop("cancelled")
            elif self._ask_cancel is not None and not (self._running.thread and self._running.thread.naming):
                await self._ask_cancel()
            else:
                self._task.cancel()
            await asyncio.wait([self._task])
        elif self.status in ("waiting", "running"):
            await (self._ask_cancel() if self._ask_cancel is not None else self._running.cancel())

    async def detach(self) -> None:
        """Stop driving the run here without ending it: its log stays as it is, and another owner may take it over."""
        if not self._task.done():
            if self._running.io is not None:
                self._running.leave()
            else:
                self._task.cancel()
            await asyncio.wait([self._task])

    def loop_thread(self) -> Loop:
        """Where sync code finds the event loop that the run lives in."""
        return Loop(self._task.get_loop())

    events_sync = EachInSync(events)
    result_sync = InSync(result)
    cancel_sync = InSync(cancel)

    def drives(self, running: Running) -> bool:
        """Whether this is the handle on a run's live side, and does not only follow it."""
        return self._running is running

    def on_end(self, call: Callable[[Run[Any, Any]], object]) -> None:
        """Have something called when the run is not driven any more."""
        self._task.add_done_callback(lambda _: call(self))

    def _take(self, event: AnyEvent) -> None:
        self._events.append(event)
        self._wake()

    def _end(self, task: asyncio.Task[Any]) -> None:
        _going_on.discard(self)
        self._over = True
        self._wake()
        if not task.cancelled():
            task.exception()  # read here so that it is not reported as unseen: result() raises it

    def _wake(self) -> None:
        if self._more is not None:
            self._more.set()
            self._more = None

    def __repr__(self) -> str:
        return f"Run({self.id!r}, status={self.status!r})"
