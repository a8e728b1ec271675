"""Pure fold: the pieces that a model streams become the messages that it said."""

from __future__ import annotations

from perdure.types.base import sound
from perdure.types.chunks import (
    Finished,
    FinishReason,
    ModelEvent,
    ReasoningChunk,
    Restarted,
    TextChunk,
    ToolCallChunk,
    Used,
)
from perdure.types.errors import DefinitionError
from perdure.types.messages import (
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    parse_arguments,
)
from perdure.types.usage import Usage


class _Block:
    """One text, thought or tool call while it grows."""

    __slots__ = ("id", "kind", "name", "opaque", "own_id", "pieces")

    def __init__(self, kind: type, name: str = "", id: str = "") -> None:
        self.kind = kind
        self.name = name
        self.id = id
        self.own_id = ""
        self.pieces: list[str] = []
        self.opaque: Opaque | None = None


class Assembler:
    """Collects the pieces of one answer.

    Blocks keep the order in which they began; neighbouring tool calls become one message. A call without an id, or
    with one that another call of the answer has, gets `call_<n>` made unique, because results are matched by id.

    Attributes:
        finished: the last piece, once it has come.
        has_calls: whether the answer so far has a tool call.
        told: what it has used so far, if the provider has said that before its end.
    """

    __slots__ = ("_blocks", "finished", "has_calls", "told")

    def __init__(self) -> None:
        self._blocks: dict[tuple[type, int], _Block] = {}
        self.finished: Finished | None = None
        self.has_calls = False
        self.told: Usage | None = None

    def add(self, piece: ModelEvent) -> None:
        """Take the next piece."""
        kind = type(piece)
        if kind is TextChunk or kind is ReasoningChunk:
            block = self._block(kind, piece.block)  # type: ignore[union-attr]  # the two kinds have it
            if piece.text:  # type: ignore[union-attr]
                block.pieces.append(piece.text)  # type: ignore[union-attr]
            if piece.opaque is not None:  # type: ignore[union-attr]
                block.opaque = piece.opaque  # type: ignore[union-attr]
        elif type(piece) is ToolCallChunk:
            self.has_calls = True
            block = self._block(kind, piece.block)
            block.name = block.name or piece.name
            block.id = block.id or piece.id
            if piece.arguments:
                block.pieces.append(piece.arguments)
            if piece.opaque is not None:
                block.opaque = piece.opaque
        elif type(piece) is Finished:
            self.finished = piece
        elif type(piece) is Restarted:
            self._blocks = {}
            self.finished = self.told = None
            self.has_calls = False
        elif type(piece) is Used:
            self.told = piece.usage
        else:
            raise DefinitionError(
                f"A model streamed a {kind.__name__}; it must stream TextChunk, ReasoningChunk, ToolCallChunk, "
                "Restarted or Used, and Finished at the end."
            )

    def _block(self, kind: type, number: int) -> _Block:
        block = self._blocks.get((kind, number))
        if block is None:
            block = self._blocks[(kind, number)] = _Block(kind)
        return block

    def call_id(self, number: int) -> str:
        """Say which id a call that has begun gets; from now on it is settled."""
        block = self._block(ToolCallChunk, number)
        if not block.own_id:
            block.own_id = _unique(block.id, {one.own_id for one in self._blocks.values() if one.own_id})
        return block.own_id

    @property
    def used(self) -> Usage | None:
        """What the answer has used, as far as the provider has said it."""
        return self.finished.usage if self.finished is not None else self.told

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join("".join(block.pieces) for block in self._blocks.values() if block.kind is TextChunk)

    def messages(self) -> tuple[Message, ...]:
        """Say what the model said, as messages in order."""
        calls_follow = self.has_calls
        said: list[Message] = []
        calls: list[ToolCall] = []
        ids = {block.own_id for block in self._blocks.values() if block.own_id}
        for block in self._blocks.values():
            body = sound("".join(block.pieces))
            if block.kind is ToolCallChunk:
                id = block.own_id or _unique(block.id, ids)
                calls.append(ToolCall(id, block.name, parse_arguments(body), block.opaque))
                continue
            if calls:
                said.append(ToolCallMessage(tuple(calls)))
                calls = []
            if block.kind is ReasoningChunk:
                if body or block.opaque is not None:
                    said.append(ReasoningMessage(body, block.opaque))
            elif body or block.opaque is not None:
                said.append(
                    TextMessage("assistant", body, stop_reason="tool" if calls_follow else "stop", opaque=block.opaque)
                )
        if calls:
            said.append(ToolCallMessage(tuple(calls)))
        return tuple(said)

    def without_calls(self) -> tuple[Message, ...]:
        """Say what was said so far without its unfinished tool calls, for an answer that was cut off."""
        return tuple(one for one in self.messages() if not isinstance(one, ToolCallMessage))

    @property
    def finish(self) -> FinishReason:
        """Why the answer ended; a tool call counts as `tool` whatever the provider said."""
        reason: FinishReason = self.finished.reason if self.finished is not None else "stop"
        return "tool" if self.has_calls and reason == "stop" else reason


def _unique(id: str, taken: set[str]) -> str:
    candidate = id or f"call_{len(taken)}"
    number = len(taken)
    while candidate in taken:
        number += 1
        candidate = f"{id or 'call'}_{number}"
    taken.add(candidate)
    return candidate
