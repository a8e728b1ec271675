"""Networks: router, queue, limits, endings, and what is shared."""

from typing import Any

import pytest

from perdure import (
    Agent,
    Context,
    Hooks,
    Network,
    Route,
    RouterArgs,
    RunFailed,
    UnknownName,
    sequence,
    tool,
)
from perdure.testing import ScriptedModel, call, fail, say
from perdure.types.messages import user
from tests.agents.watching import check_transcript, keys_of, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


def agents(*names: str) -> list[Agent[Any, Any]]:
    return [Agent(name, system=f"I am {name}.") for name in names]


def turns(result: Any) -> list[str]:
    return [one.agent_name for one in result.results]


# -- the router -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
async def test_b24_the_router_is_called_before_the_first_agent_and_after_every_agent(slow: bool):
    seen: list[RouterArgs[Any]] = []
    one, two = agents("One", "Two")

    def route(r: RouterArgs[Any]) -> Agent[Any, Any] | None:
        seen.append(r)
        return [one, two, None][r.call_count]

    async def route_later(r: RouterArgs[Any]) -> Agent[Any, Any] | None:
        return route(r)

    network = Network("N", agents=[one, two], router=route_later if slow else route)
    result = await network.run("Why?", model=ScriptedModel("first", "second"))
    assert [r.call_count for r in seen] == [0, 1, 2]
    assert [r.decisions for r in seen] == [0, 1, 2]
    assert {r.input for r in seen} == {"Why?"}
    assert {r.user_message for r in seen} == {user("Why?")}
    assert {r.network.name for r in seen} == {"N"}
    assert [r.stack for r in seen] == [[], [], []]
    assert [r.last_result.text if r.last_result else None for r in seen] == [None, "first", "second"]
    assert turns(result) == ["One", "Two"]
    assert (result.output, result.stop_reason) == ("second", "router")


async def test_b24_the_last_result_may_have_come_with_the_state():
    (one,) = agents("One")
    network = Network("N", agents=[one], router=sequence(one))
    first = await network.run("x", model=ScriptedModel("before"))
    seen: list[Any] = []

    def route(r: RouterArgs[Any]) -> None:
        seen.append((r.last_result.text if r.last_result else None, r.call_count))

    await network.run("y", state=first.state, router=route, model=ScriptedModel())
    assert seen == [("before", 0)]


async def test_b24_every_agent_sees_what_the_ones_before_it_said():
    one, two = agents("One", "Two")
    model = ScriptedModel("first", "second")
    await Network("N", agents=[one, two], router=sequence(one, two)).run("Why?", model=model)
    assert [one.text for one in model.requests[1].messages] == ["I am Two.", "Why?", "first"]


async def test_b25_a_router_may_answer_with_an_agent_its_name_a_list_a_route_or_nothing():
    one, two, three = agents("One", "Two", "Three")
    answers: list[Any] = [one, "Two", [three, "One"], None, Route("Two"), (), None]

    def route(r: RouterArgs[Any]) -> Any:
        return answers[r.decisions]

    network = Network("N", agents=[one, two, three], router=route)
    result = await network.run("x", model=ScriptedModel("ok", repeat=True))
    assert turns(result) == ["One", "Two", "Three", "One", "Two"], "nothing, with agents still queued, lets them run"


async def test_b25_an_agent_from_outside_is_accepted():
    inside, outside = agents("Inside", "Outside")
    network = Network("N", agents=[inside], router=sequence(outside, inside))
    result = await network.run("x", model=ScriptedModel("ok", repeat=True))
    assert turns(result) == ["Outside", "Inside"]
    assert list(network.agents) == ["Inside"]


async def test_b25_an_agent_from_outside_with_the_name_of_one_inside_is_refused():
    inside, outside = Agent("Same"), Agent("Same", system="another")
    network = Network("N", agents=[inside], router=sequence(outside))
    with pytest.raises(RunFailed, match="'Same'"):
        await network.run("x", model=ScriptedModel("ok"))


