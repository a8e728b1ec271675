"""Short transactions on the event loop's own thread: the same promises as the writer thread's, and it never waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from sqlite3 import connect

import pytest

from perdure.db import here, sqlite
from perdure.db.database import Exists, Script, Sql, StoreError
from perdure.db.sqlite import SqliteDatabase

Ran = list[str]


@asynccontextmanager
async def table(path: Path) -> AsyncIterator[SqliteDatabase]:
    """A file with one table, in the mode whose commits do not wait for the disk."""
    db = SqliteDatabase(str(path), "normal")
    await db.open()
    try:
        await db.write(lambda: told([], "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY)"))
        yield db
    finally:
        await db.close()


def told(ran: Ran, text: str = "INSERT INTO t DEFAULT VALUES RETURNING id", *params: object) -> Script[int]:
    """Run one statement, and tell in which thread."""
    ran.append(threading.current_thread().name)
    rows = yield Sql(text, params)
    return int(rows[0][0]) if rows else 0


def count(path: Path) -> int:
    with closing(connect(path)) as file:
        return int(file.execute("SELECT COUNT(*) FROM t").fetchone()[0])


async def test_a_brief_script_runs_in_the_loops_own_thread_and_others_do_not(tmp_path: Path) -> None:
    ran: Ran = []
    async with table(tmp_path / "a.db") as db:
        assert await db.write(lambda: told(ran), brief=True) == 1
        assert await db.write(lambda: told(ran)) == 2
        assert count(tmp_path / "a.db") == 2  # committed before their callers were answered
    assert ran == [threading.current_thread().name, "perdure-writer"]


async def test_in_full_mode_every_commit_is_the_threads(tmp_path: Path) -> None:
    ran: Ran = []
    async with table(tmp_path / "a.db"):
        pass
    db = SqliteDatabase(str(tmp_path / "a.db"), "full")
    await db.open()
    await db.write(lambda: told(ran), brief=True)
    await db.close()
    assert ran == ["perdure-writer"]


async def test_many_at_once_are_few_commits_and_one_that_fails_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with table(path) as db, asyncio.timeout(30):
        texts = ["INSERT INTO t DEFAULT VALUES RETURNING id"] * 500
        texts[250] = "INSERT INTO t VALUES (1)"
        done = await asyncio.gather(
            *(db.write(lambda text=text: told([], text), brief=True) for text in texts), return_exceptions=True
        )
        assert [n for n, one in enumerate(done) if isinstance(one, BaseException)] == [250]
        assert isinstance(done[250], Exists)
        assert count(path) == 499


async def test_a_file_that_somebody_holds_is_waited_for_by_the_thread_and_not_by_the_loop(tmp_path: Path) -> None:
    path, ran = tmp_path / "a.db", Ran()
    async with table(path) as db, asyncio.timeout(30):
        await db.write(lambda: told([]), brief=True)
        with closing(connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(db.write(lambda: told(ran), brief=True))
            turns = 0
            while not db._writer.busy:  # type: ignore[union-attr]
                await asyncio.sleep(0)
                turns += 1
            assert turns > 0, "the loop goes on"
            assert not writing.done()
            other.execute("COMMIT")
        assert await writing == 2
    assert ran == ["perdure-writer"], "it had not begun before, so it was done once"
    assert count(path) == 2


@pytest.mark.parametrize("where", ["script", "commit"])
async def test_what_breaks_a_commit_off_leaves_nothing_open(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"

    def ctrl_c(*_: object) -> Script[int]:
        yield Sql("INSERT INTO t DEFAULT VALUES")
        raise KeyboardInterrupt

    def in_commit(*_: object) -> None:
        raise KeyboardInterrupt

    async with table(path) as db, asyncio.timeout(30):
        local = db._here
        assert local is not None
        await db.write(lambda: told([]), brief=True)
        script = ctrl_c if where == "script" else lambda: told([])
        first, second = (asyncio.create_task(db.write(one, brief=True)) for one in (script, lambda: told([])))
        await asyncio.sleep(0)
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            if where == "commit":
                broken.setattr(local._connection, "commit", in_commit)
            local._turn()  # as the loop would call it next
        with pytest.raises(StoreError) as failed:
            await first
        assert (failed.value.retryable, failed.value.unknown) == (True, where == "commit")
        if where == "commit":
            with pytest.raises(StoreError):
                await second
        else:
            assert await second == 2, "what stood beside it is committed"
        expected = 2 if where == "commit" else 3
        assert await db.write(lambda: told([]), brief=True) == expected, "what was broken off is not there"
        assert count(path) == expected


async def test_the_write_ahead_log_is_copied_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "COMMITS", 50)
    monkeypatch.setattr(sqlite, "CHECKPOINT", 200)
    path = tmp_path / "a.db"
    async with table(path) as db, asyncio.timeout(60):
        for _ in range(2_000):
            await db.write(lambda: told([]), brief=True)
        assert path.with_name("a.db-wal").stat().st_size < 1_000 * 4_120
    assert count(path) == 2_000


async def test_closing_finishes_what_was_handed_in(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with table(path) as db, asyncio.timeout(30):
        writes = [asyncio.create_task(db.write(lambda: told([]), brief=True)) for _ in range(200)]
        await asyncio.sleep(0)
    assert sorted(await asyncio.gather(*writes)) == list(range(1, 201))
    with pytest.raises(StoreError, match="closed"):
        await db.write(lambda: told([]), brief=True)


async def test_another_event_loop_uses_the_thread(tmp_path: Path) -> None:
    ran: Ran = []
    async with table(tmp_path / "a.db") as db, asyncio.timeout(30):
        await asyncio.to_thread(lambda: asyncio.run(db.write(lambda: told(ran), brief=True)))
    assert ran == ["perdure-writer"]
