"""Sessions as the service's documents have them: behaviours 1 to 10 of memory, and one conversation with runs."""

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    Conflict,
    InvalidSessionState,
    ModelRequest,
    Runtime,
    SessionNotFound,
)
from perdure.testing import FunctionModel, say
from perdure.types import records as rec
from perdure.types.messages import TextMessage
from tests.runtime import desk, posting

STATES = ("active", "suspended", "resumed", "ended", "archived")
FOLLOWS = {
    "created": {"active", "ended", "archived"},
    "active": {"suspended", "ended", "archived"},
    "suspended": {"resumed", "ended", "archived"},
    "resumed": {"suspended", "ended", "archived"},
    "ended": {"archived"},
    "archived": set[str](),
}


def echo(request: ModelRequest) -> Any:
    return say(" | ".join(one.text for one in request.messages if isinstance(one, TextMessage)))


ECHO = Agent("Echo", model=FunctionModel(echo))


def opened(url: str) -> Runtime:
    return Runtime(url, [ECHO], durability="normal", timing=desk.QUICK)


async def said(rt: Runtime, session: str = "s") -> list[str]:
    return [one.text async for one in rt.session(session).messages() if isinstance(one, TextMessage)]


# -- behaviours 1 to 10 ------------------------------------------------------------------------------------------


async def test_m01_a_session_is_started_once(url: str):
    async with opened(url) as rt:
        first = await rt.session.start(session_id="s", user_id="ada@example.com", metadata={"a": [1, None]})
        assert (first.session_id, first.state, first.user_id) == ("s", "active", "ada@example.com")
        assert first.metadata == {"a": [1, None]} and first.created_at > 0
        await rt.session.event(session_id="s", type="note", content="one")
        again = await rt.session.start(session_id="s", user_id="ada@example.com", metadata={"a": [1, None]})
        assert again.created_at == first.created_at and again.events == 1
        assert await rt.session("s").open() == again, "what is left out is what it has"
        assert (await rt.session.event(session_id="s", type="note", content="two")).sequence == 2
        assert [one.kind for one in await rt.session("s").records()] == ["session", "event", "event"]
        with pytest.raises(Conflict, match="other metadata"):
            await rt.session.start(session_id="s", metadata={"a": [1]})
        with pytest.raises(Conflict, match="user"):
            await rt.session.start(session_id="s", user_id="bo@example.com")
        assert await rt.session.get(session_id="s") == await rt.session("s").info()
        one, other = await rt.session.start(), await rt.session.start()
        assert one.session_id != other.session_id and one.user_id is None
        assert [one.state for one in await rt.sessions()] == ["active"] * 3


async def test_m01_twenty_that_start_it_at_once_start_one(url: str):
    async with opened(url) as rt:
        found = await asyncio.gather(*(rt.session.start(session_id="s", metadata={"n": 1}) for _ in range(20)))
        assert len(set(map(repr, found))) == 1
        assert [one.kind for one in await rt.session("s").records()] == ["session"]


async def test_m02_a_session_goes_on_after_a_restart(url: str):
    async with opened(url) as rt:
        await rt.session.start(session_id="s", metadata={"v": "1.0"})
        await rt.session("s").event("user_message", "before")
    async with opened(url) as rt:
        info = await rt.session("s").info()
        assert (info.state, info.events, info.metadata) == ("active", 1, {"v": "1.0"})
        assert (await rt.session("s").event("user_message", "after")).sequence == 2
        assert await said(rt) == ["before", "after"]


