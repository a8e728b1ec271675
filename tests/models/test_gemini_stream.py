"""The generateContent mapping: what is made of a stream."""

import json
from typing import Any

import pytest
from google.genai.types import GenerateContentResponse

from perdure.agents.result import final_text
from perdure.models.gemini_stream import GeminiDecoder
from perdure.types.assemble import Assembler
from perdure.types.chunks import Finished, ModelEvent, ReasoningChunk, TextChunk
from perdure.types.errors import BadRequest, BadResponse, ContentRefused, ModelError, ModelUnreachable, Overloaded
from perdure.types.messages import (
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    dump_messages,
    load_messages,
)
from perdure.types.usage import Usage


def piece(*parts: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [candidate | ({"finishReason": reason} if reason else {})], **more}


def pieces(*chunks: Any, decoder: GeminiDecoder | None = None) -> list[ModelEvent]:
    decoder = decoder or GeminiDecoder("gemini-3.8-flash")
    found = [one for chunk in chunks for one in decoder.feed(chunk)]
    return [*found, *decoder.end()]


def read(*chunks: Any, decoder: GeminiDecoder | None = None) -> tuple[tuple[Message, ...], Finished]:
    assembler = Assembler()
    for one in pieces(*chunks, decoder=decoder):
        assembler.add(one)
    assert assembler.finished is not None
    return assembler.messages(), assembler.finished


def call(name: str, **fields: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, **fields}}


def test_text_comes_piece_by_piece() -> None:
    counts = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 4,
        "thoughtsTokenCount": 5,
        "cachedContentTokenCount": 6,
        "toolUsePromptTokenCount": 2,
    }
    found = pieces(
        piece({"text": "Hel"}, usageMetadata={"promptTokenCount": 10, "candidatesTokenCount": 1}),
        piece({"text": "lo"}, responseId="r1", modelVersion="gemini-3.8-flash-001"),
        piece({"text": ""}, reason="STOP", usageMetadata=counts),
    )
    assert found == [
        TextChunk("Hel"),
        TextChunk("lo"),
        Finished(
            reason="stop",
            # What was thought was produced too, and what tools at the provider returned was read.
            usage=Usage(input_tokens=12, output_tokens=9, cache_read_tokens=6, reasoning_tokens=5),
            model="gemini-3.8-flash-001",
            provider="gemini",
            response_id="r1",
        ),
    ]


def test_thoughts_are_told_apart_from_text() -> None:
    found = pieces(
        piece({"text": "let me ", "thought": True}),
        piece({"text": "see", "thought": True}, {"text": "Hi"}),
        piece({"text": "more", "thought": True}, reason="STOP"),
    )
    assert found[:-1] == [
        ReasoningChunk("let me ", 0),
        ReasoningChunk("see", 0),
        TextChunk("Hi", 1),
        ReasoningChunk("more", 2),
    ]


def test_signatures_stay_with_their_parts_and_survive_json() -> None:
    """AgentKit lost or refused this (its issue 325)."""
    messages, _ = read(
        piece({"text": "Hm", "thought": True}),
        piece({"text": "I look."}),
        piece({"text": "", "thoughtSignature": "dGV4dA=="}),
        piece({**call("look", args={"page": 1}, id="a"), "thoughtSignature": "c2ln"}, call("look", id="b")),
        piece({"text": "", "thoughtSignature": "bGFzdA=="}, reason="STOP"),
    )
    assert messages == (
        ReasoningMessage("Hm"),
        TextMessage("assistant", "I look.", stop_reason="tool", opaque=sign("dGV4dA==")),
        ToolCallMessage((ToolCall("a", "look", {"page": 1}, sign("c2ln")), ToolCall("b", "look", {}))),
        TextMessage("assistant", "", stop_reason="tool", opaque=sign("bGFzdA==")),
    )
    assert load_messages(dump_messages(messages)) == messages


def sign(signature: str) -> Opaque:
    return Opaque("gemini", {"thoughtSignature": signature})


def test_calls_without_an_id_get_one_of_their_own() -> None:
    messages, finished = read(
        piece(call("look", args={"page": 1}), call("look", args={"page": 2}), call("look", id="given"), reason="STOP"),
        decoder=GeminiDecoder("gemini-2.5-flash", calls=4),
    )
    (called,) = messages
    assert isinstance(called, ToolCallMessage)
    assert [one.id for one in called.tools] == ["call_4", "call_5", "given"]
    assert [one.input for one in called.tools] == [{"page": 1}, {"page": 2}, {}]
    assert finished.reason == "tool"


def test_names_come_back_as_the_tools_have_them() -> None:
    decoder = GeminiDecoder("gemini-3.8-flash", {"files_read_1": "files/read"})
    ((called,), _) = read(piece(call("files_read_1", id="a"), reason="STOP"), decoder=decoder)
    assert called == ToolCallMessage((ToolCall("a", "files/read", {}),))


def test_the_objects_of_the_sdk_are_read_alike() -> None:
    plain = [
        piece({"text": "Hi", "thoughtSignature": "c2ln"}, call("look", args={"page": 1}, id="a")),
        piece(
            {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}},
            reason="STOP",
            usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 2},
        ),
    ]
    objects = [GenerateContentResponse.model_validate_json(json.dumps(one)) for one in plain]
    assert read(*objects) == read(*plain)


def test_unknown_parts_never_crash() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    messages, _ = read(piece(code, {"partOfTomorrow": 1}, {}), piece({"text": "One."}, reason="STOP"))
    kept = [one.opaque.data["part"] for one in messages if isinstance(one, TextMessage) and one.opaque]
    assert kept == [code, {"partOfTomorrow": 1}, {}]
    assert final_text(messages) == "One."


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "max_tokens"),
        ("SAFETY", "refused"),
        ("RECITATION", "refused"),
        ("OTHER", "stop"),
        ("REASON_OF_TOMORROW", "stop"),
    ],
)
def test_b07_reasons(reason: str, expected: str) -> None:
    assert read(piece({"text": "x"}, reason=reason))[1].reason == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        # AgentKit's issue 178: a malformed call was skipped with a warning.
        ("MALFORMED_FUNCTION_CALL", BadResponse),
        ("UNEXPECTED_TOOL_CALL", BadResponse),
        ("OTHER", BadResponse),
        ("SAFETY", ContentRefused),
        ("PROHIBITED_CONTENT", ContentRefused),
        ("MISSING_THOUGHT_SIGNATURE", BadRequest),
    ],
)
def test_b56_an_answer_that_is_none_is_an_error(reason: str, expected: type[ModelError]) -> None:
    with pytest.raises(expected, match=f"{reason}: because") as caught:
        read({"candidates": [{"finishReason": reason, "finishMessage": "because"}]})
    assert caught.value.retryable is (expected is BadResponse)


def test_a_malformed_call_after_some_text_is_still_an_error() -> None:
    with pytest.raises(BadResponse):
        read(piece({"text": "I call"}), piece(reason="MALFORMED_FUNCTION_CALL"))


def test_a_blocked_prompt_is_an_error() -> None:
    with pytest.raises(ContentRefused, match=r"blocked \(SAFETY\): no"):
        read({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no"}})


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ModelUnreachable, match="broke off"):
        read(piece({"text": "Hal"}))
    with pytest.raises(ModelUnreachable):
        read()


def test_an_error_in_the_middle_is_of_the_right_kind() -> None:
    decoder = GeminiDecoder("gemini-3.8-flash")
    with pytest.raises(Overloaded, match="busy"):
        list(decoder.feed({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}))
