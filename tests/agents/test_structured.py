"""Structured output: natively or by a tool, checked, corrected, typed, partial while it streams."""

import dataclasses
from decimal import Decimal
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, field_validator
from typing_extensions import TypedDict

from perdure import Agent, DefinitionError, Network, OutputInvalid, RunFailed, sequence, tool
from perdure.agents.output import ANSWER_TOOL
from perdure.models.model import Capabilities
from perdure.testing import ScriptedModel, call, calls, say
from tests.agents.watching import check_transcript, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


class Invoice(BaseModel):
    total: Decimal
    currency: Literal["NOK", "EUR"] = "NOK"

    @field_validator("total")
    @classmethod
    def positive(cls, value: Decimal) -> Decimal:
        if value < 0:
            raise ValueError("must not be negative")
        return value


class Refusal(BaseModel):
    why: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Struct(msgspec.Struct):
    x: int


class Typed(TypedDict):
    x: int


@tool(effect="pure")
async def look() -> str:
    """Look."""
    return "seen"


def model(*answers: Any, native: Any = "yes", **options: Any) -> ScriptedModel:
    return ScriptedModel(*answers, capabilities=Capabilities(structured_output=native), **options)


def final(**answer: Any) -> Any:
    return call(ANSWER_TOOL, **answer)


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (Invoice, '{"total": "12.50", "currency": "EUR"}', Invoice(total=Decimal("12.50"), currency="EUR")),
        (Point, '{"x": 3}', Point(3)),
        (Struct, '{"x": 3}', Struct(3)),
        (Typed, '{"x": 3}', {"x": 3}),
        (int, '{"result": 3}', 3),
        (list[str], '{"result": ["a"]}', ["a"]),
        (bool, '{"result": false}', False),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        ((Invoice, Refusal), '{"result": {"why": "no"}}', Refusal(why="no")),
        ((Struct, Refusal), '{"result": {"x": 3}}', Struct(3)),
        (Literal["yes", "no"], '{"result": "no"}', "no"),
        (int | None, '{"result": null}', None),
        (int, "3", 3),
        ((Invoice, Refusal), '{"why": "no"}', Refusal(why="no")),
    ],
)
async def test_any_type_may_be_asked_for(kind: Any, answer: str, value: Any):
    asked = model(answer)
    result = await Agent("A", output_type=kind, model=asked).run("x")
    assert result.output == value
    assert type(result.output) is type(value)
    assert asked.requests[0].output is not None
    assert asked.requests[0].output.schema["type"] == "object"
    assert asked.requests[0].tools == ()


@pytest.mark.parametrize("kind", [Invoice, Point, Struct, (Invoice, Refusal), int])
async def test_a_model_without_native_output_answers_through_a_tool(kind: Any):
    arguments = {
        Invoice: {"total": "1"},
        Point: {"x": 3},
        Struct: {"x": 3},
        (Invoice, Refusal): {"result": {"why": "no"}},
        int: {"result": 3},
    }[kind]
    asked = model(final(**arguments), native="no")
    result = await Agent("A", output_type=kind, model=asked).run("x")
    assert result.output in (Invoice(total=Decimal(1)), Point(3), Struct(3), Refusal(why="no"), 3)
    (spec,) = asked.requests[0].tools
    assert spec.name == ANSWER_TOOL
    assert asked.requests[0].tool_choice == "any"
    assert asked.requests[0].output is None
    check_transcript(result.messages)


async def test_native_output_alone_is_used_only_without_tools():
    both = model(call("look"), final(x=3), native="alone")
    result = await Agent("A", output_type=Point, tools=[look], model=both).run("x")
    assert result.output == Point(3)
    assert [one.name for one in both.requests[0].tools] == ["look", ANSWER_TOOL]
    alone = model('{"x": 3}', native="alone")
    assert (await Agent("A", output_type=Point, model=alone).run("x")).output == Point(3)
    assert alone.requests[0].tools == ()


async def test_tools_and_native_output_go_together():
    asked = model(call("look"), '{"x": 3}')
    result = await Agent("A", output_type=Point, tools=[look], model=asked).run("x")
    assert result.output == Point(3)
    assert result.results[0].tool_calls[0].data == "seen"


async def test_an_answer_in_a_code_fence_is_read():
    result = await Agent("A", output_type=Point, model=model('```json\n{"x": 3}\n```')).run("x")
    assert result.output == Point(3)


# -- corrections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("no JSON", "not valid JSON"),
        ('{"total": "-1"}', "must not be negative"),
        ("{}", "total"),
        ("[]", "does not fit"),
    ],
)
async def test_an_answer_that_does_not_fit_is_corrected(wrong: str, told: str):
    asked = model(wrong, '{"total": "1"}')
    watched = await watch(Agent("A", output_type=Invoice, model=asked))
    assert watched.result.output == Invoice(total=Decimal(1))
    assert told in asked.requests[1].messages[-1].text
    assert asked.requests[1].messages[-2].text == wrong


