"""SQLite: what can be wrong with a file, a disk or a neighbour is a clear error, or a pause and then continuation."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from perdure.db.database import (
    Exists,
    Script,
    Sql,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
)
from perdure.db.sqlite import SqliteDatabase
from perdure.log.log import Log, Token
from perdure.log.sql import SqlLog
from perdure.testing.conformance import owned, step
from tests.db.disks import SmallDisk, small_disk
from tests.log.stores import log_of, opened

NOBODY = 65534


@contextmanager
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else's connection to the same file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def one(text: str, *params: object) -> Script[list[tuple[object, ...]]]:
    return (yield Sql(text, params))


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


async def keys(log: Log) -> list[str | None]:
    return [record.key for record in await log.read_run("run_1")][1:]


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
async def test_the_file_is_made_with_a_write_ahead_log_that_is_synced(
    tmp_path: Path, durability: Literal["full", "normal"], synchronous: int
) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}", durability) as db:
        assert await db.write(lambda: one("PRAGMA journal_mode")) == [("wal",)]
        assert await db.write(lambda: one("PRAGMA synchronous")) == [(synchronous,)]
        assert db.url == f"sqlite:///{path}"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


async def test_a_reader_cannot_write(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as db:
        with pytest.raises(StoreReadOnly):
            await db.read(lambda: one("DELETE FROM records"))


async def test_a_reader_sees_one_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:

        def script() -> Script[list[int]]:
            counts: list[int] = []
            for _ in range(2):
                rows = yield Sql("SELECT COUNT(*) FROM owners")
                counts.append(rows[0][0])
                with other(path) as connection:
                    connection.execute("INSERT INTO owners VALUES (?, 0, '', '')", (f"o{len(counts)}",))
            return counts

        assert await db.read(script) == [0, 0]
        assert await db.read(lambda: one("SELECT COUNT(*) FROM owners")) == [(2,)]


async def test_a_wrong_statement_says_what_is_wrong(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as db:
        with pytest.raises(StoreError, match="no such table: nowhere"):
            await db.write(lambda: one("SELECT * FROM nowhere"))
        await db.write(lambda: one("INSERT INTO owners VALUES ('o', 0, '', '')"))
        with pytest.raises(Exists):
            await db.write(lambda: one("INSERT INTO owners VALUES ('o', 0, '', '')"))


async def test_changes_by_others_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        await db.changed(0)
        assert not await db.changed(0)
        with other(path) as connection:
            connection.execute("INSERT INTO owners VALUES ('o', 0, '', '')")
        assert await db.changed(60)
        assert not await db.changed(0.03)


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    db = SqliteDatabase(str(tmp_path / "log.db"))
    for _ in range(2):
        for doing in (db.read, db.write):
            with pytest.raises(StoreError, match="open it"):
                await doing(lambda: one("SELECT 1"))
        await db.open()
        await db.close()
        await db.close()


# -- files -------------------------------------------------------------------------------------------------------------


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"no folder .*nowhere"):
        await SqliteDatabase(str(tmp_path / "nowhere" / "log.db")).open()


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="cannot be opened"):
        await SqliteDatabase(str(tmp_path)).open()


@pytest.mark.parametrize("content", [b"Dear diary, " * 500, os.urandom(8192)], ids=["text", "noise"])
async def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"diary\.txt is damaged or is no database"):
        await SqliteDatabase(str(path)).open()
    assert path.read_bytes() == content


async def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        token = await owned(log)
        for n in range(100):
            await log.append(token, [step(f"k{n}", "x" * 500)])
    with path.open("rb+") as file:
        pages = path.stat().st_size // 4096
        for page in range(pages - pages // 4, pages):  # behind the schema
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    async with opened(f"sqlite:///{path}") as db:
        with pytest.raises(StoreCorrupt, match="Restore a backup"):
            await log_of(db).read_run("run_1")


async def test_a_lost_blob_is_a_loud_error(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        token = await owned(log)
        await log.append(token, [step("k", "x" * 100_000)])
        with other(path) as connection:
            connection.execute("DELETE FROM blobs")
        with pytest.raises(StoreCorrupt, match=r"record 2 \(step\) .* lost its payload"):
            await log.read_run("run_1")


async def test_a_record_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        await owned(log)
        with other(path) as connection:
            connection.execute("UPDATE records SET kind = 'dream', version = 9, payload = ?", (b'{"type":"dream"}',))
        with pytest.raises(StoreCorrupt, match=r"record 1 \(dream, version 9\) .* upgrade"):
            await log.read_run("run_1")


async def until_missing(log: SqlLog, token: Token) -> int:
    """Append until it is noticed that the file is not there, and say which append it was."""
    for n in itertools.count():
        try:
            await log.append(token, [step(f"k{n}")])
        except StoreMissing as error:
            assert "deleted or replaced" in str(error)
            assert (error.retryable, error.unknown) == (True, True)
            return n
    raise AssertionError


async def test_a_deleted_file_stops_the_work_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    path, away = tmp_path / "log.db", tmp_path / "away"
    away.mkdir()
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        token = await owned(log)
        files = [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]
        for file in files:
            file.rename(away / file.name)
        last = await until_missing(log, token)
        with pytest.raises(StoreMissing, match=r"log\.db"):
            await log.append(token, [step(f"k{last}")], repeat=True)
        assert not path.exists(), "an empty file must not take its place"
        for file in files:
            (away / file.name).rename(file)
        await log.append(token, [step(f"k{last}")], repeat=True)
        await log.append(token, [step("end")])
    async with opened(f"sqlite:///{path}") as db:
        assert await keys(log_of(db)) == [*(f"k{n}" for n in range(last + 1)), "end"]


async def test_a_file_that_was_replaced_is_not_written_to_unseen(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        token = await owned(log)
        await db.write(lambda: one("SELECT 1"))
        copy = tmp_path / "copy.db"
        with other(path) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink()
        copy.replace(path)
        last = await until_missing(log, token)
        await log.append(token, [step(f"k{last}")], repeat=True)
    async with opened(f"sqlite:///{path}") as db:
        assert await keys(log_of(db)) == [f"k{last}"], "it goes on with the file that is there"


READ_ONLY = """
import asyncio, os, sys
from perdure.db.database import StoreError
from perdure.db.migrate import migrate
from perdure.db.sqlite import SqliteDatabase

