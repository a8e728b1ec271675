"""A Perdure store as a history: runs without a runtime share a session with those of one, and with clients."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, AgentResult, HistoryError, HistoryUnavailable, LogHistory, Runtime, tool
from perdure.db.open import open_database
from perdure.history import log
from perdure.testing import ScriptedModel, call, say
from tests.history.keeping import result, texts


@tool(effect="pure")
def look() -> str:
    """Look."""
    return "seen"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/runs.db"


async def test_a_conversation_goes_on_with_and_without_a_runtime(url: str):
    model = ScriptedModel(call("look"), say("One."), say("Two."), say("Four."))
    agent = Agent("Ada", tools=[look], model=model)
    alone = agent.replace(history=LogHistory(url))
    first = await alone.run("first", user_id="ada")
    async with Runtime(url, [agent]) as runtime:
        await runtime.run(agent, "second", session_id=first.session_id, user_id="ada")
        assert texts(model.requests[2]) == ["first", "One.", "second"]
        await runtime.session.event(session_id=first.session_id, type="user_message", content="third")
    await alone.run("fourth", session_id=first.session_id)
    kinds = [type(one).__name__ for one in model.requests[3].messages]
    assert kinds[:4] == ["TextMessage", "ToolCallMessage", "ToolResultMessage", "TextMessage"]
    assert texts(model.requests[3]) == ["first", "One.", "second", "Two.", "third", "fourth"]
    async with Runtime(url, [agent]) as runtime:
        said = [one.text async for one in runtime.session(first.session_id).messages() if hasattr(one, "text")]
        assert said == ["first", "One.", "second", "Two.", "third", "fourth", "Four."]


async def test_a_run_that_the_store_keeps_itself_is_not_stored_twice(url: str):
    model = ScriptedModel(say("One."), say("Two."))
    agent = Agent("Ada", model=model, history=LogHistory(url))
    async with Runtime(url, [agent]) as runtime:
        first = await runtime.run(agent, "first")
        await runtime.run(agent, "second", session_id=first.session_id)
        said = [one.text async for one in runtime.session(first.session_id).messages() if hasattr(one, "text")]
    assert texts(model.requests[1]) == ["first", "One.", "second"]
    assert said == ["first", "One.", "second", "Two."]


async def test_it_is_kept_open_by_async_with_and_closed_behind_it(url: str, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []

    def noted(url: str) -> Any:
        opened.append(url)
        return open_database(url)

    history = LogHistory(url)
    monkeypatch.setattr(log, "open_database", noted)
    agent = Agent("Ada", model=ScriptedModel(*(say(str(n)) for n in range(6))), history=history)
    async with history:
        first = await agent.run("first")
        await asyncio.gather(*(agent.run("more", session_id=first.session_id) for _ in range(3)))
        assert len(await history.read(first.session_id)) == 8 and len(opened) == 1
        await asyncio.to_thread(agent.run_sync, "from another event loop", session_id=first.session_id)
        assert len(opened) > 1, "which opens it for itself"
    count = len(opened)
    assert len(await history.read(first.session_id)) == 10 and len(opened) == count + 1
    assert not [one.name for one in threading.enumerate() if one.name in ("perdure-writer", "perdure-reader")]


async def test_what_was_erased_stays_out(url: str):
    history = LogHistory(url)
    await history.append("t", [result("ada", 0)])
    assert await history.delete("t")
    assert await history.read("t") == []
    with pytest.raises(HistoryError, match="was erased"):
        await history.append("t", [result("ada", 0)])
    await history.append("t", [result("ada", 1)])
    assert [one.agent_name for one in await history.read("t") if isinstance(one, AgentResult)] == ["ada"]


async def test_containers_are_apart(url: str):
    await LogHistory(url, container="a").append("t", [result("ada", 0)])
    assert await LogHistory(url, container="b").read("t") == []


async def test_a_store_that_is_away_says_so(tmp_path: Path):
    with pytest.raises(HistoryUnavailable, match="cannot be used now"):
        await LogHistory(f"sqlite:///{tmp_path}/no/such/folder/t.db").read("t")
    with pytest.raises(HistoryUnavailable, match="cannot be used now") as caught:
        await LogHistory("postgresql://ada:s3cret@127.0.0.1:1/db").read("t")
    assert "s3cret" not in str(caught.value)
