"""The Messages wire of Anthropic.

`encode` makes the request body from a `ModelRequest`, purely: system blocks, and turns of user and assistant that
alternate and begin and end with the user. The results of an answer's calls stand together at the start of the user's
next turn. What the model at hand takes is in `claude`, reading the stream is in `anthropic_stream`.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Unpack, cast

from perdure.models.anthropic_stream import AnthropicDecoder
from perdure.models.call import CONNECT_TIMEOUT, ModelOptions, ProviderModel
from perdure.models.claude import Body, Claude, claude, thinking_body
from perdure.models.model import Capabilities, ModelRequest, ToolSpec
from perdure.models.openai_common import is_text, lay_over
from perdure.models.prefix import GO_ON, Writer, append, split, write
from perdure.models.schema import anthropic_schema, anthropic_strict, safe_name
from perdure.models.turns import Answer, Turn, turns
from perdure.types.base import decode_json, encode_json
from perdure.types.errors import BadRequest
from perdure.types.messages import FilePart, ImagePart, TextMessage, TextPart, ToolCall, result_text

PROVIDER = "anthropic"

_SAMPLING = ("temperature", "top_p", "top_k")
_TAKES_SAMPLING = "2023-06-01"  # later versions of the API refuse the parameters for every model


class AnthropicModel(ProviderModel):
    """A model behind Anthropic's Messages API, or a server that speaks it."""

    package: ClassVar[str] = "anthropic"
    extra: ClassVar[str] = "anthropic"
    provider = PROVIDER
    key_variables = ("ANTHROPIC_API_KEY",)

    def __init__(self, name: str, **options: Unpack[ModelOptions]) -> None:
        super().__init__(name, **options)
        takes = claude(name)
        self.capabilities = Capabilities(structured_output="yes" if takes.structured else "no", prefill=takes.prefill)

    def _connect(self, sdk: Any, key: str) -> Any:
        return sdk.AsyncAnthropic(
            api_key=key, base_url=self.base_url, max_retries=0, default_headers=self._headers or None
        )

    async def _open(self, client: Any, request: ModelRequest) -> Any:
        sdk = self.sdk()
        body = encode(self.name, request)
        timeout = request.settings.timeout
        options: dict[str, Any] = {
            "timeout": sdk.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            "headers": headers_for(body),
        }
        # Plain JSON values, as the SDK's own types drop what they do not know.
        return await client.post(
            "/v1/messages", body=body, options=options, cast_to=object, stream=True, stream_cls=sdk.AsyncStream[object]
        )

    def _decoder(self, request: ModelRequest) -> AnthropicDecoder:
        names = {safe_name(one.name): one.name for one in request.tools}
        after = (lambda: mark(self.name, request)) if claude(self.name).bound else None
        return AnthropicDecoder(self.name, names, after=after)


def headers_for(body: Body) -> dict[str, str]:
    """Say which version of the API a body needs, where it is not the SDK's own."""
    return {"anthropic-version": _TAKES_SAMPLING} if any(key in body for key in _SAMPLING) else {}


def encode(name: str, request: ModelRequest) -> Body:
    """Make the request body; the settings of the request are complete.

    Raises:
        BadRequest: the request has something that this wire cannot carry.
    """
    takes = claude(name)
    settings = request.settings
    system, written = _write(name, request, takes)
    messages = written.messages
    body: Body = {"model": name, "messages": messages, "stream": True}
    forced = _forced(request, takes)
    # No thought can come after words that were begun, and none before a forced call; blanks at their end are refused.
    words = (request.prefill or "").rstrip() if takes.prefill and not forced else ""
    body |= thinking_body(takes, settings, forced=forced, may_think=not words and _may_think(messages))
    if request.tools:
        body["tools"] = [_tool(one, takes) for one in request.tools]
        body["tool_choice"] = _choice(request, takes)
    elif written.called:
        # Where calls are in the conversation, the API wants to know tools, also if none may be called now.
        body["tools"] = [{"name": one, "input_schema": anthropic_schema({})} for one in written.called]
        body["tool_choice"] = {"type": "none"}
    if request.output is not None and takes.structured:
        schema = _schema_of(encode_json(request.output.schema), strict=True)
        if schema is not None:
            form = {"type": "json_schema", "schema": schema}
            body["output_config"] = {**body.get("output_config", {}), "format": form}
    if system:
        body["system"] = system
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    if takes.sampling and not thinks:
        given = {"temperature": settings.temperature, "top_p": settings.top_p}
        body |= {key: value for key, value in given.items() if value is not None}
    if settings.stop:
        body["stop_sequences"] = list(settings.stop)
    if words:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": words}]})
    if settings.cache:
        _cache(body)
    return lay_over(body, settings.extra)


