"""A compacted record is where readers start; what they have from there is what all the records give."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import Agent, Conflict, Network, Runtime, UnknownName, sequence, tool
from perdure.log.log import Entry, Log, NewRun
from perdure.log.memory import MemoryLog
from perdure.runtime.conversations import Conversations
from perdure.testing import FunctionModel, call, say
from perdure.types import records as rec
from perdure.types.messages import Message, TextMessage, user
from perdure.types.transcript import Transcript
from tests.runtime import desk
from tests.runtime.desk import QUICK


@tool(effect="pure")
async def look(page: int) -> str:
    """Look a page up."""
    return f"page {page}"


def answer(request: Any) -> Any:
    if isinstance(request.messages[-1], TextMessage) and request.messages[-1].text.startswith("look"):
        return call("look", page=len(request.messages))
    return say(f"shown {len(request.messages)}")


clerk = Agent("Clerk", tools=[look], model=FunctionModel(answer))
writer = Agent("Writer", model=FunctionModel(answer))
both = Network("Both", agents=[clerk, writer], router=sequence(clerk, writer))


def open_runtime(url: str) -> Runtime:
    return Runtime(url, [clerk, both], timing=QUICK, durability="normal")


class Reading:
    """A log that notes which records were read."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.read: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read_session(self, *args: Any) -> list[rec.Record]:
        found = await self._log.read_session(*args)
        self.read += [one.seq for one in found]
        return found


async def folded(log: Log, session: str, after: int = 0) -> list[Message]:
    transcript = Transcript()
    for record in await log.read_session(session, after):
        transcript.add(record)
    return transcript.messages


@pytest.mark.parametrize("summary", [None, [user("They talked about pages.")]])
async def test_d26_folding_from_a_compacted_record_is_folding_everything(url: str, summary: Any):
    async with open_runtime(url) as rt:
        session, container = rt.session("s"), rt.container("default")
        for definition, question in ((clerk, "look there"), (both, "hello"), (clerk, "and?")):
            first = await session.run(definition, question, run_id=f"run_{question[:3]}")
        said = [one async for one in session.messages()]
        assert tuple(said) == first.messages
        seq = await session.compact(summary)
        stands = said if summary is None else summary
        assert [one async for one in session.messages()] == stands
        result = await session.run(both, "look again")
        assert list(result.messages[: len(stands)]) == stands
        log = Reading(container.log)
        cold = await Conversations(log).of("s")
        assert log.read == list(range(seq, cold.seq + 1)), "no further back than the last compacted record"
        assert tuple(cold.messages) == result.messages == tuple(await folded(container.log, "s"))
        again = await rt.run(clerk, "and?", run_id="run_and", session_id="s")
        assert again.messages == first.messages, "a run that had ended before gives what it gave"
    async with open_runtime(url) as rt:
        assert tuple([one async for one in rt.session("s").messages()]) == result.messages
        assert (await rt.session("s").run(clerk, "and now?")).text == f"shown {len(result.messages) + 1}"


async def test_d26_a_run_that_its_process_left_goes_on_behind_a_compacted_record(url: str, processes: Any):
    async with desk.runtime(url) as rt:
        for _ in range(2):
            await rt.session("s").run(desk.DESK, "first")
        await rt.session("s").compact([user("They began.")])
    assert await processes.run("run", "go", "run_killed", kill="2:after") != 0
    async with desk.runtime(url) as rt:
        container = rt.container("default")
        await desk.until(lambda: _over(container, "run_killed"))
        messages = [one async for one in rt.session("s").messages()]
        assert messages[:2] == [user("They began."), user("go")]
        assert messages == await folded(container.log, "s")


async def _over(container: Any, run_id: str) -> bool:
    return (await container.log.run(run_id)).status == "completed"


async def test_a_session_is_not_compacted_while_a_run_of_it_has_not_ended(url: str):
    going, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Any) -> Any:
        going.set()
        await go.wait()
        return say("done")

    agent = Agent("Slow", model=FunctionModel(slow))
    async with Runtime(url, [agent], timing=QUICK, durability="normal") as rt:
        with pytest.raises(UnknownName):
            await rt.session("s").compact()
        run = await rt.start(agent, "go", session_id="s", run_id="run_1")
        queued = await rt.start(agent, "and go", session_id="s", run_id="run_2")
        await going.wait()
        with pytest.raises(Conflict, match="run_1"):
            await rt.session("s").compact()
        go.set()
        await asyncio.gather(run.result(), queued.result())
        seq = await rt.session("s").compact()
        assert (await rt.session("s").records())[-1].seq == seq


async def test_d26_a_compacted_session_is_copied_and_erased_like_any_other(url: str, tmp_path: Path):
    async with open_runtime(url) as rt:
        session = rt.session("s")
        await session.run(clerk, "look there")
        await session.compact([user("They talked about pages.")])
        await session.run(clerk, "and?")
        said = [one async for one in session.messages()]
        await session.export(tmp_path / "s.jsonl")
        taken = await rt.container("other").import_session(tmp_path / "s.jsonl")
        assert [one async for one in taken.messages()] == said
        assert (await taken.run(clerk, "and now?")).text == f"shown {len(said) + 1}"
        await session.compact()
        await session.erase()
        assert (await Conversations(rt.container("default").log).of("s")).messages == []
        await session.run(clerk, "who are you?")
        assert len([one async for one in session.messages()]) == 2


turns = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("history"), st.integers(0, 3)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("summary"), st.integers(0, 2)),
    ),
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns)
def test_d26_wherever_it_was_compacted_every_reader_has_the_same(steps: list[tuple[str, Any]]):
    async def check() -> None:
        log = MemoryLog()
        live = Conversations(log)
        for number, (kind, size) in enumerate(steps):
            if kind == "compact" and number:
                if await log.read_session("s"):
                    await live.compact("s")
            elif kind == "summary":
                if await log.read_session("s"):
                    await live.compact("s", [user(f"summary {n}") for n in range(size)])
            elif kind in ("turn", "history"):
                await one_turn(log, f"run_{number}", size, with_history=kind == "history")
            expected = await folded(log, "s")
            assert (await live.of("s")).messages == expected
            assert (await Conversations(log).of("s")).messages == expected
        for run in [one for one in await log.read_session("s") if type(one.payload) is rec.RunStarted]:
            row = await log.run(run.run_id)
            everything = Transcript()
            for record in await log.read_session("s", 0, row.position):
                everything.add(record)
            payload = run.payload
            assert isinstance(payload, rec.RunStarted)
            before = () if payload.history else tuple(everything.messages)
            assert await Conversations(log).before(row) == before

    asyncio.run(check())


async def one_turn(log: Log, run_id: str, size: int, *, with_history: bool) -> None:
    history = (user(f"{run_id} history"),) if with_history else ()
    accepted = await log.accept(NewRun(run_id, "s", "A"), rec.RunStarted("A", "agent", (user(run_id),), history))
    assert accepted.token is not None
    said = tuple(TextMessage("assistant", f"{run_id} {n}") for n in range(size))
    done = rec.InferenceDone("A", said)
    await log.append(accepted.token, [_entry("agent/0/infer/0", done), _entry("agent/0", rec.AgentDone("A", "answer"))])
    await log.append(accepted.token, [_entry(None, rec.RunFinished("completed", "answer"))])


def _entry(key: str | None, payload: rec.Payload) -> Entry:
    return Entry(key, payload)
