"""Transactions: the user's own rows and the step's record are there together or not at all, whatever is killed when."""

import asyncio
import signal
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Context, RunCancelled, Runtime, Transaction, TransactionError, tool
from perdure.db import transaction as limits
from perdure.db.database import StoreError
from perdure.log.log import Entry
from perdure.log.sql import SqlLog
from perdure.testing import FunctionModel, ScriptedModel, call, calls, say
from perdure.types import records as rec
from tests.runtime import desk, till
from tests.runtime.conftest import Processes
from tests.runtime.desk import effects
from tests.runtime.till import CASHIER, TILL, rows

KEYS = [f"agent/0/infer/0/tool/{n}/transaction:book{again}" for n in (0, 1) for again in ("", "#2")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


def runtime(url: str, *definitions: Any) -> Runtime:
    return desk.runtime(url, *(definitions or (CASHIER,)))


async def told(rt: Runtime, agent: Agent[Any, Any], **options: Any) -> list[Any]:
    """What the model is told by the calls of an agent's first answer."""
    result = await rt.run(agent, "go", **options)
    return [one.content for one in result.results[0].tool_calls]


def once(*tools: Any, **options: Any) -> Agent[Any, Any]:
    """An agent that calls each of its tools once."""
    return Agent("Once", tools=tools, model=FunctionModel(lambda r: _all(r, tools)), **options)


def _all(request: Any, tools: Any) -> Any:
    return say("done") if len(request.messages) > 1 else calls(*(call(one.name) for one in tools))


async def mine(rt: Runtime) -> list[Any]:
    return [
        (who, int(amount)) for who, amount in await rows(rt.db, "SELECT who, amount FROM till ORDER BY who, amount")
    ]


# -- exactly once ----------------------------------------------------------------------------------------------------

WRITES = 13
WHENS = ("before", "inside", "after")
CASES = [
    *(("sqlite", at, WHENS[at % 3]) for at in range(2, WRITES)),
    *(("postgres", at, WHENS[at // 4 % 3]) for at in range(4, WRITES, 4)),
]


@pytest.mark.parametrize(("url", "at", "when"), CASES, indirect=["url"])
async def test_d02_d19_r10_r11_killed_at_every_write_each_row_is_there_exactly_once(
    url: str, at: int, when: str, processes: Processes
):
    async with runtime(url) as rt:
        await rows(rt.db, TILL)
    died = await processes.run("pay", "job", kill=f"{at}:{when}")
    assert died in (-signal.SIGKILL, 0)
    async with desk.Runtime(url, [], workers=False) as rt:  # a row is there if and only if its step is
        closed = {one.key for one in await rt.session("s").records() if one.kind == "transaction"}
        assert len(await mine(rt)) == len(closed)
    await processes.run("pay", "job", kill=f"{at % 3 + 2}:{when}")
    async with runtime(url) as rt:
        result = await asyncio.wait_for(rt.run(CASHIER, "go", session_id="s", run_id="job"), 60)
        assert await mine(rt) == [("ada", 1), ("ada", 2), ("bo", 1), ("bo", 2)]
        done = [one for one in await rt.session("s").records() if one.kind == "transaction"]
    assert [one.data for one in result.results[0].tool_calls] == [[1, 2], [1, 2]]
    assert sorted(one.key or "" for one in done) == KEYS


async def test_r11_a_transaction_that_is_done_is_answered_from_the_log(url: str):
    began = asyncio.Event()
    go_on = asyncio.Event()

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        first = await ctx.transaction(till.book, "ada", 5)
        began.set()
        await go_on.wait()
        return first

    agent = once(work)
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        await rt.start(agent, "go", run_id="job")
        await began.wait()
    go_on.set()
    async with runtime(url, agent) as rt:
        assert await told(rt, agent, run_id="job") == [{"data": 1}]
        assert await mine(rt) == [("ada", 5)]
    assert effects() == ["book ada"]


async def test_r11_an_outcome_that_is_not_known_is_looked_up_and_not_done_again(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        return await ctx.transaction(till.book, "ada", 5)

    agent = once(work)
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        transact = desk.SqlLog.transact
        failures = [StoreError("the connection was lost", retryable=True, unknown=True)]

        async def unsure(*args: Any) -> Any:
            result = await transact(*args)
            if failures:
                raise failures.pop()
            return result

        monkeypatch.setattr(desk.SqlLog, "transact", unsure)
        assert await told(rt, agent) == [{"data": 1}]
        assert await mine(rt) == [("ada", 5)]
    assert not failures


async def test_r01_r11_whoever_lost_the_run_leaves_no_row(url: str):
    """The token is looked at in the same transaction."""

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        owner = (await other.run(ctx.run_id)).owner
        claimed = await other.claim(ctx.run_id, dead=[owner or ""])
        assert claimed is not None
        tokens.append(claimed[0])
        return await ctx.transaction(till.book, "ada", 5)

    tokens: list[Any] = []
    agent = once(work)
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        other = SqlLog(rt.db, rt.clock.now, "another")
        run = await rt.start(agent, "go", run_id="job")
        await desk.until(lambda: "book ada" in effects())
        await other.append(tokens[0], [Entry(None, rec.RunFinished("cancelled", "cancelled"))])
        with pytest.raises(RunCancelled):
            await run.result()
        assert await mine(rt) == []


# -- what a function may do ------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str]] = [
    ("COMMIT", "COMMIT"),
    ("ROLLBACK", "ROLLBACK"),
    ("SAVEPOINT x", "SAVEPOINT"),
    ("DELETE FROM records", "Perdure's own"),
    ("UPDATE runs SET status = 'completed'", "Perdure's own"),
    ("INSERT INTO owners VALUES ('x', 1, 'x', 'x')", "Perdure's own"),
    ("UPDATE perdure_store SET value = '9' WHERE name = 'min_writer'", "Perdure's own"),
    ("INSERT INTO search_sessions VALUES (99, 1)", "Perdure's own"),
]
SQLITE_ONLY = [
    ("ATTACH ':memory:' AS other", "ATTACH"),
    ("PRAGMA synchronous = OFF", "PRAGMA"),
    ("DROP TABLE records", "Perdure's own"),
    ("ALTER TABLE records RENAME TO mine", "Perdure's own"),
    ("CREATE TEMP TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM till; END", "Perdure's own"),
    ("CREATE TEMP TABLE records (x)", "Perdure's own"),
    ("DELETE FROM search_words_data", "Perdure's own"),
]
POSTGRES_ONLY = [
    ("/* a */ TRUNCATE records", "may not use"),
    ("DROP TABLE records", "may not use"),
    ("SET search_path = x", "may not use"),
]


@pytest.mark.parametrize("swallow", [False, True])
async def test_r11_what_would_break_the_log_is_refused_and_all_is_undone(url: str, swallow: bool):
    sqlite = url.startswith("sqlite")
    cases = [*REFUSED, *(SQLITE_ONLY if sqlite else POSTGRES_ONLY)]
    seen: list[str] = []

    def break_in(tx: Transaction, sql: str) -> None:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        try:
            tx.execute(sql)
        except TransactionError as error:
            if not swallow:
                raise
            seen.append(str(error))
            raise LookupError(str(error)) from None

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        found: list[str] = []
        for sql, _ in cases:
            try:
                await ctx.transaction(break_in, sql)
            except (TransactionError, LookupError) as error:
                found.append(str(error))
        return found

    agent = once(work)
    async with runtime(url, agent) as rt, runtime(url, agent) as other:
        await other.search("anything")  # some tables are made when they are wanted, and not by each process
        await rows(rt.db, TILL)
        (content,) = await told(rt, agent)
        assert await mine(rt) == []
    for said, (sql, why) in zip(content["data"], cases, strict=True):
        assert why.lower() in said.lower(), sql


async def test_r11_a_statement_that_undoes_everything_takes_nobody_along(tmp_path: Path):
    """Such as `INSERT OR ROLLBACK`: what shared its commit is committed all the same, the step is not."""
    url = f"sqlite:///{tmp_path}/desk.db"

    def undo_all(tx: Transaction) -> str:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        with suppress(sqlite3.IntegrityError):
            tx.execute("INSERT OR ROLLBACK INTO till VALUES ('ada', NULL)")
        return "went on"

    def go_on(tx: Transaction) -> str:
        undo_all(tx)
        tx.execute("INSERT INTO till VALUES ('bo', 1)")  # not in a transaction of its own
        return "went on"

    agent = once(_in_transaction("a", undo_all), _in_transaction("b", go_on), _in_transaction("c", _one_row))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        for _ in range(5):
            a, b, c = await told(rt, agent)
            assert a["error"]["name"] == b["error"]["name"] == "TransactionError"
            assert "nothing of it is kept" in a["error"]["message"]
            assert c == {"data": "c"}
        assert await mine(rt) == [("c", 1)] * 5


def _in_transaction(name: str, fn: Callable[[Transaction], Any]) -> Any:
    async def work(ctx: Context[Any]) -> Any:
        return await ctx.transaction(fn)

    return tool(work, name=name, effect="steps")


def _one_row(tx: Transaction) -> str:
    tx.execute("INSERT INTO till VALUES ('c', 1)")
    return "c"


async def test_r11_too_slow_is_undone_and_says_so(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "SQLITE_SECONDS", 0.05)
    monkeypatch.setattr(limits, "POSTGRES_SECONDS", 0.05)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO till SELECT 'x', x FROM n"
    begun = asyncio.Event()

    def slow(tx: Transaction) -> None:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        loop.call_soon_threadsafe(begun.set)
        tx.execute(endless if url.startswith("sqlite") else "SELECT pg_sleep(60)")

    loop = asyncio.get_running_loop()
    agent = once(_in_transaction("slow", slow))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        (content,) = await told(rt, agent)
        assert begun.is_set()
        assert await mine(rt) == []
    assert content["error"]["name"] == "TransactionError"
    assert "took longer than 0.05 s" in content["error"]["message"]


async def test_r11_what_the_function_raises_is_raised_and_undone(url: str):
    def fail(tx: Transaction) -> None:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        raise LookupError("no such account")

    def wrong(tx: Transaction) -> None:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        tx.execute("INSERT INTO nowhere VALUES (1)")

    agent = once(_in_transaction("a", fail), _in_transaction("b", wrong), _in_transaction("c", _one_row))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        a, b, c = await told(rt, agent)
        assert a["error"] == {"name": "LookupError", "message": "no such account"}
        assert "nowhere" in b["error"]["message"]
        assert c == {"data": "c"}
        assert await mine(rt) == [("c", 1)]


async def test_r13_a_result_that_cannot_be_kept_undoes_the_transaction(url: str):
    def bad(tx: Transaction) -> Any:
        tx.execute("INSERT INTO till VALUES ('ada', 1)")
        return object()

    agent = once(_in_transaction("a", bad))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        (content,) = await told(rt, agent)
        assert content["error"]["name"] == "Unserialisable"
        assert await mine(rt) == []


async def test_r11_a_transaction_is_over_when_its_function_is(url: str):
    kept: list[Transaction] = []

    def keep(tx: Transaction) -> None:
        kept.append(tx)

    agent = once(_in_transaction("a", keep))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        await told(rt, agent)
        with pytest.raises(TransactionError, match="is over"):
            await asyncio.to_thread(kept[0].execute, "INSERT INTO till VALUES ('ada', 1)")
        assert await mine(rt) == []


async def test_r11_an_async_function_is_for_postgresql(url: str):
    async def later(tx: Any) -> str:
        await tx.execute("INSERT INTO till VALUES (?, ?)", ("ada", 1))
        return str((await tx.fetch("SELECT who FROM till"))[0][0])

    agent = once(_in_transaction("a", later))
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        (content,) = await told(rt, agent)
        if url.startswith("sqlite"):
            assert "on SQLite the function of a transaction is a plain one" in content["error"]["message"]
        else:
            assert content == {"data": "ada"}
        assert len(await mine(rt)) == (not url.startswith("sqlite"))


@pytest.mark.parametrize("effect", ["once", "idempotent"])
async def test_r09_a_transaction_wants_the_effect_steps(effect: Any):
    @tool(effect=effect)
    async def work(ctx: Context[Any]) -> Any:
        return await ctx.transaction(_one_row)

    result = await Agent("A", tools=[work], model=ScriptedModel(call("work"), "ok")).run("x")
    assert result.results[0].tool_calls[0].content["error"]["name"] == "StepOutsideSteps"


async def test_without_a_runtime_there_is_no_transaction():
    result = await Agent("A", tools=[_in_transaction("a", _one_row)], model=ScriptedModel(call("a"), "ok")).run("x")
    error = result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "NeedsRuntime"
    assert "open a Runtime" in error["message"]


async def test_r11_a_transaction_is_one_commit_and_equal_ones_are_told_apart(url: str, monkeypatch: pytest.MonkeyPatch):
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        for n in range(3):
            await ctx.transaction(till.book, "ada", n)
        both = (ctx.step.scope(name).transaction(till.book, name, 1) for name in ("x", "y"))
        return await asyncio.gather(*both)

    agent = once(work)
    async with runtime(url, agent) as rt:
        await rows(rt.db, TILL)
        appends: list[Any] = []
        append = desk.SqlLog.append

        async def counted(*args: Any, **options: Any) -> int:
            appends.append(args)
            return await append(*args, **options)

        monkeypatch.setattr(desk.SqlLog, "append", counted)
        assert await told(rt, agent, session_id="s") == [{"data": [1, 1]}]
        keys = [
            one.key or "" for one in await rt.session("s").records() if isinstance(one.payload, rec.TransactionDone)
        ]
        assert len(await mine(rt)) == 5
    place = "agent/0/infer/0/tool/0"
    assert keys[:3] == [f"{place}/transaction:book{n}" for n in ("", "#2", "#3")]
    assert sorted(keys[3:]) == [f"{place}/{name}/transaction:book" for name in ("x", "y")]
    assert len(appends) == 3, "the inference, the tool, and the answer; each transaction is a commit of its own"
