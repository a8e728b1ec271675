"""Rule 18: an erased session keeps its envelopes, and nothing of what was said is left, not even in the file."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Conflict, Context, RunError, Runtime, UnknownName, tool
from perdure.db.database import Sql
from perdure.log.rows import input_hash
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types import records as rec
from perdure.types.project import Projector
from tests.runtime.desk import QUICK, nothing_open, until
from tests.runtime.test_forget import everything

MARK = "quetzalcoatl"


@tool(effect="pure")
async def recite() -> str:
    """Recite at length."""
    return MARK * 10_000  # kept beside its record


@tool(effect="steps")
async def consult(ctx: Context[Any]) -> str:
    """Ask somebody else."""
    return (await ctx.run(Agent("Other", model=ScriptedModel(say(f"{MARK} says the other"))), MARK)).output


def poet() -> Agent[Any, Any]:
    model = ScriptedModel(call("recite"), call("consult"), say(f"The {MARK}."))
    return Agent("Poet", system=f"Speak of {MARK}.", tools=[recite, consult], model=model)


def opened(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(url, definitions, timing=QUICK, **options)


async def a_poem(rt: Runtime, agent: Any, **options: Any) -> Any:
    return await rt.run(agent, f"Of the {MARK}?", session_id="s", run_id="job", user_id=MARK, **options)


def in_files(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.is_file() and MARK.encode() in one.read_bytes()]


async def test_r18_erased_bytes_are_gone_from_the_file(tmp_path: Path):
    agent = poet()
    async with opened(f"sqlite:///{tmp_path}/desk.db", agent) as rt:
        await a_poem(rt, agent)
        before = [(one.seq, one.run_id, one.key, one.created_at) for one in await rt.session("s").records()]
        assert in_files(tmp_path), "the mark is what is looked for"
        erased = await rt.session("s").erase()
        assert erased.complete
        assert len(erased.sessions) == 2, "the child run's session goes with it"
        assert in_files(tmp_path) == [], "while the store is still open"
        *kept, last = await rt.session("s").records()
        assert [(one.seq, one.run_id, one.key, one.created_at) for one in kept] == before, "envelopes stay"
        assert last.payload == rec.Erased()
        assert (last.seq, last.run_id, last.key) == (len(before) + 1, "", None)
    assert in_files(tmp_path) == []


async def test_r18_nothing_is_left_in_any_table(url: str):
    agent = poet()
    async with opened(url, agent) as rt:
        await a_poem(rt, agent)
        assert MARK in await everything(rt)
        await rt.session("s").erase()
        assert MARK not in await everything(rt)
        assert await rt.check(deep=True) == [], "an erased record is not a damaged one"
        [run] = await rt.runs(session_id="s")
        assert (run.id, run.status, run.definition, run.user_id, run.input_hash) == (
            "job",
            "completed",
            "Poet",
            None,
            "",
        )


async def test_r18_readers_pass_over_what_is_erased(url: str):
    agent = poet()
    async with opened(url, agent) as rt, opened(url, agent, workers=False) as other:
        await a_poem(rt, agent)
        assert [one async for one in other.session("s").messages()]
        await rt.session("s").erase()
        for one in (rt, other):
            assert [message async for message in one.session("s").messages()] == []
        records = await rt.session("s").records()
        projector = Projector("job", "s")
        assert [event for record in records for event in projector.record(record)] == []
        with pytest.raises(Conflict):
            await a_poem(rt, agent)
        seen = FunctionModel(lambda request: say(f"{len(request.messages)} messages"))
        after = await rt.run(agent, "And now?", session_id="s", model=seen)
        assert after.output == "2 messages", "the system prompt and the question"
        said = [message async for message in other.session("s").messages()]
        assert len(said) == 2
        await rt.session("s").erase()
        assert [message async for message in other.session("s").messages()] == []
    async with opened(url, agent) as rt:
        assert [message async for message in rt.session("s").messages()] == []


async def test_r18_whoever_follows_a_run_that_is_erased_is_told(url: str):
    agent = Agent("A", model=FunctionModel(lambda _: say("hello")))
    async with opened(url, agent) as rt:
        first = await rt.start(agent, "go", session_id="s", run_id="job")
        await first.result()
        await rt.session("s").erase()
        log = rt.container("default").log
        await log.db.write(lambda: _restore_hash(log, first))
        with pytest.raises(RunError, match="was erased"):
            await rt.run(agent, "go", session_id="s", run_id="job")


def _restore_hash(log: Any, run: Any) -> Any:
    started = run._running.started
    mark = input_hash(started)
    yield Sql("UPDATE runs SET input_hash = ? WHERE id = 'job'", (mark,))


async def test_r18_open_runs_are_refused_or_cancelled_first(url: str):
    agent = poet()
    never = asyncio.Event()

    async def wait_for_ever(_: Any) -> Any:
        await never.wait()

    stuck = Agent("Stuck", model=FunctionModel(wait_for_ever))
    async with opened(url, agent, stuck) as rt:
        await a_poem(rt, agent)
        run = await rt.start(stuck, MARK, session_id="s", run_id="open")
        behind = await rt.start(agent, MARK, session_id="s", run_id="behind")
        with pytest.raises(Conflict, match=r"open \(running\), behind \(queued\)"):
            await rt.session("s").erase()
        assert [one.payload for one in await rt.session("s").records() if isinstance(one.payload, rec.Erased)] == []
        await rt.session("s").erase(cancel=True)
        assert await states(rt) == [("behind", "cancelled"), ("job", "completed"), ("open", "cancelled")]
        assert MARK not in await everything(rt)
        for one in (run, behind):
            with pytest.raises(RunError):
                await one.result()
        assert await rt.check() == []
        with pytest.raises(UnknownName):
            await rt.session("nowhere").erase()


async def test_r18_what_waits_or_is_parked_is_ended_with_its_session(url: str):
    @tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    payer = Agent("Payer", tools=[pay], model=ScriptedModel(call("pay")))
    async with opened(url, payer) as rt:
        assert (await rt.run(payer, MARK, session_id="s", run_id="job")).status == "waiting"
        with pytest.raises(Conflict, match=r"job \(waiting\)"):
            await rt.session("s").erase()
        await rt.session("s").erase(cancel=True)
        assert await states(rt) == [("job", "cancelled")]
        assert MARK not in await everything(rt)
        again = await rt.run(payer, "next", session_id="s", model=ScriptedModel(say("free again")))
        assert again.output == "free again"


@pytest.mark.parametrize("knows", [True, False])
async def test_a_waiting_run_that_is_cancelled_elsewhere_is_closed(url: str, knows: bool):
    @tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    payer = Agent("Payer", tools=[pay], model=ScriptedModel(call("pay")))
    async with opened(url, payer, workers=False) as rt:
        await rt.run(payer, "pay", session_id="s", run_id="job")
        async with opened(url, *([payer] if knows else []), workers=False) as other:
            await other.cancel("job")
        await until(lambda: nothing_open(rt))
        assert await states(rt) == [("job", "cancelled")]
        said = [one.type if hasattr(one, "type") else one.role async for one in rt.session("s").messages()]
        assert said[-1] == "tool_result", "the call that waited has a result"


async def states(rt: Runtime) -> list[tuple[str, str]]:
    return sorted((one.id, one.status) for one in await rt.runs(session_id="s"))
