"""Runs that were invoked: bounded by the budgets above them, and never waited for in vain."""

import asyncio
from typing import Any

import pytest

from perdure import Budget, Context, InvokeError, OverBudget, Runtime, function
from perdure.testing import FunctionModel, say
from tests.runtime.desk import QUICK, until


def counted(asked: list[str]) -> FunctionModel:
    def answers(request: Any) -> Any:
        asked.append(request.messages[-1].text)
        return say("yes")

    return FunctionModel(answers)


@pytest.mark.parametrize("calls", [3, 5])
async def test_r15_a_parents_budget_bounds_what_it_has_invoked_also_beside_each_other(url: str, calls: int):
    asked: list[str] = []
    model = counted(asked)

    @function(retries=0)
    async def child(ctx: Context[Any], name: str) -> int:
        for n in range(10):
            await ctx.step.infer(f"q{n}", model, name)
        return 10

    @function(retries=0)
    async def parent(ctx: Context[Any]) -> str:
        await ctx.step.infer("first", model, "parent")
        try:
            await ctx.step.invoke("a", child, {"name": "a"})
        except InvokeError as error:
            return "OverBudget" if "OverBudget" in str(error) else str(error)
        return "unbounded"

    async with Runtime(url, [parent, child], timing=QUICK) as rt, asyncio.timeout(20):
        result = await rt.run(parent, budget=Budget(model_calls=calls))
        assert result.output == OverBudget.__name__
        assert asked == ["parent", *["a"] * (calls - 1)]
        assert result.usage.model_calls == calls, "each counts once"
        free = await rt.run(parent)
        assert free.output == "unbounded"


async def test_r15_five_that_run_at_once_share_what_is_left(url: str):
    asked: list[str] = []
    model = counted(asked)

    @function(retries=0)
    async def child(ctx: Context[Any], name: str) -> int:
        for n in range(10):
            await ctx.step.infer(f"q{n}", model, name)
        return 10

    @function(retries=0)
    async def parent(ctx: Context[Any]) -> int:
        runs = (ctx.step.invoke(f"c{n}", child, {"name": str(n)}) for n in range(5))
        ended = await asyncio.gather(*runs, return_exceptions=True)
        return sum(isinstance(one, InvokeError) for one in ended)

    async with Runtime(url, [parent, child], timing=QUICK) as rt, asyncio.timeout(20):
        result = await rt.run(parent, budget=Budget(model_calls=12))
        assert result.output >= 4
        assert 12 <= len(asked) <= 12 + 4, "at most the calls in flight are beyond it"


async def test_r15_a_child_that_is_cancelled_or_erased_while_it_is_open_lets_its_parent_go_on(url: str):
    heard: list[str] = []

    @function(retries=0)
    async def child(ctx: Context[Any]) -> str:
        await ctx.step.wait_for_event("ok", "app/never")
        return "came"

    @function(retries=0)
    async def parent(ctx: Context[Any], n: int) -> str:
        try:
            return await ctx.step.invoke("child", child)
        except InvokeError as error:
            heard.append(str(error))
        return "went on"

    async with Runtime(url, [parent, child], timing=QUICK) as rt, asyncio.timeout(20):
        for n, away in enumerate(("cancel", "erase")):
            run = await rt.start(parent, {"n": n}, run_id=f"job-{n}")
            await until(lambda: rt.waits(kind="event"))
            below = (await rt.waits(kind="event"))[0]
            if away == "cancel":
                await rt.cancel(below.run_id)
            else:
                await rt.container("default").erase(below.session_id, cancel=True)
            assert (await run.result()).output == "went on"
    assert len(heard) == 2 and all("child" in one for one in heard)
    assert "was cancelled" in heard[0]
