"""Stopping a run: cancel, deadline, a task that is cancelled from outside; nothing is left and nothing is lost."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from perdure import Agent, Context, Hooks, NotDone, RateLimited, RunCancelled, ToolStarted, parallel, sequence, tool
from perdure import Network as Net
from perdure import events as ev
from perdure.testing import ScriptedModel, call, calls, delay, fail, hang, raw, say
from perdure.types.chunks import TextChunk, ToolCallChunk
from tests.agents.watching import check_stream, check_transcript, records_of

pytestmark = pytest.mark.usefixtures("nothing_left")


def half_an_answer(then: asyncio.Event | None = None) -> Any:
    """Say half of it and hang."""

    async def pieces(request: Any) -> Any:
        yield TextChunk("Once ")
        yield TextChunk("upon")
        yield ToolCallChunk(0, "1", "never", '{"a": ')
        if then is not None:
            then.set()
        await asyncio.Event().wait()

    return pieces


async def stopped(definition: Any, when: Any, **options: Any) -> tuple[list[Any], RunCancelled, Any]:
    """Run, cancel when an event fits, and give the events, the error and the running."""
    seen: list[Any] = []
    run = definition.start("go", **options)
    async for event in run.events():
        seen.append(event)
        if when(event):
            asyncio.get_running_loop().call_soon(_cancel, run)
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    check_stream(seen)
    await asyncio.gather(*_cancels)
    return seen, cancelled.value, run._running


_cancels: set[asyncio.Task[None]] = set()


def _cancel(run: Any) -> None:
    task = asyncio.ensure_future(run.cancel())
    _cancels.add(task)
    task.add_done_callback(_cancels.discard)


# -- in an inference --------------------------------------------------------------------------------------------------


async def test_cancelled_in_an_inference_the_text_so_far_is_kept_once_and_marked():
    seen, error, running = await stopped(
        Agent("A", model=ScriptedModel(half_an_answer())), lambda e: isinstance(e, ev.ToolCallStarted)
    )
    result = error.result
    assert (result.status, result.stop_reason) == ("cancelled", "cancelled")
    assert [one.text for one in result.messages] == ["go", "Once upon"]
    assert result.text == "Once upon"
    (inference,) = [one.payload for one in await records_of(running) if one.kind == "inference"]
    assert inference.interrupted
    assert [one.text for one in inference.messages] == ["Once upon"]
    (finished,) = [one for one in seen if isinstance(one, ev.MessageFinished)]
    assert finished.interrupted
    assert isinstance(seen[-1], ev.RunCancelled)
    assert result.usage.model_calls == 1
    assert "was cancelled" in str(error)


async def test_a_cancelled_conversation_can_be_continued():
    _, error, _ = await stopped(
        Agent("A", model=ScriptedModel(half_an_answer())), lambda e: isinstance(e, ev.ToolCallStarted)
    )
    model = ScriptedModel("ok")
    await Agent("A", model=model).run("go on", messages=error.result.messages)
    assert [one.text for one in model.requests[0].messages] == ["go", "Once upon", "go on"]


async def test_cancelled_before_the_first_piece_nothing_was_said():
    seen, error, _ = await stopped(Agent("A", model=ScriptedModel(hang())), lambda e: isinstance(e, ev.MessageStarted))
    assert [one.text for one in error.result.messages] == ["go"]
    assert isinstance(seen[-1], ev.RunCancelled)


async def test_the_model_s_stream_is_closed():
    closed: list[bool] = []

    async def pieces(request: Any) -> Any:
        try:
            yield TextChunk("Once")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    await stopped(Agent("A", model=ScriptedModel(pieces)), lambda e: isinstance(e, ev.TextDelta))
    assert closed == [True]


async def test_cancelled_in_back_off_it_ends_at_once_and_the_void_text_is_gone():
    model = ScriptedModel(fail(RateLimited("slow down", retry_after=500), after="Once upon"), "never")
    seen, error, _ = await stopped(Agent("A", model=model), lambda e: isinstance(e, ev.StepRetrying))
    assert [one.text for one in error.result.messages] == ["go"]
    assert [one.reason for one in seen if isinstance(one, ev.MessageReset)] == ["slow down"]
    assert len(model.requests) == 1


async def test_cancelled_in_a_prompt_or_a_hook():
    async def wait(*args: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    for options in (
        {"system": wait},
        {"hooks": Hooks(on_start=wait)},
        {"hooks": Hooks(on_response=wait)},
        {"hooks": Hooks(on_finish=wait)},
    ):
        entered = asyncio.Event()
        run = Agent("A", model=ScriptedModel("ok"), **options).start("go")
        await entered.wait()
        await run.cancel()
        assert run.status == "cancelled"
        check_stream([event async for event in run.events()])


async def test_cancelled_in_a_router():
    entered = asyncio.Event()

    async def route(r: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    run = Net("N", agents=[Agent("A")], router=route).start("go", model=ScriptedModel())
    await entered.wait()
    await run.cancel()
    names = [type(event).__name__ async for event in run.events()]
    assert names == ["RunStarted", "RunCancelled"]


# -- in tools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "outcome"),
    [("pure", "interrupted"), ("idempotent", "interrupted"), ("once", "unknown"), ("steps", "unknown")],
)
@pytest.mark.parametrize("several", [False, True])
async def test_cancelled_in_a_tool_its_effect_says_what_is_known(effect: Any, outcome: str, several: bool):
    @tool(effect=effect)
    async def slow() -> None:
        await asyncio.Event().wait()

    made = calls(call("slow"), call("slow")) if several else call("slow")
    started: list[Any] = []

    def all_started(event: Any) -> bool:
        started.extend([event] if isinstance(event, ToolStarted) else [])
        return isinstance(event, ToolStarted) and len(started) == 1 + several

    seen, error, _ = await stopped(Agent("A", tools=[slow], model=ScriptedModel(made)), all_started)
    check_transcript(error.result.messages)
    finished = [one for one in seen if isinstance(one, ev.ToolFinished)]
    assert [one.outcome for one in finished] == [outcome] * (1 + several)
    assert all(("unknown" in one.result["error"]["message"]) is (outcome == "unknown") for one in finished)


async def test_cancelled_a_finished_sibling_keeps_its_result():
    @tool
    async def quick(ctx: Context[Any]) -> str:
        ctx.state.data["quick"] = True
        return "done"

    @tool
    async def slow() -> None:
        await asyncio.Event().wait()

    model = ScriptedModel(calls(call("slow"), call("quick")))
    _, error, _ = await stopped(Agent("A", tools=[quick, slow], model=model), lambda e: isinstance(e, ev.ToolFinished))
    slow_result, quick_result = error.result.results[0].tool_calls
    assert slow_result.content["error"]["name"] == "interrupted"
    assert quick_result.content == {"data": "done"}
    assert error.result.state.data == {"quick": True}


async def test_a_call_that_was_not_begun_is_closed_as_not_run():
    entered = asyncio.Event()

    @tool
    async def slow() -> None:
        entered.set()
        await asyncio.Event().wait()

    model = ScriptedModel(calls(call("slow"), call("slow")))
    run = Agent("A", tools=[slow], model=model, parallel_tools=False).start("go")
    await entered.wait()
    await run.cancel()
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    check_transcript(cancelled.value.result.messages)
    first, second = cancelled.value.result.results[0].tool_calls
    assert "unknown" in first.content["error"]["message"]
    assert second.content["error"]["message"] == "The run was cancelled before this call was answered."


async def test_cancelled_in_back_off_after_not_done_nothing_is_in_doubt():
    @tool(effect="once", retries=3)
    async def pay() -> None:
        raise NotDone("no connection")

    seen, _, _ = await stopped(
        Agent("A", tools=[pay], model=ScriptedModel(call("pay"))), lambda e: isinstance(e, ev.StepRetrying)
    )
    (finished,) = [one for one in seen if isinstance(one, ev.ToolFinished)]
    assert finished.outcome == "interrupted"


async def test_a_tool_that_cleans_up_when_it_is_cut_off_is_waited_for():
    cleaned: list[bool] = []

    @tool
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    await stopped(Agent("A", tools=[slow], model=ScriptedModel(call("slow"))), lambda e: isinstance(e, ToolStarted))
    assert cleaned == [True]


async def test_a_hung_sync_tool_does_not_hold_up_the_end():
    import threading

    release = threading.Event()

    @tool
    def hung() -> None:
        release.wait(60)

    seen, _, _ = await stopped(
        Agent("A", tools=[hung], model=ScriptedModel(call("hung"))), lambda e: isinstance(e, ToolStarted)
    )
    release.set()
    assert [one.outcome for one in seen if isinstance(one, ev.ToolFinished)] == ["unknown"]


async def test_cancelled_in_a_group_of_agents_all_are_closed():
    one, two = Agent("One"), Agent("Two")
    network = Net("N", agents=[one, two], router=sequence(parallel(one, two)))
    model = ScriptedModel(half_an_answer(), half_an_answer())
    opened: list[Any] = []

    def both_speak(event: Any) -> bool:
        opened.extend([event] if isinstance(event, ev.ToolCallStarted) else [])
        return isinstance(event, ev.ToolCallStarted) and len(opened) == 2

    _, error, _ = await stopped(network, both_speak, model=model)
    assert [(one.text, one.stop_reason) for one in error.result.results] == [("Once upon", "cancelled")] * 2


# -- when -------------------------------------------------------------------------------------------------------------


async def test_cancelled_twice_is_cancelled_once():
    run = Agent("A", model=ScriptedModel(hang())).start("go")
    await asyncio.gather(run.cancel(), run.cancel())
    await run.cancel()
    seen = [event async for event in run.events()]
    check_stream(seen)
    assert isinstance(seen[-1], ev.RunCancelled)


async def test_cancelled_after_the_end_changes_nothing():
    run = Agent("A", model=ScriptedModel("ok")).start("go")
    assert (await run.result()).output == "ok"
    await run.cancel()
    assert run.status == "completed"
    assert (await run.result()).output == "ok"


async def test_cancelled_at_once_it_is_closed_properly():
    run = Agent("A", model=ScriptedModel(hang())).start("go")
    await run.cancel()
    assert run.status == "cancelled"
    check_stream([event async for event in run.events()])


async def test_a_tool_may_cancel_its_own_run():
    runs: list[Any] = []

    @tool
    async def give_up() -> None:
        await runs[0].cancel()

    run = Agent("A", tools=[give_up], model=ScriptedModel(call("give_up"))).start("go")
    runs.append(run)
    with pytest.raises(RunCancelled):
        await run.result()
    check_stream([event async for event in run.events()])


# -- deadlines --------------------------------------------------------------------------------------------------------


async def test_a_deadline_ends_the_run_with_what_it_has():
    with pytest.raises(RunCancelled, match="deadline passed") as cancelled:
        await Agent("A", model=ScriptedModel(half_an_answer())).run("go", deadline=0.05)
    result = cancelled.value.result
    assert (result.status, result.stop_reason) == ("cancelled", "deadline")
    assert result.text == "Once upon"


async def test_a_deadline_in_a_tool_closes_its_call():
    @tool
    async def slow() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RunCancelled) as cancelled:
        await Agent("A", tools=[slow], model=ScriptedModel(call("slow"))).run("go", deadline=0.05)
    check_transcript(cancelled.value.result.messages)


async def test_a_deadline_that_is_far_away_changes_nothing():
    assert (await Agent("A", model=ScriptedModel("ok")).run("go", deadline=600)).output == "ok"


# -- from outside -----------------------------------------------------------------------------------------------------


async def test_an_outer_time_limit_raises_its_own_error_and_leaves_nothing():
    finished: list[str] = []

    @tool
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            finished.append("tool")

    for answer in (hang(), call("slow"), calls(call("slow"), call("slow"))):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Agent("A", tools=[slow], model=ScriptedModel(answer)).run("go")
    assert finished == ["tool"] * 3
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("answer", [hang(), call("slow"), calls(call("slow"), call("slow"))])
async def test_a_cancelled_task_is_cancelled(answer: Any):
    entered = asyncio.Event()

    @tool
    async def slow() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def first(request: Any) -> Any:
        entered.set()
        return answer

    task = asyncio.create_task(Agent("A", tools=[slow], model=ScriptedModel(first)).run("go"))
    await entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_run_within_a_task_that_was_cancelled_before_works():
    """Such as one in the clean-up of a cancelled task."""

    @tool
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    results: list[Any] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            model = ScriptedModel(call("cancels_itself"), "cleaned")
            results.append(await Agent("A", tools=[cancels_itself], model=model).run("go"))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert results[0].output == "cleaned"


# -- walking away -----------------------------------------------------------------------------------------------------


async def test_a_consumer_that_walks_away_ends_the_run():
    agent = Agent("A", model=ScriptedModel(half_an_answer()))
    async with agent.stream("go") as stream:
        async for event in stream:
            if isinstance(event, ev.TextDelta):
                break
    assert stream.run.status == "cancelled"
    check_stream([event async for event in stream.run.events()])


async def test_a_consumer_that_raises_ends_the_run_and_keeps_its_error():
    agent = Agent("A", model=ScriptedModel(hang()))
    with pytest.raises(ZeroDivisionError):
        async with agent.stream("go") as stream:
            async for _ in stream:
                raise ZeroDivisionError
    assert stream.run.status == "cancelled"


async def test_a_consumer_that_is_cancelled_leaves_nothing_behind():
    entered = asyncio.Event()

    async def consume() -> None:
        async with Agent("A", model=ScriptedModel(hang())).stream("go") as stream:
            async for event in stream:
                if isinstance(event, ev.MessageStarted):
                    entered.set()

    task = asyncio.create_task(consume())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_consumer_that_is_cancelled_again_while_the_run_ends_leaves_nothing_behind():
    entered, cut_off, release = asyncio.Event(), asyncio.Event(), asyncio.Event()
    statuses: list[str] = []

    @tool
    async def slow() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.set()
            await release.wait()

    async def consume() -> None:
        stream = Agent("A", tools=[slow], model=ScriptedModel(call("slow"))).stream("go")
        try:
            async with stream:
                await asyncio.Event().wait()
        finally:
            statuses.append(stream.run.status)

    task = asyncio.create_task(consume())
    await entered.wait()
    task.cancel()
    await cut_off.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert statuses == [], "it waits for the run to end"
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert statuses == ["cancelled"]


async def test_a_stream_that_is_never_read_runs_to_its_end_when_asked_for_the_result():
    async with Agent("A", model=ScriptedModel("ok")).stream("go") as stream:
        assert (await stream.result()).output == "ok"


async def test_a_background_run_that_nobody_holds_goes_on():
    finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @tool
    async def wait_for_what_nobody_else_holds() -> str:
        private: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reference = weakref.ref(private)
        asyncio.get_running_loop().call_later(0.05, lambda: _settle(reference))
        return await private

    hooks = Hooks(on_finish=lambda ctx, result: finished.set_result(result.text))
    model = ScriptedModel(call("wait_for_what_nobody_else_holds"), "ok")
    Agent("A", tools=[wait_for_what_nobody_else_holds], hooks=hooks, model=model).start("go")
    await asyncio.sleep(0)
    gc.collect()
    assert await asyncio.wait_for(finished, 30) == "ok"
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


def _settle(reference: Any) -> None:
    future = reference()
    assert future is not None, "the run was collected"
    future.set_result("ok")


async def test_several_readers_of_a_run_see_the_same():
    run = Agent("A", model=ScriptedModel(delay(0, say("ok")))).start("go")
    first, second = await asyncio.gather(_all(run), _all(run))
    third = await _all(run)
    assert first == second == third
    check_stream(first)


async def _all(run: Any) -> list[Any]:
    return [event async for event in run.events()]


async def test_the_text_of_a_stream_is_what_was_said():
    model = ScriptedModel(say("Once upon a time."), chunk=3)
    async with Agent("A", model=model).stream("go") as stream:
        pieces = [piece async for piece in stream.text()]
    assert "".join(pieces) == "Once upon a time."
    assert len(pieces) == 6


async def test_retries_are_shown_as_a_reset_and_the_text_is_kept_once(monkeypatch: pytest.MonkeyPatch):
    from perdure.durable.kernel import SystemClock

    async def at_once(self: Any, seconds: float) -> None: ...

    monkeypatch.setattr(SystemClock, "sleep", at_once)
    model = ScriptedModel(
        fail(RateLimited("slow down"), after="Once "), raw(TextChunk("Twice ")), fail(RateLimited("no")), "Thrice."
    )
    run = Agent("A", model=model).start("go")
    seen = await _all(run)
    check_stream(seen)
    names = [type(one).__name__ for one in seen]
    assert names == [
        "RunStarted",
        "AgentStarted",
        "MessageStarted",
        "TextDelta",
        "MessageReset",
        "StepRetrying",
        "TextDelta",
        "MessageReset",
        "StepRetrying",
        "StepRetrying",
        "TextDelta",
        "MessageFinished",
        "UsageUpdated",
        "AgentFinished",
        "RunCompleted",
    ]
    assert (await run.result()).output == "Thrice."
