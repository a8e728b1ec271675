"""Durable functions on both databases: events, schedules, invoked runs, retries and caps, with processes killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure import (
    Agent,
    Conflict,
    DefinitionError,
    InvokeError,
    InvokeTimeout,
    Quota,
    RunCancelled,
    RunFailed,
    Runtime,
    function,
)
from perdure.agents import function_program
from perdure.log.log import RunRow
from perdure.testing import ScriptedModel, call, say
from perdure.types import records as rec
from perdure.types.ids import derive_id
from tests.runtime import desk, jobs
from tests.runtime.conftest import Processes
from tests.runtime.desk import effects, until
from tests.runtime.jobs import JOBS
from tests.runtime.till import rows


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


@pytest_asyncio.fixture
async def rt(url: str) -> AsyncIterator[Runtime]:
    async with desk.runtime(url, *JOBS) as found:
        yield found


async def all_runs(rt: Runtime) -> dict[str, list[RunRow]]:
    """The runs of all that is registered, by definition."""
    found: dict[str, list[RunRow]] = {}
    for one in await rt.runs(limit=1000):
        found.setdefault(one.definition, []).append(one)
    return found


async def over(rt: Runtime, *names: str) -> dict[str, list[RunRow]]:
    """Wait until all runs have ended, and until there are some of each name."""

    async def ended() -> bool:
        runs = await all_runs(rt)
        states = {one.status for some in runs.values() for one in some}
        return set(names) <= set(runs) and not states & {"queued", "running", "waiting"}

    await until(ended)
    return await all_runs(rt)


# -- events ----------------------------------------------------------------------------------------------------------


async def test_an_event_starts_every_function_of_it_once_however_often_it_is_sent(rt: Runtime):
    sent = await rt.send_event("app/told", {"n": 1}, id="e1")
    assert await rt.send_event("app/told", {"n": 1}, id="e1") == sent
    with pytest.raises(Conflict):
        await rt.send_event("app/told", {"n": 2}, id="e1")
    await rt.send_event("app/unheard", {"n": 1})
    runs = await over(rt, "Hears", "Hears too")
    assert {name: [one.status for one in some] for name, some in runs.items()} == {
        "Hears": ["completed"],
        "Hears too": ["completed"],
    }
    assert sorted(effects()) == ["hears e1", "hears too e1"]
    (run,) = runs["Hears"]
    assert run.id == derive_id("run", "default", "e1", "Hears")
    first, *_ = await rt.session(run.session_id).records()
    assert first.payload.input == {"name": "app/told", "data": {"n": 1}, "id": "e1", "at": sent.at}  # type: ignore[union-attr]
    assert await rt.check(deep=True) == []


async def test_an_event_of_one_container_starts_functions_there(rt: Runtime):
    await rt.container("acme").send_event("app/told", {"n": 1}, id="e1")
    await until(lambda: len(effects()) == 2)
    assert await rt.runs() == []
    assert {one.definition for one in await rt.container("acme").runs()} == {"Hears", "Hears too"}


async def test_whoever_has_no_code_can_send_and_whoever_has_it_runs(url: str):
    async with desk.runtime(url, *JOBS):
        pass
    async with Runtime(url, workers=False) as rt:
        await rt.send_event("app/told", {"n": 1}, id="e1")
        assert {one.status for one in await rt.runs()} == {"queued"}
    async with desk.runtime(url, *JOBS) as rt:
        await over(rt, "Hears", "Hears too")


async def test_a_function_that_is_gone_keeps_its_runs_queued_until_it_is_removed(url: str):
    async with desk.runtime(url, *JOBS):
        pass
    async with desk.runtime(url, *(one for one in JOBS if one.name != "Hears too")) as rt:
        await rt.send_event("app/told", {"n": 1}, id="e1")
        await until(lambda: "hears e1" in effects())
        log = rt.container("default").log
        known = {one.name: one.known for one in await log.functions()}
        assert known["Hears"] and not known["Hears too"]
        (left,) = (await all_runs(rt))["Hears too"]
        assert left.status == "queued"
        assert await log.unsubscribe("Hears too") and not await log.unsubscribe("Hears too")
        await rt.send_event("app/told", {"n": 1}, id="e2")
        await until(lambda: "hears e2" in effects())
        assert len((await all_runs(rt))["Hears too"]) == 1
        await rt.cancel(left.id)
        await until(lambda: ended(rt, left.id, "cancelled"))


async def ended(rt: Runtime, run_id: str, status: str) -> bool:
    """Whether a run is where it should be; it may not be there yet."""
    return any(one.id == run_id and one.status == status for one in await rt.runs(limit=1000))


@pytest.mark.parametrize(
    ("url", "kill"),
    [*(("sqlite", f"{n}:after") for n in range(1, 5)), ("postgres", "2:after"), ("postgres", "2:inside")],
    indirect=["url"],
)
async def test_d19_an_event_is_sent_if_and_only_if_its_step_is_committed(url: str, kill: str, processes: Processes):
    await processes.run("job", "Tells", "{}", kill=kill)
    async with desk.runtime(url, *JOBS) as rt:
        sent = await asyncio.wait_for(rt.run(jobs.tells, run_id="job"), 60)
        await over(rt, "Hears", "Hears too")
        assert sorted(set(effects()) - {"told"}) == sorted([f"hears {sent.output}", f"hears too {sent.output}"])
        runs = await all_runs(rt)
        assert [len(runs[name]) for name in ("Hears", "Hears too")] == [1, 1]


# -- invoking --------------------------------------------------------------------------------------------------------


async def test_r15_b53_an_invoked_run_is_one_of_its_own_and_wakes_the_one_that_waits_for_it(rt: Runtime):
    result = await rt.run(jobs.parent, {"n": 21}, run_id="job")
    assert result.output == 43 and effects() == ["first", "double 21", "last"]
    runs = await all_runs(rt)
    (child,) = runs["Double"]
    assert (child.parent, child.detached, child.session_id != result.session_id) == ("job", True, True)
    assert child.id == derive_id("run", "job", "function/double")
    kinds = [one.kind for one in await rt.session(result.session_id).records()]
    assert kinds.count("wait") == kinds.count("answer") == kinds.count("child") == 1
    assert await rt.check(deep=True) == []


@pytest.mark.parametrize(
    ("url", "kill"),
    [*(("sqlite", f"{n}:after") for n in range(1, 9)), *(("postgres", f"{n}:after") for n in (2, 3, 5, 6))],
    indirect=["url"],
)
async def test_d18_r15_killed_anywhere_exactly_one_child_comes_of_a_step(url: str, kill: str, processes: Processes):
    await processes.run("job", "Twice", '{"n": 21}', kill=kill)
    async with desk.runtime(url, *JOBS) as rt:
        result = await asyncio.wait_for((await rt.start(jobs.parent, {"n": 21}, run_id="job")).result(), 60)
        assert result.output == 43
        assert len((await all_runs(rt))["Double"]) == 1
        keys = [one.key for one in await rt.session(result.session_id).records() if one.key is not None]
        assert len(keys) == len(set(keys))


async def test_b22_a_function_as_a_tool_is_invoked_and_awaited_as_a_step_in_a_runtime(url: str):
    model = ScriptedModel(call("double", n=4), say("Eight."))
    agent = Agent("Counter", tools=[jobs.double], model=model)
    async with desk.runtime(url, *JOBS, agent) as rt:
        result = await rt.run(agent, "4?", session_id="s", run_id="job")
        assert result.output == "Eight." and result.results[0].tool_calls[0].content == {"data": 8}
        (child,) = (await all_runs(rt))["Double"]
        assert child.parent == "job" and child.session_id != "s"


async def test_a_function_invokes_an_agent(rt: Runtime):
    result = await rt.run(jobs.asks, run_id="job")
    assert result.output == "answer to why" and result.usage.model_calls == 1


async def test_d17_cancelling_a_run_cancels_what_it_has_invoked(rt: Runtime):
    run = await rt.start(jobs.invokes, run_id="job")
    await until(lambda: ended(rt, derive_id("run", "job", "function/stays"), "waiting"))
    await run.cancel()
    runs = await over(rt, "Invokes", "Stays")
    assert {one.status for some in runs.values() for one in some} == {"cancelled"}
    with pytest.raises(RunCancelled):
        await run.result()


async def test_an_invoked_run_that_does_not_end_in_time_is_cancelled_and_its_step_raises(rt: Runtime):
    with pytest.raises(RunFailed, match="did not end within") as failed:
        await (await rt.start(jobs.invokes, {"timeout": 0.2}, run_id="job")).result()
    assert failed.value.result.status == "failed"
    records = await rt.session(failed.value.result.session_id).records()
    (end,) = [one.payload for one in records if isinstance(one.payload, rec.RunFinished)]
    assert end.error is not None and end.error.type == InvokeTimeout.__name__
    runs = await over(rt, "Invokes", "Stays")
    assert [one.status for one in runs["Stays"]] == ["cancelled"]


async def test_r15_an_end_that_comes_before_the_wait_is_recorded_is_not_lost(rt: Runtime, monkeypatch: Any):
    from perdure.durable.step import Body

    park = Body.park

    async def late(body: Body, waits: Any) -> Any:
        await until(lambda: ended(rt, derive_id("run", "job", "function/double"), "completed"))
        return await park(body, waits)

    monkeypatch.setattr(Body, "park", late)
    assert (await rt.run(jobs.parent, {"n": 1}, run_id="job")).output == 3


async def test_a_failure_of_an_invoked_run_is_told(url: str):
    from perdure import Context, function

    @function(name="Calls", retries=0)
    async def calls(ctx: Context[Any]) -> str:
        try:
            await ctx.step.invoke("wrong", jobs.wrong)
        except InvokeError as error:
            return error.type
        return "fine"

    async with desk.runtime(url, *JOBS, calls) as rt:
        assert (await rt.run(calls)).output == "NonRetriable"


async def test_what_is_not_registered_cannot_be_invoked(url: str):
    async with desk.runtime(url, jobs.parent) as rt:
        with pytest.raises(RunFailed, match=r"'Double'.* is not registered") as failed:
            await rt.run(jobs.parent, {"n": 1})
        assert isinstance(failed.value.__cause__, DefinitionError)


# -- retries ---------------------------------------------------------------------------------------------------------


async def attempts(rt: Runtime, session_id: str) -> list[int]:
    records = await rt.session(session_id).records()
    return [one.payload.attempt for one in records if isinstance(one.payload, rec.AttemptFailed)]


@pytest.mark.parametrize("kill", ["2:after", "3:after"])
async def test_d20_attempts_of_a_function_survive_a_kill_and_are_not_counted_anew(
    url: str, kill: str, processes: Processes
):
    assert await processes.run("job", "Never", "{}", kill=kill) == -signal.SIGKILL
    async with desk.runtime(url, *JOBS) as rt:
        with pytest.raises(RunFailed, match="RetryAfter: no"):
            await rt.run(jobs.never, run_id="job")
        (run,) = (await all_runs(rt))["Never"]
        assert await attempts(rt, run.session_id) == [1, 2]
    assert effects().count("attempt") == 3


async def test_a_failed_function_answers_finished_steps_when_it_is_tried_again(rt: Runtime):
    result = await rt.run(jobs.flaky)
    assert result.output == "at last" and effects() == ["once", "attempt", "attempt", "attempt"]
    assert await attempts(rt, result.session_id) == [1, 2]


async def test_a_long_rest_is_a_row_and_no_task(rt: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(function_program, "LONG", 0.0)
    run = await rt.start(jobs.flaky, run_id="job")
    assert (await run.result()).output == "at last"
    records = await rt.session(run.session_id).records()
    assert [one.key for one in records if isinstance(one.payload, rec.WaitOpened)] == [
        "function#retry/1",
        "function#retry/2",
    ]
    assert await attempts(rt, run.session_id) == [1, 2]


# -- how many at once ------------------------------------------------------------------------------------------------


def most_at_once(lane: Any = lambda n: 0) -> int:
    """How many were active at once at most, by what they wrote themselves."""
    active: dict[Any, set[int]] = {}
    most = 0
    for line in effects():
        what, n = line.split()
        inside = active.setdefault(lane(int(n)), set())
        (inside.add if what == "in" else inside.discard)(int(n))
        most = max(most, len(inside))
    return most


async def test_d28_no_more_runs_are_active_than_allowed_in_all_processes_also_after_a_kill(
    url: str, processes: Processes
):
    one, other = [await processes.start("serve") for _ in range(2)]
    await until(lambda: effects().count("serving") == 2)
    (desk.place / "effects").unlink()
    async with Runtime(url, workers=False) as rt:
        for n in range(8):
            await rt.send_event("app/narrow", {"n": n}, id=f"e{n}")
        await until(lambda: len(effects()) == 2)
        one.kill()
        await one.wait()
        (desk.place / "go").touch()

        async def done() -> bool:
            return {run.status for run in await rt.runs()} == {"completed"}

        await until(done)
    assert most_at_once() <= 2
    assert {int(line.split()[1]) for line in effects() if line.startswith("out")} == set(range(8))
    (desk.place / "stop").touch()
    assert await other.wait() == 0


async def test_d28_a_direct_run_waits_for_room_too(rt: Runtime):
    runs = [await rt.start(jobs.narrow, {"n": n}) for n in range(4)]
    await until(lambda: len(effects()) == 2)
    assert sorted(one.status for one in await rt.runs()) == ["queued", "queued", "running", "running"]
    (desk.place / "go").touch()
    assert sorted([(await one.result()).output for one in runs]) == [0, 1, 2, 3]
    assert most_at_once() == 2


async def test_d28_a_cap_by_key_holds_for_each_value(rt: Runtime):
    for n in range(6):
        await rt.send_event("app/keyed", {"n": n, "user": n % 2})
    await until(lambda: len(effects()) == 2)
    assert {int(line.split()[1]) % 2 for line in effects()} == {0, 1}, "one of each"
    (desk.place / "go").touch()
    await over(rt, "Keyed")
    assert most_at_once(lambda n: n % 2) == 1 and most_at_once() == 2


async def test_d28_a_container_with_one_run_is_not_kept_waiting_by_one_with_many(rt: Runtime):
    (desk.place / "go").touch()
    await asyncio.gather(*(rt.container("a").send_event("app/narrow", {"n": n}) for n in range(40)))
    await rt.container("b").send_event("app/narrow", {"n": 99})
    await until(lambda: "out 99" in effects())
    before = effects().index("in 99")
    begun = sum(one.startswith("in") for one in effects()[:before])
    await until(lambda: sum(one.startswith("out") for one in effects()) == 41)
    assert begun < 20, "long before the forty"
    assert most_at_once() <= 2


# -- schedules -------------------------------------------------------------------------------------------------------


async def set_due(rt: Runtime, at: datetime, name: str = "Nightly") -> None:
    await rows(rt.db, "UPDATE functions SET next_at = ? WHERE name = ? RETURNING 1", at.timestamp(), name)


async def started(rt: Runtime, name: str, *containers: str) -> list[list[str]]:
    """How what a schedule has started is doing, in each container."""
    runs = [await rt.container(one).runs() for one in containers]
    return [[one.status for one in some if one.definition == name] for some in runs]


MISSED = datetime(2026, 3, 1, 1, 30, tzinfo=UTC)


async def test_a_schedule_that_was_missed_is_made_up_for_once_by_one_process(url: str):
    async with desk.runtime(url, *JOBS) as rt:
        (known,) = [one for one in await rt.container("default").log.functions() if one.cron]
        assert known.next_at is not None and known.containers == ("default", "acme")
        due = datetime.fromtimestamp(known.next_at, UTC)
        assert (due.minute, due.hour) in ((30, 0), (30, 1)), "half past two in Oslo"
        await set_due(rt, MISSED)
    async with desk.runtime(url, *JOBS) as one, desk.runtime(url, *JOBS) as other:
        await other.sweep()
        await until(lambda: len(effects()) == 2)
        assert [len(some) for some in await started(one, "Nightly", "default", "acme", "other")] == [1, 1, 0]
        told = [line.split() for line in effects()]
        assert {line[1] for line in told} == {"default", "acme"}
        last = float(told[0][2])
        (again,) = [now for now in await one.container("default").log.functions() if now.cron]
        assert again.next_at == known.next_at and last < known.next_at < last + 26 * 3600


@pytest.mark.parametrize(("url", "kill"), [("sqlite", "6"), ("postgres", "after")], indirect=["url"])
async def test_a_schedule_starts_once_in_each_container_when_its_process_is_killed(
    url: str, kill: str, processes: Processes
):
    async with desk.runtime(url, *JOBS) as rt:
        await set_due(rt, MISSED)
    assert await processes.run("drain", kill=f"start_due:{kill}") == -signal.SIGKILL
    async with desk.runtime(url, *JOBS) as rt:
        await until(lambda: len(effects()) == 2)
        assert [len(some) for some in await started(rt, "Nightly", "default", "acme")] == [1, 1]
        assert sorted(line.split()[1] for line in effects()) == ["acme", "default"]


async def test_a_schedule_starts_in_each_container_that_there_is_and_waits_where_there_is_no_room(url: str):
    every = function(name="Every", cron="0 0 1 1 *", container="*")(_nothing)
    async with Runtime(url, [every], timing=desk.QUICK, workers=False) as rt:
        for name in ("acme", "bolt"):
            await rt.container(name).session.start(session_id="s")
        await rt.images.create_container("chip")
        await rt.container("bolt").configure(quota=Quota(sessions=1))
        await set_due(rt, MISSED, "Every")
        log = rt.container("default").log
        await log.start_due({"Every"}, lambda name: rt.container(name).log)
        places = ("acme", "bolt", "chip", "default")
        assert await started(rt, "Every", *places) == [["queued"], [], ["queued"], []]
        await rt.container("bolt").configure(quota=None)
        await log.start_due({"Every"}, lambda name: rt.container(name).log)
        assert await started(rt, "Every", *places) == [["queued"], ["queued"], ["queued"], []]


async def test_a_schedule_that_is_known_goes_on_as_it_was_and_a_changed_one_anew(url: str):
    async with desk.runtime(url, *JOBS) as rt:
        await set_due(rt, datetime(2200, 1, 1, tzinfo=UTC))
    async with desk.runtime(url, *JOBS) as rt:
        (known,) = [one for one in await rt.container("default").log.functions() if one.cron]
        assert known.next_at == datetime(2200, 1, 1, tzinfo=UTC).timestamp()
    async with desk.runtime(url, function(name="Nightly", cron="0 0 1 1 *")(_nothing)) as rt:
        (known,) = [one for one in await rt.container("default").log.functions() if one.cron]
        assert known.next_at is not None and datetime.fromtimestamp(known.next_at, UTC).day == 1


async def _nothing() -> None: ...
