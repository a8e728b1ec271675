"""What emitting an event costs, beside a bare loop that calls the same handlers through the same filters.

The budget: emitting to one handler with a filter takes at most three times the bare loop. Then how many events a second
reach a consumer that reads them from the log: 500 that are posted at once while it follows, beside the same posts
without it, and 500 that are there. The store does not wait for the disk.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import Any

from _harness import Bench
from perdure import EventPosted, Runtime
from perdure.runtime.bus import Bus
from perdure.types.envelope import EventContext, SystemEvent

NUMBER = 2_000
EVENT = SystemEvent("text_delta", {"text": "Hello"}, "agent", "stream", context=EventContext(agent_id="agent-1"))
COUNTS = (1, 10, 100)
EVENTS = 500


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


class Buses(Bench):
    """Says also how many events a second reach a consumer that reads the log."""

    def report(self, floor: str | None = None) -> dict[str, Any]:
        """Print the report, and return it."""
        medians = {one.name: one.median for one in self.cases}
        rates = {what: round(EVENTS / medians[what] * 1e6) for what in ("from the log, live", "from the log, again")}
        self.fact("events_per_s", rates)
        return super().report(floor)


class Consumer:
    """A session, events that are posted in it at once, and a reader that has them from the log."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._seen = 0  # the last event that was read

    async def post(self, session_id: str = "alone") -> None:
        """Post events that nobody reads."""
        session = self._runtime.session
        await session.start(session_id=session_id)
        posts = (session.event(session_id=session_id, type="note", content="Hello") for _ in range(EVENTS))
        await asyncio.gather(*posts)

    async def live(self) -> None:
        """Post events, and read them as they come."""
        posting = asyncio.create_task(self.post("live"))
        self._seen = await self._read("live", self._seen)
        await posting

    async def again(self) -> None:
        """Read events that are there."""
        await self._read("again", 0)

    async def _read(self, session_id: str, after: int) -> int:
        left, last = EVENTS, after
        events = self._runtime.events(session_id, after=after)
        async for event in events:
            if isinstance(event, EventPosted):
                left, last = left - 1, event.seq or last
            if not left:
                break
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator
        return last


def main() -> None:
    """Measure."""
    bench = Buses("bus")
    for count in COUNTS:
        floor = f"bare loop, {count}"
        number = NUMBER // count
        bench.add(floor, bare(count), number=number)
        bench.add(f"emit to {count}", bus(count), number=number, floor=floor, most=3.0 if count == 1 else None)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder, asyncio.Runner() as runner:
        runtime = Runtime(f"sqlite:///{folder}/bus.db", durability="normal", workers=False)
        runner.run(runtime.open())
        consumer = Consumer(runtime)
        runner.run(consumer.post("again"))
        runner.run(runtime.session.start(session_id="live"))
        bench.add("posts alone", consumer.post)
        bench.add("from the log, live", consumer.live, floor="posts alone")
        bench.add("from the log, again", consumer.again, floor="posts alone")
        try:
            bench.run(runner=runner)
        finally:
            runner.run(runtime.dispose())


if __name__ == "__main__":
    main()