async def main():
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
    db = SqliteDatabase(sys.argv[1])
    try:
        await db.open()
        await migrate(db, [], "store")
    except StoreError as error:
        print(type(error).__name__, error)
    await db.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["file", "folder", "both"])
async def test_what_cannot_be_written_says_so(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # not below the test's own folder, which nobody else may enter
        folder, path = Path(name), Path(name) / "log.db"
        async with opened(f"sqlite:///{path}"):
            pass
        path.chmod(0o666 if what == "folder" else 0o444)
        folder.chmod(0o777 if what == "file" else 0o555)
        code = READ_ONLY.format(nobody=NOBODY)
        done = await asyncio.to_thread(python, code, str(path))
        folder.chmod(0o755)
        assert done.stdout.startswith(("StoreReadOnly", "StoreMissing")), done.stderr
        assert "log.db" in done.stdout
        assert "check" in done.stdout


# -- neighbours --------------------------------------------------------------------------------------------------------


async def test_a_locked_file_is_waited_for_and_then_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}"):
        pass
    db = SqliteDatabase(str(path), patience=0.05)
    await db.open()
    log = log_of(db)
    token = await owned(log)
    with other(path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match=r"locked by another process for 0\.05 s") as caught:
            await log.append(token, [step("k")])
        assert (caught.value.retryable, caught.value.unknown) == (True, False)
        assert await keys(log) == [], "readers do not wait"
        connection.execute("ROLLBACK")
    await log.append(token, [step("k")])
    assert await keys(log) == ["k"]
    await db.close()


