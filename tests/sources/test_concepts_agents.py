"""Agents: creating, running, tools, hooks, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Agent, AgentResult, Context, DefinitionError, Hooks, Message, Network, TextMessage, tool
from perdure.testing import ScriptedModel, call, say


async def test_creating_an_agent() -> None:
    code_writer_agent = Agent(
        "Code writer",
        system=(
            "You are an expert TypeScript programmer.  Given a set of asks, you think step-by-step to plan clean, "
            "idiomatic TypeScript code, with comments and tests as necessary."
            "Do not respond with anything else other than the following XML tags:"
            "- If you would like to write code, add all code within the following tags (replace $filename and "
            "$contents appropriately):  <file name='$filename.ts'>$contents</file>"
        ),
        model="openai:gpt-4o-mini",
    )
    said = "<file name='trim.ts'>export const trim = (s: string) => s.replace(/\\s+/g, ' ').trim();</file>"
    model = ScriptedModel(say(said))
    result = await code_writer_agent.run("Write a typescript function that removes unnecessary whitespace", model=model)

    assert result.output == said
    assert result.results[0].output == [TextMessage("assistant", said, stop_reason="stop")]
    system, user = model.requests[0].messages
    assert system == TextMessage("system", str(code_writer_agent.system))
    assert user == TextMessage("user", "Write a typescript function that removes unnecessary whitespace")


async def test_adding_tools() -> None:
    class User(BaseModel):
        user_id: str

    asked: list[Any] = []

    async def handler(ctx: Context, users: list[User]) -> list[dict[str, Any]]:
        asked.append((ctx.network.name, ctx.agent.name, users))
        return [{"user_id": user.user_id, "amount": 20} for user in users]

    list_charges_tool = tool(
        handler,
        name="list_charges",
        description="Returns all of a user's charges. Call this whenever you need to find one or more charges between "
        "a date range.",
    )
    support_agent = Agent(
        "Customer support specialist",
        system="You are an customer support specialist...",
        model="openai:gpt-3.5-turbo",
        tools=[list_charges_tool],
    )
    model = ScriptedModel(call("list_charges", users=[{"user_id": "u1"}]), say("One charge of $20."))
    result = await support_agent.run("What was I charged?", model=model)

    assert asked == [("Customer support specialist", "Customer support specialist", [User(user_id="u1")])]
    assert result.results[0].tool_calls[0].content == {"data": [{"user_id": "u1", "amount": 20}]}
    assert result.output == "One charge of $20."
    assert model.requests[0].tools[0].parameters["type"] == "object", "providers want an object at the top"


def test_adding_tools_with_a_bare_list_as_parameters() -> None:
    """The document's schema is a list, which a provider refuses in the middle of a run; here no model is asked."""
    charges = tool(lambda users: users, name="list_charges", parameters=list[dict[str, str]])
    with pytest.raises(DefinitionError, match=r"not an object in JSON\. Use a pydantic model"):
        _ = charges.spec


async def test_how_agents_work() -> None:
    """Prompts, inference, tools, completion; each with its hook."""
    order: list[str] = []

    def note(what: str) -> Any:
        return lambda ctx, _: order.append(what)

    @tool
    def look_up(key: str) -> str:
        order.append("tool")
        return key.upper()

    agent = Agent(
        "Assistant",
        system="You look things up.",
        tools=[look_up],
        hooks=Hooks(on_start=note("start"), on_response=note("response"), on_finish=note("finish")),
    )
    model = ScriptedModel(
        lambda request: order.append("inference") or call("look_up", key="a"),
        lambda request: order.append("inference") or say("A it is."),
    )
    result = await agent.run("Look up a.", model=model)
    assert order == ["start", "inference", "response", "tool", "start", "inference", "response", "finish"]
    assert result.output == "A it is."


