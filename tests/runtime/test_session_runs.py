"""Runs and events of a session are one conversation with one log; what a session's state means for runs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure import (
    Agent,
    Conflict,
    DefinitionError,
    EventPosted,
    InvalidId,
    InvalidSessionState,
    ModelRequest,
    RunCompleted,
    Runtime,
    SessionChanged,
    Unserialisable,
    tool,
)
from perdure.agents.rebuild import rebuild
from perdure.db.database import Row, Script, Sql
from perdure.runtime.conversations import Conversations
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types.messages import TextMessage
from tests.runtime import desk

gate: dict[str, asyncio.Event] = {}


@tool(effect="pure")
async def hold() -> str:
    """Wait until the gate is open."""
    gate["begun"].set()
    await gate["open"].wait()
    return "held"


@tool(effect="once", requires_approval=True)
async def refund(n: int) -> str:
    """Pay back, if a person allows it."""
    return f"paid back {n}"


def echo(request: ModelRequest) -> Any:
    last = request.messages[-1]
    if isinstance(last, TextMessage) and last.text == "hold":
        return call("hold")
    return say(" | ".join(one.text for one in request.messages if isinstance(one, TextMessage)))


ECHO = Agent("Echo", model=FunctionModel(echo), tools=[hold])


def opened(url: str, *more: Any, **options: Any) -> Runtime:
    return Runtime(url, [ECHO, *more], durability="normal", timing=desk.QUICK, **options)


def clerk() -> Any:
    return Agent("Clerk", model=ScriptedModel(call("refund", n=3), say("Done.")), tools=[refund])


async def said(rt: Runtime, session: str = "s") -> list[str]:
    return [one.text async for one in rt.session(session).messages() if isinstance(one, TextMessage)]


async def said_anew(rt: Runtime, session: str = "s") -> list[str]:
    """What somebody reads who has nothing at hand."""
    known = await Conversations(rt.container("default").log).of(session)
    return [one.text for one in known.messages if isinstance(one, TextMessage)]


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    gate["begun"], gate["open"] = asyncio.Event(), asyncio.Event()


async def test_a_run_sees_the_messages_that_were_posted_before_it_was_asked(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        await handle.event("user_message", "I am Ada")
        await handle.event("agent_message", "Hello Ada", metadata={"from_agent": "a", "to_agent": "b"})
        await handle.event("tool_execution", "search", event_data={"tool": "search"})
        await handle.event("my own", "thing")
        await handle.event("user_message", "")
        first = await handle.run(ECHO, "who am I?")
        assert first.output == "I am Ada | Hello Ada | who am I?"
        await handle.event("user_message", "and")
        assert (
            await handle.run(ECHO, "now?")
        ).output == f"I am Ada | Hello Ada | who am I? | {first.output} | and | now?"
        shown = [(one.role, one.id) async for one in handle.messages() if isinstance(one, TextMessage)]
        posted = await handle.replay()
        assert shown[:2] == [("user", posted[0].event_id), ("assistant", posted[1].event_id)]
        assert await said(rt) == await said_anew(rt)
        seqs = [one.seq for one in await handle.records()]
        assert seqs == list(range(1, len(seqs) + 1)), "events and runs have one order"


async def test_what_is_posted_in_a_turn_comes_behind_it_and_no_run_sees_half_of_it(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        await handle.event("user_message", "before")
        first = await handle.start(ECHO, "hold", run_id="first")
        await gate["begun"].wait()
        await handle.event("user_message", "in it")
        second = await handle.start(ECHO, "second", run_id="second")
        await handle.event("user_message", "behind both")
        assert await said(rt) == ["before"]
        gate["open"].set()
        assert (await first.result()).output == "before | hold"
        assert (await second.result()).output == "before | hold | before | hold | in it | second"
        whole = ["before", "hold", "before | hold", "in it", "second", (await second.result()).text, "behind both"]
        assert await said(rt) == await said_anew(rt) == whole
        assert (await handle.run(ECHO, "third")).output == " | ".join([*whole, "third"])
        assert [one.content for one in await handle.replay()] == ["before", "in it", "behind both"]


async def test_a_run_that_is_taken_over_sees_what_it_saw_before(url: str):
    async with opened(url) as rt:
        await rt.session("s").open()
        await rt.session("s").event("user_message", "before")
        await rt.session("s").start(ECHO, "hold", run_id="first")
        await gate["begun"].wait()
        await rt.session("s").event("user_message", "in it")
    gate["open"].set()
    async with opened(url) as rt:
        await rt.session("s").event("user_message", "after the crash")
        result = await rt.run(ECHO, "hold", session_id="s", run_id="first")
        assert result.output == "before | hold"
        assert await said(rt) == ["before", "hold", "before | hold", "in it", "after the crash"] == await said_anew(rt)


async def test_a_parked_run_holds_up_nothing_that_is_posted_and_goes_on_with_what_it_saw(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        await handle.event("user_message", "before")
        await handle.start(ECHO, "hold", run_id="first")
        await gate["begun"].wait()
        await handle.event("user_message", "in it")
    other = Agent("Echo", model=FunctionModel(echo))  # without the tool that is open
    gate["open"].set()
    async with Runtime(url, [other], timing=desk.QUICK) as rt:

        async def parked() -> bool:
            return (await rt.container("default").log.run("first")).status == "parked"

        await desk.until(parked)
        assert await said(rt) == ["before", "in it"]
        assert (await rt.run(other, "next", session_id="s")).output == "before | in it | next"
        assert await said_anew(rt) == await said(rt)
    async with opened(url) as rt:
        await said(rt)  # what was said since is at hand
        await rt.resume("first")
        first = await rt.run(ECHO, "hold", session_id="s", run_id="first")
        assert first.output == "before | hold", "its prompt is made of what it saw when it began"
        records = await rt.container("default").log.read_session("s")
        assert [rebuild(records, "first", n).doubts for n in "01"] == [(), ()]
        whole = ["before", "in it", "next", "before | in it | next", "hold", "before | hold"]
        assert await said_anew(rt) == await said(rt) == whole


# -- what a state means for runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["suspend", "end", "archive"])
async def test_a_closed_session_takes_no_run_and_nothing_of_it_is_kept(url: str, state: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        first = await handle.run(ECHO, "one", run_id="one")
        await getattr(handle, state)()
        before = await handle.records()
        for again in (handle.run, handle.start):
            with pytest.raises(InvalidSessionState, match="so it takes no run") as caught:
                await again(ECHO, "two", run_id="two")
            assert caught.value.code == "INVALID_SESSION_STATE"
        with pytest.raises(InvalidSessionState):
            await handle.run(ECHO, "two", on_busy="reject")
        async with handle.stream(ECHO, "two") as stream:
            with pytest.raises(InvalidSessionState):
                await stream.result()
        assert await handle.records() == before and [one.id for one in await rt.runs()] == ["one"]
        assert (await handle.run(ECHO, "one", run_id="one")).output == first.output, "it is that run"
        with pytest.raises(Conflict):
            await handle.run(ECHO, "other", run_id="one")
        if state == "suspend":
            await handle.resume()
            assert (await handle.run(ECHO, "two")).output == "one | one | two"
        assert (await rt.run(ECHO, "x", session_id="other")).output == "x"


async def test_what_was_taken_in_before_goes_on_to_its_end(url: str):
    agent = clerk()
    async with opened(url, agent) as rt:
        handle = rt.session("s")
        await handle.open()
        running = await handle.start(ECHO, "hold")
        await gate["begun"].wait()
        queued = await handle.start(ECHO, "queued")
        await handle.suspend()
        gate["open"].set()
        assert (await running.result()).status == (await queued.result()).status == "completed"
        await handle.resume()
        waiting = await handle.run(agent, "refund")
        assert waiting.status == "waiting"
        await handle.end()
        assert (await rt.approve(waiting.waits[0].id)).output == "Done."
        assert (await handle.records())[-1].kind == "run_finished" and (await handle.info()).state == "ended"


# -- the other things that can be done with a session ------------------------------------------------------------


async def test_a_fork_has_the_events_before_it_and_counts_on(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open(user_id="ada", metadata={"v": 1})
        posted = [await handle.event("user_message", f"{n}", event_id=f"e{n}") for n in range(4)]
        await handle.end()
        fork = await handle.fork(posted[2].seq, id="f")
        info = await fork.info()
        assert (info.state, info.user_id, info.metadata, info.events) == ("active", "ada", {"v": 1}, 3)
        assert await fork.event("user_message", "2", event_id="e2") == replace(posted[2], session_id="f")
        with pytest.raises(Conflict, match="for another event"):
            await fork.event("user_message", "other", event_id="e2")
        new = await fork.event("user_message", "of the fork", event_id="e3")
        assert new.sequence == 4
        again = await fork.fork(id="g")
        assert (await again.event("note")).sequence == 5
        assert [one.content for one in await fork.replay()] == ["0", "1", "2", "of the fork"]
        assert [one.content for one in await again.replay(limit=2, newest=True)] == ["of the fork", ""]
        assert [one.content for one in await again.replay(after=posted[1].seq, limit=2)] == ["2", "of the fork"]
        assert (await fork.run(ECHO, "x")).output == "0 | 1 | 2 | of the fork | x"
        assert [one.content for one in await handle.replay()] == ["0", "1", "2", "3"]


async def test_a_rewind_hides_events_and_numbers_are_not_used_twice(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        posted = [await handle.event("user_message", f"{n}") for n in range(5)]
        back = await handle.rewind(posted[1].seq)
        assert [one.content for one in await handle.replay()] == ["0", "1"]
        assert (await handle.event("user_message", "new")).sequence == 6
        assert await said(rt) == await said_anew(rt) == ["0", "1", "new"]
        assert [one.content for one in await handle.replay(newest=True, limit=2)] == ["1", "new"]
        assert await handle.rewind(back - 1), "which takes the rewind back"
        assert [one.content for one in await handle.replay()] == ["0", "1", "2", "3", "4"]


async def test_export_import_and_erasing_have_events_and_states(url: str, tmp_path: Path):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open(user_id="ada", metadata={"secret": "metadata"})
        await handle.event("user_message", "secret words", event_id="e1", event_data={"large": "secret" * 20_000})
        await handle.run(ECHO, "hi")
        await handle.suspend()
        await handle.export(tmp_path / "s.jsonl")
        async with opened(f"sqlite:///{tmp_path}/other.db") as other:
            taken = await other.import_session(tmp_path / "s.jsonl")
            assert await taken.info() == await handle.info() and await taken.replay() == await handle.replay()
            await taken.resume()
            assert (await taken.event("user_message", "more")).sequence == 2
            with pytest.raises(Conflict):
                await taken.event("user_message", "other", event_id="e1")
            assert await said(other) == [*await said(rt), "more"] and await other.check(deep=True) == []
        await handle.resume()
        await handle.erase()
        info = await handle.info()
        assert (info.state, info.user_id, info.metadata, await handle.replay()) == ("resumed", None, {}, [])
        assert await said(rt) == await said_anew(rt) == []
        with pytest.raises(Conflict, match="was erased"):
            await handle.event("user_message", "secret words", event_id="e1")
        assert (await handle.event("user_message", "new")).sequence == 2
        assert await said(rt) == ["new"] and await rt.check(deep=True) == []

        def everything() -> Script[list[Row]]:
            rows: list[Row] = []
            for table in ("sessions", "records", "blobs", "runs"):
                rows += yield Sql(f"SELECT * FROM {table}")
            return rows

        assert "secret" not in repr(await rt.db.read(everything))


async def test_what_was_posted_is_found_by_search(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open(user_id="ada")
        said = await handle.event("user_message", "where is the lighthouse")
        told = await handle.event("agent_message", "the lighthouse is north", metadata={"from_agent": "a"})
        await handle.event("tool_execution", "lighthouse")
        hits = sorted(await rt.search("lighthouse", user_id="ada"), key=lambda one: one.seq)
        assert [(one.seq, one.role, one.agent) for one in hits] == [
            (said.seq, "user", None),
            (told.seq, "assistant", "a"),
        ]
        await handle.rewind(said.seq)
        assert [one.seq for one in await rt.search("lighthouse")] == [said.seq]
        await handle.erase()
        assert await rt.search("lighthouse") == []


async def test_whoever_follows_a_session_is_told_of_events_in_order(url: str):
    async with opened(url) as rt, opened(url, workers=False) as elsewhere:
        handle = rt.session("s")
        told: list[Any] = []

        async def follow(one: Runtime) -> list[Any]:
            found: list[Any] = []
            async for event in one.session("s").events():
                if isinstance(event, (EventPosted, SessionChanged, RunCompleted)):
                    found.append(event)
                if isinstance(event, SessionChanged) and event.state == "ended":
                    break
            return found

        followers = [asyncio.create_task(follow(one)) for one in (rt, elsewhere)]
        await handle.open()
        posted = await handle.event("note", "one", event_data=[1], metadata={"from_agent": "a"})
        await handle.run(ECHO, "hi")
        await handle.end()
        async with asyncio.timeout(30):
            told, same = await asyncio.gather(*followers)
        assert told == same and [type(one) for one in told] == [
            SessionChanged,
            EventPosted,
            RunCompleted,
            SessionChanged,
        ]
        assert (told[1].event_id, told[1].content, told[1].seq) == (posted.event_id, "one", posted.seq)
        assert (told[1].event_data, told[1].metadata, told[1].sequence) == ([1], {"from_agent": "a"}, 1)


async def test_the_bus_and_the_messages_of_an_image_show_what_was_posted(url: str):
    async with opened(url) as rt:
        image = await rt.images.create("default", definition="Echo")
        handle = rt.session(image["session_id"])
        heard: list[tuple[str, Any]] = []
        done = asyncio.Event()

        def hear(event: Any) -> None:
            heard.append((event.type, event.data.get("content")))
            if event.type == "session_changed":
                done.set()

        await rt.images.run(image["image_id"])
        assert (await rt.ask(image["image_id"], "hi")).output == "hi"
        rt.bus.on(["user_message", "assistant_message", "event_posted", "session_changed", "error_received"], hear)
        await handle.open()
        await done.wait()
        await handle.event("user_message", "posted")
        await handle.event("agent_message", "answered", metadata={"from_agent": "a"})
        await handle.event("tool_execution", "search")
        done.clear()
        await handle.suspend()
        async with asyncio.timeout(30):
            await done.wait()
        text = [{"type": "text", "text": "answered"}]
        assert heard[heard.index(("session_changed", None)) :] == [
            ("session_changed", None),
            ("user_message", "posted"),
            ("assistant_message", text),
            ("event_posted", "search"),
            ("session_changed", None),
        ]
        shown = [one["content"] for one in await rt.images.messages(image["image_id"])]
        assert shown[-2:] == ["posted", text] and len(shown) == 4


# -- what is refused ---------------------------------------------------------------------------------------------


async def test_what_is_wrong_is_said_and_nothing_is_kept(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        for bad in ("", "../x", "é", "a\0b", "x" * 10_000, 3):
            one: Any = bad
            for given in ({"event_id": one}, {"parent_event_id": one}):
                with pytest.raises(InvalidId, match="is not allowed"):
                    await handle.event("note", **given)
            with pytest.raises(InvalidId):
                await rt.session.event(session_id=one, type="note")
            with pytest.raises(InvalidId):
                await rt.session.start(session_id=one)
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("type", {"type": ""}),
            ("type", {"type": "a\nb"}),
            ("type", {"type": "x" * 201}),
            ("type", {"type": None}),
            ("content", {"content": ["x"]}),
            ("metadata", {"metadata": ["x"]}),
            ("user_id", {"user_id": ""}),
            ("user_id", {"user_id": "x\0"}),
            ("takes 11,", {"content": "x" * 11 * 1024 * 1024}),
            ("takes 11,", {"event_data": ["x" * 11 * 1024 * 1024]}),
        ]
        for what, given in wrong:
            with pytest.raises(DefinitionError, match=what):
                await handle.event(**{"type": "note", **given})
        for given in ({"event_data": object()}, {"metadata": {"x": object()}}, {"content": "\ud800"}):
            with pytest.raises(Unserialisable):
                await handle.event("note", **given)
        with pytest.raises(DefinitionError, match=r"may take 65,536"):
            await rt.session.start(session_id="t", metadata={"x": "y" * 70_000})
        for limit in (0, -1, 1001):
            with pytest.raises(DefinitionError, match="a page has 1 to 1,000"):
                await handle.replay(limit=limit)
        assert len(await handle.records()) == 1 and [one.id for one in await rt.sessions()] == ["s"]
        assert (await handle.event("note", "x" * 9 * 1024 * 1024)).sequence == 1
