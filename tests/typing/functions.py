"""What is inferred of durable functions; read by pyright and mypy, never run."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, assert_type

from perdure import Agent, Context, Function, Run, RunResult, Runtime, SentEvent, function
from perdure.models.model import Model


@dataclass
class Receipt:
    number: int


@function
async def pay(ctx: Context[Any], amount: int, to: str = "bank") -> Receipt:
    return Receipt(amount)


@function(event="app/told", retries=2, concurrency=3)
async def hears(ctx: Context[Any], event: SentEvent) -> str:
    return event.id


async def doors(runtime: Runtime, ctx: Context[Any], model: Model) -> None:
    assert_type(await pay.run({"amount": 1}), RunResult[Receipt, dict[str, Any]])
    assert_type((await pay.run({"amount": 1})).output, Receipt)
    assert_type(await runtime.run(hears, {"n": 1}), RunResult[str, dict[str, Any]])
    assert_type(await runtime.start(pay, {"amount": 1}), Run[Receipt, dict[str, Any]])
    assert_type(pay(ctx, 1, to="bo"), Awaitable[Receipt])
    assert_type(await ctx.step.invoke("pay", pay, {"amount": 1}), Receipt)
    assert_type(await ctx.step.infer("x", model, "hi"), str)
    assert_type(await ctx.step.infer("x", model, "hi", output_type=Receipt), Receipt)
    found: Function[..., Receipt] = pay
    clerk = Agent("Clerk", tools=[found], model=model)
    assert_type((await clerk.run("hi")).output, str)
