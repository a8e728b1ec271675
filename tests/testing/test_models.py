"""The models for users' own tests."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

import perdure.testing
from perdure.models.model import Capabilities, Model, ModelRequest, ToolSpec, prices_of
from perdure.testing import (
    FunctionModel,
    ScriptedModel,
    ScriptExhausted,
    call,
    calls,
    delay,
    fail,
    hang,
    raw,
    say,
)
from perdure.types.assemble import Assembler
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.errors import DefinitionError, RateLimited, Unserialisable
from perdure.types.messages import ReasoningMessage, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage
from perdure.types.usage import Prices, Usage

REQUEST = ModelRequest((TextMessage("user", "What is it?"),))


async def pieces(model: Model, request: ModelRequest = REQUEST) -> list[ModelEvent]:
    return [piece async for piece in model.stream(request)]


async def said(model: Model, request: ModelRequest = REQUEST) -> Any:
    assembler = Assembler()
    async for piece in model.stream(request):
        assembler.add(piece)
    return assembler.messages()


async def text(model: Model) -> str:
    return "".join(one.text for one in await said(model))


# -- answers --------------------------------------------------------------------------------------------------------


async def test_answers_come_in_order_and_requests_are_kept():
    model = ScriptedModel(say("one"), "two")
    other = ModelRequest(())
    assert await text(model) == "one"
    assert await said(model, other) == (TextMessage("assistant", "two", stop_reason="stop"),)
    assert model.requests == [REQUEST, other]


async def test_a_text_is_streamed_whole_or_in_pieces():
    for chunk, expected in ((None, ["abcde"]), (2, ["ab", "cd", "e"]), (9, ["abcde"])):
        *texts, last = await pieces(ScriptedModel("abcde", chunk=chunk))
        assert texts == [TextChunk(one) for one in expected]
        assert isinstance(last, Finished)


async def test_a_call_is_streamed_whole_or_in_pieces():
    whole = await pieces(ScriptedModel(call("look", at="x")))
    assert whole[0] == ToolCallChunk(0, "call_1", "look", '{"at":"x"}')
    first, *more, last = await pieces(ScriptedModel(call("look", at="x"), chunk=4))
    assert first == ToolCallChunk(0, "call_1", "look", '{"at')
    assert more == [ToolCallChunk(0, arguments='":"x'), ToolCallChunk(0, arguments='"}')]
    assert isinstance(last, Finished)
    assert last.reason == "tool"


async def test_several_calls_with_a_text_and_a_thought():
    answer = calls(call("a", x=1), call("b"), calls(call("c")), text="Looking.", reasoning="Hm.")
    for chunk in (None, 1):
        assert await said(ScriptedModel(answer, chunk=chunk)) == (
            ReasoningMessage("Hm."),
            TextMessage("assistant", "Looking.", stop_reason="tool"),
            ToolCallMessage((ToolCall("call_1", "a", {"x": 1}), ToolCall("call_2", "b"), ToolCall("call_3", "c"))),
        )


async def test_ids_of_calls_are_unique_also_when_answers_repeat():
    model = ScriptedModel(calls(call("a"), call("b")), lambda request: call("c"), repeat=True)
    ids = [piece.id for _ in range(4) for piece in await pieces(model) if isinstance(piece, ToolCallChunk)]
    assert ids == [f"call_{n}" for n in range(1, 7)]


async def test_arguments_may_have_any_name():
    (message,) = await said(ScriptedModel(call("f", tool="x", self=1)))
    assert message.tools[0].input == {"tool": "x", "self": 1}


async def test_a_failure_with_and_without_a_text_before():
    model = ScriptedModel(fail(RateLimited("slow down", retry_after=1)), fail(ValueError("x"), after="part"), chunk=2)
    with pytest.raises(RateLimited, match="slow down") as caught:
        await pieces(model)
    assert caught.value.retry_after == 1
    got = []
    with pytest.raises(ValueError, match="x"):
        async for piece in model.stream(REQUEST):
            got.append(piece)  # noqa: PERF401
    assert got == [TextChunk("pa"), TextChunk("rt")]


async def test_a_failure_that_repeats_does_not_grow():
    model = ScriptedModel(fail(ValueError("x")), repeat=True)
    depths = []
    for _ in range(3):
        with pytest.raises(ValueError, match="x") as caught:
            await pieces(model)
        depths.append(len(caught.traceback))
    assert depths[0] == depths[1] == depths[2]


async def test_a_delay_waits_for_its_event():
    event = asyncio.Event()
    model = ScriptedModel(delay(event, delay(0, "late")))
    task = asyncio.create_task(text(model))
    await asyncio.sleep(0)
    assert model.requests == [REQUEST]
    assert not task.done()
    event.set()
    assert await task == "late"


async def test_a_model_that_hangs_can_be_cancelled():
    task = asyncio.create_task(pieces(ScriptedModel(hang())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_raw_pieces_are_streamed_as_they_are():
    rubbish: list[Any] = [TextChunk("a"), 5, None, Finished("max_tokens")]
    assert await pieces(ScriptedModel(raw(*rubbish))) == rubbish
    assert await pieces(ScriptedModel(raw())) == []


async def test_an_answer_may_be_a_function_of_the_request():
    async def later(request: ModelRequest) -> Any:
        return delay(0, lambda again: f"{again.messages[0].text!r}")  # type: ignore[union-attr]

    model = ScriptedModel(lambda request: say(str(len(request.messages))), later)
    assert await text(model) == "1"
    assert await text(model) == "'What is it?'"


# -- the script -----------------------------------------------------------------------------------------------------


async def test_running_out_says_how_many_there_were_and_shows_the_request():
    model = ScriptedModel("one", name="mine")
    await pieces(model)
    look = ToolCall("call_1", "look", {"at": "x"})
    request = ModelRequest(
        (
            TextMessage("user", "u" * 300),
            ToolCallMessage((look,)),
            ToolResultMessage(look, {"data": "seen"}),
            ReasoningMessage("Hm."),
        ),
        (ToolSpec("look", "", {}),),
    )
    with pytest.raises(ScriptExhausted) as caught:
        await pieces(model, request)
    first, *shown = str(caught.value).splitlines()
    assert first.startswith("mine: the model was asked 2 times, but its script has only 1 answer. Add what it shall")
    assert shown == [
        f"  user: {'u' * 193}…",
        "  calls: look({'at': 'x'})",
        "  result of look: {'data': 'seen'}",
        "  thought: Hm.",
        "  tools: look",
    ]
    with pytest.raises(ScriptExhausted, match="no answers"):
        await pieces(ScriptedModel(repeat=True))


async def test_a_script_may_repeat():
    model = ScriptedModel("a", "b", repeat=True)
    assert [await text(model) for _ in range(5)] == ["a", "b", "a", "b", "a"]


# -- usage ----------------------------------------------------------------------------------------------------------


async def usage(model: Model, request: ModelRequest = REQUEST) -> Usage:
    last = (await pieces(model, request))[-1]
    assert isinstance(last, Finished)
    assert (last.model, last.provider) == (model.name, "test")
    return last.usage


async def test_usage_is_estimated_or_given():
    assert await usage(ScriptedModel("a" * 40)) == Usage(len("What is it?") // 4, 10)
    assert await usage(ScriptedModel(""), ModelRequest(())) == Usage(1, 1)
    assert await usage(ScriptedModel(say("a" * 40, reasoning="b" * 20))) == Usage(2, 15, reasoning_tokens=5)
    assert await usage(ScriptedModel(call("f", x="a" * 32))) == Usage(2, 10)
    given = Usage(100, 5)
    assert await usage(ScriptedModel(say("x", usage=given))) is given
    assert await usage(ScriptedModel(calls(call("f"), usage=given))) is given


# -- FunctionModel --------------------------------------------------------------------------------------------------


async def test_a_function_may_answer_in_many_ways():
    async def async_text(request: ModelRequest) -> str:
        return "x"

    async def generator(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextChunk("x")
        yield Finished()

    def sync_generator(request: ModelRequest) -> Any:
        yield TextChunk("x")
        yield Finished()

    functions: list[Any] = [
        lambda request: "x",
        lambda request: say("x"),
        lambda request: TextChunk("x"),
        lambda request: [TextChunk("x"), Finished()],
        lambda request: lambda again: "x",
        async_text,
        generator,
        sync_generator,
    ]
    for fn in functions:
        model = FunctionModel(fn)
        assert await text(model) == "x"
        assert model.requests == [REQUEST]


async def test_a_generator_is_closed_when_nobody_reads_on():
    closed = []

    async def generator(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        try:
            yield TextChunk("x")
            yield TextChunk("y")
        finally:
            closed.append(True)

    stream: Any = FunctionModel(generator).stream(REQUEST)
    assert await anext(stream) == TextChunk("x")
    await stream.aclose()
    assert closed == [True]


async def test_an_error_of_the_function_is_raised():
    def broken(request: ModelRequest) -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await pieces(FunctionModel(broken))


async def test_a_function_that_answers_nonsense_is_told():
    with pytest.raises(DefinitionError, match="FunctionModel\\('function'\\) was given to answer holds a NoneType"):
        await pieces(FunctionModel(lambda request: None))
    with pytest.raises(DefinitionError, match="holds a dict"):
        await pieces(FunctionModel(lambda request: {"text": "x"}))


# -- models ---------------------------------------------------------------------------------------------------------


def test_both_are_models():
    prices = Prices(Decimal(1), Decimal(2))
    plain = Capabilities()
    for model in (
        ScriptedModel(name="m", prices=prices, capabilities=plain),
        FunctionModel(lambda request: "x", name="m", prices=prices, capabilities=plain),
    ):
        assert isinstance(model, Model)
        assert (model.name, model.provider, model.capabilities) == ("m", "test", plain)
        assert prices_of(model) is prices
    assert ScriptedModel().capabilities.structured_output == "yes"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScriptedModel("a", 5), r"ScriptedModel: answer 2 holds a int"),  # type: ignore[arg-type]
        (lambda: ScriptedModel(chunk=0), "chunk=0"),
        (lambda: FunctionModel("x"), "takes a function"),  # type: ignore[arg-type]
        (lambda: say(5), "takes a text"),  # type: ignore[arg-type]
        (lambda: fail(ValueError), "an exception that was made"),  # type: ignore[arg-type]
        (lambda: calls(say("x")), r"what call\(…\) gives"),
        (lambda: delay(1, None), r"delay\(…\) holds a NoneType"),  # type: ignore[arg-type]
    ],
)
def test_wrong_definitions_are_refused(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


def test_arguments_that_no_model_could_send_are_refused():
    with pytest.raises(Unserialisable, match="call of look"):
        call("look", at=object())


def test_everything_is_found_in_the_room():
    assert {"ScriptedModel", "say", "hang"} <= set(dir(perdure.testing))
    assert all(getattr(perdure.testing, name) for name in perdure.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = perdure.testing.nothing  # type: ignore[attr-defined]
