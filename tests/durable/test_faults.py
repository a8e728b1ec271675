"""What a run leaves when it cannot go on: the log refuses a record, or a stop comes from within a step."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from perdure import Agent, Context, RunCancelled, tool
from perdure import events as ev
from perdure.agents.running import Running
from perdure.agents.stream import RunStream
from perdure.durable.kernel import Kernel
from perdure.log.log import Entry, Token
from perdure.log.memory import MemoryLog
from perdure.testing import ScriptedModel, call, calls
from perdure.types.records import ToolDone
from tests.agents.watching import check_stream


class FullLog(MemoryLog):
    """A log that takes no result of a tool."""

    async def append(self, token: Token, entries: Sequence[Entry], *args: Any, **kwargs: Any) -> int:
        if any(isinstance(one.payload, ToolDone) for one in entries):
            raise OSError("no space left")
        return await super().append(token, entries, *args, **kwargs)


@pytest.mark.parametrize("several", [False, True])
async def test_a_log_that_refuses_a_record_ends_the_run_and_leaves_nothing(several: bool):
    cleaned: list[str] = []

    @tool(effect="pure")
    async def quick() -> str:
        return "quick"

    @tool(effect="pure")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("slow")

    made = calls(call("quick"), call("slow")) if several else call("quick")
    agent = Agent("A", tools=[quick, slow], model=ScriptedModel(made, "never"))
    stream = RunStream[Any, Any](Running(agent, "go", {}, kernel=Kernel(FullLog())))
    async with stream:
        seen = [event async for event in stream]
        with pytest.raises(OSError, match="no space left"):
            await stream.result()
    check_stream(seen)
    assert isinstance(seen[-1], ev.RunFailed)
    assert seen[-1].error.message == "no space left"
    assert cleaned == (["slow"] if several else [])
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("several", [False, True])
async def test_a_stop_from_within_a_step_that_then_ends_hits_nobody_else(several: bool):
    @tool
    async def stops(ctx: Context[Any]) -> str:
        assert ctx._io is not None
        ctx._io.ask_stop("cancelled")
        return "stopped"

    made = calls(call("stops"), call("stops")) if several else call("stops")
    with pytest.raises(RunCancelled) as cancelled:
        await Agent("A", tools=[stops], model=ScriptedModel(made, "never")).run("go")
    assert {one.data for one in cancelled.value.result.results[0].tool_calls} == {"stopped"}
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
