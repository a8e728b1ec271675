"""The Messages mapping: what is sent."""

from typing import Any

import pytest
from hypothesis import given

from perdure.models import ModelRequest, ModelSettings, OutputSpec, ToolSpec
from perdure.models.anthropic import AnthropicModel, encode, headers_for, mark
from perdure.models.claude import claude
from perdure.models.model import Capabilities
from perdure.types.attachments import file, image
from perdure.types.errors import BadRequest
from perdure.types.messages import (
    FilePart,
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    system,
    text,
    user,
)
from tests.models.transcripts import PNG, transcripts

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolSpec("weather", "Tell the weather", SCHEMA)
PARIS, ROME = ToolCall("call_1", "weather", {"city": "Paris"}), ToolCall("call_2", "weather", {"city": "Rome"})
OLD, NEW, NEWEST = "claude-sonnet-4-5", "claude-opus-5", "claude-opus-5-5"


def thought(text: str, name: str = "c2ln", **more: str) -> ReasoningMessage:
    block = {"type": "thinking", "thinking": text, "signature": name}
    return ReasoningMessage(text, Opaque("anthropic", {"block": block, **more}))


def sent(*messages: Message, name: str = NEW, **fields: Any) -> dict[str, Any]:
    settings = ModelSettings(**{"cache": False, **fields.pop("settings", {})})
    return encode(name, ModelRequest(messages, settings=settings, **fields))


def wire(*messages: Message, **fields: Any) -> list[dict[str, Any]]:
    return sent(*messages, **fields)["messages"]


