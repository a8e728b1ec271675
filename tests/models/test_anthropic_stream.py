"""The Messages mapping: what is made of a stream."""

from typing import Any

import pytest

from perdure.agents.result import final_text
from perdure.models.anthropic_stream import AnthropicDecoder
from perdure.types.assemble import Assembler
from perdure.types.chunks import Finished, ModelEvent, TextChunk
from perdure.types.errors import (
    AuthenticationFailed,
    BadResponse,
    ModelError,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)
from perdure.types.messages import (
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
)
from perdure.types.usage import Usage

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "model": "claude-sonnet-5-20260101",
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 200, "cache_creation_input_tokens": 30},
    },
}


def begin(number: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": number, "content_block": block}


def more(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": number, "delta": {"type": kind, **fields}}


def stop(number: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": number}


def done(reason: str, **usage: Any) -> list[dict[str, Any]]:
    delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7, **usage}}
    return [delta, {"type": "message_stop"}]


def pieces(*events: Any, decoder: AnthropicDecoder | None = None) -> list[ModelEvent]:
    decoder = decoder or AnthropicDecoder("claude-sonnet-5")
    found = [piece for event in events for piece in decoder.feed(event)]
    return [*found, *decoder.end()]


def read(*events: Any, decoder: AnthropicDecoder | None = None) -> tuple[tuple[Message, ...], Finished]:
    assembler = Assembler()
    for piece in pieces(*events, decoder=decoder):
        assembler.add(piece)
    assert assembler.finished is not None
    return assembler.messages(), assembler.finished


def text(number: int, *parts: str) -> list[dict[str, Any]]:
    deltas = [more(number, "text_delta", text=part) for part in parts]
    return [begin(number, {"type": "text", "text": ""}), *deltas, stop(number)]


def test_text_comes_piece_by_piece() -> None:
    found = pieces(START, {"type": "ping"}, *text(0, "Hel", "lo"), *done("end_turn"))
    assert found[:-1] == [TextChunk("Hel"), TextChunk("lo")]
    assert found[-1] == Finished(
        reason="stop",
        # Everything that was read counts as input: plain, from the cache and into it.
        usage=Usage(input_tokens=240, output_tokens=7, cache_read_tokens=200, cache_write_tokens=30),
        model="claude-sonnet-5-20260101",
        provider="anthropic",
        response_id="msg_1",
    )


def test_later_counts_replace_earlier_ones() -> None:
    _, finished = read(
        START,
        *text(0, "x"),
        *done("end_turn", input_tokens=12, cache_read_input_tokens=None, output_tokens_details={"thinking_tokens": 5}),
    )
    assert finished.usage == Usage(
        input_tokens=242, output_tokens=7, cache_read_tokens=200, cache_write_tokens=30, reasoning_tokens=5
    )


def test_b56_thoughts_keep_their_signature() -> None:
    """AgentKit's issue 317: a thought crashed the parser."""
    messages, _ = read(
        START,
        begin(0, {"type": "thinking", "thinking": "", "signature": ""}),
        more(0, "thinking_delta", thinking="let me "),
        more(0, "thinking_delta", thinking="see"),
        more(0, "signature_delta", signature="c2l"),
        more(0, "signature_delta", signature="n"),
        stop(0),
        begin(1, {"type": "redacted_thinking", "data": "secret"}),
        stop(1),
        *text(2, "Hi"),
        *done("end_turn"),
    )
    thinking = {"type": "thinking", "thinking": "let me see", "signature": "c2ln"}
    assert messages == (
        ReasoningMessage("let me see", Opaque("anthropic", {"block": thinking})),
        ReasoningMessage("", Opaque("anthropic", {"block": {"type": "redacted_thinking", "data": "secret"}})),
        TextMessage("assistant", "Hi", stop_reason="stop"),
    )


def test_a_thought_is_marked_with_its_prompt_when_asked() -> None:
    events = [
        START,
        begin(0, {"type": "thinking", "thinking": ""}),
        more(0, "signature_delta", signature="s"),
        stop(0),
        *done("end_turn"),
    ]
    messages, _ = read(*events, decoder=AnthropicDecoder("claude-opus-5-5", after=lambda: "f00"))
    block = {"type": "thinking", "thinking": "", "signature": "s"}
    assert messages == (ReasoningMessage("", Opaque("anthropic", {"block": block, "after": "f00"})),)


def test_text_and_parallel_calls_in_order() -> None:
    messages, finished = read(
        START,
        *text(0, "I look."),
        begin(1, {"type": "tool_use", "id": "toolu_1", "name": "files_read_1", "input": {}}),
        more(1, "input_json_delta", partial_json=""),
        more(1, "input_json_delta", partial_json='{"a"'),
        more(1, "input_json_delta", partial_json=": 1}"),
        stop(1),
        begin(2, {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}}),
        stop(2),
        *done("tool_use"),
        decoder=AnthropicDecoder("claude-sonnet-5", {"files_read_1": "files/read"}),
    )
    assert messages == (
        TextMessage("assistant", "I look.", stop_reason="tool"),
        ToolCallMessage((ToolCall("toolu_1", "files/read", {"a": 1}), ToolCall("toolu_2", "look", {}))),
    )
    assert finished.reason == "tool"


