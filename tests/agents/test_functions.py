"""Durable functions in memory: definitions, doors, steps, retries, invoking, asking models, functions as tools."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import (
    Agent,
    AmbiguousStep,
    Answer,
    Budget,
    Concurrency,
    Context,
    DefinitionError,
    Function,
    InvokeError,
    InvokeTimeout,
    Network,
    NonRetriable,
    OutputInvalid,
    OverBudget,
    Prices,
    Question,
    RetryAfter,
    RunCancelled,
    RunFailed,
    SentEvent,
    StepError,
    Unserialisable,
    events,
    function,
)
from perdure.agents.function_program import LONG
from perdure.durable.endings import Parked
from perdure.durable.kernel import Kernel, SystemClock
from perdure.durable.step import Body
from perdure.testing import EventRecorder, ScriptedModel, call, fail, say
from perdure.types.errors import PerdureError, RateLimited
from perdure.types.waits import WaitAnswer

Ctx = Context[Any]


class NoTime(SystemClock):
    """A clock whose sleeps are over at once, and are remembered."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long runs in memory would have slept."""
    clock = NoTime()
    made = Kernel.__init__

    def init(self: Kernel, *args: Any, **given: Any) -> None:
        made(self, *args, **given)
        self.clock = clock

    monkeypatch.setattr(Kernel, "__init__", init)
    return clock.slept


@dataclass
class Receipt:
    number: int
    at: datetime


@function
async def pay(ctx: Ctx, amount: int, to: str = "bank") -> Receipt:
    """Pay somebody.

    Args:
        amount: in cents
        to: who gets it
    """
    number = await ctx.step.run("number", lambda: amount * 10)
    return Receipt(number, datetime(2026, 1, 1, tzinfo=UTC))


@function(event="app/memories.create", retries=0)
async def create_memory(ctx: Ctx, event: SentEvent) -> str:
    """Keep what was said."""
    return f"{event.name}: {event.data['statements']}"


# -- definitions and doors -------------------------------------------------------------------------------------------


async def test_all_four_doors_give_what_the_function_is_said_to_return():
    result = await pay.run({"amount": "7"}, user_id="ada")
    assert result.output == Receipt(70, datetime(2026, 1, 1, tzinfo=UTC)) and result.messages == ()
    assert (await pay.start({"amount": 7}).result()).output.number == 70
    assert pay.run_sync({"amount": 7}).output.number == 70
    recorder = EventRecorder()
    run = await recorder.watch(pay.stream({"amount": 7, "to": "bo"}))
    recorder.assert_well_formed()
    assert (await run.result()).output.number == 70
    assert [type(one).__name__ for one in recorder.events] == [
        *("RunStarted", "StepStarted", "StepStarted", "StepFinished", "StepFinished", "RunCompleted")
    ]
    assert {one.step for one in recorder.of(events.StepStarted)} == {"function", "function/number"}


async def test_a_function_of_an_event_takes_the_event_or_its_data():
    given = {"statements": ["Ada likes tea."]}
    expected = "app/memories.create: ['Ada likes tea.']"
    assert (await create_memory.run(given)).output == expected
    assert (await create_memory.run(SentEvent("app/memories.create", given, "e1"))).output == expected


async def test_a_function_stays_callable_as_what_it_was():
    @function
    async def double(n: int) -> int:
        return 2 * n

    assert await double(4) == 8
    assert (await double.run({"n": 4})).output == 8


async def test_a_schedule_may_start_a_function_that_takes_nothing():
    @function(cron="0 2 * * *")
    async def nightly() -> str:
        return "done"

    assert (await nightly.run()).output == "done"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: function(lambda: 1), "async def"),
        (lambda: function(retries=-1)(_nothing), "retries=-1"),
        (lambda: function(event="")(_nothing), "event=''"),
        (lambda: function(concurrency=0)(_nothing), "limit=0"),
        (lambda: function(concurrency="3")(_nothing), "concurrency="),  # type: ignore[call-overload]
        (lambda: function(concurrency=Concurrency(1, "data..x"))(_nothing), "dotted path"),
        (lambda: function(name="a/b")(_nothing), "without '/'"),
        (lambda: function(event="e")(_two), "the context and the event"),
        (lambda: function(cron="0 25 * * *")(_nothing), "Bad hour"),
        (lambda: function(cron="0 0 31 4 *")(_nothing), "Bad day-of-month"),
        (lambda: function(cron="0 0 * * * *")(_nothing), "five fields"),
        (lambda: function(container="acme")(_nothing), "where cron= starts it"),
        (lambda: function(cron="0 2 * * *", container="a b")(_nothing), "container='a b' must be the id"),
        (lambda: function(cron="0 2 * * *", container=[])(_nothing), "container"),
        (lambda: function(cron="0 2 * * *", container=["*", "acme"])(_nothing), "container"),
        (lambda: function(cron="0 2 * * *", container=3)(_nothing), "container=3 must"),
        (lambda: function(cron="TZ=Nowhere/City 0 0 * * *")(_nothing), "no time zone 'Nowhere/City'"),
    ],
)
def test_a_wrong_definition_is_refused_when_it_is_made(make: Any, said: str):
    with pytest.raises(DefinitionError, match=said.replace("*", ".").replace("(", ".")):
        make()


