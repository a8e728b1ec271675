"""Networks: agents, models, routers, limits, default state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from perdure import Agent, Network, NoModel, RouterArgs, RunFailed, State, TextMessage
from perdure.testing import FunctionModel, ScriptedModel, call, say

search_agent = Agent("Search", description="Search the web for information")
summary_agent = Agent("Summary", description="Summarize the information")
classifier = Agent("Classifier", system="Say whether it is a question.")
writer = Agent("Writer", system="Answer the question.")


async def test_networks() -> None:
    # Create a network with two agents.
    network = Network("Research", agents=[search_agent, summary_agent])

    # Run the network with a user prompt
    model = ScriptedModel(
        call("select_agent", name="Search"),
        say("The Chiefs beat the 49ers 25 to 22."),
        call("select_agent", name="Summary", reason="it was found"),
        say("The Chiefs won."),
        call("done", summary="answered"),
    )
    result = await network.run("What happened in the 2024 Super Bowl?", model=model)
    assert [one.agent_name for one in result.results] == ["Search", "Summary"]
    assert result.output == "The Chiefs won."
    assert [one.text for one in result.messages if isinstance(one, TextMessage)] == [
        "What happened in the 2024 Super Bowl?",
        "The Chiefs beat the 49ers 25 to 22.",
        "The Chiefs won.",
    ]


async def test_how_networks_work() -> None:
    """The router before each agent and at the end; each result is in the state that it reads."""
    seen: list[tuple[int, list[str]]] = []

    def router(r: RouterArgs) -> Agent | None:
        seen.append((r.call_count, [one.text for one in r.state.results]))
        return [search_agent, summary_agent, None][r.call_count]

    network = Network("Research", agents=[search_agent, summary_agent], router=router)
    await network.run("Who won?", model=ScriptedModel(say("Found."), say("Summed up.")))
    assert seen == [(0, []), (1, ["Found."]), (2, ["Found.", "Summed up."])]


async def test_model_configuration() -> None:
    model = ScriptedModel(call("select_agent", name="Search"), say("Found."), call("done"))
    network = Network("Research", agents=[search_agent, summary_agent], model=model)
    assert (await network.run("Who won?")).output == "Found."
    assert len(model.requests) == 3, "the network's model routes, and answers for agents that have none"


async def test_model_configuration_is_missing() -> None:
    network = Network("Research", agents=[search_agent, summary_agent])
    with pytest.raises(RunFailed, match="neither a router nor a model"):
        await network.run("Who won?")
    routed = Network("Research", agents=[search_agent], router=lambda r: search_agent)
    with pytest.raises(RunFailed, match="'Search' in network 'Research' has no model") as caught:
        await routed.run("Who won?")
    assert isinstance(caught.value.__cause__, NoModel)


async def test_combination_of_multiple_models() -> None:
    gpt = ScriptedModel(
        call("select_agent", name="Search"), say("Found."), call("select_agent", name="Summary"), call("done")
    )
    claude = ScriptedModel(say("In short: found."))
    summary = Agent("Summary", description="Summarize the information", model=claude)

    # The search agent will use the network's model, while the summary agent will use its own.
    network = Network("Research", agents=[search_agent, summary], model=gpt)
    result = await network.run("Who won?")
    assert result.output == "In short: found."
    assert (len(gpt.requests), len(claude.requests)) == (4, 1)
    assert "Found." in str(claude.requests[0].messages)


def test_combination_of_multiple_models_by_name() -> None:
    summary = Agent("Summary", description="Summarize the information", model="anthropic:claude-3-5-sonnet")
    network = Network("Research", agents=[search_agent, summary], model="openai:gpt-4o")
    assert (network.model, network.agents["Summary"].model) == ("openai:gpt-4o", "anthropic:claude-3-5-sonnet")


def classify_then_write(r: RouterArgs) -> Agent | None:
    # retrieve the last message from the output
    last_message = r.last_result.output[-1] if r.last_result else None
    content = last_message.text if isinstance(last_message, TextMessage) else ""
    # First call: use the classifier
    if r.call_count == 0:
        return classifier
    # Second call: if it's a question, use the writer
    if r.call_count == 1 and "question" in content:
        return writer
    # Otherwise, we're done!
    return None


@pytest.mark.parametrize(("kind", "agents"), [("a question", ["Classifier", "Writer"]), ("a boast", ["Classifier"])])
async def test_routing(kind: str, agents: list[str]) -> None:
    network = Network("Answers", agents=[classifier, writer], router=classify_then_write)
    result = await network.run("Why?", model=ScriptedModel(say(f"This is {kind}."), say("Because.")))
    assert [one.agent_name for one in result.results] == agents
    assert result.stop_reason == "router"


async def test_maximum_iterations() -> None:
    network = Network("Research", agents=[search_agent, summary_agent], model="openai:gpt-4o", max_iter=10)

    def never_done(request: Any) -> Any:
        return call("select_agent", name="Search") if request.tools else say("Still searching.")

    result = await network.run("Who won?", model=FunctionModel(never_done))
    assert len(result.results) == 10
    assert result.stop_reason == "max_iter"


async def test_combining_max_iter_and_default_router() -> None:
    asked: list[int] = []

    def router(r: RouterArgs) -> Agent:
        asked.append(r.call_count)
        return search_agent

    network = Network("Research", agents=[search_agent], router=router, max_iter=1)
    result = await network.run("Who won?", model=ScriptedModel(say("Found.")))
    assert asked == [0], "with max_iter 1 the router is called once"
    assert (len(result.results), result.stop_reason) == (1, "max_iter")


async def test_providing_a_default_state() -> None:
    seen: list[Any] = []

    def router(r: RouterArgs[dict[str, Any]]) -> None:
        seen.append(r.state.data["foo"])
        r.state.data["foo"] = "changed"

    network = Network("Research", agents=[search_agent, summary_agent], router=router, state=lambda: {"foo": "bar"})
    first = await network.run("Who won?", model=ScriptedModel())
    second = await network.run("Who won?", model=ScriptedModel())
    assert first.state.data == second.state.data == {"foo": "changed"}
    assert seen == ["bar", "bar"], "each run has its own"


async def test_providing_a_default_state_as_a_state_object() -> None:
    """`new State({foo: 'bar'})` of the document silently loses its data; here it holds them."""
    assert State({"foo": "bar"}).data == {"foo": "bar"}
    network = Network("Research", agents=[search_agent], router=lambda r: None)
    result = await network.run("Who won?", state=State({"foo": "bar"}), model=ScriptedModel())
    assert result.state.data == {"foo": "bar"}


async def test_providing_a_default_state_of_a_type() -> None:
    @dataclass
    class Found:
        foo: str = "bar"

    network = Network("Research", agents=[search_agent], router=lambda r: None, state=Found)
    assert (await network.run("Who won?", model=ScriptedModel())).state.data == Found("bar")
