"""Durable functions of the simulated world: started by events and by the clock, invoked, tried again, capped."""

from random import Random
from typing import Any

from perdure import Context, SentEvent, function, tool
from tests.sim.here import here, work

CAP = 2
"""How many runs of `Hears` are active at once."""
EARLY = 34.0
"""How much later the world begins when there are schedules: the first minute is full after six seconds."""


async def _tell(ctx: Context[Any], id: str) -> str:
    """Do something in a step."""
    run, place = ctx.run_id, f"{ctx._key}/{id}"

    async def do() -> str:
        here().effect("step", run, place, id)
        await work()
        return id

    return await ctx.step.run(id, do, effect="idempotent")


def _chance(run: str, what: str) -> Random:
    return Random(f"{what} {here().world.plan.seed} {run}")


def _stumble(ctx: Context[Any]) -> None:
    """Fail at the first attempts, in some runs; what was done before stays done."""
    world, run = here().world, ctx.run_id
    if not world.calm and world.times("body", run, "") <= _chance(run, "body").choice((0, 0, 1, 2)):
        raise ConnectionError("not yet")


@function(name="Double", retries=9)
async def double(ctx: Context[Any], n: int) -> int:
    await _tell(ctx, "count")
    _stumble(ctx)
    return 2 * n


@function(name="Hears", event="job", retries=9, concurrency=CAP)
async def hears(ctx: Context[Any], event: SentEvent) -> Any:
    await _tell(ctx, "first")
    _stumble(ctx)
    seconds = _chance(ctx.run_id, "rest").choice((0.0, 0.5, 4.0))
    here().world.rests(ctx.run_id, ctx._key)
    await ctx.step.sleep("rest", seconds)
    here().world.wakes(ctx.run_id, ctx._key, seconds)
    doubled = await ctx.step.invoke("double", double, {"n": event.data["n"]})
    await ctx.step.send_event("send done", "job/done", {"n": event.data["n"], "of": event.id})
    return [await _tell(ctx, "last"), doubled]


@function(name="Hears too", event="job", retries=9)
async def hears_too(ctx: Context[Any], event: SentEvent) -> str:
    """Wait for the other function of the event, for some time."""
    await work()
    seconds = _chance(ctx.run_id, "patience").choice((0.2, 5.0, 60.0))
    done = await ctx.step.wait_for_event("done", "job/done", match={"of": event.id}, timeout=seconds)
    return "nobody" if done is None else await _tell(ctx, "thank")


@function(name="Tick", cron="* * * * *", retries=9)
async def tick(ctx: Context[Any], event: SentEvent) -> float:
    await _tell(ctx, "tick")
    _stumble(ctx)
    return event.data["due"]


@tool(effect="steps")
async def order(ctx: Context[Any]) -> str:
    """Have something counted by a run of its own."""
    return str(await ctx.step.invoke("double", double, {"n": 4}))


@tool(effect="steps")
async def hire(ctx: Context[Any]) -> str:
    """Tell of a job, and do not wait."""
    event = await ctx.step.send_event("send hire", "job", {"n": 1})
    return await _tell(ctx, "hired") if event.data["n"] == 1 else "what?"


JOBS = [double, hears, hears_too, tick]
HEARING = (hears, hears_too)
