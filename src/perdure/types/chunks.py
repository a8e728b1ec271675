"""What a model streams: the pieces of one answer, in the order in which the provider sends them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from perdure.types.base import Base
from perdure.types.messages import Opaque
from perdure.types.usage import Usage

FinishReason: TypeAlias = Literal["stop", "tool", "max_tokens", "refused"]


class TextChunk(Base, tag="text"):
    """A piece of text; a chunk with another `block` number belongs to another text of the same answer."""

    text: str
    block: int = 0
    opaque: Opaque | None = None


class ReasoningChunk(Base, tag="reasoning"):
    """A piece of a thought; `opaque` (a signature, an encrypted thought) may come last, with empty text."""

    text: str = ""
    block: int = 0
    opaque: Opaque | None = None


class ToolCallChunk(Base, tag="tool_call"):
    """A piece of a tool call: the first of a `block` has the name and id, later ones more of the arguments' JSON."""

    block: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""
    opaque: Opaque | None = None


class Restarted(Base, tag="restarted"):
    """What was streamed before is void: the model, or another one, begins the answer anew.

    `failed` is the model, as `provider:name`, that another one stands in for.
    """

    reason: str = ""
    provider: str = ""
    model: str = ""
    failed: str = ""


class Used(Base, tag="used"):
    """What the answer has used so far, as the provider says it before the end: it counts if there is no end."""

    usage: Usage = Usage()


class Finished(Base, tag="finished"):
    """The end of the answer; always the last piece."""

    reason: FinishReason = "stop"
    usage: Usage = Usage()
    model: str = ""
    provider: str = ""
    response_id: str = ""


ModelEvent: TypeAlias = TextChunk | ReasoningChunk | ToolCallChunk | Restarted | Used | Finished
