"""Who may begin, and who must end: fairness, full houses, busy sessions, cancelled families."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Conflict, RunCancelled, Runtime
from perdure.durable.kernel import SYSTEM_CLOCK
from perdure.log.log import NewRun
from perdure.log.sql import SqlLog
from perdure.testing import FunctionModel, call, say
from perdure.types import records as rec
from perdure.types.errors import DefinitionError
from perdure.types.messages import TextMessage
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import QUICK, effects, note, runtime, until


async def queue(rt: Runtime, container: str, count: int) -> None:
    """Leave runs as a process does that is closed before their turn came."""
    log = SqlLog(rt.db, SYSTEM_CLOCK.now, "gone", container)

    async def one(n: int) -> None:
        started = rec.RunStarted("Desk", "agent", (TextMessage("user", f"{container} {n}"),), state={})
        accepted = await log.accept(NewRun(f"run_{n}", f"s_{n}", "Desk"), started)
        assert accepted.token is not None
        await log.append(accepted.token, (), "queued")

    await asyncio.gather(*map(one, range(count)))


async def statuses(rt: Runtime, container: str) -> list[str]:
    return [one.status for one in await rt.container(container).log.runs(limit=2000)]


async def test_d28_a_tenant_with_one_run_does_not_wait_for_a_thousand_of_another(url: str, tmp_path: Path):
    begun: list[str] = []
    open_now = most_open = 0
    gate = asyncio.Event()

    async def answers(request: Any) -> Any:
        nonlocal open_now, most_open
        open_now += 1
        most_open = max(most_open, open_now)
        begun.append(request.messages[-1].text.split()[0])
        await gate.wait()
        open_now -= 1
        return say("done")

    agent = Agent("Desk", model=FunctionModel(answers))
    async with Runtime(url, [], workers=False, durability="normal") as rt:
        await queue(rt, "a", 300)
        await queue(rt, "b", 1)
    async with Runtime(url, [agent], timing=QUICK, durability="normal", workers=4) as rt:
        await until(lambda: "b" in begun)
        assert len(begun) <= 4, "in the first round"
        await until(lambda: open_now == 4)
        gate.set()
        await until(lambda: len(begun) >= 60)
    assert most_open == 4
    async with Runtime(url, [agent], timing=QUICK, durability="normal", workers=50) as rt:
        await until(lambda: desk_is_done(rt))
        assert await statuses(rt, "a") == ["completed"] * 300
        assert await statuses(rt, "b") == ["completed"]


async def desk_is_done(rt: Runtime) -> bool:
    return set(await statuses(rt, "a")) == {"completed"}


def test_how_many_are_taken_over_is_a_number():
    for wrong in (-1, "many", 1.5):
        with pytest.raises(DefinitionError, match="workers"):
            Runtime("sqlite:///x.db", workers=wrong)  # type: ignore[arg-type]


async def test_r14_who_is_not_to_wait_is_refused_in_the_same_commit(url: str):
    """Two processes that ask at once do not both find the session free."""
    gate = asyncio.Event()
    asked: list[str] = []

    async def answers(request: Any) -> Any:
        asked.append(request.messages[-1].text)
        await gate.wait()
        return say("done")

    agents = [Agent("A", model=FunctionModel(answers)) for _ in range(2)]
    async with (
        Runtime(url, [agents[0]], timing=QUICK, durability="normal") as one,
        Runtime(url, [agents[1]], timing=QUICK, durability="normal") as other,
    ):
        tries = [
            asyncio.ensure_future(rt.start(agent, f"{n}", session_id="s", on_busy="reject"))
            for n in range(5)
            for rt, agent in ((one, agents[0]), (other, agents[1]))
        ]
        found = await asyncio.gather(*tries, return_exceptions=True)
        refused = [one for one in found if isinstance(one, Conflict)]
        runs = [one for one in found if not isinstance(one, BaseException)]
        assert (len(runs), len(refused)) == (1, 9)
        gate.set()
        assert (await runs[0].result()).output == "done"
    assert len(asked) == 1


async def test_r14_an_interrupt_ends_a_turn_that_waits_and_takes_its_place(url: str):
    @desk.tool(requires_approval=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    def answers(request: Any) -> Any:
        last = request.messages[-1]
        return call("pay") if isinstance(last, TextMessage) and last.text == "pay" else say("done")

    agent = Agent("A", tools=[pay], model=FunctionModel(answers))
    async with Runtime(url, [agent], timing=QUICK, durability="normal") as rt:
        first = await rt.run(agent, "pay", session_id="s")
        assert first.status == "waiting"
        async with asyncio.timeout(30):
            second = await rt.run(agent, "never mind", session_id="s", on_busy="interrupt")
        assert second.output == "done"
        row = await rt.container("default").log.run(first.run_id)
        assert row.status == "cancelled"
        records = await rt.session("s").records()
        closed = [one.payload.outcome for one in records if isinstance(one.payload, rec.ToolDone)]
        assert closed == ["interrupted"], "the history can be sent to every provider"


async def test_r15_d17_a_cancel_reaches_the_children_of_a_dead_process_first(
    url: str, processes: Processes, tmp_path: Path
):
    worker = await processes.start("family", "job")
    await until(lambda: "slow" in effects())
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    async with desk.Runtime(url, [], workers=False) as rt:
        await rt.cancel("job")
        log = rt.container("default").log
        child = next(one for one in await log.runs() if one.parent == "job")
        records = await rt.session(child.session_id).records()
        assert [one.payload.reason for one in records if isinstance(one.payload, rec.CancelAsked)] == ["cancelled"]
    async with runtime(url, *desk.FAMILY) as rt:
        with pytest.raises(RunCancelled):
            async with asyncio.timeout(60):
                await rt.run(desk.PARENT, "go", session_id="s", run_id="job")
        log = rt.container("default").log
        assert {one.status for one in await log.runs()} == {"cancelled"}
        ends = [
            next(one.created_at for one in await log.read_run(id) if isinstance(one.payload, rec.RunFinished))
            for id in (child.id, "job")
        ]
        assert ends == sorted(ends), "a parent is cancelled when its children are"
    assert effects().count("slow") == 1


async def test_d17_a_child_whose_definition_nobody_has_is_ended_all_the_same(url: str, processes: Processes):
    worker = await processes.start("family", "job")
    await until(lambda: "slow" in effects())
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    async with runtime(url, desk.PARENT) as rt:  # the child is known to the parent's tool only
        await rt.cancel("job")
        await until(lambda: desk.nothing_open(rt))
        assert {one.status for one in await rt.container("default").log.runs()} == {"cancelled"}
    note("end")
