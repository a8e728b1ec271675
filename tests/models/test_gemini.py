"""The generateContent mapping: what is sent."""

from typing import Any

import pytest
from hypothesis import given

from perdure.models import ModelRequest, ModelSettings, OutputSpec, ToolSpec
from perdure.models.gemini import GeminiModel, encode
from perdure.types.attachments import file, image
from perdure.types.messages import (
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
NEW, OLD = "gemini-3.8-flash", "gemini-2.5-flash"
SIGNED = Opaque("gemini", {"thoughtSignature": "c2ln"})
PARIS = ToolCall("call_1", "weather", {"city": "Paris"}, SIGNED)
ROME = ToolCall("call_2", "weather", {"city": "Rome"})
NO_CHECK = "skip_thought_signature_validator"


def sent(*messages: Message, name: str = NEW, **fields: Any) -> dict[str, Any]:
    settings = ModelSettings(**fields.pop("settings", {}))
    return encode(name, ModelRequest(messages, settings=settings, **fields))


def wire(*messages: Message, **fields: Any) -> list[dict[str, Any]]:
    return sent(*messages, **fields)["contents"]


def said(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": one} for one in texts]}


# -- the conversation -----------------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    body = sent(
        system("Be brief."),
        user("Weather in Paris and Rome?"),
        ReasoningMessage("two cities"),
        TextMessage("assistant", "I look.", stop_reason="tool"),
        ToolCallMessage((PARIS, ROME)),
        ToolResultMessage(PARIS, {"data": {"sky": "clear"}}),
        ToolResultMessage(ROME, {"error": {"name": "Timeout", "message": "too slow"}}),
        user("And now?"),
        tools=(WEATHER,),
        tool_choice="any",
        settings={"max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "stop": ("END",), "seed": 7},
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "maxOutputTokens": 100,
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 7,
        },
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Tell the weather", "parametersJsonSchema": SCHEMA}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "contents": [
            said("user", "Weather in Paris and Rome?"),
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {
                        "functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Paris"}},
                        "thoughtSignature": "c2ln",
                    },
                    {"functionCall": {"id": "call_2", "name": "weather", "args": {"city": "Rome"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "call_1", "name": "weather", "response": {"output": {"sky": "clear"}}}},
                    {
                        "functionResponse": {
                            "id": "call_2",
                            "name": "weather",
                            "response": {"error": {"name": "Timeout", "message": "too slow"}},
                        }
                    },
                    {"text": "And now?"},
                ],
            },
        ],
    }


def test_b56_the_system_prompt_is_no_users_turn() -> None:
    body = sent(system("One."), user("Hi"), system("Two."), system(""))
    assert body == {
        "systemInstruction": {"parts": [{"text": "One."}, {"text": "Two."}]},
        "contents": [said("user", "Hi")],
    }


def test_b56_thinking_is_only_configured_when_asked_for() -> None:
    assert sent(user("Hi")) == {"contents": [said("user", "Hi")]}


def test_b56_all_calls_go_back_and_the_same_tool_may_be_called_twice() -> None:
    turns = wire(
        user("Go"),
        ToolCallMessage((PARIS, ROME)),
        ToolResultMessage(ROME, {"data": 2}),
        ToolResultMessage(PARIS, {"data": 1}),
    )
    assert [part["functionCall"]["id"] for part in turns[1]["parts"]] == ["call_1", "call_2"]
    assert [part["functionResponse"]["id"] for part in turns[2]["parts"]] == ["call_1", "call_2"]
    assert len(turns) == 3


def test_neighbours_are_merged_and_the_user_begins_and_ends() -> None:
    assert wire(assistant("a"), assistant(""), assistant("b"), user("c"), user("d"), assistant("e")) == [
        said("user", "Continue."),
        said("model", "a", "b"),
        said("user", "c", "d"),
        said("model", "e"),
        said("user", "Continue."),
    ]
    assert wire() == wire(user("")) == [said("user", "Continue.")]


def test_prefill_is_left_out() -> None:
    assert wire(user("Hi"), prefill="{") == [said("user", "Hi")]
    assert not GeminiModel(NEW).capabilities.prefill


def test_broken_arguments_and_odd_results_become_objects() -> None:
    call = ToolCall("a", "weather", '{"city": "Pa')
    turns = wire(user("Go"), ToolCallMessage((call,)), ToolResultMessage(call, "plain"))
    assert turns[1]["parts"][0]["functionCall"]["args"] == {"invalid_json": '{"city": "Pa'}
    assert turns[2]["parts"][0]["functionResponse"]["response"] == {"output": "plain"}
    kept = ToolResultMessage(call, {"data": 1, "more": 2})
    assert wire(kept)[2]["parts"][0]["functionResponse"]["response"] == {"data": 1, "more": 2}