async def _nothing() -> None: ...


async def _two(a: int, b: int) -> None: ...


def test_a_definition_is_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        pay.retries = 3


@pytest.mark.parametrize("given", [{"amount": "much"}, {}, {"amount": 1, "of": 2}, "7", 7])
async def test_what_does_not_fit_is_refused_at_the_door(given: Any):
    with pytest.raises(PerdureError):
        await pay.run(given)


async def test_options_that_mean_nothing_to_a_function_are_refused():
    with pytest.raises(DefinitionError, match="max_iter"):
        await pay.run({"amount": 1}, max_iter=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# -- failures --------------------------------------------------------------------------------------------------------


def failing(times: int, error: Exception, retries: int = 4) -> tuple[Function[..., str], list[str]]:
    """A function that fails so often, and what its step and body did."""
    did: list[str] = []

    @function(retries=retries)
    async def fails(ctx: Ctx) -> str:
        await ctx.step.run("once", lambda: did.append("step"))
        did.append("body")
        if did.count("body") <= times:
            raise error
        return "at last"

    return fails, did


async def test_a_failed_body_is_entered_again_and_its_finished_steps_are_answered(slept: list[float]):
    fails, did = failing(3, ValueError("no"))
    recorder = EventRecorder()
    run = await recorder.watch(fails.stream(run_id="job"))
    assert (await run.result()).output == "at last"
    assert did == ["step", "body", "body", "body", "body"]
    retried = recorder.of(events.StepRetrying)
    assert [one.attempt for one in retried] == [1, 2, 3] and [one.error.message for one in retried] == ["no"] * 3
    assert slept == [one.wait for one in retried]
    assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(slept)), "doubled, and shortened by up to a half"


async def test_the_rest_between_attempts_follows_from_the_run(slept: list[float]):
    for _ in range(2):
        fails, _ = failing(3, ValueError("no"))
        await fails.run(run_id="job")
    assert slept[:3] == slept[3:]
    fails, _ = failing(3, ValueError("no"))
    await fails.run(run_id="other")
    assert slept[6:] != slept[:3]


async def test_after_the_last_attempt_the_run_fails_with_what_happened(slept: list[float]):
    fails, did = failing(9, ValueError("no"), retries=2)
    with pytest.raises(RunFailed, match="'fails' failed in step function: ValueError: no") as failed:
        await fails.run()
    assert did.count("body") == 3 and len(slept) == 2
    assert isinstance(failed.value.__cause__, ValueError)
    assert any("attempt 3" in note for note in failed.value.__cause__.__notes__)


@pytest.mark.parametrize("error", [NonRetriable("never"), StepError("over"), AmbiguousStep("twice")])
async def test_what_another_attempt_would_only_meet_again_ends_the_run(error: Exception):
    fails, did = failing(9, error)
    with pytest.raises(RunFailed):
        await fails.run()
    assert did.count("body") == 1


@pytest.mark.parametrize("when", [90.0, timedelta(seconds=90)])
async def test_a_function_says_when_it_wants_to_be_tried_again(when: Any, slept: list[float]):
    fails, _ = failing(1, RetryAfter(when))
    assert (await fails.run()).output == "at last"
    assert slept == [90.0]


async def test_retry_after_a_moment_needs_a_time_zone(slept: list[float]):
    with pytest.raises(DefinitionError, match="time zone"):
        RetryAfter(datetime(2026, 1, 1))  # noqa: DTZ001
    fails, _ = failing(1, RetryAfter(datetime(2020, 1, 1, tzinfo=UTC)))
    assert (await fails.run()).output == "at last"
    assert slept == [0.0], "a moment that is over is not waited for"


async def test_what_cannot_be_kept_fails_at_once():
    @function
    async def live(ctx: Ctx) -> Any:
        return object()

    with pytest.raises(RunFailed, match="not JSON-serialisable") as failed:
        await live.run()
    assert isinstance(failed.value.__cause__, Unserialisable)


