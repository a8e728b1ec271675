"""A time limit on what the current task awaits: `asyncio.timeout` at half its cost, since it may not be moved."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self


class TimeLimit:
    """Cancels its block when the time is over, and raises `TimeoutError` in place of the cancellation.

    Used with a plain `with`, in a task. A `TimeoutError` of the block's own is told apart by `expired`.

    Args:
        seconds: from entering on.
    """

    __slots__ = ("_before", "_handle", "_task", "expired", "seconds")
    _handle: asyncio.TimerHandle
    _task: asyncio.Task[Any]
    _before: int

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
        self._handle = loop.call_later(self.seconds, self._end)
        return self

    def _end(self) -> None:
        self.expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        # somebody else may have cancelled the task too: then it stays cancelled
        if self.expired and self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError):
            raise TimeoutError(f"not done within {self.seconds:g} s") from error
