"""What was mapped of a conversation once is not mapped again: only what has come since.

A mapping writes turn by turn with a `Writer`, and what it has written is remembered by the very messages it was made
of, one by one and compared by identity. So a message that a hook has changed, a rewind, an erasure or a compaction
finds nothing remembered, and need not be told. Only whole beginnings are kept: all their calls are answered, and
nothing that follows can change how they are written. System prompts in front and tools are never part of it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from copy import copy
from operator import is_
from typing import Any, Self, TypeVar

from perdure.models.turns import Arranged, Turn
from perdure.types.base import encode_json
from perdure.types.messages import Message, TextMessage, ToolResultMessage

LIMIT = 64 * 1024 * 1024
"""How many bytes of conversations a process remembers, counted as their JSON."""

LEAST = 8
"""How many messages are worth remembering."""

GO_ON = "Continue."
"""The user's turn where there is none, where a conversation must begin and end with one."""

_OBJECTS = 500  # bytes of the objects around a message's text


class Writer(ABC):
    """What a provider's conversation is written with; whatever a copy has in common with it is never changed."""

    @abstractmethod
    def turn(self, turn: Turn) -> None:
        """Write the next turn."""

    def copy(self) -> Self:
        """Copy it as it stands, with what it has collected."""
        copied = copy(self)
        for name, value in vars(self).items():
            if hasattr(value, "copy"):
                setattr(copied, name, value.copy())
        return copied


W = TypeVar("W", bound=Writer)


class _Known:
    __slots__ = ("messages", "size", "taken", "writer")

    def __init__(self, writer: Any) -> None:
        self.messages: tuple[Message, ...] = ()
        self.writer = writer
        self.taken: set[str] = set()
        self.size = 0


class Prefixes:
    """The beginnings of conversations as they were mapped; those that were not used for longest go first."""

    def __init__(self, limit: int = LIMIT, least: int = LEAST) -> None:
        self.limit = limit
        self.least = least
        self.size = 0
        self._known: OrderedDict[tuple[Hashable, int, int], _Known] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, messages: tuple[Message, ...], way: Hashable, new: Callable[[], W]) -> W:
        """Write messages, the beginning from memory if it is there; `way` is whatever else decides how it is written.

        Returns:
            A writer of the caller's own.
        """
        known = self._take(messages, way) if len(messages) >= self.least else None
        start = len(known.messages) if known is not None else 0
        fresh = Arranged(messages[start:])
        if not fresh.whole or len(messages) < self.least:
            writer: W = known.writer.copy() if known is not None else new()
            for turn in fresh.turns(set(known.taken) if known is not None else set()):
                writer.turn(turn)
            if known is not None:
                self._put(known, way)
            return writer
        known = known or _Known(new())
        for turn in fresh.turns(known.taken):
            known.writer.turn(turn)
        known.size += sum(len(encode_json(one)) + _OBJECTS for one in messages[start:])
        known.messages = messages
        writer = known.writer.copy()
        self._put(known, way)
        return writer

    def clear(self) -> None:
        """Forget everything, such as what was erased."""
        with self._lock:
            self._known.clear()
            self.size = 0

    def _take(self, messages: tuple[Message, ...], way: Hashable) -> _Known | None:
        """Take out the longest beginning that is known; nobody else has it until it is put back."""
        with self._lock:
            for count in range(len(messages), self.least - 1, -1):
                known = self._known.get((way, id(messages[count - 1]), count))
                if known is None or not all(map(is_, known.messages, messages)):
                    continue
                if count < len(messages) and type(messages[count]) is ToolResultMessage:
                    continue  # it goes into the answer before it
                del self._known[way, id(messages[count - 1]), count]
                self.size -= known.size
                return known
        return None

    def _put(self, known: _Known, way: Hashable) -> None:
        key = (way, id(known.messages[-1]), len(known.messages))
        with self._lock:
            before = self._known.pop(key, None)
            self._known[key] = known
            self.size += known.size - (before.size if before is not None else 0)
            while self.size > self.limit:
                _, oldest = self._known.popitem(last=False)
                self.size -= oldest.size


PREFIXES = Prefixes()


def split(messages: Sequence[Message]) -> tuple[tuple[TextMessage, ...], tuple[Message, ...]]:
    """Part the system messages in front from the conversation."""
    system: list[TextMessage] = []
    for one in messages:
        if not isinstance(one, TextMessage) or one.role != "system":
            break
        system.append(one)
    return tuple(system), tuple(messages[len(system) :])


def write(messages: tuple[Message, ...], way: Hashable, new: Callable[[], W]) -> W:
    """Write messages with what this process remembers; see `Prefixes.write`."""
    return PREFIXES.write(messages, way, new)


def append(messages: list[dict[str, Any]], role: str, field: str, parts: list[dict[str, Any]], go_on: Any) -> None:
    """Add parts to the last message if it is of the same role, else a message; the user begins, with `go_on`."""
    if not parts:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1] = {"role": role, field: [*messages[-1][field], *parts]}
        return
    if not messages and role != "user":
        messages.append({"role": "user", field: [go_on]})
    messages.append({"role": role, field: parts})