def mark(name: str, request: ModelRequest) -> str:
    """Mark the prompt of a request: thoughts that come after it go back only after the very same one."""
    return _write(name, request, claude(name))[1].marked()


# -- the conversation -----------------------------------------------------------------------------------------------


def _write(name: str, request: ModelRequest, takes: Claude) -> tuple[list[Body], _Writer]:
    """Write the system blocks and the turns."""
    front, said = split(request.messages)
    texts = [one.text for one in front]
    told = _told(request, takes)
    tools = [(one.name, one.description, one.parameters) for one in request.tools]

    def begin() -> tuple[list[Body], bytes]:
        """The system blocks, and with the tools what thoughts are bound to before the turns."""
        system = [_text(text) for text in (*texts, *told) if text.strip()]
        return system, encode_json([name, system, tools]) if takes.bound else b""

    system, start = begin()
    written = write(said, (PROVIDER, name, start), lambda: _Writer(name, start, bound=takes.bound))
    if written.told:
        texts += written.told
        system, start = begin()
        if takes.bound:  # what the system said in between counts from the beginning
            written = _Writer(name, start, bound=True)
            for turn in turns(said):
                written.turn(turn)
    written.finish()
    return system, written


class _Writer(Writer):
    """Writes turns, and keeps a digest of what was written so far; `told` is what the system said in between."""

    def __init__(self, name: str, start: bytes, *, bound: bool) -> None:
        self._name = name
        self._bound = bound
        self._digest = hashlib.sha256(start)
        self._digested = 0
        self.messages: list[Body] = []
        self.told: list[str] = []
        self.called: dict[str, None] = {}

    def marked(self) -> str:
        """Mark what was written so far."""
        for one in self.messages[self._digested :]:
            self._digest.update(encode_json(one))
        self._digested = len(self.messages)
        return self._digest.hexdigest()[:16]

    def turn(self, turn: Turn) -> None:
        if isinstance(turn, Answer):
            self._add("assistant", self._said(turn))
            self._add("user", [_result(one) for one in turn.results])
        elif turn.role == "system":
            self.told.append(turn.text)
        else:
            self._add("user", [block for part in turn.parts for block in self._block(part)])

    def finish(self) -> None:
        """End with the user."""
        if not self.messages or self.messages[-1]["role"] == "assistant":
            self._add("user", [_text(GO_ON)])

    def _add(self, role: str, blocks: list[Body]) -> None:
        append(self.messages, role, "content", blocks, _text(GO_ON))

    def _said(self, answer: Answer) -> list[Body]:
        blocks: list[Body] = []
        for part in answer.parts:
            if isinstance(part, ToolCall):
                block = _call(part)
                self.called[block["name"]] = None
                blocks.append(block)
                continue
            if part.opaque is not None and part.opaque.provider == PROVIDER:
                data: Body = part.opaque.data
                if not self._bound or data.get("after") == self.marked():
                    blocks.append(data["block"])
            elif isinstance(part, TextMessage):
                # The wire takes no images or files in an answer; another provider's model may have made some.
                texts = [one.text if isinstance(one, TextPart) else f"[{one.media_type}]" for one in part.parts]
                blocks += [_text(text) for text in texts if text.strip()]
        return blocks

    def _block(self, part: TextPart | ImagePart | FilePart) -> list[Body]:
        if isinstance(part, TextPart):
            return [_text(part.text)] if part.text.strip() else []
        if part.data is None:
            kind = "image" if part.media_type.startswith("image/") else "document"
            return [{"type": kind, "source": {"type": "url", "url": part.url or ""}}]
        if isinstance(part, ImagePart) or part.media_type.startswith("image/"):
            return [{"type": "image", "source": _bytes(part.data, part.media_type)}]
        if part.media_type == "application/pdf":
            return [{"type": "document", "source": _bytes(part.data, part.media_type), "title": part.name}]
        if is_text(part.media_type):
            source = {"type": "text", "media_type": "text/plain", "data": part.data.decode(errors="replace")}
            return [{"type": "document", "source": source, "title": part.name}]
        raise BadRequest(
            f"the file {part.name!r} is {part.media_type}, but this API takes images, PDF and text. "
            "Give it as one of these.",
            provider=PROVIDER,
            model=self._name,
        )


