"""The snippets of the RetainDB runtime document that speak of sessions, in Python."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio

from perdure import Conflict, Runtime


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Runtime]:
    async with Runtime(f"sqlite:///{tmp_path}/retaindb.db", durability="normal") as runtime:
        yield runtime


async def start(client: Runtime) -> None:
    # When agent starts
    await client.session.start(
        user_id="user@example.com",
        session_id="agent-session-123",
        metadata={"agent_type": "assistant", "version": "1.0"},
    )


async def test_start_session(client: Runtime):
    await start(client)
    info = await client.session.get(session_id="agent-session-123")
    assert (info.state, info.user_id, info.metadata["version"]) == ("active", "user@example.com", "1.0")


async def test_track_events(client: Runtime):
    await start(client)
    # User message
    await client.session.event(
        user_id="user@example.com",
        session_id="agent-session-123",
        type="user_message",
        content="I need help with coding",
    )
    # Tool execution
    await client.session.event(
        user_id="user@example.com",
        session_id="agent-session-123",
        type="tool_execution",
        content="search_docs",
        event_data={"tool": "search", "input": "how to use RetainDB API", "output": "Found 5 results"},
    )
    # Agent response
    await client.session.event(
        user_id="user@example.com",
        session_id="agent-session-123",
        type="agent_message",
        content="Here's what I found...",
    )
    events = await client.session.replay(session_id="agent-session-123")
    assert [(one.sequence, one.type) for one in events] == [
        (1, "user_message"),
        (2, "tool_execution"),
        (3, "agent_message"),
    ]
    assert events[1].event_data == {"tool": "search", "input": "how to use RetainDB API", "output": "Found 5 results"}


async def test_idempotent_operations(client: Runtime):
    await start(client)
    session_id, timestamp, event_type = "agent-session-123", datetime.now(UTC).timestamp(), "tool_execution"
    # Generate deterministic event ID
    event_id = f"{session_id}-{timestamp}-{event_type}"

    async def event(content: str) -> Any:
        return await client.session.event(
            user_id="user@example.com",
            session_id="agent-session-123",
            event_id=event_id,  # For idempotency
            type="tool_execution",
            content=content,
        )

    assert await event("search") == await event("search")
    assert len(await client.session.replay(session_id=session_id)) == 1
    try:
        await event("another search")
    except Conflict as error:
        assert event_id in str(error)
    else:
        raise AssertionError("an id was used twice")


async def test_agent_to_agent_communication(client: Runtime):
    await start(client)
    # Agent A responds
    await client.session.event(
        user_id="user@example.com",
        session_id="agent-session-123",
        type="agent_message",
        content="Let me check with the coding assistant",
        metadata={"from_agent": "assistant-a", "to_agent": "assistant-b"},
    )
    # Agent B responds
    await client.session.event(
        user_id="user@example.com",
        session_id="agent-session-123",
        type="agent_message",
        content="The RetainDB API has these endpoints...",
        metadata={"from_agent": "assistant-b"},
    )
    id = "agent-session-123"
    assert [one.content for one in await client.session.replay(session_id=id, to_agent="assistant-b")] == [
        "Let me check with the coding assistant"
    ]
    assert [one.content for one in await client.session.replay(session_id=id, from_agent="assistant-b")] == [
        "The RetainDB API has these endpoints..."
    ]


class AgentRuntime:
    """The complete agent example; the document's makes another session id at every call, so that nothing meets."""

    def __init__(self, client: Runtime, user_id: str) -> None:
        self.client = client
        self.user_id = user_id
        self.session_id = ""

    async def start_session(self, session_id: str) -> None:
        self.session_id = session_id
        await self.client.session.start(
            user_id=self.user_id, session_id=session_id, metadata={"started_at": datetime.now(UTC).isoformat()}
        )

    async def handle_message(self, message: str, response: str, tools: list[dict[str, Any]]) -> None:
        # Track user message
        await self.client.session.event(
            user_id=self.user_id, session_id=self.session_id, type="user_message", content=message
        )
        # Track tool executions
        for tool in tools:
            await self.client.session.event(
                user_id=self.user_id,
                session_id=self.session_id,
                type="tool_execution",
                content=tool["name"],
                event_data=tool,
            )
        await self.client.session.event(
            user_id=self.user_id, session_id=self.session_id, type="agent_message", content=response
        )

    async def end_session(self) -> None:
        await self.client.session.end(user_id=self.user_id, session_id=self.session_id, retain_context=True)


async def test_complete_agent_example(client: Runtime):
    agent = AgentRuntime(client, "user@example.com")
    await agent.start_session("session-1")
    await agent.handle_message("I need help", "Here you are", [{"name": "search", "output": 5}])
    await agent.end_session()
    info = await client.session.get(session_id="session-1")
    assert (info.state, info.retain_context, info.events) == ("ended", True, 3)
    assert [one.text async for one in client.session("session-1").messages()] == ["I need help", "Here you are"]  # type: ignore[union-attr]