async def test_b25_a_route_with_arguments_is_built_by_the_network():
    built: list[Any] = []

    def resolve(name: str, args: dict[str, Any]) -> Agent[Any, Any]:
        built.append((name, args))
        return Agent(f"{name} for {args['topic']}", system=f"I know {args['topic']}.")

    network = Network(
        "N",
        agents=agents("One"),
        router=lambda r: Route("expert", args={"topic": "bees"}) if r.call_count == 0 else None,
        resolve=resolve,
    )
    model = ScriptedModel("buzz")
    result = await network.run("x", model=model)
    assert built == [("expert", {"topic": "bees"})], "built once"
    assert model.requests[0].messages[0].text == "I know bees."
    assert result.output == "buzz"


async def test_b26_the_queue_is_first_in_first_out_and_new_answers_go_to_its_end():
    one, two, three = agents("One", "Two", "Three")
    stacks: list[list[str]] = []

    def route(r: RouterArgs[Any]) -> Any:
        stacks.append([agent.name for agent in r.stack])
        return [[one, two], three, None, None][r.decisions]

    network = Network("N", agents=[one, two, three], router=route)
    result = await network.run("x", model=ScriptedModel("ok", repeat=True))
    assert turns(result) == ["One", "Two", "Three"]
    assert stacks == [[], ["Two"], ["Three"], []]


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_b27_the_limit_bounds_agent_turns_and_the_router_is_not_asked_in_vain(limit: int):
    asked: list[int] = []
    (one,) = agents("One")

    def route(r: RouterArgs[Any]) -> Agent[Any, Any]:
        asked.append(r.call_count)
        return one

    network = Network("N", agents=[one], router=route, max_iter=limit)
    watched = await watch(network, model=ScriptedModel("ok", repeat=True))
    assert turns(watched.result) == ["One"] * limit
    assert asked == list(range(limit))
    assert (watched.result.stop_reason, watched.result.status) == ("max_iter", "completed")


@pytest.mark.parametrize("limit", [0, None])
async def test_b27_0_and_none_are_no_limit(limit: int | None):
    (one,) = agents("One")
    network = Network("N", agents=[one], router=lambda r: one if r.call_count < 15 else None, max_iter=limit)
    assert len((await network.run("x", model=ScriptedModel("ok", repeat=True))).results) == 15


async def test_b27_the_default_is_10_and_the_run_may_set_its_own():
    (one,) = agents("One")
    network = Network("N", agents=[one], router=lambda r: one, model=ScriptedModel("ok", repeat=True))
    assert len((await network.run("x")).results) == 10
    assert len((await network.run("x", max_iter=2)).results) == 2


async def test_b28_an_ending_without_an_agent_is_visible():
    watched = await watch(Network("N", agents=agents("One"), router=lambda r: None), model=ScriptedModel())
    result = watched.result
    assert (result.status, result.stop_reason, result.results, result.output) == ("completed", "router", (), "")
    assert [one.text for one in result.messages] == ["go"]
    assert watched.names == ["RunStarted", "RouteDecided", "RunCompleted"]


# -- b29: errors before the first agent -------------------------------------------------------------------------------


async def test_b29_neither_router_nor_model_is_an_error_that_closes_the_stream():
    watched = await watch(Network("N", agents=agents("One")))
    assert isinstance(watched.error, RunFailed)
    assert "neither a router nor a model" in str(watched.error)
    assert watched.names == ["RunStarted", "RunFailed"]


async def test_b29_no_enabled_agent_is_an_error_that_closes_the_stream():
    one, two = Agent("One", enabled=False), Agent("Two", enabled=lambda ctx: False)
    watched = await watch(Network("N", agents=[one, two], router=sequence(one)), model=ScriptedModel())
    assert "no agent is enabled" in str(watched.error)
    assert watched.names == ["RunStarted", "RunFailed"]


