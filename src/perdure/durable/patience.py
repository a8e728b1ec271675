"""Asking the store again while it cannot be used for the moment."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from perdure.db.database import StoreError
from perdure.durable.kernel import Clock
from perdure.durable.retry import STORE_BACKOFF

T = TypeVar("T")
_log = logging.getLogger("perdure")


async def patiently(
    clock: Clock,
    do: Callable[[], Awaitable[T]],
    until: Callable[[], bool] | None = None,
    failed: StoreError | None = None,
) -> T:
    """Ask the store for something, again and again while it cannot be used for the moment.

    Args:
        clock: how to wait.
        do: what asks; it may be done twice.
        until: says when to give up.
        failed: how it failed already, if it was done before.

    Raises:
        StoreError: waiting will not help, or it is time to give up.
    """
    attempt = 0
    while True:
        if failed is not None:
            if not failed.retryable or (until is not None and until()):
                raise failed
            attempt += 1
            if attempt == 1:
                _log.warning("%s It is tried again.", failed)
            await clock.sleep(STORE_BACKOFF.wait(attempt))
        try:
            return await do()
        except StoreError as error:
            failed = error
