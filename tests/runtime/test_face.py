"""The vocabulary of the bus as a view of a session's events: behaviours 22 to 34 as far as they are the view's."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Agent, ModelRetry, tool
from perdure.models.model import Capabilities, ModelRequest
from perdure.runtime.face import Face, messages_of
from perdure.testing import ScriptedModel, call, calls, fail, hang, raw, say
from perdure.types import events as ev
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.envelope import EventContext, SystemEvent
from perdure.types.messages import TextMessage, ToolCall, ToolCallMessage
from perdure.types.records import ErrorInfo
from perdure.types.usage import Usage

CONTEXT = EventContext("acme", "img_1", "agent_1", "s")
AT: dict[str, Any] = {"run_id": "r", "session_id": "s"}


def shown(events: list[Any], face: Face | None = None) -> list[SystemEvent]:
    face = face or Face(CONTEXT, "m")
    return [one for n, event in enumerate(events) for one in face.show(event, n)]


def types(events: list[SystemEvent], *categories: str) -> list[str]:
    return [one.type for one in events if not categories or one.category in categories]


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    if a < 0:
        raise ModelRetry("not below zero")
    return a + b


async def run(*answers: Any, cancel_at: str | None = None) -> list[SystemEvent]:
    agent = Agent("A", model=ScriptedModel(*answers, chunk=3), tools=[add])
    handle = agent.start("Hello there")
    seen: list[Any] = []
    async for event in handle.events():
        seen.append(event)
        if cancel_at and type(event).__name__ == cancel_at and not isinstance(event, ev.RunCancelled):
            cancel_at = None
            asyncio.get_running_loop().create_task(handle.cancel())
    return shown(seen)


async def test_x24_x28_x29_a_text_turn():
    events = await run(say("Hello, Ada."))
    assert types(events, "message") == ["user_message", "assistant_message"]
    assert types(events, "stream") == [
        *("message_start", "text_content_block_start", *["text_delta"] * 4, "text_content_block_stop", "message_stop"),
        "message_delta",
    ]
    assert types(events, "state") == ["conversation_start", "conversation_responding", "conversation_end"]
    assert "".join(one.data["text"] for one in events if one.type == "text_delta") == "Hello, Ada."
    start = next(one for one in events if one.type == "message_start")
    said = next(one for one in events if one.type == "assistant_message")
    assert said.data["id"] == start.data["message"]["id"] and said.data["content"][0]["text"] == "Hello, Ada."
    asked, answered = (one for one in events if one.category == "turn")
    assert (asked.type, answered.type) == ("turn_request", "turn_response")
    assert asked.context.turn_id == answered.context.turn_id and asked.data["content"] == "Hello there"
    assert answered.data["stop_reason"] == "end_turn" and answered.data["usage"]["output_tokens"] > 0
    assert answered.data["duration"] >= 0 and answered.data["model"] == "m"


async def test_x24_an_answer_of_blanks_is_no_message():
    assert "assistant_message" not in types(await run(say("  \n ")))


async def test_x25_x26_x27_x28_x29_x30_tool_rounds_are_one_turn():
    events = await run(calls(call("add", a=1, b=2), call("add", a=-1, b=2), text="Let me see."), say("Three."))
    assert types(events, "message") == [
        *("user_message", "assistant_message", "tool_call_message", "tool_call_message"),
        *("tool_result_message", "tool_result_message", "assistant_message"),
    ]
    first, second = (one.data for one in events if one.type == "tool_call_message")
    said = next(one for one in events if one.type == "assistant_message")
    assert first["tool_call"]["input"] == {"a": 1, "b": 2}
    assert first["parent_id"] == second["parent_id"] == said.data["id"]
    good, bad = sorted((one.data["tool_result"] for one in events if one.type == "tool_result_message"), key=str)
    assert good["name"] == bad["name"] == "add"
    assert {good["output"]["type"], bad["output"]["type"]} == {"json", "error-text"}
    counts = Counter(types(events))
    assert counts["tool_completed"] == counts["tool_failed"] == 1 and counts["tool_planned"] == 2
    assert counts["turn_request"] == counts["turn_response"] == counts["conversation_end"] == 1
    stops = [one.data["stop_reason"] for one in events if one.type == "message_stop"]
    assert stops == ["tool_use", "end_turn"]


async def test_x28_the_states_follow_each_other():
    face = Face(CONTEXT)
    states: list[str] = []
    agent = Agent("A", model=ScriptedModel(call("add", a=1, b=2), say("3")), tools=[add])
    async for event in agent.start("x").events():
        face.show(event, 0)
        if not states or states[-1] != face.state:
            states.append(face.state)
    assert states == [
        *("idle", "thinking", "planning_tool", "awaiting_tool_result", "responding", "thinking", "responding", "idle")
    ]


class Halting:
    """A model that says half of its answer and then nothing."""

    name, provider, capabilities = "halting", "test", Capabilities()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextChunk("Half of it")
        await asyncio.Event().wait()


async def test_x30_x34_an_interrupt_keeps_the_partial_text_once_and_says_so():
    handle = Agent("A", model=Halting()).start("x")
    seen: list[Any] = []
    async for event in handle.events():
        seen.append(event)
        if isinstance(event, ev.TextDelta):
            cancelling = asyncio.create_task(handle.cancel())
    await cancelling
    events = shown(seen)
    (said,) = (one.data for one in events if one.type == "assistant_message")
    assert said["content"] == [{"type": "text", "text": "Half of it"}] and said["interrupted"]
    assert types(events, "turn") == ["turn_request", "turn_response"]
    assert [one.data["reason"] for one in events if one.type == "conversation_end"] == ["interrupted"]
    assert next(one for one in events if one.type == "message_stop").data["stop_reason"] == "interrupted"


async def test_x30_what_is_cut_off_before_a_word_says_why():
    events = await run(hang(), cancel_at="AgentStarted")
    assert [one.data["reason"] for one in events if one.type in ("interrupted", "conversation_interrupted")] == [
        *("user_interrupt", "user_interrupt")
    ]
    end = next(one for one in events if one.type == "conversation_end")
    assert end.data["reason"] == "interrupted" and events[-1].type == "turn_response"


async def test_x31_an_error_is_a_message_and_an_end():
    face = Face(CONTEXT)
    handle = Agent("A", model=ScriptedModel(fail(ValueError("no"), after="Part"))).start("x")
    events = shown([one async for one in handle.events()], face)
    assert face.state == "idle"
    error = next(one for one in events if one.type == "error_message")
    assert error.data["role"] == "error" and "no" in error.data["content"]
    assert [one for one in types(events, "error", "stream") if one.startswith("error")] == [
        "error_received",
        "error_occurred",
    ]
    assert events[-1].type == "turn_response" and events[-1].data["stop_reason"] == "error"


async def test_a_text_that_is_cut_by_the_token_limit_says_so():
    events = await run(raw(TextChunk("Too lo"), Finished("max_tokens")))
    assert next(one for one in events if one.type == "message_stop").data["stop_reason"] == "max_tokens"
    assert events[-1].data["stop_reason"] == "max_tokens"


async def test_x25_arguments_that_are_no_json_are_told_as_none_and_the_error_says_what_they_were():
    events = await run(raw(ToolCallChunk(0, "c", "add", "{nonsense"), Finished("tool")), say("Sorry."))
    (called,) = (one.data for one in events if one.type == "tool_call_message")
    assert called["tool_call"]["input"] == {}
    assert [one.data["input"] for one in events if one.type in ("tool_call", "tool_executing")] == [{}, {}]
    (failed,) = (one.data for one in events if one.type == "tool_failed")
    assert "{nonsense" in str(failed["error"])


def test_x26_a_result_of_no_call_that_is_known_is_of_an_unknown_tool():
    nobodys = ev.ToolFinished(tool="", call_id="c", result={"error": {"message": "no"}}, outcome="error", **AT)
    (told,) = (one.data for one in shown([nobodys]) if one.type == "tool_result_message")
    assert told["tool_result"]["name"] == "unknown" and told["tool_result"]["output"]["type"] == "error-text"


# -- any interleaving, any cut -----------------------------------------------------------------------------------------


@st.composite
def streamed(draw: st.DrawFn) -> tuple[list[Any], dict[str, dict[str, Any]], str]:
    """A message with text and parallel tool calls whose pieces are mixed, as a provider may send them."""
    wanted = {f"c{n}": {"n": n, "text": draw(st.text(max_size=8))} for n in range(draw(st.integers(0, 4)))}
    text = draw(st.text(max_size=12))
    lanes: list[list[Any]] = [[ev.TextDelta(text=one, message_id="m", **AT) for one in text]]
    for id, args in wanted.items():
        body = json.dumps(args)
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        parts = [body[i:j] for i, j in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        deltas = [ev.ToolArgsDelta(text=one, call_id=id, message_id="m", **AT) for one in parts if one]
        lanes.append([ev.ToolCallStarted(tool="t", call_id=id, message_id="m", **AT), *deltas])
    mixed: list[Any] = []
    while any(lanes):
        lane = draw(st.sampled_from([one for one in lanes if one]))
        mixed.append(lane.pop(0))
    said: list[Any] = [TextMessage("assistant", text)] if text else []
    if wanted:
        said.append(ToolCallMessage(tuple(ToolCall(id, "t", args) for id, args in wanted.items())))
    events = [
        ev.RunStarted(definition="A", input=(TextMessage("user", "x"),), seq=1, **AT),
        ev.AgentStarted(agent="A", **AT),
        ev.MessageStarted(message_id="m", **AT),
        *mixed,
        *(
            ev.ToolCallReady(tool="t", call_id=id, args=args, message_id="m", seq=2, **AT)
            for id, args in wanted.items()
        ),
        ev.MessageFinished(message_id="m", messages=tuple(said), seq=2, **AT),
        ev.UsageUpdated(usage=Usage(1, 2, model_calls=1), seq=2, **AT),
        *(ev.ToolFinished(tool="t", call_id=id, result={"data": 1}, seq=3, **AT) for id in wanted),
        draw(
            st.sampled_from(
                [
                    ev.RunCompleted(stop_reason="answer", seq=4, **AT),
                    ev.RunFailed(error=ErrorInfo("E", "no"), seq=4, **AT),
                    ev.RunCancelled(stop_reason="cancelled", seq=4, **AT),
                ]
            )
        ),
    ]
    return events, wanted, text


@settings(deadline=None)
@given(streamed())
def test_x23_x25_blocks_are_told_apart_however_their_pieces_are_mixed(case: tuple[list[Any], dict[str, Any], str]):
    events, wanted, text = case
    out = shown(events)
    blocks: dict[int, str] = {}
    owner: dict[int, str] = {}
    open_blocks: set[int] = set()
    for one in out:
        index = one.data.get("index")
        if one.type.endswith("_block_start"):
            assert index not in owner
            owner[index] = one.data.get("id", "text")
            open_blocks.add(index)
        elif one.type.endswith("_block_stop"):
            open_blocks.remove(index)
        elif one.type in ("text_delta", "input_json_delta"):
            assert index in open_blocks
            blocks[index] = blocks.get(index, "") + one.data.get("text", one.data.get("partial_json"))
    assert not open_blocks
    assert "".join(blocks.get(n, "") for n in sorted(owner) if owner[n] == "text") == text
    assert {id: json.loads(blocks[n]) for n, id in owner.items() if id != "text"} == wanted
    assert {one.data["id"]: one.data["input"] for one in out if one.type == "tool_call"} == wanted
    whole = shown([one for one in events if not isinstance(one, ev.ToolArgsDelta)])  # as records tell it
    pieces = {one.data["id"]: one.data["partial_json"] for one in whole if one.type == "input_json_delta"}
    assert {id: json.loads(one) for id, one in pieces.items()} == wanted
    counts = Counter(types(out))
    assert counts["message_start"] == counts["message_stop"] == counts["turn_request"] == counts["turn_response"] == 1
    assert counts["conversation_end"] == 1 and counts["tool_result"] == len(wanted)
    assert counts["assistant_message"] == bool(text.strip())
    told = messages_of(out)
    places = {one["id"]: n for n, one in enumerate(told)}
    for one in told:
        assert one.get("parent_id") not in places or places[one["parent_id"]] < places[one["id"]]


@settings(deadline=None)
@given(streamed(), st.data())
def test_a_reader_who_comes_in_the_middle_sees_whole_messages_and_one_end(case: Any, data: st.DataObject):
    events, _, _ = case
    cut = data.draw(st.integers(0, len(events) - 1))
    face = Face(CONTEXT)
    whole = shown(events)
    first = [one for n, event in enumerate(events[:cut]) for one in face.show(event, n)]
    rest = [one for n, event in enumerate(events[cut:], cut) for one in face.show(event, n)]
    assert [(one.type, one.data) for one in shown(events, Face(CONTEXT, ""))] == [
        (o.type, o.data) for o in first + rest
    ]
    late = shown(events[cut:])
    assert Counter(types(late))["conversation_end"] == 1
    got = {one["id"]: {**one, "timestamp": 0} for one in messages_of(late)}
    for id, message in got.items():
        assert message == next({**one, "timestamp": 0} for one in messages_of(whole) if one["id"] == id)
