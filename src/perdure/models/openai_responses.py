"""The Responses wire: OpenAI's own API, and the default for its models.

`encode` makes the request body from a `ModelRequest`, purely. Nothing is stored at OpenAI: thoughts come encrypted and
go back unchanged, each before what followed it. Reading the stream is in `openai_responses_stream`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, cast

from perdure.models.call import ProviderModel
from perdure.models.model import Capabilities, ModelRequest, ToolSpec
from perdure.models.openai_common import address, arguments_text, connect, dialect_of, effort, lay_over, post
from perdure.models.openai_responses_stream import ResponsesDecoder
from perdure.models.prefix import Writer, split, write
from perdure.models.schema import safe_name
from perdure.models.turns import Answer, Said, Turn
from perdure.types.errors import BadRequest
from perdure.types.messages import (
    FilePart,
    ImagePart,
    Opaque,
    ReasoningMessage,
    TextMessage,
    TextPart,
    ToolCall,
    result_text,
)

_THINKS = re.compile(r"o\d|codex|gpt-(?:[5-9]|\d\d)(?!.*-chat)")


class OpenAIModel(ProviderModel):
    """A model behind OpenAI's Responses API, or behind a server that speaks it."""

    package: ClassVar[str] = "openai"
    extra: ClassVar[str] = "openai"
    provider = "openai"
    key_variables = ("OPENAI_API_KEY",)
    capabilities = Capabilities(structured_output="yes")

    def _connect(self, sdk: Any, key: str) -> Any:
        return connect(sdk, key, self.base_url, self._headers, ours=True)

    async def _open(self, client: Any, request: ModelRequest) -> Any:
        body = encode(self.name, request)
        return await post(self.sdk(), client, "/responses", body, request.settings.timeout)

    def _decoder(self, request: ModelRequest) -> ResponsesDecoder:
        return ResponsesDecoder(self.name, {safe_name(one.name): one.name for one in request.tools})


def thinks(name: str) -> bool:
    """Whether a model of this name has thoughts to give back; others refuse to be asked for them."""
    return _THINKS.match(name.rsplit("/", 1)[-1].removeprefix("ft:")) is not None


def encode(name: str, request: ModelRequest) -> dict[str, Any]:
    """Make the request body; the settings of the request are complete.

    Raises:
        BadRequest: the request has something that this wire cannot carry.
    """
    settings = request.settings
    if settings.stop:
        raise BadRequest(
            "the Responses API has no stop sequences. Leave settings.stop empty, or use openai_chat(...).",
            provider="openai",
            model=name,
        )
    body: dict[str, Any] = {"model": name, "input": encode_input(request, thinking=thinks(name)), "stream": True}
    body["store"] = False
    if thinks(name):
        body["include"] = ["reasoning.encrypted_content"]
    if request.tools:
        body["tools"] = [encode_tool(tool) for tool in request.tools]
        body["tool_choice"] = encode_choice(request.tool_choice)
        if settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = settings.parallel_tool_calls
    if request.output is not None:
        schema, strict = dialect_of(request.output.schema, strict=True)
        form: dict[str, Any] = {
            "type": "json_schema",
            "name": safe_name(request.output.name),
            "schema": schema,
            "strict": strict,
        }
        if request.output.description:
            form["description"] = request.output.description
        body["text"] = {"format": form}
    given = {
        "max_output_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "reasoning": None if settings.reasoning is None else {"effort": effort(name, settings.reasoning)},
    }
    body |= {key: value for key, value in given.items() if value is not None}
    return lay_over(body, settings.extra)


def encode_input(request: ModelRequest, *, thinking: bool) -> list[dict[str, Any]]:
    """Write the conversation as items, in the order in which it happened."""
    system, said = split(request.messages)
    written = write(said, ("openai_responses", thinking), lambda: _Writer(thinking=thinking))
    return [*({"role": "system", "content": one.text} for one in system), *written.items]


class _Writer(Writer):
    """Writes turns."""

    def __init__(self, *, thinking: bool) -> None:
        self._thinking = thinking
        self.items: list[dict[str, Any]] = []

    def turn(self, turn: Turn) -> None:
        if isinstance(turn, Answer):
            self.items += _answer(turn, thinking=self._thinking)
        elif turn.role == "system":
            self.items.append({"role": "system", "content": turn.text})
        else:
            self.items.append({"role": "user", "content": _content(turn)})


def _answer(answer: Answer, *, thinking: bool) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []
    for part in answer.parts:
        if isinstance(part, ReasoningMessage):
            data = _mine(part.opaque)
            # Without its encrypted content a thought is only a name for something that OpenAI has not kept.
            if thinking and data.get("type") == "reasoning" and data.get("encrypted_content"):
                thoughts.append(data)
            continue
        item = _item(part)
        if item is not None:
            items += thoughts  # a thought may not go without what followed it
            thoughts = []
            items.append(item)
    items += [
        {"type": "function_call_output", "call_id": one.tool.id, "output": result_text(one.content)}
        for one in answer.results
    ]
    return items


def _item(part: Said) -> dict[str, Any] | None:
    if isinstance(part, ToolCall):
        item = {
            "type": "function_call",
            "call_id": part.id,
            "name": safe_name(part.name),
            "arguments": arguments_text(part.input),
        }
        return item | _mine(part.opaque)
    if not isinstance(part, TextMessage) or not part.text:
        return None
    known = _mine(part.opaque)
    if not known:
        return {"role": "assistant", "content": part.text}
    content = [{"type": "output_text", "text": part.text, "annotations": list[Any]()}]
    return {"type": "message", "role": "assistant", "status": "completed", "content": content} | known


def _mine(opaque: Opaque | None) -> dict[str, Any]:
    if opaque is None or opaque.provider != "openai":
        return {}
    data: Any = opaque.data
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _content(message: TextMessage) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: TextPart | ImagePart | FilePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": address(part), "detail": "auto"}
    if part.data is None:
        return {"type": "input_file", "file_url": part.url or ""}
    return {"type": "input_file", "filename": part.name, "file_data": address(part)}


def encode_tool(tool: ToolSpec) -> dict[str, Any]:
    """Write a tool; strict only where the schema allows it."""
    schema, strict = dialect_of(tool.parameters, strict=tool.strict)
    return {
        "type": "function",
        "name": safe_name(tool.name),
        "description": tool.description,
        "parameters": schema,
        "strict": strict,  # this API takes silence for yes
    }


def encode_choice(choice: str) -> str | dict[str, Any]:
    """Write which tools may or must be called."""
    if choice in ("auto", "none"):
        return choice
    return "required" if choice == "any" else {"type": "function", "name": safe_name(choice)}
