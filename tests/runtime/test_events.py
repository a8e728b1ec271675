"""Readers of a session: here and in other processes, early and late, across kills and reconnects."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, InvalidId, RunCompleted, RunFailed, Runtime, events
from perdure.db.database import Sql
from perdure.log.live import LiveTable
from perdure.models.model import Capabilities, ModelRequest
from perdure.testing.well_formed import find_flaw
from perdure.types import records as rec
from perdure.types.chunks import Finished, ModelEvent, TextChunk
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, QUICK, TALKER, WORDS, allow, effects, runtime, until

WHOLE = "".join(f"w{n} " for n in range(WORDS))
BESIDE = (
    *(events.TextDelta, events.MessageReset, events.ToolCallStarted, events.ToolArgsDelta),
    *(events.ToolProgress, events.StepStarted),
)


def watching(url: str) -> Runtime:
    """A runtime that drives nothing."""
    return Runtime(url, workers=False, timing=QUICK, durability="normal")


class Reader:
    """A reader in this process, that notes what it is shown until a run of the session has ended."""

    def __init__(self, shown: AsyncIterator[Any], ends: int = 1) -> None:
        self.seen: list[Any] = []
        self._task = asyncio.create_task(self._read(shown, ends))

    async def _read(self, shown: AsyncIterator[Any], ends: int) -> None:
        async for event in shown:
            self.seen.append(event)
            if isinstance(event, events.TERMINAL) and self.ends == ends:
                return

    @property
    def ends(self) -> int:
        return sum(isinstance(one, events.TERMINAL) for one in self.seen)

    @property
    def text(self) -> str:
        """What was said since the last reset."""
        text = ""
        for one in self.seen:
            text = "" if isinstance(one, events.MessageReset) else text + getattr(one, "text", "")
        return text

    async def says(self, text: str) -> None:
        await until(lambda: self._task.done() or self.text == text)
        assert self.text == text

    async def resets(self) -> None:
        await until(lambda: any(isinstance(one, events.MessageReset) for one in self.seen))

    async def end(self) -> list[Any]:
        async with asyncio.timeout(60):
            await self._task
        return self.seen

    def stop(self) -> None:
        self._task.cancel()


def names(seen: Sequence[Any]) -> list[str]:
    return [type(one).__name__ for one in seen if not isinstance(one, BESIDE)]


def noted() -> list[list[str]]:
    """What readers in other processes were shown: kind, cursor, text."""
    return [json.loads(one.removeprefix("read ")) for one in effects() if one.startswith("read ")]


async def stored(rt: Runtime) -> int:
    """How many rows the table has."""

    def script() -> Any:
        return (yield Sql("SELECT COUNT(*) FROM live"))

    return (await rt.db.read(script))[0][0]


async def all_of(rt: Runtime, ends: int = 1, session: str = "s") -> list[Any]:
    return await Reader(rt.events(session), ends).end()


# -- across processes --------------------------------------------------------------------------------------------------


async def test_r19_another_process_is_shown_what_is_said_as_it_is_said(url: str, processes: Processes):
    async with runtime(url) as rt:
        reading = await processes.start("read")
        run = await rt.start(TALKER, "talk", session_id="s", run_id="job")
        for words in (2, 5):
            allow(words)
            await until(lambda words=words: "".join(text for _, _, text in noted()) == WHOLE[: 3 * words])
        assert run.status == "running"
        assert await stored(rt)
        allow(WORDS)
        await run.result()
        async with asyncio.timeout(60):
            assert await reading.wait() == 0
        late = await all_of(rt)
        assert await stored(rt) == 0, "what is closed is not kept twice"
    shown = noted()
    assert [kind for kind, _, _ in shown if kind != "TextDelta"] == names(late)
    assert "".join(text for _, _, text in shown) == WHOLE


async def test_r19_another_process_goes_on_in_the_middle_of_an_answer(url: str, processes: Processes):
    async with runtime(url) as rt:
        run = await rt.start(TALKER, "talk", session_id="s", run_id="job")
        allow(4)
        here = Reader(rt.events("s"))
        await here.says(WHOLE[:12])
        cursor = next(one.cursor for one in here.seen if getattr(one, "text", "") == "w1 ")
        reading = await processes.start("read", cursor)
        await until(lambda: "".join(text for _, _, text in noted()) == WHOLE[6:12])
        allow(WORDS)
        await run.result()
        async with asyncio.timeout(60):
            assert await reading.wait() == 0
        await here.end()
    assert "".join(text for _, _, text in noted()) == WHOLE[6:], "neither a gap nor a repetition"
    assert "MessageReset" not in [kind for kind, _, _ in noted()]


async def test_d08_killed_while_a_model_streams(url: str, processes: Processes):
    """The reader sees partial text, an explicit reset, and the whole once; what was cut off is never a result."""
    async with watching(url) as rt:
        reader = Reader(rt.events("s"))
        talking = await processes.start("talk", "job")
        allow(3)
        await reader.says(WHOLE[:9])
        assert not [one for one in await rt.session("s").records() if isinstance(one.payload, rec.InferenceDone)]
        talking.send_signal(signal.SIGKILL)
        await talking.wait()
        taking_over = await processes.start("drain")
        await reader.resets()
        await reader.says(WHOLE[:9])
        allow(WORDS)
        seen = await reader.end()
        async with asyncio.timeout(60):
            assert await taking_over.wait() == 0
        records = await rt.session("s").records()
        late = await all_of(rt)
    assert effects().count("talk") == 2
    assert sum(isinstance(one, events.MessageReset) for one in seen) == 1
    assert reader.text == WHOLE
    assert names(seen) == names(late)
    assert names(seen).count("MessageFinished") == names(seen).count("RunCompleted") == 1
    answers = [one.payload for one in records if isinstance(one.payload, rec.InferenceDone)]
    assert [[one.text for one in answer.messages] for answer in answers] == [[WHOLE]]
    assert [one.usage for one in seen if isinstance(one, events.UsageUpdated)] == [one.usage for one in answers]


async def test_d08_whoever_comes_back_after_a_takeover_is_told_too(url: str, processes: Processes):
    async with watching(url) as rt:
        reader = Reader(rt.events("s"))
        talking = await processes.start("talk", "job")
        allow(3)
        await reader.says(WHOLE[:9])
        reader.stop()
        talking.send_signal(signal.SIGKILL)
        await talking.wait()
        allow(WORDS)
        assert await processes.run("drain") == 0
        rest = await Reader(rt.events("s", reader.seen[-1].cursor)).end()
    assert isinstance(rest[0], events.MessageReset)
    assert "".join(getattr(one, "text", "") for one in rest) == WHOLE
    assert find_flaw([*reader.seen, *rest]) is None


async def test_a_handle_follows_a_run_that_another_process_drives(url: str, processes: Processes):
    talking = await processes.start("talk", "job")
    await until(lambda: "talk" in effects())
    async with runtime(url) as rt, rt.stream(TALKER, "talk", session_id="s", run_id="job") as stream:
        reader = Reader(stream.run.events())
        allow(3)
        await reader.says(WHOLE[:9])
        assert not rt.busy()
        allow(WORDS)
        seen = await reader.end()
        assert (await stream.result()).output == WHOLE
    assert find_flaw(seen) is None
    assert reader.text == WHOLE
    assert reader.ends == 1
    async with asyncio.timeout(60):
        assert await talking.wait() == 0


async def test_a_handle_sees_the_takeover_of_the_run_that_it_follows(url: str, processes: Processes):
    talking = await processes.start("talk", "job")
    async with runtime(url) as rt:
        await until(lambda: "talk" in effects())
        run = await rt.start(TALKER, "talk", session_id="s", run_id="job")
        reader = Reader(run.events())
        allow(3)
        await reader.says(WHOLE[:9])
        talking.kill()
        await talking.wait()
        await reader.resets()
        allow(WORDS)
        seen = await reader.end()
        assert (await run.result()).output == WHOLE
    assert find_flaw(seen) is None
    assert [one.reason for one in seen if isinstance(one, events.MessageReset)]
    assert reader.text == WHOLE


# -- in one process ----------------------------------------------------------------------------------------------------


async def test_readers_that_come_at_any_time_are_shown_the_same(url: str, processes: Processes):
    async with runtime(url) as rt:
        first = Reader(rt.events("s"))  # there is no session yet
        run = await rt.start(TALKER, "talk", session_id="s", run_id="job")
        allow(4)
        await first.says(WHOLE[:12])
        middle = Reader(rt.session("s").events())
        await middle.says(WHOLE[:12])
        allow(WORDS)
        await run.result()
        late = Reader(rt.container("default").events("s"))
        seen = [await one.end() for one in (first, middle, late)]
        own = [event async for event in run.events()]
    assert [one.text for one in (first, middle, late)] == [WHOLE] * 3
    assert names(seen[0]) == names(seen[1]) == names(seen[2]) == names(own)
    assert [type(one).__name__ for one in seen[0]].count("TextDelta") > 2
    assert [type(one).__name__ for one in seen[2]].count("TextDelta") == 1
    assert all(find_flaw(one) is None for one in seen)


async def test_going_on_from_every_cursor_of_a_recorded_session_gives_just_the_rest(url: str, processes: Processes):
    async with runtime(url) as rt:
        live = Reader(rt.events("s"), 2)
        await rt.run(DESK, "go", session_id="s", run_id="one")
        await rt.session("s").compact()
        await rt.run(DESK, "hello", session_id="s", run_id="two")
        seen = await live.end()
        late = await all_of(rt, 2)
        for n, event in enumerate(late[:-1]):
            ends = 2 - sum(isinstance(one, events.TERMINAL) for one in late[: n + 1])
            assert await Reader(rt.events("s", event.cursor), ends).end() == late[n + 1 :], event.cursor
        for n, event in enumerate(seen[:-1]):
            ends = 2 - sum(isinstance(one, events.TERMINAL) for one in seen[: n + 1])
            rest = await Reader(rt.events("s", event.cursor), ends).end()
            whole = [*seen[: n + 1], *rest]
            assert find_flaw(whole) is None
            assert sorted(names(whole)) == sorted(names(seen))
        numbers = [one.seq for one in await rt.session("s").records()]
        after = await Reader(rt.events("s", numbers[-1] - 1)).end()
    assert find_flaw(seen) is None
    assert find_flaw(late) is None
    assert [one for one in names(seen) if one != "ToolStarted"] == [one for one in names(late) if one != "ToolStarted"]
    assert len({one.cursor for one in late}) == len(late)
    assert [type(one) for one in after] == [RunCompleted], "a record's number is a cursor too"


async def test_a_queued_run_and_the_one_before_it_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    async with runtime(f"sqlite:///{tmp_path}/s.db") as rt:
        reader = Reader(rt.events("s"), 2)
        allow(2)
        one = await rt.start(TALKER, "talk", session_id="s", run_id="one")
        await reader.says(WHOLE[:6])
        two = await rt.start(TALKER, "talk", session_id="s", run_id="two")
        await until(lambda: names(reader.seen).count("RunStarted") == 2)
        middle = len(reader.seen)
        allow(WORDS)
        await one.result()
        await two.result()
        seen = await reader.end()
        rest = await Reader(rt.events("s", seen[middle - 1].cursor), 2).end()
        late = await all_of(rt, 2)
    assert find_flaw(seen) is None
    assert names(rest) == names(seen[middle:])
    assert [one.run_id for one in rest if isinstance(one, events.MessageReset)] == ["one"]
    assert sorted(names(late)) == sorted(names(seen))


class Flood:
    """A model that says a word, and very many more at once when it may."""

    name = "flood"
    provider = "test"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextChunk("x")
        await self.go.wait()
        for _ in range(4999):
            yield TextChunk("x")
        yield Finished()


async def test_a_slow_reader_loses_pieces_and_no_record(tmp_path: Path):
    flood = Flood()
    agent: Any = Agent("Flood", model=flood)
    async with (
        Runtime(f"sqlite:///{tmp_path}/s.db", [agent], timing=QUICK, durability="normal") as rt,
        aclosing(rt.events("s")) as shown,
    ):
        running = asyncio.create_task(rt.run(agent, "hi", session_id="s"))
        seen: list[Any] = []
        while not seen or not isinstance(seen[-1], events.TextDelta):
            seen.append(await anext(shown))
        flood.go.set()
        await running  # the reader takes nothing meanwhile, and nothing is kept for it
        async for event in shown:
            seen.append(event)
            if isinstance(event, RunCompleted):
                break
    pieces = [one.text for one in seen if isinstance(one, events.TextDelta)]
    assert "".join(pieces) == "x" * 5000
    assert len(pieces) <= 2
    assert find_flaw(seen) is None


async def test_a_reader_that_walks_away_leaves_nothing(url: str, processes: Processes):
    async with runtime(url) as rt:
        before = asyncio.all_tasks()
        for session in ("s", "t"):
            shown = rt.events(session)
            waiting = asyncio.create_task(anext(shown))
            await asyncio.sleep(0)
            await rt.run(DESK, "hello", session_id="s")
            if session == "s":
                await waiting
                await shown.aclose()
            else:
                waiting.cancel()
                await asyncio.wait([waiting])
        await until(lambda: asyncio.all_tasks() <= before)  # a transaction that has begun is ended in order
        assert not rt.container("default").live_here._readers
        assert not rt.worker._watchers


async def test_closing_the_runtime_ends_its_readers(url: str, processes: Processes):
    async with runtime(url) as rt:
        await rt.run(DESK, "hello", session_id="s")
        reader = Reader(rt.events("s"), 2)
        await until(lambda: reader.ends == 1)
    await reader.end()
    assert reader.ends == 1


async def test_a_child_run_is_followed_in_its_own_session(url: str, processes: Processes):
    async with runtime(url) as rt:
        await rt.run(DESK, "go", session_id="s", run_id="job")
        child = next(one.payload for one in await rt.session("s").records() if one.kind == "child")
        seen = await all_of(rt, session=f"session_{child.run_id.removeprefix('run_')}")
    assert find_flaw(seen) is None
    assert isinstance(seen[0], events.RunStarted)
    assert seen[0].parent == "job"


@pytest.mark.parametrize("after", ["x", "1-", "1@1~a", -1])
async def test_a_bad_cursor_is_refused_at_once(url: str, processes: Processes, after: Any):
    async with runtime(url) as rt:
        with pytest.raises(InvalidId, match="is no cursor"):
            rt.events("s", after)


async def test_a_cursor_of_elsewhere_is_refused(url: str, processes: Processes):
    async with runtime(url) as rt:
        await rt.run(DESK, "hello", session_id="s")
        with pytest.raises(InvalidId, match="another session"):
            await anext(rt.events("s", 40))
        with pytest.raises(InvalidId, match="no cursor of the session"):
            await anext(rt.events("s", "1-9"))
        with pytest.raises(InvalidId):
            rt.events("not/allowed")


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_alone_at_a_store_nothing_is_written_beside_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    written: list[int] = []
    write = LiveTable.write

    async def counted(self: LiveTable, said: Any) -> None:
        written.append(len(said))
        await write(self, said)

    monkeypatch.setattr(LiveTable, "write", counted)
    url = f"sqlite:///{tmp_path}/s.db"
    async with runtime(url) as rt:
        run = await rt.start(TALKER, "talk", session_id="s")
        reader = Reader(rt.events("s"))
        allow(3)
        await reader.says(WHOLE[:9])
        looked = asyncio.Event()
        alone = rt.worker.owners.alone

        async def looking() -> bool:
            found = await alone()
            looked.set()
            return found

        monkeypatch.setattr(rt.worker.owners, "alone", looking)
        allow(6)
        await asyncio.wait_for(looked.wait(), 60)
        assert not written
        async with watching(url):  # somebody comes in the middle
            await until(lambda: written)
            allow(WORDS)
            await run.result()
        await reader.end()


async def test_a_run_waits_for_nothing_that_is_said_beside_it(
    url: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
):
    stuck = asyncio.Event()

    async def never(self: LiveTable, said: Any) -> None:
        stuck.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(LiveTable, "write", never)
    async with runtime(url) as rt, watching(url):
        run = await rt.start(TALKER, "talk", session_id="s")
        allow(3)
        async with asyncio.timeout(60):
            await stuck.wait()
            allow(WORDS)
            assert (await run.result()).output == WHOLE


async def test_a_parked_run_ends_for_whoever_follows_it(url: str, processes: Processes, tmp_path: Path):
    (tmp_path / "poison").touch()
    for _ in range(3):
        assert await processes.run("run", "boom", "job") == -signal.SIGKILL
    async with runtime(url) as rt:
        run = await rt.start(DESK, "boom", session_id="s", run_id="job")
        with pytest.raises(RunFailed, match="parked"):
            await run.result()
        seen = [event async for event in run.events()]
    assert find_flaw(seen) is None
    assert isinstance(seen[-1], events.RunFailed)
