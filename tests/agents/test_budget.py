"""Budgets end a run with a result; nothing more is started, and what is open is closed."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from perdure import (
    Agent,
    Budget,
    BudgetExceeded,
    Context,
    DefinitionError,
    Hooks,
    Network,
    Prices,
    RateLimited,
    RunFailed,
    Usage,
    sequence,
    tool,
)
from perdure.models import TextChunk, Used, fallback
from perdure.testing import ScriptedModel, call, calls, fail, hang, say
from tests.agents.watching import check_transcript, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@tool(effect="pure")
async def look() -> str:
    """Look."""
    return "seen"


def spending(tokens: int) -> Any:
    return calls(call("look"), usage=Usage(tokens - 1, 1))


async def test_a_budget_of_model_calls_is_a_result():
    model = ScriptedModel(call("look"), repeat=True)
    watched = await watch(Agent("A", tools=[look], model=model), budget=Budget(model_calls=2))
    result = watched.result
    assert (result.status, result.stop_reason) == ("completed", "budget")
    assert result.stop_detail == "2 of 2 model calls are used"
    assert len(model.requests) == 2
    assert result.usage.model_calls == 2
    check_transcript(result.messages)
    assert [one.detail for one in watched.events if isinstance(one, BudgetExceeded)] == [result.stop_detail]


async def broken(request: Any) -> Any:
    """An attempt of which the provider says what it uses, and that breaks off."""
    yield Used(Usage(60, 1))
    yield TextChunk("ha")
    raise RateLimited("slow down", retry_after=0.001)


async def test_b20_what_failed_attempts_have_used_is_counted_once_where_the_provider_says_it():
    model = ScriptedModel(broken, fail(RateLimited("slow", retry_after=0.001)), say("fine", usage=Usage(10, 2)))
    result = await Agent("A", model=model).run("x")
    assert result.usage == Usage(70, 3, model_calls=2), "of the one that was refused nothing was said"
    model = ScriptedModel(broken, "never")
    result = await Agent("A", model=model).run("x", budget=Budget(tokens=61))
    assert (result.stop_reason, result.usage) == ("budget", Usage(60, 1, model_calls=1))
    assert result.stop_detail == "61 of 61 tokens are used, so attempt 2 was not made"
    assert len(model.requests) == 1


async def test_b20_an_answer_that_is_not_taken_was_paid_for():
    first = ScriptedModel(broken, prices=Prices(Decimal(1_000_000), Decimal(0)))
    result = await Agent("A", model=fallback(first, ScriptedModel(say("fine", usage=Usage(10, 2))))).run("x")
    assert (result.usage.total_tokens, result.usage.cost) == (73, Decimal(60)), "by the prices of the one that failed"

    def refuse(ctx: Any, result: Any) -> None:
        raise ValueError("not this")

    wrong = say("no number", usage=Usage(10, 2))
    for options in ({"hooks": Hooks(on_response=refuse)}, {"output_type": int}):
        model = ScriptedModel(wrong, repeat=True)
        with pytest.raises(RunFailed) as failed:
            await Agent("A", model=model, **options).run("x")
        assert failed.value.result is not None
        assert failed.value.result.usage.total_tokens == 12 * len(model.requests)


async def test_a_budget_of_tokens():
    model = ScriptedModel(spending(60), spending(60), "never")
    result = await Agent("A", tools=[look], model=model).run("x", budget=Budget(tokens=100))
    assert result.stop_reason == "budget"
    assert result.stop_detail == "120 of 100 tokens are used"
    assert len(model.requests) == 2


@pytest.mark.parametrize(("tokens", "asked"), [(59, 1), (60, 1), (61, 2)])
async def test_a_budget_of_tokens_that_is_just_used_up_is_used_up(tokens: int, asked: int):
    model = ScriptedModel(spending(60), "ok")
    await Agent("A", tools=[look], model=model).run("x", budget=Budget(tokens=tokens))
    assert len(model.requests) == asked


async def test_a_budget_of_tool_calls_closes_what_is_open_as_not_run():
    entered: list[int] = []

    @tool
    async def work(n: int) -> None:
        entered.append(n)

    model = ScriptedModel(calls(*(call("work", n=n) for n in range(4))), "never")
    watched = await watch(Agent("A", tools=[work], model=model), budget=Budget(tool_calls=2))
    result = watched.result
    assert entered == [0, 1]
    assert (result.status, result.stop_reason) == ("completed", "budget")
    assert "2 of 2 tool calls are used" in result.stop_detail
    check_transcript(result.messages)
    outcomes = [one.outcome for one in watched.events if type(one).__name__ == "ToolFinished"]
    assert sorted(outcomes) == ["not_run", "not_run", "ok", "ok"]
    assert result.usage.tool_calls == 2
    assert len(model.requests) == 1


async def test_a_budget_of_dollars():
    prices = Prices(input=Decimal(1), output=Decimal(10))
    model = ScriptedModel(spending(500_000), spending(500_000), spending(500_000), "never", prices=prices)
    result = await Agent("A", tools=[look], model=model).run("x", budget=Budget(cost=Decimal(1)))
    assert result.stop_reason == "budget"
    assert len(model.requests) == 2
    assert result.usage.cost == Decimal("1.000018")
    assert "1.000018 of 1 dollars are used" in result.stop_detail


async def test_a_budget_of_dollars_without_prices_refuses_to_start():
    model = ScriptedModel("never")
    with pytest.raises(DefinitionError, match=r"needs prices, and none is known for test:scripted.*prices=Prices"):
        await Agent("A", model=model).run("x", budget=Budget(cost=Decimal(1)))
    assert model.requests == []


async def test_a_budget_of_dollars_looks_at_every_agent_of_a_network():
    priced = ScriptedModel("ok", prices=Prices(input=Decimal(1), output=Decimal(1)))
    network = Network("N", agents=[Agent("A", model=priced), Agent("B", model=ScriptedModel(name="free"))])
    with pytest.raises(DefinitionError, match="test:free"):
        await network.run("x", model=None, budget=Budget(cost=Decimal(1)))


async def test_a_budget_of_seconds_is_a_result_too():
    watched = await watch(Agent("A", model=ScriptedModel(hang())), budget=Budget(seconds=0.05))
    result = watched.result
    assert (result.status, result.stop_reason) == ("completed", "budget")
    assert "0.05" in result.stop_detail


async def test_a_budget_of_seconds_closes_open_calls():
    @tool
    async def slow() -> None:
        await asyncio.Event().wait()

    watched = await watch(Agent("A", tools=[slow], model=ScriptedModel(call("slow"))), budget=Budget(seconds=0.05))
    check_transcript(watched.result.messages)
    assert watched.result.stop_reason == "budget"


async def test_the_smaller_of_deadline_and_seconds_counts():
    from perdure import RunCancelled

    agent = Agent("A", model=ScriptedModel(hang(), hang()))
    with pytest.raises(RunCancelled):
        await agent.run("x", deadline=0.05, budget=Budget(seconds=600))
    assert (await agent.run("x", deadline=600, budget=Budget(seconds=0.05))).stop_reason == "budget"


async def test_a_budget_ends_a_network_too():
    agent = Agent("A")
    network = Network("N", agents=[agent], router=lambda r: agent, max_iter=None)
    model = ScriptedModel("ok", repeat=True)
    watched = await watch(network, model=model, budget=Budget(model_calls=3))
    assert len(model.requests) == 3
    assert (watched.result.status, watched.result.stop_reason) == ("completed", "budget")
    assert watched.result.stop_detail == "3 of 3 model calls are used"


async def test_a_budget_that_one_agent_of_a_group_used_up_ends_the_network():
    from perdure import parallel

    one, two = Agent("One", tools=[look]), Agent("Two")
    network = Network("N", agents=[one, two], router=lambda r: parallel(one, two), max_iter=None)
    model = ScriptedModel(call("look"), "ok", repeat=True)
    watched = await watch(network, model=model, budget=Budget(model_calls=2))
    assert watched.result.stop_reason == "budget"
    assert len(model.requests) == 2


async def test_a_run_that_was_ended_by_its_budget_can_be_continued():
    agent = Agent("A", tools=[look])
    first = await agent.run("x", model=ScriptedModel(calls(call("look"), call("look"))), budget=Budget(tool_calls=1))
    model = ScriptedModel("ok")
    second = await agent.run("go on", messages=first.messages, model=model)
    check_transcript(model.requests[0].messages)
    assert second.output == "ok"


async def test_child_runs_charge_the_run_that_started_them():
    helper = Agent("Helper", tools=[look])
    agent = Agent("A", tools=[helper.as_tool()])
    model = ScriptedModel(call("helper", request="x"), call("look"), "helped", "ok")
    result = await agent.run("x", model=model, budget=Budget(model_calls=3))
    assert len(model.requests) == 3
    assert result.stop_reason == "budget"
    assert result.usage.model_calls == 3
    assert result.usage.tool_calls == 2


async def test_a_child_is_stopped_by_the_budget_above_it_and_the_parent_s_history_stays_valid():
    helper = Agent("Helper", tools=[look])
    agent = Agent("A", tools=[helper.as_tool()])
    model = ScriptedModel(call("helper", request="x"), call("look"), repeat=True)
    watched = await watch(agent, model=model, budget=Budget(model_calls=2))
    assert len(model.requests) == 2
    assert watched.result.stop_reason == "budget"
    check_transcript(watched.result.messages)


async def test_a_child_s_own_budget_is_its_own():
    helper = Agent("Helper", tools=[look])
    stopped: list[Any] = []

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> str:
        result = await ctx.run(helper, "x", budget=Budget(model_calls=1))
        stopped.append(result.stop_reason)
        return "asked"

    agent = Agent("A", tools=[ask])
    result = await agent.run("x", model=ScriptedModel(call("ask"), call("look"), "ok"))
    assert stopped == ["budget"]
    assert (result.stop_reason, result.output) == ("answer", "ok")


async def test_without_a_budget_usage_is_counted_all_the_same():
    model = ScriptedModel(say("ok", usage=Usage(10, 5, cache_read_tokens=4)))
    agent = Agent("A")
    result = await Network("N", agents=[agent], router=sequence(agent)).run("x", model=model)
    assert result.usage == Usage(10, 5, cache_read_tokens=4, model_calls=1)


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": -1}, {"cost": Decimal(-1)}, {"seconds": -0.5}, {"model_calls": -1}, {"tool_calls": -2}],
)
def test_a_negative_budget_is_refused(wrong: dict[str, Any]):
    with pytest.raises(DefinitionError, match="is negative"):
        Budget(**wrong)


@pytest.mark.parametrize("wrong", [{"tokens": "100"}, {"cost": "1"}, {"seconds": "1"}, {"model_calls": 1.5}])
def test_a_budget_of_another_type_is_refused(wrong: dict[str, Any]):
    with pytest.raises(DefinitionError, match=f"Budget\\({next(iter(wrong))}="):
        Budget(**wrong)


async def test_a_budget_of_nothing_starts_nothing():
    model = ScriptedModel("never")
    result = await Agent("A", model=model).run("x", budget=Budget(model_calls=0))
    assert model.requests == []
    assert (result.status, result.stop_reason, result.output) == ("completed", "budget", "")
