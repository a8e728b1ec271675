"""The Chat Completions mapping: what is sent, and what is made of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.models import ModelRequest, ModelSettings, OutputSpec, ToolSpec
from perdure.models.openai_chat import OPENAI, Dialect, encode
from perdure.models.openai_chat_stream import ChatDecoder, read_usage
from perdure.types.assemble import Assembler
from perdure.types.attachments import file, image
from perdure.types.chunks import Finished, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import BadRequest, BadResponse, ContentRefused, ModelUnreachable, Overloaded, RateLimited
from perdure.types.messages import (
    ImagePart,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
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


def sent(*messages, dialect: Dialect = OPENAI, provider: str = "openai", name: str = "gpt-4.1", **fields) -> dict:
    prefill = fields.pop("can_prefill", False)
    settings = ModelSettings(**fields.pop("settings", {}))
    return encode(name, ModelRequest(messages, settings=settings, **fields), dialect, provider, prefill=prefill)


# -- encode ---------------------------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    body = sent(
        system("Be brief."),
        user("Weather in Paris and Rome?"),
        ReasoningMessage("secret thoughts", Opaque("anthropic", {"signature": "x"})),
        TextMessage("assistant", "I look.", stop_reason="tool"),
        ToolCallMessage((PARIS, ROME)),
        ToolResultMessage(PARIS, {"data": {"sky": "clear"}}),
        ToolResultMessage(ROME, {"error": {"name": "Timeout", "message": "too slow"}}),
        tools=(WEATHER,),
        tool_choice="any",
        settings={"max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "stop": ("END",), "seed": 7},
    )
    assert body == {
        "model": "gpt-4.1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris and Rome?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                    },
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"data":{"sky":"clear"}}'},
            {
                "role": "tool",
                "tool_call_id": "call_2",
                "content": '{"error":{"name":"Timeout","message":"too slow"}}',
            },
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Tell the weather", "parameters": SCHEMA},
            }
        ],
        "tool_choice": "required",
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 7,
    }


def test_b20_tool_choice() -> None:
    choices = {choice: sent(user("x"), tools=(WEATHER,), tool_choice=choice)["tool_choice"] for choice in
               ("auto", "any", "none", "weather")}  # fmt: skip
    assert choices == {
        "auto": "auto",
        "any": "required",
        "none": "none",
        "weather": {"type": "function", "function": {"name": "weather"}},
    }


def test_b56_without_tools_nothing_is_said_about_tools() -> None:
    body = sent(user("x"), tool_choice="any", settings={"parallel_tool_calls": False})
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)
    assert sent(user("x"), tools=(WEATHER,), settings={"parallel_tool_calls": False})["parallel_tool_calls"] is False


def test_strict_only_where_server_and_schema_allow() -> None:
    open_one = {"type": "object", "properties": {"x": {"type": "string"}}}  # x may be left out, but not be null
    tools = (
        ToolSpec("a", "", SCHEMA, strict=True),
        ToolSpec("b", "", open_one, strict=True),
        ToolSpec("c", "", SCHEMA),
    )
    functions = [one["function"] for one in sent(user("x"), tools=tools)["tools"]]
    assert [one.get("strict") for one in functions] == [True, None, None]
    other = [one["function"] for one in sent(user("x"), tools=tools, dialect=Dialect())["tools"]]
    assert not any("strict" in one for one in other)


def test_b56_a_tool_without_parameters_has_an_object_schema() -> None:
    (tool,) = sent(user("x"), tools=(ToolSpec("now", "", {}),))["tools"]
    assert tool["function"]["parameters"]["type"] == "object"


def test_a_name_that_the_wire_refuses_is_made_safe_and_found_again() -> None:
    odd = ToolSpec("files/read it", "", SCHEMA)
    body = sent(user("x"), ToolCallMessage((ToolCall("1", odd.name),)), tools=(odd,), tool_choice=odd.name)
    name = body["tools"][0]["function"]["name"]
    assert name != odd.name
    assert body["tool_choice"]["function"]["name"] == name
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == name
    decoder = ChatDecoder("openai", "m", {name: odd.name})
    (event,) = decoder.feed(piece(tool_calls=[{"index": 0, "id": "1", "function": {"name": name}}]))
    assert isinstance(event, ToolCallChunk)
    assert event.name == odd.name


def test_images_and_files() -> None:
    message = user(
        [
            "Look:",
            image(b"\x01", media_type="image/png"),
            ImagePart(url="https://example.com/cat.jpg"),
            file(b"%PDF", media_type="application/pdf", name="a.pdf"),
            file(b"# Notes", media_type="text/markdown", name="notes.md"),
        ]
    )
    assert sent(message)["messages"][0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AQ=="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpg"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "text", "text": "notes.md:\n# Notes"},
    ]
    linked = user([file("https://example.com/a.pdf")])
    with pytest.raises(BadRequest, match=r"a\.pdf.*by their bytes"):
        sent(linked)
    parts = sent(linked, provider="openrouter")["messages"][0]["content"]
    assert parts[0]["file"]["file_data"] == "https://example.com/a.pdf"


def test_structured_output() -> None:
    body = sent(user("x"), output=OutputSpec("weather report", SCHEMA, "The weather"))
    form = body["response_format"]["json_schema"]
    assert body["response_format"]["type"] == "json_schema"
    assert form["strict"] is True
    assert form["description"] == "The weather"
    assert " " not in form["name"]
    loose = sent(user("x"), output=OutputSpec("r", {"type": "object", "properties": {"x": {}}}))
    assert loose["response_format"]["json_schema"]["strict"] is False


@pytest.mark.parametrize(
    ("name", "reasoning", "dialect", "expected"),
    [
        ("gpt-5.2", "none", OPENAI, {"reasoning_effort": "none"}),
        ("gpt-5-mini", "none", OPENAI, {"reasoning_effort": "minimal"}),
        ("o3", "none", OPENAI, {"reasoning_effort": "low"}),
        ("o3", "high", OPENAI, {"reasoning_effort": "high"}),
        ("gpt-5.2", 500, OPENAI, {"reasoning_effort": "low"}),
        ("gpt-5.2", 5_000, OPENAI, {"reasoning_effort": "medium"}),
        ("gpt-5.2", 50_000, OPENAI, {"reasoning_effort": "high"}),
        ("x/y", "high", Dialect(effort="reasoning"), {"reasoning": {"effort": "high"}}),
        ("x/y", 900, Dialect(effort="reasoning"), {"reasoning": {"max_tokens": 900}}),
        ("x/y", "none", Dialect(effort="reasoning"), {"reasoning": {"enabled": False}}),
        ("d", "low", Dialect(effort="thinking"), {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
        ("d", 0, Dialect(effort="thinking"), {"thinking": {"type": "disabled"}}),
        ("gpt-5.2", None, OPENAI, {}),
    ],
)
def test_how_hard_to_think(name, reasoning, dialect, expected) -> None:
    body = sent(user("x"), name=name, dialect=dialect, settings={"reasoning": reasoning})
    keys = ("reasoning_effort", "reasoning", "thinking")
    assert {key: body[key] for key in keys if key in body} == expected


def test_b56_extra_goes_over_everything_last() -> None:
    extra = {"model": "other", "temperature": None, "stream_options": None, "logit_bias": {"1": 2}, "top_p": 0.1}
    body = sent(user("x"), settings={"temperature": 1.0, "top_p": 0.9, "extra": extra})
    assert body["model"] == "other"
    assert body["top_p"] == 0.1
    assert body["logit_bias"] == {"1": 2}
    assert not {"temperature", "stream_options"} & set(body)
    assert sent(user("x"), dialect=Dialect(), settings={"max_tokens": 5})["max_tokens"] == 5


def test_b56_prefill_is_the_last_message_where_the_server_goes_on_from_it() -> None:
    assert sent(user("x"), prefill="{", can_prefill=True)["messages"][-1] == {"role": "assistant", "content": "{"}
    assert sent(user("x"), prefill="{")["messages"] == [{"role": "user", "content": "x"}]
    begun = sent(user("x"), prefill="{", can_prefill=True, provider="deepseek")["messages"][-1]
    assert begun == {"role": "assistant", "content": "{", "prefix": True}
    # An answer that comes last needs nothing here, and is never turned into a user's.
    assert sent(user("x"), assistant("y"))["messages"][-1] == {"role": "assistant", "content": "y"}


def test_b56_arguments_that_were_no_json_go_back_as_they_were() -> None:
    broken = ToolCall("1", "weather", '{"city": `Paris`}')
    body = sent(ToolCallMessage((broken,)), ToolResultMessage(broken, {"error": {"name": "X", "message": "no JSON"}}))
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == '{"city": `Paris`}'


def test_b05_a_thought_of_another_provider_is_dropped() -> None:
    deepseek = Dialect(returns="reasoning_content")
    mine = ReasoningMessage("hm", Opaque("deepseek", {"field": "reasoning_content"}))
    foreign = ReasoningMessage("hm", Opaque("openai", {"encrypted_content": "x"}))
    kept = sent(mine, assistant("y"), dialect=deepseek, provider="deepseek")["messages"]
    assert kept == [{"role": "assistant", "content": "y", "reasoning_content": "hm"}]
    for provider in ("deepseek", "grok"):
        dropped = sent(foreign, assistant("y"), dialect=deepseek, provider=provider)["messages"]
        assert dropped == [{"role": "assistant", "content": "y"}]
    assert sent(mine, assistant("y"))["messages"] == [{"role": "assistant", "content": "y"}]


def test_openrouter_gets_its_details_back() -> None:
    dialect = Dialect(returns="reasoning_details")
    details = [{"type": "reasoning.encrypted", "data": "x", "index": 0}]
    mine = ReasoningMessage("", Opaque("openrouter", {"details": details}))
    told = sent(mine, assistant("y"), dialect=dialect, provider="openrouter")["messages"][0]
    assert told == {"role": "assistant", "content": "y", "reasoning_details": details}
    plain = ReasoningMessage("hm", Opaque("openrouter", {"field": "reasoning_content"}))
    assert sent(plain, assistant("y"), dialect=dialect, provider="openrouter")["messages"][0]["reasoning"] == "hm"


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
values = st.dictionaries(words, st.one_of(words, st.integers(-9, 9), st.booleans(), st.none()), max_size=3)


@st.composite
def conversations(draw) -> list:
    messages: list = [user(draw(words))]
    for n in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            messages.append(ReasoningMessage(draw(words)))
        if draw(st.booleans()):
            messages.append(TextMessage("assistant", draw(words), stop_reason="tool"))
        calls = tuple(ToolCall(f"c{n}_{k}", "weather", draw(values)) for k in range(draw(st.integers(1, 3))))
        messages.append(ToolCallMessage(calls))
        messages += [ToolResultMessage(call, {"data": draw(words)}) for call in draw(st.permutations(calls))]
        if draw(st.booleans()):
            messages.append(user(draw(words)))
    return messages


@given(conversations())
def test_b05_text_calls_and_results_are_all_there_and_in_order(messages) -> None:
    from perdure.types.base import decode_json

    written = sent(*messages)["messages"]
    open_ids: list[str] = []
    for one in written:
        if one["role"] == "tool":
            assert one["tool_call_id"] == open_ids.pop(0)
        else:
            assert open_ids == []
            open_ids = [call["id"] for call in one.get("tool_calls", [])]
    assert open_ids == []
    texts = [one.text for one in messages if isinstance(one, TextMessage)]
    assert [one["content"] for one in written if one["role"] != "tool" and one["content"]] == texts
    calls = [call for one in messages if isinstance(one, ToolCallMessage) for call in one.tools]
    back = [call for one in written for call in one.get("tool_calls", [])]
    assert [(call["id"], decode_json(call["function"]["arguments"])) for call in back] == [
        (call.id, call.input) for call in calls
    ]
    results = {one.tool.id: one.content for one in messages if isinstance(one, ToolResultMessage)}
    assert {one["tool_call_id"]: decode_json(one["content"]) for one in written if one["role"] == "tool"} == results


# -- decode ---------------------------------------------------------------------------------------------------------


def piece(finish: str | None = None, **delta) -> dict:
    return {"id": "cc-1", "model": "gpt-x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def read(*pieces, provider: str = "openai", returns: bool = False) -> tuple[list, tuple, Finished]:
    decoder = ChatDecoder(provider, "gpt-x", returns=returns)
    events = [event for one in pieces for event in decoder.feed(one)]
    events += decoder.end()
    assembler = Assembler()
    for event in events:
        assembler.add(event)
    assert isinstance(events[-1], Finished)
    return events, assembler.messages(), events[-1]


def call(index, id, name=None, arguments="") -> dict:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"function": function} | ({} if id is None else {"id": id}) | ({} if index is None else {"index": index})


def test_text_beside_parallel_calls_with_usage() -> None:
    events, messages, finished = read(
        piece(role="assistant", content=""),
        piece(content="I "),
        piece(content="look."),
        piece(tool_calls=[call(0, "a", "weather", "")]),
        piece(tool_calls=[call(0, None, None, '{"city":')]),
        piece(tool_calls=[call(1, "b", "weather", '{"city"')]),
        piece(tool_calls=[call(0, None, None, '"Paris"}'), call(1, None, None, ':"Rome"}')]),
        piece("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
    )
    assert events[:2] == [TextChunk("I ", 0), TextChunk("look.", 0)]
    assert events[2] == ToolCallChunk(1, "a", "weather")
    assert messages == (
        TextMessage("assistant", "I look.", stop_reason="tool"),
        ToolCallMessage((ToolCall("a", "weather", {"city": "Paris"}), ToolCall("b", "weather", {"city": "Rome"}))),
    )
    assert finished == Finished("tool", Usage(input_tokens=9, output_tokens=4), "gpt-x", "openai", "cc-1")


TWO = [{"city": "Paris"}, {"city": "Rome"}]


@pytest.mark.parametrize(
    "pieces",
    [
        # no index, whole calls
        [[call(None, "a", "weather", '{"city":"Paris"}')], [call(None, "b", "weather", '{"city":"Rome"}')]],
        # no index, no ids
        [[call(None, None, "weather", '{"city":"Paris"}')], [call(None, None, "weather", '{"city":"Rome"}')]],
        # always index 0, own ids
        [[call(0, "a", "weather", '{"city":"Paris"}')], [call(0, "b", "weather", '{"city":"Rome"}')]],
        # always index 0, no ids
        [[call(0, None, "weather", '{"city":"Paris"}')], [call(0, None, "weather", '{"city":"Rome"}')]],
        # the same id twice
        [[call(0, "a", "weather", '{"city":"Paris"}'), call(1, "a", "weather", '{"city":"Rome"}')]],
        # id and name repeated with every piece
        [
            [call(0, "a", "weather", '{"city":')],
            [call(0, "a", "weather", '"Paris"}')],
            [call(1, "b", "weather", '{"city":')],
            [call(1, "b", "weather", '"Rome"}')],
        ],
        # an object where a string should be, and the id before the name
        [
            [call(0, "a", None, "")],
            [{"index": 0, "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
            [call(1, "", "weather", '{"city":"Rome"}')],
        ],
    ],
)
def test_b56_calls_of_careless_servers(pieces) -> None:
    events, messages, finished = read(*(piece(tool_calls=one) for one in pieces), piece("stop"))
    (message,) = messages
    assert isinstance(message, ToolCallMessage)
    assert [one.input for one in message.tools] == TWO
    assert [one.name for one in message.tools] == ["weather", "weather"]
    ids = [one.id for one in message.tools]
    assert len(set(ids)) == 2
    assert [one.id for one in events if isinstance(one, ToolCallChunk) and one.name] == ids
    assert finished.reason == "tool"  # although the server said "stop"


def test_made_ids_differ_between_answers() -> None:
    def id_of(response: str) -> str:
        (event,) = ChatDecoder("x", "m").feed({**piece(tool_calls=[call(0, None, "f")]), "id": response})
        return event.id  # type: ignore[union-attr]

    assert id_of("r1") != id_of("r2")
    assert id_of("r1") == id_of("r1")


def test_b56_arguments_that_are_no_json_are_kept_as_text() -> None:
    _, messages, _ = read(piece(tool_calls=[call(0, "a", "weather", '{"city": `Paris`}')]), piece("tool_calls"))
    (message,) = messages
    assert isinstance(message, ToolCallMessage)
    assert message.tools[0].input == '{"city": `Paris`}'


def test_text_after_a_call_is_a_text_of_its_own() -> None:
    _, messages, _ = read(
        piece(content="a"), piece(tool_calls=[call(0, "1", "f", "{}")]), piece(content="b"), piece("tool_calls")
    )
    assert [type(one).__name__ for one in messages] == ["TextMessage", "ToolCallMessage", "TextMessage"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_b56_thoughts_of_compatible_servers(field) -> None:
    pieces = [piece(**{field: "Let "}), piece(**{field: "me see."}), piece(content="42"), piece("stop")]
    events, messages, _ = read(*pieces)
    assert events[0] == ReasoningChunk("Let ", 0)
    assert messages == (ReasoningMessage("Let me see."), assistant("42"))
    _, kept, _ = read(*pieces, provider="deepseek", returns=True)
    assert kept[0] == ReasoningMessage("Let me see.", Opaque("deepseek", {"field": "reasoning_content"}))


def test_thoughts_as_parts_of_the_content() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "42"}]
    _, messages, _ = read(piece(content=parts), piece("stop"))
    assert messages == (ReasoningMessage("Hm."), assistant("42"))


def test_details_of_openrouter_are_joined() -> None:
    def detail(**fields) -> dict:
        return piece(reasoning_details=[{"type": "reasoning.text", "index": 0, **fields}])

    _, messages, _ = read(
        detail(text="Let "),
        detail(text="me."),
        detail(signature="s"),
        piece(reasoning_details=[{"type": "reasoning.encrypted", "index": 1, "data": "x"}]),
        piece(content="42"),
        piece("stop"),
        provider="openrouter",
        returns=True,
    )
    thought = messages[0]
    assert isinstance(thought, ReasoningMessage)
    assert thought.opaque == Opaque(
        "openrouter",
        {
            "details": [
                {"type": "reasoning.text", "index": 0, "text": "Let me.", "signature": "s"},
                {"type": "reasoning.encrypted", "index": 1, "data": "x"},
            ]
        },
    )


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([piece(content="x"), piece("stop")], "stop"),
        ([piece(content="x"), piece("length")], "max_tokens"),
        ([piece(content="x"), piece("content_filter")], "refused"),
        ([piece(refusal="I will not."), piece("stop")], "refused"),
        ([piece(content="x"), piece("eos_of_some_server")], "stop"),
        ([piece(tool_calls=[call(0, "a", "f", "{")]), piece("length")], "max_tokens"),
    ],
)
def test_b07_why_it_ended(pieces, reason) -> None:
    _, messages, finished = read(*pieces)
    assert finished.reason == reason
    assert messages


def test_a_refusal_is_text_too() -> None:
    _, messages, _ = read(piece(refusal="I will "), piece(refusal="not."), piece("stop"))
    assert messages == (assistant("I will not."),)


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([], BadResponse),
        ([piece(content="x")], ModelUnreachable),
        ([{"choices": [], "usage": {}}], ModelUnreachable),
        ([piece("content_filter")], ContentRefused),
        ([piece(content="x"), piece("insufficient_system_resource")], Overloaded),
        ([{"error": {"message": "busy", "code": 429}}], RateLimited),
        ([{"choices": [{"error": {"message": "busy", "code": 502}}]}], Overloaded),
        ([piece(tool_calls=[call(0, "a", None, "{}")]), piece("stop")], BadResponse),
        (["text"], BadResponse),
    ],
)
def test_b56_what_is_no_answer_is_an_error(pieces, kind) -> None:
    with pytest.raises(kind):
        read(*pieces)


def test_an_empty_answer_is_an_answer() -> None:
    _, messages, finished = read(piece("stop"))
    assert messages == ()
    assert finished.reason == "stop"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(100, 50, 60, 10, 30),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}, Usage(9, 1, 8)),
        # xAI counts thoughts apart
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 115,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            Usage(10, 105, reasoning_tokens=100),
        ),
        ({"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None}, Usage()),
    ],
)
def test_usage(usage, expected) -> None:
    assert read_usage(usage) == expected
