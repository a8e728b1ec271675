"""The store's time in this process: what it said last, and how long ago that was by a clock that never jumps."""

from __future__ import annotations

from perdure.durable.kernel import Clock


class StoreClock:
    """Tells the store's time; the machine's as long as the store was not asked.

    Args:
        clock: the machine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead: float | None = None

    def said(self, now: float, asked: float) -> None:
        """Take note of what the store has said.

        Args:
            now: its time, in seconds since the epoch.
            asked: when it was asked, by the clock that never jumps.
        """
        self._ahead = now - (asked + self._clock.monotonic()) / 2

    def now(self) -> float:
        """Seconds since the epoch, as the store sees it."""
        return self._clock.now() if self._ahead is None else self._clock.monotonic() + self._ahead
