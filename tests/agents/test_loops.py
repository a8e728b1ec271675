"""The loops as folds: what the records say is all that counts, in whatever order they were committed."""

import asyncio
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import (
    Agent,
    AgentResult,
    Approval,
    Approve,
    Context,
    Deny,
    Hooks,
    Network,
    Parallel,
    Route,
    RouterArgs,
    RunCancelled,
    RunFailed,
    TextMessage,
    TextPart,
    ToolResultMessage,
    Usage,
    tool,
)
from perdure.agents.agent_loop import AgentLoop, LoopRules
from perdure.durable.program import Do, Keep, Waiting
from perdure.testing import ScriptedModel, call, calls, hang, raw, say
from perdure.types import records as rec
from perdure.types.chunks import Finished, ToolCallChunk
from perdure.types.messages import ToolCall, ToolCallMessage, assistant, user
from perdure.types.waits import wait_id

CALLS = tuple(ToolCall(f"c{n}", f"tool{n}", {"n": n}) for n in range(3))
PLACE = "agent/0/infer/0"


def loop_of(**rules: Any) -> AgentLoop:
    """A turn whose first answer made three calls."""
    loop = AgentLoop(LoopRules("A", **rules), "run_1", "agent/0", [user("hi")], {"n": 0}, {})
    fold(loop, rec.InferenceDone("A", (ToolCallMessage(CALLS),), "tool", usage=Usage(model_calls=1)), PLACE)
    return loop


def fold(loop: AgentLoop, payload: rec.Payload, key: str | None = None) -> None:
    loop.fold(rec.Record(1, "run_1", "session_1", key, payload, 0.0))


def done(number: int, outcome: Any = "ok", **fields: Any) -> rec.ToolDone:
    content: dict[str, Any] = {"data": number} if outcome == "ok" else {"error": {"name": "x", "message": "y"}}
    return rec.ToolDone("A", ToolResultMessage(CALLS[number], content), outcome, **fields)


def waiting(number: int, wait: str = "") -> rec.WaitOpened:
    wait = wait or wait_id("run_1", f"{PLACE}/tool/{number}")
    return rec.WaitOpened("A", (Approval(wait, f"tool{number}", {"n": number}, "run_1"),))


def keys(action: Any) -> list[str]:
    """The places that an action is about."""
    if isinstance(action, (Do, Keep)):
        return [action.key]
    return [] if isinstance(action, Waiting) or action is None else [do.key for do in action]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_however_calls_end_the_round_is_in_call_order(order: tuple[int, ...]):
    loop = loop_of()
    for number in order:
        assert loop.phase == "tools"
        patch: rec.JsonPatch = [{"op": "replace", "path": "/n", "value": number + 1}]
        fold(loop, done(number, patch=patch, scheduled=(f"B{number}",)), f"{PLACE}/tool/{number}")
    assert [one.tool.id for one in loop.said[1:]] == ["c0", "c1", "c2"]  # type: ignore[union-attr]
    assert loop.doc == {"n": 3}, "the last call wins, and not the last to end"
    assert loop.scheduled == ("B0", "B1", "B2")
    assert loop.usage == Usage(model_calls=1, tool_calls=3)
    assert keys(loop.next()) == ["agent/0/infer/1"]


@given(st.sets(st.integers(0, 2)), st.sets(st.integers(0, 2)))
def test_what_runs_next_is_what_is_neither_done_nor_waiting(finished: set[int], waits: set[int]):
    loop = loop_of()
    for number in waits:
        fold(loop, waiting(number, f"w{number}"), f"{PLACE}/tool/{number}/wait/0")
    for number in finished:
        fold(loop, done(number), f"{PLACE}/tool/{number}")
    action = loop.next()
    if finished == {0, 1, 2}:
        assert keys(action) == ["agent/0/infer/1"]
    elif finished | waits == {0, 1, 2}:
        assert isinstance(action, Waiting)
        assert [one.id for one in action.waits] == [f"w{number}" for number in sorted(waits - finished)]
    else:
        assert keys(action) == [f"{PLACE}/tool/{n}" for n in range(3) if n not in finished | waits]


def test_calls_one_after_another_stop_at_the_one_that_waits():
    loop = loop_of(parallel_tools=False)
    assert keys(loop.next()) == [f"{PLACE}/tool/0"]
    fold(loop, waiting(0), f"{PLACE}/tool/0/wait/0")
    assert isinstance(loop.next(), Waiting)
    fold(loop, rec.Answered(wait_id("run_1", f"{PLACE}/tool/0"), Approve()))
    assert keys(loop.next()) == [f"{PLACE}/tool/0"]
    fold(loop, done(0), f"{PLACE}/tool/0")
    assert keys(loop.next()) == [f"{PLACE}/tool/1"]


