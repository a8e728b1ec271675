"""Routing agents: a model decides, its decision is kept, its words are not part of the conversation."""

from typing import Any

import pytest

from perdure import (
    Agent,
    AgentResult,
    Context,
    Hooks,
    Network,
    RouterArgs,
    RoutingAgent,
    UnknownName,
    default_routing_agent,
    sequence,
    tool,
)
from perdure.testing import ScriptedModel, call, calls, say
from tests.agents.watching import check_transcript, keys_of, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@tool(effect="pure")
async def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


def desk(**options: Any) -> Network[Any, Any]:
    agents = [
        Agent("Billing", description="Answers <billing> questions.", tools=[weather]),
        Agent("Writer", description="Writes."),
        Agent("Asleep", enabled=False),
    ]
    return Network("Desk", agents=agents, **options)


# -- the default one --------------------------------------------------------------------------------------------------


async def test_b30_without_a_router_the_default_routing_agent_decides_by_the_network_s_model():
    model = ScriptedModel(
        call("select_agent", name="Billing", reason="money"),
        say("You were charged twice."),
        call("done", summary="answered"),
    )
    result = await desk(model=model).run("Why twice?")
    assert [one.agent_name for one in result.results] == ["Billing"]
    assert (result.output, result.stop_reason) == ("You were charged twice.", "router")

    first = model.requests[0]
    assert [one.name for one in first.tools] == ["select_agent", "done"]
    assert first.tool_choice == "any"
    prompt = first.messages[0].text
    assert "<name>Billing</name>" in prompt
    assert "Answers &lt;billing&gt; questions." in prompt
    assert "<tool><name>weather</name><description>Say the weather.</description></tool>" in prompt
    assert "Asleep" not in prompt


async def test_b30_it_reads_the_whole_conversation_once():
    model = ScriptedModel(
        call("select_agent", name="Billing"),
        calls(call("weather", city="Oslo"), text="Let me see."),
        say("Rain."),
        call("done"),
    )
    result = await desk(model=model).run("x")
    system, *conversation = model.requests[3].messages
    assert system.role == "system"
    assert tuple(conversation) == result.messages
    check_transcript(conversation)


async def test_b30_the_run_s_model_is_enough():
    result = await desk().run("x", model=ScriptedModel(call("done")))
    assert result.results == ()
    assert result.stop_reason == "router"


@pytest.mark.parametrize("answer", [call("done"), say("I would ask Billing.")])
async def test_b30_done_stops_and_so_does_an_answer_of_text(answer: Any):
    model = ScriptedModel(answer)
    result = await desk(model=model).run("x")
    assert result.results == ()
    assert len(model.requests) == 1


async def test_b30_of_several_calls_the_first_that_succeeds_counts():
    model = ScriptedModel(calls(call("select_agent", name="Nobody"), call("select_agent", name="Writer")), "hi")
    watched = await watch(desk(model=model, max_iter=1))
    assert [one.agent_name for one in watched.result.results] == ["Writer"]


@pytest.mark.parametrize("unknown", ["Nobody", "Asleep"])
async def test_b31_an_unknown_or_disabled_agent_is_reported_back(unknown: str):
    model = ScriptedModel(call("select_agent", name=unknown), call("select_agent", name="Writer"), "hi", call("done"))
    result = await desk(model=model).run("x")
    assert [one.agent_name for one in result.results] == ["Writer"]
    told = model.requests[1].messages[-1].content
    assert told["error"]["message"] == f"There is no agent named {unknown!r}. Choose one of: Billing, Writer."


async def test_b31_a_routing_agent_that_never_finds_a_name_ends_the_run_in_the_end():
    model = ScriptedModel(call("select_agent", name="Nobody"), repeat=True)
    result = await desk(model=model).run("x")
    assert (result.results, result.stop_reason) == ((), "router")
    assert len(model.requests) == 3


