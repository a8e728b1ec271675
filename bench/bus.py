"""What emitting an event costs, beside a bare loop that calls the same handlers through the same filters.

The budget: emitting to one handler with a filter takes at most three times the bare loop.
"""

from collections.abc import Callable

from _harness import Bench
from perdure.runtime.bus import Bus
from perdure.types.envelope import EventContext, SystemEvent

NUMBER = 2_000
EVENT = SystemEvent("text_delta", {"text": "Hello"}, "agent", "stream", context=EventContext(agent_id="agent-1"))
COUNTS = (1, 10, 100)


def handle(event: SystemEvent) -> None:
    """Do what the least of handlers does."""
    assert event is EVENT


def mine(event: SystemEvent) -> bool:
    """Say yes, after a look at whom it belongs to."""
    return event.context.agent_id == "agent-1"


def bare(count: int) -> Callable[[], None]:
    """Call handlers in a loop."""
    handlers = [(handle, mine)] * count

    def emit() -> None:
        for handler, filter in handlers:
            if filter(EVENT):
                handler(EVENT)

    return emit


def bus(count: int, priority: Callable[[int], int] = lambda n: 0) -> Callable[[], None]:
    """Emit to handlers on a bus, among others that want something else."""
    found = Bus()
    for n in range(count):
        found.on("text_delta", handle, filter=mine, priority=priority(n))
        found.on("message_stop", handle)
    return lambda: found.emit(EVENT)


bench = Bench("bus")
for count in COUNTS:
    floor = f"bare loop, {count}"
    number = NUMBER // count
    bench.add(floor, bare(count), number=number)
    bench.add(f"emit to {count}", bus(count), number=number, floor=floor, most=3.0 if count == 1 else None)
bench.run()
