"""Routers: code, routing agents, both, and state."""

from __future__ import annotations

from typing import Any

from perdure import (
    Agent,
    AgentResult,
    Context,
    Network,
    RouterArgs,
    RoutingAgent,
    TextMessage,
    default_routing_agent,
    tool,
)
from perdure.testing import ScriptedModel, call, say

classifier = Agent("Classifier", description="Says what kind of request it is.")
writer = Agent("Writer", description="Answers questions.")


def last_text(r: RouterArgs[Any]) -> str:
    # retrieve the last message from the output
    last_message = r.last_result.output[-1] if r.last_result else None
    return last_message.text if isinstance(last_message, TextMessage) else ""


async def test_creating_a_custom_router() -> None:
    seen: list[Any] = []

    def router(r: RouterArgs) -> Agent | None:
        seen.append((r.input, r.network.name, list(r.network.agents), r.stack, r.call_count, last_text(r)))
        # First call: use the classifier
        if r.call_count == 0:
            return classifier
        # Second call: if it's a question, use the writer
        if r.call_count == 1 and "question" in last_text(r):
            return writer
        # Otherwise, we're done!
        return None

    network = Network("Answers", agents=[classifier, writer], router=router)
    result = await network.run("Why?", model=ScriptedModel(say("A question."), say("Because.")))
    assert result.output == "Because."
    names = ["Classifier", "Writer"]
    assert seen == [
        ("Why?", "Answers", names, [], 0, ""),
        ("Why?", "Answers", names, [], 1, "A question."),
        ("Why?", "Answers", names, [], 2, "Because."),
    ]


async def test_the_stack_holds_the_agents_to_be_called() -> None:
    stacks: list[list[str]] = []

    def router(r: RouterArgs) -> Any:
        stacks.append([one.name for one in r.stack])
        return [classifier, writer, classifier] if r.call_count == 0 else None

    network = Network("Answers", agents=[classifier, writer], router=router)
    result = await network.run("Why?", model=ScriptedModel("a", "b", "c"))
    assert [one.agent_name for one in result.results] == ["Classifier", "Writer", "Classifier"]
    assert stacks == [[], ["Writer", "Classifier"], ["Classifier"], []]


async def test_tips_agents_that_were_not_in_the_network() -> None:
    guest = Agent("Guest")
    network = Network("Answers", agents=[classifier], router=lambda r: guest if r.call_count == 0 else None)
    result = await network.run("Why?", model=ScriptedModel(say("I was asked.")))
    assert [one.agent_name for one in result.results] == ["Guest"]
    assert list(network.agents) == ["Classifier"]


async def test_code_based_routers() -> None:
    def router(r: RouterArgs) -> Agent | None:
        if r.call_count == 0:
            return classifier
        if r.call_count == 1 and "question" in last_text(r):
            return writer
        return None

    network = Network("Answers", agents=[classifier, writer], router=router)
    model = ScriptedModel(say("A statement."))
    result = await network.run("So it is.", model=model)
    assert [one.agent_name for one in result.results] == ["Classifier"]
    assert len(model.requests) == 1, "no model is asked for the routing"


async def test_routing_agent() -> None:
    """The document's routing agent has no system prompt; it runs all the same."""
    routed: list[Any] = []

    async def on_route(ctx: Context, result: AgentResult) -> list[str] | None:
        # custom logic...
        routed.append((result.text, ctx.network.name))
        return [result.text] if result.text in ctx.network.agents else None

    routing_agent = RoutingAgent(
        "Custom routing agent",
        description="Selects agents based on the current state and request",
        on_route=on_route,
    )
    network = Network("Answers", agents=[classifier, writer], router=routing_agent)
    model = ScriptedModel(say("Writer"), say("Because."), say("That is all."))
    result = await network.run("Why?", model=model)
    assert [one.agent_name for one in result.results] == ["Writer"]
    assert routed == [("Writer", "Answers"), ("That is all.", "Answers")]
    assert [one.text for one in result.messages if isinstance(one, TextMessage)] == ["Why?", "Because."]


async def test_routing_agent_by_default() -> None:
    network = Network("Answers", agents=[classifier, writer])
    model = ScriptedModel(call("select_agent", name="Writer"), say("Because."), call("done", summary="answered"))
    result = await network.run("Why?", model=model)
    assert result.output == "Because."
    told = str(model.requests[0].messages[0].content)
    assert "Says what kind of request it is." in told and "Answers questions." in told
    assert {one.name for one in model.requests[0].tools} == {"select_agent", "done"}
    assert model.requests[0].tool_choice == "any"


async def test_hybrid_code_and_agent_routers() -> None:
    def router(r: RouterArgs) -> Any:
        # Always start with the classifier
        if r.call_count == 0:
            return classifier
        # Then let the routing agent take over
        return default_routing_agent()

    network = Network("Answers", agents=[classifier, writer], router=router)
    model = ScriptedModel(
        say("A question."), call("select_agent", name="Writer"), say("Because."), call("done", summary="answered")
    )
    result = await network.run("Why?", model=model)
    assert [one.agent_name for one in result.results] == ["Classifier", "Writer"]
    assert [bool(one.tools) for one in model.requests] == [False, True, False, True]


async def test_using_state_in_routing() -> None:
    @tool
    def solve(ctx: Context[dict[str, Any]], solution: str) -> None:
        ctx.state.data["solution"] = solution

    math_agent = Agent("Math", tools=[solve])
    context_agent = Agent("Context")

    def router(r: RouterArgs[dict[str, Any]]) -> Agent | None:
        # Check if we've solved the problem
        solution = r.network.state.data.get("solution")
        if solution:
            # We're done - return None to stop the network
            return None

        # Check the last result to decide what to do next
        if "need more context" in last_text(r):
            return context_agent

        return math_agent

    network = Network("Tutors", agents=[math_agent, context_agent], router=router)
    model = ScriptedModel(
        say("I need more context."), say("x is 3."), call("solve", solution="x + 1 = 4"), say("It is 4.")
    )
    result = await network.run("What is x + 1?", model=model)
    assert [one.agent_name for one in result.results] == ["Math", "Context", "Math"]
    assert result.state.data == {"solution": "x + 1 = 4"}
    assert result.output == "It is 4."
