"""Memory: the patterns that need only tools, routers, state and hooks, over a plain list.

A store that lasts, durable writes behind a tool's answer, and Mem0 come with memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure import (
    Agent,
    AgentResult,
    Context,
    Hooks,
    Message,
    Network,
    RouterArgs,
    TextMessage,
    ToolResultMessage,
    tool,
)
from perdure.testing import ScriptedModel, call, calls, say


@dataclass
class Notebook:
    """The user's own store: what is known, by id."""

    lines: dict[str, str] = field(default_factory=dict)

    def add(self, statement: str) -> str:
        id = f"m{len(self.lines) + 1}"
        self.lines[id] = statement
        return id

    def search(self, query: str) -> list[dict[str, str]]:
        words = set(query.lower().split())
        return [{"id": id, "statement": one} for id, one in self.lines.items() if words & set(one.lower().split())]


@pytest.fixture
def notebook() -> Notebook:
    return Notebook({"m1": "Ada lives in Berlin"})


@tool(name="recall_memories", effect="pure")
def recall_memories(ctx: Context, queries: list[str]) -> list[dict[str, str]]:
    """Recall memories relevant to one or more queries. Can run multiple queries in parallel.

    Args:
        queries: The questions to ask your memory to find relevant information.
    """
    found: dict[str, dict[str, str]] = {}
    for query in queries:
        found |= {one["id"]: one for one in ctx.use(Notebook).search(query)}
    return list(found.values())


@tool
def create_memories(ctx: Context, statements: list[str]) -> str:
    """Save one or more new pieces of information to memory.

    Args:
        statements: The pieces of information to memorize.
    """
    for statement in statements:
        ctx.use(Notebook).add(statement)
    return f"I have created {len(statements)} new memories."


@dataclass
class Update:
    id: str
    statement: str


@dataclass
class Deletion:
    id: str


@tool
def update_memories(ctx: Context, updates: list[Update]) -> str:
    """Correct memories."""
    ctx.use(Notebook).lines.update({one.id: one.statement for one in updates})
    return f"I have updated {len(updates)} memories."


@tool
def delete_memories(ctx: Context, deletions: list[Deletion]) -> str:
    """Delete memories."""
    for one in deletions:
        del ctx.use(Notebook).lines[one.id]
    return f"I have deleted {len(deletions)} memories."


@tool
def manage_memories(
    ctx: Context,
    creations: list[str] | None = None,
    updates: list[Update] | None = None,
    deletions: list[Deletion] | None = None,
) -> str:
    """Create, update, and/or delete memories in a single atomic operation.

    This is the preferred way to modify memories.

    Args:
        creations: A list of new statements to save as memories.
        updates: A list of memories to update.
        deletions: A list of memories to delete.
    """
    for statement in creations or ():
        ctx.use(Notebook).add(statement)
    for update in updates or ():
        ctx.use(Notebook).lines[update.id] = update.statement
    for deletion in deletions or ():
        del ctx.use(Notebook).lines[deletion.id]
    return "Memory operations done."


async def test_pattern_1_granular_single_purpose_tools(notebook: Notebook) -> None:
    agent = Agent("Assistant", tools=[create_memories, recall_memories, update_memories, delete_memories])
    model = ScriptedModel(
        calls(call("create_memories", statements=["Ada likes tea"]), call("delete_memories", deletions=[{"id": "m1"}])),
        say("Noted."),
    )
    result = await agent.run("I like tea, and I left Berlin.", model=model, resources=[notebook])
    assert notebook.lines == {"m2": "Ada likes tea"}
    assert [one.data for one in result.results[0].tool_calls] == [
        "I have created 1 new memories.",
        "I have deleted 1 memories.",
    ]


async def test_pattern_2_consolidated_tools(notebook: Notebook) -> None:
    agent = Agent("Memory Updater", tools=[manage_memories])
    model = ScriptedModel(
        call("manage_memories", creations=["Ada likes tea"], updates=[{"id": "m1", "statement": "Ada lives in Oslo"}]),
        say("Done."),
    )
    await agent.run("I like tea, and I moved to Oslo.", model=model, resources=[notebook])
    assert notebook.lines == {"m1": "Ada lives in Oslo", "m2": "Ada likes tea"}
    schema = manage_memories.parameters
    assert schema.get("required", []) == []
    assert schema["properties"]["creations"]["description"] == "A list of new statements to save as memories."