@pytest.mark.parametrize(("first", "second"), [(Approve(), Deny("no")), (Deny("no"), Approve())])
def test_the_first_answer_to_a_wait_counts(first: Any, second: Any):
    loop = loop_of()
    fold(loop, waiting(0), f"{PLACE}/tool/0/wait/0")
    for number in (1, 2):
        fold(loop, done(number), f"{PLACE}/tool/{number}")
    fold(loop, rec.Answered(wait_id("run_1", f"{PLACE}/tool/0"), first))
    fold(loop, rec.Answered(wait_id("run_1", f"{PLACE}/tool/0"), second))
    action = loop.next()
    if isinstance(first, Deny):
        assert isinstance(action, Keep) and isinstance(action.payload, rec.ToolDone)
        assert action.payload.outcome == "denied"
        assert action.payload.result.content == {"error": {"name": "denied", "message": "no"}}
    else:
        assert isinstance(action, Do)


def test_an_answer_to_another_wait_changes_nothing():
    loop = loop_of(parallel_tools=False)
    fold(loop, waiting(0), f"{PLACE}/tool/0/wait/0")
    fold(loop, rec.Answered("other", Approve()))
    assert isinstance(loop.next(), Waiting)


def test_a_call_that_was_denied_without_a_word_says_that_it_was():
    loop = loop_of()
    fold(loop, waiting(0), f"{PLACE}/tool/0/wait/0")
    fold(loop, rec.Answered(wait_id("run_1", f"{PLACE}/tool/0"), Deny()))
    action = loop.next()
    assert isinstance(action, Keep) and isinstance(action.payload, rec.ToolDone)
    assert action.payload.result.content == {
        "error": {"name": "denied", "message": "A person did not allow this call."}
    }


def test_calls_that_were_not_run_or_denied_are_not_counted():
    loop = loop_of()
    for number, outcome in enumerate(["not_run", "denied", "error"]):
        fold(loop, done(number, outcome), f"{PLACE}/tool/{number}")
    assert loop.usage.tool_calls == 1


def test_a_turn_that_is_over_wants_nothing():
    loop = AgentLoop(LoopRules("A"), "run_1", "agent/0", [], None, {})
    fold(loop, rec.InferenceDone("A", (assistant("hi"),)), PLACE)
    action = loop.next()
    assert isinstance(action, Keep) and action.payload == rec.AgentDone("A", "answer")
    fold(loop, action.payload, action.key)
    assert loop.next() is None


# -- whole runs -------------------------------------------------------------------------------------------------------


async def test_of_several_failures_the_first_is_told():
    failed = asyncio.Event()

    @tool
    async def first() -> None:
        """Fail at once."""
        failed.set()
        raise ValueError("first")

    @tool
    async def second() -> None:
        """Fail after the first."""
        await failed.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        raise KeyError("second")

    model = ScriptedModel(calls(call("second"), call("first")))
    with pytest.raises(RunFailed, match="ValueError: first") as told:
        await Agent("A", tools=[first, second], strict=True, model=model).run("x")
    assert isinstance(told.value.__cause__, ValueError), "the error that is told and its cause are one"


async def test_what_runs_beside_a_failure_is_finished_and_kept():
    failed = asyncio.Event()

    @tool
    async def breaks() -> None:
        """Fail at once."""
        failed.set()
        raise ValueError("no")

    @tool
    async def works() -> str:
        """End well, after the other has failed."""
        await failed.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        return "done"

    model = ScriptedModel(calls(call("works"), call("breaks")))
    with pytest.raises(RunFailed) as told:
        await Agent("A", tools=[breaks, works], strict=True, model=model).run("x")
    results = {one.tool.name: one.content for one in told.value.result.messages if isinstance(one, ToolResultMessage)}
    assert results == {
        "works": {"data": "done"},
        "breaks": {"error": {"name": "ValueError", "message": "no"}},
    }


async def test_what_a_tool_scheduled_or_wrote_counts_only_if_its_call_ended_well():
    @tool(effect="pure")
    async def plan(ctx: Context[dict[str, Any]]) -> str:
        """Plan."""
        ctx.network.schedule("B")
        ctx.state.data["planned"] = True
        return "planned"

    def refuse(ctx: Any, call: ToolCall, result: ToolResultMessage) -> ToolResultMessage:
        return ToolResultMessage(call, {"error": {"name": "refused", "message": "not now"}})

    async def agents_run(hooks: Hooks) -> tuple[list[str], Any]:
        first = Agent("A", tools=[plan], hooks=hooks)
        network = Network("N", agents=[first, Agent("B")], router=lambda r: None if r.call_count else first)
        model = ScriptedModel(call("plan"), say("a"), say("b"))
        result = await network.run("x", model=model)
        return [one.agent_name for one in result.results], result.state.data

    assert await agents_run(Hooks()) == (["A", "B"], {"planned": True})
    assert await agents_run(Hooks(after_tool=refuse)) == (["A"], {})