def _text(text: str) -> Body:
    return {"type": "text", "text": text}


def _bytes(data: bytes, media_type: str) -> Body:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


def _call(call: ToolCall) -> Body:
    # What was no JSON object cannot go back as it was: this wire insists on one.
    arguments = call.input if isinstance(call.input, dict) else {"invalid_json": call.input}
    return {"type": "tool_use", "id": call.id, "name": safe_name(call.name), "input": arguments}


def _result(result: Any) -> Body:
    block: Body = {"type": "tool_result", "tool_use_id": result.tool.id, "content": result_text(result.content)}
    return {**block, "is_error": True} if result.is_error else block


# -- tools, answers, cache ------------------------------------------------------------------------------------------


def _tool(tool: ToolSpec, takes: Claude) -> Body:
    plain = encode_json(tool.parameters)
    strict = _schema_of(plain, strict=True) if tool.strict and takes.structured else None
    schema = _schema_of(plain, strict=False) if strict is None else strict
    written: Body = {"name": safe_name(tool.name), "input_schema": schema}
    if tool.description:
        written["description"] = tool.description
    return written if strict is None else {**written, "strict": True}


@lru_cache(1024)  # the same few schemas come with every inference
def _schema_of(schema: bytes, *, strict: bool) -> Body | None:
    plain = decode_json(schema)
    return anthropic_strict(plain) if strict else anthropic_schema(plain)


def _forced(request: ModelRequest, takes: Claude) -> bool:
    return bool(request.tools) and request.tool_choice not in ("auto", "none") and takes.forced


def _choice(request: ModelRequest, takes: Claude) -> Body:
    wanted = request.tool_choice
    if wanted == "none":
        return {"type": "none"}
    if wanted == "auto" or not takes.forced:
        choice: Body = {"type": "auto"}
    elif wanted == "any":
        choice = {"type": "any"}
    else:
        choice = {"type": "tool", "name": safe_name(wanted)}
    return {**choice, "disable_parallel_tool_use": True} if request.settings.parallel_tool_calls is False else choice


def _told(request: ModelRequest, takes: Claude) -> list[str]:
    """Say in words what this model cannot be made to do."""
    told: list[str] = []
    if request.tools and not takes.forced and request.tool_choice not in ("auto", "none"):
        which = "one of the tools" if request.tool_choice == "any" else f"the tool {safe_name(request.tool_choice)}"
        told.append(f"Answer by calling {which} now, and do not answer in words alone.")
    output = request.output
    if output is not None and (not takes.structured or _schema_of(encode_json(output.schema), strict=True) is None):
        schema = encode_json(_schema_of(encode_json(output.schema), strict=False)).decode()
        told.append(f"Answer with nothing but one JSON object that fits this JSON schema:\n{schema}")
    return told


def _may_think(messages: list[Body]) -> bool:
    """Whether a thinking budget is taken: not while the results of an answer without thoughts are handed in."""
    results = any(block["type"] == "tool_result" for block in messages[-1]["content"])
    if not results or len(messages) < 2:
        return True
    first: Body = cast("list[Body]", messages[-2]["content"])[0]
    return first["type"] in ("thinking", "redacted_thinking")


def _cache(body: Body) -> None:
    """Mark what stays as it is, in the order in which it is read: tools, system, the user's last two turns."""
    for name in ("tools", "system"):
        if body.get(name):
            body[name] = _marked(body[name])
    messages: list[Body] = body["messages"]
    users = (place for place in range(len(messages) - 1, -1, -1) if messages[place]["role"] == "user")
    for place in islice(users, 2):
        messages[place] = {"role": "user", "content": _marked(messages[place]["content"])}


def _marked(blocks: list[Body]) -> list[Body]:
    return [*blocks[:-1], {**blocks[-1], "cache_control": {"type": "ephemeral"}}]
