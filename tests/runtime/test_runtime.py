"""A runtime in one process: programs 6 and 8, identity of runs, closing, children, budgets, streams."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure import (
    Agent,
    Budget,
    Conflict,
    Context,
    DefinitionError,
    Hooks,
    Network,
    RunCancelled,
    RunError,
    Runtime,
    mcp,
    sequence,
    tool,
)
from perdure.db.database import Sql, StoreCorrupt, StoreError
from perdure.testing import FunctionModel, ScriptedModel, call, calls, say
from perdure.types import events as ev
from perdure.types import records as rec
from perdure.types.messages import TextMessage, ToolResultMessage
from tests.agents.mcp_servers import rude
from tests.runtime import desk
from tests.runtime.desk import QUICK


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    global _holding
    _holding = asyncio.Event()
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


def open_runtime(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(url, definitions, timing=QUICK, durability="normal", **options)


def echo(name: str = "Echo", **options: Any) -> Agent[Any, Any]:
    """An agent that says how many messages it was shown."""
    return Agent(name, model=FunctionModel(lambda request: say(f"{len(request.messages)} messages")), **options)


async def said(rt: Runtime, session: str) -> list[str]:
    return [one.text async for one in rt.session(session).messages() if isinstance(one, TextMessage)]


# -- conversations ---------------------------------------------------------------------------------------------------


async def test_program_06_a_conversation_goes_on_after_a_restart(url: str):
    agents = [Agent(name, model=FunctionModel(lambda _: say("ok"))) for name in ("A", "B")]
    network = Network("desk", agents=agents, router=sequence(*agents))
    async with open_runtime(url, network) as rt:
        await rt.run(network, "the first one", session_id="t-42")
    async with open_runtime(url, network) as rt:
        result = await rt.run(network, "and the second one?", session_id="t-42")
        assert await said(rt, "t-42") == ["the first one", "ok", "ok", "and the second one?", "ok", "ok"]
    assert [one.text for one in result.new_messages] == ["and the second one?", "ok", "ok"]


async def test_program_08_the_same_run_id_is_the_same_run(url: str):
    asked: list[Any] = []
    agent = Agent("A", model=FunctionModel(lambda request: asked.append(request) or say("done")))
    async with open_runtime(url, agent) as rt:
        run = await rt.start(agent, "long job", run_id="job-7")
        both = await asyncio.gather(run.result(), rt.run(agent, "long job", run_id="job-7"))
        with pytest.raises(Conflict, match="another input"):
            await rt.start(agent, "another job", run_id="job-7")
    async with open_runtime(url, agent) as rt:
        later = await rt.run(agent, "long job", run_id="job-7")
    assert [one.output for one in (*both, later)] == ["done"] * 3
    assert [one.messages for one in both] == [later.messages] * 2
    assert len(asked) == 1


async def test_a_caller_who_knows_what_was_said_is_believed(url: str):
    agent = echo()
    async with open_runtime(url, agent) as rt:
        first = await rt.run(agent, "one", session_id="s")
        result = await rt.run(agent, "two", session_id="s", messages=first.messages[:1])
        assert result.output == "2 messages"
        assert await said(rt, "s") == ["one", "two", "2 messages"]


async def test_sessions_of_containers_are_apart(url: str):
    agent = echo()
    async with open_runtime(url, agent) as rt:
        acme, other = rt.container("acme"), rt.container("other")
        await acme.run(agent, "secret", session_id="s", run_id="r")
        result = await other.session("s").run(agent, "hello", run_id="r")
        assert result.output == "1 messages"
        assert await said(rt, "s") == []
        assert [one.text async for one in acme.session("s").messages()] == ["secret", "1 messages"]


async def test_a_busy_session_can_be_refused_or_interrupted(url: str):
    began, agent = asyncio.Event(), Agent("A", tools=[hold], model=FunctionModel(_holds))
    async with open_runtime(url, agent, resources=[began]) as rt:
        first = await rt.start(agent, "hold", session_id="s")
        await began.wait()
        with pytest.raises(Conflict, match="at work"):
            await rt.run(agent, "x", session_id="s", on_busy="reject")
        result = await rt.run(agent, "y", session_id="s", on_busy="interrupt")
        assert result.output == "done"
        with pytest.raises(RunCancelled, match="interrupted"):
            await first.result()


_holding = asyncio.Event()


@tool(effect="idempotent")
async def hold(ctx: Context[Any]) -> str:
    """Hold until told."""
    ctx.use(asyncio.Event).set()
    await _holding.wait()
    return "held"


def _holds(request: Any) -> Any:
    text = [one for one in request.messages if isinstance(one, TextMessage)][-1].text
    last = request.messages[-1]
    return call("hold") if text == "hold" and isinstance(last, TextMessage) else say("done")


# -- what is refused -------------------------------------------------------------------------------------------------


async def test_a_definition_that_is_not_registered_is_refused(url: str):
    agent = echo()
    async with open_runtime(url, agent) as rt:
        for stranger in (echo(), echo("Other")):
            with pytest.raises(DefinitionError, match="not registered"):
                await rt.run(stranger, "x")


async def test_names_must_differ_and_definitions_be_definitions(url: str):
    with pytest.raises(DefinitionError, match="Two definitions"):
        Runtime(url, [echo(), echo()])
    with pytest.raises(DefinitionError, match="give agents, networks and functions"):
        Runtime(url, ["Echo"])  # type: ignore[list-item]


async def test_a_runtime_is_used_with_async_with_and_opened_again_when_it_is_closed(url: str):
    agent = echo()
    rt = open_runtime(url, agent)
    with pytest.raises(StoreError, match="async with"):
        rt.session("s")
    async with rt:
        await rt.run(agent, "one", session_id="s")
        with pytest.raises(StoreError, match="open already"):
            await rt.__aenter__()
    async with rt:
        assert (await rt.run(agent, "two", session_id="s")).output == "3 messages"


# -- closing and taking over -----------------------------------------------------------------------------------------


async def test_runs_that_go_on_when_a_runtime_closes_are_left_and_taken_over(url: str):
    began, agent = asyncio.Event(), Agent("A", tools=[hold], model=FunctionModel(_holds))
    async with open_runtime(url, agent, resources=[began]) as rt:
        run = await rt.start(agent, "hold", session_id="s", run_id="job")
        queued = await rt.start(agent, "next", session_id="s", run_id="later")
        await began.wait()
    for one in (run, queued):
        with pytest.raises(RunError, match="goes on when the store is opened again"):
            await one.result()
    _holding.set()
    async with open_runtime(url, agent, resources=[began]) as rt:
        result = await rt.run(agent, "hold", session_id="s", run_id="job")
        assert result.output == "done"
        assert (await rt.run(agent, "next", session_id="s", run_id="later")).output == "done"
        records = await rt.session("s").records()
    claims = [one.payload for one in records if isinstance(one.payload, rec.Claimed)]
    assert not any(one.died for one in claims), "nobody died"
    assert [one.kind for one in records if one.run_id == "job"].count("inference") == 2


async def test_a_run_that_cannot_be_gone_on_with_is_parked(url: str, caplog: pytest.LogCaptureFixture):
    @dataclass
    class Local:
        n: int = 0

    began, agent = asyncio.Event(), Agent("A", tools=[hold], model=FunctionModel(_holds))
    async with open_runtime(url, agent, resources=[began]) as rt:
        await rt.start(agent, "hold", session_id="s", run_id="job", state=Local())
        await began.wait()
    async with open_runtime(url, agent, resources=[began]) as rt:
        await desk.until(lambda: desk.nothing_open(rt))
        assert (await rt.container("default").log.run("job")).status == "parked"
    assert "cannot be gone on with" in caplog.text


async def test_budgets_are_counted_from_the_log(url: str):
    began = asyncio.Event()
    agent = Agent("A", tools=[hold], model=FunctionModel(lambda _: call("hold")))
    async with open_runtime(url, agent, resources=[began]) as rt:
        await rt.start(agent, "hold", run_id="job", budget=Budget(model_calls=2))
        await began.wait()
    _holding.set()
    async with open_runtime(url, agent, resources=[began]) as rt:
        result = await rt.run(agent, "hold", run_id="job")
    assert (result.stop_reason, result.usage.model_calls) == ("budget", 2)


async def test_a_state_of_a_dataclass_is_one_again(url: str):
    began = asyncio.Event()
    kinds: list[type] = []

    @tool(effect="idempotent")
    async def count(ctx: Context[Count]) -> str:
        """Count."""
        kinds.append(type(ctx.state.data))
        began.set()
        await _holding.wait()
        ctx.state.data.n += 1
        return "ok"

    agent = Agent("A", tools=[count], model=FunctionModel(_counts))
    async with open_runtime(url, agent) as rt:
        await rt.start(agent, "count", run_id="job", state=Count(3))
        await began.wait()
    _holding.set()
    async with open_runtime(url, agent) as rt:
        result = await rt.run(agent, "count", run_id="job", state=Count(3))
    assert (kinds, result.state.data) == ([Count, Count], Count(4))


@dataclass
class Count:
    n: int = 0


def _counts(request: Any) -> Any:
    return call("count") if isinstance(request.messages[-1], TextMessage) else say("done")


async def test_d23_a_large_result_is_there_again(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    async with desk.runtime(url) as rt:
        first = await rt.run(desk.DESK, "go", run_id="job")
    async with desk.runtime(url) as rt:
        again = await rt.run(desk.DESK, "go", run_id="job")
    assert again.messages == first.messages
    assert any("x" * 70_000 in str(one) for one in again.messages)


async def test_d23_a_result_that_is_lost_is_a_loud_error_and_no_second_call(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(desk, "place", tmp_path)
    url = f"sqlite:///{tmp_path}/desk.db"
    async with desk.runtime(url) as rt:
        await rt.run(desk.DESK, "go", session_id="s", run_id="job")
        done = desk.effects()

        def lose() -> Any:
            yield Sql("DELETE FROM blobs")

        await rt.db.write(lose)
    async with desk.runtime(url) as rt:
        for again in (lambda: rt.run(desk.DESK, "go", run_id="job"), lambda: rt.run(desk.DESK, "and?", session_id="s")):
            with pytest.raises(StoreCorrupt, match="lost its payload"):
                await again()
    assert desk.effects() == done


async def test_d23_a_result_that_is_too_large_is_an_error_that_the_model_reads_once(url: str):
    called: list[str] = []

    @tool(effect="idempotent", retries=3)
    def dump() -> str:
        called.append("dump")
        return "x" * (10 * 1024 * 1024 + 1)

    model = ScriptedModel(call("dump"), say("too much"))
    async with Runtime(url, [agent := Agent("A", tools=[dump], model=model)]) as rt:
        result = await rt.run(agent, "go", run_id="job")
    assert result.output == "too much" and called == ["dump"]
    assert "ask for less" in result.results[0].tool_calls[0].content["error"]["message"]


async def test_b50_b51_calls_of_models_and_mcp_hooks_and_ids_are_done_once_when_they_have_their_record(
    url: str, tmp_path: Path
):
    calls_made, asked, reached = tmp_path / "calls", list[int](), asyncio.Event()
    hooked: list[str] = []
    hooks = Hooks(
        on_start=lambda ctx, messages: hooked.append("start"),
        on_response=lambda ctx, result: hooked.append("response"),
        before_tool=lambda ctx, call: hooked.append("before"),
        after_tool=lambda ctx, call, result: hooked.append("after"),
        on_finish=lambda ctx, result: hooked.append("finish"),
    )

    async def says(request: Any) -> Any:
        asked.append(len(request.messages))
        if not isinstance(request.messages[-1], ToolResultMessage):
            return call("r-echo", text="hi")
        if len(asked) == 2:
            reached.set()
            await asyncio.Event().wait()  # the process ends here
        return say("echoed")

    server = mcp("r", command=rude("normal"), env={"RUDE_CALLS": str(calls_made)})
    agent = Agent("Echo", tools=[server], model=FunctionModel(says), hooks=hooks)
    async with Runtime(url, [agent]) as rt:
        await rt.start(agent, "go", session_id="s", run_id="job")
        await reached.wait()
        before = await rt.session("s").records()
    async with Runtime(url, [agent]) as rt, asyncio.timeout(60):
        assert (await rt.run(agent, "go", session_id="s", run_id="job")).output == "echoed"
        assert (await rt.session("s").records())[: len(before)] == before
    assert asked == [1, 3, 3] and calls_made.read_text() == "echo\n"
    assert hooked == ["start", "response", "before", "after", "start", "start", "response", "finish"], (
        "only those of the step that had no record run again"
    )


async def test_siblings_share_the_commit_of_their_starts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    model = ScriptedModel(calls(call("charge"), call("charge")), "done")
    agent = Agent("A", tools=[desk.charge], model=model)
    writes: list[list[str]] = []
    append = desk.SqlLog.append

    async def counted(log: Any, token: Any, entries: Any, *args: Any, **options: Any) -> int:
        writes.append([type(one.payload).__name__ for one in entries])
        return await append(log, token, entries, *args, **options)

    monkeypatch.setattr(desk.SqlLog, "append", counted)
    async with open_runtime(url, agent) as rt:
        await rt.run(agent, "x")
    assert [one for one in writes if "Started" in one] == [["Started", "Started"]]


# -- cancelling and watching -----------------------------------------------------------------------------------------


async def test_a_caller_who_is_cancelled_cancels_its_run(url: str):
    began, agent = asyncio.Event(), Agent("A", tools=[hold], model=FunctionModel(_holds))
    async with open_runtime(url, agent, resources=[began]) as rt:
        task = asyncio.create_task(rt.run(agent, "hold", session_id="s", run_id="job"))
        await began.wait()
        follower = asyncio.create_task(rt.run(agent, "hold", session_id="s", run_id="job"))
        await asyncio.sleep(0)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        assert (await rt.container("default").log.run("job")).status == "running", "who only follows cancels nothing"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await rt.container("default").log.run("job")).status == "cancelled"


async def test_a_queued_run_that_is_cancelled_ends_when_its_turn_comes(url: str):
    began, agent = asyncio.Event(), Agent("A", tools=[hold], model=FunctionModel(_holds))
    async with open_runtime(url, agent, resources=[began]) as rt:
        first = await rt.start(agent, "hold", session_id="s")
        await began.wait()
        second = await rt.start(agent, "x", session_id="s")
        ending = asyncio.create_task(second.cancel())
        await asyncio.sleep(0)
        _holding.set()
        await ending
        assert (second.status, (await first.result()).output) == ("cancelled", "done")


async def test_a_stream_of_a_repetition_has_the_same_events_and_one_end(url: str):
    agent = echo()
    async with open_runtime(url, agent) as rt:
        seen: list[list[str]] = []
        for _ in range(2):
            async with rt.stream(agent, "x", run_id="job") as stream:
                seen.append([type(one).__name__ async for one in stream])
                assert (await stream.result()).output == "1 messages"
    assert seen[0] == seen[1]
    assert seen[0][-1] == ev.RunCompleted.__name__


async def test_a_late_reader_is_told_of_conflicts_too(url: str):
    @tool
    def note(ctx: Context[dict[str, Any]], text: str) -> None:
        """Take a note."""
        ctx.state.data["note"] = text

    agent = Agent(
        "Noter", tools=[note], model=ScriptedModel(calls(call("note", text="a"), call("note", text="b")), "ok")
    )
    async with open_runtime(url, agent) as rt:
        seen: list[list[ev.AnyEvent]] = []
        for _ in range(2):
            async with rt.stream(agent, "x", run_id="job", state={}) as stream:
                seen.append([one async for one in stream if isinstance(one, (ev.StateChanged, ev.StateConflict))])
    assert seen[0] == seen[1]
    assert [type(one) for one in seen[0]] == [ev.StateChanged, ev.StateChanged, ev.StateConflict]
