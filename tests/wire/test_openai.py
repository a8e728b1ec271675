"""The real `openai` SDK against the independent mock server, by both of OpenAI's APIs; and a raw server."""

import asyncio
import gc
import weakref

import pytest

from perdure.models import (
    ModelRequest,
    ModelSettings,
    OutputSpec,
    TextChunk,
    ToolSpec,
    azure,
    compatible,
    deepseek,
    grok,
    ollama,
    openai,
    openai_chat,
    openrouter,
)
from perdure.types.attachments import image
from perdure.types.errors import (
    AuthenticationFailed,
    BadRequest,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelError,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)
from perdure.types.messages import ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage, system, user
from tests.wire.harness import QUICK, Mock, RawServer, ask

LOOK = ToolSpec(
    "look", "Look at a page", {"type": "object", "properties": {"page": {"type": "integer"}}, "required": ["page"]}
)
BOTH = pytest.mark.parametrize("make", [openai, openai_chat])


def request(text: str, **fields) -> ModelRequest:
    return ModelRequest((system("Be brief."), user(text)), settings=QUICK, **fields)


@BOTH
async def test_text_streams_in_pieces_with_usage(make, mock: Mock) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    mock.answer({"content": "Hello there, how are you?", "usage": usage}, chunkSize=6)
    model = make("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    answer = await ask(model, request("Hi"))
    pieces = [one.text for one in answer.events if isinstance(one, TextChunk)]
    assert len(pieces) > 3
    assert "".join(pieces) == "Hello there, how are you?"
    assert answer.finished.reason == "stop"
    assert (answer.finished.usage.input_tokens, answer.finished.usage.output_tokens) == (11, 7)
    assert answer.finished.provider == "openai"
    assert answer.finished.response_id
    (sent,) = mock.bodies()
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    await model.aclose()


@BOTH
async def test_b05_tools_are_called_and_their_results_returned(make, mock: Mock) -> None:
    calls = [{"name": "look", "arguments": {"page": 1}}, {"name": "look", "arguments": {"page": 2}}]
    mock.answer({"content": "Looking.", "toolCalls": calls}, {"hasToolResult": False})
    mock.answer({"content": "Both are empty."}, {"hasToolResult": True})
    model = make("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    first = await ask(model, request("Look", tools=(LOOK,)))
    text, called = first.messages
    assert isinstance(text, TextMessage)
    assert text.text == "Looking."
    assert isinstance(called, ToolCallMessage)
    assert [call.input for call in called.tools] == [{"page": 1}, {"page": 2}]
    assert len({call.id for call in called.tools}) == 2
    assert first.finished.reason == "tool"
    results = tuple(ToolResultMessage(call, {"data": "empty"}) for call in called.tools)
    told = ModelRequest((user("Look"), *first.messages, *results), tools=(LOOK,), settings=QUICK)
    second = await ask(model, told)
    assert second.text == "Both are empty."
    sent = mock.bodies()[1]["messages"]
    ids = [call.id for call in called.tools]
    assert [one["tool_call_id"] for one in sent if one["role"] == "tool"] == ids
    assert [call["id"] for one in sent for call in one.get("tool_calls", [])] == ids
    await model.aclose()


@BOTH
async def test_reasoning_is_told_apart_from_text(make, mock: Mock) -> None:
    mock.answer({"content": "42", "reasoning": "Six times seven."})
    model = make("gpt-5-mini", api_key="k", base_url=f"{mock.url}/v1")
    answer = await ask(model, request("6 * 7?"))
    thought, text = answer.messages
    assert isinstance(thought, ReasoningMessage)
    assert thought.content == "Six times seven."
    assert isinstance(text, TextMessage)
    assert text.text == "42"
    await model.aclose()


async def test_thoughts_go_back_unchanged_before_their_calls(server: RawServer) -> None:
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "A page."}],
        "encrypted_content": "c2VjcmV0",
    }
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": '{"page":1}'}
    done = {"id": "resp_1", "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 3}}
    server.stream(
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "encrypted_content": ""}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.output_item.added", "output_index": 1, "item": {**call, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"page":1}'},
        {"type": "response.output_item.done", "output_index": 1, "item": call},
        {"type": "response.completed", "response": done},
    )
    model = openai("gpt-5-mini", api_key="k", base_url=f"{server.url}/v1")
    first = await ask(model, request("Look", tools=(LOOK,)))
    _, called = first.messages
    assert isinstance(called, ToolCallMessage)
    result = ToolResultMessage(called.tools[0], {"data": "nothing"})
    await ask(model, ModelRequest((user("Look"), *first.messages, result), tools=(LOOK,), settings=QUICK))
    assert server.requests[0].body["store"] is False
    assert server.requests[0].body["include"] == ["reasoning.encrypted_content"]
    assert server.requests[1].body["input"] == [
        {"role": "user", "content": "Look"},
        item,
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": '{"page":1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": '{"data":"nothing"}'},
    ]
    await model.aclose()


