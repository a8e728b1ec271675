"""Continuations of functions: what the base had finished is not done again, nor asked for with other arguments."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perdure import Context, Runtime, function
from perdure.testing import recording, replay
from tests.runtime import desk, jobs
from tests.runtime.desk import effects, note, until
from tests.runtime.test_found import has

Ctx = Context[Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


@function(name="Orders")
async def orders(ctx: Ctx) -> list[str]:
    order, dice = str(ctx.step.uuid("order")), ctx.step.random().randrange(1000)

    def keep(what: str, *with_this: Any) -> None:
        note(what)

    await ctx.step.run("reserve", keep, "reserve", order, dice, ctx.idempotency_key)
    sent = await ctx.step.send_event("tell", "app/told", {"order": order})
    await ctx.step.run("sent", keep, "sent", sent.id)
    asked = await ctx.run(jobs.CLERK, "why")
    doubled = await ctx.step.invoke("double", jobs.double, {"n": dice})
    await ctx.step.run("asked", keep, "asked", asked.run_id, doubled)
    first = bool(await ctx.approve("First?", id="first?"))
    second = str(ctx.step.scope("new").uuid())
    await ctx.step.run("first", keep, f"first {first}", order, second)
    await ctx.approve("Second?", id="second?")
    third = str(ctx.step.uuid())
    await ctx.step.run("second", keep, "second", third, ctx.idempotency_key)
    return [order, second, third]


async def answered(rt: Runtime, run: Any, times: int) -> list[str]:
    """Allow what a run asks, and give its output."""
    log = rt.container("default").log
    for _ in range(times):
        await until(lambda: has(rt, run.id, "approval"))
        (wait,) = await log.waits(run.id)
        await rt.approve(wait.id)
        await until(partial(gone, rt, run.id, wait.id))
    return (await run.result()).output


async def gone(rt: Runtime, run_id: str, wait_id: str) -> bool:
    return wait_id not in [one.id for one in await rt.container("default").log.waits(run_id)]


async def test_r18_a_continuation_draws_what_its_base_drew_until_it_has_asked_for_all_that_was_finished(url: str):
    async with desk.runtime(url, orders, *jobs.JOBS) as rt:
        run = await rt.start(orders, run_id="job")
        await until(lambda: has(rt, "job", "approval"))
        inherited = effects()
        early = await rt.fork("job", id="early")
        order, second, third = await answered(rt, run, 2)
        late = await rt.fork("job", "function/first", id="late")
        again = await answered(rt, early, 2)
        other = await answered(rt, late, 1)
        last = await answered(rt, await rt.fork("late", "function/first", id="last"), 1)
        for one in ("job", "early", "late", "last"):
            replay(await recording(rt, one), rt).check()
    assert again[0] == other[0] == last[0] == order, "it was drawn before the cut, and given to what is finished"
    assert other[1] == last[1] == second
    assert len({second, again[1]}) == 2, "what comes behind the cut is new"
    assert len({third, again[2], other[2], last[2]}) == 4
    done = effects()
    assert done[: len(inherited)] == inherited
    assert sorted(done[len(inherited) :]) == ["first True"] * 2 + ["second"] * 4
