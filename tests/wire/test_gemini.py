"""The real `google-genai` SDK against the independent mock server, and a raw server for what that cannot do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

from perdure.models import ModelEvent, ModelRequest, ModelSettings, OutputSpec, TextChunk, ToolSpec, gemini
from perdure.types.attachments import image
from perdure.types.errors import (
    AuthenticationFailed,
    BadRequest,
    BadResponse,
    ContentRefused,
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

NAME = "gemini-3.8-flash"
LOOK = ToolSpec(
    "look", "Look at a page", {"type": "object", "properties": {"page": {"type": "integer"}}, "required": ["page"]}
)
# The mock server ends an answer that has calls with a reason which the API does not know; the SDK warns of it.
CALLS = pytest.mark.filterwarnings("ignore:FUNCTION_CALL is not a valid FinishReason")


def request(text: str, **fields: Any) -> ModelRequest:
    return ModelRequest((system("Be brief."), user(text)), settings=QUICK, **fields)


def piece(*parts: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [candidate | ({"finishReason": reason} if reason else {})], **more}


async def test_text_streams_in_pieces_with_usage(mock: Mock) -> None:
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    mock.answer({"content": "Hello there, how are you?", "usage": usage}, chunkSize=6)
    model = gemini(NAME, api_key="k", base_url=mock.url)
    answer = await ask(model, request("Hi"))
    pieces = [one.text for one in answer.events if isinstance(one, TextChunk)]
    assert len(pieces) > 3
    assert "".join(pieces) == "Hello there, how are you?"
    assert answer.finished.reason == "stop"
    assert (answer.finished.usage.input_tokens, answer.finished.usage.output_tokens) == (11, 7)
    assert answer.finished.provider == "gemini"
    (sent,) = mock.bodies()
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    await model.aclose()


@CALLS
async def test_b05_tools_are_called_and_their_results_returned(mock: Mock) -> None:
    calls = [{"name": "look", "arguments": {"page": 1}}, {"name": "look", "arguments": {"page": 2}}]
    mock.answer({"content": "Looking.", "toolCalls": calls}, {"hasToolResult": False})
    mock.answer({"content": "Both are empty."}, {"hasToolResult": True})
    model = gemini(NAME, api_key="k", base_url=mock.url)
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
    assert len([one for one in sent if one["role"] == "tool"]) == 2
    assert [call["function"]["name"] for one in sent for call in one.get("tool_calls", [])] == ["look", "look"]
    await model.aclose()


async def test_reasoning_is_told_apart_from_text(mock: Mock) -> None:
    mock.answer({"content": "42", "reasoning": "Six times seven."})
    model = gemini(NAME, api_key="k", base_url=mock.url)
    thought, text = (await ask(model, request("6 * 7?"))).messages
    assert isinstance(thought, ReasoningMessage)
    assert thought.content == "Six times seven."
    assert isinstance(text, TextMessage)
    assert text.text == "42"
    await model.aclose()


async def test_signatures_go_back_on_their_parts(server: RawServer) -> None:
    """AgentKit lost or refused this (its issue 325)."""
    call = {"functionCall": {"id": "a", "name": "look", "args": {"page": 1}}, "thoughtSignature": "c2ln"}
    other = {"functionCall": {"id": "b", "name": "look", "args": {"page": 2}}}
    server.stream(
        piece({"text": "Hm.", "thought": True}),
        piece({"text": "I look."}),
        piece({"text": "", "thoughtSignature": "dGV4dA=="}),
        piece(call, other, reason="STOP", usageMetadata={"promptTokenCount": 5, "thoughtsTokenCount": 3}),
    )
    model = gemini(NAME, api_key="k", base_url=server.url)
    first = await ask(model, request("Look", tools=(LOOK,)))
    called = first.messages[-1]
    assert isinstance(called, ToolCallMessage)
    results = tuple(ToolResultMessage(one, {"data": one.id}) for one in called.tools)
    await ask(model, ModelRequest((user("Look"), *first.messages, *results), tools=(LOOK,), settings=QUICK))
    sent = server.requests[1].body["contents"]
    assert sent[1] == {
        "role": "model",
        "parts": [{"text": "I look.", "thoughtSignature": "dGV4dA=="}, call, other],
    }
    assert [part["functionResponse"] for part in sent[2]["parts"]] == [
        {"id": one, "name": "look", "response": {"output": one}} for one in ("a", "b")
    ]
    assert (first.finished.usage.output_tokens, first.finished.usage.reasoning_tokens) == (3, 3)
    await model.aclose()


async def test_the_body_arrives_as_it_was_written(server: RawServer) -> None:
    server.stream(piece({"text": "Hi"}, reason="STOP"))
    schema = {
        "type": "object",
        "properties": {"answer": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}},
        "required": ["answer"],
        "$defs": {"N": {"type": "integer"}},
    }
    extra = {"cachedContent": "cachedContents/1", "generationConfig": {"topK": 3}}
    settings = ModelSettings(timeout=20, max_tokens=50, reasoning="low", extra=extra)
    model = gemini(NAME, api_key="sk-key", base_url=server.url, headers={"X-Team": "blue"})
    messages = (system("Be brief."), user(["What is this?", image(b"\x89PNG", media_type="image/png")]))
    tool = ToolSpec("look", "", LOOK.parameters | {"additionalProperties": False})
    asked = ModelRequest(messages, tools=(tool,), output=OutputSpec("answer", schema), settings=settings)
    assert (await ask(model, asked)).text == "Hi"
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", f"/v1beta/models/{NAME}:streamGenerateContent?alt=sse")
    assert sent.headers["x-goog-api-key"] == "sk-key"
    assert sent.headers["x-team"] == "blue"
    assert sent.body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "What is this?"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
                ],
            }
        ],
        "tools": [
            {"functionDeclarations": [{"name": "look", "description": "", "parametersJsonSchema": tool.parameters}]}
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
        "cachedContent": "cachedContents/1",
        "generationConfig": {
            "maxOutputTokens": 50,
            "thinkingConfig": {"thinkingLevel": "low", "includeThoughts": True},
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
            "topK": 3,
        },
    }
    await model.aclose()


FAILURES = [
    (400, "INVALID_ARGUMENT", "no such field", BadRequest, False),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", AuthenticationFailed, False),
    (400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens", ContextTooLong, False),
    (403, "PERMISSION_DENIED", "not yours", AuthenticationFailed, False),
    (404, "NOT_FOUND", "models/none is not found", BadRequest, False),
    (429, "RESOURCE_EXHAUSTED", "slow down", RateLimited, True),
    (500, "INTERNAL", "oops", Overloaded, True),
    (503, "UNAVAILABLE", "The model is overloaded.", Overloaded, True),
]


@pytest.mark.parametrize(("status", "code", "message", "kind", "again"), FAILURES)
async def test_b56_error_statuses_are_errors_of_their_kind(
    status: int, code: str, message: str, kind: type[ModelError], again: bool, mock: Mock
) -> None:
    mock.answer({"error": {"message": message, "type": code}, "status": status, "retryAfter": 7})
    model = gemini(NAME, api_key="k", base_url=mock.url)
    with pytest.raises(kind) as raised:
        await ask(model, "Hi")
    assert type(raised.value) is kind
    assert raised.value.retryable is again
    assert raised.value.status == status
    assert message in str(raised.value)
    assert f"gemini:{NAME}" in str(raised.value)
    if status == 429:
        assert raised.value.retry_after == 7
    assert len(mock.requests()) == 1  # the SDK does not try again by itself
    await model.aclose()


def busy(status: int, code: str) -> dict[str, Any]:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}
    return {"error": {"code": status, "message": "busy", "status": code, "details": [{"@type": "x"}, retry]}}


async def test_b56_the_delay_is_read_from_the_details(server: RawServer) -> None:
    server.answer(busy(429, "RESOURCE_EXHAUSTED"), 429)
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises(RateLimited, match="busy") as raised:
        await ask(model, "Hi")
    assert raised.value.retry_after == 7.5
    await model.aclose()


async def test_b56_an_error_inside_a_stream_is_an_error_of_its_kind(server: RawServer) -> None:
    server.stream(piece({"text": "Hel"}), busy(503, "UNAVAILABLE"))
    model = gemini(NAME, api_key="k", base_url=server.url)
    got = []
    with pytest.raises(Overloaded, match="busy") as raised:
        async for event in model.stream(ModelRequest((user("Hi"),), settings=QUICK)):
            got.append(event)  # noqa: PERF401 — what came before the failure counts
    assert raised.value.retry_after == 7.5
    assert got == [TextChunk("Hel")]
    await model.aclose()


async def test_b56_a_malformed_call_can_be_tried_again(server: RawServer) -> None:
    """AgentKit lost or refused this (its issue 178)."""
    server.stream(piece({"text": "I call"}), {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]})
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises(BadResponse, match="MALFORMED_FUNCTION_CALL") as raised:
        await ask(model, "Hi")
    assert raised.value.retryable
    await model.aclose()


async def test_refusals_of_the_prompt_and_of_the_answer(server: RawServer) -> None:
    model = gemini(NAME, api_key="k", base_url=server.url)
    server.stream({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    with pytest.raises(ContentRefused, match="prompt was blocked"):
        await ask(model, "Hi")
    server.answers.clear()
    server.stream({"candidates": [{"finishReason": "SAFETY"}]})
    with pytest.raises(ContentRefused, match="SAFETY"):
        await ask(model, "Hi")
    server.answers.clear()
    server.stream(piece({"text": "Well"}), {"candidates": [{"finishReason": "SAFETY"}]})
    assert (await ask(model, "Hi")).finished.reason == "refused"
    await model.aclose()


async def test_a_stream_that_breaks_off_is_unreachable(mock: Mock) -> None:
    mock.answer({"content": "This answer is cut off before its end."}, truncateAfterChunks=4, chunkSize=5)
    model = gemini(NAME, api_key="k", base_url=mock.url)
    with pytest.raises(ModelUnreachable):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize("done", [True, False], ids=["closed", "cut"])
async def test_an_ending_without_a_reason_is_unreachable(done: bool, server: RawServer) -> None:
    server.stream(piece({"text": "Hel"}), done=done)
    model = gemini(NAME, api_key="k", base_url=server.url)
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
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises(kind, match=said):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize("body", ["<html>a proxy's page</html>", "", '{"choices": []}'])
async def test_b56_rubbish_is_no_answer(body: str, server: RawServer) -> None:
    server.answer(body)
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises((BadResponse, ModelUnreachable)) as raised:
        await ask(model, "Hi")
    assert raised.value.retryable
    await model.aclose()


SHAPES = ["{broken", "[1, 2]", '"text"', "12", "null", '{"candidates": 7}', '{"candidates": [{"content": "x"}]}']


@pytest.mark.parametrize("shape", SHAPES)
async def test_b56_a_piece_of_another_shape_is_an_error(shape: str, server: RawServer) -> None:
    """Nothing that a server sends may raise anything but a `ModelError`."""
    server.stream(shape)
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises(ModelError) as raised:
        await ask(model, "Hi")
    assert raised.value.retryable
    await model.aclose()


async def test_b56_a_server_that_says_nothing_is_given_up(server: RawServer) -> None:
    server.hang = True
    server.stream(piece({"text": "Hel"}), done=False)
    model = gemini(NAME, api_key="k", base_url=server.url)
    with pytest.raises(ModelTimeout, match=r"0\.2 s"):
        await ask(model, ModelRequest((user("Hi"),), settings=ModelSettings(timeout=0.2)))
    await asyncio.wait_for(server.left.wait(), 10)
    await model.aclose()


async def test_a_server_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    model = gemini(NAME, api_key="k", base_url=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ModelUnreachable, match=f"gemini:{NAME}"):
        await ask(model, "Hi")
    await model.aclose()


async def test_b56_the_key_never_shows(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer(
        {"error": {"code": 403, "message": "Wrong key AIza-very-secret.", "status": "PERMISSION_DENIED"}}, 403
    )
    model = gemini(NAME, api_key="AIza-very-secret", base_url=server.url)
    assert "secret" not in repr(model)
    assert "secret" not in repr(vars(model))
    with pytest.raises(AuthenticationFailed) as raised:
        await ask(model, "Hi")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert "secret" not in server.requests[0].path
    await model.aclose()
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(MissingKey, match="GEMINI_API_KEY"):
        await ask(gemini(NAME), "Hi")


async def test_the_environment_cannot_send_requests_elsewhere(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stream(piece({"text": "Hi"}, reason="STOP"))
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_USE_ENTERPRISE", "true")
    monkeypatch.setenv("GEMINI_API_KEY", "from-the-environment")
    model = gemini(NAME, base_url=server.url)
    assert (await ask(model, "Hi")).text == "Hi"
    assert server.requests[0].headers["x-goog-api-key"] == "from-the-environment"
    assert server.requests[0].path.startswith("/v1beta/models/")
    await model.aclose()


async def test_walking_away_closes_the_connection(server: RawServer) -> None:
    server.hang = True
    server.stream(piece({"text": "Hel"}), done=False)
    model = gemini(NAME, api_key="k", base_url=server.url)
    stream = cast("AsyncGenerator[ModelEvent]", model.stream(ModelRequest((user("Hi"),), settings=QUICK)))
    async with aclosing(stream):
        assert await anext(stream) == TextChunk("Hel")
    await asyncio.wait_for(server.left.wait(), 10)
    await model.aclose()


async def test_a_cancelled_call_leaves_nothing_behind(server: RawServer) -> None:
    server.hang = True
    server.stream(piece({"text": "Hel"}), done=False)
    model = gemini(NAME, api_key="k", base_url=server.url)
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


def test_each_event_loop_has_a_client_of_its_own(mock: Mock) -> None:
    mock.answer({"content": "Hi"})
    model = gemini(NAME, api_key="k", base_url=mock.url)

    async def once() -> Any:
        assert (await ask(model, "Hi")).text == "Hi"
        assert (await ask(model, "Hi")).text == "Hi"
        return await model.client()

    assert asyncio.run(once()) is not asyncio.run(once())
