"""The generateContent wire of Google's Gemini.

`encode` makes the REST body from a `ModelRequest`, purely: a system instruction, and turns of user and model that
alternate and begin and end with the user. All calls of an answer go back, their results together in one turn of the
user, in call order. A signature goes back on the part that it came with. Reading the stream is in `gemini_stream`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias, Unpack

from perdure.models.call import ModelOptions, ProviderModel
from perdure.models.gemini_client import GeminiClient, GeminiStream
from perdure.models.gemini_stream import GeminiDecoder
from perdure.models.model import Capabilities, ModelRequest, Reasoning, ToolSpec, level
from perdure.models.openai_common import lay_over
from perdure.models.prefix import GO_ON, Writer, append, split, write
from perdure.models.schema import gemini_schema, safe_name
from perdure.models.turns import Answer, Turn
from perdure.types.base import decode_json, encode_json
from perdure.types.messages import (
    Opaque,
    ReasoningMessage,
    TextMessage,
    TextPart,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
)

Body: TypeAlias = "dict[str, Any]"

PROVIDER = "gemini"

# What the API takes instead of a signature for calls that another model made.
_UNSIGNED = "skip_thought_signature_validator"
_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NEWEST = (99, 0)


class GeminiModel(ProviderModel):
    """A model behind Google's Gemini API."""

    package: ClassVar[str] = "google.genai"
    extra: ClassVar[str] = "gemini"
    provider = PROVIDER
    key_variables = ("GEMINI_API_KEY", "GOOGLE_API_KEY")

    def __init__(self, name: str, **options: Unpack[ModelOptions]) -> None:
        super().__init__(name, **options)
        self.capabilities = Capabilities(structured_output="yes" if _combines(name) else "alone")

    def _connect(self, sdk: Any, key: str) -> GeminiClient:
        return GeminiClient(sdk, key, self.base_url, self._headers)

    @staticmethod
    async def _disconnect(client: GeminiClient) -> None:
        await client.aclose()

    async def _open(self, client: GeminiClient, request: ModelRequest) -> GeminiStream:
        return await client.stream(self.name, encode(self.name, request))

    def _decoder(self, request: ModelRequest) -> GeminiDecoder:
        names = {safe_name(one.name): one.name for one in request.tools}
        calls = sum(len(one.tools) for one in request.messages if isinstance(one, ToolCallMessage))
        return GeminiDecoder(self.name, names, calls=calls)


def encode(name: str, request: ModelRequest) -> Body:
    """Make the request body; the settings of the request are complete."""
    settings = request.settings
    system, conversation = split(request.messages)
    written = write(conversation, ("gemini", name), lambda: _Writer(name))
    contents = written.contents
    if not contents or contents[-1]["role"] == "model":
        written.add("user", [{"text": GO_ON}])
    told = [*(one.text for one in system), *written.told]
    config: Body = {
        "maxOutputTokens": settings.max_tokens,
        "temperature": settings.temperature,
        "topP": settings.top_p,
        "stopSequences": list(settings.stop) or None,
        "seed": settings.seed,
        "thinkingConfig": thinking(name, settings.reasoning),
    }
    body: Body = {"contents": contents}
    if request.output is not None:
        schema = _schema_of(encode_json(request.output.schema))
        if request.tools and not _combines(name):
            written = encode_json(schema).decode()
            told.append(f"Give your last answer as nothing but one JSON object that fits this JSON schema:\n{written}")
        else:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(one) for one in request.tools]}]
        body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
    if any(told):
        body["systemInstruction"] = {"parts": [{"text": text} for text in told if text]}
    extra = dict(settings.extra)
    config = {key: value for key, value in config.items() if value is not None}
    if isinstance(extra.get("generationConfig"), Mapping):
        config = lay_over(config, extra.pop("generationConfig"))
    if config:
        body["generationConfig"] = config
    return lay_over(body, extra)


