"""The Chat Completions wire: OpenAI's older API, and the one that most other servers speak.

`encode` makes the request body from a `ModelRequest`, purely; what servers do differently is a `Dialect`. Reading the
stream is in `openai_chat_stream`. Caching needs nothing on this wire.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Unpack, cast

from perdure.models.call import ModelOptions, ProviderModel, setting
from perdure.models.model import Capabilities, ModelRequest, Reasoning, ToolSpec
from perdure.models.openai_chat_stream import ChatDecoder
from perdure.models.openai_common import address, arguments_text, connect, dialect_of, effort, is_text, lay_over, post
from perdure.models.prefix import Writer, split, write
from perdure.models.schema import safe_name
from perdure.models.turns import Answer, Turn
from perdure.types.base import Base
from perdure.types.errors import BadRequest
from perdure.types.messages import ImagePart, ReasoningMessage, TextMessage, TextPart, result_text


class Dialect(Base):
    """What a server of this wire does in its own way.

    `max_tokens` is its name for that setting. `effort` is how it is told to think: OpenAI's `reasoning_effort`,
    OpenRouter's `reasoning`, DeepSeek's `thinking`. `returns` is the field in which it wants its thoughts back.
    `strict` says that schemas can be enforced while the model writes.
    """

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    effort: Literal["reasoning_effort", "reasoning", "thinking"] = "reasoning_effort"
    returns: Literal["reasoning_content", "reasoning_details"] | None = None
    strict: bool = False


OPENAI = Dialect(max_tokens="max_completion_tokens", strict=True)


class OpenAIChatModel(ProviderModel):
    """A model behind the Chat Completions API of OpenAI, or of a server that speaks it."""

    package: ClassVar[str] = "openai"
    extra: ClassVar[str] = "openai"

    def __init__(
        self,
        name: str,
        *,
        provider: str = "openai",
        key_variables: tuple[str, ...] = ("OPENAI_API_KEY",),
        capabilities: Capabilities | None = None,
        dialect: Dialect = OPENAI,
        **options: Unpack[ModelOptions],
    ) -> None:
        super().__init__(name, **options)
        self.provider = provider
        self.key_variables = key_variables
        self.capabilities = capabilities or Capabilities(structured_output="yes")
        self.dialect = dialect

    def _connect(self, sdk: Any, key: str) -> Any:
        return connect(sdk, key, self.base_url, self._headers, ours=self.provider == "openai")

    async def _open(self, client: Any, request: ModelRequest) -> Any:
        body = encode(self.name, request, self.dialect, self.provider, prefill=self.capabilities.prefill)
        return await post(self.sdk(), client, "/chat/completions", body, request.settings.timeout)

    def _decoder(self, request: ModelRequest) -> ChatDecoder:
        names = {safe_name(one.name): one.name for one in request.tools}
        return ChatDecoder(self.provider, self.name, names, returns=self.dialect.returns is not None)


class AzureChatModel(OpenAIChatModel):
    """A model deployed at Azure; its name is the deployment's.

    Args:
        name: the deployment.
        endpoint: such as `https://example.openai.azure.com`; without it, AZURE_OPENAI_ENDPOINT is read.
        api_version: without it, OPENAI_API_VERSION is read.
        options: as for `OpenAIChatModel`.
    """

    def __init__(
        self, name: str, *, endpoint: str | None = None, api_version: str | None = None, **options: Any
    ) -> None:
        super().__init__(name, provider="azure", key_variables=("AZURE_OPENAI_API_KEY",), **options)
        self.endpoint = endpoint
        self.api_version = api_version

    def _connect(self, sdk: Any, key: str) -> Any:
        place = {"base_url": self.base_url} if self.base_url else {"azure_endpoint": self._endpoint()}
        version = self.api_version or setting("azure", "an API version", "OPENAI_API_VERSION", "api_version")
        return sdk.AsyncAzureOpenAI(
            api_key=key, api_version=version, max_retries=0, default_headers=self._headers, **place
        )

    def _endpoint(self) -> str:
        return self.endpoint or setting("azure", "an endpoint", "AZURE_OPENAI_ENDPOINT", "endpoint")


def encode(
    name: str, request: ModelRequest, dialect: Dialect = OPENAI, provider: str = "openai", *, prefill: bool = False
) -> dict[str, Any]:
    """Make the request body for a server's dialect; only this provider's opaque parts go along.

    Raises:
        BadRequest: the request has something that this wire cannot carry.
    """
    settings = request.settings
    messages = encode_messages(request, dialect, provider, name)
    if request.prefill and prefill:
        begun: dict[str, Any] = {"role": "assistant", "content": request.prefill}
        messages.append({**begun, "prefix": True} if provider == "deepseek" else begun)
    body: dict[str, Any] = {
        "model": name,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [encode_tool(tool, dialect) for tool in request.tools]
        body["tool_choice"] = encode_choice(request.tool_choice)
        if settings.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = settings.parallel_tool_calls
    if request.output is not None:
        schema, strict = dialect_of(request.output.schema, strict=dialect.strict)
        form: dict[str, Any] = {"name": safe_name(request.output.name), "schema": schema, "strict": strict}
        if request.output.description:
            form["description"] = request.output.description
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    given = {
        dialect.max_tokens: settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "stop": list(settings.stop) or None,
        "seed": settings.seed,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    body |= _thinking(name, settings.reasoning, dialect)
    return lay_over(body, settings.extra)


def encode_messages(request: ModelRequest, dialect: Dialect, provider: str, name: str) -> list[dict[str, Any]]:
    """Write the conversation: an answer is one message, followed by one message for each result of its calls."""
    system, said = split(request.messages)
    written = write(said, ("openai_chat", dialect, provider, name), lambda: _Writer(dialect, provider, name))
    return [*({"role": "system", "content": one.text} for one in system), *written.messages]


class _Writer(Writer):
    """Writes turns."""

    def __init__(self, dialect: Dialect, provider: str, name: str) -> None:
        self._given = (dialect, provider, name)
        self.messages: list[dict[str, Any]] = []

    def turn(self, turn: Turn) -> None:
        dialect, provider, name = self._given
        if isinstance(turn, Answer):
            said = _answer(turn, dialect, provider)
            if said is not None:
                self.messages.append(said)
            self.messages += [
                {"role": "tool", "tool_call_id": one.tool.id, "content": result_text(one.content)}
                for one in turn.results
            ]
        elif turn.role == "system":
            self.messages.append({"role": "system", "content": turn.text})
        else:
            self.messages.append({"role": "user", "content": _content(turn, provider, name)})


def _answer(answer: Answer, dialect: Dialect, provider: str) -> dict[str, Any] | None:
    calls = answer.calls
    thoughts = _thoughts(answer, dialect, provider)
    if not (calls or answer.text or thoughts):
        return None
    said: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if calls else "")}
    if calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": safe_name(call.name), "arguments": arguments_text(call.input)},
            }
            for call in calls
        ]
    return said | thoughts


def _thoughts(answer: Answer, dialect: Dialect, provider: str) -> dict[str, Any]:
    """The thoughts of this provider in the field in which it wants them back."""
    if dialect.returns is None:
        return {}
    text, details = "", list[Any]()
    mine = False
    for part in answer.parts:
        if isinstance(part, ReasoningMessage) and part.opaque is not None and part.opaque.provider == provider:
            mine = True
            text += part.content
            details += cast("dict[str, Any]", part.opaque.data).get("details", [])
    if dialect.returns == "reasoning_details":
        return {"reasoning_details": details} if details else {"reasoning": text} if text else {}
    return {"reasoning_content": text} if mine else {}


def _content(message: TextMessage, provider: str, name: str) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    if all(isinstance(part, TextPart) for part in message.content):
        return message.text
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, ImagePart):
            parts.append({"type": "image_url", "image_url": {"url": address(part)}})
        elif part.data is not None and is_text(part.media_type):
            parts.append({"type": "text", "text": f"{part.name}:\n{part.data.decode(errors='replace')}"})
        elif part.data is not None or provider == "openrouter":
            parts.append({"type": "file", "file": {"filename": part.name, "file_data": address(part)}})
        else:
            raise BadRequest(
                f"the file {part.name!r} is given by its address, but this API takes files only by their bytes. "
                "Give the bytes with file(bytes), or use a model that fetches files, such as openai(...).",
                provider=provider,
                model=name,
            )
    return parts


def encode_tool(tool: ToolSpec, dialect: Dialect) -> dict[str, Any]:
    """Write a tool; strict only where the server and the schema allow it."""
    schema, strict = dialect_of(tool.parameters, strict=tool.strict and dialect.strict)
    function: dict[str, Any] = {"name": safe_name(tool.name), "description": tool.description, "parameters": schema}
    if strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def encode_choice(choice: str) -> str | dict[str, Any]:
    """Write which tools may or must be called."""
    if choice in ("auto", "none"):
        return choice
    return "required" if choice == "any" else {"type": "function", "function": {"name": safe_name(choice)}}


def _thinking(name: str, reasoning: Reasoning | None, dialect: Dialect) -> dict[str, Any]:
    if reasoning is None:
        return {}
    hard = effort(name, reasoning)
    if dialect.effort == "reasoning_effort":
        return {"reasoning_effort": hard}
    if dialect.effort == "reasoning":
        if isinstance(reasoning, int) and reasoning > 0:
            return {"reasoning": {"max_tokens": reasoning}}
        return {"reasoning": {"enabled": False} if hard == "none" else {"effort": hard}}
    if hard == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}, "reasoning_effort": hard}
