"""The beat of a process whose event loop is held up.

A tool that blocks the event loop stops the worker too, and then this process would look dead although it is at work. So
a thread asks the event loop again and again for a sign. Where it beats in time, nothing is done; else the thread beats
in its stead, and says for how long the loop has been blocked and where. A loop that gives no sign for minutes is stuck
for good: the thread leaves off, and others take the runs over. A process that is stopped as a whole does not beat.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from perdure.db.database import StoreError
from perdure.log.owners import Timing

LONG = 5.0
"""For how many seconds an event loop is blocked before it is said."""

_log = logging.getLogger("perdure")


class Pulse:
    """A thread that beats when the event loop cannot.

    Args:
        timing: how long is what.
        late: whether somebody has to know that this process is alive, and was not told in time.
        beat: beats, in whatever event loop it is awaited.
    """

    def __init__(self, timing: Timing, late: Callable[[], bool], beat: Callable[[], Awaitable[None]]) -> None:
        self._timing = timing
        self._late = late
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._of_loop = threading.get_ident()
        self._end = threading.Event()
        self._ended = asyncio.Event()
        self._asked = self._answered = 0
        self._thread = threading.Thread(target=self._run, name="perdure-pulse", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread."""
        self._end.set()
        await self._ended.wait()
        self._thread.join()

    def _run(self) -> None:
        tick, limit = self._timing.beat / 2, self._timing.death / 2
        since = looked = time.monotonic()
        said, left_off = False, False
        while not self._end.wait(tick):
            now = time.monotonic()
            if now - looked > limit:  # it was this whole process that stood still
                since = now
            looked = now
            blocked = now - since
            if self._answered == self._asked:
                if said:
                    _log.warning("The event loop was blocked for %.1f s.", blocked)
                since, said, left_off = now, False, False
                self._asked += 1
                if not self._call(self._answer, self._asked):
                    return
                continue
            if blocked > LONG and not said:
                said = True
                _log.warning(
                    "The event loop is blocked for %.1f s by %s. Nothing else goes on in this process meanwhile; make "
                    "it a sync function, which runs in a thread, or await what takes time.",
                    *(blocked, self._where()),
                )
            if blocked > self._timing.stuck:
                if not left_off:
                    left_off = True
                    _log.error(
                        "The event loop is blocked for %.1f s by %s. This process counts as stuck from now on: others "
                        "take its runs over.",
                        *(blocked, self._where()),
                    )
            elif self._late():
                asyncio.run(self._in_its_stead())
        self._call(self._ended.set)

    async def _in_its_stead(self) -> None:
        try:
            async with asyncio.timeout(self._timing.death / 2):
                await self._beat()
        except (StoreError, TimeoutError) as error:
            _log.warning("The store cannot be told that this process is alive: %s", error or "it does not answer")
        except Exception:
            _log.exception("The store cannot be told that this process is alive.")

    def _answer(self, number: int) -> None:
        self._answered = number

    def _call(self, what: Callable[..., None], *args: int) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # it is closed: nobody is there any more
            return False
        return True

    def _where(self) -> str:
        """What the event loop does right now."""
        frame = sys._current_frames().get(self._of_loop)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return "unknown code"
        code = frame.f_code
        return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