@pytest.mark.parametrize("way", [(), *itertools.permutations(STATES[1:], 1), *itertools.permutations(STATES[1:], 2)])
async def test_m03_states_follow_each_other_as_allowed(way: tuple[str, ...], tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/desk.db") as rt:
        await rt.session.start(session_id="s")
        await every_state(rt, way)


async def test_m03_states_follow_each_other_as_allowed_on_any_store(url: str):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")
        await every_state(rt, ("suspended", "resumed", "suspended", "ended", "archived"))


async def every_state(rt: Runtime, way: tuple[str, ...]) -> None:
    """Go a way as far as it is allowed; at each of its ends try whatever is not."""
    moves: dict[str, Any] = {
        "suspended": rt.session.suspend,
        "resumed": rt.session.resume,
        "ended": rt.session.end,
        "archived": rt.session.archive,
    }
    state = "active"
    for to in (*way, None):
        before = [await rt.session("s").info(), *await rt.session("s").records()]
        for one in set(moves) - FOLLOWS[state]:
            with pytest.raises(InvalidSessionState, match=f"is {state}, so it cannot be {one}") as caught:
                await moves[one](session_id="s")
            assert (caught.value.code, caught.value.state) == ("INVALID_SESSION_STATE", state)
        assert [await rt.session("s").info(), *await rt.session("s").records()] == before, "nothing has changed"
        assert (await rt.session.start(session_id="s")).state == state, "to start it again is not to open it again"
        if to is None or to not in FOLLOWS[state]:
            return
        assert (await moves[to](session_id="s")).state == to
        state = to


async def test_m03_a_session_of_runs_is_created_until_it_is_started(url: str):
    async with opened(url) as rt:
        await rt.run(ECHO, "hi", session_id="s", user_id="ada")
        info = await rt.session("s").info()
        assert (info.state, info.user_id, info.events) == ("created", "ada", 0)
        for one in (rt.session.suspend, rt.session.resume):
            with pytest.raises(InvalidSessionState, match="is created"):
                await one(session_id="s")
        with pytest.raises(InvalidSessionState, match="takes no event; start it first"):
            await rt.session("s").event("note")
        started = await rt.session.start(session_id="s", user_id="ada", metadata={"v": 2})
        assert started.state == "active" and started.created_at == info.created_at and started.metadata == {"v": 2}
        assert (await rt.session("s").event("note")).sequence == 1
        await rt.run(ECHO, "hi", session_id="t")
        assert (await rt.session("t").end()).state == "ended"


async def test_m04_events_are_taken_where_a_session_is_active(url: str):
    async with opened(url) as rt:
        with pytest.raises(SessionNotFound) as caught:
            await rt.session.event(session_id="nobody", type="note")
        assert caught.value.code == "SESSION_NOT_FOUND"
        for one in (rt.session.suspend, rt.session.end, rt.session.replay, rt.session.get):
            with pytest.raises(SessionNotFound):
                await one(session_id="nobody")
        handle = rt.session("s")
        await handle.open()
        await handle.suspend()
        with pytest.raises(InvalidSessionState, match="is suspended, so it takes no event; resume it first"):
            await handle.event("note")
        await handle.resume()
        assert (await handle.event("note")).sequence == 1
        await handle.end()
        for _ in range(2):
            with pytest.raises(InvalidSessionState, match="start another one"):
                await handle.event("note")
            if (await handle.info()).state == "ended":
                await handle.archive()
        assert (await handle.info()).events == len(await handle.replay()) == 1


async def test_m05_an_event_id_makes_an_event_once(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open(user_id="ada")
        given: dict[str, Any] = {"event_id": "s-2026-11-25T10:00:00.000Z-tool", "event_data": {"a": 1, "b": [2]}}
        first = await handle.event("tool_execution", "search", **given, user_id="ada")
        given["event_data"] = {"b": [2], "a": 1}
        assert await handle.event("tool_execution", "search", **given, user_id="ada") == first
        at_once = [handle.event("note", "x", event_id="at-once", metadata={"n": True}) for _ in range(20)]
        assert len({one.seq for one in await asyncio.gather(*at_once)}) == 1
        for other in ({"content": "other"}, {"type": "note"}, {"metadata": {"x": 1}}, {"parent_event_id": "p"}):
            with pytest.raises(Conflict, match="for another event"):
                await handle.event(**{"type": "tool_execution", "content": "search", **given, **other})
        with pytest.raises(Conflict, match="for another event"):
            await handle.event("note", "x", event_id="at-once", metadata={"n": 1})
        with pytest.raises(Conflict, match="not that of the user 'bo'"):
            await handle.event("note", user_id="bo")
        assert [one.sequence for one in await handle.replay()] == [1, 2]
        await rt.session.start(session_id="other")
        assert (await rt.session.event(session_id="other", type="note", event_id="at-once")).sequence == 1
        await rt.container("acme").session.start(session_id="s")
        assert (await rt.container("acme").session("s").event("note", event_id="at-once")).sequence == 1
        await handle.end()
        assert await handle.event("tool_execution", "search", **given, user_id="ada") == first, "it was taken before"
        with pytest.raises(Conflict):
            await handle.event("other", event_id="at-once")
        assert (await handle.info()).events == 2


async def test_m06_two_events_that_are_alike_are_two(url: str):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")
        one, other = [await rt.session.event(session_id="s", type="note", content="same") for _ in range(2)]
        assert (one.sequence, other.sequence) == (1, 2) and one.event_id != other.event_id
        with pytest.raises(Conflict):
            await rt.session.event(session_id="s", type="note", content="another", event_id=one.event_id)


async def test_m07_a_thousand_events_of_fifty_come_in_one_order(url: str):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")

        async def post(who: int) -> list[int]:
            return [(await rt.session.event(session_id="s", type=f"t{who}")).sequence for _ in range(20)]

        given = await asyncio.gather(*map(post, range(50)))
        assert sorted(itertools.chain(*given)) == list(range(1, 1001))
        assert all(one == sorted(one) for one in given)
        assert await rt.session("s").info() == (await rt.session.get(session_id="s")) and (await rt.check()) == []
        found = await rt.session.replay(session_id="s", limit=1000)
        assert [one.sequence for one in found] == list(range(1, 1001))
        assert [[n.sequence for n in found if n.type == f"t{who}"] for who in range(50)] == given


async def test_m07_processes_that_post_at_once_keep_one_order(url: str, tmp_path: Path):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")
        others = [await posting.start(url, tmp_path, who, 100) for who in ("a", "b")]
        for one in others:
            async with asyncio.timeout(60):
                assert await one.wait() == 0
        found = await rt.session.replay(session_id="s", limit=1000)
        assert [one.sequence for one in found] == list(range(1, 201))
        for who in ("a", "b"):
            assert [one.content for one in found if one.type == who] == [f"{n}" for n in range(100)]
            assert posting.acknowledged(tmp_path, who) == [one.seq for one in found if one.type == who]


async def test_m07_a_process_that_is_killed_loses_nothing_that_it_was_told_is_kept(url: str, tmp_path: Path):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")
        killed = await posting.start(url, tmp_path, "a", 100_000)
        await desk.until(lambda: len(posting.acknowledged(tmp_path, "a")) > 20)
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        told = posting.acknowledged(tmp_path, "a")
        found = await rt.session.replay(session_id="s", limit=1000)
        assert [one.seq for one in found][: len(told)] == told
        assert len(found) - len(told) in (0, 1), "the last one may be kept without an acknowledgement"
        assert [one.sequence for one in found] == list(range(1, len(found) + 1))
        assert (await rt.session.event(session_id="s", type="b")).sequence == len(found) + 1


async def test_m08_data_and_metadata_come_back_and_can_be_asked_for(url: str):
    data = {
        "tool": "search",
        "input": "ünïcode \0 \u2028 \U0001f600",
        "n": [1, 2.5, None, True, {"": {}}],
        "big": 2**53,
    }
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        first = await handle.event(
            "tool_execution", "a\0b", event_data=data, metadata={"from_agent": "a", "to_agent": "b"}
        )
        assert (first.event_data, first.content, first.from_agent, first.to_agent) == (data, "a\0b", "a", "b")
        await handle.event("agent_message", "back", metadata={"from_agent": "b"}, parent_event_id=first.event_id)
        await handle.event("agent_message", "to all")
        await handle.event("tool_execution", "large", event_data="x" * 200_000)
        assert [one.event_data for one in await handle.replay()] == [data, None, None, "x" * 200_000]
        assert (await handle.replay())[0] == first
        assert (await handle.replay())[1].parent_event_id == first.event_id

        async def only(**wanted: Any) -> list[int]:
            return [one.sequence for one in await handle.replay(**wanted)]

        assert await only(from_agent="a") == [1] and await only(from_agent="b") == [2]
        assert await only(to_agent="b") == [1] and await only(to_agent="c") == []
        assert await only(from_agent="a", to_agent="a") == []
        assert await only(type="agent_message") == [2, 3] and await only(
            type="agent_message", newest=True, limit=1
        ) == [3]


async def test_m09_what_is_retained_is_said_at_the_end(url: str):
    async with opened(url) as rt:
        for id, retain in (("yes", True), ("no", False)):
            await rt.session.start(session_id=id, user_id="ada")
            assert (await rt.session(id).info()).retain_context is None
            assert (await rt.session.end(session_id=id, user_id="ada", retain_context=retain)).retain_context is retain
            with pytest.raises(Conflict, match="not that of the user"):
                await rt.session.archive(session_id=id, user_id="bo")
    async with opened(url) as rt:
        assert [(await rt.session(id).info()).retain_context for id in ("yes", "no")] == [True, False]
        assert (await rt.session("no").archive()).retain_context is False
        last = [(await rt.session(id).records())[-1].payload for id in ("yes", "no")]
        assert last == [rec.StateSet("ended", True), rec.StateSet("archived")]


async def test_m10_replay_gives_what_was_sent_in_its_order(url: str):
    async with opened(url) as rt:
        handle = rt.session("s")
        await handle.open()
        sent = []
        for n in range(25):
            sent.append(await handle.event("note", f"{n}", event_data={"n": n}))
            if n % 10 == 5:
                await rt.run(ECHO, "between", session_id="s", messages=())
        assert await handle.replay() == sent
        pages, page = [], await handle.replay(limit=10)
        while page:
            pages.append(page)
            page = await handle.replay(limit=10, after=page[-1].seq)
        assert [len(one) for one in pages] == [10, 10, 5] and list(itertools.chain(*pages)) == sent
        back, page = [], await handle.replay(limit=10, newest=True)
        while page:
            back = page + back
            page = await handle.replay(limit=10, newest=True, before=page[0].seq)
        assert back == sent and await handle.replay(limit=3, newest=True) == sent[-3:]
