"""The sync doors of a runtime."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Context, DefinitionError, RunFailed, Runtime, ask_human, function, tool
from perdure.db.database import StoreError
from perdure.testing import FunctionModel, ScriptedModel, call, say
from tests.runtime.desk import QUICK


def open_runtime(folder: Path, *definitions: Any) -> Runtime:
    return Runtime(f"sqlite:///{folder}/sync.db", definitions, timing=QUICK, durability="normal")


def echo() -> Agent[Any, Any]:
    return Agent("Echo", model=FunctionModel(lambda request: say(f"{len(request.messages)} messages")))


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if one.name.startswith("perdure")}


def test_a_runtime_that_is_not_open_is_opened_for_one_run(tmp_path: Path):
    agent = echo()
    rt = open_runtime(tmp_path, agent)
    assert [rt.run_sync(agent, "x", session_id="s").output for _ in range(2)] == ["1 messages", "3 messages"]
    assert not threads()


def test_sync_code_keeps_a_runtime_open_with_with(tmp_path: Path):
    agent = echo()
    with open_runtime(tmp_path, agent) as rt:
        assert rt.run_sync(agent, "x", session_id="s").output == "1 messages"
        assert rt.container("acme").run_sync(agent, "x", session_id="s").output == "1 messages"
        assert rt.session("s").run_sync(agent, "x").output == "3 messages"
        assert "perdure-loop" in threads()
    assert not threads()
    with pytest.raises(StoreError, match="not open"):
        rt.session("s")


def test_what_fails_in_the_loop_is_raised_here(tmp_path: Path):
    def fails(_: Any) -> Any:
        raise ValueError("no")

    agent = Agent("A", model=FunctionModel(fails))
    with open_runtime(tmp_path, agent) as rt, pytest.raises(RunFailed):
        rt.run_sync(agent, "x")
    with pytest.raises(StoreError, match="no folder"), open_runtime(tmp_path / "nowhere", agent):
        pass
    assert not threads()


async def test_it_works_where_an_event_loop_runs_and_says_so_where_it_would_block(tmp_path: Path):
    agent = echo()
    rt = open_runtime(tmp_path, agent)
    assert rt.run_sync(agent, "x").output == "1 messages", "as in a notebook"
    async with rt:
        with pytest.raises(DefinitionError, match="await run"):
            rt.run_sync(agent, "x")
        assert (await asyncio.to_thread(rt.run_sync, agent, "x")).output == "1 messages"


@tool(requires_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@function
async def delivery(ctx: Context[Any]) -> str:
    """Wait for a parcel."""
    event = await ctx.step.wait_for_event("parcel", "app/parcel")
    return str(event and event.data["of"])


def payer() -> Agent[Any, Any]:
    answers = call("pay", amount=3), call("pay", amount=4), call("ask_human", question="Where?"), say("done")
    return Agent("Payer", tools=[pay, ask_human], model=ScriptedModel(*answers))


def test_people_answer_and_events_come_by_sync_doors(tmp_path: Path):
    agent = payer()
    with open_runtime(tmp_path, agent, delivery) as rt:
        result = rt.run_sync(agent, "go", run_id="job")
        (asked,) = rt.waits_sync(run_id="job")
        assert asked.wait == result.waits[0]
        result = rt.approve_sync(asked.wait.id, by="ada")
        assert result.answered == "accepted"
        result = rt.deny_sync(result.waits[0].id, "too much", by="ada")
        result = rt.answer_sync(result.waits[0].id, "Oslo", by="bo")
        assert (result.status, result.output) == ("completed", "done")
        assert "too much" in str(result.messages) and "Oslo" in str(result.messages)
        assert rt.run_sync(delivery, run_id="parcel").status == "waiting"
        rt.send_event_sync("app/parcel", {"of": "tea"})
        assert rt.container("default").waits_sync(kind="event") == []
    assert not threads()


def test_a_runtime_that_is_not_open_is_opened_for_one_answer(tmp_path: Path):
    agent = payer()
    rt = open_runtime(tmp_path, agent, delivery)
    rt.run_sync(agent, "go", run_id="job")
    result = rt.approve_sync(rt.waits_sync()[0].wait.id)
    assert (result.status, result.answered) == ("waiting", "accepted")
    assert rt.send_event_sync("app/parcel", id="e").id == "e"
    assert not threads()


async def test_a_sync_door_says_so_where_it_would_block(tmp_path: Path):
    async with open_runtime(tmp_path, delivery) as rt:
        with pytest.raises(DefinitionError, match=r"approve_sync\(\) would block .* use: await approve\(\)"):
            rt.approve_sync("x")
        with pytest.raises(DefinitionError, match=r"send_event_sync\(\) would block"):
            rt.container("acme").send_event_sync("app/parcel")
