"""The table beside the log: what is written, what closes it, and what comes too late."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure.db.database import Sql
from perdure.log.log import Entry, NewRun, Token
from perdure.log.sql import SqlLog
from perdure.types.events import MessageStarted, TextDelta
from perdure.types.live import Part, Place
from perdure.types.messages import assistant, user
from perdure.types.records import InferenceDone, RunFinished, RunStarted
from tests.log.stores import log_of, opened

STARTED = RunStarted("Desk", "agent", (user("hi"),))
DONE = InferenceDone("Desk", (assistant("whole"),))
FINISHED = RunFinished("completed", "answer")


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlLog]:
    postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path}/live.db"
    async with opened(url, "normal") as db:
        yield log_of(db)


def part(step: str = "a/infer/0", start: int = 0, text: str = "abc", epoch: int = 1) -> Part:
    return Part("run", step, epoch, 1, start, (TextDelta(text=text, run_id="run", step=step),))


async def begun(log: SqlLog) -> Token:
    accepted = await log.accept(NewRun("run", "s", "Desk"), STARTED)
    assert accepted.token is not None
    return accepted.token


async def kept(log: SqlLog, *shown: tuple[str, Place]) -> list[Part]:
    return await log.live.read("default", "s", shown)


async def test_what_was_written_is_read_joined_and_only_what_is_new(log: SqlLog):
    token = await begun(log)
    first = Part("run", "a/infer/0", 1, 1, 0, (MessageStarted(message_id="m", step="a/infer/0"),))
    await log.live.write([("default", token, first), ("default", token, part("b/infer/0"))])
    await log.live.write([("default", token, part(start=1))])
    both = Part("run", "a/infer/0", 1, 1, 0, (*first.events, *part().events))
    assert await kept(log) == [both, part("b/infer/0")]
    shown = [("run", Place("a/infer/0", 1, 1)), ("run", Place("b/infer/0", 1, 3))]
    assert await kept(log, *shown) == [part(start=1)]
    assert await log.live.read("other", "s", ()) == []


async def test_what_closes_a_step_deletes_its_rows_in_the_same_commit(log: SqlLog):
    token = await begun(log)
    await log.live.write([("default", token, part()), ("default", token, part("b/infer/0"))])
    await log.append(token, [Entry("a/infer/0", DONE)])
    assert [one.step for one in await kept(log)] == ["b/infer/0"]
    await log.append(token, [Entry(None, FINISHED)])
    assert await kept(log) == []


async def test_a_claim_deletes_what_the_last_owner_said_and_it_says_no_more(log: SqlLog):
    token = await begun(log)
    await log.live.write([("default", token, part())])
    other = log_of(log.db, "two")
    assert await other.claim("run", dead=["one"])
    assert await kept(log) == []
    await log.live.write([("default", token, part(start=3))])
    assert await kept(log) == [], "its token is none any more"


async def test_rows_that_come_after_the_closing_commit_are_removed(log: SqlLog, monkeypatch: pytest.MonkeyPatch):
    token = await begun(log)
    write = log.db.write
    writes = 0

    async def late(make: Any, *, notify: bool = False) -> Any:
        nonlocal writes
        writes += 1
        if writes == 1:  # the closing append overtakes what was to be written
            monkeypatch.setattr(log.db, "write", write)
            await log.append(token, [Entry("a/infer/0", DONE)])
            monkeypatch.setattr(log.db, "write", late)
        return await write(make, notify=notify)

    monkeypatch.setattr(log.db, "write", late)
    await log.live.write([("default", token, part()), ("default", token, part("b/infer/0"))])
    assert [one.step for one in await kept(log)] == ["b/infer/0"]


async def test_the_same_rows_again_are_no_error(log: SqlLog):
    token = await begun(log)
    for _ in range(2):
        await log.live.write([("default", token, part())])
    assert await kept(log) == [part()]


async def test_on_postgres_the_table_is_not_in_the_write_ahead_log(log: SqlLog):
    if log.db.dialect == "sqlite":
        return

    def script() -> Any:
        return (yield Sql("SELECT relpersistence FROM pg_class WHERE relname = 'live'"))

    assert await log.db.read(script) == [("u",)]
