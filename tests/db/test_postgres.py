"""PostgreSQL: what the server, the network or a neighbour does is a clear error, or a pause and then continuation."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import psycopg
import pytest

from perdure.db.database import Exists, Guard, Script, Sql, StoreBusy, StoreError, StoreReadOnly, StoreUnreachable
from perdure.db.open import open_database
from perdure.db.postgres import PostgresDatabase, map_error
from perdure.log.log import Entry
from perdure.log.sql import SqlLog
from perdure.testing.conformance import DONE, gapless, owned, step
from perdure.types.errors import DefinitionError, MissingExtra
from perdure.types.records import Started
from tests.db.proxy import CommitProxy
from tests.log.stores import log_of, opened
from tests.servers import PostgresServer


def one(text: str, *params: object) -> Script[list[tuple[object, ...]]]:
    return (yield Sql(text, params))


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    db = PostgresDatabase(postgres_url)
    await db.open()
    await db.write(lambda: one("CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL DEFAULT 0)"))
    await db.write(lambda: one("INSERT INTO t VALUES (1), (2)"))
    yield db
    await db.close()


async def count(db: PostgresDatabase) -> list[Any]:
    return [row[0] for row in await db.read(lambda: one("SELECT n FROM t ORDER BY id"))]


# -- addresses ---------------------------------------------------------------------------------------------------------


async def test_an_address_is_shown_without_its_password() -> None:
    for address, shown in (
        ("postgresql://ada:secret@db.example:5433/app?sslmode=require", "postgresql://ada@db.example:5433/app"),
        ("postgres://db.example/app?password=secret", "postgres://db.example/app"),
        ("postgresql:///app?host=/run/pg&user=ada", "postgresql:///app?host=/run/pg"),
    ):
        db = open_database(address)
        assert db.url == shown
        assert "secret" not in repr(db)


async def test_a_wrong_address_is_said_at_once(postgres_url: str) -> None:
    for address in ("postgresql://ada:secret@127.0.0.1:1/app", postgres_url.replace("/test_", "/no_such_")):
        with pytest.raises(StoreUnreachable, match="does not answer") as caught:
            await PostgresDatabase(address).open()
        assert caught.value.retryable
        assert "secret" not in str(caught.value)


async def test_what_is_no_address_is_refused_without_showing_the_password() -> None:
    with pytest.raises(DefinitionError, match="no address") as caught:
        await PostgresDatabase("postgresql://ada:secret@db.example/app?nonsense=1").open()
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"perdure\[postgres\]"):
        await PostgresDatabase("postgresql://db.example/app").open()


async def test_a_closed_database_says_so(postgres_url: str) -> None:
    db = PostgresDatabase(postgres_url)
    for _ in range(2):
        for doing in (db.read, db.write):
            with pytest.raises(StoreError, match="open it"):
                await doing(lambda: one("SELECT 1"))
        await db.open()
        await db.close()
        await db.close()


# -- transactions ------------------------------------------------------------------------------------------------------


async def test_a_script_that_fails_leaves_nothing(db: PostgresDatabase) -> None:
    def script() -> Script[None]:
        yield Sql("UPDATE t SET n = 7")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.write(script)
    with pytest.raises(Exists):
        await db.write(lambda: one("INSERT INTO t VALUES (3), (1)"))
    with pytest.raises(StoreError, match="nowhere"):
        await db.write(lambda: one("SELECT * FROM nowhere"))
    assert await count(db) == [0, 0]


async def test_a_reader_cannot_write(db: PostgresDatabase) -> None:
    with pytest.raises(StoreReadOnly):
        await db.read(lambda: one("DELETE FROM t"))


async def test_a_script_that_hides_an_error_is_not_taken_for_committed(db: PostgresDatabase) -> None:
    def script() -> Script[str]:
        yield Sql("UPDATE t SET n = 7")
        with suppress(psycopg.Error):
            yield Sql("SELECT * FROM nowhere")
        return "done"

    with pytest.raises(StoreError, match="nothing was committed"):
        await db.write(script)
    assert await count(db) == [0, 0]


async def test_who_gives_up_does_not_undo_what_was_handed_in(postgres_url: str, db: PostgresDatabase) -> None:
    lone = PostgresDatabase(postgres_url, connections=1)
    await lone.open()
    async with await psycopg.AsyncConnection.connect(postgres_url) as holder:
        await holder.execute("UPDATE t SET n = 1 WHERE id = 1")
        waiting = asyncio.create_task(lone.write(lambda: one("UPDATE t SET n = n + 7 WHERE id = 1")))
        waits = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE t SET n = n +%' AND wait_event_type = 'Lock'"
        while not await db.read(lambda: one(waits)):
            pass
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await lone.close()  # waits for it
    assert await count(db) == [8, 0]


async def test_giving_up_at_any_moment_leaves_no_transaction_open_and_no_connection_lost(
    postgres_url: str, db: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "psycopg")
    lone = PostgresDatabase(postgres_url, connections=1)
    await lone.open()
    db.guard(guard := Guard(Sql("SELECT 1"), lambda rows: None))
    lone.guard(guard)

    def several() -> Script[None]:
        yield Sql("SELECT 1 FROM t WHERE id = 1 FOR UPDATE", blind=True)
        yield Sql("SELECT n FROM t WHERE id = 1")
        yield Sql("UPDATE t SET n = n + 1 WHERE id = 1", blind=True)

    moments = done = 0
    while done < 3:  # one more turn of the loop each time, until it is over before it is cancelled
        task = asyncio.create_task(lone.write(several, notify=True))
        for _ in range(moments):
            await asyncio.sleep(0)
        moments += 1
        task.cancel()
        try:
            await task
            done += 1
        except asyncio.CancelledError:
            done = 0
        await lone.read(lambda: one("SELECT n FROM t"))  # the one connection is there again
    assert await count(lone) == [moments - 1, 0], "each was committed, but for the one that was cancelled unborn"
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    assert await db.read(lambda: one(idle)) == [(0,)]
    await lone.close()
    assert caplog.text == ""


async def test_what_loses_against_another_is_repeated(db: PostgresDatabase) -> None:
    tries: list[int] = []
    both = asyncio.Barrier(2)

    def crossing(first: int) -> Script[None]:
        tries.append(first)
        yield Sql("UPDATE t SET n = n + 1 WHERE id = ?", (first,))
        yield Sql("SELECT pg_sleep(0.05)")  # so that both hold one row before they ask for the other
        yield Sql("UPDATE t SET n = n + 1 WHERE id = ?", (3 - first,))

    async def write(first: int) -> None:
        await both.wait()
        await db.write(lambda: crossing(first))

    await asyncio.gather(write(1), write(2))
    assert await count(db) == [2, 2]
    assert len(tries) > 2, "the server saw no deadlock"


async def test_what_could_not_be_serialised_is_repeated(db: PostgresDatabase) -> None:
    tries: list[int] = []

    def increase() -> Script[None]:
        tries.append(1)
        yield Sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        rows = yield Sql("SELECT n FROM t WHERE id = 1")
        yield Sql("SELECT pg_sleep(0.02)")
        yield Sql("UPDATE t SET n = ? WHERE id = 1", (rows[0][0] + 1,))

    await asyncio.gather(*(db.write(increase) for _ in range(3)))
    assert (await count(db))[0] == 3
    assert len(tries) > 3


async def test_rows_that_others_hold_are_waited_for_and_then_named(postgres_url: str, db: PostgresDatabase) -> None:
    hasty = PostgresDatabase(postgres_url, patience=0.1)
    await hasty.open()
    with psycopg.connect(postgres_url) as other:
        other.execute("UPDATE t SET n = 5")
        with pytest.raises(StoreBusy, match="holds the same rows") as caught:
            await hasty.write(lambda: one("UPDATE t SET n = n + 1"))
        assert (caught.value.retryable, caught.value.unknown) == (True, False)
        other.commit()
    await hasty.write(lambda: one("UPDATE t SET n = n + 1"))
    assert await count(db) == [6, 6]
    await hasty.close()


async def test_a_process_that_stops_in_the_middle_holds_up_nobody(postgres_url: str, db: PostgresDatabase) -> None:
    stopped = PostgresDatabase(postgres_url, patience=0.1)
    await stopped.open()
    pool: Any = stopped._pool
    connection = await pool.getconn()
    await connection.execute("BEGIN")
    await connection.execute("UPDATE t SET n = 5")
    await db.write(lambda: one("UPDATE t SET n = n + 1"))  # waits until the server has ended the other's transaction
    assert await count(db) == [1, 1]
    await pool.putconn(connection)
    await stopped.close()


async def test_all_connections_in_use_is_said(postgres_url: str, db: PostgresDatabase) -> None:
    small = PostgresDatabase(postgres_url, connections=1, patience=0.1)
    await small.open()
    pool: Any = small._pool
    connection = await pool.getconn()
    with pytest.raises(StoreUnreachable, match="all 1 connections are in use"):
        await small.read(lambda: one("SELECT 1"))
    await pool.putconn(connection)
    assert await count(small) == [0, 0]
    await small.close()


async def test_a_notification_wakes_who_waits(postgres_url: str, db: PostgresDatabase) -> None:
    other = PostgresDatabase(postgres_url)
    await other.open()
    assert await db.changed(0.01), "what happened before one listened is not known"
    assert not await db.changed(0.01)
    await other.write(lambda: one("UPDATE t SET n = 1"))
    assert not await db.changed(0.01)
    waiting = asyncio.create_task(db.changed(60))
    await other.write(lambda: one("UPDATE t SET n = 2"), notify=True)
    assert await waiting
    await other.close()


# -- the server goes and comes -----------------------------------------------------------------------------------------


async def test_a_restarted_server_is_a_pause(postgres: PostgresServer, postgres_url: str) -> None:
    async with opened(postgres_url) as db:
        log = log_of(db)
        tokens = [await owned(log, f"run_{n}", f"ses_{n}") for n in range(8)]
        unknown: list[bool] = []
        enough = [asyncio.Event(), asyncio.Event()]
        written = 0
        restarted = asyncio.Event()

        async def work(n: int) -> int:
            nonlocal written
            k = 0
            while not restarted.is_set() or k < 50:
                repeat = False
                while True:
                    try:
                        await log.append(tokens[n], [step(f"k{k}", "x" * 100)], repeat=repeat)
                        break
                    except StoreError as error:
                        assert error.retryable, error
                        unknown.append(error.unknown)
                        repeat = True
                        await asyncio.sleep(0.01)
                k += 1
                written += 1
                if written > 100:
                    enough[0].set()
                if written > 500:
                    enough[1].set()
            return k

        working = [asyncio.create_task(work(n)) for n in range(8)]
        for one_more in enough:
            await one_more.wait()
            await asyncio.to_thread(postgres.restart)
        restarted.set()
        done = await asyncio.gather(*working)
        for n, k in enumerate(done):
            records = await log.read_run(f"run_{n}")
            assert gapless([one.seq for one in records])
            assert [one.key for one in records][1:] == [f"k{m}" for m in range(k)]


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_outcome_is_unknown_is_repeated_safely(
    postgres: PostgresServer, postgres_url: str, cut: Literal["before", "after"]
) -> None:
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    with CommitProxy(f"{postgres.folder}/.s.PGSQL.5432") as proxy:
        async with opened(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable") as db:
            await check_cuts(log_of(db), proxy, cut)


async def check_cuts(log: SqlLog, proxy: CommitProxy, cut: Literal["before", "after"]) -> None:
    token = await owned(log)
    for n, entries in enumerate(([step("a")], [Entry(None, Started("x"))], [step("b"), DONE])):
        proxy.cut = cut
        with pytest.raises(StoreUnreachable) as caught:
            await log.append(token, entries)
        assert (caught.value.unknown, caught.value.retryable, proxy.cuts) == (True, True, n + 1)
        kept = len(await log.read_run("run_1"))
        last = await log.append(token, entries, repeat=True)
        assert len(await log.read_run("run_1")) == last == kept + (len(entries) if cut == "before" else 0)
    assert [one.key or one.kind for one in await log.read_run("run_1")][1:] == ["a", "started", "b", "run_finished"]


async def test_a_server_that_is_away_is_said_to_be_away(postgres: PostgresServer, postgres_url: str) -> None:
    db = PostgresDatabase(postgres_url, patience=0.5)
    await db.open()
    await db.write(lambda: one("CREATE TABLE t (id INT)"))
    postgres.stop()
    try:
        for doing in (db.read, db.write):
            with pytest.raises(StoreUnreachable) as caught:
                await doing(lambda: one("SELECT 1 FROM t"))
            assert (caught.value.retryable, caught.value.unknown) == (True, False)
        with pytest.raises(StoreUnreachable):
            await db.changed(1)
    finally:
        postgres.start()
    assert await db.changed(0.01)
    await asyncio.wait_for(_until_back(db), 60)
    await db.close()


async def _until_back(db: PostgresDatabase) -> None:
    while True:
        try:
            return await db.write(lambda: _nothing())
        except StoreUnreachable:
            await asyncio.sleep(0.01)


def _nothing() -> Script[None]:
    yield Sql("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (psycopg.OperationalError("the connection was lost"), True),
        (psycopg.errors.AdminShutdown("going down"), True),
        (psycopg.errors.TooManyConnections("no room"), True),
        (psycopg.errors.ProgramLimitExceeded("index row size exceeds"), False),
        (psycopg.errors.UntranslatableCharacter("no NUL"), False),
    ],
)
def test_only_a_server_that_is_away_is_waited_for(error: Exception, again: bool):
    assert getattr(map_error(error, "postgresql://h/x"), "retryable", False) is again
