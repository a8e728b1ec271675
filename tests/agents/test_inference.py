"""One inference: what is tried again and what is not, what a time limit does, and what is shown meanwhile."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Agent,
    AuthenticationFailed,
    BadRequest,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    Hooks,
    ModelError,
    ModelSettings,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    Prices,
    RateLimited,
    RunFailed,
    Usage,
    events,
    tool,
)
from perdure.durable.kernel import SystemClock
from perdure.models.model import Capabilities
from perdure.testing import ScriptedModel, call, calls, fail, hang, raw, say
from perdure.types.chunks import Finished, ReasoningChunk, Restarted, TextChunk, ToolCallChunk
from tests.agents.watching import watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the back-off lasted, which takes no time here."""
    waits: list[float] = []

    async def sleep(self: Any, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    return waits


@tool(effect="pure")
def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


# -- trying again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RateLimited, Overloaded, ModelUnreachable, ModelTimeout, BadResponse])
async def test_a_failure_that_may_pass_is_tried_again(kind: type[ModelError], slept: list[float]):
    model = ScriptedModel(fail(kind("no")), fail(kind("no")), say("Hi."))
    watched = await watch(Agent("A", model=model))
    assert watched.result is not None and watched.result.output == "Hi."
    assert len(model.requests) == 3
    retrying = watched.of(events.StepRetrying)
    assert [(one.attempt, one.error.type, one.step) for one in retrying] == [
        (1, kind.__name__, "agent/0/infer/0"),
        (2, kind.__name__, "agent/0/infer/0"),
    ]
    assert [one.wait for one in retrying] == slept
    assert 0.25 <= slept[0] <= 0.5 and 0.5 <= slept[1] <= 1.0, "longer each time, shortened by chance"
    assert watched.result.usage.model_calls == 1


@pytest.mark.parametrize("kind", [AuthenticationFailed, BadRequest, ContextTooLong, ContentRefused, ModelError])
async def test_a_failure_that_stays_is_not_tried_again(kind: type[ModelError], slept: list[float]):
    model = ScriptedModel(fail(kind("no", provider="p", model="m")), say("never"))
    watched = await watch(Agent("A", model=model))
    assert isinstance(watched.error, RunFailed)
    assert isinstance(watched.error.__cause__, kind)
    assert "p:m: no" in str(watched.error)
    assert (len(model.requests), slept) == (1, [])


async def test_what_is_no_failure_of_the_model_is_not_tried_again(slept: list[float]):
    model = ScriptedModel(fail(KeyError("bug")), say("never"))
    watched = await watch(Agent("A", model=model))
    assert isinstance(watched.error, RunFailed) and isinstance(watched.error.__cause__, KeyError)
    assert (len(model.requests), slept) == (1, [])


@pytest.mark.parametrize(("asked", "waited"), [(7.5, 7.5), (0.0, 0.0), (100_000.0, 600.0)])
async def test_what_the_provider_asks_to_wait_is_waited(asked: float, waited: float, slept: list[float]):
    await Agent("A", model=ScriptedModel(fail(RateLimited("slow down", retry_after=asked)), say("Hi."))).run("x")
    assert slept == [waited]


@pytest.mark.parametrize("retries", [0, 1, 5])
async def test_it_is_tried_as_often_as_the_settings_say(retries: int, slept: list[float]):
    model = ScriptedModel(fail(Overloaded("busy")), repeat=True)
    with pytest.raises(RunFailed, match="Overloaded: busy") as failed:
        await Agent("A", model=model, settings=ModelSettings(retries=retries)).run("x")
    assert len(model.requests) == retries + 1
    assert f"attempt {retries + 1} of {retries + 1}" in failed.value.__cause__.__notes__  # type: ignore[union-attr]


async def test_the_run_s_settings_lie_over_the_agent_s_and_those_over_the_model_s():
    class Set(ScriptedModel):
        settings = ModelSettings(temperature=0.1, top_p=0.1, max_tokens=1)

    agent = Agent("A", model=Set("ok"), settings=ModelSettings(top_p=0.2, max_tokens=2))
    await agent.run("x", settings=ModelSettings(max_tokens=3))
    asked = agent.model.requests[0].settings  # type: ignore[union-attr]
    assert (asked.temperature, asked.top_p, asked.max_tokens) == (0.1, 0.2, 3)


async def test_the_next_inference_has_all_its_attempts(slept: list[float]):
    busy = fail(Overloaded("busy"))
    model = ScriptedModel(busy, call("weather", city="Oslo"), busy, say("Rain."))
    settings = ModelSettings(retries=1)
    assert (await Agent("A", tools=[weather], model=model, settings=settings).run("x")).output == "Rain."


async def test_hooks_are_not_called_again_by_an_attempt(slept: list[float]):
    called: list[str] = []
    hooks = Hooks(on_start=lambda ctx, messages: called.append("start"), on_response=lambda *_: called.append("end"))
    await Agent("A", hooks=hooks, model=ScriptedModel(fail(Overloaded("busy")), say("Hi."))).run("x")
    assert called == ["start", "end"]


async def test_what_a_failed_attempt_said_is_void(slept: list[float]):
    half = raw(ReasoningChunk("hm"), TextChunk("Hel"), ToolCallChunk(0, "c", "weather", "{}"))
    watched = await watch(Agent("A", tools=[weather], model=ScriptedModel(half, say("Hello."))))
    assert watched.result is not None
    assert [one.text for one in watched.result.new_messages] == ["go", "Hello."]  # type: ignore[union-attr]
    (reset,) = watched.of(events.MessageReset)
    assert "broke off before its end" in reset.reason
    shown = [one.text for one in watched.events[watched.events.index(reset) :] if isinstance(one, events.TextDelta)]
    assert shown == ["Hello."]


async def test_an_attempt_that_said_nothing_needs_no_reset(slept: list[float]):
    watched = await watch(Agent("A", model=ScriptedModel(fail(Overloaded("busy")), say("Hi."))))
    assert watched.of(events.MessageReset) == []


# -- time limits ------------------------------------------------------------------------------------------------------


async def test_an_answer_that_takes_too_long_is_a_time_out(slept: list[float]):
    model = ScriptedModel(hang(), say("Hi."))
    result = await Agent("A", model=model, settings=ModelSettings(timeout=0.01)).run("x")
    assert result.output == "Hi."
    watched = await watch(Agent("A", model=ScriptedModel(hang()), settings=ModelSettings(timeout=0.01, retries=0)))
    assert isinstance(watched.error, RunFailed)
    assert isinstance(watched.error.__cause__, ModelTimeout)
    assert "no whole answer within 0.01 s" in str(watched.error)


async def test_a_time_out_of_the_provider_s_own_is_one_too(slept: list[float]):
    watched = await watch(
        Agent("A", model=ScriptedModel(fail(TimeoutError("read timed out"))), settings=ModelSettings(retries=0))
    )
    assert isinstance(watched.error, RunFailed)
    assert isinstance(watched.error.__cause__, ModelTimeout)
    assert "read timed out" in str(watched.error)


# -- what is asked and said -------------------------------------------------------------------------------------------


async def test_a_prefill_is_put_before_the_first_piece_only():
    model = ScriptedModel(say("2 pigs and a cow}"), chunk=3, capabilities=Capabilities(prefill=True))
    watched = await watch(Agent("A", model=model, prefill="{"))
    assert watched.result is not None and watched.result.output == "{2 pigs and a cow}"
    assert "".join(one.text for one in watched.of(events.TextDelta)) == "{2 pigs and a cow}"


async def test_a_prefill_is_put_before_a_new_attempt_too(slept: list[float]):
    script = [fail(Overloaded("busy"), after="1"), say("2}")]
    model = ScriptedModel(*script, capabilities=Capabilities(prefill=True))
    assert (await Agent("A", model=model, prefill="{").run("x")).output == "{2}"


async def test_a_prefill_is_put_before_what_a_model_begins_anew():
    pieces = [TextChunk("1"), Restarted("again"), TextChunk("2}"), Finished()]
    model = ScriptedModel(raw(*pieces), capabilities=Capabilities(prefill=True))
    assert (await Agent("A", model=model, prefill="{").run("x")).output == "{2}"


async def test_a_prefill_that_the_model_cannot_take_is_left_out_of_the_answer():
    model = ScriptedModel(say("2}"), capabilities=Capabilities(prefill=False))
    assert (await Agent("A", model=model, prefill="{").run("x")).output == "2}"


async def test_usage_and_cost_are_those_of_all_inferences():
    used = Usage(1_000_000, 100_000, 400_000, reasoning_tokens=5)
    model = ScriptedModel(
        raw(ToolCallChunk(0, "c", "weather", '{"city": "Oslo"}'), Finished("tool", used)),
        raw(TextChunk("Rain."), Finished("stop", used)),
        prices=Prices("3", "15", "0.3"),  # type: ignore[arg-type]
    )
    watched = await watch(Agent("A", tools=[weather], model=model))
    assert watched.result is not None
    usage = watched.result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (2_000_000, 200_000, 800_000)
    assert (usage.reasoning_tokens, usage.model_calls, usage.tool_calls) == (10, 2, 1)
    assert str(usage.cost) == "6.84"
    each = [one.usage for one in watched.of(events.UsageUpdated)]
    assert sum(each, Usage()).total_tokens == usage.total_tokens
    assert sum(each, Usage()).cost == usage.cost


async def test_the_model_that_answered_is_in_the_record(slept: list[float]):
    answered = raw(TextChunk("Hi."), Finished("stop", Usage(1, 1), "other-model", "other", "resp_1"))
    watched = await watch(Agent("A", model=ScriptedModel(answered)))
    payload: Any = next(one.payload for one in await watched.records() if one.kind == "inference")
    assert (payload.model, payload.provider) == ("other-model", "other")
    watched = await watch(Agent("A", model=ScriptedModel(raw(TextChunk("Hi."), Finished()), name="mine")))
    payload = next(one.payload for one in await watched.records() if one.kind == "inference")
    assert (payload.model, payload.provider) == ("mine", "test")


async def test_a_thought_is_streamed_kept_and_sent_back():
    model = ScriptedModel(say("Hi.", reasoning="hm, hm"), say("Still."), chunk=3)
    watched = await watch(Agent("A", model=model))
    assert "".join(one.text for one in watched.of(events.ReasoningDelta)) == "hm, hm"
    assert watched.result is not None and watched.result.output == "Hi."
    await Agent("A", model=model).run("y", messages=watched.result.messages)
    assert [type(one).__name__ for one in model.requests[1].messages] == [
        "TextMessage",
        "ReasoningMessage",
        "TextMessage",
        "TextMessage",
    ]


async def test_several_runs_of_one_agent_do_not_know_of_each_other():
    agent = Agent("A", tools=[weather])
    models = [ScriptedModel(call("weather", city=str(n)), say(f"answer {n}"), chunk=2) for n in range(20)]
    results = await asyncio.gather(*(agent.run(f"question {n}", model=model) for n, model in enumerate(models)))
    for n, result in enumerate(results):
        assert result.output == f"answer {n}"
        assert result.results[0].tool_calls[0].data == f"rain in {n}"
        assert result.messages[0].text == f"question {n}"  # type: ignore[union-attr]
    assert len({result.run_id for result in results}) == 20


class Opened:
    """A model whose stream is no generator: nobody closes it but who opened it."""

    name = "opened"
    provider = "test"
    capabilities = Capabilities()

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.closed = 0

    def stream(self, request: Any) -> Any:
        return self

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        if not self.pieces:
            return await asyncio.get_running_loop().create_future()
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "pieces",
    [(ValueError("no"),), (TextChunk("Hi"), Overloaded("busy")), (TextChunk("Hi"),)],
    ids=["bug", "busy", "late"],
)
async def test_a_stream_that_did_not_end_is_closed(pieces: Any, slept: list[float]):
    model = Opened(*pieces)
    settings = ModelSettings(retries=0, timeout=0.05)
    with pytest.raises(RunFailed):
        await Agent("A", model=model, settings=settings).run("x")
    assert model.closed == 1


async def test_a_structured_answer_is_not_looked_for_beside_tool_calls():
    script = [
        calls(call("weather", city="Oslo"), text='{"a": 1}'),
        calls(call("weather", city="Rome"), text="One more."),
        say('{"a": 2}'),
    ]
    agent = Agent("A", tools=[weather], output_type=dict[str, int], output_retries=0, model=ScriptedModel(*script))
    result = await agent.run("x")
    assert result.output == {"a": 2}
    assert result.usage.model_calls == 3