# -- signatures -----------------------------------------------------------------------------------------------------


def test_signatures_go_back_on_their_own_parts() -> None:
    """AgentKit's issue 325: signatures were lost when a history was replayed."""
    other = ReasoningMessage("theirs", Opaque("anthropic", {"block": {}}))
    turns = wire(
        user("Go"),
        other,
        ReasoningMessage("mine", SIGNED),
        TextMessage("assistant", "text", stop_reason="tool", opaque=SIGNED),
        TextMessage("assistant", "", stop_reason="tool", opaque=SIGNED),
        ToolCallMessage((PARIS, ROME)),
    )
    assert turns[1]["parts"][:3] == [
        {"text": "mine", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "text", "thoughtSignature": "c2ln"},
        {"text": "", "thoughtSignature": "c2ln"},
    ]
    assert [part.get("thoughtSignature") for part in turns[1]["parts"][3:]] == ["c2ln", None]


def test_calls_of_another_provider_are_excused_from_having_a_signature() -> None:
    foreign = ToolCall("toolu_1", "weather", {}, Opaque("anthropic", "x"))
    turns = wire(user("Go"), ToolCallMessage((foreign, ROME)))
    assert [part.get("thoughtSignature") for part in turns[1]["parts"]] == [NO_CHECK, None]
    again = wire(user("Go"), ToolCallMessage((foreign,)), ToolResultMessage(foreign, {"data": 1}), assistant("x"))
    assert "thoughtSignature" not in again[3]["parts"][0]
    older = wire(user("Go"), ToolCallMessage((foreign, ROME)), name=OLD)
    assert "thoughtSignature" not in str(older)


def test_other_parts_of_the_provider_go_back_whole() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "c2ln"}
    turns = wire(user("Go"), TextMessage("assistant", "", opaque=Opaque("gemini", {"part": code})))
    assert turns[1]["parts"] == [code]


# -- settings and tools ---------------------------------------------------------------------------------------------

LEVELS = [
    (NEW, "low", {"thinkingLevel": "low", "includeThoughts": True}),
    (NEW, "medium", {"thinkingLevel": "medium", "includeThoughts": True}),
    (NEW, 9000, {"thinkingLevel": "high", "includeThoughts": True}),
    (NEW, "none", {"thinkingLevel": "minimal"}),
    ("gemini-flash-latest", "high", {"thinkingLevel": "high", "includeThoughts": True}),
    ("gemini-3.1-pro-preview", 0, {"thinkingLevel": "low"}),
    ("gemini-3-pro-preview", "medium", {"thinkingLevel": "high", "includeThoughts": True}),
    (OLD, "none", {"thinkingBudget": 0}),
    (OLD, "high", {"thinkingBudget": 24_576, "includeThoughts": True}),
    (OLD, 500, {"thinkingBudget": 500, "includeThoughts": True}),
    ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
    ("gemini-2.0-flash", "high", None),
]


