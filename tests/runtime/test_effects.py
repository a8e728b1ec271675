"""Declared effects, attempts and budgets when a process is killed in the middle, on both databases."""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Budget, Context, DefinitionError, NeedsRuntime, RunFailed, tool
from perdure.agents.running import Running
from perdure.db.database import StoreCorrupt
from perdure.durable import effects as durable_effects
from perdure.durable.kernel import SystemClock
from perdure.testing import FunctionModel, call, say
from perdure.types import records as rec
from tests.runtime import desk
from tests.runtime.acts import ACTOR, CHAINED, STEPS
from tests.runtime.conftest import Processes
from tests.runtime.desk import effects

Dies = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


@pytest.fixture
def dies(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Dies:
    """Runs what is asked for in a process that dies in the middle."""

    async def run(asked: str, where: str = "", kill: str | None = None) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("DIE", where)
            assert await processes.run("act", asked, kill=kill) == -signal.SIGKILL

    return run


async def finished(url: str, asked: str, **options: Any) -> tuple[Any, list[rec.Record]]:
    async with desk.runtime(url, ACTOR) as rt:
        result = await asyncio.wait_for(rt.run(ACTOR, asked, session_id="s", run_id="job", **options), 60)
        return result, await rt.session("s").records()


def told(result: Any) -> Any:
    return result.results[0].tool_calls[0].content


# -- in doubt --------------------------------------------------------------------------------------------------------


async def test_r08_r10_a_call_in_doubt_is_undone_once_and_the_model_is_told(url: str, dies: Dies):
    await dies("book", "book")
    result, records = await finished(url, "book")
    assert told(result)["error"]["name"] == "undone"
    (booked, unbooked) = [one for one in effects() if "book" in one]
    assert booked.replace("book", "unbook") == unbooked, "the same arguments and idempotency key"
    (started,) = [one.payload for one in records if isinstance(one.payload, rec.Started)]
    assert [one.key for one in records if one.kind == "step"] == [f"{started.step}#undo"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_r08_an_undo_that_is_killed_is_undone_again_with_the_same_key(url: str, dies: Dies):
    await dies("book", "book")
    await dies("book", "unbook")
    result, _ = await finished(url, "book")
    assert told(result)["error"]["name"] == "undone"
    undone = [one for one in effects() if one.startswith("unbook")]
    assert len(undone) == 2
    assert len(set(undone)) == 1


async def test_r08_what_cannot_be_undone_parks_the_run(url: str, dies: Dies, monkeypatch: pytest.MonkeyPatch):
    await dies("book", "book")
    monkeypatch.setattr(durable_effects, "UNDO_ATTEMPTS", 2)
    monkeypatch.setenv("DIE", "never undone")
    with pytest.raises(RunFailed, match="undoing it failed 2 times"):
        await finished(url, "book")
    async with desk.Runtime(url, [], workers=False) as rt:
        assert (await rt.container("default").log.run("job")).status == "parked"
        kinds = [one.kind for one in await rt.session("s").records()]
        assert kinds.count("attempt") == 1
        assert "tool" not in kinds, "the call stays open"


@pytest.mark.parametrize(
    ("url", "where"), [*(("sqlite", one) for one in STEPS), ("postgres", "undone")], indirect=["url"]
)
async def test_r09_r10_inner_steps_go_by_their_own_effect(where: str, url: str, dies: Dies):
    await dies("steps", where)
    result, records = await finished(url, "steps")
    data = {**dict.fromkeys(STEPS), **{name: name for name in STEPS}}
    data |= {"once": {"once": "StepInDoubt"}, "undone": {"undone": "StepUndone"}}.get(where, {})
    assert told(result) == {"data": list(data.values())}
    again = 2 if where in ("pure", "idempotent") else 1
    assert [effects().count(name) for name in STEPS] == [again if name == where else 1 for name in STEPS]
    assert effects().count("undo undone") == (where == "undone")
    assert len([one for one in records if isinstance(one.payload, rec.Started)]) == 2, "pure and idempotent have none"


async def test_r09_only_what_has_certainly_not_happened_is_tried_again_also_after_a_crash(url: str, dies: Dies):
    await dies("dial", kill="4:after")  # while it waits for the second attempt
    result, records = await finished(url, "dial")
    assert told(result) == {"data": "hello"}
    assert effects().count("dial") == 2
    assert [one.payload.attempt for one in records if isinstance(one.payload, rec.AttemptFailed)] == [1]


async def test_r09_late_results_of_a_sync_tool_are_logged_and_never_applied(url: str, caplog: pytest.LogCaptureFixture):
    go_on = threading.Event()

    @tool(timeout=0.01, retries=3)
    def slow() -> str:
        """Take long."""
        go_on.wait(60)
        return "late"

    agent = Agent("A", tools=[slow], model=FunctionModel(lambda r: say("ok") if len(r.messages) > 1 else call("slow")))
    caplog.set_level("WARNING", "perdure")
    async with desk.runtime(url, agent) as rt:
        result = await rt.run(agent, "x")
        go_on.set()
        await desk.until(lambda: "ended late" in caplog.text)
    assert "slow ended late" in caplog.text
    assert "is unknown" in told(result)["error"]["message"]


# -- attempts --------------------------------------------------------------------------------------------------------


async def test_d20_attempts_and_retry_after_survive_a_crash(url: str, dies: Dies, monkeypatch: pytest.MonkeyPatch):
    await dies("limited", kill="2:after")  # the first attempt is noted
    waits: list[float] = []

    async def at_once(self: Any, seconds: float) -> None:
        waits.append(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(SystemClock, "sleep", at_once)
        with pytest.raises(RunFailed) as failed:
            await finished(url, "limited")
    assert "RateLimited" in str(failed.value)
    assert effects().count("model") == 3, "one before the crash, two after it"
    first, second = [one for one in waits if one > 10]
    assert 10 < first <= 30, "what is left of the first wait"
    assert second == 30
    async with desk.Runtime(url, [], workers=False) as rt:
        records = await rt.session("s").records()
    assert [one.payload.attempt for one in records if isinstance(one.payload, rec.AttemptFailed)] == [1, 2]
    assert not [one for one in records if isinstance(one.payload, rec.AttemptLost)], "it waited, nothing was in flight"


async def test_d20_a_model_of_a_chain_that_has_failed_is_not_asked_again_in_the_same_attempt(
    url: str, dies: Dies, monkeypatch: pytest.MonkeyPatch
):
    await dies("chain", "second")
    assert effects() == ["first", "second"]

    async def at_once(self: Any, seconds: float) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(SystemClock, "sleep", at_once)
        async with desk.runtime(url, CHAINED) as rt:
            result = await asyncio.wait_for(rt.run(CHAINED, "chain", session_id="s", run_id="job"), 60)
    assert result.text == "done"
    assert effects()[2:] == ["second", "first", "second"], "the next attempt asks all of them again"


# -- budgets ---------------------------------------------------------------------------------------------------------


async def test_d08_d20_a_lost_attempt_counts_as_one_call_in_usage_and_budget(url: str, dies: Dies):
    await dies("a question of forty characters, or almost", "model")
    result, records = await finished(url, "a question of forty characters, or almost")
    (lost,) = [one.payload for one in records if isinstance(one.payload, rec.AttemptLost)]
    assert (lost.step, lost.usage.model_calls, lost.usage.input_tokens) == ("agent/0/infer/0", 1, 10)
    assert (result.usage.model_calls, effects()) == (2, ["model", "model"])


async def test_d20_a_lost_attempt_uses_up_the_budget(url: str, dies: Dies):
    await dies("budget 1", "model")
    result, _ = await finished(url, "budget 1", budget=Budget(model_calls=1))
    assert (result.stop_reason, result.usage.model_calls, effects()) == ("budget", 1, ["model"])


async def test_d20_a_call_that_was_in_flight_when_its_runtime_was_closed_counts_too(url: str):
    began = asyncio.Event()
    go_on = asyncio.Event()

    async def ask(request: Any) -> Any:
        began.set()
        await go_on.wait()
        return say("ok")

    agent = Agent("A", model=FunctionModel(ask))
    async with desk.runtime(url, agent) as rt:
        await rt.start(agent, "x", run_id="job")
        await began.wait()
    go_on.set()
    async with desk.runtime(url, agent) as rt:
        assert (await rt.run(agent, "x", run_id="job")).usage.model_calls == 2


async def test_a_session_budget_counts_all_runs_of_the_session_from_the_log(url: str):
    agent = Agent("A", model=FunctionModel(lambda _: say("ok")))
    budget = Budget(model_calls=2)
    reasons: list[Any] = []
    for n in range(3):
        async with desk.runtime(url, agent) as rt:  # another process each time
            limit = {"session_budget": budget} if n else {}
            reasons.append((await rt.run(agent, str(n), session_id="s", **limit)).stop_reason)
            if n == 2:
                reasons.append((await rt.run(agent, "x", session_id="other", session_budget=budget)).stop_reason)
                reasons.append((await rt.run(agent, "y", session_id="s")).stop_reason)
    assert reasons == ["answer", "answer", "budget", "answer", "answer"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_session_budget_that_cannot_be_counted_leaves_nothing_begun(url: str, monkeypatch: pytest.MonkeyPatch):
    agent = Agent("A", model=FunctionModel(lambda _: say("ok")))
    begun: list[Any] = []
    begin = Running.begin

    def begins(self: Running, *given: Any) -> Any:
        begun.append(begin(self, *given))
        return begun[-1]

    monkeypatch.setattr(Running, "begin", begins)
    async with desk.Runtime(url, [agent], workers=False) as rt:
        log = rt.container("default").log

        async def damaged(*_: Any) -> list[rec.Record]:
            raise StoreCorrupt("it is damaged")

        read, log.read_session = log.read_session, damaged
        with pytest.raises(StoreCorrupt):
            await rt.run(agent, "1", session_id="s", run_id="job", session_budget=Budget(model_calls=2))
        log.read_session = read
        assert inspect.getcoroutinestate(begun[-1]) == inspect.CORO_CLOSED, "else it is said that nobody awaited it"
        assert [one.kind for one in await log.read_run("job")] == ["run_started"]


async def test_a_session_budget_needs_a_runtime_and_has_no_seconds(url: str):
    agent = Agent("A", model=FunctionModel(lambda _: say("ok")))
    with pytest.raises(NeedsRuntime):
        await agent.run("x", session_budget=Budget(model_calls=1))
    async with desk.runtime(url, agent) as rt:
        with pytest.raises(DefinitionError, match="a session has no end"):
            await rt.run(agent, "x", session_budget=Budget(seconds=1))


async def test_children_at_once_share_what_is_left(url: str):
    helper = Agent("Helper", model=FunctionModel(lambda _: _helped()))

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> list[Any]:
        """Ask five at once."""
        return [one.stop_reason for one in await asyncio.gather(*(ctx.run(helper, str(n)) for n in range(5)))]

    agent = Agent("A", tools=[ask], model=FunctionModel(lambda _: call("ask")))
    async with desk.runtime(url, agent, helper) as rt:
        result = await rt.run(agent, "x", budget=Budget(model_calls=3))
    assert result.results[0].tool_calls[0].data.count("answer") == 2
    assert (result.stop_reason, result.usage.model_calls) == ("budget", 3)


def _helped() -> Any:
    desk.note("helper")
    return say("helped")


# -- state and values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "where"), [*(("sqlite", f"add {n}") for n in (1, 2, 3)), ("postgres", "add 2")], indirect=["url"]
)
async def test_r12_d26_the_state_after_a_crash_is_the_state_without_one(
    where: str, url: str, dies: Dies, tmp_path: Path
):
    calm = desk.runtime(f"sqlite:///{tmp_path}/calm.db", ACTOR)
    async with calm as rt:
        undisturbed = await rt.run(ACTOR, "add", state={"n": 0, "seen": {}})
    await dies("add", where)
    result, _ = await finished(url, "add", state={"n": 0, "seen": {}})
    assert result.state.data == undisturbed.state.data == {"n": 3, "seen": {"1": True, "2": True, "3": True}}
    assert effects().count(where) == 3, "undisturbed, killed, and again"


async def test_r13_what_cannot_be_kept_closes_the_call_and_is_never_retried(url: str):
    entered: list[int] = []

    @tool(effect="idempotent", retries=3)
    def bad() -> Any:
        """Return what is no JSON."""
        entered.append(1)
        return {"a": [object()]}

    agent = Agent("A", tools=[bad], model=FunctionModel(lambda r: say("ok") if len(r.messages) > 1 else call("bad")))
    async with desk.runtime(url, agent) as rt:
        error = told(await rt.run(agent, "x"))["error"]
    assert (error["name"], len(entered)) == ("Unserialisable", 1)
    assert ".a[0]" in error["message"]