async def test_b29_a_router_that_raises_closes_the_stream_and_is_the_cause():
    def route(r: RouterArgs[Any]) -> None:
        raise ZeroDivisionError("in the router")

    told: list[Exception] = []
    hooks = Hooks(on_error=lambda ctx, error: told.append(error))
    watched = await watch(Network("N", agents=agents("One"), router=route, hooks=hooks), model=ScriptedModel())
    assert isinstance(watched.error.__cause__, ZeroDivisionError)
    assert watched.names == ["RunStarted", "RunFailed"]
    assert told == [watched.error.__cause__]
    assert any("route/0" in note for note in watched.error.__cause__.__notes__)


@pytest.mark.parametrize("slow", [False, True])
async def test_enabled_may_be_a_function_sync_or_async(slow: bool):
    def plain(ctx: Context[Any]) -> bool:
        return ctx.state.data["open"]

    async def later(ctx: Context[Any]) -> bool:
        return plain(ctx)

    seen: list[list[str]] = []

    async def route(r: RouterArgs[Any]) -> None:
        seen.append([one.name for one in await r.ctx.available_agents()])

    network = Network("N", agents=[Agent("One", enabled=later if slow else plain), Agent("Two")], router=route)
    await network.run("x", state={"open": True}, model=ScriptedModel())
    await network.run("x", state={"open": False}, model=ScriptedModel())
    assert seen == [["One", "Two"], ["Two"]]


@pytest.mark.parametrize("unknown", ["Nobody", ["One", "Nobody"], Route("Nobody")])
async def test_b31_an_unknown_name_from_the_router_is_raised_clearly(unknown: Any):
    watched = await watch(Network("N", agents=agents("One", "Two"), router=lambda r: unknown), model=ScriptedModel())
    assert isinstance(watched.error.__cause__, UnknownName)
    assert "no agent named 'Nobody'. Known: 'One', 'Two'" in str(watched.error)


@pytest.mark.parametrize("rubbish", [5, object(), [5], b"One", {"One": 1}])
async def test_b31_rubbish_from_the_router_is_an_error_that_says_what_it_may_return(rubbish: Any):
    watched = await watch(Network("N", agents=agents("One"), router=lambda r: rubbish), model=ScriptedModel())
    assert isinstance(watched.error, RunFailed)
    assert "return an agent" in str(watched.error)


async def test_a_failing_agent_keeps_what_the_ones_before_it_did():
    one, two = agents("One", "Two")
    network = Network("N", agents=[one, two], router=sequence(one, two))
    model = ScriptedModel("first", fail(ValueError("no"), after="half an ans"))
    watched = await watch(network, model=model)
    result = watched.error.result
    assert result.status == "failed"
    assert [(turn.agent_name, turn.text) for turn in result.results] == [("One", "first"), ("Two", "half an ans")]
    assert result.results[1].stop_reason == "error"
    assert [one.text for one in result.messages] == ["go", "first", "half an ans"]


# -- b33: runs are independent ----------------------------------------------------------------------------------------


async def test_b33_the_state_is_made_anew_and_deeply_for_each_run():
    start = {"notes": {"list": []}}

    @tool
    def note(ctx: Context[dict[str, Any]], text: str) -> None:
        ctx.state.data["notes"]["list"].append(text)

    one = Agent("One", tools=[note])
    network = Network("N", agents=[one], router=sequence(one), state=lambda: start)
    first = await network.run("x", model=ScriptedModel(call("note", text="a"), "ok"))
    second = await network.run("x", model=ScriptedModel(call("note", text="b"), "ok"))
    assert first.state.data == {"notes": {"list": ["a"]}}
    assert second.state.data == {"notes": {"list": ["b"]}}
    assert start == {"notes": {"list": []}}


async def test_b33_parallel_runs_of_one_network_are_independent():
    import asyncio

    gate = asyncio.Barrier(20)

    @tool
    async def note(ctx: Context[dict[str, Any]], n: int) -> None:
        await gate.wait()
        ctx.state.data.setdefault("seen", []).append(n)

    one, two = Agent("One", tools=[note]), Agent("Two")
    network = Network("N", agents=[one, two], router=sequence(one, two))
    runs = [network.run(str(n), model=ScriptedModel(call("note", n=n), "ok", str(n))) for n in range(20)]
    results = await asyncio.gather(*runs)
    assert [one.state.data for one in results] == [{"seen": [n]} for n in range(20)]
    assert [one.output for one in results] == [str(n) for n in range(20)]
    assert len({one.run_id for one in results}) == 20


