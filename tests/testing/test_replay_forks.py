"""Runs in sessions that were forked or rewound, and runs that go on from others: the base's history counts."""

from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Context, Runtime, tool
from perdure.testing import FunctionModel, call, recording, replay, say
from perdure.types import records as rec
from perdure.types.messages import TextMessage

charged: list[int] = []


@tool(effect="once")
async def charge(ctx: Context[Any], n: int) -> str:
    """Charge."""
    charged.append(n)
    return f"charged {n} in {ctx.session_id}"


def answers(request: Any) -> Any:
    last = request.messages[-1]
    if isinstance(last, TextMessage) and last.text == "pay":
        return call("charge", n=len(request.messages))
    return say(f"heard {len(request.messages)}")


def where(ctx: Context[Any]) -> str:
    return f"You are in {ctx.session_id} of {ctx.run_id}."


AGENT = Agent("A", system=where, tools=[charge], model=FunctionModel(answers))


@pytest.fixture(autouse=True)
def nothing_charged() -> None:
    charged.clear()


async def test_runs_behind_forks_and_rewinds_know_what_was_said_before(tmp_path: Path):
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [AGENT], durability="normal") as rt:
        session = rt.session("s")
        await rt.run(AGENT, "one", session_id="s", run_id="first")
        there = await rt.container("default").log.head("s")
        await rt.run(AGENT, "pay", session_id="s", run_id="second")
        other = await session.fork(there, id="t")
        await rt.run(AGENT, "pay", session_id=other.id, run_id="forked")
        await session.rewind(there)
        await rt.run(AGENT, "three", session_id="s", run_id="third")
        assert (await rt.run(AGENT, "four", session_id="s", run_id="fourth")).text == "heard 6"
        runs = [await recording(rt, one) for one in ("first", "second", "forked", "third", "fourth")]
    assert [len(one.run.earlier) for one in runs] == [0, 2, 2, 2, 4]
    paid = list(charged)
    for one in runs:
        replay(one, AGENT).check()
        assert "the model is asked something else" in replay(one, AGENT.replace(system="Other.")).text
    assert charged == paid


async def test_a_run_that_goes_on_from_another_is_followed_from_its_beginning_in_the_other(tmp_path: Path):
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [AGENT], durability="normal") as rt:
        await rt.run(AGENT, "pay", session_id="s", run_id="base")
        for at, id in (("agent/0/infer/0", "asked"), ("agent/0/infer/0/tool/0", "charged")):
            await (await rt.fork("base", at, id=id)).result()
        begun = await rt.container("default").log.read_run("base")
        open_there = next(one.seq for one in begun if isinstance(one.payload, rec.Started))
        cut = await rt.session("s").fork(open_there, id="cut")
        await rt.run(AGENT, "five", session_id=cut.id, run_id="after")
        ends = await rt.runs(session_id=cut.id)
        runs = [await recording(rt, one) for one in ("asked", "charged", "after", *(one.id for one in ends))]
    paid = list(charged)
    assert len(runs) == 5
    for one in runs:
        replay(one, AGENT).check()
    assert "agent/0/infer/0: the model is asked something else" in replay(runs[1], AGENT.replace(system="x")).text
    assert charged == paid
