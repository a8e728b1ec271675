"""The time of a run passes also while it waits and nobody drives it: it ends, with what is below it."""

import asyncio
from typing import Any

import pytest

from perdure import Agent, Budget, Context, InvokeError, RunCancelled, Runtime, function, tool
from perdure.agents.handle import Run
from perdure.db.database import Script, Sql
from perdure.testing import ScriptedModel, call, say
from tests.runtime.desk import QUICK, until

HOUR = 3600.0


@tool(effect="steps")
async def hold(ctx: Context[Any]) -> str:
    """Wait for an event that never comes."""
    found = await ctx.step.wait_for_event("ok", "app/never")
    return "came" if found else "did not come"


def holder() -> Agent[str, object]:
    return Agent("Holder", tools=[hold], model=ScriptedModel(*[call("hold"), say("done")] * 3))


@function(retries=0)
async def waits(ctx: Context[Any]) -> str:
    """Wait for an event that never comes."""
    await ctx.step.wait_for_event("ok", "app/never")
    return "came"


async def time_passes(rt: Runtime) -> None:
    """Let the time be over of all that wait, as the store sees it."""

    def script() -> Script[int]:
        rows = yield Sql("UPDATE runs SET ends_at = 1 WHERE status = 'waiting' AND ends_at IS NOT NULL RETURNING 1")
        return len(rows)

    assert await rt.db.write(script)
    await rt.sweep()


async def waits_again(rt: Runtime, before: str) -> bool:
    return any(one.wait.id != before for one in await rt.waits())


async def all_cancelled(rt: Runtime) -> bool:
    return {one.status for one in await rt.runs()} == {"cancelled"}


async def reached(run: Run[Any, Any]) -> Run[Any, Any]:
    assert (await run.reached()).status == "waiting"
    return run


async def test_a_run_that_waits_is_ended_by_its_deadline(url: str):
    async with Runtime(url, [holder()], timing=QUICK) as rt, asyncio.timeout(60):
        run = await reached(await rt.start(rt.registry.get("Holder"), "go", run_id="r", deadline=0.3))
        with pytest.raises(RunCancelled, match="deadline") as told:
            await run.result()
        assert told.value.result.stop_reason == "deadline"
        assert await rt.waits() == []
        assert (await rt.container("default").log.run("r")).status == "cancelled"


async def test_a_deadline_that_comes_while_no_process_lives_ends_the_run_in_the_next(url: str):
    async with Runtime(url, [holder(), waits], timing=QUICK) as rt:
        await reached(await rt.start(rt.registry.get("Holder"), "go", run_id="a", deadline=HOUR))
        await reached(await rt.start(waits, run_id="f", budget=Budget(seconds=HOUR)))
        await reached(await rt.start(waits, run_id="g"))
    async with Runtime(url, [holder(), waits], timing=QUICK) as rt, asyncio.timeout(60):
        await time_passes(rt)
        with pytest.raises(RunCancelled, match="deadline"):
            await rt.run(rt.registry.get("Holder"), "go", run_id="a", deadline=HOUR)
        over = await rt.run(waits, run_id="f", budget=Budget(seconds=HOUR))
        assert (over.status, over.stop_reason) == ("completed", "budget")
        assert (await rt.container("default").log.run("g")).status == "waiting", "its time is not limited"


async def test_a_moment_that_the_next_owner_sees_is_that_of_the_first(url: str):
    """A run that goes on and waits again has no more time than it had."""
    ask = Agent("Ask", tools=[hold], model=ScriptedModel(call("hold"), call("hold"), say("done")))
    async with Runtime(url, [ask], timing=QUICK) as rt, asyncio.timeout(60):
        run = await reached(await rt.start(ask, "go", run_id="r", deadline=HOUR))
        log = rt.container("default").log
        first = (await log.run("r")).ends_at
        wait = (await rt.waits())[0].wait
        await rt.send_event("app/never")
        await until(lambda: waits_again(rt, wait.id))
        assert (await log.run("r")).ends_at == first
        await run.cancel()


async def test_r15_the_time_of_a_child_passes_too_and_its_parent_goes_on(url: str):
    heard: list[str] = []

    @function(retries=0)
    async def parent(ctx: Context[Any]) -> str:
        try:
            await ctx.step.invoke("child", waits, deadline=HOUR)
        except InvokeError as error:
            heard.append(str(error))
        return "went on"

    async with Runtime(url, [parent, waits], timing=QUICK) as rt, asyncio.timeout(60):
        run = await rt.start(parent)
        await reached(run)
        await until(lambda: rt.waits(kind="event"))
        await time_passes(rt)
        assert (await run.result()).output == "went on"
        assert "cancelled" in heard[0]


async def test_r15_the_time_of_a_child_in_its_parents_place_passes_too(url: str):
    @tool(effect="steps")
    async def delegate(ctx: Context[Any]) -> str:
        """Ask another one."""
        try:
            return str((await ctx.run(inner, "go", deadline=HOUR)).output)
        except RunCancelled as error:
            return f"over: {error}"

    inner = Agent("Inner", tools=[hold], model=ScriptedModel(call("hold"), say("done")))
    outer = Agent("Outer", tools=[delegate], model=ScriptedModel(call("delegate"), say("I see")))
    async with Runtime(url, [inner, outer], timing=QUICK) as rt:
        await reached(await rt.start(outer, "go", run_id="r"))
    async with Runtime(url, [inner, outer], timing=QUICK) as rt, asyncio.timeout(60):
        await time_passes(rt)
        result = await rt.run(outer, "go", run_id="r")
        assert result.output == "I see"
        assert "deadline" in str(result.messages)
        assert {one.status for one in await rt.runs()} == {"completed", "cancelled"}


async def test_r15_a_parent_whose_time_is_over_ends_what_it_has_invoked(url: str):
    @function(retries=0)
    async def parent(ctx: Context[Any]) -> str:
        return await ctx.step.invoke("child", waits)

    async with Runtime(url, [parent, waits], timing=QUICK) as rt, asyncio.timeout(60):
        run = await reached(await rt.start(parent, deadline=HOUR))
        await until(lambda: rt.waits(kind="event"))
        await time_passes(rt)
        with pytest.raises(RunCancelled, match="deadline"):
            await run.result()
        await until(lambda: all_cancelled(rt))
        assert await rt.waits() == []
