"""Messages: one flat, ordered union of what was said, called and answered.

A conversation is a tuple of messages. What a model said in one inference is one or more of them in the order in which
it said it: reasoning, text, tool calls. A tool call is followed by one `ToolResultMessage` per call, in call order.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeAlias, cast

import msgspec

from perdure.types.base import Base, Json, decode_json, encode_json
from perdure.types.errors import DefinitionError

IMAGE, DOCUMENT = "image/png", "application/pdf"  # what is left out of the JSON form is known by identity
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
"""The most that one message from a user may hold."""


class Opaque(Base):
    """What a provider wants back unchanged (a signature, an encrypted thought); other providers never see it."""

    provider: str
    data: Any


class TextPart(Base, tag="text"):
    """A piece of text in a message."""

    text: str


class ImagePart(Base, tag="image"):
    """An image, by its bytes or by an address the provider can fetch."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = IMAGE


class FilePart(Base, tag="file"):
    """A document, by its bytes or by an address the provider can fetch."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = DOCUMENT
    name: str = "file"


Part: TypeAlias = TextPart | ImagePart | FilePart


class TextMessage(Base, tag="text"):
    """What the system, a user or an assistant said."""

    role: Literal["system", "user", "assistant"]
    content: str | tuple[Part, ...]
    stop_reason: Literal["tool", "stop"] | None = None
    id: str | None = None
    opaque: Opaque | None = None

    @property
    def text(self) -> str:
        """The text of all text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts, also when it is a plain string."""
        return (TextPart(self.content),) if isinstance(self.content, str) else self.content


class ToolCall(Base):
    """A model's wish to call a tool; `input` is a string only if the model's arguments were not a JSON object."""

    id: str
    name: str
    input: dict[str, Any] | str = msgspec.field(default_factory=dict[str, Any])
    opaque: Opaque | None = None


class ToolCallMessage(Base, tag="tool_call"):
    """One or more tool calls that a model made together."""

    tools: tuple[ToolCall, ...]
    role: Literal["assistant"] = "assistant"
    stop_reason: Literal["tool"] = "tool"

    @property
    def content(self) -> tuple[ToolCall, ...]:
        """The calls, under the name that every message has for what it holds."""
        return self.tools


class ToolResultMessage(Base, tag="tool_result"):
    """The answer to one tool call: `{"data": …}` or `{"error": {"name", "message"}}`."""

    tool: ToolCall
    content: Json
    role: Literal["tool_result"] = "tool_result"
    stop_reason: Literal["tool"] = "tool"

    @property
    def is_error(self) -> bool:
        """Whether the call failed, was denied, or was not run."""
        return isinstance(self.content, dict) and "error" in self.content

    @property
    def data(self) -> Json:
        """What the tool returned; None if it failed."""
        return self.content.get("data") if isinstance(self.content, dict) else self.content


class ReasoningMessage(Base, tag="reasoning"):
    """What a model thought, as far as its provider shows it."""

    content: str = ""
    opaque: Opaque | None = None


Message: TypeAlias = TextMessage | ToolCallMessage | ToolResultMessage | ReasoningMessage


class UserMessage(Base):
    """A user's input with an id of its own and, if wanted, a system prompt for this one turn."""

    content: str | tuple[Part, ...]
    id: str | None = None
    role: Literal["user"] = "user"
    system_prompt: str | None = None
    client_timestamp: str | None = None


Input: TypeAlias = "str | Part | Message | UserMessage | Sequence[str | Part | Message] | None"
"""What a run accepts: text, parts, a message, or several of these."""


def text(value: str) -> TextPart:
    """Make a text part.

    Raises:
        DefinitionError: the value is no text.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"text({value!r}) takes text, not a {type(value).__name__}.")
    return TextPart(value)


def system(content: str) -> TextMessage:
    """Make a system message."""
    return TextMessage("system", content)


def user(content: str | Sequence[str | Part], *, id: str | None = None) -> TextMessage:
    """Make a user's message from text or from parts."""
    if isinstance(content, str):
        return TextMessage("user", content, id=id)
    return TextMessage("user", tuple(TextPart(one) if isinstance(one, str) else one for one in content), id=id)


def assistant(content: str) -> TextMessage:
    """Make an assistant's message."""
    return TextMessage("assistant", content, stop_reason="stop")


