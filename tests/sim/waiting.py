"""Tools that wait: for a moment, for events, for people, also in a child run."""

import asyncio
from random import Random
from typing import Any

from perdure import Answer, Context, tool
from tests.sim.here import here, work


def _seconds(run: str, place: str) -> float:
    return Random(f"rest {here().world.plan.seed} {run} {place}").choice((0.0, 0.3, 3.0, 15.0))


@tool(effect="steps")
async def nap(ctx: Context[Any]) -> str:
    """Sleep: never less than was asked for."""
    run, place = ctx.run_id, ctx._key
    seconds = _seconds(run, place)
    here().world.rests(run, place)
    await ctx.step.sleep("nap", seconds)
    here().world.wakes(run, place, seconds)
    return "rested"


@tool(effect="steps")
async def hear(ctx: Context[Any]) -> str:
    """Wait for news about this run, for some time."""
    event = await ctx.step.wait_for_event("it", "news", match={"to": ctx.run_id}, timeout=_seconds(ctx.run_id, "news"))
    await work()
    return f"news {event.data['n']}" if event is not None else "no news"


@tool(effect="steps")
async def talk(ctx: Context[Any]) -> str:
    """Send two events, and wait for both at once."""
    mine = {"place": ctx._key, "run": ctx.run_id}
    first = await ctx.step.send_event("send one", "talk", {**mine, "n": 1})
    await work()
    await ctx.step.send_event("send two", "talk", {**mine, "n": 2})
    waits = (ctx.step.wait_for_event(id, "talk", match=mine) for id in "ab")
    heard = [one for one in await asyncio.gather(*waits) if one is not None]
    assert first.id in {one.id for one in heard}
    return f"heard {sorted(one.data['n'] for one in heard)}"


@tool(effect="once", requires_approval=True)
async def permit(ctx: Context[Any]) -> str:
    """Do what a person has allowed."""
    await work()
    here().effect("once", ctx.run_id, ctx._key, ctx.idempotency_key)
    return "permitted"


@tool(effect="steps")
async def ask(ctx: Context[Any]) -> str:
    """Ask a person, sometimes for a short time only."""
    timeout = Random(f"ask {here().world.plan.seed} {ctx.run_id} {ctx._key}").choice((None, None, 0.3, 2.0))
    answer = await ctx.ask("How much?", choices=("all", "nothing"), timeout=timeout)
    assert isinstance(answer, Answer) or timeout is not None
    return answer.text if answer is not None else "nobody knows"
