"""The ready adapters on real servers: several processes, what is deleted, what is refused, and what is never shown."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from perdure import (
    Agent,
    AgentResult,
    Asked,
    ConfigurationError,
    DefinitionError,
    HistoryAdapter,
    HistoryError,
    HistoryUnavailable,
    InvalidId,
    MissingExtra,
    MongoHistory,
    RedisHistory,
    SqlHistory,
    TextMessage,
)
from perdure.testing import ScriptedModel, say
from tests.history import writer
from tests.history.conftest import Place
from tests.history.keeping import opened, result
from tests.servers import PostgresServer


async def test_processes_at_once_lose_and_double_nothing_and_keep_their_order(place: Place):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", "")),
    }
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, writer.__file__, *place, who, "15"),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for who in ("ada", "bob")
    ]
    async with asyncio.timeout(90):
        for one in processes:
            assert one.stdout is not None
            assert await one.stdout.readline() == b"ready\n"
        for one in processes:
            assert one.stdin is not None
            one.stdin.write(b"go\n")
        assert [await one.wait() for one in processes] == [0, 0]
    async with opened(*place) as history:
        turns = await history.read("t")
    names = [one.agent_name for one in turns if isinstance(one, AgentResult)]
    assert {name: names.count(name) for name in names} == {"ada": 15, "bob": 15, "all": 15}
    for who in ("ada", "bob", "all"):
        assert [one for one in turns if isinstance(one, AgentResult) and one.agent_name == who] == [
            result(who, n) for n in range(15)
        ]


async def test_a_thread_is_deleted_with_all_that_was_said_and_can_begin_again(place: Place):
    async with opened(*place) as history:
        await history.append("t", [result("ada", 0)], user_id="ada")
        await history.append("other", [result("ada", 0)])
        assert await history.delete("t")
        assert not await history.delete("t")
        assert await history.read("t") == []
        assert await history.read("other") == [result("ada", 0)]
        await history.append("t", [result("ada", 1)])
        assert await history.read("t") == [result("ada", 1)]


async def test_what_is_given_back_is_equal_with_ids_times_and_checksums(place: Place):
    asked = Asked("m-1", (TextMessage("user", "hi", id="m-1"),), 1_700_000_000.123)
    async with opened(*place) as history:
        await history.append("t", [asked, result("ada", 0)])
        assert await history.read("t") == [asked, result("ada", 0)]


async def test_an_adapter_belongs_to_no_event_loop_and_can_be_used_after_it_was_closed(place: Place):
    history = opened(*place)
    model = ScriptedModel(say("One."), say("Two."))
    agent = Agent("Ada", model=model, history=history)

    def twice() -> None:
        agent.run_sync("first", session_id="t")
        agent.run_sync("second", session_id="t")

    await asyncio.to_thread(twice)
    await history.close()
    turns = await history.read("t")
    assert [one.messages[0] for one in turns] == [
        TextMessage("user", "first"),
        TextMessage("assistant", "One.", stop_reason="stop"),
        TextMessage("user", "second"),
        TextMessage("assistant", "Two.", stop_reason="stop"),
    ]
    await history.close()


async def test_what_is_too_large_is_refused_whole(place: Place):
    large = AgentResult("ada", (TextMessage("assistant", "x" * (10 << 20)),), "r/1")
    async with opened(*place) as history:
        with pytest.raises(HistoryError, match=r"'ada' did is 10\.5 MB and a history takes at most 10\.5 MB"):
            await history.append("t", [result("ada", 0), large])
        assert await history.read("t") == []
        nearly = AgentResult("ada", (TextMessage("assistant", "ö" * (5 << 20 >> 1)),), "r/2")
        await history.append("t", [nearly])
        assert await history.read("t") == [nearly]


@pytest.mark.parametrize("id", ["", "../x", "a b", "a\0b", "ö", "x" * 201, "'; DROP TABLE x", "{t}", None])
async def test_an_id_that_could_be_anything_is_refused(place: Place, id: Any):
    async with opened(*place) as history:
        for call in (history.read(id), history.delete(id), history.append(id, [])):
            with pytest.raises(InvalidId):
                await call
        if id is not None:
            with pytest.raises(InvalidId):
                await history.append("t", [], user_id=id)


async def test_a_connection_that_was_cut_is_replaced(postgres: PostgresServer):
    address = postgres.database()
    async with SqlHistory(address) as history:
        await history.append("t", [result("ada", 0)])
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
            f"'{address.split('/')[3].partition('?')[0]}'"
        )
        await history.append("t", [result("ada", 1)])
        assert await history.read("t") == [result("ada", 0), result("ada", 1)]


async def test_an_entry_that_was_damaged_is_said_and_not_passed_over(tmp_path: Path):
    address = f"sqlite:///{tmp_path}/t.db"
    async with SqlHistory(address) as history:
        await history.append("t", [result("ada", 0)])
        engine = sa.create_engine(address)
        for damaged in ("{}", "no", '{"result": {"agent_name": 5}}'):
            with engine.begin() as connection:
                connection.execute(sa.text("UPDATE perdure_history_entries SET text = :text"), {"text": damaged})
            with pytest.raises(HistoryError, match="holds an entry"):
                await history.read("t")
        engine.dispose()


async def test_an_engine_of_the_user_s_is_used_and_left_open(tmp_path: Path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/t.db")
    async with SqlHistory(engine, tables="mine") as history:
        await history.append("t", [result("ada", 0)])
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT thread_id, seq FROM mine_entries")).all() == [("t", 1)]
    engine.dispose()


async def test_a_redis_thread_can_expire(redis_address: str):
    import redis

    async with RedisHistory(redis_address, prefix="brief", expires=100) as history:
        await history.append("t", [result("ada", 0)], user_id="ada")
    with redis.Redis.from_url(redis_address) as client:
        keys: Any = client.keys("brief:*")
        assert len(keys) == 3
        assert all(90_000 < int(client.pttl(key)) <= 100_000 for key in keys)  # type: ignore[arg-type]


# -- what is refused, and what is never shown ------------------------------------------------------------------------

SECRET = "s3cret"
AWAY: dict[str, Callable[[], Any]] = {
    "postgres": lambda: SqlHistory(f"postgresql://ada:{SECRET}@127.0.0.1:1/db"),
    "mariadb": lambda: SqlHistory(f"mariadb://ada:{SECRET}@127.0.0.1:1/db"),
    "sqlite": lambda: SqlHistory("sqlite:////nowhere/at/all.db"),
    "redis": lambda: RedisHistory(f"redis://ada:{SECRET}@127.0.0.1:1/0?password={SECRET}"),
}
UNREADABLE: dict[str, Callable[[], Any]] = {
    "no address": lambda: SqlHistory(f"postgresql//ada:{SECRET}@h/db"),
    "no port": lambda: SqlHistory(f"postgresql://ada:x@{SECRET}:{SECRET}/db"),
    "no kind": lambda: SqlHistory(f"nothing://ada:{SECRET}@h/db"),
    "no redis": lambda: RedisHistory(f"http://ada:{SECRET}@h/0"),
    "no mongo": lambda: MongoHistory(f"http://ada:{SECRET}@h/0"),
    "no mongo port": lambda: MongoHistory(f"mongodb://ada:{SECRET}@h:{SECRET}/0"),
}


@pytest.mark.parametrize("kind", AWAY)
async def test_a_store_that_is_away_says_so_at_once_and_shows_no_password(kind: str):
    async with AWAY[kind]() as history:
        with pytest.raises(HistoryUnavailable) as caught:
            await history.append("t", [AgentResult("ada", (TextMessage("assistant", f"my {SECRET}"),))])
        shown = "".join(traceback.format_exception(caught.value)) + repr(history)
    assert "cannot be used now" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_address_that_cannot_be_read_is_not_shown(kind: str):
    with pytest.raises(ConfigurationError, match=r"cannot be read|is not installed") as caught:
        UNREADABLE[kind]()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("sqlalchemy", lambda: SqlHistory("sqlite://")),
        ("psycopg", lambda: SqlHistory("postgresql://h/db")),
        ("pymysql", lambda: SqlHistory("mysql://h/db")),
        ("redis", lambda: RedisHistory("redis://h")),
        ("pymongo", lambda: MongoHistory("mongodb://h")),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    package: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'perdure\[\w+\]'"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: SqlHistory("sqlite://", tables="a; DROP TABLE b"),
        lambda: SqlHistory(5),  # type: ignore[arg-type]
        lambda: RedisHistory("redis://h", prefix=""),
        lambda: RedisHistory("redis://h", expires=0),
        lambda: RedisHistory(5),  # type: ignore[arg-type]
        lambda: MongoHistory("mongodb://h", collection="$x"),
        lambda: MongoHistory("mongodb://h", database="a/b"),
        lambda: MongoHistory(5),  # type: ignore[arg-type]
    ],
)
def test_an_argument_that_is_wrong_is_refused(make: Callable[[], HistoryAdapter]):
    with pytest.raises(DefinitionError):
        make()
