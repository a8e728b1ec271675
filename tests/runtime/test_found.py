"""What the simulator has found, each as the few steps that it comes down to."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Conflict, Context, Runtime, function, tool
from perdure.log.sql import SqlLog
from perdure.runtime import forks
from perdure.testing import call, say
from perdure.types import records as rec
from perdure.types.waits import Received
from tests.runtime import desk, jobs
from tests.runtime.conftest import Processes
from tests.runtime.desk import answer, effects, until
from tests.runtime.jobs import JOBS
from tests.runtime.test_functions import ended, most_at_once

Ctx = Context[Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


async def test_r15_d22_a_body_killed_behind_the_end_of_its_child_is_not_taken_for_changed(
    url: str, processes: Processes
):
    # the end of the child is recorded; entered again, the body asks for the step and not for the wait
    assert await processes.run("job", "Twice", '{"n": 21}', kill="child:after") == -signal.SIGKILL
    async with desk.runtime(url, *JOBS) as rt:
        result = await asyncio.wait_for((await rt.start(jobs.parent, {"n": 21}, run_id="job")).result(), 60)
        assert result.output == 43
    assert effects().count("double 21") == 1


@function(name="Awaits")
async def awaits(ctx: Ctx) -> Any:
    event = await ctx.step.wait_for_event("one", "app/one", match={"to": ctx.run_id})
    await ctx.step.sleep("a moment", 0.01)
    return event and event.data["n"]


async def test_r18_a_continuation_does_not_take_away_what_the_other_run_waits_for(url: str):
    async with desk.runtime(url, awaits) as rt:
        log = rt.container("default").log
        run = await rt.start(awaits, run_id="job")
        await until(lambda: log.waits("job"))
        before = await log.waits("job")
        (opened,) = [one for one in await log.read_run("job") if isinstance(one.payload, rec.WaitOpened)]
        again = await rt.fork("job", opened.seq, id="again")
        await until(lambda: log.waits("again"))
        await rt.send_event("app/one", {"to": "again", "n": 2})
        assert (await again.result()).output == 2
        assert await log.waits("job") == before, "nothing has changed for the other run"
        await rt.send_event("app/one", {"to": "job", "n": 1})
        assert (await run.result()).output == 1
        answered = [one.payload for one in await log.read_run("job") if isinstance(one.payload, rec.Answered)]
        assert isinstance(answered[0].answer, Received)


@tool(effect="steps")
async def idle(ctx: Ctx) -> None:
    """Wait for what never comes."""
    await ctx.step.wait_for_event("never", "app/never")


IDLER = Agent("Idler", tools=[idle], model=answer(lambda asked, number: say("?") if number else call("idle"), "idler"))


async def test_d17_a_cancel_whose_process_dies_before_it_ends_a_run_that_waits_is_seen_to_by_others(url: str):
    async with Runtime(url, [IDLER], timing=desk.QUICK) as rt:
        assert (await rt.run(IDLER, "go", session_id="s", run_id="job")).status == "waiting"
        # all that a process has done that dies just behind it, or that saw the run at work a moment before
        await rt.container("default").log.post("job", rec.CancelAsked())

        async def over() -> bool:
            return (await rt.container("default").log.run("job")).status == "cancelled"

        await until(over)
        assert (await rt.run(IDLER, "go", session_id="s")).status == "waiting", "the session is free"


@function(name="Patient", retries=0)
async def patient(ctx: Ctx) -> str:
    event = await ctx.step.wait_for_event("one", "app/one", timeout=0.05)
    if event is None:
        return await ctx.step.run("alone", lambda: "alone", effect="idempotent")
    said: str = await ctx.step.run("thank", lambda: "thanks", effect="idempotent")
    decision = await ctx.approve("Go on?")
    return f"{said} {bool(decision)}"


async def test_r18_a_continuation_of_a_function_knows_what_had_been_answered_before_it_went_on(url: str):
    # a naive one waits anew, in vain, takes another way, and is parked because of the step that it had done
    async with desk.runtime(url, patient) as rt:
        await rt.start(patient, run_id="job")
        await rt.send_event("app/one", {"n": 1})
        log = rt.container("default").log
        await until(lambda: has(rt, "job", "approval"))
        (wait,) = await log.waits("job")
        await rt.approve(wait.id, by="ada")
        assert (await (await rt.start(patient, run_id="job")).result()).output == "thanks True"
        answered = [one.seq for one in await log.read_run("job") if isinstance(one.payload, rec.Answered)]
        # it was allowed, and nothing was done after it: who goes on asks again, for what it does is another thing
        again = await rt.fork("job", answered[-1], id="again")
        await until(lambda: has(rt, "again", "approval"))
        (other,) = await log.waits("again")
        await rt.deny(other.id, by="bob")
        assert (await again.result()).output == "thanks False"
        assert [one.id for one in await log.waits()] == []


async def test_r18_d28_a_continuation_waits_for_room_like_any_run_of_its_function(url: str):
    async with desk.runtime(url, *JOBS) as rt:
        runs = [await rt.start(jobs.narrow, {"n": n}, run_id=f"job_{n}") for n in range(2)]
        await until(lambda: len(effects()) == 2)
        begun = (await rt.container("default").log.read_run("job_0"))[-1]
        again = asyncio.create_task(rt.fork("job_0", begun.seq, id="again"))
        await until(lambda: ended(rt, "again", "queued"))
        await rt.sweep()
        assert len(effects()) == 2
        (desk.place / "go").touch()
        assert sorted([(await one.result()).output for one in (*runs, await again)]) == [0, 0, 1]
        assert most_at_once() == 2


async def has(rt: Runtime, run_id: str, kind: str) -> bool:
    return [one.__struct_config__.tag for one in await rt.container("default").log.waits(run_id)] == [kind]


async def test_r18_a_rewind_waits_for_the_end_of_a_run_and_does_not_go_round_in_circles(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forks, "PATIENCE", 0.5)
    async with desk.runtime(url, desk.DESK) as one, desk.runtime(url, desk.DESK) as other:
        await one.run(desk.DESK, "-", session_id="s")
        await one.start(desk.DESK, "slow", session_id="s", run_id="first")
        await one.start(desk.DESK, "-", session_id="s", run_id="second")
        await until(lambda: "slow" in effects())

        async def deaf(run_id: str) -> None:
            """Hear of no cancel."""

        monkeypatch.setattr(one.container("default"), "notice_cancel", deaf)
        claim, claims = SqlLog.claim, 0

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal claims
            claims += 1
            return await claim(*args, **options)

        monkeypatch.setattr(SqlLog, "claim", counted)
        with pytest.raises(Conflict, match="'first' is running"):
            await other.session("s").rewind(0, cancel=True)
        assert claims < 60
        monkeypatch.undo()
        (desk.place / "go").touch()