async def test_pattern_1_autonomous_agent_with_memory_tools(notebook: Notebook) -> None:
    agent = Agent(
        "reflective-agent",
        description="An agent that can reflect on and manage its memories.",
        system="""
    You are an assistant with a dynamic, reflective memory. You must actively manage your memories to keep them accurate
    and strategically for search queries to retrieve the most relevant memories related to the user and their query.

    On every user interaction, you MUST follow this process:
    1.  **RECALL**: Use the 'recall_memories' tool with a list of queries relevant to the user's input to get context.
    2.  **ANALYZE & REFLECT**:
        - Compare the user's new statement with the memories you recalled.
        - If there are direct contradictions, you MUST use the 'update_memories' tool to correct the old memories.
        - If old memories are now irrelevant or proven incorrect based on the discussion, you MUST use the
          'delete_memories' tool.
        - If this is brand new information that doesn't conflict, you may use the 'create_memories' tool.
    3.  **RESPOND**: Never make mention to the user of any memory operations you have executed.
""",
        tools=[create_memories, recall_memories, update_memories, delete_memories],
        model="openai:gpt-4o",
    )

    def reflect(request: Any) -> Any:
        recalled = request.messages[-1]
        assert isinstance(recalled, ToolResultMessage)
        assert recalled.data == [{"id": "m1", "statement": "Ada lives in Berlin"}]
        return call("update_memories", updates=[{"id": "m1", "statement": "Ada lives in Oslo"}])

    model = ScriptedModel(call("recall_memories", queries=["lives where", "Ada"]), reflect, say("Enjoy Oslo!"))
    result = await agent.run("I moved to Oslo.", model=model, resources=[notebook])
    assert result.output == "Enjoy Oslo!"
    assert notebook.lines == {"m1": "Ada lives in Oslo"}


# 1. Retrieval Agent
memory_retrieval_agent = Agent(
    "memory-retrieval-agent",
    description="Retrieves relevant memories based on the user query.",
    system="Your only job is to use the 'recall_memories' tool. ...",
    tools=[recall_memories],
)

# 2. Assistant Agent
personal_assistant_agent = Agent(
    "personal-assistant-agent",
    description="A helpful personal assistant that answers user questions.",
    system="Answer the user's question based on the conversation history...",
    # No tools
)

# 3. Updater Agent
memory_updater_agent = Agent(
    "memory-updater-agent",
    description="Reflects on the conversation and updates memories.",
    system="Analyze the entire conversation history... you MUST use the 'manage_memories' tool...",
    tools=[manage_memories],
)


async def test_pattern_2_multi_agent_network_for_memory(notebook: Notebook) -> None:
    # The Router enforces the sequence
    async def router(r: RouterArgs) -> Agent | None:
        if r.call_count == 0:
            return memory_retrieval_agent
        if r.call_count == 1:
            return personal_assistant_agent
        if r.call_count == 2:
            return memory_updater_agent
        return None  # Stop the network

    multi_agent_memory_network = Network(
        "multi-agent-memory-network",
        agents=[memory_retrieval_agent, personal_assistant_agent, memory_updater_agent],
        router=router,
    )
    model = ScriptedModel(
        call("recall_memories", queries=["lives"]),
        say("Recalled."),
        say("You lived in Berlin and moved to Oslo."),
        call("manage_memories", updates=[{"id": "m1", "statement": "Ada lives in Oslo"}]),
        say("Updated."),
    )
    result = await multi_agent_memory_network.run("I moved to Oslo.", model=model, resources=[notebook])
    assert [one.agent_name for one in result.results] == [
        "memory-retrieval-agent",
        "personal-assistant-agent",
        "memory-updater-agent",
    ]
    assert notebook.lines == {"m1": "Ada lives in Oslo"}
    assistant = model.requests[2]
    assert assistant.tools == ()
    assert "Ada lives in Berlin" in str(assistant.messages), "the assistant sees what was recalled"


