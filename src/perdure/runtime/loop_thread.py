"""A runtime for sync code: an event loop in a thread, for as long as the runtime is open or for one run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.agents.in_sync import Loop
from perdure.db.database import StoreError

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

T = TypeVar("T")


class LoopThread(Loop):
    """Where a runtime's coroutines run when sync code asks for them.

    Args:
        runtime: whose it is.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(None)
        self._runtime = runtime
        self._thread: threading.Thread | None = None
        self._leave: asyncio.Event | None = None
        self._ended: Future[None] = Future()

    def begin(self) -> None:
        """Note the event loop that the runtime was opened in."""
        self._loop = asyncio.get_running_loop()

    def end(self) -> None:
        """Note that the runtime is closed."""
        self._loop = None

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], name: str, use: str = "await") -> T:
        """Run a coroutine where the runtime is open; opened for it alone if it is not."""
        if self._loop is not None:
            return super().run(make, name, use)
        self.open()
        try:
            return super().run(make, name, use)
        finally:
            self.close()

    def each(self, make: Callable[[], AsyncIterator[T]], name: str) -> Iterator[T]:
        """Read what an async iterator gives, where the runtime is open."""
        return self.opened().each(make, name)

    def opened(self) -> Loop:
        """The event loop of a runtime that is open.

        Raises:
            StoreError: it is not.
        """
        if self._loop is None:
            raise StoreError("The runtime is not open; use it with: with Runtime(…) as runtime")
        return Loop(self._loop)

    def open(self) -> None:
        """Open the runtime in a thread of its own."""
        ready: Future[None] = Future()
        self._ended = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._live(ready),), name="perdure-loop", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            if ready.done():
                self._thread.join()
            self._thread = None
            raise

    def close(self) -> None:
        """Close the runtime that was opened here."""
        thread, loop, leave = self._thread, self._loop, self._leave
        if thread is None or loop is None or leave is None:
            return
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        self._thread = None
        self._ended.result()

    async def _live(self, ready: Future[None]) -> None:
        self._leave = asyncio.Event()
        try:
            async with self._runtime:
                ready.set_result(None)
                await self._leave.wait()
        except BaseException as error:
            (self._ended if ready.done() else ready).set_exception(error)
        else:
            self._ended.set_result(None)