# -- own ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
async def test_b25_on_route_turns_what_was_said_into_agents(slow: bool):
    def plain(ctx: Context[Any], result: AgentResult) -> Any:
        return None if ctx.state.results else result.text.split(",")

    async def later(ctx: Context[Any], result: AgentResult) -> Any:
        return plain(ctx, result)

    chooser = RoutingAgent("Chooser", system="Choose.", on_route=later if slow else plain)
    model = ScriptedModel("Billing,Writer", "b", "-", "w", "-")
    result = await desk(router=chooser).run("x", model=model)
    assert [one.agent_name for one in result.results] == ["Billing", "Writer"]


async def test_b25_a_code_router_may_hand_over_to_a_routing_agent():
    chooser = RoutingAgent("Chooser", on_route=lambda ctx, result: result.text)

    def route(r: RouterArgs[Any]) -> Any:
        return [chooser, None][r.call_count]

    watched = await watch(desk(router=route), model=ScriptedModel("Writer", "hi"))
    assert [one.agent_name for one in watched.result.results] == ["Writer"]
    decided = [one for one in watched.events if type(one).__name__ == "RouteDecided"]
    assert [(one.agents, one.by) for one in decided] == [
        (("Writer",), "Chooser"),
        ((), route.__qualname__),
    ]


async def test_b32_r06_what_a_routing_agent_says_is_recorded_but_no_part_of_the_transcript():
    model = ScriptedModel(call("select_agent", name="Writer"), "hi", call("done"))
    watched = await watch(desk(model=model))
    result = watched.result
    assert [one.text for one in result.messages] == ["go", "hi"]
    assert [one.text for one in model.requests[1].messages] == ["go"]
    assert result.usage.model_calls == 3, "it is paid for"
    assert await keys_of(result) == [
        "route/0/ask",
        "route/0/infer/0",
        "route/0/infer/0/tool/0",
        "route/0",
        "agent/0/infer/0",
        "agent/0",
        "route/1/ask",
        "route/1/infer/0",
        "route/1/infer/0/tool/0",
        "route/1",
    ]
    shown = {type(one).__name__ for one in watched.events if (one.step or "").startswith("route/")}
    assert shown == {"RouteDecided", "UsageUpdated"}


async def test_b31_a_name_that_a_routing_agent_makes_up_is_raised_clearly():
    chooser = RoutingAgent("Chooser", on_route=lambda ctx, result: result.text)
    watched = await watch(desk(router=chooser), model=ScriptedModel("Nobody"))
    assert isinstance(watched.error.__cause__, UnknownName)
    assert watched.names == ["RunStarted", "UsageUpdated", "RunFailed"]


async def test_a_routing_agent_has_tools_hooks_and_state_like_an_agent():
    seen: list[str] = []

    @tool(effect="pure")
    async def pick(ctx: Context[dict[str, Any]], name: str) -> str:
        ctx.state.data["picked"] = name
        return name

    chooser = RoutingAgent(
        "Chooser",
        tools=[pick],
        hooks=Hooks(on_start=lambda ctx, messages: seen.append(ctx.agent.name)),
        on_route=lambda ctx, result: result.tool_calls[0].data if ctx.state.data["picked"] != "-" else None,
    )
    model = ScriptedModel(call("pick", name="Writer"), "hi", call("pick", name="-"))
    result = await desk(router=chooser).run("x", model=model)
    assert [one.agent_name for one in result.results] == ["Writer"]
    assert result.state.data == {"picked": "-"}
    assert seen == ["Chooser", "Chooser"]


async def test_b13_a_routing_agent_with_another_model_keeps_everything_else():
    model = ScriptedModel(call("select_agent", name="Writer"), call("done"))
    router = default_routing_agent().with_model(model)
    result = await desk(router=router, model=ScriptedModel("hi")).run("x")
    assert result.output == "hi"
    assert router.name == default_routing_agent().name
    assert router.agent.tools == default_routing_agent().agent.tools


async def test_a_router_that_asks_a_routing_agent_whose_model_fails_ends_the_run():
    chooser = RoutingAgent("Chooser", on_route=lambda ctx, result: None)
    watched = await watch(desk(router=sequence(chooser)), model=ScriptedModel())
    assert "ScriptExhausted" in str(watched.error)
    assert watched.names == ["RunStarted", "RunFailed"]
