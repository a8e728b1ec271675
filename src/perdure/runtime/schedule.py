"""The functions of this process in the store, and the moments at which schedules start them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from perdure.agents.function_definition import FunctionDefinition
from perdure.log.functions import Subscription
from perdure.log.sql import SqlLog
from perdure.runtime.store_clock import StoreClock


class Schedule:
    """What starts the functions whose code is here.

    Args:
        definitions: everything that is registered here.
    """

    def __init__(self, definitions: Iterable[Any]) -> None:
        self._functions = [one for one in definitions if isinstance(one, FunctionDefinition)]
        self._timed = {one.name for one in self._functions if one.cron is not None}
        self._next: float | None = None

    async def register(self, log: SqlLog) -> None:
        """Make the functions known to the store."""
        self._next = 0.0 if self._timed else None
        await log.subscribe([_subscription(one) for one in self._functions])

    async def start_due(self, log_of: Callable[[str], SqlLog], store: StoreClock) -> None:
        """Start the functions whose time has come; the store is only asked when the next one is due."""
        if self._next is not None and self._next <= store.now():
            self._next = await log_of("default").start_due(self._timed, log_of)


def _subscription(one: FunctionDefinition) -> Subscription:
    limit = one.concurrency
    most, key = (None, None) if limit is None else (limit.limit, limit.key)
    return Subscription(one.name, one.event, one.cron, most, key, containers=one.containers)
