"""What others post while a run is driven: it is folded in its place, and enters the conversation only in its turn."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, RunCancelled, tool
from perdure.log.sql import SqlLog
from perdure.testing import FunctionModel, call, calls, say
from perdure.types import records as rec
from perdure.types.messages import TextMessage, ToolCallMessage, ToolResultMessage
from perdure.types.waits import Approve
from tests.runtime import desk
from tests.runtime.desk import DESK, effects, note, runtime, slow, until


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(desk, "place", tmp_path)
    return tmp_path


@tool(effect="pure", requires_approval=True)
async def pay() -> str:
    """Pay."""
    note("paid")
    return "paid"


def _pays(request: Any) -> Any:
    if isinstance(request.messages[-1], TextMessage):
        return calls(call("pay"), call("slow")) if request.messages[-1].text == "both" else call("pay")
    return say("all done")


PAYER = Agent("Payer", tools=[pay, slow], model=FunctionModel(_pays))


async def wait_of(rt: Any) -> str:
    """The id of the wait that the log has."""
    found: list[str] = []

    async def look() -> bool:
        records = await rt.session("s").records()
        found[:] = [one.payload.waits[0].id for one in records if isinstance(one.payload, rec.WaitOpened)]
        return bool(found)

    await until(look)
    return found[0]


async def test_r01_an_answer_that_comes_between_two_appends_is_folded_before_the_next_step(url: str, place: Path):
    async with runtime(url, PAYER) as rt, runtime(url, PAYER) as other:
        run = await rt.start(PAYER, "both", session_id="s", run_id="job")
        await until(lambda: "slow" in effects())
        wait = await wait_of(rt)
        await other.container("default").log.post("job", rec.Answered(wait, Approve()))
        (place / "go").touch()
        async with asyncio.timeout(60):
            result = await run.result()
        assert (result.status, result.output) == ("completed", "all done")
        records = await rt.session("s").records()
    assert effects().count("paid") == 1
    kinds = [one.kind for one in records]
    assert kinds.index("wait") < kinds.index("answer") < kinds.index("tool")


async def test_r01_an_answer_that_comes_just_before_a_run_waits_is_not_lost(url: str, monkeypatch: pytest.MonkeyPatch):
    append = SqlLog.append

    async def late(log: Any, token: Any, entries: Any, status: Any = None, **options: Any) -> int:
        if status == "waiting":
            payloads = [one.payload for one in (*entries, *await log.read_run("job"))]
            opened = next(one for one in payloads if isinstance(one, rec.WaitOpened))
            await log.post("job", rec.Answered(opened.waits[0].id, Approve()))
        return await append(log, token, entries, status, **options)

    monkeypatch.setattr(SqlLog, "append", late)
    async with runtime(url, PAYER) as rt:
        async with asyncio.timeout(60):
            result = await rt.run(PAYER, "pay", session_id="s", run_id="job")
        assert (result.status, result.output) == ("completed", "all done")
        kinds = [one.kind for one in await rt.session("s").records()]
    assert effects() == ["paid"]
    assert kinds.count("answer") == 1


async def test_r14_a_message_that_comes_between_a_call_and_its_result_waits_for_its_turn(url: str, place: Path):
    async with runtime(url) as rt, runtime(url) as other:
        first = await rt.start(DESK, "slow", session_id="s", run_id="first")
        await until(lambda: "slow" in effects())
        second = await other.start(DESK, "look", session_id="s", run_id="second")
        (place / "go").touch()
        async with asyncio.timeout(60):
            results = [await first.result(), await second.result()]
        records = await rt.session("s").records()
        said = [one async for one in rt.session("s").messages()]
    places = {(one.run_id, one.kind): one.seq for one in records}
    assert places["first", "inference"] > places["first", "run_started"]
    came = places["second", "run_started"]
    results_of_first = [one.seq for one in records if one.run_id == "first" and one.kind == "tool"]
    assert min(one.seq for one in records if one.kind == "inference") < came < min(results_of_first)
    for call_, result in itertools.pairwise(said):
        if isinstance(call_, ToolCallMessage):
            assert isinstance(result, ToolResultMessage), "a call is followed by its result"
    texts = [one.text for one in said if isinstance(one, TextMessage)]
    assert texts == ["slow", "done: slow", "look", "done: look"]
    assert not any("look" in str(one) for one in results[0].messages), "the first turn never saw it"


async def test_r14_an_end_is_refused_when_a_cancel_came_first_and_what_had_finished_is_kept(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    append = SqlLog.append
    tried: list[list[str]] = []

    async def late(log: Any, token: Any, entries: Any, status: Any = None, **options: Any) -> int:
        ends = [one.payload.status for one in entries if isinstance(one.payload, rec.RunFinished)]
        if ends:
            tried.append(ends)
        if len(tried) == 1 and ends:
            await log.post("job", rec.CancelAsked())
        return await append(log, token, entries, status, **options)

    monkeypatch.setattr(SqlLog, "append", late)
    async with runtime(url) as rt:
        with pytest.raises(RunCancelled) as caught:
            await rt.run(DESK, "look", session_id="s", run_id="job")
        records = await rt.session("s").records()
    assert tried == [["completed"], ["cancelled"]]
    ends = [one.payload for one in records if isinstance(one.payload, rec.RunFinished)]
    assert [one.status for one in ends] == ["cancelled"]
    cancel = next(one.seq for one in records if isinstance(one.payload, rec.CancelAsked))
    assert any(one.key == "agent/0/infer/1" and one.seq > cancel for one in records), "the last answer is kept"
    assert "done: look" in str(caught.value.result.messages)
    assert (effects().count("look"), effects().count("model desk 1")) == (1, 1)