@BOTH
async def test_structured_output_and_images_reach_the_server(make, mock: Mock) -> None:
    # The mock server understands the wish for a schema by one of the two APIs only.
    mock.answer({"content": {"answer": 42}}, {"responseFormat": "json_schema"} if make is openai_chat else {})
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    messages = (user(["What is this?", image(b"\x89PNG", media_type="image/png")]),)
    model = make("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    answer = await ask(model, ModelRequest(messages, output=OutputSpec("answer", schema), settings=QUICK))
    assert answer.text == '{"answer":42}'
    await model.aclose()


FAILURES = [
    (400, {"message": "no such parameter", "type": "invalid_request_error"}, BadRequest, False),
    (
        400,
        {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"},
        ContextTooLong,
        False,
    ),
    (400, {"message": "filtered", "code": "content_filter"}, ContentRefused, False),
    (401, {"message": "bad key", "code": "invalid_api_key"}, AuthenticationFailed, False),
    (403, {"message": "not yours"}, AuthenticationFailed, False),
    (404, {"message": "no such model", "code": "model_not_found"}, BadRequest, False),
    (429, {"message": "slow down", "type": "rate_limit_error"}, RateLimited, True),
    (
        429,
        {"message": "pay first", "type": "insufficient_quota", "code": "insufficient_quota"},
        AuthenticationFailed,
        False,
    ),
    (500, {"message": "oops"}, Overloaded, True),
    (503, {"message": "busy"}, Overloaded, True),
]


@BOTH
@pytest.mark.parametrize(("status", "error", "kind", "again"), FAILURES)
async def test_b56_error_statuses_are_errors_of_their_kind(make, status, error, kind, again, mock: Mock) -> None:
    mock.answer({"error": error, "status": status, "retryAfter": 7})
    model = make("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    with pytest.raises(kind) as raised:
        await ask(model, "Hi")
    assert type(raised.value) is kind
    assert raised.value.retryable is again
    assert raised.value.status == status
    assert error["message"] in str(raised.value)
    assert "openai:gpt-4.1-mini" in str(raised.value)
    if status == 429:
        assert raised.value.retry_after == 7
    assert len(mock.requests()) == 1  # the SDK does not try again by itself
    await model.aclose()


@BOTH
async def test_a_stream_that_breaks_off_is_unreachable(make, mock: Mock) -> None:
    mock.answer({"content": "This answer is cut off before its end."}, truncateAfterChunks=4, chunkSize=5)
    model = make("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    with pytest.raises(ModelUnreachable):
        await ask(model, "Hi")
    await model.aclose()


CHAT = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}
RESPONSES = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hel"}


@pytest.mark.parametrize(("make", "piece"), [(openai_chat, CHAT), (openai, RESPONSES)])
@pytest.mark.parametrize("done", [True, False], ids=["closed", "cut"])
async def test_an_ending_without_its_event_is_unreachable(make, piece, done, server: RawServer) -> None:
    server.stream(piece, done=done)
    model = make("m", api_key="k", base_url=server.url)
    got = []
    with pytest.raises(ModelUnreachable):
        async for event in model.stream(ModelRequest((user("Hi"),), settings=QUICK)):
            got.append(event)  # noqa: PERF401 — what came before the failure counts
    assert got == [TextChunk("Hel")]
    await model.aclose()


@BOTH
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<html>a proxy's page</html>"), (200, ""), (200, {"choices": [{"message": {"content": "Hi"}}]})],
)
async def test_b56_rubbish_is_a_bad_response(make, status, body, server: RawServer) -> None:
    server.answer(body, status)
    model = make("m", api_key="k", base_url=server.url)
    with pytest.raises(BadResponse):
        await ask(model, "Hi")
    await model.aclose()


@BOTH
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
async def test_b56_an_error_page_is_an_error_of_its_status(make, status, body, kind, said, server: RawServer) -> None:
    server.answer(body, status)
    model = make("m", api_key="k", base_url=server.url)
    with pytest.raises(kind, match=said):
        await ask(model, "Hi")
    await model.aclose()


SHAPES = [
    *((make, piece) for make in (openai, openai_chat) for piece in ("{broken", "[1, 2]", '"text"', "12", "null")),
    *(
        (openai_chat, f'{{"choices": {one}}}')
        for one in ("7", '["x"]', '[{"delta": "x"}]', '[{"delta": {"tool_calls": 1}}]')
    ),
    (openai, '{"type": "response.completed", "response": "x"}'),
    (openai, '{"type": "response.output_item.done", "item": [1]}'),
    (openai, '{"type": "response.output_item.added", "item": {"type": "function_call"}}'),
]


@pytest.mark.parametrize(("make", "piece"), SHAPES)
async def test_b56_a_piece_of_another_shape_is_a_bad_response(make, piece, server: RawServer) -> None:
    server.stream(piece)
    model = make("m", api_key="k", base_url=server.url)
    with pytest.raises(BadResponse):
        await ask(model, "Hi")
    await model.aclose()


@pytest.mark.parametrize(
    ("make", "pieces", "kind"),
    [
        (openai_chat, [CHAT, {"error": {"message": "busy", "code": 503}}], Overloaded),
        (openai_chat, [CHAT, {"error": {"message": "slow", "type": "rate_limit_error"}}], RateLimited),
        (openai_chat, [CHAT, {"error": "it broke"}], BadResponse),
        (openai, [RESPONSES, {"type": "error", "code": "server_error", "message": "busy"}], Overloaded),
        (openai, [RESPONSES, {"type": "error", "error": {"type": "server_error", "message": "busy"}}], Overloaded),
        (
            openai,
            [{"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow"}}}],
            RateLimited,
        ),
    ],
)
async def test_b56_an_error_inside_a_stream_is_an_error_of_its_kind(make, pieces, kind, server: RawServer) -> None:
    server.stream(*pieces)
    model = make("m", api_key="k", base_url=server.url)
    with pytest.raises(kind):
        await ask(model, "Hi")
    await model.aclose()


