"""What sessions cost as they grow: posting an event, reading a page, following, on 10 to 100,000 records.

Each case stands beside the least that SQLite allows in the same run, on a table with as many rows of the same bytes:
one awaited insert on a plain writer thread (`_raw`), or reading as many rows by the key of the session and decoding
them. Nothing is subtracted. Neither waits for the disk. A page has 100 events. "Follow" opens a reader behind a
session's last event and posts another, until the reader has it. Each operation must be flat over the sizes: `flat` says
how many times what it takes on 100,000 records is of what it takes on 1,000. `SIZES` and BENCH_FOLDER in the
environment are other sizes, and the folder.
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from _harness import Bench
from _raw import Raw
from perdure import EventPosted, Runtime
from perdure.types.records import SessionEvent, decode_payload, encode_payload

SIZES = tuple(int(one) for one in os.environ.get("SIZES", "10,100,1000,10000,100000").split(","))
PAGE = 100
CONTENT = "Tool search was called with the order 4711 and found five results. " * 5
GROUP = 200


def name(size: int) -> str:
    """Say what the session of a size is called."""
    return f"ses_{size:028}"


async def fill(runtime: Runtime, size: int) -> None:
    """Post the events of a session, many at once."""
    await runtime.session.start(session_id=name(size))
    for start in range(0, size - 1, GROUP):
        some = range(start, min(size - 1, start + GROUP))
        await asyncio.gather(*(post(runtime, size, f"e{n}") for n in some))


async def post(runtime: Runtime, size: int, event_id: str | None = None) -> Any:
    """Post one event."""
    return await runtime.session.event(
        session_id=name(size), type="tool_execution", content=CONTENT, event_id=event_id, metadata={"from_agent": "a"}
    )


class Sessions(Bench):
    """Says also how the largest session compares with one of 1,000 records."""

    def report(self, floor: str | None = None) -> dict[str, Any]:
        """Print the report, and return it."""
        medians = {one.name: one.median for one in self.cases}
        small, large = SIZES[min(2, len(SIZES) - 1)], SIZES[-1]
        kinds = ("append", "append again", "first page", "last page", "follow")
        self.fact("flat", {one: round(medians[f"{one}, {large:,}"] / medians[f"{one}, {small:,}"], 2) for one in kinds})
        return super().report(floor)


class Rows:
    """The same rows in a plain table, as `_raw` has them."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)

    def fill(self, size: int) -> None:
        """Write the rows of a session."""
        data = encode_payload(SessionEvent("tool_execution", CONTENT, "e1", 1, metadata={"from_agent": "a"}))
        row = ("default", name(size), 0, "", "key", "event", 1, data, 0, time.time())
        self.db.execute("BEGIN")
        for n in range(1, size + 1):
            self.db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row[:2], n, *row[3:]))
        self.db.execute("COMMIT")

    def page(self, size: int, *, newest: bool) -> None:
        """Read a page and decode it."""
        rows = self.db.execute(
            "SELECT seq, payload, created_at FROM records WHERE container = 'default' AND session = ? "
            f"ORDER BY seq {'DESC' if newest else ''} LIMIT {PAGE}",
            (name(size),),
        ).fetchall()
        assert [decode_payload(row[1]) for row in rows]


def first(runtime: Runtime, size: int) -> Callable[[], Awaitable[Any]]:
    """Read the first page."""
    return lambda: runtime.session.replay(session_id=name(size), limit=PAGE)


def last(runtime: Runtime, size: int) -> Callable[[], Awaitable[Any]]:
    """Read the last page."""
    return lambda: runtime.session.replay(session_id=name(size), limit=PAGE, newest=True)


def follow(runtime: Runtime, size: int) -> Callable[[], Awaitable[Any]]:
    """Follow a session from its end, and be told of what is posted then."""

    async def once() -> None:
        end = (await runtime.session.replay(session_id=name(size), limit=1, newest=True))[0].seq
        events = runtime.events(name(size), after=end)
        told = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        posted = await post(runtime, size)
        event = await told
        assert isinstance(event, EventPosted) and event.seq == posted.seq
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    return once


def main() -> None:
    """Measure."""
    bench = Sessions("sessions")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as place, asyncio.Runner() as runner:
        folder = Path(place)
        runtime = Runtime(f"sqlite:///{folder}/sessions.db", durability="normal", workers=False)
        raw = Raw(folder / "raw.db", "normal")
        runner.run(runtime.open())
        runner.run(raw.insert())
        rows = Rows(folder / "raw.db")
        began = time.perf_counter()
        for size in SIZES:
            rows.fill(size)
            runner.run(fill(runtime, size))
        bench.fact("filled_events_per_s", round(sum(SIZES) / (time.perf_counter() - began)))
        bench.add("raw insert", raw.insert, number=20)
        for size in SIZES:
            bench.add(f"append, {size:,}", lambda size=size: post(runtime, size), number=20, floor="raw insert")
        for size in SIZES:
            again = lambda size=size: post(runtime, size, "e1")  # noqa: E731  # as short as the others
            bench.add(f"append again, {size:,}", again, number=5, floor="raw insert")
        for which, read in (("first", first), ("last", last)):
            for size in SIZES:
                floor, newest = f"raw {which} page, {size:,}", which == "last"
                bench.add(floor, lambda size=size, newest=newest: rows.page(size, newest=newest), number=5)
                bench.add(f"{which} page, {size:,}", read(runtime, size), number=5, floor=floor)
        for size in SIZES:
            bench.add(f"follow, {size:,}", follow(runtime, size), number=2)
        try:
            bench.run(runner=runner)
        finally:
            rows.db.close()
            raw.close()
            runner.run(runtime.dispose())


if __name__ == "__main__":
    main()