@pytest.mark.parametrize("kind", [str, list])
async def test_a_tool_that_returns_too_much_is_an_error_that_says_how_much(kind: type):
    @tool(effect="pure")
    def dump() -> Any:
        """Return everything."""
        return "x" * 11_000_000 if kind is str else ["x" * 1000] * 11_000

    result = await Agent("A", tools=[dump], model=ScriptedModel(call("dump"), say("ok"))).run("x")
    (told,) = result.results[0].tool_calls
    assert told.content["error"]["name"] == "TooLarge"  # type: ignore[index,call-overload]
    assert "11.0 MB" in told.content["error"]["message"]  # type: ignore[index,call-overload]
    assert result.output == "ok"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Parallel(()), "one or more agents"),
        (Parallel((Route("E", {"x": 1}), "A")), "no Route with arguments"),  # type: ignore[arg-type]
        ([Parallel(())], "one or more agents"),
    ],
)
async def test_a_group_without_agents_or_with_arguments_is_refused_and_does_not_go_on_for_ever(answer: Any, why: str):
    network = Network("N", agents=[Agent("A")], router=lambda r: answer, resolve=lambda name, args: Agent(name))
    with pytest.raises(RunFailed, match=f"The router of 'N' returned Parallel.*{why}"):
        await network.run("x", model=ScriptedModel(say("never")))


async def not_at_once(name: str, args: dict[str, Any]) -> Agent:
    return Agent(name)


@pytest.mark.parametrize("resolve", [lambda name, args: None, lambda name, args: name, not_at_once])
async def test_what_resolve_builds_must_be_an_agent(resolve: Any):
    network = Network("N", agents=[Agent("A")], router=lambda r: Route("E", {"x": 1}), resolve=resolve)
    with pytest.raises(RunFailed, match=r"Network\(resolve=…\) returned .* for 'E'; it must return an agent"):
        await network.run("x", model=ScriptedModel(say("never")))


async def test_what_a_child_spent_until_it_was_cut_off_is_counted():
    @tool(effect="pure")
    def look() -> str:
        """Look."""
        return "seen"

    spent = Usage(100, 10)
    model = ScriptedModel(raw(ToolCallChunk(0, "c", "look", "{}"), Finished("tool", spent)), hang())
    child = Agent("Child", tools=[look], model=model)
    run = Agent("Parent", tools=[child.as_tool()], model=ScriptedModel(call("child", request="?"))).start("x")
    while len(model.requests) < 2:  # noqa: ASYNC110  # the child shows no events here
        await asyncio.sleep(0)
    await run.cancel()
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    usage = cancelled.value.result.usage
    assert usage.input_tokens > 100 and usage.output_tokens >= 10
    assert (usage.model_calls, usage.tool_calls) == (3, 2)


async def test_a_router_is_given_what_the_user_said_last():
    seen: list[Any] = []

    def route(r: RouterArgs[Any]) -> None:
        seen.append((r.input, r.user_message))

    network = Network("N", agents=[Agent("A", model=ScriptedModel())], router=route)
    await network.run(["first", assistant("and then"), "last"])
    await network.run(None)
    await network.run(assistant("only this"))
    assert seen == [("last", TextMessage("user", (TextPart("last"),))), ("", None), ("", None)]


async def test_a_finish_hook_may_put_another_agent_into_the_queue():
    def hand_over(ctx: Context[Any], result: AgentResult) -> None:
        if result.agent_name == "A":
            ctx.network.schedule("B")

    first = Agent("A", hooks=Hooks(on_finish=hand_over))
    network = Network("N", agents=[first, Agent("B")], router=lambda r: None if r.call_count else first)
    result = await network.run("x", model=ScriptedModel(say("a"), say("b")))
    assert [one.agent_name for one in result.results] == ["A", "B"]


async def test_a_run_that_waits_shows_what_was_said_so_far():
    @tool(requires_approval=True)
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    model = ScriptedModel(calls(call("pay", amount=5), text="I will pay."), say("Done."))
    waiting = await Agent("A", tools=[pay], model=model).run("x")
    assert [type(one) for one in waiting.messages] == [TextMessage, TextMessage, ToolCallMessage]
    assert waiting.usage.model_calls == 1
    assert waiting.results == ()
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.messages[:3] == waiting.messages
    assert len(waiting.messages) == 3, "what was given once does not change"
