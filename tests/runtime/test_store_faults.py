"""The store fails in the middle of a run: a pause and then continuation, or a clear error; nothing is done twice."""

import asyncio
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest

from perdure import Agent, Context, RunError, Runtime, tool
from perdure.db.database import (
    Script,
    Sql,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooNew,
    StoreUnreachable,
)
from perdure.db.open import open_database
from perdure.durable.retry import Backoff
from perdure.log.sql import SqlLog
from perdure.testing import call, say
from perdure.testing.conformance import gapless
from perdure.types import records as rec
from tests.db.disks import SmallDisk, small_disk
from tests.db.proxy import CommitProxy
from tests.runtime import desk
from tests.runtime.canon import closings
from tests.runtime.conftest import Processes
from tests.runtime.desk import QUICK, answer, effects, note, until
from tests.servers import PostgresServer

LARGE = "x" * 20_000


@tool(effect="once")
async def work(ctx: Context[Any]) -> str:
    """Begin, wait until the store is out of order, and finish."""
    note("work begins")
    await until((desk.place / "go").exists)
    note("work ends")
    return LARGE


@tool(effect="once")
async def after(ctx: Context[Any]) -> str:
    """Do what comes next."""
    note("after")
    return "done"


def says(asked: str, number: int) -> Any:
    return [call("work"), call("after"), say("end")][number] if asked == "work" else say("fine")


