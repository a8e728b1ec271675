"""What a turn takes is the same whether it is a session's tenth or its thousandth: counted, not timed."""

from collections.abc import Sequence
from typing import Any

import pytest

from perdure import Agent, Context, Network, Runtime, sequence, tool
from perdure.log.log import Entry
from perdure.models import prefix
from perdure.models.anthropic import encode as anthropic
from perdure.models.model import ModelRequest
from perdure.models.openai_chat import encode as chat
from perdure.models.prefix import Prefixes
from perdure.models.turns import Arranged
from perdure.runtime import conversations
from perdure.testing import FunctionModel, ScriptedModel, call, calls, say
from perdure.types.base import encode_json
from perdure.types.records import kind_of
from tests.runtime.desk import QUICK


@tool(effect="pure")
async def look(page: int) -> str:
    """Look a page up."""
    return f"page {page}"


@tool(effect="idempotent")
async def fetch(page: int) -> str:
    """Fetch a page."""
    return f"page {page}"


@tool(effect="once")
async def charge(amount: int) -> str:
    """Charge."""
    return f"charged {amount}"


@tool(effect="steps")
async def book(ctx: Context[Any], amount: int) -> int:
    """Book an amount."""
    return await ctx.transaction(lambda tx, booked: booked, amount)


def open_runtime(url: str, *definitions: Any) -> Runtime:
    return Runtime(url, definitions, timing=QUICK, durability="normal")


# -- commits ---------------------------------------------------------------------------------------------------------

ANSWER = ["inference", "agent_finished", "run_finished"]
COMMITS: dict[str, tuple[list[Any], list[list[str]]]] = {
    "a text turn": (["hello"], [["run_started"], ANSWER]),
    "a pure tool": ([call("look", page=1), "hello"], [["run_started"], ["inference"], ["tool"], ANSWER]),
    "an idempotent tool": ([call("fetch", page=1), "hello"], [["run_started"], ["inference"], ["tool"], ANSWER]),
    "a once tool": (
        [call("charge", amount=1), "hello"],
        [["run_started"], ["inference"], ["started"], ["tool"], ANSWER],
    ),
    "once tools beside each other": (
        [calls(call("charge", amount=1), call("charge", amount=2), call("look", page=1)), "hello"],
        [["run_started"], ["inference"], ["started", "started"], ["tool", "tool", "tool"], ANSWER],
    ),
    "a transaction in a tool": (
        [call("book", amount=1), "hello"],
        [["run_started"], ["inference"], ["transaction"], ["tool"], ANSWER],
    ),
}


@pytest.mark.parametrize("case", COMMITS)
async def test_each_step_is_as_many_commits_as_it_says(url: str, case: str):
    script, expected = COMMITS[case]
    agent = Agent("A", tools=[look, fetch, charge, book], model=ScriptedModel(*script))
    async with open_runtime(url, agent) as rt:
        log = rt.container("default").log
        commits: list[list[str]] = []
        written = Counting(log.db)
        log.db = written  # type: ignore[assignment]
        accept, append, transact = log.accept, log.append, log.transact

        async def accepting(new: Any, payload: Any, *args: Any) -> Any:
            commits.append([kind_of(payload)])
            return await accept(new, payload, *args)

        async def appending(token: Any, entries: Sequence[Entry], *args: Any, **options: Any) -> int:
            commits.append([kind_of(one.payload) for one in entries])
            return await append(token, entries, *args, **options)

        async def transacting(*args: Any) -> Any:
            commits.append(["transaction"])
            return await transact(*args)

        log.accept, log.append, log.transact = accepting, appending, transacting  # type: ignore[method-assign]
        await rt.run(agent, "go")
        if "beside" in case:
            assert commits[:3] == expected[:3], "siblings share the first"
            assert [kind for one in commits[3:] for kind in one] == [kind for one in expected[3:] for kind in one]
        else:
            assert commits == expected
        assert written.count == len(commits)


