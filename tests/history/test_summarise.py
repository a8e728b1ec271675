"""Behaviour 42: a long conversation is shown in short, each part of it is summarised once, and all of it is kept."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Agent, DefinitionError, Network, Runtime, TextMessage, sequence, summarise
from perdure.history.summarise import HEADING, MOST
from perdure.testing import FunctionModel, say
from perdure.types.messages import Message
from tests.history import summing
from tests.history.test_trim import check_messages, turn
from tests.runtime.desk import QUICK


class Summariser:
    """Writes summaries that say how many there were, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.model = FunctionModel(self._write)

    def _write(self, request: Any) -> Any:
        self.asked.append(request.messages[-1].text)
        return say(f"summary {len(self.asked)}")


class Agents:
    """An agent that answers anything, and keeps what it saw."""

    def __init__(self, *hooks: Any, name: str = "Desk") -> None:
        self.seen: list[list[Message]] = []
        self.agent: Agent[Any, Any] = Agent(name, system="Be short.", model=FunctionModel(self._answer), hooks=hooks)

    def _answer(self, request: Any) -> Any:
        self.seen.append(list(request.messages))
        return say(f"answer {len(self.seen)}")


def texts(messages: list[Message]) -> list[str]:
    return [one.text if isinstance(one, TextMessage) else type(one).__name__ for one in messages]


async def test_b42_what_was_long_ago_is_summarised_and_only_what_is_new_is_added(tmp_path: Path):
    writer = Summariser()
    desk = Agents(summarise(2, 4, model=writer.model))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [desk.agent], timing=QUICK) as rt:
        for n in range(1, 9):
            await rt.run(desk.agent, f"question {n}", session_id="s")
        said = [one async for one in rt.session("s").messages()]
        records = await rt.session("s").records()
    assert len(said) == 16, "all of it is kept"
    assert not any(HEADING in one.text for one in said if isinstance(one, TextMessage))
    assert texts(desk.seen[3]) == [
        "Be short.",
        *(f"{w} {n}" for n in (1, 2, 3) for w in ("question", "answer")),
        "question 4",
    ]
    assert texts(desk.seen[4]) == ["Be short.", f"{HEADING}\nsummary 1", "question 4", "answer 4", "question 5"]
    assert texts(desk.seen[5])[1:4] == [f"{HEADING}\nsummary 1", "question 4", "answer 4"], (
        "as it was, in the next turn"
    )
    assert texts(desk.seen[7])[:2] == ["Be short.", f"{HEADING}\nsummary 2"]
    assert len(writer.asked) == 2
    first, second = writer.asked
    assert first.startswith(
        "The summary so far:\n(none yet)\n\nWhat was said since:\nuser: question 1\nassistant: answer 1\n"
    )
    assert second.startswith("The summary so far:\nsummary 1\n\nWhat was said since:\nuser: question 4\n")
    assert "question 3" not in second
    assert [one.kind for one in records].count("infer") == 2, "each is a step with a record"


async def test_b42_another_process_and_a_fork_find_the_summary_and_a_rewind_does_not_use_it(url: str):
    async def talk(rt: Runtime, desk: Agents, session: str, *numbers: int) -> None:
        for n in numbers:
            await rt.run(desk.agent, f"question {n}", session_id=session)

    writer = Summariser()
    desk = Agents(summarise(2, 4, model=writer.model))
    async with Runtime(url, [desk.agent], timing=QUICK) as rt:
        await talk(rt, desk, "s", 1, 2, 3)
        middle = len(await rt.session("s").records())
        await talk(rt, desk, "s", 4, 5)
        assert len(writer.asked) == 1
    again = Agents(summarise(2, 4, model=writer.model))
    async with Runtime(url, [again.agent], timing=QUICK) as rt:
        await talk(rt, again, "s", 6)
        assert texts(again.seen[0])[1] == f"{HEADING}\nsummary 1"
        fork = await rt.session("s").fork()
        fresh = Agents(summarise(2, 4, model=writer.model), name="Fresh")
        rt.registry.add(fresh.agent)
        await talk(rt, fresh, fork.id, 6)
        assert len(writer.asked) == 1, "nobody has paid for it again"
        await rt.session("s").rewind(middle - 4)
        await talk(rt, again, "s", 30)
        assert HEADING not in "".join(texts(again.seen[-1]))


