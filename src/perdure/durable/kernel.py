"""What a run is given to live in: a log, the definitions by name, a clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from perdure.durable.held import Held
from perdure.durable.live import Live
from perdure.log.log import Log
from perdure.log.memory import MemoryLog
from perdure.types.errors import DefinitionError, UnknownName


class Clock(Protocol):
    """Where time comes from; tests bring their own."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


class Lease(Protocol):
    """What a process knows of its own standing as an owner of runs."""

    gaps: int
    """How often this process has been silent for so long that others may have taken its runs."""

    def doubtful(self) -> bool:
        """Whether others may take this process for dead by now."""
        ...


class Witness(Protocol):
    """Whoever sees what the steps of runs do, and may hold them: tests."""

    def model(self, run_id: str, key: str, model: Any) -> Any:
        """Say which model gives an inference's answer."""
        ...

    async def asked(self, io: Any, key: str, closing: Any) -> None:
        """A body asks for an inner step, done or not; `closing` is the record that closes it, without its result."""
        ...

    async def entering(self, run_id: str, key: str, name: str, effect: str, mark: str) -> None:
        """A tool or an inner step is called now; `mark` is its idempotency key."""
        ...

    async def left(self, run_id: str, key: str) -> None:
        """It has ended, and has no record yet."""
        ...


class Peers(Protocol):
    """The processes on one store, this one among them, which drive runs that nobody waits for in a task."""

    def check(self, definition: Any) -> None:
        """Refuse a definition that no other process could find by its name."""
        ...

    async def begin(self, running: Any) -> None:
        """Take in a run that whoever has its definition drives; the same run again is the same."""
        ...

    async def cancel(self, run_id: str) -> None:
        """Ask for the end of a run, whoever drives it."""
        ...


class Registry:
    """Definitions by their unique names."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}

    def add(self, definition: Any) -> None:
        """Register a definition under its name.

        Raises:
            DefinitionError: another definition has the name.
        """
        known = self._definitions.setdefault(definition.name, definition)
        if known is not definition:
            raise DefinitionError(
                f"Two definitions are named {definition.name!r}: {known!r} and {definition!r}. Rename one of them."
            )

    def put(self, definition: Any) -> None:
        """Register a definition in place of the one that has its name, if one has."""
        self._definitions[definition.name] = definition

    def drop(self, name: str) -> None:
        """Forget a definition."""
        self._definitions.pop(name, None)

    def names(self) -> list[str]:
        """The names of all definitions."""
        return list(self._definitions)

    def has(self, name: str) -> bool:
        """Whether a definition is known by this name."""
        return name in self._definitions

    def get(self, name: str) -> Any:
        """Find a definition.

        Raises:
            UnknownName: there is none of this name.
        """
        if name not in self._definitions:
            raise UnknownName("definition", name, list(self._definitions))
        return self._definitions[name]


class Kernel:
    """A log, a registry and a clock.

    Args:
        log: where records are kept; in memory unless given.
        clock: the machine's unless given.
        lease: this process's standing, if there are others.
        held: what this process holds because the store cannot take it, if that can happen.
        live: where readers find what open steps say, if there may be any.
        store_now: the store's time, in seconds since the epoch: what waits are over by; the clock's unless given.
        peers: who drives runs that are invoked, if it is not this run's own process.

    Attributes:
        witness: who sees what steps do, if anybody.
    """

    __slots__ = ("_registry", "clock", "durable", "held", "lease", "live", "log", "peers", "store_now", "witness")

    def __init__(
        self,
        log: Log | None = None,
        clock: Clock = SYSTEM_CLOCK,
        lease: Lease | None = None,
        held: Held | None = None,
        live: Live | None = None,
        store_now: Callable[[], float] | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.peers = peers
        self.lease = lease
        self.held = held
        self.live = live
        self.durable = log is not None
        self.log: Log = log if log is not None else MemoryLog(clock.now)
        self.clock = clock
        self.store_now = store_now or clock.now
        self.witness: Witness | None = None
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The definitions; made at first use, because a run without a runtime registers none."""
        if self._registry is None:
            self._registry = Registry()
        return self._registry
