"""The real `anthropic` SDK against the independent mock server, and a raw server for what that cannot do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

from perdure.models import (
    ModelEvent,
    ModelRequest,
    ModelSettings,
    OutputSpec,
    TextChunk,
    ToolSpec,
    Usage,
    Used,
    anthropic,
)
from perdure.types.attachments import image
from perdure.types.errors import (
    AuthenticationFailed,
    BadRequest,
    BadResponse,
    ContextTooLong,
    MissingKey,
    ModelError,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)
from perdure.types.messages import ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage, system, user
from tests.wire.harness import QUICK, Mock, RawServer, ask

NAME = "claude-sonnet-5"
LOOK = ToolSpec(
    "look", "Look at a page", {"type": "object", "properties": {"page": {"type": "integer"}}, "required": ["page"]}
)
START = {"type": "message_start", "message": {"id": "msg_1", "model": NAME, "usage": {"input_tokens": 3}}}
HEL = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}
DONE = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}


def request(text: str, **fields: Any) -> ModelRequest:
    return ModelRequest((system("Be brief."), user(text)), settings=QUICK, **fields)


async def test_text_streams_in_pieces_with_usage(mock: Mock) -> None:
    usage = {"input_tokens": 11, "output_tokens": 7, "cache_read_input_tokens": 100}
    mock.answer({"content": "Hello there, how are you?", "usage": usage}, chunkSize=6)
    model = anthropic(NAME, api_key="k", base_url=mock.url)
    answer = await ask(model, request("Hi"))
    pieces = [one.text for one in answer.events if isinstance(one, TextChunk)]
    assert len(pieces) > 3
    assert "".join(pieces) == "Hello there, how are you?"
    assert answer.finished.reason == "stop"
    assert answer.finished.usage.output_tokens == 7
    # The mock server writes no cache counts into a stream; test_usage_counts_the_whole_prompt does.
    assert answer.finished.usage.input_tokens == 11
    assert (answer.finished.provider, answer.finished.model) == ("anthropic", NAME)
    assert answer.finished.response_id
    (sent,) = mock.bodies()
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    await model.aclose()


async def test_usage_counts_the_whole_prompt(server: RawServer) -> None:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 100, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_1", "model": NAME, "usage": usage}}
    server.stream(start, HEL, {**DONE, "usage": {"output_tokens": 9}}, {"type": "message_stop"})
    model = anthropic(NAME, api_key="k", base_url=server.url)
    counted = (await ask(model, "Hi")).finished.usage
    assert (counted.input_tokens, counted.output_tokens) == (123, 9)
    assert (counted.cache_read_tokens, counted.cache_write_tokens) == (20, 100)
    await model.aclose()


async def test_b05_tools_are_called_and_their_results_returned(mock: Mock) -> None:
    calls = [{"name": "look", "arguments": {"page": 1}}, {"name": "look", "arguments": {"page": 2}}]
    mock.answer({"content": "Looking.", "toolCalls": calls}, {"hasToolResult": False})
    mock.answer({"content": "Both are empty."}, {"hasToolResult": True})
    model = anthropic(NAME, api_key="k", base_url=mock.url)
    first = await ask(model, request("Look", tools=(LOOK,)))
    text, called = first.messages
    assert isinstance(text, TextMessage)
    assert text.text == "Looking."
    assert isinstance(called, ToolCallMessage)
    assert [call.input for call in called.tools] == [{"page": 1}, {"page": 2}]
    assert len({call.id for call in called.tools}) == 2
    assert first.finished.reason == "tool"
    results = tuple(ToolResultMessage(call, {"data": "empty"}) for call in called.tools)
    second = await ask(model, ModelRequest((user("Look"), *first.messages, *results), tools=(LOOK,), settings=QUICK))
    assert second.text == "Both are empty."
    sent = mock.bodies()[1]["messages"]
    ids = [call.id for call in called.tools]
    assert [one["tool_call_id"] for one in sent if one["role"] == "tool"] == ids
    assert [call["id"] for one in sent for call in one.get("tool_calls", [])] == ids
    await model.aclose()


async def test_reasoning_is_told_apart_from_text_and_goes_back(mock: Mock) -> None:
    mock.answer({"content": "42", "reasoning": "Six times seven."})
    model = anthropic(NAME, api_key="k", base_url=mock.url)
    answer = await ask(model, request("6 * 7?"))
    thought, text = answer.messages
    assert isinstance(thought, ReasoningMessage)
    assert thought.content == "Six times seven."
    assert thought.opaque is not None
    assert isinstance(text, TextMessage)
    assert text.text == "42"
    await ask(model, ModelRequest((user("6 * 7?"), thought, text, user("Sure?")), settings=QUICK))
    await model.aclose()


async def test_thoughts_go_back_unchanged_before_their_calls(server: RawServer) -> None:
    thinking = {"type": "thinking", "thinking": "A page.", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    server.stream(
        START,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "A page."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": call},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"page":1}'},
        },
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    newest = "claude-opus-5-5"
    model = anthropic(newest, api_key="k", base_url=server.url, settings=ModelSettings(cache=False))
    first = await ask(model, request("Look", tools=(LOOK,)))
    _, called = first.messages
    assert isinstance(called, ToolCallMessage)
    result = ToolResultMessage(called.tools[0], {"data": "nothing"})
    await ask(
        model, ModelRequest((system("Be brief."), user("Look"), *first.messages, result), (LOOK,), settings=QUICK)
    )
    sent = server.requests[1].body["messages"]
    assert sent[1]["content"] == [thinking, {**call, "input": {"page": 1}}]
    assert sent[2]["content"] == [{"type": "tool_result", "tool_use_id": "toolu_1", "content": '{"data":"nothing"}'}]
    # The newest models refuse a thought after another prompt than the one it was made for.
    await ask(model, ModelRequest((system("Be kind."), user("Look"), *first.messages, result), (LOOK,), settings=QUICK))
    assert [block["type"] for block in server.requests[2].body["messages"][1]["content"]] == ["tool_use"]
    await model.aclose()


async def test_the_body_arrives_as_it_was_written(server: RawServer) -> None:
    server.stream(START, HEL, DONE, {"type": "message_stop"})
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    settings = ModelSettings(timeout=20, max_tokens=50, reasoning="low", extra={"service_tier": "auto"})
    model = anthropic(NAME, api_key="k", base_url=server.url, headers={"anthropic-beta": "x"})
    messages = (user(["What is this?", image(b"\x89PNG", media_type="image/png")]),)
    output = OutputSpec("answer", schema)
    assert (await ask(model, ModelRequest(messages, output=output, settings=settings))).text == "Hel"
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    assert sent.headers["authorization"] == "Bearer k"
    assert sent.headers["anthropic-beta"] == "x"
    assert sent.headers["anthropic-version"] == "2026-10-21"
    cached = {"cache_control": {"type": "ephemeral"}}
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert sent.body == {
        "model": NAME,
        "max_tokens": 50,
        "stream": True,
        "service_tier": "auto",
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}},
        },
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": picture, **cached},
                ],
            }
        ],
    }
    await model.aclose()


async def test_a_temperature_goes_by_the_version_of_the_api_that_takes_it(server: RawServer) -> None:
    server.stream(START, HEL, DONE, {"type": "message_stop"})
    model = anthropic("claude-haiku-4-5", api_key="k", base_url=server.url)
    await ask(model, ModelRequest((user("Hi"),), settings=ModelSettings(timeout=20, temperature=0.5)))
    await ask(model, "Hi")
    with_it, without = server.requests
    assert with_it.body["temperature"] == 0.5
    assert with_it.headers["anthropic-version"] == "2023-06-01"
    assert without.headers["anthropic-version"] == "2026-10-21"
    await model.aclose()


FAILURES = [
    (400, {"message": "no such parameter", "type": "invalid_request_error"}, BadRequest, False),
    (400, {"message": "prompt is too long: 9 tokens > 8", "type": "invalid_request_error"}, ContextTooLong, False),
    (400, {"message": "Your credit balance is too low", "type": "invalid_request_error"}, AuthenticationFailed, False),
    (401, {"message": "invalid x-api-key", "type": "authentication_error"}, AuthenticationFailed, False),
    (403, {"message": "not yours", "type": "permission_error"}, AuthenticationFailed, False),
    (404, {"message": "model: claude-none", "type": "not_found_error"}, BadRequest, False),
    (413, {"message": "too large", "type": "request_too_large"}, ContextTooLong, False),
    (429, {"message": "slow down", "type": "rate_limit_error"}, RateLimited, True),
    (500, {"message": "oops", "type": "api_error"}, Overloaded, True),
    (529, {"message": "Overloaded", "type": "overloaded_error"}, Overloaded, True),
]


@pytest.mark.parametrize(("status", "error", "kind", "again"), FAILURES)
async def test_b56_error_statuses_are_errors_of_their_kind(
    status: int, error: dict[str, str], kind: type[ModelError], again: bool, mock: Mock
) -> None:
    mock.answer({"error": error, "status": status, "retryAfter": 7})
    model = anthropic(NAME, api_key="k", base_url=mock.url)
    with pytest.raises(kind) as raised:
        await ask(model, "Hi")
    assert type(raised.value) is kind
    assert raised.value.retryable is again
    assert raised.value.status == status
    assert error["message"] in str(raised.value)
    assert f"anthropic:{NAME}" in str(raised.value)
    if status == 429:
        assert raised.value.retry_after == 7
    assert len(mock.requests()) == 1  # the SDK does not try again by itself
    await model.aclose()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("overloaded_error", Overloaded), ("rate_limit_error", RateLimited), ("api_error", Overloaded)],
)
async def test_b56_an_error_inside_a_stream_is_an_error_of_its_kind(
    kind: str, expected: type[ModelError], server: RawServer
) -> None:
    server.stream(START, HEL, {"type": "error", "error": {"type": kind, "message": "Not now"}})
    model = anthropic(NAME, api_key="k", base_url=server.url)
    got = []
    with pytest.raises(expected, match="Not now") as raised:
        async for event in model.stream(ModelRequest((user("Hi"),), settings=QUICK)):
            got.append(event)  # noqa: PERF401 — what came before the failure counts
    assert type(raised.value) is expected
    assert raised.value.retryable
    assert got == [Used(Usage(3)), TextChunk("Hel")], "the prompt is paid for"
    await model.aclose()


async def test_a_stream_that_breaks_off_is_unreachable(mock: Mock) -> None:
    mock.answer({"content": "This answer is cut off before its end."}, truncateAfterChunks=4, chunkSize=5)
    model = anthropic(NAME, api_key="k", base_url=mock.url)
    with pytest.raises(ModelUnreachable):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize("done", [True, False], ids=["closed", "cut"])
async def test_an_ending_without_its_event_is_unreachable(done: bool, server: RawServer) -> None:
    server.stream(START, HEL, done=done)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    with pytest.raises(ModelUnreachable):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (502, "<html>Bad gateway</html>", Overloaded, "Bad gateway"),
        (429, {"detail": "slow down"}, RateLimited, "slow down"),
        (404, {"error": "model not found"}, BadRequest, "model not found"),
        (422, {"detail": [{"loc": ["n"], "msg": "too many"}]}, BadRequest, "too many"),
        (500, "", Overloaded, None),
    ],
)
async def test_b56_an_error_page_is_an_error_of_its_status(
    status: int, body: Any, kind: type[ModelError], said: str | None, server: RawServer
) -> None:
    server.answer(body, status)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    with pytest.raises(kind, match=said):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize("body", ["<html>a proxy's page</html>", "", {"content": [{"type": "text", "text": "Hi"}]}])
async def test_b56_rubbish_is_no_answer(body: Any, server: RawServer) -> None:
    server.answer(body)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    with pytest.raises((BadResponse, ModelUnreachable)) as raised:
        await ask(model, "Hi")
    assert raised.value.retryable
    await model.aclose()


SHAPES = [
    "null",
    '{"type": "message_start", "message": 7}',
    '{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 7}}',
    '{"type": "content_block_delta", "index": {}, "delta": {"type": "text_delta", "text": "x"}}',
    '{"type": "content_block_delta", "index": 0, "delta": [1]}',
    '{"type": "message_delta", "delta": {"stop_reason": 7}, "usage": "x"}',
]


@pytest.mark.parametrize("piece", SHAPES)
async def test_b56_a_piece_of_another_shape_is_an_error_or_ignored(piece: str, server: RawServer) -> None:
    """Nothing that a server sends may raise anything but a `ModelError`."""
    kind = piece.split('"')[3] if '"' in piece else "message_start"
    server.answers.append(_events((kind, piece)))
    model = anthropic(NAME, api_key="k", base_url=server.url)
    with pytest.raises(ModelError) as raised:
        await ask(model, "Hi")
    assert raised.value.retryable
    await model.aclose()


def _events(*events: tuple[str, str]) -> bytes:
    body = "".join(f"event: {kind}\ndata: {data}\n\n" for kind, data in events).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


async def test_b56_a_server_that_says_nothing_is_given_up(server: RawServer) -> None:
    server.hang = True
    server.stream(START, done=False)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    with pytest.raises(ModelTimeout, match=r"0\.2 s"):
        await ask(model, ModelRequest((user("Hi"),), settings=ModelSettings(timeout=0.2)))
    await model.aclose()


async def test_a_server_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    model = anthropic(NAME, api_key="k", base_url=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ModelUnreachable, match="Connection error"):
        await ask(model, "Hi")
    await model.aclose()


async def test_the_key_never_shows(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer({"type": "error", "error": {"message": "Wrong key sk-very-secret-key."}}, 401)
    model = anthropic(NAME, api_key="sk-very-secret-key", base_url=server.url)
    assert "secret" not in repr(model)
    assert "secret" not in repr(vars(model))
    with pytest.raises(AuthenticationFailed) as raised:
        await ask(model, "Hi")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    await model.aclose()
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(MissingKey, match="ANTHROPIC_API_KEY"):
        await ask(anthropic(NAME), "Hi")


async def test_walking_away_closes_the_connection(server: RawServer) -> None:
    server.hang = True
    server.stream(START, HEL, done=False)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    stream = cast("AsyncGenerator[ModelEvent]", model.stream(ModelRequest((user("Hi"),), settings=QUICK)))
    async with aclosing(stream):
        assert [await anext(stream), await anext(stream)] == [Used(Usage(3)), TextChunk("Hel")]
    await asyncio.wait_for(server.left.wait(), 10)
    await model.aclose()


async def test_a_cancelled_call_leaves_nothing_behind(server: RawServer) -> None:
    server.hang = True
    server.stream(START, HEL, done=False)
    model = anthropic(NAME, api_key="k", base_url=server.url)
    begun = asyncio.Event()

    async def call() -> None:
        async for _ in model.stream(ModelRequest((user("Hi"),), settings=QUICK)):
            begun.set()

    before = asyncio.all_tasks()
    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.left.wait(), 10)
    await model.aclose()
    assert {one for one in asyncio.all_tasks() - before if "handle" not in repr(one)} == set()