async def test_state_based_memory_retrieval_routing(notebook: Notebook) -> None:
    # Define your network state
    @dataclass
    class NetworkState:
        memories_retrieved: bool = False
        assistant_responded: bool = False
        memories_updated: bool = False

    @tool(effect="pure")
    def recall(ctx: Context[NetworkState], query: str) -> list[dict[str, str]]:
        ctx.network.state.data.memories_retrieved = True
        return ctx.use(Notebook).search(query)

    def responded(ctx: Context[NetworkState], result: AgentResult) -> None:
        ctx.state.data.assistant_responded = True

    def updated(ctx: Context[NetworkState], result: AgentResult) -> None:
        ctx.state.data.memories_updated = True

    retriever = Agent("retriever", tools=[recall])
    assistant = personal_assistant_agent.replace(hooks=Hooks(on_finish=responded))
    updater = memory_updater_agent.replace(hooks=Hooks(on_finish=updated))

    # Use state-based routing
    async def router(r: RouterArgs[NetworkState]) -> Agent | None:
        state = r.network.state.data
        if not state.memories_retrieved:
            return retriever
        if not state.assistant_responded:
            return assistant
        return None if state.memories_updated else updater

    network = Network("memory", agents=[retriever, assistant, updater], state=NetworkState, router=router)
    model = ScriptedModel(
        call("recall", query="lives"),
        say("Recalled."),
        say("You live in Berlin."),
        call("manage_memories", creations=["Ada asked where she lives"]),
        say("Updated."),
    )
    result = await network.run("Where do I live?", model=model, resources=[notebook])
    assert [one.agent_name for one in result.results] == [
        "retriever",
        "personal-assistant-agent",
        "memory-updater-agent",
    ]
    assert result.state.data == NetworkState(True, True, True)
    assert notebook.lines["m2"] == "Ada asked where she lives"


async def test_lifecycle_integration(notebook: Notebook) -> None:
    async def on_start(ctx: Context, prompt: list[Message]) -> Sequence[Message]:
        # 1. Fetch memories using a custom utility
        asked = next(one.text for one in reversed(prompt) if isinstance(one, TextMessage) and one.role == "user")
        memories = ctx.use(Notebook).search(asked)
        # 2. Add memories to the prompt for context
        prompt.extend(TextMessage("system", f"You remember: {one['statement']}") for one in memories)
        return prompt

    async def on_finish(ctx: Context[dict[str, Any]], result: AgentResult) -> None:
        # 3. Analyze the full conversation to decide on memory operations.
        ctx.use(Notebook).add(f"{ctx.state.data['name']} was told: {result.text}")

    agent_with_lifecycle_memory = Agent(
        "Assistant", system="You help.", hooks=Hooks(on_start=on_start, on_finish=on_finish)
    )
    model = ScriptedModel(say("In Berlin."))
    result = await agent_with_lifecycle_memory.run(
        "Where does Ada live, who lives in a city?", state={"name": "Ada"}, model=model, resources=[notebook]
    )
    assert result.output == "In Berlin."
    assert model.requests[0].messages[-1] == TextMessage("system", "You remember: Ada lives in Berlin")
    assert notebook.lines["m2"] == "Ada was told: In Berlin."
    assert [one.role for one in result.messages if isinstance(one, TextMessage)] == ["user", "assistant"], (
        "what a hook puts before a model is not part of the conversation"
    )


async def test_lifecycle_integration_that_changes_the_given_list(notebook: Notebook) -> None:
    """The document's hook pushes into the prompt; returning nothing afterwards means: as it was."""

    def on_start(ctx: Context, prompt: list[Message]) -> None:
        prompt.append(TextMessage("system", "lost"))

    model = ScriptedModel(say("Hi."))
    await Agent("Assistant", hooks=Hooks(on_start=on_start)).run("Hi", model=model)
    assert model.requests[0].messages == (TextMessage("user", "Hi"),)
