"""Retries inside a step: exponential back-off with jitter, or as long as the other side asked for."""

from __future__ import annotations

import random
from typing import NamedTuple


class Backoff(NamedTuple):
    """How long to wait between attempts.

    `first` seconds after the first failure, doubled each time up to `most`; each wait is shortened by a random part of
    up to a half, so that many runs which failed together do not come back together.
    """

    first: float = 0.5
    most: float = 60.0

    def wait(self, attempt: int, asked: float | None = None, jitter: float | None = None) -> float:
        """Say how many seconds to wait after a failed attempt.

        Args:
            attempt: which attempt failed, counted from 1.
            asked: what the other side asked for (`Retry-After`), in seconds; it is kept to, up to ten minutes.
            jitter: which part of what the wait may be shortened by, from 0 to 1; by chance unless given.
        """
        if asked is not None:
            return min(max(asked, 0.0), 600.0)
        longest = min(self.most, self.first * 2 ** min(attempt - 1, 60))  # later ones are beyond `most` anyway
        return longest * (1 - (random.random() if jitter is None else jitter) / 2)


MODEL_BACKOFF = Backoff()
TOOL_BACKOFF = Backoff(first=0.2, most=30.0)
FUNCTION_BACKOFF = Backoff(first=1.0, most=3600.0)
STORE_BACKOFF = Backoff(first=0.05, most=5.0)
