"""Who owns a run: processes that are stopped, killed, many at once, with wrong clocks, or without the definition."""

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, RunCancelled, Runtime, tool
from perdure.db.database import Script, Sql
from perdure.log.log import Entry
from perdure.log.owners import Owners, Timing
from perdure.log.sql import SqlLog
from perdure.runtime.pulse import Pulse
from perdure.testing import FunctionModel, call, say
from perdure.types import records as rec
from perdure.types.messages import TextMessage
from tests.runtime import desk
from tests.runtime.canon import closings
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, QUICK, effects, runtime, until


def stopped(pid: int) -> bool:
    """Whether a process is stopped, as the system says."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def result_of(rt: Any, input: str, run_id: str, session: str = "s") -> Any:
    async with asyncio.timeout(60):
        return await rt.run(DESK, input, session_id=session, run_id=run_id)


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(60):
        return await process.wait()


# -- stopped -----------------------------------------------------------------------------------------------------------


async def test_r05_who_was_stopped_before_a_handler_does_not_enter_it(url: str, processes: Processes):
    worker = await processes.start("run", "charge", "job", STOP="3")  # when the start of the charge is acknowledged
    await until(lambda: stopped(worker.pid))
    async with runtime(url) as rt:
        result = await result_of(rt, "charge", "job")
        assert (result.output, "unknown" in str(result.messages)) == ("done: charge", True)
        before = await rt.session("s").records()
        worker.send_signal(signal.SIGCONT)
        assert await ended(worker) == 0
        assert await rt.session("s").records() == before
    assert [one.kind for one in before].count("started") == 1
    assert "charge" not in effects(), "the run has another owner, and its transcript says that nobody knows"
    assert "output done: charge" in effects()


async def test_r05_a_beat_after_a_silence_does_not_hide_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    asked: list[str] = []
    async with Runtime(url, [DESK], timing=Timing(death=1000, beat=1000, sweep=1000)) as rt:
        run = await rt.start(DESK, "slow", run_id="job")
        await until(lambda: "slow" in effects())
        log = rt.container("default").log
        monkeypatch.setattr(rt.worker, "_beaten", rt.clock.monotonic() - 600)
        await rt.worker.beat()
        assert not rt.worker.doubtful()
        read = log.run

        async def noted(run_id: str) -> Any:
            asked.append(run_id)
            return await read(run_id)

        monkeypatch.setattr(log, "run", noted)
        (tmp_path / "go").touch()
        assert (await run.result()).output == "done: slow"
    assert asked == ["job"], "asked once before the next step, though the last beat is fresh"


async def test_r05_nor_one_between_taking_a_run_and_driving_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk, "place", tmp_path)
    accept = SqlLog.accept
    tokens: list[Any] = []
    async with Runtime(url, [DESK], timing=Timing(death=1000, beat=1000, sweep=1000)) as rt:
        other = SqlLog(rt.db, rt.clock.now, "another")

        async def stopped_behind(log: SqlLog, *given: Any) -> Any:
            accepted = await accept(log, *given)
            claimed = await other.claim(accepted.run.id, dead=[log.owner])
            assert claimed is not None
            tokens.append(claimed[0])
            monkeypatch.setattr(rt.worker, "_beaten", rt.worker._beaten - 2000)
            await rt.worker.beat()
            return accepted

        monkeypatch.setattr(SqlLog, "accept", stopped_behind)
        run = await rt.start(DESK, "charge", run_id="job")
        await other.append(tokens[0], [Entry(None, rec.RunFinished("cancelled", "cancelled"))])
        with pytest.raises(RunCancelled):
            await run.result()
    assert effects() == [], "not even the model was asked"


async def test_r05_a_process_that_died_is_known_at_once_and_one_that_is_stopped_by_its_beat(
    url: str, processes: Processes, tmp_path: Path
):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    async with desk.Runtime(url, [DESK], workers=False) as rt:
        owner = (await rt.container("default").log.run("job")).owner
        watcher = Owners(rt.db, Timing(death=10))
        assert owner not in await watcher.dead(lambda: 0.0)
        worker.send_signal(signal.SIGSTOP)
        await until(lambda: stopped(worker.pid))
        assert owner not in await watcher.dead(lambda: 1.0), "its lock is still held; the last beat may have come since"
        for now in (4.0, 7.0, 9.9):
            assert owner not in await watcher.dead(lambda now=now: now)
        assert owner in await watcher.dead(lambda: 11.0), "ten seconds of the watcher's own clock without a beat"
        worker.send_signal(signal.SIGCONT)
        worker.kill()
        await worker.wait()
        fresh = Owners(rt.db, Timing(death=10))
        assert owner in await fresh.dead(lambda: 0.0), "its lock is free: no waiting"
        for one in (watcher, fresh):
            await one.close()


async def test_r05_who_blocks_its_event_loop_is_alive(url: str, processes: Processes, tmp_path: Path):
    worker = await processes.start("run", "block", "job")
    await until(lambda: "block" in effects())
    async with runtime(url) as rt:
        owner, begun, seen = (await rt.container("default").log.run("job")).owner, rt.clock.monotonic(), set[int]()
        while rt.clock.monotonic() - begun < QUICK.death + 0.5 or len(seen) < 3:
            seen.add(await beat_of(rt, owner))
            await rt.sweep()
        assert (await rt.container("default").log.run("job")).owner == owner
        (tmp_path / "go").touch()
        assert await ended(worker) == 0
        records = await rt.session("s").records()
    assert not [one for one in records if isinstance(one.payload, rec.Claimed)]
    assert "output done: block" in effects()


async def beat_of(rt: Runtime, owner: str | None) -> int:

    def script() -> Script[list[tuple[Any, ...]]]:
        return (yield Sql("SELECT beat FROM owners WHERE id = ?", (owner,)))

    return int((await rt.db.read(script))[0][0])


async def test_r05_a_loop_that_is_blocked_for_minutes_is_stuck(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perdure.runtime.pulse.LONG", 0.05)
    count = 0

    async def beat() -> None:
        nonlocal count
        count += 1

    pulse = Pulse(Timing(death=2.0, beat=0.02, sweep=0.02, stuck=0.2), lambda: True, beat)
    while "counts as stuck" not in caplog.text:  # this blocks the loop
        time.sleep(0.01)
    before = count
    time.sleep(0.05)
    assert 0 < before == count
    assert "test_r05_a_loop_that_is_blocked_for_minutes_is_stuck (" in caplog.text
    await until(lambda: "was blocked for" in caplog.text)
    await pulse.stop()


async def test_r05_time_in_which_nobody_could_look_counts_for_no_death(url: str):
    clock = [0.0]

    def now() -> float:
        return clock[0]

    async with Runtime(url, [DESK], workers=False) as rt:
        other, watcher = rt.worker.owners.id, Owners(rt.db, Timing(death=10))
        assert await watcher.dead(now) == {}
        read = rt.db.read

        async def slow(make: Any) -> Any:  # asked before the store went away, answered when it was back
            rows = await read(make)
            clock[0] += 13.0
            return rows

        for gap in (13.0, 100.0):  # the store was away, and the owner could not beat either
            clock[0] += gap
            assert await watcher.dead(now) == {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rt.db, "read", slow)
            assert await watcher.dead(now) == {}
        for _ in range(3):
            clock[0] += 4.0
            assert await watcher.dead(now) == {}
        clock[0] += 2.0
        assert other in await watcher.dead(now), "ten seconds in which it was looked at again and again"
        await watcher.close()


async def test_d27_what_a_dead_process_had_queued_goes_on_without_a_pause(url: str, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(desk, "place", tmp_path)
    async with Runtime(url, [DESK], timing=Timing(sweep=600.0)) as rt:
        container, gone = rt.container("default"), SqlLog(rt.db, rt.clock.now, "gone")
        for n in range(6):
            running = container.prepare(DESK, f"{n}", {"session_id": "s", "run_id": f"job{n}"})
            await gone.accept(container.new_run(running), running.started)
        await rt.sweep()
        await until(lambda: desk.nothing_open(rt), 20)  # one look for what is left was enough
        assert [one.status for one in await rt.runs()] == ["completed"] * 6
    assert effects() == ["model desk 0"] * 6


async def test_r20_a_worker_outlasts_a_fault_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    looks = 0

    async def see_agents() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError("once")

    rt = Runtime(f"sqlite:///{tmp_path}/desk.db", [DESK], timing=QUICK)
    monkeypatch.setattr(rt, "see_agents", see_agents)
    async with rt:
        await until(lambda: looks > 2)
    assert "OSError: once" in caplog.text
    assert caplog.text.count("Watching the store has failed") == 1


# -- many at once ------------------------------------------------------------------------------------------------------


async def test_d12_workers_that_claim_at_once_lose_no_run_and_take_none_twice(
    url: str, processes: Processes, tmp_path: Path
):
    number = 12
    worker = await processes.start("many", str(number))
    await until(lambda: effects().count("slow") == number)
    worker.kill()
    await worker.wait()
    (tmp_path / "go").touch()
    others = [await processes.start("serve") for _ in range(3)]
    async with runtime(url) as rt:
        await until(lambda: desk.nothing_open(rt))
        for n in range(number):
            records = await rt.session(f"run_{n}").records()
            closings(records)
            claims = [one.payload for one in records if isinstance(one.payload, rec.Claimed)]
            assert [(one.epoch, one.died) for one in claims] == [(2, True)]
            assert isinstance(records[-1].payload, rec.RunFinished)
    (tmp_path / "stop").touch()
    for one in others:
        assert await ended(one) == 0
    assert effects().count("charge") == number
    assert effects().count("slow") == 2 * number
    assert [effects().count(f"model desk {n}") for n in range(3)] == [number] * 3


# -- clocks ------------------------------------------------------------------------------------------------------------


async def test_d13_a_clock_that_jumps_gives_no_run_two_owners(url: str, processes: Processes, tmp_path: Path):
    jumping = await processes.start("run", "slow", "job", CLOCK="1")
    await until(lambda: "slow" in effects())
    async with runtime(url) as rt:
        for _ in range(5):
            await rt.worker.sweep()
            assert not rt.busy(), "it is alive, whatever its clock says"
        jumping.kill()
        await jumping.wait()
        other = await processes.start("serve", CLOCK="1")  # and one that jumps may take over, too
        (tmp_path / "go").touch()
        assert (await result_of(rt, "slow", "job")).output == "done: slow"
        records = await rt.session("s").records()
    (tmp_path / "stop").touch()
    assert await ended(other) == 0
    assert [one.payload.epoch for one in records if isinstance(one.payload, rec.Claimed)] == [2]
    assert (effects().count("charge"), effects().count("slow")) == (1, 2)


# -- the definition is not there ---------------------------------------------------------------------------------------


async def test_d22_a_run_of_an_unknown_definition_is_left_to_who_knows_it(
    url: str, processes: Processes, tmp_path: Path
):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    worker.kill()
    await worker.wait()
    (tmp_path / "go").touch()
    stranger = Agent("Stranger", model=FunctionModel(lambda _: say("hello")))
    async with runtime(url, stranger) as rt:
        before = await rt.session("s").records()
        for _ in range(3):
            await rt.worker.sweep()
            await until(lambda: not rt.busy())
        assert (await rt.run(stranger, "x", session_id="other")).output == "hello", "its own work goes on"
        assert await rt.session("s").records() == before
        assert (await rt.container("default").log.run("job")).status == "running"
    async with runtime(url) as rt:
        assert (await result_of(rt, "slow", "job")).output == "done: slow"
    assert effects().count("model desk 0") == 1


# -- waiting -----------------------------------------------------------------------------------------------------------


@tool(requires_approval=True)
async def pay() -> str:
    """Pay."""
    raise AssertionError("nobody has approved")


PAYER = Agent(
    "Payer",
    tools=[pay],
    model=FunctionModel(lambda request: call("pay") if isinstance(request.messages[-1], TextMessage) else say("x")),
)


@pytest.mark.parametrize("number", [100, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
async def test_d14_a_waiting_run_is_a_row_and_nothing_else(number: int, url: str):
    async with Runtime(url, [PAYER], timing=QUICK, durability="normal") as rt:
        await rt.run(PAYER, "pay")
        await asyncio.sleep(0)
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        for start in range(0, number, 100):
            some = [rt.run(PAYER, "pay", run_id=f"run_{n}") for n in range(start, start + 100)]
            for result in await asyncio.gather(*some):
                assert (result.status, len(result.waits)) == ("waiting", 1)
        assert len(asyncio.all_tasks()) < tasks + 10, "the database has some, and no run has one"
        assert threading.active_count() == threads
        assert not rt.busy()
        assert not rt.live()
    async with Runtime(url, [PAYER], timing=QUICK, durability="normal") as rt:
        await rt.worker.sweep()
        assert not rt.busy(), "nobody drives what waits"
        assert await rt.worker.owners.left((), ()) == []
        log = rt.container("default").log
        assert len(await log.runs(status="waiting", limit=2 * number)) == number + 1
        again = await rt.run(PAYER, "pay", run_id="run_7")
        assert (again.status, again.waits[0].run_id) == ("waiting", "run_7")
        assert [one.kind for one in await log.read_run("run_7")] == ["run_started", "inference", "wait"]