# -- b35: a stop condition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
async def test_b35_a_stop_condition_ends_the_run_before_the_router_is_asked(slow: bool):
    asked: list[int] = []
    (one,) = agents("One")

    def enough(r: RouterArgs[Any]) -> bool:
        return r.last_result is not None and r.last_result.text == "stop"

    async def enough_later(r: RouterArgs[Any]) -> bool:
        return enough(r)

    def route(r: RouterArgs[Any]) -> Any:
        asked.append(r.call_count)
        return [one, one]

    network = Network("N", agents=[one], router=route, stop_when=enough_later if slow else enough)
    result = await network.run("x", model=ScriptedModel("go", "stop", "never"))
    assert (turns(result), result.stop_reason, asked) == (["One", "One"], "stop_when", [0, 1])


async def test_b35_a_stop_condition_is_asked_after_a_turn_only():
    (one,) = agents("One")
    network = Network("N", agents=[one], router=lambda r: one, stop_when=lambda r: True)
    assert turns(await network.run("x", model=ScriptedModel("ok"))) == ["One"]


async def test_b35_an_agent_may_stop_when_a_tool_has_succeeded():
    @tool
    async def submit(text: str) -> str:
        if text == "bad":
            raise ValueError("bad")
        return "sent"

    model = ScriptedModel(call("submit", text="bad"), call("submit", text="good"), "never")
    result = await Agent("A", tools=[submit], stop_when="submit", model=model).run("x")
    assert len(model.requests) == 2
    assert result.stop_reason == "stop_when"
    check_transcript(result.messages)


# -- what a run shows and keeps ---------------------------------------------------------------------------------------


async def test_b52_the_places_of_a_network_run():
    @tool(effect="pure")
    async def look() -> str:
        return "seen"

    one, two = Agent("One", tools=[look]), Agent("Two")
    network = Network("N", agents=[one, two], router=sequence(one, two))
    result = await network.run("x", model=ScriptedModel(call("look"), "a", "b"))
    assert await keys_of(result) == [
        "route/0",
        "agent/0/infer/0",
        "agent/0/infer/0/tool/0",
        "agent/0/infer/1",
        "agent/0",
        "route/1",
        "agent/1/infer/0",
        "agent/1",
        "route/2",
    ]


async def test_the_events_of_a_network_run_in_order():
    one, two = agents("One", "Two")
    watched = await watch(Network("N", agents=[one, two], router=sequence(one, two)), model=ScriptedModel("a", "b"))
    turn = ["AgentStarted", "MessageStarted", "TextDelta", "MessageFinished", "UsageUpdated", "AgentFinished"]
    assert watched.names == ["RunStarted", *(["RouteDecided", *turn] * 2), "RouteDecided", "RunCompleted"]
    assert [(one.agents, one.by) for one in watched.events if type(one).__name__ == "RouteDecided"] == [
        (("One",), "sequence"),
        (("Two",), "sequence"),
        ((), "sequence"),
    ]
    assert {one.run_id for one in watched.events} == {watched.result.run_id}


async def test_an_agent_behaves_the_same_alone_and_in_a_network():
    @tool(effect="pure")
    async def look() -> str:
        return "seen"

    agent = Agent("One", system="S", tools=[look])
    alone, within = ScriptedModel(call("look"), say("ok")), ScriptedModel(call("look"), say("ok"))
    first = await agent.run("x", model=alone)
    second = await Network("N", agents=[agent], router=sequence(agent)).run("x", model=within)
    assert alone.requests == within.requests
    assert first.messages == second.messages
    assert first.usage == second.usage
    assert first.output == second.output
