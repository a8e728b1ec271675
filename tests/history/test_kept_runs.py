"""Runs that a runtime keeps and a history too: the log wins, and nothing is asked or stored twice after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    AgentResult,
    Asked,
    DefinitionError,
    HistoryContext,
    HistoryError,
    Network,
    RunCancelled,
    RunFailed,
    Runtime,
    State,
    TextDelta,
    TextMessage,
    sequence,
    tool,
)
from perdure.agents.rebuild import rebuild
from perdure.testing import ScriptedModel, call, crash_everywhere, hang, recording, replay, say
from tests.history.keeping import Creating, Halting, Threads, texts

OLD = (Asked("m-0", (TextMessage("user", "old"),), 1.0), AgentResult("Ada", (TextMessage("assistant", "Old."),), "r/0"))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/runs.db"


async def test_what_a_history_gives_is_taken_in_once_and_then_the_log_wins(url: str):
    history, model = Threads({"t": [*OLD]}), ScriptedModel(say("One."), say("Two."), say("Three."))
    agent = Agent("Ada", model=model, history=history)
    async with Runtime(url, [agent]) as runtime:
        first = await runtime.run(agent, "first", session_id="t")
        await runtime.run(agent, "second", session_id="t")
        assert history.calls == ["get t", "user t: first", "save t: One.", "user t: second", "save t: Two."]
        records = await runtime.container("default").log.read_session("t")
        inference = next(one for one in records if one.kind == "inference")
        prompt = rebuild(records, first.run_id, "0")
        assert inference.run_id == first.run_id
        assert ([one.text for one in prompt.messages], prompt.doubts) == (["old", "Old.", "first"], ())
        recorded = await recording(first)
    assert replay(recorded, [agent]).same
    assert history.calls[-1] == "save t: Two.", "a replay asks nobody"
    async with Runtime(url, [agent]) as runtime:
        third = await runtime.run(agent, "third", session_id="t")
        expected = ["old", "Old.", "first", "One.", "second", "Two.", "third"]
        assert texts(model.requests[2]) == expected
        assert [one.text for one in third.messages if isinstance(one, TextMessage)] == [*expected, "Three."]
        assert [one.text for one in third.new_messages if isinstance(one, TextMessage)] == ["third", "Three."]
        shown = [one.text async for one in runtime.session("t").messages() if isinstance(one, TextMessage)]
        assert shown == [*expected, "Three."]
    assert history.said("t") == [*expected, "Three."]


@pytest.mark.parametrize("method", ["get", "user", "save"])
async def test_a_run_whose_history_failed_is_replayed_without_it(method: str):
    history = Threads()
    history.fails[method] = OSError("away")
    agent = Agent("Ada", model=ScriptedModel(say("One.")), history=history)
    with pytest.raises(RunFailed) as caught:
        await agent.run("hi", session_id="t")
    history.fails, history.calls = {}, []
    replay(await recording(caught.value.result), [agent]).check()
    assert history.calls == []


async def test_b36_a_thread_that_is_created_is_the_session_and_the_same_run_has_the_same(url: str):
    history, model = Creating(), ScriptedModel(say("One."), say("Two."), say("Three."))
    agent = Agent("Ada", model=model, history=history)
    alone = Agent("Alone", model=ScriptedModel(say("Hi.")))
    async with Runtime(url, [agent, alone]) as runtime:
        first = await runtime.run(agent, "first", run_id="r-1")
        again = await runtime.run(agent, "first", run_id="r-1")
        assert first.session_id == again.session_id == "t-1"
        assert first.messages == again.messages
        second = await runtime.run(agent, "second", session_id="t-1")
        assert texts(model.requests[1]) == ["first", "One.", "second"]
        assert second.state.thread_id == "t-1"
        third = await runtime.run(agent, "third", state=State({}, thread_id="t-1"))
        assert (third.session_id, texts(model.requests[2])[-3:]) == ("t-1", ["second", "Two.", "third"])
        with pytest.raises(DefinitionError, match="two words for one id"):
            await runtime.run(agent, "fourth", session_id="t-2", state=State({}, thread_id="t-1"))
        with pytest.raises(DefinitionError, match="two words for one id"):
            await runtime.session("t-2").run(agent, "fourth", state=State({}, thread_id="t-1"))
        plain = await runtime.run(alone, "hi", state=State({}, thread_id="t-3"))
        assert plain.session_id == "t-3", "also of an agent without a history"
    assert [one.split()[0] for one in history.calls] == ["create", *["user", "save"] * 3]


async def test_what_was_never_said_because_the_history_failed_is_in_neither(url: str):
    history, model = Threads({"t": [*OLD]}), ScriptedModel(say("Two."))
    agent = Agent("Ada", model=model, history=history)
    async with Runtime(url, [agent]) as runtime:
        for method in ("get", "user"):
            history.fails = {method: OSError("away")}
            with pytest.raises(RunFailed, match="away"):
                await runtime.run(agent, f"lost by {method}", session_id="t")
        history.fails = {}
        await runtime.run(agent, "second", session_id="t")
        assert texts(model.requests[0]) == ["old", "Old.", "second"]
        assert history.said("t") == ["old", "Old.", "second", "Two."]


async def test_b39_what_was_said_before_a_kept_run_was_cancelled_is_stored(url: str):
    history = Threads()
    agent = Agent("Ada", model=Halting(), history=history)
    async with Runtime(url, [agent]) as runtime:
        run = await runtime.start(agent, "hi", session_id="t")
        async for event in run.events():
            if isinstance(event, TextDelta):
                await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
    assert history.said("t") == ["hi", "Tw"]


async def test_a_run_that_is_cancelled_while_its_thread_is_created_leaves_nothing(url: str):
    asked = asyncio.Event()

    class Slow(Creating):
        async def create_thread(self, ctx: HistoryContext) -> str:
            asked.set()
            await asyncio.Event().wait()
            return ""

    agent = Agent("Ada", model=ScriptedModel(), history=Slow())
    async with Runtime(url, [agent]) as runtime:
        async with runtime.stream(agent, "hi") as stream:
            await asked.wait()
        assert stream.run.status == "cancelled"
        assert await runtime.runs() == []


async def test_a_thread_that_cannot_be_created_refuses_the_run(url: str):
    history = Creating()
    history.fails["create"] = OSError("full")
    agent = Agent("Ada", model=ScriptedModel(), history=history)
    async with Runtime(url, [agent]) as runtime:
        with pytest.raises(HistoryError, match="full"):
            await runtime.run(agent, "hi")
        assert await runtime.runs() == []


@tool(effect="idempotent")
async def note(what: str) -> str:
    """Note."""
    return what


class World(list[str]):
    """What an adapter has stored, by id: a repetition is passed over, as in the ready adapters."""


world = World()


def outside() -> World:
    global world
    world = World()
    return world


class Deduplicating(Threads):
    async def get(self, ctx: HistoryContext) -> list[Any]:
        return [TextMessage("user", "old")]

    async def append_user_message(self, ctx: HistoryContext) -> None:
        assert ctx.user_message is not None
        self.store(f"user {ctx.user_message.content}")

    async def append_results(self, ctx: HistoryContext) -> None:
        for one in ctx.new_results:
            self.store(f"{one.agent_name} {one.id.partition('/')[2]} {one.text}")

    def store(self, line: str) -> None:
        if line not in world:
            world.append(line)


def crashing() -> Network[Any, Any]:
    first = Agent("First", tools=[note], model=ScriptedModel(call("note", what="x"), say("One.")))
    second = Agent("Second", model=ScriptedModel(say("Two.")))
    return Network("Net", agents=[first, second], router=sequence(first, second), history=Deduplicating())


def test_b51_a_run_killed_anywhere_stores_everything_once_and_in_order():
    report = crash_everywhere(crashing, "hi", outside=outside, twice=True, most=60)
    assert report.failures == ()
    assert world == ["user hi", "First agent/0 One.", "Second agent/1 Two."]
    places = " | ".join(one.where for one in report.points)
    for step in ("history/user", "history/save/0", "history/save/1"):
        assert step in places


async def test_b51_a_step_of_a_history_that_has_its_record_is_not_done_again(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/runs.db"
    history = Threads({"t": [*OLD]})

    def answer(*answers: Any) -> Agent[Any, Any]:
        return Agent("Ada", model=ScriptedModel(*answers), history=history)

    async with Runtime(url, [agent := answer(hang())]) as runtime:
        run = await runtime.start(agent, "hi", session_id="t", run_id="r-1")
        async for event in run.events():
            if type(event).__name__ == "MessageStarted":
                break
        await run.detach()
    assert history.calls == ["get t", "user t: hi"]
    async with Runtime(url, [agent := answer(say("Hello."))]) as runtime:
        result = await runtime.run(agent, "hi", session_id="t", run_id="r-1")
        assert result.text == "Hello."
        assert [one.text for one in result.state.results] == ["Old.", "Hello."]
    assert history.calls == ["get t", "user t: hi", "save t: Hello."]