async def test_a_function_that_is_cancelled_ends_so():
    begun = asyncio.Event()

    @function
    async def waits(ctx: Ctx) -> None:
        begun.set()
        await asyncio.Event().wait()

    run = waits.start()
    await begun.wait()
    await run.cancel()
    assert run.status == "cancelled"
    with pytest.raises(RunCancelled):
        await run.result()
    with pytest.raises(RunCancelled, match="deadline"):
        await waits.run(deadline=0.01)


# -- waiting ---------------------------------------------------------------------------------------------------------


async def ask(body: Body, id: str) -> str:
    answer: WaitAnswer = await body.wait(id, "ask", lambda mark: Question(mark, "Well?", body.io.token.run_id))
    assert isinstance(answer, Answer)
    return answer.text


async def test_r16_a_function_that_waits_for_a_person_is_ended_and_entered_again():
    finals: list[bool] = []

    @function
    async def asks(ctx: Ctx) -> str:
        try:
            return await ask(ctx.body, "q")
        finally:
            finals.append(ctx.suspending)

    result = await asks.run()
    assert result.status == "waiting" and finals == [True]
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result.output == "yes" and finals == [True, False]


async def test_b53_a_sleep_in_memory_sleeps(slept: list[float]):
    @function
    async def sleeps(ctx: Ctx) -> str:
        await ctx.step.sleep("nap", timedelta(days=21))
        return "awake"

    assert (await sleeps.run()).output == "awake"
    assert slept == [21 * 86_400.0]


# -- invoking --------------------------------------------------------------------------------------------------------


async def test_b53_a_function_invokes_functions_agents_and_networks():
    class Answered(BaseModel):
        n: int

    speaker = Agent("Speaker", model=ScriptedModel(say("hello"), say("again")))
    typed = Agent("Typed", output_type=Answered, model=ScriptedModel(say('{"n": 3}')))
    desk = Network("Desk", agents=[speaker], router=lambda r: None if r.call_count else speaker)

    @function
    async def all_of_them(ctx: Ctx) -> list[Any]:
        paid = await ctx.step.invoke("pay", pay, {"amount": 1})
        said = await ctx.step.invoke("speak", speaker, "hi")
        found = await ctx.step.invoke("type", typed, "hi")
        told = await ctx.step.invoke("desk", desk, "hi")
        return [paid.number, said, found.n, told]

    result = await all_of_them.run()
    assert result.output == [10, "hello", 3, "again"]
    assert result.usage.model_calls == 3


async def test_r15_an_invoked_run_takes_no_session_and_no_id():
    for option in ("session_id", "run_id"):

        @function
        async def invokes(ctx: Ctx, option: str = option) -> None:
            await ctx.step.invoke("x", pay, {"amount": 1}, **{option: "mine"})  # pyright: ignore[reportArgumentType]

        with pytest.raises(RunFailed, match=f"takes no {option}"):
            await invokes.run()


async def test_how_an_invoked_run_fails_is_told_by_a_type_of_its_own():
    @function(retries=0)
    async def broken(ctx: Ctx) -> None:
        raise KeyError("gone")

    @function
    async def catches(ctx: Ctx) -> list[str]:
        try:
            await ctx.step.invoke("x", broken)
        except InvokeError as error:
            return [error.type, error.run_id, str(error)]
        return []

    kind, run_id, said = (await catches.run()).output
    assert kind == "KeyError" and run_id in said and "'broken'" in said


async def test_an_invoked_run_that_takes_too_long_is_cancelled():
    ended: list[str] = []

    @function
    async def slow(ctx: Ctx) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    @function
    async def impatient(ctx: Ctx) -> str:
        try:
            await ctx.step.invoke("x", slow, timeout=0.01)
        except InvokeTimeout:
            return "too late"
        return "in time"

    assert (await impatient.run()).output == "too late" and ended == ["ended"]


async def test_a_wait_of_an_invoked_run_is_answered_through_the_one_above_in_memory():
    @function
    async def inner(ctx: Ctx) -> str:
        return await ask(ctx.body, "q")

    @function
    async def outer(ctx: Ctx) -> str:
        return "outer " + await ctx.step.invoke("x", inner)

    result = await outer.run()
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result.output == "outer yes"


async def test_a_step_that_was_done_with_other_arguments_parks_the_run(slept: list[float]):
    amounts = iter((1, 2))

    @function
    async def changes(ctx: Ctx) -> None:
        await ctx.step.invoke("x", pay, {"amount": next(amounts)})
        raise ValueError

    with pytest.raises(Parked, match="'function/x' was finished with other arguments"):
        await changes.run()


