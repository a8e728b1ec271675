"""What is inferred for tools: they keep their signature, and carry the state that their context names."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Concatenate, Literal, assert_type

from perdure import Agent, Context, RunResult, Tool, Toolset, tool, toolset
from perdure.testing import ScriptedModel, context
from perdure.testing.capture import ToolContext


@dataclass
class Support:
    user: str = ""
    answered: bool = False


@dataclass
class Weather:
    unit: str


class Pool:
    def fetch(self) -> int:
        return 1


# -- definitions -------------------------------------------------------------------------------------------------------


@tool
def add(a: int, b: int = 1) -> int:
    return a + b


@tool(effect="pure", timeout=5)
async def weather(city: str, unit: Literal["C", "F"] = "C") -> Weather:
    return Weather(unit)


@tool
async def answer(ctx: Context[Support], text: str) -> str:
    ctx.state.data.answered = True
    return text


@tool(effect="idempotent", requires_approval=True)
def remember(ctx: Context[Support], text: str, *, loud: bool = False) -> None: ...


@tool
async def anywhere(ctx: Context, text: str) -> str:
    return text


def lookup(key: str) -> float:
    return float(key)


assert_type(tool(lookup, name="look_up")("1"), float)
plain_tool: Tool[..., int, object] = add
stateful: Tool[Concatenate[Context[Support], ...], Any, Support] = answer
decorated: Tool[Concatenate[Context[Support], ...], None, Support] = remember

# a tool that wants nothing of the state serves every state, one that wants Support does not
wide: Tool[..., Any, Support] = add
narrow: Tool[..., Any, object] = answer  # pyright: ignore[reportAssignmentType]

tool(effect="twice")  # pyright: ignore[reportArgumentType]
tool(lookup, timeout="soon")  # pyright: ignore[reportCallIssue, reportArgumentType]


# -- calls -------------------------------------------------------------------------------------------------------------


async def calls(ctx: Context[Support], other: Context[Weather]) -> None:
    assert_type(add(1), int)
    assert_type(add(1, b=2), int)
    assert_type(await weather("Oslo", "F"), Weather)
    assert_type((await weather(city="Oslo")).unit, str)
    assert_type(await answer(ctx, "yes"), str)
    remember(ctx, "yes", loud=True)
    await anywhere(ctx, "yes")
    await anywhere(other, "yes")

    add("1")  # pyright: ignore[reportArgumentType]
    await weather("Oslo", "K")  # pyright: ignore[reportArgumentType]
    await answer("yes")  # pyright: ignore[reportCallIssue]
    await answer(other, "yes")  # pyright: ignore[reportArgumentType]


# -- what a context gives ----------------------------------------------------------------------------------------------


async def inside(ctx: Context[Support], invoice: Agent[Weather, object]) -> None:
    assert_type(ctx.state.data, Support)
    assert_type(ctx.network.state.data.answered, bool)
    assert_type(ctx.use(Pool), Pool)
    assert_type(ctx.use(Pool).fetch(), int)
    assert_type(await ctx.step.run("fetch", ctx.use(Pool).fetch), int)
    assert_type(await ctx.step.run("look-up", lookup, "1"), float)
    assert_type(await ctx.run(invoice, "Read this"), RunResult[Weather, Any])
    ctx.state.data.unit  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    ctx.use("Pool")  # pyright: ignore[reportArgumentType]


# -- toolsets ----------------------------------------------------------------------------------------------------------

group = toolset(answer, remember)
assert_type(group, Toolset[Support])
assert_type(group.prefixed("desk_"), Toolset[Support])
assert_type(group.filtered(lambda ctx, one: one.name != "remember"), Toolset[Support])
assert_type(group.approved(), Toolset[Support])
assert_type(group.prepared(lambda ctx, one: one.replace(timeout=3)), Toolset[Support])
assert_type(Agent("Desk", tools=[group.prefixed("desk_"), weather]), Agent[str, Support])


# -- a tool alone ------------------------------------------------------------------------------------------------------


async def alone() -> None:
    ctx = context(Support())
    assert_type(ctx, ToolContext[Support])
    assert_type(await answer(ctx, "yes"), str)
    assert_type(ctx.state.data.answered, bool)
    assert_type(context().state.data, dict[str, Any])
    await answer(context(Weather("C")), "yes")  # pyright: ignore[reportArgumentType]
    Agent("Scripted", model=ScriptedModel("hi"))