def test_arguments_given_at_once_are_taken() -> None:
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {"page": 1}}
    messages, _ = read(START, begin(0, call), stop(0), *done("tool_use"))
    assert messages == (ToolCallMessage((ToolCall("t", "look", {"page": 1}),)),)


def test_broken_arguments_stay_as_the_model_wrote_them() -> None:
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    messages, _ = read(
        START, begin(0, call), more(0, "input_json_delta", partial_json='{"page": '), stop(0), *done("max_tokens")
    )
    assert messages == (ToolCallMessage((ToolCall("t", "look", '{"page": '),)),)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool"),
        ("max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "max_tokens"),
        ("refusal", "refused"),
        ("pause_turn", "max_tokens"),
        ("something new", "stop"),
    ],
)
def test_b07_reasons(reason: str, expected: str) -> None:
    assert read(START, *text(0, "x"), *done(reason))[1].reason == expected


def test_unknown_blocks_and_events_never_crash() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "https://a.test"}]}
    messages, _ = read(
        START,
        {"type": "something_new", "x": 1},
        begin(0, search),
        more(0, "input_json_delta", partial_json='{"query": "x"}'),
        more(0, "delta_of_tomorrow", x=1),
        stop(0),
        begin(1, found),
        stop(1),
        begin(2, {"type": "block_of_tomorrow", "y": 2}),
        more(2, "input_json_delta", partial_json="{broken"),
        stop(2),
        *text(3, "Found."),
        {"type": "content_block_start"},
        *done("end_turn"),
    )
    kept = [one.opaque.data["block"] for one in messages[:-1] if isinstance(one, TextMessage) and one.opaque]
    assert kept == [
        {**search, "input": {"query": "x"}},
        found,
        {"type": "block_of_tomorrow", "y": 2, "input": "{broken"},
    ]
    assert final_text(messages) == "Found."


def test_an_answer_that_breaks_off_is_an_error() -> None:
    decoder = AnthropicDecoder("claude-sonnet-5")
    for event in (START, *text(0, "Hal")):
        list(decoder.feed(event))
    with pytest.raises(ModelUnreachable, match="broke off"):
        list(decoder.end())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", Overloaded),
        ("api_error", Overloaded),
        ("rate_limit_error", RateLimited),
        ("authentication_error", AuthenticationFailed),
        ("something new", BadResponse),
    ],
)
def test_b56_errors_in_the_middle_are_of_the_right_kind(kind: str, expected: type[ModelError]) -> None:
    decoder = AnthropicDecoder("claude-sonnet-5")
    with pytest.raises(expected, match="Not now"):
        list(decoder.feed({"type": "error", "error": {"type": kind, "message": "Not now"}}))


def test_a_piece_that_is_no_object_is_an_error() -> None:
    with pytest.raises(BadResponse, match="not an object"):
        list(AnthropicDecoder("claude-sonnet-5").feed("<html>"))