async def test_a_new_file_that_is_locked_is_said_to_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with other(path) as connection:
        connection.execute("CREATE TABLE t (id)")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            await SqliteDatabase(str(path), patience=0.05).open()


async def test_a_writing_script_has_the_file_to_itself_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as db:

        def script() -> Script[None]:
            yield Sql("SELECT 1")
            with other(path) as connection:
                connection.execute("PRAGMA busy_timeout = 0")
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    connection.execute("INSERT INTO owners VALUES ('theirs', 0, '', '')")
            yield Sql("INSERT INTO owners VALUES ('ours', 0, '', '')")

        await db.write(script)
        assert await db.read(lambda: one("SELECT id FROM owners")) == [("ours",)]


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


async def test_a_full_disk_pauses_the_work(disk: SmallDisk | None, tmp_path: Path) -> None:
    path = (disk.folder if disk is not None else tmp_path) / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        log = log_of(db)
        token = await owned(log)
        written: list[str | None] = []

        async def until_full() -> StoreFull:
            for _ in range(10_000):
                try:
                    await log.append(token, [step(f"k{len(written)}", "x" * 500)])
                except StoreFull as error:
                    return error
                written.append(f"k{len(written)}")
            raise AssertionError("the disk never was full")

        await log.append(token, [step("k0", "x" * 500)])
        written.append("k0")
        if disk is not None:
            disk.fill()
        else:
            pages = await db.write(lambda: one("PRAGMA page_count"))
            await db.write(lambda: one(f"PRAGMA max_page_count = {int(str(pages[0][0])) + 5}"))
        for _ in range(2):
            error = await until_full()
            assert error.retryable
            assert await keys(log) == written, "what was acknowledged is there and can be read"
        if disk is not None:
            disk.free()
        else:
            await db.write(lambda: one("PRAGMA max_page_count = 100000"))
        await log.append(token, [step(f"k{len(written)}", "x" * 500)], repeat=error.unknown)
        written.append(f"k{len(written)}")
    async with opened(f"sqlite:///{path}") as db:
        assert await keys(log_of(db)) == written


async def test_a_disk_that_becomes_read_only_pauses_the_work(disk: SmallDisk | None, tmp_path: Path) -> None:
    path = (disk.folder if disk is not None else tmp_path) / "log.db"
    async with opened(f"sqlite:///{path}") as db:
        token = await owned(log_of(db))
    if disk is not None:
        disk.only_read(True)
        with pytest.raises((StoreReadOnly, StoreMissing), match=r"log\.db"):
            async with opened(f"sqlite:///{path}"):
                pass
        disk.only_read(False)
    async with opened(f"sqlite:///{path}") as db:
        await log_of(db).append(token, [step("k")])
        assert await keys(log_of(db)) == ["k"]


LIMITED = """
import asyncio, resource, signal, sys
from perdure.db.database import StoreError
from perdure.testing.conformance import owned, step
from tests.log.stores import log_of, opened

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with opened(sys.argv[1]) as db:
        log = log_of(db)
        token = await owned(log)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
        failed = None
        for n in range(1000):
            try:
                await log.append(token, [step(f"k{n}", "x" * 500)], repeat=failed is not None)
            except StoreError as error:
                assert error.retryable, error
                failed = n
                print(type(error).__name__, error.unknown, error, flush=True)
                break
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for n in range(failed, failed + 10):
            await log.append(token, [step(f"k{n}", "x" * 500)], repeat=n == failed)
        print(failed, flush=True)

asyncio.run(main())
"""


async def test_a_write_that_fails_in_the_middle_leaves_an_outcome_that_is_found_out(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'log.db'}"
    done = await asyncio.to_thread(python, LIMITED, address)
    assert done.returncode == 0, done.stderr
    said, failed = done.stdout.strip().splitlines()
    assert said.startswith("StoreError True"), said
    assert "check the disk" in said
    async with opened(address) as db:
        assert await keys(log_of(db)) == [f"k{n}" for n in range(int(failed) + 10)]