def said(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": one} for one in texts]}


# -- the conversation -----------------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    body = sent(
        system("Be brief."),
        user("Weather in Paris and Rome?"),
        thought("two cities"),
        TextMessage("assistant", "I look.", stop_reason="tool"),
        ToolCallMessage((PARIS, ROME)),
        ToolResultMessage(PARIS, {"data": {"sky": "clear"}}),
        ToolResultMessage(ROME, {"error": {"name": "Timeout", "message": "too slow"}}),
        user("And now?"),
        tools=(WEATHER,),
        settings={"max_tokens": 100, "stop": ("END",)},
    )
    assert body == {
        "model": NEW,
        "max_tokens": 100,
        "stream": True,
        "system": [{"type": "text", "text": "Be brief."}],
        "stop_sequences": ["END"],
        "tools": [{"name": "weather", "description": "Tell the weather", "input_schema": SCHEMA}],
        "tool_choice": {"type": "auto"},
        "messages": [
            said("user", "Weather in Paris and Rome?"),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "two cities", "signature": "c2ln"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "call_2", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": '{"data":{"sky":"clear"}}'},
                    {
                        "type": "tool_result",
                        "tool_use_id": "call_2",
                        "content": '{"error":{"name":"Timeout","message":"too slow"}}',
                        "is_error": True,
                    },
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    }


def test_b56_all_system_messages_are_used() -> None:
    body = sent(system("One."), user("Hi"), TextMessage("system", (text("Two."), text(" Three."))), system(" "))
    assert body["system"] == [{"type": "text", "text": "One."}, {"type": "text", "text": "Two. Three."}]
    assert body["messages"] == [said("user", "Hi")]
    assert "system" not in sent(user("Hi"))


def test_b56_results_stand_together_in_call_order_before_any_text() -> None:
    late = wire(
        user("Go"),
        ToolCallMessage((PARIS, ROME)),
        user("Hurry"),
        ToolResultMessage(ROME, {"data": 2}),
        ToolResultMessage(PARIS, {"data": 1}),
    )
    assert [one["role"] for one in late] == ["user", "assistant", "user"]
    assert [one.get("tool_use_id", "text") for one in late[2]["content"]] == ["call_1", "call_2", "text"]


def test_a_call_without_a_result_and_a_result_without_a_call_are_mended() -> None:
    cut = wire(ToolResultMessage(PARIS, {"data": 1}), user("Next"), ToolCallMessage((ROME,)))
    assert [one["role"] for one in cut] == ["user", "assistant", "user", "assistant", "user"]
    assert cut[0] == said("user", "Continue.")
    assert cut[1]["content"][0]["id"] == cut[2]["content"][0]["tool_use_id"] == "call_1"
    assert cut[4]["content"][0]["is_error"] is True


def test_ids_of_other_providers_become_unique_and_allowed() -> None:
    call = ToolCall("call 0|fc", "weather", {})
    turns = wire(
        user("Go"),
        *(ToolCallMessage((call,)), ToolResultMessage(call, {"data": 1})),
        *(ToolCallMessage((call,)), ToolResultMessage(call, {"data": 2})),
    )
    ids = [block["id"] for one in turns for block in one["content"] if block["type"] == "tool_use"]
    assert ids == [block["tool_use_id"] for one in turns for block in one["content"] if block["type"] == "tool_result"]
    assert len(set(ids)) == 2
    assert all(one.replace("_", "").replace("-", "").isalnum() for one in ids)


def test_b56_a_final_answer_of_the_model_is_not_turned_into_a_users_message() -> None:
    assert wire(user("Hi"), assistant("Hello")) == [
        said("user", "Hi"),
        said("assistant", "Hello"),
        said("user", "Continue."),
    ]


def test_neighbours_are_merged_and_empty_texts_dropped() -> None:
    assert wire(user("a"), user(""), user(" \n"), user("b"), assistant("c"), assistant(""), assistant("d")) == [
        said("user", "a", "b"),
        said("assistant", "c", "d"),
        said("user", "Continue."),
    ]
    assert wire() == wire(user(" ")) == [said("user", "Continue.")]


def test_b56_prefill_begins_the_answer_where_the_model_takes_it() -> None:
    assert wire(user("Hi"), name=OLD, prefill="{ ")[-1] == said("assistant", "{")
    assert wire(user("Hi"), name=NEW, prefill="{") == [said("user", "Hi")]
    assert AnthropicModel(OLD).capabilities.prefill
    assert not AnthropicModel(NEW).capabilities.prefill
    # No thought and no forced call can come after words that were begun.
    thinking = sent(user("Hi"), name=OLD, prefill="{", settings={"reasoning": "high"})
    assert "thinking" not in thinking
    assert thinking["messages"][-1]["role"] == "assistant"
    assert wire(user("Hi"), name=OLD, prefill="{", tools=(WEATHER,), tool_choice="any") == [said("user", "Hi")]


def test_broken_arguments_become_an_object() -> None:
    turns = wire(user("Go"), ToolCallMessage((ToolCall("a", "weather", '{"city": "Pa'),)))
    assert turns[1]["content"][0]["input"] == {"invalid_json": '{"city": "Pa'}


def test_text_beside_calls_keeps_its_place() -> None:
    said_first = TextMessage("assistant", "first", stop_reason="tool")
    said_then = TextMessage("assistant", "then", stop_reason="tool")
    turns = wire(user("Go"), said_first, ToolCallMessage((PARIS,)), said_then, ToolCallMessage((ROME,)))
    assert [block["type"] for block in turns[1]["content"]] == ["text", "tool_use", "text", "tool_use"]


# -- thoughts -------------------------------------------------------------------------------------------------------


def test_b56_thoughts_go_back_unchanged_and_those_of_others_are_dropped() -> None:
    redacted = ReasoningMessage("", Opaque("anthropic", {"block": {"type": "redacted_thinking", "data": "x"}}))
    turns = wire(
        user("Go"),
        ReasoningMessage("mine", Opaque("openai", {"id": "rs_1"})),
        ReasoningMessage("nobody's"),
        thought("  two\n"),
        redacted,
        ToolCallMessage((PARIS,)),
    )
    assert turns[1]["content"][:2] == [
        {"type": "thinking", "thinking": "  two\n", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    assert turns[1]["content"][2]["type"] == "tool_use"


def test_other_blocks_of_the_provider_go_back_whole() -> None:
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    turns = wire(user("Go"), TextMessage("assistant", "", opaque=Opaque("anthropic", {"block": search})))
    assert turns[1]["content"] == [search]


def test_newest_models_get_thoughts_back_only_after_the_same_prompt() -> None:
    """They refuse a thought after another system prompt, other tools, an edited history, or another model's prompt."""
    first = ModelRequest((system("Be brief."), user("Go")), tools=(WEATHER,))
    made = thought("hm", after=mark(NEWEST, first))
    results = (ToolCallMessage((PARIS,)), ToolResultMessage(PARIS, {"data": 1}))

    def thoughts(*messages: Message, name: str = NEWEST, tools: tuple[ToolSpec, ...] = (WEATHER,)) -> int:
        blocks = [block for one in wire(*messages, name=name, tools=tools) for block in one["content"]]
        return sum(block["type"] == "thinking" for block in blocks)

    assert thoughts(*first.messages, made, *results) == 1
    second = ModelRequest((*first.messages, made, *results), tools=(WEATHER,))
    again = thought("hm again", after=mark(NEWEST, second))
    assert thoughts(*second.messages, again, ToolCallMessage((ROME,))) == 2
    assert thoughts(system("Be kind."), user("Go"), made, *results) == 0
    assert thoughts(system("Be brief."), user("Went"), made, *results) == 0
    assert thoughts(*first.messages, made, *results, tools=()) == 0
    assert thoughts(*first.messages, made, *results, name="claude-fable-5-1") == 0
    assert thoughts(*first.messages, thought("older"), *results) == 0
    assert thoughts(system("Be kind."), user("Went"), made, *results, name=NEW) == 1


REASONING = [
    (NEW, None, {}),
    (NEW, "low", {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}}),
    (NEW, 1000, {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}}),
    (NEW, 5000, {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "medium"}}),
    (NEW, 50_000, {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}}),
    (NEW, "none", {"thinking": {"type": "disabled"}}),
    (NEWEST, "none", {"output_config": {"effort": "low"}}),
    ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}),
    ("claude-haiku-5-5", 0, {"thinking": {"type": "disabled"}}),
    (OLD, "none", {}),
    (OLD, "high", {"thinking": {"type": "enabled", "budget_tokens": 16_384}}),
    (OLD, 100, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    ("claude-3-5-haiku-latest", "high", {}),
    ("kimi-k3", "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
]


@pytest.mark.parametrize(("name", "reasoning", "expected"), REASONING)
def test_reasoning_in_the_models_own_form(name: str, reasoning: Any, expected: dict[str, Any]) -> None:
    body = sent(user("Hi"), name=name, settings={"reasoning": reasoning})
    assert {key: body[key] for key in ("thinking", "output_config") if key in body} == expected


def test_a_thinking_budget_fits_into_the_limit() -> None:
    def limits(reasoning: Any, max_tokens: int | None = None) -> tuple[int, int | None]:
        body = sent(user("Hi"), name=OLD, settings={"reasoning": reasoning, "max_tokens": max_tokens})
        return body["max_tokens"], body.get("thinking", {}).get("budget_tokens")

    assert limits("high") == (32_000, 16_384)
    assert limits(40_000) == (48_192, 40_000)
    assert limits("high", 4000) == (4000, 2000)
    assert limits("high", 1025) == (1025, 1024)
    assert limits("high", 1024) == (1024, None)


def test_a_thinking_budget_waits_until_an_answer_without_thoughts_is_over() -> None:
    call = (user("Go"), ToolCallMessage((PARIS,)), ToolResultMessage(PARIS, {"data": 1}))
    settings = {"reasoning": "high"}
    assert "thinking" not in sent(*call, name=OLD, settings=settings)
    assert "thinking" in sent(*call, assistant("Done"), user("Next"), name=OLD, settings=settings)
    with_thought = (user("Go"), thought("hm"), ToolCallMessage((PARIS,)), ToolResultMessage(PARIS, {"data": 1}))
    assert "thinking" in sent(*with_thought, name=OLD, settings=settings)
    assert "thinking" in sent(*call, name=NEW, settings=settings)


# -- tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("any", {"type": "any"}),
        ("none", {"type": "none"}),
        ("weather", {"type": "tool", "name": "weather"}),
    ],
)
def test_b20_tool_choice(choice: str, expected: dict[str, Any]) -> None:
    assert sent(user("Hi"), tools=(WEATHER,), tool_choice=choice)["tool_choice"] == expected
    assert "tool_choice" not in sent(user("Hi"), tool_choice=choice)