BENCH = Agent("Bench", tools=[work, after], model=answer(says, "bench"))
ONCE = ["model bench 0", "work begins", "work ends", "model bench 1", "after", "model bench 2"]
"""All that a run does, each once."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(desk, "place", tmp_path)
    return tmp_path


# -- what can happen to a store ----------------------------------------------------------------------------------------


class Fault:
    """Something that goes wrong with a store, and how it is put right."""

    def __init__(
        self, url: str, begin: Callable[[Runtime], Awaitable[object]], end: Callable[[], Awaitable[object]]
    ) -> None:
        self.url = url
        self.begin = begin
        self.end = end


def a_full_disk(tmp_path: Path, disk: SmallDisk | None) -> Fault:
    if disk is not None:

        async def fill(rt: Runtime) -> None:
            await asyncio.to_thread(disk.fill)

        async def free() -> None:
            disk.free()

        return Fault(f"sqlite:///{disk.folder}/bench.db", fill, free)
    db: list[Any] = []

    async def limit(rt: Runtime) -> None:
        db.append(rt.db)
        pages = await rt.db.write(lambda: _one("PRAGMA page_count"))
        await rt.db.write(lambda: _one(f"PRAGMA max_page_count = {pages[0][0]}"))

    async def lift() -> None:
        await db[0].write(lambda: _one("PRAGMA max_page_count = 100000"))

    return Fault(f"sqlite:///{tmp_path}/bench.db", limit, lift)


def a_locked_file(tmp_path: Path) -> Fault:
    other = sqlite3.connect(tmp_path / "bench.db", isolation_level=None)

    async def lock(rt: Runtime) -> None:
        other.execute("BEGIN EXCLUSIVE")

    async def unlock() -> None:
        other.execute("ROLLBACK")
        other.close()

    return Fault(f"sqlite:///{tmp_path}/bench.db", lock, unlock)


def a_deleted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fault:
    files = [tmp_path / f"bench.db{end}" for end in ("", "-wal", "-shm")]
    away = tmp_path / "away"
    monkeypatch.setattr("perdure.db.sqlite.LOOK", 0.0)

    async def move(rt: Runtime) -> None:
        away.mkdir()
        for file in files:
            file.rename(away / file.name)

    async def back() -> None:
        for file in files:
            (away / file.name).rename(file)

    return Fault(f"sqlite:///{tmp_path}/bench.db", move, back)


def a_server_that_is_away(postgres: PostgresServer, url: str) -> Fault:
    return Fault(url, lambda rt: asyncio.to_thread(postgres.stop), lambda: asyncio.to_thread(postgres.start))


def a_server_that_only_reads(postgres: PostgresServer, url: str) -> Fault:
    name = url.partition("?")[0].rpartition("/")[2]

    async def only_read(yes: str) -> None:
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {yes}")
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    return Fault(url, lambda rt: only_read("on"), lambda: only_read("off"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(params=["full", "locked", "deleted", "away", "read-only"])
def fault(request: pytest.FixtureRequest, tmp_path: Path) -> Fault:
    if request.param == "full":
        return a_full_disk(tmp_path, request.getfixturevalue("disk"))
    if request.param == "locked":
        return a_locked_file(tmp_path)
    if request.param == "deleted":
        return a_deleted_file(tmp_path, request.getfixturevalue("monkeypatch"))
    server, url = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_url")
    return (a_server_that_is_away if request.param == "away" else a_server_that_only_reads)(server, url)


def _one(text: str) -> Script[list[tuple[Any, ...]]]:
    return (yield Sql(text))


def impatient(url: str, **options: Any) -> Runtime:
    """A runtime that waits for a store only for a moment before it says so."""
    rt = Runtime(url, [BENCH], timing=QUICK, **options)
    rt.db._patience = 0.3  # type: ignore[attr-defined]
    return rt


async def start_work(rt: Runtime) -> Any:
    run = await rt.start(BENCH, "work", session_id="s", run_id="job")
    await until(lambda: "work begins" in effects())
    return run


def is_held(rt: Runtime) -> bool:
    try:
        rt.held.check()
    except StoreBusy:
        return True
    return False


# -- a pause and then continuation -------------------------------------------------------------------------------------


async def test_d24_a_store_that_fails_in_mid_run_is_a_pause(
    fault: Fault, place: Path, caplog: pytest.LogCaptureFixture
):
    async with impatient(fault.url) as rt:
        run = await start_work(rt)
        await fault.begin(rt)
        (place / "go").touch()
        await until(lambda: is_held(rt))
        with pytest.raises(StoreError) as caught:
            await rt.run(BENCH, "hello", session_id="other")
        assert caught.value.retryable
        assert "held" in str(caught.value)
        assert run.status == "running"
        assert effects() == ONCE[:3], "no new work is begun before the finished one is kept"
        await fault.end()
        assert (await run.result()).output == "end"
        assert (await rt.run(BENCH, "hello", session_id="other")).output == "fine"
        records = await rt.session("s").records()
    assert [one for one in effects() if one != "model bench 0"] == ONCE[1:]
    assert gapless([one.seq for one in records])
    assert sum(isinstance(one.payload, rec.RunFinished) for one in records) == 1
    assert "It is tried again" in caplog.text


async def test_d24_a_runtime_is_closed_while_its_store_fails_and_the_next_goes_on(fault: Fault, place: Path):
    rt = impatient(fault.url)
    await rt.__aenter__()
    run = await start_work(rt)
    await fault.begin(rt)
    (place / "go").touch()
    await until(lambda: is_held(rt))
    async with asyncio.timeout(60):
        await rt.__aexit__(None, None, None)
    with pytest.raises((StoreError, RunError)):
        await run.result()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await fault.end()
    async with impatient(fault.url) as rt:
        result = await rt.run(BENCH, "work", session_id="s", run_id="job")
    assert result.output == "end"
    assert effects() == ONCE, "what it held is lost with it: it is in doubt and not done again"
    known = LARGE in str(result.messages)  # a file that was moved away had taken it
    assert known != ("unknown" in str(result.messages))


async def test_d24_a_server_that_restarts_is_a_pause_for_all_runs(
    postgres: PostgresServer, postgres_url: str, place: Path
):
    async with desk.runtime(postgres_url) as rt:
        runs = [await rt.start(desk.DESK, "go", session_id=f"s{n}", run_id=f"job{n}") for n in range(6)]
        for enough in (4, 12):
            await until(lambda enough=enough: sum("model desk" in one or "step" in one for one in effects()) >= enough)
            await asyncio.to_thread(postgres.restart)
        for run in runs:
            async with asyncio.timeout(60):
                assert (await run.result()).output == "done: go"
        for n in range(6):
            assert gapless([one.seq for one in await rt.session(f"s{n}").records()])
    for effect in ("model desk 0", "model desk 1", "charge", "step a", "step b", "model helper 0", "model helper 1"):
        assert effects().count(effect) == 6, f"{effect} was not done once for each run"


async def test_r05_a_server_that_is_away_for_longer_than_death_costs_no_process_its_runs(
    postgres: PostgresServer, postgres_url: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    looks = 0
    async with impatient(postgres_url) as rt, impatient(postgres_url) as other:
        run = await start_work(rt)
        dead = other.worker.owners.dead

        async def counted(now: Callable[[], float]) -> dict[str, int]:
            nonlocal looks
            found = await dead(now)
            looks += 1
            return found

        monkeypatch.setattr(other.worker.owners, "dead", counted)
        await until(lambda: looks)
        await asyncio.to_thread(postgres.stop)
        gone = rt.clock.monotonic()
        await until(lambda: rt.clock.monotonic() - gone > QUICK.death + 0.5)
        await asyncio.to_thread(postgres.start)
        looks = 0
        await until(lambda: looks > 3)
        (place / "go").touch()
        async with asyncio.timeout(60):
            assert (await run.result()).output == "end"
        assert not [one for one in await rt.session("s").records() if isinstance(one.payload, rec.Claimed)]
    assert effects() == ONCE


# -- every call of the log fails once ----------------------------------------------------------------------------------


class Failing:
    """Makes one call of one method of the log fail, before it has done anything or after it has done all."""

    def __init__(self, method: str, at: int, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        inner = getattr(SqlLog, method)

        async def failing(*args: Any, **options: Any) -> Any:
            self.count += 1
            failed = self.count == at
            if failed and when == "before":
                raise StoreUnreachable("The line was cut.", retryable=True)
            result = await inner(*args, **options)
            if failed:
                raise StoreUnreachable("The line was cut.", retryable=True, unknown=True)
            return result

        monkeypatch.setattr(SqlLog, method, failing)


CALLS = {"accept": 2, "append": 11}
"""How often an undisturbed run calls each."""


CASES = [
    (url, name, n, when)
    for url in ("sqlite", "postgres")
    for when in ("before", "after")
    for name, most in CALLS.items()
    for n in range(1, most + 1)
    if url == "sqlite" or n % 4 == 2  # the script is the same one
]


@pytest.mark.parametrize(("url", "method", "at", "when"), CASES, indirect=["url"])
async def test_d24_r03_an_unknown_outcome_repeats_the_append_and_never_the_step(
    method: str, at: int, when: str, url: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perdure.durable.patience.STORE_BACKOFF", Backoff(0.001))
    failing = Failing(method, at, when, monkeypatch)
    async with desk.runtime(url) as rt:
        while True:
            try:
                result = await rt.run(desk.DESK, "go", session_id="s", run_id="job")
                break
            except StoreError as error:  # only what takes a run in: its caller repeats it
                assert error.retryable
                assert (method, at) == ("accept", 1)
        assert result.output == "done: go"
        records = await rt.session("s").records()
    assert failing.count >= CALLS[method]
    assert gapless([one.seq for one in records])
    closings(records)
    for effect in ("model desk 0", "model desk 1", "charge", "step a", "step b", "model helper 0", "model helper 1"):
        assert effects().count(effect) == 1
    kinds = [one.kind for one in records]
    assert (kinds.count("run_finished"), kinds.count("started")) == (1, 1), "an append was written twice"


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_r03_a_line_that_is_cut_at_commits_is_a_pause(
    cut: Literal["before", "after"], postgres: PostgresServer, postgres_url: str, place: Path
):
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    with CommitProxy(f"{postgres.folder}/.s.PGSQL.5432") as proxy:
        async with desk.runtime(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable") as rt:
            run = await rt.start(desk.DESK, "slow", session_id="s", run_id="job")
            await until(lambda: "slow" in effects())

            def again() -> None:
                proxy.skip = 1  # every second commit from now on, whoever makes it
                proxy.cut = cut if proxy.cuts < 6 else None

            proxy.on_cut = again
            again()
            (place / "go").touch()
            async with asyncio.timeout(60):
                assert (await run.result()).output == "done: slow"
            assert proxy.cuts > 1
            records = await rt.session("s").records()
    assert gapless([one.seq for one in records])
    closings(records)
    kinds = [one.kind for one in records]
    assert (kinds.count("run_finished"), kinds.count("started")) == (1, 1)
    assert sorted(effects()) == ["charge", "model desk 0", "model desk 1", "model desk 2", "slow"]


async def test_r03_a_claim_whose_outcome_is_unknown_has_succeeded(
    url: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perdure.durable.patience.STORE_BACKOFF", Backoff(0.001))
    async with desk.runtime(url) as rt:
        first = await rt.start(desk.DESK, "slow", session_id="s")
        queued = await rt.start(desk.DESK, "second", session_id="s")
        await until(lambda: "slow" in effects())
        failing = Failing("claim", 1, "after", monkeypatch)  # a queued run is claimed when its turn has come
        (place / "go").touch()
        async with asyncio.timeout(30):
            assert (await first.result()).output == "done: slow"
            assert (await queued.result()).output == "answer to second"
    assert failing.count == 2, "it is asked again, and finds that it has the run"


# -- clear errors ------------------------------------------------------------------------------------------------------


async def oldest_writer(url: str, number: int) -> None:
    db = open_database(url)
    await db.open()
    await db.write(lambda: _one(f"UPDATE perdure_store SET value = '{number}' WHERE name = 'min_writer'"))
    await db.close()


async def test_d24_a_newer_schema_stops_an_older_process_and_the_newer_one_goes_on(url: str, place: Path):
    async with impatient(url) as rt:
        run = await start_work(rt)
        await oldest_writer(url, 99)
        (place / "go").touch()
        with pytest.raises(StoreTooNew, match="Upgrade this installation"):
            await run.result()
        with pytest.raises(StoreTooNew):
            await rt.run(BENCH, "hello")
    with pytest.raises(StoreTooNew):
        await impatient(url).__aenter__()
    await oldest_writer(url, 1)
    async with impatient(url) as rt:  # as the newer one
        assert (await rt.run(BENCH, "work", session_id="s", run_id="job")).output == "end"
    assert effects() == ONCE


async def test_d24_a_damaged_file_is_a_clear_error_and_no_step_is_repeated(place: Path):
    path = place / "bench.db"
    async with impatient(f"sqlite:///{path}") as rt:
        run = await start_work(rt)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.execute("VACUUM INTO ?", (str(place / "backup.db"),))
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        (place / "go").touch()
        with pytest.raises(StoreCorrupt, match=r"bench\.db is damaged.*Restore a backup"):
            await run.result()
        with pytest.raises(StoreCorrupt):
            await rt.run(BENCH, "hello")
    with pytest.raises(StoreCorrupt):
        await impatient(f"sqlite:///{path}").__aenter__()
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    (place / "backup.db").rename(path)
    async with impatient(f"sqlite:///{path}", take_over=True) as rt:  # it takes the original's place
        assert (await rt.run(BENCH, "work", session_id="s", run_id="job")).output == "end"
    assert effects() == ONCE


async def test_d24_a_disk_that_only_reads_is_said_and_the_run_goes_on_when_it_can_be_written(
    disk: SmallDisk | None, place: Path
):
    path = (disk.folder if disk is not None else place) / "bench.db"
    (place / "go").touch()
    url = f"sqlite:///{path}"
    processes = Processes(url, place)
    assert await processes.run("run", "go", "job", kill="4:after") == -signal.SIGKILL
    if disk is not None:
        disk.only_read(True)
        with pytest.raises((StoreReadOnly, StoreMissing), match=r"bench\.db"):
            await desk.runtime(url).__aenter__()
        disk.only_read(False)
    async with desk.runtime(url) as rt:
        assert (await rt.run(desk.DESK, "go", session_id="s", run_id="job")).output == "done: go"
    assert effects().count("model desk 0") == 1
