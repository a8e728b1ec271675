"""What an MCP server says, before and after the SDK reads it.

Before: servers describe their tools in schemas that the protocol does not allow, and the SDK would refuse the whole
list for one of them; so schemas are made plain objects on their way in. After: a result becomes plain JSON that a model
can read, in which pictures, sounds and files are described and not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from perdure.models.object_schema import object_schema
from perdure.types.base import Json, encode_json

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

_LONGEST_TEXT = 100_000
_LONGEST_ERROR = 10_000


class Mended:
    """A stream of the SDK's messages on which lists of tools are mended, and which tells when the server closes it."""

    def __init__(self, inner: Any, closed: Callable[[], None]) -> None:
        self._inner = inner
        self._closed = closed

    @property
    def last_context(self) -> Any:
        """The context of whoever sent the last message, where the transport knows it."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> Any:
        """Take the next message."""
        return mend(await self._inner.receive())

    async def aclose(self) -> None:
        """Close it from this side."""
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return mend(await self._inner.__anext__())
        except StopAsyncIteration:
            self._closed()
            raise

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self._inner.__aexit__(*args)


def mend(item: Any) -> Any:
    """Make the schemas in a list of tools plain objects, in place; everything else passes unchanged."""
    result: Any = getattr(getattr(item, "message", None), "result", None)
    if isinstance(result, dict):
        tools: Any = cast("dict[str, Any]", result).get("tools")
        if isinstance(tools, list):
            for one in cast("list[Any]", tools):
                if isinstance(one, dict):
                    _mend_tool(cast("dict[str, Any]", one))
    return item


def _mend_tool(tool: dict[str, Any]) -> None:
    schema = tool.get("inputSchema")
    tool["inputSchema"] = object_schema(cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {})
    # A result that does not fit the server's own schema is still what the tool did, and the model should see it.
    tool.pop("outputSchema", None)


def read_result(result: CallToolResult) -> Json:
    """Make of a result what the model gets: its structured content if it has one, else its text, else all its parts."""
    structured: Json = result.structured_content
    parts = [describe(one) for one in result.content]
    if structured is not None:
        others = [part for part in parts if not isinstance(part, str)]
        return {"result": structured, "content": others} if others else structured
    if not parts:
        return None
    return "\n".join(cast("Sequence[str]", parts)) if all(isinstance(part, str) for part in parts) else parts


def read_error(result: CallToolResult) -> str:
    """Make of a failed result what the model is told."""
    said = [part if isinstance(part, str) else encode_json(part).decode() for part in map(describe, result.content)]
    text = "\n".join(part for part in said if part.strip())
    if not text and result.structured_content is not None:
        text = encode_json(result.structured_content).decode()
    return text[:_LONGEST_ERROR] or "The tool failed and its server did not say why."


def describe(block: ContentBlock) -> str | dict[str, Json]:
    """Describe a part of a result: text as it is, everything else by its kind, media type, size and address."""
    if block.type == "text":
        return block.text
    if block.type == "image" or block.type == "audio":
        return {"type": block.type, "media_type": block.mime_type, "size": _size(block.data)}
    if block.type == "resource_link":
        told: dict[str, Json] = {"type": "resource", "uri": str(block.uri), "name": block.title or block.name}
        return _known(told, media_type=block.mime_type, size=block.size, description=block.description)
    held = block.resource
    told = {"type": "resource", "uri": str(held.uri)}
    text: str | None = getattr(held, "text", None)
    if text is None:
        return _known(told, media_type=held.mime_type, size=_size(getattr(held, "blob", "")))
    if len(text) > _LONGEST_TEXT:
        return _known(told, media_type=held.mime_type, size=len(text.encode()))
    return _known(told, media_type=held.mime_type, text=text)


def _known(told: dict[str, Json], **more: Json) -> dict[str, Json]:
    return {**told, **{name: value for name, value in more.items() if value is not None}}


def _size(base64: str) -> int:
    """The bytes that a text in base64 stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")
