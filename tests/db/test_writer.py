"""The writer thread: what waits is committed together, each script alone may fail, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.db.database import Exists, Script, Sql, StoreBusy, StoreError, StoreFull
from perdure.db.writer import Connection, Worker


class Recording(Connection):
    """A real connection whose steps are noted, and which can be told to fail or to wait."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY)")
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.before_commit: Callable[[], object] = lambda: None

    def note(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            raise self.fails.pop(what)

    def begin(self) -> None:
        self.note("begin")
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.before_commit()
        self.note("commit")
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        self.note("rollback")
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def savepoint(self) -> None:
        self.db.execute("SAVEPOINT one")

    def release(self) -> None:
        self.db.execute("RELEASE one")

    def undo(self) -> None:
        self.note("undo")
        self.db.execute("ROLLBACK TO one")
        self.db.execute("RELEASE one")

    def execute(self, statement: Sql) -> list[tuple[object, ...]]:
        return self.db.execute(statement.text, statement.params).fetchall()

    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        if isinstance(error, sqlite3.IntegrityError):
            return Exists(str(error))
        if isinstance(error, OSError):
            return StoreError(str(error), retryable=True, unknown=committing)
        return error

    def close(self) -> None:
        self.db.close()
        self.note("close")


Hand = Callable[[Callable[[], Script[object]]], "asyncio.Task[object]"]


class Store:
    """A worker over one file, and the connections that it has made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Recording] = []
        self.fails: list[BaseException] = []
        self.worker = Worker("test-writer", self.connect, most=100)

    def connect(self, first: bool) -> Connection:
        assert first == (not self.connections)
        if self.fails:
            raise self.fails.pop()
        self.connections.append(Recording(self.path))
        return self.connections[-1]

    def kept(self) -> list[int]:
        """What another connection sees."""
        db = sqlite3.connect(self.path)
        rows = db.execute("SELECT id FROM t ORDER BY id").fetchall()
        db.close()
        return [row[0] for row in rows]

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[Hand]:
        """Keep the thread busy, so that what is handed in meanwhile comes into one group."""
        begun, free = threading.Event(), threading.Event()

        def busy() -> Script[None]:
            begun.set()
            assert free.wait(60)
            yield Sql("SELECT 1")

        first = self.hand(busy)
        await asyncio.to_thread(begun.wait, 60)
        try:
            yield self.hand
            await asyncio.sleep(0)  # the tasks begin, and with that hand their scripts in
        finally:
            free.set()
            await first

    def hand(self, make: Callable[[], Script[object]]) -> asyncio.Task[object]:
        """Hand a script in."""
        return asyncio.create_task(self.worker.submit(make))

    async def together(self, *makes: Callable[[], Script[object]]) -> list[object]:
        """Have scripts done in one group, and give their values or the types of their errors."""
        async with self.busy() as hand:
            tasks = [hand(make) for make in makes]
        return await outcomes(tasks)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "t.db")
    await store.worker.start()
    yield store
    await store.worker.stop()


def fail_second(connection: Recording) -> Callable[[], None]:
    """Let the commit after the next one fail."""

    def before() -> None:
        connection.before_commit = lambda: connection.fails.update(commit=OSError("the disk broke"))

    return before


def insert(id: int, then: BaseException | None = None) -> Callable[[], Script[int]]:
    def script() -> Script[int]:
        yield Sql("INSERT INTO t VALUES (?)", (id,))
        if then is not None:
            raise then
        return id

    return script


async def outcomes(tasks: Sequence[asyncio.Task[Any]]) -> list[object]:
    got = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one for one in got]


async def test_what_waits_is_committed_together(store: Store) -> None:
    assert await store.together(*(insert(n) for n in range(50))) == list(range(50))
    assert store.kept() == list(range(50))
    assert store.connections[0].done.count("commit") == 2


async def test_callers_are_answered_only_after_the_commit(store: Store) -> None:
    reached, free = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert free.wait(60)

    store.connections[0].before_commit = wait
    tasks = [asyncio.create_task(store.worker.submit(insert(n))) for n in range(3)]
    await asyncio.to_thread(reached.wait, 60)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    assert store.kept() == []
    free.set()
    assert await outcomes(tasks) == [0, 1, 2]
    assert store.kept() == [0, 1, 2]


async def test_a_script_that_fails_is_undone_alone(store: Store) -> None:
    scripts = insert(1), insert(2, then=ValueError("no")), insert(1), insert(3), insert(4)
    assert await store.together(*scripts) == [1, ValueError, Exists, 3, 4]
    assert store.kept() == [1, 3, 4]
    assert len(store.connections) == 1


async def test_one_script_that_fails_is_undone(store: Store) -> None:
    with pytest.raises(ValueError, match="no"):
        await store.worker.submit(insert(1, then=ValueError("no")))
    assert await store.worker.submit(insert(2)) == 2
    assert store.kept() == [2]


async def test_a_script_may_go_on_after_an_error_of_its_statement(store: Store) -> None:
    def careful() -> Script[str]:
        try:
            yield Sql("INSERT INTO t VALUES (1)")
        except sqlite3.IntegrityError:
            yield Sql("INSERT INTO t VALUES (2)")
            return "second"
        return "first"

    assert [await store.worker.submit(careful), await store.worker.submit(careful)] == ["first", "second"]
    assert store.kept() == [1, 2]


async def test_when_one_script_breaks_the_connection_the_others_are_done_on_a_new_one(store: Store) -> None:
    scripts = insert(1), insert(2, then=StoreFull("full", retryable=True)), insert(3)
    assert await store.together(*scripts) == [1, StoreFull, 3]
    assert store.kept() == [1, 3]
    assert store.connections[0].done[-1] == "close"
    assert len(store.connections) == 3  # and one more after the script that breaks each


async def test_a_failed_commit_is_everybodys_and_the_connection_is_made_anew(store: Store) -> None:
    first = store.connections[0]
    async with store.busy() as hand:
        tasks = [hand(insert(n)) for n in (5, 6)]
        first.before_commit = fail_second(first)
    got = await asyncio.gather(*tasks, return_exceptions=True)
    for one in got:
        assert isinstance(one, StoreError)
        assert (one.unknown, one.retryable) == (True, True)
    assert first.done[-2:] == ["rollback", "close"]
    assert await store.worker.submit(insert(7)) == 7
    assert len(store.connections) == 2


async def test_a_busy_database_keeps_its_connection(store: Store) -> None:
    store.connections[0].fails["begin"] = StoreBusy("busy", retryable=True)
    with pytest.raises(StoreBusy):
        await store.worker.submit(insert(1))
    assert await store.worker.submit(insert(1)) == 1
    assert len(store.connections) == 1


async def test_what_cannot_be_opened_again_says_so_until_it_can(store: Store) -> None:
    store.connections[0].fails["commit"] = OSError("the disk broke")
    store.fails = [StoreFull("still full"), StoreFull("still full")]
    with pytest.raises(StoreError, match="the disk broke"):
        await store.worker.submit(insert(1))
    for _ in range(2):
        with pytest.raises(StoreFull, match="still full"):
            await store.worker.submit(insert(1))
    assert await store.worker.submit(insert(1)) == 1


async def test_closing_finishes_what_was_handed_in(store: Store) -> None:
    tasks = [asyncio.create_task(store.worker.submit(insert(n))) for n in range(200)]
    await asyncio.sleep(0)
    await store.worker.stop()
    assert await outcomes(tasks) == list(range(200))
    assert store.connections[0].done[-1] == "close"
    with pytest.raises(StoreError, match="closed"):
        await store.worker.submit(insert(999))
    await store.worker.stop()


async def test_an_error_of_closing_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "t.db")
    await store.worker.start()
    store.connections[0].fails["close"] = OSError("the disk broke")
    with pytest.raises(OSError, match="the disk broke"):
        await store.worker.stop()


async def test_a_connection_that_fails_at_first_is_told_and_leaves_no_thread(tmp_path: Path) -> None:
    store = Store(tmp_path / "t.db")
    store.fails = [StoreFull("full")]
    with pytest.raises(StoreFull):
        await store.worker.start()
    await store.worker.stop()
    with pytest.raises(StoreError, match="closed"):
        await store.worker.submit(insert(1))
    assert "test-writer" not in {thread.name for thread in threading.enumerate() if thread.is_alive()}


async def test_who_gives_up_does_not_undo_what_was_handed_in(store: Store) -> None:
    async with store.busy() as hand:
        tasks = [hand(make) for make in (insert(1), insert(2, then=ValueError("nobody hears this")), insert(3))]
        await asyncio.sleep(0)
        for one in tasks[:2]:
            one.cancel()
    assert await outcomes(tasks) == [asyncio.CancelledError, asyncio.CancelledError, 3]
    assert store.kept() == [1, 3]


async def test_several_event_loops_use_one_worker(store: Store) -> None:
    def elsewhere(n: int) -> object:
        return asyncio.run(store.worker.submit(insert(n)))

    assert await asyncio.gather(*(asyncio.to_thread(elsewhere, n) for n in range(5))) == list(range(5))
    assert store.kept() == list(range(5))


async def test_an_event_loop_that_has_gone_hurts_nobody_else(store: Store) -> None:
    free = threading.Event()

    def busy() -> Script[None]:
        free.wait(60)
        yield Sql("SELECT 1")

    async def leave() -> None:
        task = asyncio.create_task(store.worker.submit(busy))
        await asyncio.sleep(0)
        task.cancel()

    await asyncio.to_thread(lambda: asyncio.run(leave()))
    free.set()
    assert await store.worker.submit(insert(1)) == 1