def thinking(name: str, wanted: Reasoning | None) -> Body | None:
    """Write how hard to think: as a level, for older models as a budget; None leaves it to the model."""
    version = _version(name)
    if wanted is None or version < (2, 5):
        return None
    none = wanted == "none" or wanted == 0
    if version < (3, 0):
        budgets = {"none": 0, "low": 2048, "medium": 8192, "high": 24_576}
        budget = wanted if isinstance(wanted, int) else budgets[wanted]
        if "pro" in name and none:
            budget = 128  # the least that it can do
        return {"thinkingBudget": budget} if none else {"thinkingBudget": budget, "includeThoughts": True}
    if none:
        return {"thinkingLevel": "low" if "pro" in name else "minimal"}
    hard = level(wanted)
    if hard == "medium" and version == (3, 0) and "pro" in name:
        hard = "high"  # it knows no other
    return {"thinkingLevel": hard, "includeThoughts": True}


def _version(name: str) -> tuple[int, int]:
    found = _VERSION.search(name)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def _combines(name: str) -> bool:
    """Whether an answer can be forced into a schema while tools are offered."""
    return _version(name) >= (3, 0)


# -- the conversation -----------------------------------------------------------------------------------------------


class _Writer(Writer):
    """Writes turns; `told` is what the system said in between."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.contents: list[Body] = []
        self.told: list[str] = []

    def turn(self, turn: Turn) -> None:
        if isinstance(turn, Answer):
            self.add("model", _said(turn, self._name))
            self.add("user", [_result(one) for one in turn.results])
        elif turn.role == "system":
            self.told.append(turn.text)
        else:
            self.add("user", _parts(turn))

    def add(self, role: str, parts: list[Body]) -> None:
        """Add parts to the last content if it is of the same role."""
        append(self.contents, role, "parts", parts, {"text": GO_ON})


def _said(answer: Answer, name: str) -> list[Body]:
    parts: list[Body] = []
    signed = _version(name) < (3, 0) or any(_signature(call.opaque) for call in answer.calls)
    for part in answer.parts:
        kept = _kept(part.opaque)
        if isinstance(part, ToolCall):
            if not signed:
                kept, signed = {"thoughtSignature": _UNSIGNED}, True
            # What was no JSON object cannot go back as it was: this wire insists on one.
            arguments = part.input if isinstance(part.input, dict) else {"invalid_json": part.input}
            parts.append({"functionCall": {"id": part.id, "name": safe_name(part.name), "args": arguments}} | kept)
        elif "part" in kept:
            parts.append(kept["part"])
        elif isinstance(part, ReasoningMessage):
            if kept:
                parts.append({"text": part.content, "thought": True} | kept)
        else:
            written = _parts(part)
            if kept:
                written = [*written[:-1], (written[-1] if written else {"text": ""}) | kept]
            parts += written
    return parts


def _kept(opaque: Opaque | None) -> Body:
    return dict(opaque.data) if opaque is not None and opaque.provider == PROVIDER else {}


def _signature(opaque: Opaque | None) -> Any:
    return _kept(opaque).get("thoughtSignature")


def _parts(message: TextMessage) -> list[Body]:
    parts: list[Body] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            if part.text:
                parts.append({"text": part.text})
        elif part.data is None:
            parts.append({"fileData": {"mimeType": part.media_type, "fileUri": part.url or ""}})
        else:
            data = base64.b64encode(part.data).decode()
            parts.append({"inlineData": {"mimeType": part.media_type, "data": data}})
    return parts


def _result(result: ToolResultMessage) -> Body:
    content = result.content
    if isinstance(content, dict) and content.keys() == {"data"}:
        content = {"output": content["data"]}
    elif not isinstance(content, dict):
        content = {"output": content}
    return {"functionResponse": {"id": result.tool.id, "name": safe_name(result.tool.name), "response": content}}


# -- tools ----------------------------------------------------------------------------------------------------------


def _tool(tool: ToolSpec) -> Body:
    declared: Body = {"name": safe_name(tool.name), "description": tool.description}
    schema = _schema_of(encode_json(tool.parameters))
    # A function without parameters is one that has no schema.
    if schema["properties"] or schema.get("additionalProperties"):
        declared["parametersJsonSchema"] = schema
    return declared


@lru_cache(1024)  # the same few schemas come with every inference
def _schema_of(schema: bytes) -> Body:
    return gemini_schema(decode_json(schema))


def _choice(wanted: str) -> Body:
    if wanted in ("auto", "any", "none"):
        return {"mode": wanted.upper()}
    return {"mode": "ANY", "allowedFunctionNames": [safe_name(wanted)]}
