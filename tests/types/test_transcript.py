"""The conversation is a fold of a session's records: whatever the order of commitment, it is that of the run."""

import asyncio
from typing import Any

import pytest

from perdure import Agent, Hooks, Network, parallel, tool
from perdure.agents.running import Running
from perdure.testing import FunctionModel, ScriptedModel, call, calls, say
from perdure.types import records as rec
from perdure.types.messages import TextMessage
from perdure.types.transcript import Transcript


def folded(records: list[rec.Record]) -> Transcript:
    transcript = Transcript()
    for one in records:
        transcript.add(one)
    return transcript


@tool(effect="pure")
async def late(turns: int) -> str:
    """End after some turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return f"after {turns}"


def drop(ctx: Any, result: Any) -> Any:
    return result.messages[-1:]


def network() -> Network[Any, Any]:
    agents = [
        Agent(name, tools=[late], model=ScriptedModel(call("late", turns=turns), say(f"I am {name}")))
        for name, turns in (("Slow", 20), ("Quick", 0))
    ]
    return Network("N", agents=agents, router=lambda r: parallel(*agents) if r.call_count == 0 else None)


CASES: dict[str, Any] = {
    "text": lambda: Agent("A", model=ScriptedModel("hello")),
    "parallel tools that end in another order": lambda: Agent(
        "A", tools=[late], model=ScriptedModel(calls(call("late", turns=9), call("late", turns=0)), "done")
    ),
    "agents that run at once": network,
    "output by tool": lambda: Agent("A", output_type=dict[str, int], model=ScriptedModel('{"x": "no"}', '{"x": 1}')),
    "a finish hook that drops": lambda: Agent(
        "A", tools=[late], hooks=Hooks(on_finish=drop), model=ScriptedModel(call("late", turns=0), "done")
    ),
    "a failure": lambda: Agent("A", model=FunctionModel(lambda _: 1 / 0)),
}


@pytest.mark.parametrize("case", list(CASES))
async def test_it_is_what_the_run_gave(case: str):
    running = Running(CASES[case](), "go", {})
    result = await running.drive()
    transcript = folded(await running.env.kernel.log.read_run(result.run_id))
    assert tuple(transcript.messages) == result.messages
    assert transcript.seq == max(one.seq for one in await running.env.kernel.log.read_run(result.run_id))


async def records_of_two_turns() -> list[rec.Record]:
    """Two turns; the second was accepted while the first went on."""
    runs = [Running(Agent("A", model=ScriptedModel(f"answer {n}")), f"question {n}", {}) for n in (1, 2)]
    records = []
    for running in runs:
        result = await running.drive()
        records.append(await running.env.kernel.log.read_run(result.run_id))
    first, second = records
    mixed = [first[0], second[0], *first[1:], *second[1:]]
    return [rec.Record(n, one.run_id, "s", one.key, one.payload, 0.0) for n, one in enumerate(mixed, 1)]


async def test_a_message_enters_when_its_turn_ends():
    records = await records_of_two_turns()
    said = [one.text for one in folded(records).messages if isinstance(one, TextMessage)]
    assert said == ["question 1", "answer 1", "question 2", "answer 2"]
    before = folded(records[:-1])
    assert [one.text for one in before.messages if isinstance(one, TextMessage)] == ["question 1", "answer 1"]


async def test_who_gives_the_history_replaces_it():
    records = await records_of_two_turns()
    started = records[1]
    assert isinstance(started.payload, rec.RunStarted)
    told = rec.RunStarted("A", "agent", started.payload.messages, (TextMessage("user", "earlier"),))
    records[1] = rec.Record(2, started.run_id, "s", None, told, 0.0)
    said = [one.text for one in folded(records).messages if isinstance(one, TextMessage)]
    assert said == ["earlier", "question 2", "answer 2"]