async def test_lifecycle_hooks() -> None:
    seen: list[Any] = []

    async def on_start(ctx: Context[dict[str, Any]], messages: Sequence[Message]) -> Sequence[Message]:
        # Dynamically alter prompts using Network state and history.
        seen.append((ctx.network.state.data, [one.role for one in ctx.messages if isinstance(one, TextMessage)]))
        return [TextMessage("system", "Write Python."), *messages[1:]]

    agent = Agent(
        "Code writer",
        description="An expert TypeScript programmer which can write and debug code.",
        system="...",
        model="openai:gpt-3.5-turbo",
        hooks=Hooks(on_start=on_start),
    )
    model = ScriptedModel(say("print()"))
    await agent.run("Print nothing.", state={"lang": "py"}, model=model)
    assert seen == [({"lang": "py"}, ["user"])]
    assert model.requests[0].messages == (TextMessage("system", "Write Python."), TextMessage("user", "Print nothing."))


async def test_lifecycle_hooks_that_parse_the_output() -> None:
    """A hook after the inference may change what the model said, one at the end what the agent did."""

    def on_response(ctx: Context, result: AgentResult) -> AgentResult:
        (said,) = result.messages
        assert isinstance(said, TextMessage)
        return AgentResult(result.agent_name, (TextMessage("assistant", said.text.removeprefix("```ts\n")),))

    finished: list[str] = []
    agent = Agent(
        "Code writer",
        hooks=Hooks(on_response=on_response, on_finish=lambda ctx, result: finished.append(result.text)),
    )
    result = await agent.run("Write.", model=ScriptedModel(say("```ts\nlet a = 1")))
    assert finished == ["let a = 1"]
    assert result.text == result.output == "let a = 1"


async def test_dynamic_system_prompts() -> None:
    async def system(ctx: Context[dict[str, Any]]) -> str:
        # A default base prompt to build from:
        base_prompt = (
            "You are an expert TypeScript programmer. "
            "Given a set of asks, think step-by-step to plan clean, "
            "idiomatic TypeScript code, with comments and tests as necessary."
        )

        # Inspect the Network state, checking for existing code saved as files:
        files: dict[str, str] | None = ctx.network.state.data.get("files")
        if not files:
            return base_prompt

        # Add the files from Network state as additional context automatically
        additional_context = "The following code already exists:"
        for name, content in files.items():
            additional_context += f"<file name='{name}'>{content}</file>"
        return f"{base_prompt} {additional_context}"

    # The system prompt can be dynamically created at runtime using Network state:
    agent = Agent(
        "Code writer",
        description="An expert TypeScript programmer which can write and debug code.",
        system=system,
    )
    network = Network("Coders", agents=[agent], router=lambda r: agent if r.call_count == 0 else None)

    model = ScriptedModel(say("Done."), repeat=True)
    await network.run("Write a.", model=model)
    await network.run("Write b.", model=model, state={"files": {"a.ts": "let a = 1"}})
    await agent.run("Write c.", model=model)
    first, second, alone = (one.messages[0].content for one in model.requests)
    assert str(first).endswith("as necessary.")
    assert second == f"{first} The following code already exists:<file name='a.ts'>let a = 1</file>"
    assert alone == first


async def test_static_system_prompts() -> None:
    copy_editor = Agent(
        "Copy editor",
        system="You are an expert copy editor. Given a draft article, you provide "
        "actionable improvements for spelling, grammar, punctuation, and formatting.",
        model="openai:gpt-3.5-turbo",
    )
    model = ScriptedModel(say("Add a comma."))
    assert (await copy_editor.run("Hello world", model=model)).output == "Add a comma."
    assert model.requests[0].messages[0] == TextMessage("system", str(copy_editor.system))


async def test_agent_descriptions() -> None:
    code_writer_agent = Agent(
        "Code writer",
        description="An expert TypeScript programmer which can write and debug code. Call this when custom code is "
        "required to complete a task.",
        system="...",
        model="openai:gpt-3.5-turbo",
    )
    network = Network("Coders", agents=[code_writer_agent])
    model = ScriptedModel(call("select_agent", name="Code writer"), say("let a = 1"), call("done"))
    result = await network.run("Write a.", model=model)
    assert code_writer_agent.description in str(model.requests[0].messages[0].content)
    assert result.output == "let a = 1"