@BOTH
async def test_b56_a_server_that_says_nothing_is_given_up(make, server: RawServer) -> None:
    server.hang = True
    server.stream(CHAT if make is openai_chat else RESPONSES, done=False)
    model = make("m", api_key="k", base_url=server.url)
    with pytest.raises(ModelTimeout, match=r"0\.2 s"):
        await ask(model, ModelRequest((user("Hi"),), settings=ModelSettings(timeout=0.2)))
    await model.aclose()


@BOTH
async def test_a_server_that_is_not_there_is_unreachable(make, unused_tcp_port: int) -> None:
    model = make("m", api_key="k", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(ModelUnreachable, match="openai:m: Connection error"):
        await ask(model, "Hi")
    await model.aclose()


async def test_the_key_never_shows(server: RawServer) -> None:
    server.answer({"error": {"message": "Incorrect key sk-very-secret-key."}}, 401)
    model = openai("m", api_key="sk-very-secret-key", base_url=server.url)
    assert "secret" not in repr(model)
    assert "secret" not in repr(vars(model))
    with pytest.raises(AuthenticationFailed) as raised:
        await ask(model, "Hi")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert server.requests[0].headers["authorization"] == "Bearer sk-very-secret-key"
    await model.aclose()


async def test_other_servers_do_not_learn_about_the_account_at_openai(server: RawServer, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    server.stream({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, "[DONE]")
    other, ours = (
        compatible("m", base_url=server.url, headers={"X-Team": "blue"}),
        openai_chat("m", base_url=server.url),
    )
    await ask(other, "Hi")
    await ask(ours, "Hi")
    told, known = server.requests
    assert "openai-organization" not in told.headers
    assert "openai-project" not in told.headers
    assert "sk-openai" not in str(told.headers)
    assert told.headers["x-team"] == "blue"
    assert known.headers["openai-organization"] == "org-1"
    assert known.headers["authorization"] == "Bearer sk-openai"
    await other.aclose()
    await ours.aclose()


@pytest.mark.parametrize(
    ("make", "variable", "authorization"),
    [
        (grok, "XAI_API_KEY", "Bearer sk-x"),
        (deepseek, "DEEPSEEK_API_KEY", "Bearer sk-x"),
        (ollama, "NONE", "Bearer none"),
    ],
)
async def test_b56_presets_send_their_own_key(make, variable, authorization, server: RawServer, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv(variable, "sk-x")
    server.stream({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, "[DONE]")
    model = make("m", base_url=f"{server.url}/v1")
    strict = ToolSpec(LOOK.name, "", {**LOOK.parameters, "additionalProperties": False}, strict=True)
    assert (await ask(model, request("Hi", tools=(strict,)))).text == "Hi"
    (sent,) = server.requests
    assert (sent.path, sent.headers["authorization"]) == ("/v1/chat/completions", authorization)
    assert "strict" not in sent.body["tools"][0]["function"]  # such servers write broken arguments then
    await model.aclose()


async def test_azure_by_its_own_address_and_header(mock: Mock, server: RawServer) -> None:
    mock.answer({"content": "Hi from Azure"})
    model = azure("my-deployment", endpoint=mock.url, api_version="2025-04-01", api_key="k")
    assert (await ask(model, "Hi")).text == "Hi from Azure"
    (sent,) = mock.requests()
    assert sent["path"].split("?")[0] == "/openai/deployments/my-deployment/chat/completions"
    server.answer({"error": {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, 400)
    refused = azure("my-deployment", endpoint=server.url, api_version="2025-04-01", api_key="k")
    with pytest.raises(ContentRefused):
        await ask(refused, "Hi")
    assert server.requests[0].path.endswith("api-version=2025-04-01")
    assert server.requests[0].headers["api-key"] == "k"
    await model.aclose()
    await refused.aclose()


async def test_deepseek_gets_its_thoughts_back(server: RawServer) -> None:
    server.stream(
        {"id": "1", "choices": [{"delta": {"role": "assistant", "reasoning_content": "I must look."}}]},
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}]}}
            ]
        },
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        "[DONE]",
    )
    model = deepseek("deepseek-chat", api_key="k", base_url=server.url)
    first = await ask(model, request("Look", tools=(LOOK,)))
    thought, called = first.messages
    assert isinstance(thought, ReasoningMessage)
    assert isinstance(called, ToolCallMessage)
    result = ToolResultMessage(called.tools[0], {"data": 1})
    again = ModelRequest((user("Look"), thought, called, result), tools=(LOOK,), settings=QUICK)
    await ask(model, again)
    assert server.requests[1].body["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        "reasoning_content": "I must look.",
    }
    other = openrouter("x/y", api_key="k", base_url=server.url)
    await ask(other, again)
    assert "reasoning_content" not in server.requests[2].body["messages"][1]
    await model.aclose()
    await other.aclose()


async def test_openrouter_on_the_mock_server(mock: Mock) -> None:
    mock.answer({"content": "Hi", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
    model = openrouter("openai/gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/api/v1")
    answer = await ask(model, "Hi")
    assert answer.text == "Hi"
    assert answer.finished.usage.input_tokens == 3
    await model.aclose()


@BOTH
async def test_walking_away_closes_the_connection(make, server: RawServer) -> None:
    server.hang = True
    server.stream(CHAT if make is openai_chat else RESPONSES, done=False)
    model = make("m", api_key="k", base_url=server.url)
    stream = model.stream(ModelRequest((user("Hi"),), settings=QUICK))
    assert await anext(stream) == TextChunk("Hel")
    await stream.aclose()
    await asyncio.wait_for(server.left.wait(), 10)
    await model.aclose()


@BOTH
async def test_a_cancelled_call_leaves_nothing_behind(make, server: RawServer) -> None:
    server.hang = True
    server.stream(CHAT if make is openai_chat else RESPONSES, done=False)
    model = make("m", api_key="k", base_url=server.url)
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
    server.hang = False
    await model.aclose()
    assert {one for one in asyncio.all_tasks() - before if "handle" not in repr(one)} == set()


def test_each_event_loop_has_a_client_that_closes_with_it(mock: Mock) -> None:
    mock.answer({"content": "Hi"})
    model = openai("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    clients, loops = [], []

    async def once() -> None:
        assert (await ask(model, "Hi")).text == "Hi"
        clients.append(await model.client())
        assert (await ask(model, "Hi")).text == "Hi"
        assert await model.client() is clients[-1]
        loops.append(weakref.ref(asyncio.get_running_loop()))

    for _ in range(2):
        asyncio.run(once())
    assert clients[0] is not clients[1]
    assert all(client.is_closed() for client in clients)
    clients.clear()
    gc.collect()
    assert [loop() for loop in loops] == [None, None]


async def test_models_can_be_asked_at_the_same_time(mock: Mock) -> None:
    mock.answer({"content": "one"}, {"userMessage": "first"})
    mock.answer({"content": "two"}, {"userMessage": "second"})
    model = openai("gpt-4.1-mini", api_key="k", base_url=f"{mock.url}/v1")
    answers = await asyncio.gather(*(ask(model, text) for text in ["first", "second"] * 10))
    assert [one.text for one in answers] == ["one", "two"] * 10
    await model.aclose()


def test_every_failure_here_is_a_model_error() -> None:
    assert all(issubclass(kind, ModelError) for _, _, kind, _ in FAILURES)
