"""A flat list of messages as the turns that providers want: answers together with the results of their calls.

Every call in an answer has exactly one result here, in call order, and every id is unique and short enough for every
provider, whatever a history processor dropped, a user's message came between, or another provider took for an id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from perdure.types.ids import derive_id
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage

Said: TypeAlias = ReasoningMessage | TextMessage | ToolCall

_EVERYWHERE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_NO_RESULT = {"error": {"name": "NoResult", "message": "This call was not answered."}}


class Answer(msgspec.Struct):
    """What a model said in one answer, in order; and one result for each of its calls, in call order."""

    parts: list[Said] = msgspec.field(default_factory=list[Said])
    results: list[ToolResultMessage] = msgspec.field(default_factory=list[ToolResultMessage])

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls of this answer."""
        return [part for part in self.parts if isinstance(part, ToolCall)]

    @property
    def text(self) -> str:
        """What was said beside the calls; separate texts are kept apart by an empty line."""
        texts = [part.text for part in self.parts if isinstance(part, TextMessage)]
        return "\n\n".join(text for text in texts if text)


Turn: TypeAlias = TextMessage | Answer
"""A message of the system or the user, or an answer of the model."""


def turns(messages: Sequence[Message]) -> list[Turn]:
    """Arrange messages as turns; nothing that was said, called or answered is lost."""
    return Arranged(messages).turns(set())


class Arranged:
    """Messages arranged as turns, whose calls are still to be given ids of their own.

    `whole` says that whatever comes next leaves these turns as they are, unless it begins with a result that belongs to
    none of them.
    """

    __slots__ = ("_found", "_turns", "whole")

    def __init__(self, messages: Sequence[Message]) -> None:
        arranged: list[Turn] = []
        waiting: dict[str, list[tuple[Answer, int]]] = {}  # calls without a result yet, by id: where each is
        found: dict[tuple[int, int], ToolResultMessage] = {}  # results, by answer and number of the call in it
        current: Answer | None = None
        ended = False  # the current answer takes nothing more
        unanswered = 0
        for message in messages:
            if isinstance(message, ToolResultMessage):
                places = waiting.get(message.tool.id)
                if places:
                    unanswered -= 1
                else:
                    # Its call was cut off with the older part of a history; the result knows the call.
                    if current is None or not ended:
                        current, ended = _begin(arranged), True
                    places = [(current, len(current.calls))]
                    current.parts.append(message.tool)
                answer, number = places.pop(0)
                found[(id(answer), number)] = message
                ended = ended or answer is current
                continue
            if isinstance(message, TextMessage) and message.role != "assistant":
                arranged.append(message)
                current = None
                continue
            if current is None or ended:
                current, ended = _begin(arranged), False
            if isinstance(message, ToolCallMessage):
                unanswered += len(message.tools)
                for call in message.tools:
                    waiting.setdefault(call.id, []).append((current, len(current.calls)))
                    current.parts.append(call)
            else:
                current.parts.append(message)
                ended = isinstance(message, TextMessage) and message.stop_reason == "stop"
        self._turns = arranged
        self._found = found
        self.whole = unanswered == 0 and (current is None or ended)

    def turns(self, taken: set[str]) -> list[Turn]:
        """Give every call its result, and both an id of their own, none of those that are taken."""
        for answer in self._turns:
            if isinstance(answer, Answer):
                self._close(answer, taken)
        return self._turns

    def _close(self, answer: Answer, taken: set[str]) -> None:
        number = 0
        for place, part in enumerate(answer.parts):
            if not isinstance(part, ToolCall):
                continue
            call = part
            name = _unique(call.id, taken)
            if name != call.id:
                call = msgspec.structs.replace(call, id=name)
                answer.parts[place] = call
            result = self._found.get((id(answer), number))
            content = _NO_RESULT if result is None else result.content
            answer.results.append(
                ToolResultMessage(call, content) if result is None or result.tool is not call else result
            )
            number += 1


def _begin(arranged: list[Turn]) -> Answer:
    answer = Answer()
    arranged.append(answer)
    return answer


def _unique(id: str, taken: set[str]) -> str:
    candidate = id if _EVERYWHERE.match(id) else derive_id("call", id)
    again = 1
    while candidate in taken:
        again += 1
        candidate = derive_id("call", id, str(again))
    taken.add(candidate)
    return candidate
