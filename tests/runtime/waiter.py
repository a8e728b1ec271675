"""An agent that sends an event, waits for another one, sleeps, and then acts."""

import time
from typing import Any

from perdure import Agent, Context, tool
from perdure.testing import call, say
from tests.runtime.desk import answer, note

NAP = 0.2


@tool(effect="steps")
async def deal(ctx: Context[Any]) -> Any:
    """Ask, wait for the answer, sleep, act."""
    await ctx.step.send_event("ask", "app/asked", {"of": ctx.run_id})
    event = await ctx.step.wait_for_event("ok", "app/ok", match={"of": ctx.run_id})
    assert event is not None
    began = await ctx.step.run("began", time.time, effect="idempotent")
    await ctx.step.sleep("nap", NAP)
    await ctx.step.run("act", lambda: note(f"act {ctx.run_id} {time.time() - began:.3f}"), effect="idempotent")
    return event.data["n"]


WAITER = Agent(
    "Waiter", tools=[deal], model=answer(lambda asked, number: say("dealt") if number else call("deal"), "waiter")
)
