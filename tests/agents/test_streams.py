"""For any run: its stream is well-formed, its log folds to the state it had, and shows the events that it showed."""

import asyncio
import dataclasses
from collections import Counter
from typing import Annotated, Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from perdure import (
    Agent,
    Approve,
    Budget,
    Context,
    Deny,
    Network,
    RateLimited,
    RunCancelled,
    RunFailed,
    add,
    parallel,
    sequence,
    tool,
)
from perdure import events as ev
from perdure.agents.network_loop import NetworkLoop
from perdure.durable.kernel import SystemClock
from perdure.testing import FunctionModel, call, calls, fail, raw, say
from perdure.types.chunks import TextChunk, ToolCallChunk
from tests.agents.watching import check_stream, check_transcript, projected, records_of, replayed

pytestmark = pytest.mark.usefixtures("nothing_left", "at_once")


@pytest.fixture(scope="module")
def at_once() -> Any:
    """Let back-off give way to others, and take no time."""
    patch = pytest.MonkeyPatch()

    async def sleep(self: Any, seconds: float) -> None:
        await asyncio.sleep(0)

    patch.setattr(SystemClock, "sleep", sleep)
    yield
    patch.undo()


@dataclasses.dataclass
class Board:
    count: Annotated[int, add] = 0
    last: str = ""


async def give_way(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@tool
async def work(ctx: Context[Board], n: int = 0) -> int:
    ctx.state.data.count += 1
    ctx.emit({"n": n})
    await give_way(n)
    ctx.state.data.last = f"{n}"
    return n


@tool(effect="pure", retries=1)
async def broken(ctx: Context[Board], n: int = 0) -> None:
    ctx.state.data.count += 100
    await give_way(n)
    raise ValueError("no")


@tool(effect="steps")
async def stepwise(ctx: Context[Board], n: int = 0) -> Any:
    async def inner() -> int:
        await give_way(n)
        return n

    first = await ctx.step.run("a", inner)
    return [first, *await asyncio.gather(ctx.step.run("b", inner), ctx.step.run("c", inner))]


@tool(effect="steps")
async def ask(ctx: Context[Board], n: int = 0) -> str:
    return (await ctx.run(helper, "please", state=Board(n))).output


@tool(timeout=0.001)
async def slow(n: int = 0) -> None:
    await asyncio.Event().wait()


@tool
async def schedule(ctx: Context[Board], n: int = 0) -> None:
    ctx.network.schedule(("One", "Two", "Nobody")[n % 3])


@tool
async def stop(n: int = 0) -> str:
    await give_way(n)
    return "stopped"


@tool(requires_approval=lambda n: n > 0)
async def pay(ctx: Context[Board], n: int = 0) -> str:
    ctx.state.data.count += 10
    return f"paid {n}"


@tool(effect="steps")
async def ask_payer(ctx: Context[Board], n: int = 0) -> Any:
    await ctx.step.run("before", lambda: n)
    return (await ctx.run(payer, "pay")).output


TOOLS = (work, broken, stepwise, ask, slow, schedule, stop)
helper = Agent("Helper", tools=[work, broken])
payer = Agent("Payer", tools=[pay])
one, two = (Agent(name, tools=TOOLS, stop_when="stop") for name in ("One", "Two"))
strict = Agent("Strict", tools=TOOLS, strict=True, parallel_tools=False)

DEFINITIONS = {
    "agent": one,
    "strict": strict,
    "sequence": Network("N", agents=[one, two], router=sequence(one, two), state=Board),
    "group": Network("N", agents=[one, two], router=sequence(parallel(one, two), one), state=Board),
    "mixed": Network("N", agents=[one, two, strict], router=sequence(parallel(strict, two), one), state=Board),
}

texts = st.sampled_from(["", "a", "bc", "def ghi"])
made = st.tuples(st.sampled_from([*(one.name for one in TOOLS), "unknown"]), st.integers(0, 3))
moves = st.one_of(
    st.tuples(st.just("say"), texts),
    st.tuples(st.just("calls"), texts, st.lists(made, min_size=1, max_size=4)),
    st.tuples(st.just("again"), texts),
    st.tuples(st.just("fail"), texts),
    st.tuples(st.just("cut"), texts),
)


def model(script: list[Any]) -> FunctionModel:
    """A model that makes the moves of a script, whoever asks, and then says that it is over."""
    left = list(script)

    async def answer(request: Any) -> Any:
        await asyncio.sleep(0)
        what, text, *more = left.pop(0) if left else ("say", "over")
        if what == "calls":
            return calls(*(call(name, n=n) for name, n in more[0]), text=text)
        if what == "again":
            return fail(RateLimited("slow down"), after=text)
        if what == "fail":
            return fail(KeyError("broken"), after=text)
        if what == "cut":
            return raw(TextChunk(text), ToolCallChunk(0, "1", "work", '{"n": '))
        return say(text)

    return FunctionModel(answer, chunk=2)


def shape(loop: NetworkLoop) -> dict[str, Any]:
    """What a state holds."""
    return {
        "transcript": loop.transcript,
        "doc": loop.doc,
        "results": loop.results,
        "usage": loop.total_usage,
        "queue": list(loop.queue),
        "turns": loop.call_count,
        "routes": loop.routes,
        "stop": (loop.stopping, loop.stop_reason, loop.stop_detail),
        "error": loop.error,
        "finished": loop.finished,
        "steps": loop.steps,
        "open": [(turn.prefix, turn.phase, turn.said) for turn in loop.current],
    }


LIVE_ONLY = (
    ev.TextDelta,
    ev.ReasoningDelta,
    ev.ToolCallStarted,
    ev.ToolArgsDelta,
    ev.ToolProgress,
    ev.MessageReset,
    ev.StepStarted,
)
OPENING = (ev.AgentStarted, ev.MessageStarted, ev.ToolStarted)


def from_records(seen: list[ev.AnyEvent]) -> list[ev.AnyEvent]:
    """The events that a record shows, in order."""
    return [one for one in seen if one.seq is not None and not isinstance(one, LIVE_ONLY)]


def openings(seen: list[ev.AnyEvent]) -> Counter[Any]:
    return Counter((type(one).__name__, one.step) for one in seen if isinstance(one, OPENING))


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(DEFINITIONS)),
    st.lists(moves, max_size=6),
    st.none() | st.integers(0, 40),
    st.none() | st.integers(0, 5),
    st.none() | st.integers(0, 4),
)
async def test_any_run(
    name: str, script: list[Any], cancel_at: int | None, model_calls: int | None, max_iter: int | None
):
    definition = DEFINITIONS[name]
    options: dict[str, Any] = {} if model_calls is None else {"budget": Budget(model_calls=model_calls)}
    if max_iter is not None:
        options["max_iter"] = max_iter
    run = definition.start("go", model=model(script), state=Board(), **options)
    running = run._running
    seen: list[ev.AnyEvent] = []
    cancelling: asyncio.Task[None] | None = None
    async for event in run.events():
        seen.append(event)
        if len(seen) == cancel_at:
            cancelling = asyncio.create_task(run.cancel())
    try:
        result = await run.result()
    except (RunFailed, RunCancelled) as ended:
        result = ended.result
    if cancelling is not None:
        await cancelling
    note("\n".join(f"{type(one).__name__} {one.step} {one.seq}" for one in seen))

    check_stream(seen)
    check_transcript(result.messages)
    for turn in result.results:
        check_transcript(turn.messages)

    records = await records_of(running)
    assert [one.seq for one in records] == list(range(1, len(records) + 1))
    keys = [one.key for one in records if one.key is not None]
    assert len(set(keys)) == len(keys)
    assert shape(replayed(running, records)) == shape(running.loop)

    shown = projected(running, records)
    check_stream(shown)
    assert from_records(shown) == from_records(seen)
    assert not openings(shown) - openings(seen)
    assert (
        result.status
        == {"RunCompleted": "completed", "RunFailed": "failed", "RunCancelled": "cancelled"}[type(seen[-1]).__name__]
    )
    if model_calls is not None:
        assert result.usage.model_calls <= max(model_calls, 1) + 3, "at most the calls in flight beyond it"