def test_one_call_at_a_time() -> None:
    def choice(wanted: str) -> dict[str, Any]:
        return sent(user("Hi"), tools=(WEATHER,), tool_choice=wanted, settings={"parallel_tool_calls": False})

    assert choice("auto")["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert choice("weather")["tool_choice"] == {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    assert choice("none")["tool_choice"] == {"type": "none"}


def test_a_forced_tool_excludes_thinking() -> None:
    forced = {"tools": (WEATHER,), "tool_choice": "weather", "settings": {"reasoning": "high"}}
    assert sent(user("Hi"), **forced)["thinking"] == {"type": "disabled"}
    assert "thinking" not in sent(user("Hi"), name=OLD, **forced)
    assert "output_config" not in sent(user("Hi"), **forced)


def test_a_tool_that_cannot_be_forced_is_asked_for() -> None:
    body = sent(system("Be brief."), user("Hi"), name=NEWEST, tools=(WEATHER,), tool_choice="weather")
    assert body["tool_choice"] == {"type": "auto"}
    assert body["system"][0]["text"] == "Be brief."
    assert "the tool weather" in body["system"][1]["text"]
    any_tool = sent(user("Hi"), name=NEWEST, tools=(WEATHER,), tool_choice="any")
    assert "one of the tools" in any_tool["system"][0]["text"]


def test_b23_names_that_the_wire_refuses_are_replaced_everywhere() -> None:
    tool = ToolSpec("files/read", "", {})
    call = ToolCall("a", "files/read", {})
    body = sent(user("Hi"), ToolCallMessage((call,)), tools=(tool,), tool_choice="files/read")
    name = body["tools"][0]["name"]
    assert name.startswith("files_read_")
    assert body["tool_choice"]["name"] == body["messages"][1]["content"][0]["name"] == name
    assert "description" not in body["tools"][0]


def test_calls_in_the_conversation_need_tools_in_the_request() -> None:
    body = sent(user("Go"), ToolCallMessage((PARIS, ROME)))
    assert body["tools"] == [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}]
    assert body["tool_choice"] == {"type": "none"}


