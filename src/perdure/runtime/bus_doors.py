"""The methods of the bus, as the runtime offers them."""

# what a property gives is the bus's own method, whose signature says all
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.runtime.requests import Requests

if TYPE_CHECKING:
    from perdure.runtime.bus import Bus
    from perdure.types.envelope import SystemEvent


class BusDoors(Requests):
    """Whatever has a bus, and passes its methods on.

    Attributes:
        bus: the bus.
    """

    bus: Bus

    @property
    def emit(self):
        """Call everybody who wants to know of an event; see `Bus.emit`."""
        return self.bus.emit

    @property
    def emit_batch(self):
        """Emit several events, in this order."""
        return self.bus.emit_batch

    @property
    def emit_command(self):
        """Emit a command's request or response."""
        return self.bus.emit_command

    @property
    def on(self):
        """Have a handler called with each event of one type or of several; see `Bus.on`."""
        return self.bus.on

    @property
    def on_any(self):
        """Have a handler called with every event."""
        return self.bus.on_any

    @property
    def once(self):
        """Have a handler called with the next event of a type, and then no more."""
        return self.bus.once

    @property
    def on_command(self):
        """Have a handler called with a command's requests or responses."""
        return self.bus.on_command

    @property
    def as_consumer(self):
        """The half of the bus that subscribes and asks."""
        return self.bus.as_consumer

    @property
    def as_producer(self):
        """The half of the bus that emits."""
        return self.bus.as_producer

    async def _request(self, type: str, data: Any, timeout: float) -> SystemEvent:
        return await self.bus.ask(type, data, timeout)
