"""What an awaited append to the log costs beside an awaited raw insert, in one run.

The floor is a plain `sqlite3` insert of the same row into a table with the same primary key, on a writer thread of the
plainest kind: a queue, an insert, a commit, an answer. For many at once the floor commits together what waits, as the
log does. Ours is `SqlLog.append` of one record: fenced, numbered, safe to repeat. Nothing is subtracted. A budget is a
ratio to the floor of the same mode. BENCH_FOLDER names the folder, and with that the disk.
"""

import asyncio
import functools
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from _harness import Bench
from perdure.db.migrate import migrate
from perdure.db.sqlite import SqliteDatabase
from perdure.log.log import Entry, NewRun, Token
from perdure.log.schema import MIGRATIONS
from perdure.log.sql import SqlLog
from perdure.types.records import RunStarted, StepDone, encode_payload

Mode = Literal["full", "normal"]
RESULT = "x" * 420
"""Together with its envelope, 465 bytes: a short answer of a tool."""
RUNS, STEPS = 200, 3


class RawWriter:
    """The plainest thread that inserts for callers who wait; with `most`, it commits together what waits."""

    def __init__(self, path: Path, mode: Mode, most: int) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._most = most
        self._args = (path, mode)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def insert(self, row: tuple[Any, ...]) -> None:
        """Insert a row and return when it is committed."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._jobs.put((row, loop, future))
        await future

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        path, mode = self._args
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {mode}")
        db.execute(
            "CREATE TABLE records (container TEXT, session TEXT, seq INTEGER, run TEXT, key TEXT, kind TEXT, "
            "version INTEGER, payload BLOB, blob INTEGER, created_at REAL, PRIMARY KEY (container, session, seq))"
        )
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while len(jobs) < self._most and self._jobs.qsize():
                jobs.append(self._jobs.get())
            db.execute("BEGIN IMMEDIATE")
            for row, _, _ in jobs:
                db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.execute("COMMIT")
            jobs[0][1].call_soon_threadsafe(_answer, jobs)
        db.close()


def _answer(jobs: list[Any]) -> None:
    for _, _, future in jobs:
        future.set_result(None)


class Floor:
    """Raw inserts of the row that the log would write."""

    def __init__(self, path: Path, mode: Mode, most: int) -> None:
        self._writer = RawWriter(path, mode, most)
        self._seq = 0

    async def one(self, run: int = 0) -> None:
        """Insert one row."""
        self._seq += 1
        key = f"agent/0/infer/{self._seq}"
        payload = encode_payload(StepDone("charge", RESULT))
        row = ("default", f"ses_{run:028}", self._seq, f"run_{run:028}", key, "step", 1, payload, 0, time.time())
        await self._writer.insert(row)

    async def close(self) -> None:
        """End the thread."""
        self._writer.close()


class Ours:
    """Appends to the log, in as many sessions as needed."""

    def __init__(self, path: Path, mode: Mode) -> None:
        self._db = SqliteDatabase(str(path), mode)
        self._log = SqlLog(self._db, time.time, "bench")
        self._tokens: dict[int, Token] = {}
        self._seq = 0

    async def open(self) -> None:
        """Open the store, and take the runs in."""
        await self._db.open()
        await migrate(self._db, MIGRATIONS, "store_bench")
        for run in range(RUNS):
            new = NewRun(f"run_{run:028}", f"ses_{run:028}", "A")
            accepted = await self._log.accept(new, RunStarted("A", "agent", ()))
            assert accepted.token is not None
            self._tokens[run] = accepted.token

    async def one(self, run: int = 0) -> None:
        """Append one record."""
        self._seq += 1
        await self._log.append(self._tokens[run], [Entry(f"agent/0/infer/{self._seq}", StepDone("charge", RESULT))])

    async def close(self) -> None:
        """Close the store."""
        await self._db.close()


async def at_once(one: Callable[[int], Awaitable[None]]) -> None:
    """Let many runs write at the same time, each one record after the other."""

    async def run(n: int) -> None:
        for _ in range(STEPS):
            await one(n)

    await asyncio.gather(*(run(n) for n in range(RUNS)))


def main() -> None:
    """Measure and report."""
    bench = Bench("log")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder, asyncio.Runner() as runner:
        stores: list[Floor | Ours] = []
        modes: tuple[Mode, ...] = ("full", "normal")
        for mode in modes:
            single, grouped = (Floor(Path(folder) / f"{mode}-{most}.db", mode, most) for most in (1, 256))
            ours = Ours(Path(folder) / f"{mode}.db", mode)
            runner.run(ours.open())
            stores += [single, grouped, ours]
            bench.add(f"raw insert, {mode}", single.one, number=100)
            bench.add(f"append, {mode}", ours.one, number=100, floor=f"raw insert, {mode}", most=1.4)
            floor = f"raw, {RUNS} at once, {mode}"
            bench.add(floor, functools.partial(at_once, grouped.one), unit="ms")
            many = functools.partial(at_once, ours.one)
            bench.add(f"append, {RUNS} at once, {mode}", many, unit="ms", floor=floor, most=4.0)
        bench.run()
        for store in stores:
            runner.run(store.close())


if __name__ == "__main__":
    main()
