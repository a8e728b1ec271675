"""Looking after a store: pages of runs and sessions, runs that are parked or held by a stuck owner, checks."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Conflict, Context, RunFailed, Runtime, UnknownName, tool
from perdure.log.log import Entry, NewRun
from perdure.log.owners import Left, Timing
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types import records as rec
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import QUICK, effects, until


def opened(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(url, definitions, timing=QUICK, durability="normal", **options)


def echo() -> Agent[Any, Any]:
    return Agent("Echo", model=FunctionModel(lambda request: say(f"{len(request.messages)} messages")))


async def test_runs_and_sessions_are_listed_page_by_page(url: str):
    agent = echo()
    async with opened(url, agent) as rt:
        for n in range(5):
            await rt.run(agent, "hi", session_id=f"s{n // 2}", run_id=f"run_{n}", user_id="ada")
        seen: list[str] = []
        page = await rt.runs(limit=2)
        while page:
            seen += [one.id for one in page]
            page = await rt.runs(limit=2, after=page[-1].id)
        assert seen == [f"run_{n}" for n in reversed(range(5))]
        assert [one.id for one in await rt.runs(session_id="s1", status="completed")] == ["run_3", "run_2"]
        assert await rt.runs(status="failed") == []
        first = await rt.sessions(limit=2)
        assert [(one.id, one.runs, one.open, one.user_id) for one in first] == [
            ("s2", 1, 0, "ada"),
            ("s1", 2, 0, "ada"),
        ]
        assert first[1].head == len(await rt.session("s1").records())
        assert [one.id for one in await rt.sessions(limit=2, after="s1")] == ["s0"]
        with pytest.raises(UnknownName):
            await rt.runs(after="nobody")
        with pytest.raises(UnknownName):
            await rt.sessions(after="nobody")
        assert await rt.container("other").sessions() == []


async def test_a_parked_run_goes_on_when_it_is_resumed(url: str):
    agent = echo()
    async with opened(url, agent, workers=False) as rt:
        log = rt.container("default").log
        accepted = await log.accept(NewRun("job", "s", "Echo"), rec.RunStarted("Echo", "agent", ()))
        assert accepted.token is not None
        deaths = [Entry(None, rec.Claimed(n, died=True, alone=True)) for n in range(2, 5)]
        await log.append(accepted.token, deaths, "parked")
        await rt.run(agent, "the next one", session_id="s", run_id="next")
    async with opened(url, agent) as rt:
        assert [one.id for one in await rt.runs(status="parked")] == ["job"]
        assert (await rt.resume("job")).status == "queued"
        await until(lambda: desk.nothing_open(rt))
        assert (await rt.runs(after="next"))[0].status == "completed", "its deaths are forgotten"
        with pytest.raises(Conflict, match="is over"):
            await rt.resume("job")
        with pytest.raises(UnknownName):
            await rt.resume("nobody")


async def test_r04_a_run_is_taken_from_an_owner_that_is_alive_only_by_force(
    url: str, processes: Processes, tmp_path: Path
):
    await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    patient = Timing(death=60, beat=0.1, sweep=0.1)
    async with Runtime(url, [desk.DESK], timing=patient, durability="normal") as rt:
        with pytest.raises(Conflict, match="alive"):
            await rt.resume("job")
        before = await rt.container("default").log.run("job")
        await rt.worker.sweep()
        assert (await rt.container("default").log.run("job")).epoch == before.epoch, "nobody preempts it"
        assert (await rt.resume("job", force=True)).epoch > before.epoch
        await until(lambda: effects().count("slow") == 2)
        (tmp_path / "go").touch()
        result = await rt.run(desk.DESK, "slow", session_id="s", run_id="job")
        assert result.output == "done: slow"
        await until(lambda: "output done: slow" in effects())
        assert "refused" in effects(), "the one before could write nothing any more"
        assert effects().count("charge") == 1


async def test_r04_a_run_that_its_own_process_is_made_to_let_go_of_goes_on_there(url: str):
    began, go = asyncio.Event(), asyncio.Event()

    @tool(effect="pure")
    async def hold() -> str:
        """Hold on."""
        began.set()
        await go.wait()
        return "held"

    agent = Agent("Holder", tools=[hold], model=ScriptedModel(call("hold"), say("done")))
    async with opened(url, agent) as rt:
        run = await rt.start(agent, "go", run_id="job")
        await began.wait()
        await rt.resume("job", force=True)
        go.set()
        async with asyncio.timeout(30):
            assert (await run.result()).output == "done"


async def test_a_run_that_is_resumed_in_the_moment_it_is_parked_goes_on(url: str, monkeypatch: pytest.MonkeyPatch):
    began, never = asyncio.Event(), asyncio.Event()

    def order(changed: bool) -> Any:
        @tool(name="order", effect="steps")
        async def ordered(ctx: Context[Any]) -> str:
            """Order something."""
            number = await ctx.step.run("reserve", str.upper, "boat-2" if changed else "boat-1")
            began.set()
            if not changed:
                await never.wait()
            return number

        return Agent("Buyer", tools=[ordered], model=model)

    model = ScriptedModel(call("order"), say("done"))
    agent = order(changed=False)
    async with opened(url, agent) as rt:
        await rt.start(agent, "go", run_id="job")
        await began.wait()
    agent = order(changed=True)
    async with opened(url, agent, workers=False) as rt:
        log = rt.container("default").log
        append, resumed = log.append, list[str]()

        async def append_and_resume(token: Any, entries: Any, status: Any = None, **more: Any) -> int:
            seq = await append(token, entries, status, **more)
            if status == "parked" and not resumed:
                resumed.append(token.run_id)
                await rt.resume(token.run_id, accept=True)
            return seq

        monkeypatch.setattr(log, "append", append_and_resume)
        for _ in range(2):
            await rt.container("default").take_over(Left("default", "job", None, 0, 0), {})
        result = await rt.run(agent, "go", run_id="job")
    assert resumed == ["job"]
    assert (result.output, result.results[0].tool_calls[0].data) == ("done", "BOAT-1")


async def test_a_run_that_cannot_be_revived_says_why_it_is_parked(url: str):
    agent = echo()
    async with opened(url, agent, workers=False) as rt:
        log = rt.container("default").log
        await log.accept(
            NewRun("job", "s", "Echo"), rec.RunStarted("Echo", "agent", (), options={"state_type": "gone:Nothing"})
        )
    async with opened(url, agent) as rt:
        await until(lambda: parked(rt))
        with pytest.raises(RunFailed, match="No module named 'gone'"):
            await rt.container("default")._follow(*await asked_again(rt, agent))


async def parked(rt: Runtime) -> bool:
    return bool(await rt.runs(status="parked"))


async def asked_again(rt: Runtime, agent: Any) -> Any:
    container = rt.container("default")
    return container.prepare(agent, None, {"run_id": "job"}), await container.log.run("job")


async def test_damage_is_found(tmp_path: Path):
    agent = Agent("A", model=ScriptedModel(*(say("x" * 70_000) for _ in range(3))))
    async with opened(f"sqlite:///{tmp_path}/desk.db", agent) as rt:
        for n in range(3):
            await rt.run(agent, "go", session_id=f"s{n}", run_id=f"run_{n}")
        assert await rt.check(deep=True) == []
    with closing(sqlite3.connect(tmp_path / "desk.db", isolation_level=None)) as db:
        db.execute(
            "DELETE FROM blobs WHERE slot = (SELECT slot FROM records WHERE session = 's0' AND blob = 1 LIMIT 1)"
        )
        db.execute("DELETE FROM records WHERE session = 's1' AND seq = 2")
        db.execute("DELETE FROM records WHERE session = 's2' AND kind = 'run_finished'")
        db.execute("UPDATE records SET payload = CAST('{\"type\":\"new\"}' AS BLOB) WHERE session = 's2' AND seq = 1")
        db.execute("UPDATE sessions SET turn = 'run_2' WHERE id = 's2'")
    async with opened(f"sqlite:///{tmp_path}/desk.db", workers=False) as rt:
        found = {(one.what.partition(":")[0], one.where) for one in await rt.check()}
        assert {where for _, where in found} == {
            "default/s0 #2",
            "default/s1, 1 missing",
            "default/run_2",
            "default/s2",
        }
        deep = [one for one in await rt.check(deep=True) if "newer" in one.what]
        assert len(deep) == 2
        assert any(one.where.startswith("default/s2 #1") for one in deep)