class Counting:
    """A database that counts what is written to it."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def write(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return await self._db.write(*args, **options)


# -- length ----------------------------------------------------------------------------------------------------------


class Wires:
    """Models that write each request for a provider, with what is remembered and without."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mapped: list[int] = []
        mapped = self.mapped
        self._patch = monkeypatch

        class Counted(Arranged):
            def __init__(self, messages: Any) -> None:
                mapped.append(len(messages))
                super().__init__(messages)

        monkeypatch.setattr(prefix, "Arranged", Counted)
        self.forget()

    def forget(self) -> None:
        """As in a process that has just started."""
        self.known = Prefixes()

    def model(self, encode: Any, answer: Any) -> FunctionModel:
        def answering(request: ModelRequest) -> Any:
            self._patch.setattr(prefix, "PREFIXES", self.known)
            body = encode_json(encode(request))
            count = len(self.mapped)
            self._patch.setattr(prefix, "PREFIXES", Prefixes(least=2**40))
            assert encode_json(encode(request)) == body
            del self.mapped[count:]
            return answer(request)

        return FunctionModel(answering)


def answer(request: ModelRequest) -> Any:
    last = request.messages[-1]
    return call("look", page=len(request.messages)) if getattr(last, "text", "").startswith("look") else say("Done.")


async def test_r19_whatever_the_length_only_what_is_new_is_mapped_and_nothing_is_read(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    wires = Wires(monkeypatch)
    agents = [
        Agent("A", tools=[look], system="You are A.", model=wires.model(lambda one: chat("m", one), answer)),
        Agent("B", tools=[look], model=wires.model(lambda one: anthropic("claude-sonnet-4-5", one), answer)),
    ]
    network = Network("N", agents=agents, router=sequence(*agents))
    reads: list[str] = []
    for round in range(2):
        async with open_runtime(url, network) as rt:
            wires.forget()
            log = rt.container("default").log
            read = log.read_session

            async def reading(session: str, *args: Any, read: Any = read) -> Any:
                reads.append(session)
                return await read(session, *args)

            log.read_session = reading  # type: ignore[method-assign]
            for number in range(12):
                wires.mapped.clear()
                result = await rt.run(network, f"{'look' if number % 2 else 'say'} {number}", session_id="s")
                if number > 3:
                    assert max(wires.mapped) <= 8, "the last turn, by whoever spoke, and this one"
            assert len(reads) == round + 1, "the conversation is read when it is not at hand, and then no more"
            assert len(result.messages) == (round + 1) * 12 * 4


async def test_turns_that_queue_behind_each_other_map_only_what_is_new(url: str, monkeypatch: pytest.MonkeyPatch):
    wires = Wires(monkeypatch)
    agent = Agent("A", tools=[look], model=wires.model(lambda one: chat("m", one), answer))
    async with open_runtime(url, agent) as rt:
        for number in range(8):
            await rt.run(agent, f"say {number}", session_id="s")
        wires.mapped.clear()
        runs = [await rt.start(agent, f"look {number}", session_id="s") for number in range(6)]
        last = [await one.result() for one in runs][-1]
    assert len(last.messages) == 8 * 2 + 6 * 4
    assert max(wires.mapped) <= 5, "what others wrote in between is read, but what was said here stays what it was"


async def test_sessions_of_one_turn_do_not_push_out_a_conversation(url: str):
    agent = Agent("A", model=FunctionModel(lambda _: say("Done.")))
    async with open_runtime(url, agent) as rt:
        container = rt.container("default")
        for number in range(3):
            await rt.run(agent, f"say {number}", session_id="s")
            await rt.run(agent, "something else")
        assert list(container.conversations._known) == ["s"]


async def test_what_was_erased_is_remembered_nowhere_in_the_process(url: str, monkeypatch: pytest.MonkeyPatch):
    known = Prefixes(least=1)
    monkeypatch.setattr(prefix, "PREFIXES", known)
    monkeypatch.setattr(conversations, "PREFIXES", known)
    agent = Agent("A", model=FunctionModel(lambda request: chat("m", request) and say("Done.")))
    async with open_runtime(url, agent) as rt:
        for number in range(3):
            await rt.run(agent, f"say {number}", session_id="s")
        assert known.size > 0
        await rt.session("s").erase()
        assert known.size == 0
        assert not rt.container("default").conversations._known
        assert [one async for one in rt.session("s").messages()] == []
