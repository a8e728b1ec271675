"""Agents that ask people, here and in processes that are killed: each effect, hook and predicate leaves a line."""

import os
from typing import Any

from perdure import Agent, Context, Hooks, Network, RoutingAgent, ToolCall, ask_human, sequence, tool
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.messages import ToolCallMessage, ToolResultMessage
from tests.runtime.acts import act
from tests.runtime.desk import note

Ctx = Context[Any]
DEFAULT = os.environ.get("CURRENCY", "NOK")


def large(amount: int, **_: Any) -> str:
    note("predicate")
    return f"{amount} is above 100" if amount > 100 else ""


def halve(ctx: Ctx, one: ToolCall) -> ToolCall:
    note("hook")
    return ToolCall(one.id, one.name, {**one.input, "amount": one.input["amount"] // 2})


@tool(requires_approval=large)
async def pay(ctx: Ctx, amount: int, currency: str = DEFAULT) -> str:
    """Pay."""
    return act("pay", f"{amount} {currency} {ctx.idempotency_key}")


@tool(in_doubt="ask")
async def wire(ctx: Ctx, amount: int = 7) -> str:
    """Pay, and let a person say what became of it."""
    return act("wire", f"{amount} {ctx.idempotency_key}")


@tool(effect="steps")
async def order(ctx: Ctx) -> str:
    """Order, in a step about which a person is asked when it is in doubt."""
    found = await ctx.step.run("order", act, "order", in_doubt="ask")
    return f"ordered {found}"


@tool(effect="steps")
async def travel(ctx: Ctx) -> str:
    """Book what a person allows, where a person wants to go."""
    where = await ctx.ask("Where to?", choices=("Oslo", "Bergen"))
    assert where is not None
    decision = await ctx.approve(f"Book {where.text}?", args={"to": where.text})
    if not decision:
        return f"not booked: {decision.why}"
    return await ctx.step.run("book", act, f"book {where.text} for {decision.by}")


def once(*asks: Any) -> FunctionModel:
    """A model that makes these calls at once and then says what came of them."""
    names = {one.tool for message in asks for one in message.calls}

    def says(request: Any) -> Any:
        said = [one for message in request.messages if isinstance(message, ToolCallMessage) for one in message.tools]
        if any(one.name in names for one in said):
            results = [one.content for one in request.messages if isinstance(one, ToolResultMessage)]
            return say(" ".join(str(one) for one in results))
        return calls(*asks) if len(asks) > 1 else asks[0]

    return FunctionModel(says)


PAYER = Agent("Payer", tools=[pay], hooks=Hooks(before_tool=halve), model=once(call("pay", amount=1000)))
TWO = Agent("Two", tools=[pay], model=once(call("pay", amount=300), call("pay", amount=500)))
WIRER = Agent("Wirer", tools=[wire], model=once(call("wire")))
ORDERER = Agent("Orderer", tools=[order], model=once(call("order")))
TRAVELLER = Agent("Traveller", tools=[travel], model=once(call("travel")))
CURIOUS = Agent("Curious", tools=[ask_human], model=once(call("ask_human", question="Why?")))


@tool(effect="steps")
async def ask_payer(ctx: Ctx) -> str:
    """Let the payer pay."""
    return (await ctx.run(PAYER, "please")).text


BOSS = Agent("Boss", tools=[PAYER.as_tool()], model=once(call("payer", request="pay")))
UNCLE = Agent(
    "Uncle",
    tools=[ask_payer, PAYER.as_tool(), pay],
    model=once(call("ask_payer"), call("payer", request="pay"), call("pay", amount=200)),
)
OFFICE = Network("Office", agents=[PAYER, TRAVELLER], router=sequence(PAYER, TRAVELLER))


@tool
async def choose(name: str) -> str:
    """Choose somebody, with an effect."""
    return act("choose", name)


CHOOSER = RoutingAgent(
    "Chooser", tools=[choose], model=once(call("choose", name="x")), on_route=lambda ctx, result: None
)
ROUTED = Network("Routed", agents=[PAYER], router=CHOOSER)
PAYERS = (PAYER, TWO, WIRER, ORDERER, TRAVELLER, CURIOUS, BOSS, UNCLE, OFFICE, ROUTED)
