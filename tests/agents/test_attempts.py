"""Time limits of tools, and which calls are tried again."""

import asyncio
import threading
from typing import Any

import pytest

from perdure import (
    Agent,
    Context,
    ModelRetry,
    NotDone,
    tool,
)
from perdure.durable.kernel import SystemClock
from perdure.testing import ScriptedModel, call, calls
from tests.agents.watching import told, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let back-off take no time, and say how long it would have been."""
    waits: list[float] = []

    async def sleep(self: Any, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    return waits


# -- time limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "outcome"), [("pure", "timeout"), ("once", "unknown"), ("idempotent", "unknown"), ("steps", "unknown")]
)
async def test_a_timed_out_tool_is_closed_by_its_effect(effect: Any, outcome: str):
    @tool(effect=effect, timeout=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    watched = await watch(Agent("A", tools=[hang], model=ScriptedModel(call("hang"), "ok")))
    (finished,) = [one for one in watched.events if type(one).__name__ == "ToolFinished"]
    assert finished.outcome == outcome
    assert finished.result["error"]["name"] == "timeout"
    assert "0.01 s" in finished.result["error"]["message"]
    assert ("unknown" in finished.result["error"]["message"]) is (outcome == "unknown")
    assert watched.result.output == "ok"


async def test_r09_a_timed_out_sync_tool_that_is_not_pure_is_not_tried_again_and_its_late_return_is_dropped():
    release = threading.Event()
    ended = threading.Event()
    entered: list[int] = []

    @tool(effect="idempotent", timeout=0.05, retries=3)
    def hang() -> str:
        entered.append(1)
        release.wait(30)
        ended.set()
        return "late"

    answers = await told(hang)
    assert answers[0]["error"]["name"] == "timeout"
    assert len(entered) == 1
    release.set()
    assert ended.wait(30)


async def test_a_tool_s_own_timeout_error_is_an_error_like_any_other():
    @tool(timeout=30)
    async def slow() -> None:
        raise TimeoutError("the printer did not answer")

    assert await told(slow) == [{"error": {"name": "TimeoutError", "message": "the printer did not answer"}}]


async def test_a_tool_s_own_inner_time_limit_is_not_taken_for_ours():
    @tool(timeout=30)
    async def slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    (answer,) = await told(slow)
    assert answer["error"]["name"] == "TimeoutError"


# -- repetition ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "error", "attempts"),
    [
        ("once", OSError, 1),
        ("once", NotDone, 3),
        ("pure", OSError, 3),
        ("idempotent", OSError, 3),
        ("steps", OSError, 3),
        ("pure", ModelRetry, 1),
    ],
)
async def test_r09_retries_follow_the_effect(
    effect: Any, error: type[Exception], attempts: int, no_waiting: list[float]
):
    keys: list[str] = []

    @tool(effect=effect, retries=2)
    async def flaky(ctx: Context[Any]) -> None:
        keys.append(ctx.idempotency_key)
        raise error("down")

    (answer,) = await told(flaky)
    assert answer == {"error": {"name": error.__name__, "message": "down"}}
    assert len(keys) == attempts
    assert len(set(keys)) == 1, "every attempt has the same idempotency key"
    assert len(no_waiting) == attempts - 1


async def test_a_retry_that_succeeds_is_told_as_success(no_waiting: list[float]):
    attempts: list[int] = []

    @tool(effect="pure", retries=2)
    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("down")
        return "up"

    watched = await watch(Agent("A", tools=[flaky], model=ScriptedModel(call("flaky"), "ok")))
    assert watched.result.results[0].tool_calls[0].data == "up"
    assert [(one.attempt, one.error.message) for one in watched.events if type(one).__name__ == "StepRetrying"] == [
        (1, "down"),
        (2, "down"),
    ]
    assert [one.payload.wait for one in await watched.records() if one.kind == "attempt"] == no_waiting


async def test_r12_a_failed_attempt_leaves_no_trace_in_the_state(no_waiting: list[float]):
    @tool(effect="pure", retries=1)
    def count(ctx: Context[Any]) -> str:
        ctx.state.data["n"] = ctx.state.data.get("n", 0) + 1
        if not no_waiting:
            raise OSError("down")
        return "up"

    agent = Agent("A", tools=[count], model=ScriptedModel(call("count"), "ok"))
    assert (await agent.run("x", state={})).state.data == {"n": 1}


async def test_b52_a_tool_s_key_differs_from_call_to_call():
    keys: list[str] = []

    @tool
    async def pay(ctx: Context[Any]) -> None:
        keys.append(ctx.idempotency_key)

    model = ScriptedModel(calls(call("pay"), call("pay")), call("pay"), "ok")
    await Agent("A", tools=[pay], model=model).run("x")
    assert len(set(keys)) == 3
