"""The history document: an adapter, agents and networks that use it, the three patterns, how thread ids are found."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from perdure import Agent, AgentResult, HistoryAdapter, HistoryContext, Network, State, TextMessage, sequence
from perdure.testing import ScriptedModel, say


@dataclass
class Row:
    """A row of the user's own database."""

    thread_id: str
    role: str
    content: str
    created_at: datetime
    agent_name: str = ""


@dataclass
class Database:
    threads: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[Row] = field(default_factory=list)
    reads: int = 0


class ConversationHistory(HistoryAdapter):
    """The adapter of the document: three methods, the user's message comes with the results."""

    def __init__(self, db: Database) -> None:
        self.db = db

    # 1. Create new conversation threads
    async def create_thread(self, ctx: HistoryContext) -> str:
        id = f"thread-{len(self.db.threads) + 1}"
        self.db.threads[id] = {
            "user_id": ctx.state.data["user_id"],
            "title": ctx.input[:50],  # First 50 chars as title
            "created_at": datetime.now(UTC),
        }
        return id

    # 2. Load conversation history
    async def get(self, ctx: HistoryContext) -> list[AgentResult]:
        self.db.reads += 1
        rows = sorted(
            (one for one in self.db.messages if one.thread_id == ctx.thread_id), key=lambda one: one.created_at
        )
        # Transform database records to results
        return [
            AgentResult(
                agent_name=row.agent_name,
                messages=(TextMessage("assistant", row.content),),
                created_at=row.created_at.timestamp(),
            )
            for row in rows
            if row.role == "assistant"
        ]

    # 3. Save new messages
    async def append_results(self, ctx: HistoryContext) -> None:
        # Save user message
        if ctx.user_message is not None:
            when = datetime.fromtimestamp(ctx.user_message.created_at, UTC)
            self.db.messages.append(Row(ctx.thread_id, "user", ctx.user_message.content, when))
        # Save agent responses
        for result in ctx.new_results:
            when = datetime.fromtimestamp(result.created_at, UTC)
            content = "\n".join(one.text for one in result.output if isinstance(one, TextMessage))
            self.db.messages.append(Row(ctx.thread_id, "assistant", content, when, result.agent_name))


def asked(model: ScriptedModel, n: int) -> list[str]:
    return [one.text for one in model.requests[n].messages if isinstance(one, TextMessage)]


def assistant_network(db: Database, model: ScriptedModel) -> Network[dict[str, Any], str]:
    # Create agents
    researcher = Agent("researcher", description="Searches for information", model=model)
    writer = Agent("writer", description="Writes comprehensive responses", model=model)
    # Create network with history configuration
    return Network(
        "Research Assistant",
        agents=[researcher, writer],
        model=model,
        router=sequence(researcher, writer),
        history=ConversationHistory(db),  # Add history adapter here
    )


async def test_usage() -> None:
    """Conversations are persisted automatically; an existing thread goes on."""
    db = Database()
    model = ScriptedModel(say("Facts."), say("Text."), say("More facts."), say("More text."))
    network = assistant_network(db, model)
    state = State({"user_id": "user-123"}, thread_id="existing-thread-id")
    await network.run("Tell me about quantum computing", state=state)
    stored = [(row.thread_id, row.role, row.agent_name, row.content) for row in db.messages]
    assert stored == [
        ("existing-thread-id", "user", "", "Tell me about quantum computing"),
        ("existing-thread-id", "assistant", "researcher", "Facts."),
        ("existing-thread-id", "assistant", "writer", "Text."),
    ]
    await network.run("And more?", state=State({"user_id": "user-123"}, thread_id="existing-thread-id"))
    assert asked(model, 2) == ["Facts.", "Text.", "And more?"]
    assert len(db.messages) == 6


async def test_usage_with_an_agent() -> None:
    db = Database()
    model = ScriptedModel(say("Hello to you."))
    chat_agent = Agent(
        "chat-agent",
        system="You are a helpful assistant.",
        model=model,
        history=ConversationHistory(db),  # Add your adapter here
    )
    # Now the agent will automatically persist conversations
    await chat_agent.run("Hello!", state=State({"user_id": "user123"}, thread_id="thread-456"))
    assert [(row.role, row.content) for row in db.messages] == [("user", "Hello!"), ("assistant", "Hello to you.")]


async def test_server_authoritative() -> None:
    db = Database()
    model = ScriptedModel(*(say(f"{n}") for n in range(4)))
    chat_network = assistant_network(db, model)
    await chat_network.run("Start", state=State({"user_id": "user123"}, thread_id="existing-thread-id"))
    # Client sends just the thread id
    state = State({"user_id": "user123"}, thread_id="existing-thread-id")
    await chat_network.run("Continue our conversation", state=state)
    # get() is called to load full context for all agents
    assert asked(model, 2) == ["0", "1", "Continue our conversation"]
    assert asked(model, 3) == ["0", "1", "Continue our conversation", "2"]


async def test_client_authoritative() -> None:
    db = Database()
    model = ScriptedModel(say("Facts."), say("Text."))
    chat_network = assistant_network(db, model)
    previous_conversation_results = [AgentResult("writer", (TextMessage("assistant", "What I said."),))]
    # Client sends the full conversation history
    state = State(
        {"user_id": "user123"},
        thread_id="thread-id",
        results=previous_conversation_results,  # Full history from client
    )
    await chat_network.run("New message", state=state)
    assert db.reads == 0, "get() is skipped"
    assert asked(model, 0) == ["What I said.", "New message"]
    # Still calls append_results() to save new messages
    assert [row.content for row in db.messages] == ["New message", "Facts.", "Text."]


async def test_hybrid() -> None:
    db = Database()
    model = ScriptedModel(*(say(f"{n}") for n in range(4)))
    chat_network = assistant_network(db, model)
    # 1. Initial load: the client sends only the thread id, and is hydrated with what comes back
    state = State({"user_id": "user123"}, thread_id="t-1")
    first = await chat_network.run("Hi", state=state)
    client_side = first.state.to_json()
    assert db.reads == 1
    # 2. Interactive session: it sends what it has along with the thread id
    state = State.from_json(client_side, dict)
    await chat_network.run("New message", state=state)
    assert db.reads == 1
    assert asked(model, 2) == ["Hi", "0", "1", "New message"]


async def test_how_thread_ids_are_managed() -> None:
    """Explicit first, then `create_thread`, then a UUID if there is only `get`."""
    db = Database()
    model = ScriptedModel(*(say(f"{n}") for n in range(6)))
    network = assistant_network(db, model)
    # Continue a specific, existing conversation
    state = State({"user_id": "user-123"}, thread_id="existing-thread-id-123")
    result = await network.run("Let's pick up where we left off.", state=state)
    assert (result.session_id, db.threads) == ("existing-thread-id-123", {})

    result = await network.run("A new conversation, whose first words are its title.", state={"user_id": "user-123"})
    assert result.session_id == "thread-1"
    assert db.threads["thread-1"]["title"] == "A new conversation, whose first words are its titl"

    class OnlyGet(HistoryAdapter):
        def get(self, ctx: HistoryContext) -> list[AgentResult]:
            return []

    result = await network.replace(history=OnlyGet()).run("Hi", state={"user_id": "user-123"})
    assert UUID(result.session_id)
