"""The sync doors of a runtime."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    Context,
    DefinitionError,
    Quota,
    RunFailed,
    Runtime,
    TextDelta,
    ask_human,
    function,
    tool,
)
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


def test_all_of_a_runtime_is_there_for_sync_code(tmp_path: Path):
    agent = echo()
    with open_runtime(tmp_path, agent) as rt:
        acme = rt.container("acme")
        acme.configure_sync(quota=Quota(sessions=9), retention=3600)
        assert acme.policy_sync().retention == 3600.0 and acme.usage_sync().sessions == 0
        assert acme.session.start_sync(session_id="s", user_id="ada").state == "active"
        session = acme.session("s")
        session.event_sync("user_message", "my boat is blue")
        assert session.suspend_sync().state == "suspended" and session.resume_sync().state == "resumed"
        assert [one.content for one in session.replay_sync()] == ["my boat is blue"]
        end = session.run_sync(agent, "and now?")
        assert [getattr(one, "text", "") for one in session.messages_sync()] == [
            "my boat is blue",
            "and now?",
            "2 messages",
        ]
        assert session.records_sync()[-1].run_id == end.run_id == acme.runs_sync(session_id="s")[0].id
        assert [one.session_id for one in acme.search_sync("boat")] == ["s"]
        fork = session.fork_sync(id="f")
        assert fork.run_sync(agent, "here").output == "4 messages" and fork.rewind_sync(1) > 1
        assert [one.id for one in acme.sessions_sync()] == ["f", "s"]
        assert session.export_sync(tmp_path / "s.jsonl") > 1
        assert rt.import_session_sync(tmp_path / "s.jsonl").id == "s"
        assert session.end_sync(retain_context=False).state == "ended"
        assert set(acme.erase_sync(user_id="ada").sessions) == {"s", "f"} and rt.erase_sync(user_id="ada").sessions
        assert rt.backup_sync(tmp_path / "copy.db") > 0 and rt.check_sync(deep=True) == []
        image = rt.images.create_sync(definition="Echo")["image_id"]
        assert rt.ask_sync(image, "hi").output == "1 messages"
        assert rt.images.fork_sync(image)["image_id"] != image
    assert not threads()


def test_sync_code_starts_follows_streams_and_leaves_runs(tmp_path: Path):
    agent, asking = echo(), payer()
    with open_runtime(tmp_path, agent, asking) as rt:
        run = rt.start_sync(agent, "x", session_id="s")
        assert run.result_sync().output == "1 messages" and run.status == "completed"
        kinds = [type(one).__name__ for one in run.events_sync()]
        assert (kinds[0], kinds[-1]) == ("RunStarted", "RunCompleted")
        with rt.stream(agent, "x", session_id="s") as stream:
            assert "".join(stream.text_sync()) == "3 messages" == stream.result_sync().output
        with rt.session("s").stream(agent, "x") as stream:
            assert any(isinstance(one, TextDelta) for one in stream)
        for event in rt.events_sync("s"):  # follows for as long as the runtime is open, and is left here
            if type(event).__name__ == "RunCompleted" and event.run_id == stream.run_id:
                break
        waiting = rt.start_sync(asking, "go")
        assert any(type(one).__name__ == "RunWaiting" for one in waiting.events_sync())
        assert waiting.status == "waiting"
    assert not threads()
    with pytest.raises(DefinitionError, match=r"result_sync\(\) comes too late"):
        run.result_sync()
    with pytest.raises(StoreError, match="with Runtime"):
        rt.events_sync("s")


async def test_a_sync_door_says_so_where_it_would_block(tmp_path: Path):
    agent = echo()
    async with open_runtime(tmp_path, delivery, agent) as rt:
        with pytest.raises(DefinitionError, match=r"approve_sync\(\) would block .* use: await approve\(\)"):
            rt.approve_sync("x")
        with pytest.raises(DefinitionError, match=r"send_event_sync\(\) would block"):
            rt.container("acme").send_event_sync("app/parcel")
        with pytest.raises(DefinitionError, match=r"use: async for … in events\(\)"):
            rt.events_sync("s")
        with pytest.raises(DefinitionError, match=r"use: async with stream\(\)"), rt.stream(agent, "x"):
            pass
        with pytest.raises(DefinitionError, match=r"use: await suspend\(\)"):
            rt.session("s").suspend_sync()
    with pytest.raises(DefinitionError, match="Without a runtime"), agent.stream("x"):
        pass