@pytest.mark.parametrize(("name", "reasoning", "expected"), LEVELS)
def test_reasoning_in_the_models_own_form(name: str, reasoning: Any, expected: dict[str, Any] | None) -> None:
    body = sent(user("Hi"), name=name, settings={"reasoning": reasoning})
    assert body.get("generationConfig", {}).get("thinkingConfig") == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "AUTO"}),
        ("any", {"mode": "ANY"}),
        ("none", {"mode": "NONE"}),
        ("weather", {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_b20_tool_choice(choice: str, expected: dict[str, Any]) -> None:
    body = sent(user("Hi"), tools=(WEATHER,), tool_choice=choice)
    assert body["toolConfig"] == {"functionCallingConfig": expected}
    assert "toolConfig" not in sent(user("Hi"), tool_choice=choice)


def test_a_tool_without_parameters_has_no_schema() -> None:
    """Issues 66 and 103."""
    (declared,) = sent(user("Hi"), tools=(ToolSpec("now", "The time", {"type": "object"}),))["tools"]
    assert declared == {"functionDeclarations": [{"name": "now", "description": "The time"}]}


def test_schemas_of_tool_servers_are_made_fit() -> None:
    """AgentKit's issue 173: $schema, exclusiveMinimum and the like were refused."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"n": {"type": "integer", "exclusiveMinimum": 0, "default": 3}},
        "additionalProperties": False,
    }
    (declared,) = sent(user("Hi"), tools=(ToolSpec("t", "", schema),))["tools"]
    assert declared["functionDeclarations"][0]["parametersJsonSchema"] == {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1}},
        "additionalProperties": False,
    }


def test_b23_names_that_the_wire_refuses_are_replaced_everywhere() -> None:
    call = ToolCall("a", "files/read", {})
    body = sent(
        *(user("Hi"), ToolCallMessage((call,)), ToolResultMessage(call, {"data": 1})),
        tools=(ToolSpec("files/read", "", {}),),
        tool_choice="files/read",
    )
    name = body["tools"][0]["functionDeclarations"][0]["name"]
    assert name.startswith("files_read_")
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [name]
    assert body["contents"][1]["parts"][0]["functionCall"]["name"] == name
    assert body["contents"][2]["parts"][0]["functionResponse"]["name"] == name


def test_structured_output() -> None:
    body = sent(user("Hi"), output=OutputSpec("city", SCHEMA))
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
    assert GeminiModel(NEW).capabilities.structured_output == "yes"
    assert GeminiModel("gemini-flash-latest").capabilities.structured_output == "yes"
    assert GeminiModel(OLD).capabilities.structured_output == "alone"


def test_a_schema_that_cannot_be_enforced_beside_tools_is_told() -> None:
    both = {"output": OutputSpec("city", SCHEMA), "tools": (WEATHER,)}
    assert "responseJsonSchema" in sent(user("Hi"), **both)["generationConfig"]
    older = sent(user("Hi"), name=OLD, **both)
    assert "generationConfig" not in older
    assert '"city"' in older["systemInstruction"]["parts"][0]["text"]


def test_b56_extra_parameters_are_laid_over_last() -> None:
    extra = {
        "safetySettings": [{"category": "C", "threshold": "OFF"}],
        "generationConfig": {"topK": 3, "temperature": None},
        "toolConfig": None,
    }
    settings = {"temperature": 0.5, "max_tokens": 9, "extra": extra}
    body = sent(user("Hi"), tools=(WEATHER,), settings=settings)
    assert body["generationConfig"] == {"maxOutputTokens": 9, "topK": 3}
    assert body["safetySettings"] == extra["safetySettings"]
    assert "toolConfig" not in body
    assert extra["generationConfig"] == {"topK": 3, "temperature": None}, "the settings must not be changed"


def test_images_and_files() -> None:
    pdf = file(b"%PDF", name="a.pdf")
    (turn,) = wire(user(["Look", image(PNG), image("https://a.test/b.jpg"), pdf]))
    assert turn["parts"] == [
        {"text": "Look"},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://a.test/b.jpg"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
    ]
    drawn = wire(user("Draw"), TextMessage("assistant", (text("Here:"), image(PNG))), user("Thanks"))
    assert drawn[1]["parts"][1]["inlineData"]["mimeType"] == "image/png"


def test_a_model_shows_no_key() -> None:
    model = GeminiModel(NEW, api_key="AIza-very-secret", base_url="https://a.test")
    assert "secret" not in repr(model)
    assert (model.name, model.provider) == (NEW, "gemini")


# -- any conversation -----------------------------------------------------------------------------------------------


@given(transcripts)
def test_b05_any_transcript_is_one_that_the_provider_takes(transcript: tuple[Message, ...]) -> None:
    for name in (OLD, NEW):
        turns = sent(*transcript, name=name)["contents"]
        assert [one["role"] for one in turns] == ["user", "model"] * (len(turns) // 2) + ["user"]
        for number, one in enumerate(turns):
            assert one["parts"]
            calls = [part for part in one["parts"] if "functionCall" in part]
            after = turns[number + 1]["parts"] if number + 1 < len(turns) else []
            answers = [part["functionResponse"] for part in after if "functionResponse" in part]
            assert [(part["functionCall"]["id"], part["functionCall"]["name"]) for part in calls] == [
                (part["id"], part["name"]) for part in answers
            ]
            assert after[: len(answers)] == [{"functionResponse": part} for part in answers]
            assert all(isinstance(part["functionCall"]["args"], dict) for part in calls)
            assert all(isinstance(part["response"], dict) for part in answers)
            if calls and name == NEW:
                assert any("thoughtSignature" in part for part in calls)
            for part in one["parts"]:
                assert part.get("text") != "" or "thoughtSignature" in part