async def test_b42_a_summary_is_not_paid_for_twice_when_its_process_is_killed(url: str, tmp_path: Path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", "")),
    }

    async def process(*more: str) -> int:
        made = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(summing.__file__)), url, str(tmp_path), *more, env=environment
        )
        async with asyncio.timeout(60):
            return await made.wait()

    assert await process("kill") == -signal.SIGKILL
    assert (tmp_path / "summaries").read_text().count("\n") == 1
    before = (tmp_path / "seen").read_text()
    assert before.startswith(HEADING)
    assert await process() == 0
    assert (tmp_path / "summaries").read_text().count("\n") == 1
    assert (tmp_path / "seen").read_text() == before


async def test_b42_without_a_runtime_each_part_is_summarised_once_too():
    writer = Summariser()
    desk = Agents(summarise(2, 4, model=writer.model))
    said: list[Message] = []
    for n in range(1, 9):
        result = await desk.agent.run(f"question {n}", messages=said)
        said = list(result.messages)
    assert len(said) == 16
    assert len(writer.asked) == 2
    assert texts(desk.seen[7])[1] == f"{HEADING}\nsummary 2"


async def test_b42_the_model_of_the_agent_writes_unless_another_is_given():
    def both(request: Any) -> Any:
        return say("in short" if "summary so far" in request.messages[-1].text else str(len(request.messages)))

    agent = Agent("Desk", model=FunctionModel(both), hooks=summarise(0, 1))
    result = await agent.run("now", messages=[*turn(1), *turn(2)])
    assert result.output == "2"
    assert result.usage.model_calls == 2


async def test_b42_agents_of_one_run_share_a_summary(url: str):
    writer = Summariser()
    hooks = summarise(2, 4, model=writer.model)
    one, two = Agents(hooks, name="One"), Agents(hooks, name="Two")
    both = Network("Both", agents=[one.agent, two.agent], router=sequence(one.agent, two.agent))
    async with Runtime(url, [both], timing=QUICK) as rt:
        await rt.run(both, "now", messages=[message for n in range(4) for message in turn(n)])
    assert len(writer.asked) == 1
    assert texts(one.seen[0])[1] == texts(two.seen[0])[1] == f"{HEADING}\nsummary 1"


async def test_b42_a_very_long_conversation_is_summarised_in_several_bounded_steps():
    writer = Summariser()
    desk = Agents(summarise(2, 4, model=writer.model))
    long: list[Message] = [
        TextMessage(role, f"{n} " + "x" * 50_000) for n in range(10) for role in ("user", "assistant")
    ]
    await desk.agent.run("now", messages=long)
    assert len(writer.asked) == 3
    assert all(len(one) < MOST + 5_000 for one in writer.asked)
    assert "46,002 characters more" in writer.asked[0]
    assert texts(desk.seen[0])[1] == f"{HEADING}\nsummary 3"


@settings(max_examples=40, database=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 6), st.integers(1, 6))
def test_b42_calls_and_results_stay_together(tools: list[int], keep: int, every: int):
    writer = Summariser()
    desk = Agents(summarise(keep, every, model=writer.model))
    before = [one for n, count in enumerate(tools) for one in turn(n, count)]
    asyncio.run(desk.agent.run("now", messages=before))
    [seen] = desk.seen
    check_messages(seen)
    assert texts(seen)[-1] == "now"
    kept = [one for one in seen[1:-1] if not (isinstance(one, TextMessage) and one.text.startswith(HEADING))]
    assert kept == before[len(before) - len(kept) :]
    assert bool(writer.asked) == (len(kept) < len(before))
    assert len(kept) <= keep + every or not writer.asked


@pytest.mark.parametrize("wrong", [{"keep": -1}, {"every": 0}, {"words": True}, {"keep": "many"}])
def test_b42_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(DefinitionError, match="summarise"):
        summarise(**wrong)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/desk.db"