def test_strict_tools() -> None:
    def tool(schema: dict[str, Any], name: str = NEW) -> dict[str, Any]:
        return sent(user("Hi"), name=name, tools=(ToolSpec("t", "", schema, strict=True),))["tools"][0]

    assert tool(SCHEMA)["strict"] is True
    assert tool(SCHEMA)["input_schema"]["additionalProperties"] is False
    assert "strict" not in tool({"type": "object", "additionalProperties": True})
    assert "strict" not in tool(SCHEMA, "claude-opus-4-1")


# -- answers in a schema --------------------------------------------------------------------------------------------


def test_structured_output_is_native_where_the_model_has_it() -> None:
    output = OutputSpec("city", SCHEMA)
    body = sent(user("Hi"), output=output, settings={"reasoning": "low"})
    assert body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}},
    }
    assert AnthropicModel(NEW).capabilities == Capabilities(structured_output="yes")
    assert AnthropicModel("claude-opus-4-1").capabilities.structured_output == "no"


def test_a_schema_that_cannot_be_enforced_is_told() -> None:
    loose = OutputSpec("loose", {"type": "object", "additionalProperties": {"type": "integer"}})
    body = sent(system("Be brief."), user("Hi"), output=loose)
    assert "output_config" not in body
    assert '"additionalProperties":{"type":"integer"}' in body["system"][1]["text"]
    older = sent(user("Hi"), output=OutputSpec("city", SCHEMA), name="claude-opus-4-1")
    assert "output_config" not in older
    assert '"city"' in older["system"][0]["text"]


# -- images and files -----------------------------------------------------------------------------------------------


def test_images_and_files() -> None:
    (turn,) = wire(
        user(
            [
                "Look",
                image(PNG),
                image("https://a.test/b.jpg"),
                file(b"%PDF", name="a.pdf"),
                file("https://a.test/b.pdf"),
                file(b"a,b", media_type="text/csv", name="a.csv"),
                file(PNG, media_type="image/png"),
            ]
        )
    )
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
    assert turn["content"] == [
        {"type": "text", "text": "Look"},
        png,
        {"type": "image", "source": {"type": "url", "url": "https://a.test/b.jpg"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "url", "url": "https://a.test/b.pdf"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}, "title": "a.csv"},
        png,
    ]


def test_a_file_that_the_wire_cannot_carry_is_a_clear_error() -> None:
    with pytest.raises(BadRequest, match=r"'a\.doc' is application/msword.*PDF and text") as caught:
        sent(user([FilePart(b"x", media_type="application/msword", name="a.doc")]))
    assert not caught.value.retryable


def test_images_in_an_answer_are_named_only() -> None:
    turns = wire(user("Draw"), TextMessage("assistant", (text("Here:"), image(PNG))), user("Thanks"))
    assert turns[1] == said("assistant", "Here:", "[image/png]")


# -- settings -------------------------------------------------------------------------------------------------------


def test_every_request_has_a_limit() -> None:
    assert sent(user("Hi"))["max_tokens"] == 32_000
    assert sent(user("Hi"), name="claude-3-5-haiku-latest")["max_tokens"] == 8192
    assert sent(user("Hi"), name="claude-3-haiku-20240307")["max_tokens"] == 4096
    assert sent(user("Hi"), settings={"max_tokens": 7})["max_tokens"] == 7