async def test_a_call_that_does_not_fit_is_corrected():
    asked = model(final(total="-1"), final(total="1"), native="no")
    watched = await watch(Agent("A", output_type=Invoice, model=asked))
    assert watched.result.output == Invoice(total=Decimal(1))
    check_transcript(watched.result.messages)
    assert "must not be negative" in asked.requests[1].messages[-1].content["error"]["message"]


async def test_a_text_where_a_call_is_wanted_is_corrected():
    asked = model("It is 1.", final(total="1"), native="no")
    result = await Agent("A", output_type=Invoice, model=asked).run("x")
    assert result.output == Invoice(total=Decimal(1))
    assert ANSWER_TOOL in asked.requests[1].messages[-1].text


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("native", ["yes", "no"])
async def test_a_model_that_never_gets_it_right_ends_the_run(retries: int, native: str):
    wrong = "{}" if native == "yes" else final()
    asked = model(wrong, repeat=True, native=native)
    watched = await watch(Agent("A", output_type=Invoice, output_retries=retries, model=asked))
    assert isinstance(watched.error, RunFailed)
    assert isinstance(watched.error.__cause__, OutputInvalid)
    assert f"no valid answer in {retries + 1} attempts" in str(watched.error)
    assert len(asked.requests) == retries + 1
    check_transcript(watched.error.result.messages)


async def test_a_final_answer_beside_other_calls_lets_them_run():
    asked = model(calls(call("look"), final(x=3), final(x=4)), native="no")
    watched = await watch(Agent("A", output_type=Point, tools=[look], model=asked))
    assert watched.result.output == Point(3), "the first counts"
    check_transcript(watched.result.messages)
    assert [one.content for one in watched.result.results[0].tool_calls] == [
        {"data": "seen"},
        {"data": "accepted"},
        {"error": {"name": "ModelRetry", "message": "The final answer was given already."}},
    ]


async def test_a_run_that_ends_without_an_answer_says_so_when_the_output_is_read():
    result = await Agent("A", output_type=Point, tools=[look], max_iter=1, model=model(call("look"))).run("x")
    assert result.stop_reason == "max_iter"
    with pytest.raises(OutputInvalid, match=r"max_iter.*without an answer of its output type"):
        _ = result.output


# -- around it --------------------------------------------------------------------------------------------------------


async def test_an_output_that_is_read_twice_is_one_object():
    result = await Agent("A", output_type=Point, model=model('{"x": 3}')).run("x")
    assert result.output is result.output


async def test_a_network_s_output_is_its_last_agent_s():
    first, last = Agent("First"), Agent("Last", output_type=Point)
    network = Network("N", agents=[first, last], router=sequence(first, last), output_type=Point)
    assert (await network.run("x", model=model("hm", '{"x": 3}'))).output == Point(3)


async def test_a_network_of_text_shows_a_typed_answer_as_json():
    last = Agent("Last", output_type=Point)
    network = Network("N", agents=[last], router=sequence(last))
    assert (await network.run("x", model=model('{"x": 3}'))).output == '{"x":3}'


async def test_the_next_agent_sees_a_typed_answer_that_was_given_through_a_tool():
    first, last = Agent("First", output_type=Point), Agent("Last")
    network = Network("N", agents=[first, last], router=sequence(first, last))
    asked = model(final(x=3), "ok", native="no")
    await network.run("x", model=asked)
    check_transcript(asked.requests[1].messages)


@pytest.mark.parametrize("native", ["yes", "no"])
async def test_partial_answers_stream(native: str):
    class Story(BaseModel):
        title: str = ""
        lines: list[str] = []

    story = {"title": "Boats", "lines": ["one", "two"]}
    text = msgspec.json.encode(story).decode()
    answer = say(text) if native == "yes" else final(**story)
    agent = Agent("A", output_type=Story, model=model(answer, native=native, chunk=7))
    async with agent.stream("x") as stream:
        seen = [one async for one in stream.partials()]
        assert (await stream.result()).output == Story(**story)
    assert seen[-1] == Story(**story)
    assert len(seen) > 2
    assert all("Boats".startswith(one.title) for one in seen)


async def test_partials_need_an_output_type():
    async with Agent("A", model=model("ok")).stream("x") as stream:
        with pytest.raises(DefinitionError, match=r"use \.text\(\)"):
            async for _ in stream.partials():
                pass


@pytest.mark.parametrize("wrong", [lambda: 1, 5, "int", (), (int, 5), [int]])
def test_what_is_no_type_is_refused_at_once(wrong: Any):
    with pytest.raises(DefinitionError, match="output_type= takes a type or a tuple of types"):
        Agent("A", output_type=wrong)
    with pytest.raises(DefinitionError, match="output_type= takes a type or a tuple of types"):
        Network("N", agents=[Agent("A")], output_type=wrong)


async def test_a_type_without_a_schema_ends_the_run_clearly():
    class Socket:
        pass

    with pytest.raises(RunFailed, match=r"output_type=.*Socket.*has no JSON schema"):
        await Agent("A", output_type=Socket, model=model("ok")).run("x")
