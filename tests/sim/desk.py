"""What the simulated processes run: every kind of effect, scripted by the message itself.

A message is rounds of tools, such as `look,charge|trip`: two rounds, the first with two calls at once; `-` is none.
What a step does is told to the world, with its run and its place.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

from perdure import Agent, Context, Hooks, Network, NotDone, RouterArgs, tool
from perdure.models.model import Capabilities, ModelRequest
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.errors import Overloaded
from perdure.types.messages import TextMessage, ToolCallMessage
from perdure.types.usage import Usage
from tests.sim.here import here, work
from tests.sim.jobs import JOBS, hire, order
from tests.sim.ledger import book
from tests.sim.undoing import better, reserve, stay
from tests.sim.waiting import ask, hear, nap, permit, talk


@tool(effect="pure")
async def look(ctx: Context[Any]) -> str:
    """Look."""
    here().effect("pure", ctx.run_id, ctx._key, ctx.idempotency_key)
    await work()
    return "seen"


@tool(effect="idempotent")
async def fetch(ctx: Context[Any]) -> str:
    """Fetch."""
    here().effect("idempotent", ctx.run_id, ctx._key, ctx.idempotency_key)
    await work()
    return "x" * 70_000  # more than a record holds itself


@tool(effect="once")
async def charge(ctx: Context[Any]) -> str:
    """Charge."""
    await work()
    here().effect("once", ctx.run_id, ctx._key, ctx.idempotency_key)
    await work()
    return "charged"


@tool(effect="once", retries=2)
def pay(ctx: Context[Any]) -> str:
    """Pay, at the second attempt: nothing has happened at the first."""
    if here().world.times("pay", ctx.run_id, ctx._key) == 1:
        raise NotDone("the till is closed")
    here().effect("once", ctx.run_id, ctx._key, ctx.idempotency_key)
    return "paid"


@tool(effect="idempotent", retries=3)
async def shaky(ctx: Context[Any]) -> str:
    """Fail at first."""
    here().effect("idempotent", ctx.run_id, ctx._key, ctx.idempotency_key)
    await work()
    if here().world.times("shaky", ctx.run_id, ctx._key) < 3:
        raise ConnectionError("shaky")
    return "firm"


@tool(effect="pure")
async def bump(ctx: Context[Any]) -> str:
    """Count in the state."""
    here().effect("pure", ctx.run_id, ctx._key, ctx.idempotency_key)
    data = ctx.state.data
    await work()
    data[ctx._key] = data["bumps"] = data.get("bumps", 0) + 1
    return "bumped"


@tool(effect="steps")
async def trip(ctx: Context[Any]) -> str:
    """Make a trip in steps."""

    def first() -> str:
        here().effect("step", ctx.run_id, f"{ctx._key}/a", "a")
        return "a"

    async def last() -> str:
        here().effect("step", ctx.run_id, f"{ctx._key}/b", "b")
        await work()
        return "b"

    begun = await ctx.step.run("a", first, effect="idempotent")
    asked = await ctx.run(HELPER, "look")
    return begun + asked.output + await ctx.step.run("b", last, effect="idempotent")


@tool(effect="steps")
async def errand(ctx: Context[Any]) -> str:
    """Have somebody do what takes time, and needs a person."""
    return (await ctx.run(HELPER, "nap,permit|look")).output


class Script:
    """A model that does what the message says; its answers take time, and fail at first where the world says so."""

    name = provider = "script"
    capabilities = Capabilities()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        system = request.messages[0]
        assert isinstance(system, TextMessage)
        run, key = system.text.split()
        process = here()
        process.effect("model", run, key, key)
        await work()
        if process.world.fails(run, key):
            yield TextChunk("I th")
            raise Overloaded("too many", provider="script", model="script")
        at = max(n for n, one in enumerate(request.messages) if isinstance(one, TextMessage) and one.role == "user")
        asked = request.messages[at]
        assert isinstance(asked, TextMessage)
        rounds = asked.text.split("|") if asked.text != "-" else []
        # a turn's number of answers is in its place: in a network others have answered before
        number = int(key.rsplit("/", 1)[1])
        said = sum(isinstance(one, ToolCallMessage) for one in request.messages[at:])
        if number < len(rounds):
            for block, name in enumerate(rounds[number].split(",")):
                args = {"room": 10 * number + block} if name in ("reserve", "stay") else {}
                yield ToolCallChunk(block, f"call_{number}_{block}", name, json.dumps(args))
            yield Finished("tool", Usage(3, 2))
        else:
            yield TextChunk("done ")
            await work()
            yield TextChunk(f"after {said} rounds")
            yield Finished("stop", Usage(3, 2))


def _who(ctx: Context[Any]) -> str:
    return f"{ctx.run_id} {ctx._key}"


def _route(r: RouterArgs[Any]) -> Agent | None:
    if r.call_count == 0:
        return FIRST
    return SECOND if r.call_count == 1 and r.state.data.get("bumps") else None


TOOLS = [look, fetch, charge, pay, shaky, bump, trip, book, reserve, stay, nap, hear, talk, permit, ask, errand]
TOOLS += [order, hire]
HOOKS = Hooks(before_tool=better)
HELPER = Agent("Helper", system=_who, tools=[look, nap, permit], model=Script())
DESK = Agent("Desk", system=_who, tools=TOOLS, model=Script(), hooks=HOOKS)
FIRST = Agent("First", system=_who, tools=TOOLS, model=Script(), hooks=HOOKS)
SECOND = Agent("Second", system=_who, tools=TOOLS, model=Script(), hooks=HOOKS)
NET = Network("Net", agents=[FIRST, SECOND], router=_route)
DEFINITIONS = [DESK, NET]
BY_NAME: dict[str, Any] = {one.name: one for one in [*DEFINITIONS, *JOBS]}