async def test_what_is_no_definition_cannot_be_invoked():
    @function
    async def wrong(ctx: Ctx) -> None:
        await ctx.step.invoke("x", _nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with pytest.raises(RunFailed, match="takes a function, an agent or a network"):
        await wrong.run()


# -- as tools --------------------------------------------------------------------------------------------------------


async def test_b22_a_function_as_a_tool_is_invoked_and_awaited_as_a_step():
    model = ScriptedModel(call("pay", amount=5), say("Paid."))
    agent = Agent("Clerk", tools=[pay], model=model)
    result = await agent.run("pay 5")
    assert result.output == "Paid."
    content = result.results[0].tool_calls[0].content
    assert content == {"data": {"number": 50, "at": "2026-01-01T00:00:00Z"}}
    (spec,) = model.requests[0].tools
    assert (spec.name, spec.description) == ("pay", "Pay somebody.")
    assert spec.parameters["properties"]["amount"] == {"type": "integer", "description": "in cents"}


async def test_a_model_reads_what_is_wrong_with_its_arguments():
    agent = Agent("Clerk", tools=[pay], model=ScriptedModel(call("pay", amount="much"), say("Sorry.")))
    result = await agent.run("pay")
    assert result.results[0].tool_calls[0].content["error"]["name"] == "ArgumentsInvalid"


def test_a_function_of_an_event_is_no_tool():
    with pytest.raises(DefinitionError, match="send_event"):
        Agent("A", tools=[create_memory])


async def test_a_function_runs_as_a_child_of_a_function():
    @function
    async def outer(ctx: Ctx) -> int:
        return (await ctx.run(pay, {"amount": 2})).output.number

    assert (await outer.run()).output == 20


# -- asking models ---------------------------------------------------------------------------------------------------


class Found(BaseModel):
    n: int


async def test_b53_a_model_is_asked_once_and_its_answer_is_kept(slept: list[float]):
    model = ScriptedModel(say("blue"))
    tries: list[str] = []

    @function
    async def asks(ctx: Ctx) -> str:
        colour = await ctx.step.infer("colour", model, "Which colour?", system="One word.")
        tries.append(colour)
        if len(tries) == 1:
            raise ValueError
        return colour

    recorder = EventRecorder()
    run = await recorder.watch(asks.stream())
    result = await run.result()
    assert result.output == "blue" and tries == ["blue", "blue"] and result.usage.model_calls == 1
    assert [one.content for one in model.requests[0].messages] == ["One word.", "Which colour?"]
    assert len(recorder.of(events.UsageUpdated)) == 1


async def test_an_answer_that_does_not_fit_its_type_is_corrected_and_each_call_counts():
    model = ScriptedModel(say("three"), say('{"n": "x"}'), say('{"n": 3}'))

    @function
    async def asks(ctx: Ctx) -> int:
        return (await ctx.step.infer("n", model, "How many?", output_type=Found)).n

    result = await asks.run()
    assert result.output == 3 and result.usage.model_calls == 3
    assert len(model.requests[2].messages) == 5


async def test_an_answer_that_never_fits_is_an_error():
    @function(retries=0)
    async def asks(ctx: Ctx) -> int:
        return (await ctx.step.infer("n", ScriptedModel(*[say("no")] * 3), "How many?", output_type=Found)).n

    with pytest.raises(RunFailed, match="no valid answer in 3 attempts") as failed:
        await asks.run()
    assert isinstance(failed.value.__cause__, OutputInvalid)


async def test_budgets_count_what_steps_ask_of_models():
    model = ScriptedModel(say("one"), say("two"), prices=Prices(1, 1))

    @function
    async def asks(ctx: Ctx) -> list[str]:
        return [await ctx.step.infer(str(n), model, "Next?") for n in range(2)]

    with pytest.raises(RunFailed, match="1 of 1 model calls are used") as failed:
        await asks.run(budget=Budget(model_calls=1))
    assert isinstance(failed.value.__cause__, OverBudget)
    assert failed.value.result.usage.model_calls == 1


async def test_a_failing_model_is_asked_again_within_its_step(slept: list[float]):
    @function(retries=0)
    async def asks(ctx: Ctx) -> str:
        return await ctx.step.infer("x", ScriptedModel(fail(RateLimited("slow down")), say("well")), "Hm?")

    assert (await asks.run()).output == "well" and len(slept) == 1


async def test_a_tool_asks_its_agents_model_and_the_agent_pays():
    from perdure import tool

    @tool(effect="steps")
    async def think(ctx: Ctx) -> str:
        return await ctx.step.infer("x", None, "Hm?")

    agent = Agent("A", tools=[think], model=ScriptedModel(call("think"), say("thought"), say("done")))
    result = await agent.run("x")
    assert result.results[0].tool_calls[0].content == {"data": "thought"}
    assert result.usage.model_calls == 3 and result.results[0].usage.model_calls == 3


def test_long_rests_are_those_that_no_task_should_sleep():
    assert 1 < LONG < 60
