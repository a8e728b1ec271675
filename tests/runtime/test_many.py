"""Many runs that can go on at once: as many at a time as are allowed, and none waits for the next look around."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure import Agent, Context, Runtime, function
from perdure.db.database import Script, Sql
from perdure.durable.kernel import SYSTEM_CLOCK
from perdure.log.log import NewRun
from perdure.log.owners import Timing
from perdure.log.sql import SqlLog
from perdure.testing import FunctionModel, say
from perdure.types.messages import TextMessage
from perdure.types.records import RunStarted
from tests.runtime.desk import QUICK, until

SELDOM = Timing(death=7200.0, beat=600.0, sweep=600.0)
"""Who only looks around from time to time would not come to an end with these."""

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("workers", [3, True])
async def test_d14_d16_many_moments_at_once_let_all_go_on_without_a_look_around(url: str, workers: int):
    active = most = 0

    @function
    async def rests(ctx: Context[Any], n: int) -> int:
        nonlocal active, most
        await ctx.step.sleep_until("end", FAR)
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        active -= 1
        return n

    async with Runtime(url, [rests], durability="normal", timing=SELDOM, workers=workers) as rt:
        runs = [await rt.start(rests, {"n": n}, run_id=f"rests_{n}") for n in range(60)]
        for run in runs:
            assert (await run.reached()).status == "waiting"

        def come() -> Script[None]:
            yield Sql("UPDATE waiters SET expires = 0 WHERE expires IS NOT NULL")

        await rt.db.write(come)
        await rt.sweep()
        async with asyncio.timeout(60):
            assert [(await run.result()).output for run in runs] == list(range(60))
        assert 1 <= most <= (workers if workers > 1 else 60)


async def test_runs_whose_code_is_elsewhere_are_in_nobodys_way(url: str):
    """However many there are, they are not what a process looks at that cannot drive them."""
    desk = Agent("Desk", model=FunctionModel(lambda request: say("done")))
    async with Runtime(url, [], workers=False, durability="normal") as rt:
        log = SqlLog(rt.db, SYSTEM_CLOCK.now, "gone", "default")
        for n in range(12):
            name = "Elsewhere" if n < 11 else "Desk"
            started = RunStarted(name, "agent", (TextMessage("user", "hi"),), state={})
            accepted = await log.accept(NewRun(f"run_{n}", f"s_{n}", name), started)
            assert accepted.token is not None
            await log.append(accepted.token, (), "queued")
    async with Runtime(url, [desk], workers=1, timing=QUICK, durability="normal") as rt:
        async with asyncio.timeout(60):
            await until(lambda: ended(rt))
        assert {one.status for one in await rt.runs() if one.definition == "Elsewhere"} == {"queued"}


async def ended(rt: Runtime) -> bool:
    return (await rt.container("default").log.run("run_11")).status == "completed"
