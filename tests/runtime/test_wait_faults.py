"""Waits whose processes die or have wrong clocks: each ends once, in time or late, and never twice."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime
from perdure.types import records as rec
from perdure.types.waits import Elapsed, Received, Timer, wait_id
from tests.runtime.conftest import Processes
from tests.runtime.desk import QUICK, effects, until
from tests.runtime.waiter import NAP, WAITER

TOOL = "agent/0/infer/0/tool/0"
WRITES = 13
"""About as many writes as an undisturbed run makes."""
ALL = [
    (store, at, when, early)
    for store in ("sqlite", "postgres")
    for at in (*map(str, range(1, WRITES + 1)), "send", "due")
    for when in ("before", "after")
    for early in (False, True)
]
SAMPLE = [
    ("sqlite", "3", "after", True),
    ("sqlite", "4", "before", False),
    ("sqlite", "4", "after", False),
    ("sqlite", "5", "before", True),
    ("sqlite", "6", "after", False),
    ("sqlite", "7", "before", False),
    ("sqlite", "due", "before", True),
    ("sqlite", "due", "after", False),
    ("postgres", "4", "after", False),
    ("postgres", "5", "after", True),
    ("postgres", "due", "after", True),
]
CASES = ALL if "SOAK" in os.environ else SAMPLE
"""The store, at which write a process dies, before or after it, and whether the event comes before the wait."""


def looking(url: str) -> Runtime:
    """A process that drives nothing and ends no wait."""
    return Runtime(url, workers=False, timing=QUICK._replace(sweep=1000))


def opened(url: str) -> Runtime:
    return Runtime(url, [WAITER], timing=QUICK, durability="normal")


async def known(log: Any, run_id: str) -> bool:
    return any(one.id == run_id for one in await log.runs())


async def ok(rt: Runtime, run_id: str) -> None:
    await rt.send_event("app/ok", {"of": run_id, "n": 7}, id=f"ok-{run_id}")


async def checked(rt: Runtime, run_id: str) -> None:
    """See that a run has ended as it would have without any trouble, and each of its waits once."""
    log = rt.container("default").log
    records = await log.read_run(run_id)
    answers = [one.payload for one in records if isinstance(one.payload, rec.Answered)]
    ended = {one.wait_id.rpartition("~")[2]: type(one.answer) for one in answers}
    places = {f"{TOOL}/ok": Received, f"{TOOL}/nap": Elapsed}
    assert ended == {wait_id(run_id, place).rpartition("~")[2]: kind for place, kind in places.items()}
    assert len(answers) == 2
    assert [one.payload.result.content for one in records if isinstance(one.payload, rec.ToolDone)] == [{"data": 7}]
    assert (await log.waits(), (await log.run(run_id)).status) == ([], "completed")
    assert await rt.check() == []


@pytest.mark.parametrize(("url", "at", "when", "early"), CASES, indirect=["url"])
async def test_d15_d16_d19_each_wait_ends_once_wherever_a_process_dies(
    at: str, when: str, early: bool, url: str, processes: Processes, tmp_path: Path
):
    async with looking(url) as rt:
        log = rt.container("default").log
        dying = await processes.start("deal", "job", kill=f"{at}:{when}")
        await until(lambda: dying.returncode is not None or known(log, "job"))
        if dying.returncode is None and not early:
            await until(lambda: dying.returncode is not None or log.waits("job"))
        if await known(log, "job"):
            await ok(rt, "job")
        assert await dying.wait() in (-signal.SIGKILL, 0)
    async with opened(url) as rt:
        run = await rt.start(WAITER, "go", session_id="job", run_id="job")
        await ok(rt, "job")
        assert (await run.result()).output == "dealt"
        await checked(rt, "job")
        asked = await rt.container("default").log.events_of("job")
        assert [(one.name, one.data) for one in asked] == [("app/asked", {"of": "job"})]
    took = [float(one.split()[2]) for one in effects() if one.startswith("act job")]
    assert took and min(took) >= NAP - 0.01, "the moment was not before its time"


async def test_d16_a_moment_that_comes_while_no_process_lives_ends_its_wait_once_and_late(
    url: str, processes: Processes, tmp_path: Path
):
    async with looking(url) as rt:
        log = rt.container("default").log
        process = await processes.start("deal", "job", kill="due:before")
        await until(lambda: log.waits("job"))
        await ok(rt, "job")
        assert await process.wait() == -signal.SIGKILL
        wait = (await log.waits("job"))[0]
        assert isinstance(wait, Timer) and wait.expires < rt.worker.store.now()
        assert (await log.run("job")).status == "waiting"
    async with opened(url) as rt:
        run = await rt.start(WAITER, "go", session_id="job", run_id="job")
        assert (await run.result()).output == "dealt"
        await checked(rt, "job")


async def test_d13_a_clock_that_jumps_makes_no_moment_come_early_twice_or_never(
    url: str, processes: Processes, tmp_path: Path
):
    jobs = [f"job_{n}" for n in range(4)]
    jumping = await processes.start("deal", *jobs, CLOCK="1")
    await until(lambda: "dealing" in effects())
    async with opened(url) as rt:
        for one in jobs:
            await ok(rt, one)
        assert await jumping.wait() == 0
        for one in jobs:
            await checked(rt, one)
    took = [float(one.split()[2]) for one in effects() if one.startswith("act")]
    assert len(took) == 4 and min(took) >= NAP - 0.01 and max(took) < 600
