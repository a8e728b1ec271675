"""The floor under every durable write: the plainest thread that inserts into SQLite for callers who wait.

A queue, an insert, a commit, an answer; with `most`, what waits is committed together. It inserts the row that the log
would write, into a table with the same primary key.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Literal

from perdure.types.records import StepDone, encode_payload

Mode = Literal["full", "normal"]
RESULT = "x" * 420
"""Together with its envelope, 465 bytes: a short answer of a tool."""


class Raw:
    """Raw inserts of the row that the log would write."""

    def __init__(self, path: Path, mode: Mode, most: int = 1) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._most = most
        self._seq = 0
        self._thread = threading.Thread(target=self._run, args=(path, mode))
        self._thread.start()

    async def inserts(self, count: int) -> None:
        """Insert rows one after the other, each when the one before is committed."""
        for _ in range(count):
            await self.insert()

    async def insert(self, run: int = 0) -> None:
        """Insert a row and return when it is committed."""
        self._seq += 1
        key = f"agent/0/infer/{self._seq}"
        payload = encode_payload(StepDone("charge", RESULT))
        row = ("default", f"ses_{run:028}", self._seq, f"run_{run:028}", key, "step", 1, payload, 0, time.time())
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._jobs.put((row, loop, future))
        await future

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self, path: Path, mode: Mode) -> None:
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
