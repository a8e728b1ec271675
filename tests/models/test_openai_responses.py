"""The Responses mapping: what is sent, and what is made of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.models import ModelRequest, ModelSettings, OutputSpec, ToolSpec
from perdure.models.openai_responses import encode, thinks
from perdure.models.openai_responses_stream import ResponsesDecoder, read_usage
from perdure.types.assemble import Assembler
from perdure.types.attachments import file, image
from perdure.types.base import decode_json
from perdure.types.chunks import Finished, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import (
    BadRequest,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)
from perdure.types.messages import (
    ImagePart,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    dump_messages,
    load_messages,
    system,
    user,
)
from perdure.types.usage import Usage

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = ToolSpec("weather", "Tell the weather", SCHEMA)
PARIS, ROME = ToolCall("call_1", "weather", {"city": "Paris"}), ToolCall("call_2", "weather", {"city": "Rome"})
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}


def sent(*messages, name: str = "gpt-5-mini", **fields) -> dict:
    settings = ModelSettings(**fields.pop("settings", {}))
    return encode(name, ModelRequest(messages, settings=settings, **fields))


# -- encode ---------------------------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    body = sent(
        system("Be brief."),
        user("Weather in Paris and Rome?"),
        ReasoningMessage("hm", Opaque("openai", THOUGHT)),
        TextMessage("assistant", "I look.", stop_reason="tool", opaque=Opaque("openai", {"id": "msg_1"})),
        ToolCallMessage((ToolCall("call_1", "weather", {"city": "Paris"}, Opaque("openai", {"id": "fc_1"})), ROME)),
        ToolResultMessage(PARIS, {"data": "clear"}),
        ToolResultMessage(ROME, {"error": {"name": "Timeout", "message": "too slow"}}),
        tools=(WEATHER,),
        settings={"max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "reasoning": "low", "parallel_tool_calls": True},
    )
    assert body == {
        "model": "gpt-5-mini",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris and Rome?"},
            THOUGHT,
            {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "id": "msg_1",
                "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city":"Paris"}',
            },
            {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": '{"city":"Rome"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": '{"data":"clear"}'},
            {
                "type": "function_call_output",
                "call_id": "call_2",
                "output": '{"error":{"name":"Timeout","message":"too slow"}}',
            },
        ],
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "Tell the weather",
                "parameters": SCHEMA,
                "strict": False,
            }
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning": {"effort": "low"},
    }


def test_b20_tool_choice() -> None:
    def choice(one: str):
        return sent(user("x"), tools=(WEATHER,), tool_choice=one)["tool_choice"]

    assert [choice(one) for one in ("auto", "any", "none")] == ["auto", "required", "none"]
    assert choice("weather") == {"type": "function", "name": "weather"}
    assert "tool_choice" not in sent(user("x"), tool_choice="any")


def test_thoughts_need_their_content_and_what_followed_them() -> None:
    mine = ReasoningMessage("hm", Opaque("openai", THOUGHT))
    nameless = ReasoningMessage("hm", Opaque("openai", {**THOUGHT, "encrypted_content": None}))
    foreign = ReasoningMessage("hm", Opaque("anthropic", {"type": "thinking"}))
    plain = {"role": "assistant", "content": "y"}
    assert sent(mine, assistant("y"))["input"] == [THOUGHT, plain]
    assert sent(mine, user("y"))["input"] == [{"role": "user", "content": "y"}]
    assert sent(nameless, assistant("y"))["input"] == [plain]
    assert sent(foreign, assistant("y"))["input"] == [plain]
    assert sent(mine, assistant("y"), name="gpt-4.1")["input"] == [plain]
    text = TextMessage("assistant", "y", opaque=Opaque("gemini", {"signature": "x"}))
    assert sent(text)["input"] == [plain]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("gpt-5-mini", True), ("gpt-5.3-codex", True), ("gpt-6-luna", True), ("gpt-10", True), ("o3", True)),
        *(("ft:o4-mini:acme", True), ("openai/gpt-5.1", True), ("codex-mini-latest", True)),
        *(("gpt-4.1", False), ("gpt-4o", False), ("gpt-5-chat-latest", False), ("gpt-5.3-chat-latest", False)),
        *(("chatgpt-4o-latest", False), ("llama-4", False)),
    ],
)
def test_which_models_think(name, expected) -> None:
    assert thinks(name) is expected
    assert ("include" in sent(user("x"), name=name)) is expected


def test_images_and_files() -> None:
    message = user(
        [
            "Look:",
            image(b"\x01", media_type="image/png"),
            ImagePart(url="https://example.com/cat.jpg"),
            file(b"%PDF", name="a.pdf"),
            file("https://example.com/b.pdf"),
        ]
    )
    assert sent(message)["input"][0]["content"] == [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": "data:image/png;base64,AQ==", "detail": "auto"},
        {"type": "input_image", "image_url": "https://example.com/cat.jpg", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        {"type": "input_file", "file_url": "https://example.com/b.pdf"},
    ]


def test_structured_output_and_strict_tools() -> None:
    body = sent(
        user("x"), output=OutputSpec("weather report", SCHEMA, "The weather"), tools=(ToolSpec("a", "", SCHEMA, True),)
    )
    form = body["text"]["format"]
    assert form == {
        "type": "json_schema",
        "name": form["name"],
        "schema": SCHEMA,
        "strict": True,
        "description": "The weather",
    }
    assert " " not in form["name"]
    assert body["tools"][0]["strict"] is True
    loose = {"type": "object", "properties": {"x": {}}}
    assert sent(user("x"), output=OutputSpec("r", loose))["text"]["format"]["strict"] is False


def test_b56_extra_goes_over_everything_last() -> None:
    extra = {"store": True, "include": None, "service_tier": "flex", "reasoning": {"effort": "low", "summary": "auto"}}
    body = sent(user("x"), settings={"reasoning": "high", "extra": extra})
    assert body["store"] is True
    assert body["service_tier"] == "flex"
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert "include" not in body


def test_a_setting_that_the_wire_lacks_is_an_error() -> None:
    with pytest.raises(BadRequest, match=r"stop.*openai_chat"):
        sent(user("x"), settings={"stop": ("END",)})


def test_b56_an_answer_that_comes_last_stays_one() -> None:
    assert sent(user("x"), assistant("y"))["input"][-1] == {"role": "assistant", "content": "y"}


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
values = st.dictionaries(words, st.one_of(words, st.integers(-9, 9)), max_size=3)


@given(st.lists(st.tuples(st.booleans(), words, st.lists(values, min_size=1, max_size=3), words), max_size=4))
def test_b05_text_calls_and_results_are_all_there_and_in_order(rounds) -> None:
    messages: list = [user("begin")]
    expected: list = [("user", "begin")]
    for n, (thinking, text, inputs, answer) in enumerate(rounds):
        if thinking:
            messages.append(ReasoningMessage("hm", Opaque("openai", {**THOUGHT, "id": f"rs_{n}"})))
            expected.append(("reasoning", f"rs_{n}"))
        calls = tuple(ToolCall(f"c{n}_{k}", "weather", one) for k, one in enumerate(inputs))
        messages += [TextMessage("assistant", text, stop_reason="tool"), ToolCallMessage(calls)]
        expected += [("assistant", text), *(("function_call", call.id, call.input) for call in calls)]
        messages += [ToolResultMessage(call, {"data": answer}) for call in reversed(calls)]
        expected += [("function_call_output", call.id, {"data": answer}) for call in calls]

    def short(item: dict) -> tuple:
        if "role" in item:
            return item["role"], item["content"]
        if item["type"] == "reasoning":
            return "reasoning", item["id"]
        return item["type"], item["call_id"], decode_json(item.get("arguments") or item["output"])

    assert [short(item) for item in sent(*messages)["input"]] == expected


# -- decode ---------------------------------------------------------------------------------------------------------


def read(*events, model: str = "gpt-5-mini", names=None) -> tuple[list, tuple, Finished]:
    decoder = ResponsesDecoder(model, names)
    pieces = [piece for event in events for piece in decoder.feed(event)]
    pieces += decoder.end()
    assembler = Assembler()
    for piece in pieces:
        assembler.add(piece)
    assert isinstance(pieces[-1], Finished)
    return pieces, assembler.messages(), pieces[-1]


def added(index: int, **item) -> dict:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, **item) -> dict:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def delta(kind: str, index: int, text: str, **fields) -> dict:
    return {"type": f"response.{kind}.delta", "output_index": index, "delta": text, **fields}


def completed(kind: str = "completed", **response) -> dict:
    return {"type": f"response.{kind}", "response": {"id": "resp_1", "model": "gpt-5-mini-x", **response}}


def incomplete(reason: str) -> dict:
    return completed("incomplete", incomplete_details={"reason": reason})


def message(*texts: str, **fields) -> dict:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": content, **fields}


def function(call_id: str, arguments: str = "", **fields) -> dict:
    call = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "weather"}
    return {**call, "arguments": arguments, **fields}


def test_thoughts_text_and_parallel_calls() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
        "encrypted_content": "x",
        "content": None,
        "status": "completed",
    }
    pieces, messages, finished = read(
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.in_progress", "response": {}},
        added(0, type="reasoning", id="rs_1", summary=[]),
        delta("reasoning_summary_text", 0, "One.", summary_index=0),
        delta("reasoning_summary_text", 0, "Tw", summary_index=1),
        delta("reasoning_summary_text", 0, "o.", summary_index=1),
        done(0, **thought),
        added(1, **message()),
        delta("output_text", 1, "I "),
        delta("output_text", 1, "look."),
        done(1, **message("I look.", phase="commentary")),
        added(2, **function("a")),
        added(3, **function("b")),
        delta("function_call_arguments", 2, '{"city":'),
        delta("function_call_arguments", 3, '{"city":"Rome"}'),
        delta("function_call_arguments", 2, '"Paris"}'),
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": '{"city":"Paris"}'},
        done(2, **function("a", '{"city":"Paris"}')),
        done(3, **function("b", '{"city":"Rome"}')),
        {"type": "response.something_new", "output_index": 9},
        completed(
            usage={
                "input_tokens": 100,
                "output_tokens": 50,
                "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5},
                "output_tokens_details": {"reasoning_tokens": 30},
            }
        ),
    )
    kept = {key: value for key, value in thought.items() if key not in ("status", "content")}
    assert messages == (
        ReasoningMessage("One.\n\nTwo.", Opaque("openai", kept)),
        TextMessage(
            "assistant", "I look.", stop_reason="tool", opaque=Opaque("openai", {"id": "msg_1", "phase": "commentary"})
        ),
        ToolCallMessage(
            (
                ToolCall("a", "weather", {"city": "Paris"}, Opaque("openai", {"id": "fc_a"})),
                ToolCall("b", "weather", {"city": "Rome"}, Opaque("openai", {"id": "fc_b"})),
            )
        ),
    )
    assert [one.text for one in pieces if isinstance(one, TextChunk) and one.text] == ["I ", "look."]
    assert finished == Finished("tool", Usage(100, 50, 60, 5, 30), "gpt-5-mini-x", "openai", "resp_1")
    # Stored and sent again, all of it goes back as it came.
    items = sent(*load_messages(dump_messages(messages)))["input"]
    assert [item.get("id") for item in items] == ["rs_1", "msg_1", "fc_a", "fc_b", None, None]
    assert items[0] == kept
    assert items[1]["phase"] == "commentary"


def test_without_thoughts_nothing_opaque_is_kept() -> None:
    _, messages, _ = read(
        added(0, **message()),
        delta("output_text", 0, "Hi"),
        done(0, **message("Hi")),
        done(1, **function("a", "{}")),
        completed(),
    )
    assert messages == (
        TextMessage("assistant", "Hi", stop_reason="tool"),
        ToolCallMessage((ToolCall("a", "weather"),)),
    )


@pytest.mark.parametrize(
    "events",
    [
        [done(0, **message("Hel", "lo")), done(1, **function("a", '{"x":1}'))],
        [delta("output_text", 0, "Hel"), done(0, **message("Hello")), added(1, **function("a")),
         {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": '{"x":1}'}],
    ],
)  # fmt: skip
def test_items_without_all_of_their_pieces_are_complete(events) -> None:
    _, messages, finished = read(*events, completed())
    assert isinstance(messages[0], TextMessage)
    assert messages[0].text == "Hello"
    assert isinstance(messages[1], ToolCallMessage)
    assert messages[1].tools[0].input == {"x": 1}
    assert finished.reason == "tool"


def test_an_answer_only_at_the_end_is_read() -> None:
    _, messages, finished = read(completed(output=[message("Hi"), function("a", "{}")]))
    assert [type(one).__name__ for one in messages] == ["TextMessage", "ToolCallMessage"]
    assert finished.reason == "tool"


def test_thoughts_of_open_models() -> None:
    pieces, messages, _ = read(
        added(0, type="reasoning", id="r", summary=[]),
        delta("reasoning_text", 0, "Hm.", content_index=0),
        done(0, type="reasoning", id="r", summary=[], content=[{"type": "reasoning_text", "text": "Hm."}]),
        completed(),
    )
    assert pieces[0] == ReasoningChunk("Hm.", 0)
    assert isinstance(messages[0], ReasoningMessage)
    assert messages[0].content == "Hm."


def test_the_tools_own_names_come_back() -> None:
    pieces, _, _ = read(done(0, **function("a", "{}", name="safe_1")), completed(), names={"safe_1": "my tool"})
    assert isinstance(pieces[0], ToolCallChunk)
    assert pieces[0].name == "my tool"


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([delta("output_text", 0, "x"), completed()], "stop"),
        ([delta("output_text", 0, "x"), incomplete("max_output_tokens")], "max_tokens"),
        ([incomplete("max_output_tokens")], "max_tokens"),
        ([delta("output_text", 0, "x"), incomplete("content_filter")], "refused"),
        ([delta("refusal", 0, "I will not."), completed()], "refused"),
        ([done(0, type="message", id="m", content=[{"type": "refusal", "refusal": "No."}]), completed()], "refused"),
    ],
)
def test_b07_why_it_ended(events, reason) -> None:
    assert read(*events)[2].reason == reason


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([], BadResponse),
        ([delta("output_text", 0, "x")], ModelUnreachable),
        ([incomplete("content_filter")], ContentRefused),
        ([completed("failed", error={"code": "server_error", "message": "oops"})], Overloaded),
        ([completed("failed", error={"code": "rate_limit_exceeded", "message": "slow"})], RateLimited),
        ([completed("failed", error={"code": "context_length_exceeded", "message": "long"})], ContextTooLong),
        ([completed("failed", error={"code": "invalid_prompt", "message": "no"})], ContentRefused),
        ([completed("failed")], BadResponse),
        ([{"type": "error", "code": None, "message": "strange"}], BadResponse),
        ([{"type": "error", "error": {"type": "server_error", "message": "oops"}}], Overloaded),
        ([{"error": {"message": "oops", "code": 503}}], Overloaded),
        ([added(0, type="function_call", call_id="a")], BadResponse),
        ([["x"]], BadResponse),
    ],
)
def test_b56_what_is_no_answer_is_an_error(events, kind) -> None:
    with pytest.raises(kind):
        read(*events)


def test_usage_without_details() -> None:
    assert read_usage({"input_tokens": 3, "output_tokens": 2, "input_tokens_details": None}) == Usage(3, 2)
    assert read_usage({}) == Usage()