def test_sampling_goes_to_models_that_have_it_by_the_version_that_takes_it() -> None:
    settings = {"temperature": 0.5, "top_p": 0.9, "seed": 7}
    old = sent(user("Hi"), name=OLD, settings=settings)
    assert (old["temperature"], old["top_p"]) == (0.5, 0.9)
    assert headers_for(old) == {"anthropic-version": "2023-06-01"}
    new = sent(user("Hi"), settings=settings)
    assert not new.keys() & {"temperature", "top_p", "seed"}
    assert headers_for(new) == {}
    thinks = sent(user("Hi"), name=OLD, settings={**settings, "reasoning": "low"})
    assert not thinks.keys() & {"temperature", "top_p"}


def test_b56_extra_parameters_are_laid_over_last() -> None:
    extra = {"max_tokens": 5, "top_k": 3, "metadata": {"user_id": "u"}, "stop_sequences": None}
    body = sent(user("Hi"), settings={"stop": ("a",), "extra": extra, "max_tokens": 9})
    assert (body["max_tokens"], body["top_k"], body["metadata"]) == (5, 3, {"user_id": "u"})
    assert "stop_sequences" not in body
    assert headers_for(body) == {"anthropic-version": "2023-06-01"}


def test_the_cache_is_told_what_stays() -> None:
    conversation = (system("One."), system("Two."), user("a"), assistant("b"), user("c"), assistant("d"), user("e"))
    body = sent(*conversation, tools=(WEATHER, ToolSpec("t", "", {})), settings={"cache": True})
    marked = {"type": "ephemeral"}
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, marked]
    assert [block.get("cache_control") for block in body["system"]] == [None, marked]
    ends = [one["content"][-1].get("cache_control") for one in body["messages"]]
    assert ends == [None, None, marked, None, marked]
    assert "cache_control" not in str(sent(*conversation, tools=(WEATHER,)))


# -- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "thinking", "sampling", "forced", "bound"),
    [
        ("claude-3-opus-20240229", "none", True, True, False),
        ("claude-3-7-sonnet-latest", "budget", True, True, False),
        ("claude-opus-4-20250514", "budget", True, True, False),
        ("claude-haiku-4-5-20251001", "budget", True, True, False),
        ("anthropic.claude-opus-4-6-v1", "adaptive", True, True, False),
        ("claude-opus-4-8", "adaptive", False, True, False),
        ("claude-sonnet-5", "adaptive", False, True, False),
        ("claude-haiku-5-5", "adaptive", False, True, True),
        ("claude-sonnet-5-5", "always", False, False, True),
        ("claude-opus-6", "always", False, False, True),
        ("claude-fable-5-1", "always", False, False, True),
        ("claude-mythos-preview", "always", False, False, True),
        ("claude-next", "adaptive", False, True, False),
        ("glm-5", "budget", True, True, False),
    ],
)
def test_what_a_model_takes(name: str, thinking: str, sampling: bool, forced: bool, bound: bool) -> None:
    takes = claude(name)
    assert (takes.thinking, takes.sampling, takes.forced, takes.bound) == (thinking, sampling, forced, bound)


def test_a_model_shows_no_key() -> None:
    model = AnthropicModel(NEW, api_key="sk-very-secret", base_url="https://a.test")
    assert "secret" not in repr(model)
    assert (model.name, model.provider) == (NEW, "anthropic")


# -- any conversation -----------------------------------------------------------------------------------------------


@given(transcripts)
def test_b05_any_transcript_is_one_that_the_provider_takes(transcript: tuple[Message, ...]) -> None:
    for name in (OLD, NEW, NEWEST):
        body = sent(*transcript, name=name, settings={"cache": True, "reasoning": "low"})
        turns = body["messages"]
        assert [one["role"] for one in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
        taken: set[str] = set()
        for number, one in enumerate(turns):
            assert one["content"]
            results = [block["tool_use_id"] for block in one["content"] if block["type"] == "tool_result"]
            assert [block["type"] for block in one["content"][: len(results)]] == ["tool_result"] * len(results)
            before = turns[number - 1]["content"] if number else []
            assert results == [block["id"] for block in before if block["type"] == "tool_use"]
            for block in one["content"]:
                assert block["type"] != "text" or block["text"].strip()
                if block["type"] == "tool_use":
                    assert isinstance(block["input"], dict)
                    assert block["id"] not in taken
                    taken.add(block["id"])
                assert block["type"] != "thinking" or one["role"] == "assistant"
        assert str(body).count("cache_control") <= 4
        assert body.get("thinking", {}).get("budget_tokens", 0) < body["max_tokens"]
