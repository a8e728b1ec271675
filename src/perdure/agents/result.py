"""What an agent's turn and a whole run leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.types.base import Base, encode_json
from perdure.types.messages import Message, TextMessage, ToolResultMessage
from perdure.types.status import StopReason
from perdure.types.usage import Usage


class AgentResult(Base):
    """One agent's turn: everything that it said, called and was answered, in order.

    `id` is the place of the turn in its run, `created_at` seconds since the epoch.
    """

    agent_name: str
    messages: tuple[Message, ...] = ()
    id: str = ""
    created_at: float = 0.0
    stop_reason: StopReason = "answer"
    usage: Usage = Usage()

    @property
    def output(self) -> list[Message]:
        """What the model said in all inferences of the turn, without the tools' answers."""
        return [one for one in self.messages if not isinstance(one, ToolResultMessage)]

    @property
    def tool_calls(self) -> list[ToolResultMessage]:
        """The results of all tool calls of the turn."""
        return [one for one in self.messages if isinstance(one, ToolResultMessage)]

    @property
    def text(self) -> str:
        """What the model said last as text: the text behind the last tool result, else behind the one before."""
        return final_text(self.messages)

    def export(self) -> dict[str, Any]:
        """Show the result as plain JSON values, with its checksum."""
        return {
            "agent_name": self.agent_name,
            "output": msgspec.to_builtins(self.output),
            "tool_calls": msgspec.to_builtins(self.tool_calls),
            "created_at": datetime.fromtimestamp(self.created_at, UTC).isoformat(),
            "checksum": self.checksum,
        }

    @property
    def checksum(self) -> str:
        """A hash of content and time (UTC, microseconds): equal results have equal checksums on every machine."""
        from hashlib import blake2b

        stamp = datetime.fromtimestamp(self.created_at, UTC).isoformat(timespec="microseconds")
        return blake2b(encode_json(self.messages) + stamp.encode(), digest_size=8).hexdigest()


def final_text(messages: Sequence[Message]) -> str:
    """Find the last answer: the assistant's text behind the last tool result that has text behind it."""
    pieces: list[str] = []
    for one in reversed(messages):
        if isinstance(one, TextMessage):
            if one.role == "assistant":
                pieces.append(one.text)
            elif pieces:
                break
        elif isinstance(one, ToolResultMessage) and pieces:
            break
    return "".join(reversed(pieces))