def read_input(value: Input) -> tuple[tuple[Message, ...], str | None]:
    """Turn what a run was given into messages.

    Returns:
        The messages, an empty tuple if there is nothing to say; and the system prompt for this turn, if any.

    Raises:
        DefinitionError: the input has another type, or is larger than `MAX_MESSAGE_BYTES`.
    """
    if isinstance(value, str):
        messages: tuple[Message, ...] = (TextMessage("user", value),) if value else ()
        if len(value) > MAX_MESSAGE_BYTES // 4 or not value.isascii():
            _check(messages)
        return messages, None
    prompt: str | None = None
    if value is None:
        messages = ()
    elif isinstance(value, UserMessage):
        content = value.content
        if isinstance(content, Sequence) and not isinstance(content, str):
            content = tuple(TextPart(one) if isinstance(one, str) else one for one in content)
        messages = (TextMessage("user", content, id=value.id),) if content else ()
        prompt = value.system_prompt
    elif isinstance(value, (TextPart, ImagePart, FilePart)):
        messages = (TextMessage("user", (value,)),)
    elif isinstance(value, (TextMessage, ToolCallMessage, ToolResultMessage, ReasoningMessage)):
        messages = (value,)
    elif isinstance(value, Sequence):
        messages = _read_sequence(value)
    else:
        raise DefinitionError(
            f"The input is a {type(value).__name__}; give text, parts from text(), image() or file(), or messages."
        )
    _check(messages)
    return messages, prompt


def _read_sequence(values: Sequence[Any]) -> tuple[Message, ...]:
    messages: list[Message] = []
    parts: list[Part] = []
    for one in values:
        if isinstance(one, str):
            if one:
                parts.append(TextPart(one))
        elif isinstance(one, (TextPart, ImagePart, FilePart)):
            parts.append(one)
        elif isinstance(one, (TextMessage, ToolCallMessage, ToolResultMessage, ReasoningMessage)):
            if parts:
                messages.append(TextMessage("user", tuple(parts)))
                parts = []
            messages.append(one)
        else:
            raise DefinitionError(
                f"The input holds a {type(one).__name__}; give text, parts from text(), image() or file(), or messages."
            )
    if parts:
        messages.append(TextMessage("user", tuple(parts)))
    return tuple(messages)


def _check(messages: tuple[Message, ...]) -> None:
    """Refuse what is too large, and what could be written but not read again."""
    try:
        data = encode_json(messages)
        if len(data) <= MAX_MESSAGE_BYTES:
            _messages_decoder().decode(data)
            return
    except UnicodeEncodeError as error:
        raise DefinitionError(
            f"The input has a character that is no valid text (half of a surrogate pair) at {error.start}; replace it, "
            'such as by text.encode("utf-8", "replace").decode().'
        ) from error
    except (TypeError, ValueError, NotImplementedError, RecursionError, msgspec.MsgspecError) as error:
        raise DefinitionError(f"The input holds a message of a wrong shape: {error}.") from error
    raise DefinitionError(
        f"The input is {len(data) / 1e6:.1f} MB and at most {MAX_MESSAGE_BYTES / 1e6:.1f} MB are accepted; "
        "give large files by address, or in pieces."
    )


def dump_messages(messages: Sequence[Message]) -> bytes:
    """Encode messages as JSON without loss."""
    return encode_json(messages)


@cache
def _messages_decoder() -> msgspec.json.Decoder[tuple[Message, ...]]:
    return msgspec.json.Decoder(tuple[Message, ...])


def load_messages(data: bytes | str | list[Any]) -> tuple[Message, ...]:
    """Read messages from JSON text or plain JSON values.

    Raises:
        msgspec.ValidationError: the data are not messages; the message has the path.
    """
    if isinstance(data, list):
        return msgspec.convert(data, tuple[Message, ...])
    return _messages_decoder().decode(data)


def result_text(content: Any) -> str:
    """Write a tool result's content as the text that a model reads."""
    return content if isinstance(content, str) else encode_json(content).decode()


def parse_arguments(raw: str) -> dict[str, Any] | str:
    """Read a model's tool arguments; what is not a JSON object comes back as the raw string."""
    if not raw.strip():
        return {}
    try:
        value = decode_json(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return raw
    return cast("dict[str, Any]", value) if isinstance(value, dict) else raw
