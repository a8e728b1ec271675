"""A runtime for sync code: an event loop in a thread, for as long as the runtime is open or for one run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

T = TypeVar("T")


class LoopThread:
    """Where a runtime's coroutines run when sync code asks for them.

    Args:
        runtime: whose it is.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._leave: asyncio.Event | None = None
        self._ended: Future[None] = Future()

    def opened(self) -> None:
        """Note the event loop that the runtime was opened in."""
        self._loop = asyncio.get_running_loop()

    def closed(self) -> None:
        """Note that the runtime is closed."""
        self._loop = None

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], name: str = "run") -> T:
        """Run a coroutine where the runtime is open; opened for it alone if it is not. `name` is the door's.

        Raises:
            DefinitionError: this is the thread of that event loop.
        """
        if self._loop is None:
            self.open()
            try:
                return self.run(make, name)
            finally:
                self.close()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            raise DefinitionError(
                f"{name}_sync() would block the event loop that the runtime is open in; use: await {name}()"
            )
        future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # whoever waited is interrupted, and the run must not go on unseen
            raise

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