patient, other = (Agent(name, tools=[work, broken, pay, ask_payer]) for name in ("Patient", "Other"))
WAITING = {
    "agent": patient,
    "one by one": Agent("Strict", tools=[work, pay, ask_payer], parallel_tools=False),
    "group": Network("N", agents=[patient, other], router=sequence(parallel(patient, other), patient), state=Board),
}
asking = st.tuples(st.sampled_from(["work", "broken", "pay", "pay", "ask_payer"]), st.integers(0, 2))


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(WAITING)),
    st.lists(
        st.tuples(st.just("calls"), texts, st.lists(asking, min_size=1, max_size=3)) | st.tuples(st.just("say"), texts),
        max_size=6,
    ),
    st.lists(st.booleans() | st.none(), max_size=12),
)
async def test_any_run_that_waits(name: str, script: list[Any], answers: list[bool | None]):
    """A wait is answered with yes, no, or not yet; in the end all are."""
    left = list(answers)
    result = await WAITING[name].run("go", model=model(script), state=Board())
    rounds = 0
    while result.status == "waiting":
        rounds += 1
        given_now: dict[str, Any] = {}
        for wait in result.waits:
            said = left.pop(0) if left else True
            if said is not None:
                given_now[wait.id] = Approve() if said else Deny("no")
        result = await result.resume(given_now)
        running = result._running
        assert shape(replayed(running, await records_of(running))) == shape(running.loop)
        assert rounds < 100
    check_transcript(result.messages)
    assert result.status == "completed"
    records = await records_of(result._running)
    shown = projected(result._running, records)
    check_stream(shown)
    opened = [one.wait.id for one in shown if isinstance(one, ev.WaitOpened)]
    assert {one.wait_id for one in shown if isinstance(one, ev.WaitResolved)} == set(opened)
