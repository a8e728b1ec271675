"""A time limit on what the current task awaits: `asyncio.timeout` at a fraction of its cost, since it cannot be moved.

Limits of one length end in the order in which they began. So the event loop needs no timer for each of a thousand model
calls: one for each length is enough, set for the oldest limit that is open.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary, ref


class TimeLimit:
    """Cancels its block when the time is over, and raises `TimeoutError` in place of the cancellation.

    Used with a plain `with`, in a task. A `TimeoutError` of the block's own is told apart by `expired`.

    Args:
        seconds: from entering on.

    Raises:
        RuntimeError: entered outside a task.
    """

    __slots__ = ("_before", "_task", "_watch", "ends", "expired", "seconds")
    _watch: _Watch
    _task: asyncio.Task[Any]
    _before: int
    ends: float

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("A time limit needs a task to cancel; run this code in one.")
        self._task = task
        self._before = task.cancelling()
        self.ends = loop.time() + self.seconds
        self._watch = watch = _watch_of(loop, self.seconds)
        watch.open[self] = None
        if not watch.set:
            watch.set = True
            loop.call_at(self.ends, watch.look)
        return self

    def expire(self) -> None:
        """Cancel what the limit is on."""
        self.expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.expired:
            del self._watch.open[self]
        # somebody else may have cancelled the task too: then it stays cancelled
        elif self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError):
            raise TimeoutError(f"not done within {self.seconds:g} s") from error


class _Watch:
    """The open limits of one length in one event loop, oldest first, and whether a timer is set for them."""

    __slots__ = ("open", "set")

    def __init__(self) -> None:
        self.open: dict[TimeLimit, None] = {}
        self.set = False

    def look(self) -> None:
        """Expire what is over, and look again when the next is."""
        loop = asyncio.get_running_loop()
        self.set = False
        for limit in list(self.open):
            if limit.ends > loop.time():
                self.set = True
                loop.call_at(limit.ends, self.look)
                return
            del self.open[limit]
            limit.expire()


# a watch knows no event loop, so that it does not keep the loop that it belongs to alive
_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Watch]] = WeakKeyDictionary()
_local = threading.local()


def _watch_of(loop: asyncio.AbstractEventLoop, seconds: float) -> _Watch:
    last: tuple[ref[asyncio.AbstractEventLoop], dict[float, _Watch]] | None = getattr(_local, "last", None)
    if last is not None and last[0]() is loop:
        watches = last[1]
    else:
        watches = _watches.setdefault(loop, {})
        _local.last = (ref(loop), watches)
    found = watches.get(seconds)
    if found is None:
        if len(watches) > 100:  # lengths that are no longer used
            for length in [length for length, one in watches.items() if not one.open]:
                del watches[length]
        found = watches[seconds] = _Watch()
    return found
