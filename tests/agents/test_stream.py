"""Streams: entered once, left at any moment, read as text or as a structured answer that grows."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from perdure import (
    Agent,
    Approve,
    DefinitionError,
    Network,
    Overloaded,
    RunCancelled,
    RunFailed,
    RunStream,
    events,
    parallel,
    tool,
)
from perdure.models.model import Capabilities
from perdure.testing import ScriptedModel, call, calls, delay, fail, hang, raw, say
from perdure.types.chunks import Finished, ReasoningChunk, Restarted, TextChunk
from tests.agents.watching import check_stream, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@tool(effect="pure")
def weather(city: str = "", title: str = "") -> str:
    """Say the weather."""
    return f"rain in {city}"


@tool(requires_approval=True)
def refund(amount: int) -> str:
    """Pay back."""
    return f"paid {amount}"


async def collect(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


# -- entering and leaving ---------------------------------------------------------------------------------------------


async def test_a_stream_is_entered_once():
    stream = Agent("A", model=ScriptedModel(say("Hi."))).stream("x")
    assert isinstance(stream, RunStream)
    async with stream as entered:
        assert entered is stream
        with pytest.raises(DefinitionError, match="entered already; make another one"):
            await stream.__aenter__()
        assert (await stream.result()).output == "Hi."
    with pytest.raises(DefinitionError, match="entered already"):
        await stream.__aenter__()
    assert (await stream.result()).output == "Hi.", "what it gave can be read after it was left"
    check_stream(await collect(stream.__aiter__()))


async def test_a_stream_that_is_never_entered_starts_nothing():
    model = ScriptedModel(say("never"))
    stream = Agent("A", model=model).stream("x", run_id="r1")
    assert stream.run_id == "r1"
    for use in (lambda: stream.run, lambda: aiter(stream)):
        with pytest.raises(DefinitionError, match=r"async with definition\.stream"):
            use()
    for later in (stream.result, lambda: anext(stream.text()), lambda: collect(stream.text())):
        with pytest.raises(DefinitionError, match=r"async with definition\.stream"):
            await later()
    await asyncio.sleep(0)
    assert model.requests == []


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_stream_that_is_left_early_is_closed_and_leaves_no_task(after: int):
    stream = Agent("A", model=ScriptedModel(raw(TextChunk("Hi"), TextChunk(" you")), hang())).stream("x")
    seen: list[Any] = []
    async with stream:
        if after:
            async for event in stream:
                seen.append(event)
                if len(seen) == after:
                    break
    assert stream.run.status == "cancelled"
    all_of_it = await collect(stream.run.events())
    assert all_of_it[: len(seen)] == seen
    check_stream(all_of_it)
    assert isinstance(all_of_it[-1], events.RunCancelled)
    with pytest.raises(RunCancelled):
        await stream.result()


async def test_a_stream_that_waits_is_left_waiting_and_can_be_resumed():
    stream = Agent("A", tools=[refund], model=ScriptedModel(call("refund", amount=5), say("Done."))).stream("x")
    async with stream:
        seen = await collect(stream.run.events())
        waiting = await stream.result()
    assert isinstance(seen[-1], events.RunWaiting)
    assert stream.run.status == "waiting"
    assert (await waiting.resume({waiting.waits[0].id: Approve()})).output == "Done."


async def test_the_iterator_does_not_raise_and_the_result_does():
    async with Agent("A", model=ScriptedModel(fail(ValueError("no")))).stream("x") as stream:
        seen = [event async for event in stream]
        check_stream(seen)
        assert isinstance(seen[-1], events.RunFailed)
        with pytest.raises(RunFailed, match="ValueError: no"):
            await stream.result()


async def test_a_stream_has_several_readers_at_once():
    go_on = asyncio.Event()
    model = ScriptedModel(delay(go_on, say("Hello you.")), chunk=3)
    async with Agent("A", model=model).stream("x") as stream:
        reading = [
            asyncio.create_task(collect(one))
            for one in (stream.text(), stream.text(), stream.run.events(), aiter(stream))
        ]
        await asyncio.sleep(0)
        go_on.set()
        first, second, whole, again = await asyncio.gather(*reading)
    assert first == second == ["Hel", "lo ", "you", "."]
    assert whole == again


# -- text -------------------------------------------------------------------------------------------------------------


async def test_text_is_what_the_agents_say_and_nothing_else():
    thought = raw(ReasoningChunk("hm"), TextChunk("Let "), TextChunk("me see. "), *_call("weather", '{"city": "Oslo"}'))
    model = ScriptedModel(thought, say("Rain."))
    async with Agent("A", tools=[weather], model=model).stream("x") as stream:
        assert await collect(stream.text()) == ["Let ", "me see. ", "Rain."]


def _call(name: str, arguments: str) -> list[Any]:
    from perdure.types.chunks import ToolCallChunk

    return [ToolCallChunk(0, "c1", name, arguments), Finished("tool")]


async def test_text_of_a_network_is_that_of_its_agents_in_turn():
    first, second = Agent("A", model=ScriptedModel(say("one "))), Agent("B", model=ScriptedModel(say("two")))
    network = Network("N", agents=[first, second], router=lambda r: [first, second][r.call_count : r.call_count + 1])
    async with network.stream("x") as stream:
        assert await collect(stream.text()) == ["one ", "two"]


async def test_text_of_child_runs_is_their_own():
    asked = Agent("Asked", model=ScriptedModel(say("from the child")))
    model = ScriptedModel(call("asked", request="?"), say("from the parent"))
    async with Agent("A", tools=[asked.as_tool()], model=model).stream("x") as stream:
        assert await collect(stream.text()) == ["from the parent"]


async def test_a_new_beginning_by_the_model_is_shown_as_a_reset():
    model = ScriptedModel(raw(TextChunk("Hel"), Restarted("overloaded"), TextChunk("Hello."), Finished()))
    watched = await watch(Agent("A", model=model))
    assert [one for one in watched.names if one in ("TextDelta", "MessageReset")] == [
        "TextDelta",
        "MessageReset",
        "TextDelta",
    ]
    assert watched.result is not None and watched.result.output == "Hello."


@pytest.mark.parametrize("ids", [("", ""), ("a", "a"), ("call_1", "")])
async def test_a_call_has_one_id_from_its_first_piece_to_its_result(ids: tuple[str, str]):
    from perdure.types.chunks import ToolCallChunk

    pieces = [ToolCallChunk(n, id, "weather", '{"city": "Oslo"}') for n, id in enumerate(ids)]
    model = ScriptedModel(raw(*pieces, Finished("tool")), say("Rain."))
    watched = await watch(Agent("A", tools=[weather], model=model))
    shown = [
        [one.call_id for one in watched.of(kind)]
        for kind in (events.ToolCallStarted, events.ToolArgsDelta, events.ToolCallReady, events.ToolStarted)
    ]
    assert shown[0] == shown[1] == shown[2] == shown[3]
    assert len(set(shown[0])) == 2
    assert watched.result is not None
    assert [one.tool.id for one in watched.result.results[0].tool_calls] == shown[0]


# -- partials ---------------------------------------------------------------------------------------------------------


class Report(BaseModel):
    title: str
    lines: list[str] = []


class Loose(BaseModel):
    """Every object is one."""

    city: str = ""
    title: str = ""


class Typed(TypedDict):
    title: str


class Row(msgspec.Struct):
    title: str


@dataclass
class Plain:
    title: str


NATIVE = Capabilities(structured_output="yes")
BY_TOOL = Capabilities(structured_output="no")
WAYS = pytest.mark.parametrize("way", [NATIVE, BY_TOOL], ids=["native", "by tool"])


def answer(way: Capabilities, text: str) -> Any:
    """A structured answer in pieces, as a model of this kind gives it."""
    if way is NATIVE:
        return raw(*(TextChunk(c) for c in text), Finished())
    from perdure.types.chunks import ToolCallChunk

    first, *rest = text
    pieces = [ToolCallChunk(0, "c9", "final_answer", first), *(ToolCallChunk(0, arguments=c) for c in rest)]
    return raw(*pieces, Finished("tool"))


def model_of(way: Capabilities, *answers: Any) -> ScriptedModel:
    return ScriptedModel(*answers, capabilities=way)


@WAYS
async def test_a_structured_answer_grows(way: Capabilities):
    model = model_of(way, answer(way, '{"title": "Rain", "lines": ["ab", "c"]}'))
    async with Agent("A", output_type=Report, model=model).stream("x") as stream:
        grown = await collect(stream.partials())
        result = await stream.result()
    assert all(isinstance(one, Report) for one in grown)
    titles = [one.title for one in grown]
    assert titles[:5] == ["", "R", "Ra", "Rai", "Rain"]
    assert grown[-1] == result.output == Report(title="Rain", lines=["ab", "c"])
    assert all(one != two for one, two in itertools.pairwise(grown)), "nothing is shown twice"
    assert Report(title="Rain", lines=["a"]) in grown


@WAYS
@pytest.mark.parametrize("kind", [Report, Typed, Row, Plain], ids=lambda kind: kind.__name__)
async def test_any_output_type_grows(way: Capabilities, kind: Any):
    model = model_of(way, answer(way, '{"title": "Rain"}'))
    async with Agent("A", output_type=kind, model=model).stream("x") as stream:
        grown = await collect(stream.partials())
        assert grown[-1] == (await stream.result()).output
    assert len(grown) > 1


@WAYS
async def test_plain_types_and_lists_grow(way: Capabilities):
    model = model_of(way, answer(way, '{"result": ["ab", "c"]}'))
    async with Agent("A", output_type=list[str], model=model).stream("x") as stream:
        grown = await collect(stream.partials())
    assert grown[-1] == ["ab", "c"]
    assert ["a"] in grown and ["ab"] in grown


async def test_the_arguments_of_other_tools_are_no_part_of_the_answer():
    model = model_of(
        BY_TOOL,
        calls(call("weather", city="Oslo"), call("weather", title="no"), text="Let me see."),
        answer(BY_TOOL, '{"title": "Rain"}'),
    )
    async with Agent("A", output_type=Loose, tools=[weather], model=model).stream("x") as stream:
        grown = await collect(stream.partials())
    assert [one.city for one in grown] == [""] * len(grown)
    assert [one.title for one in grown][-2:] == ["Rai", "Rain"]


async def test_text_beside_the_answer_does_not_disturb_it():
    from perdure.types.chunks import ToolCallChunk

    pieces = [TextChunk("Here "), ToolCallChunk(0, "c", "final_answer", '{"title":'), TextChunk("it is.")]
    model = model_of(BY_TOOL, raw(*pieces, ToolCallChunk(0, arguments='"Rain"}'), Finished("tool")))
    async with Agent("A", output_type=Report, model=model).stream("x") as stream:
        assert (await collect(stream.partials()))[-1] == Report(title="Rain")


@WAYS
async def test_a_corrected_answer_begins_anew(way: Capabilities):
    model = model_of(way, answer(way, '{"titel": "Rain"}'), answer(way, '{"title": "Rain"}'))
    async with Agent("A", output_type=Report, model=model).stream("x") as stream:
        grown = await collect(stream.partials())
        result = await stream.result()
    assert grown[-1] == result.output == Report(title="Rain")
    assert result.usage.model_calls == 2


async def test_what_was_reset_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    from perdure.durable import retry

    monkeypatch.setattr(retry.random, "random", lambda: 0.0)
    model = model_of(
        NATIVE,
        fail(Overloaded("busy", retry_after=0), after='{"title": "Sn'),
        raw(TextChunk('{"title": "Ha'), Restarted("again"), TextChunk('{"title": "Rain"}'), Finished()),
    )
    async with Agent("A", output_type=Report, model=model).stream("x") as stream:
        grown = await collect(stream.partials())
    assert [one.title for one in grown] == ["Sn", "Ha", "Rain"]


async def test_agents_at_once_do_not_mix_their_answers():
    async def one_by_one(text: str) -> AsyncIterator[Any]:
        for c in text:
            await asyncio.sleep(0)
            yield TextChunk(c)
        yield Finished()

    first = Agent("A", output_type=Report, model=model_of(NATIVE, lambda _: one_by_one('{"title": "aaaa"}')))
    second = Agent("B", output_type=Report, model=model_of(NATIVE, lambda _: one_by_one('{"title": "bbbb"}')))
    network = Network(
        "N",
        agents=[first, second],
        output_type=Report,
        router=lambda r: None if r.call_count else parallel(first, second),
    )
    async with network.stream("x") as stream:
        grown = await collect(stream.partials())
    assert {one.title for one in grown} == {c * n for c in "ab" for n in range(5)}


async def test_partials_need_an_output_type():
    async with Agent("A", model=ScriptedModel(say("Hi."))).stream("x") as stream:
        with pytest.raises(DefinitionError, match=r"needs an output_type; for text use \.text\(\)"):
            await collect(stream.partials())
        assert (await stream.result()).output == "Hi."


async def test_partials_end_with_the_run_also_when_it_fails():
    model = model_of(NATIVE, fail(ValueError("no"), after='{"title": "Ra'))
    async with Agent("A", output_type=Report, model=model).stream("x") as stream:
        assert [one.title for one in await collect(stream.partials())] == ["Ra"]
        with pytest.raises(RunFailed):
            await stream.result()
