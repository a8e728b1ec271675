"""Processors that leave something out: they shape what a model sees, and never what is stored.

What is left is always a conversation that every provider takes: a tool call stays with its results, or goes with them.
System messages and the turn that goes on, from the last message of the user's, always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from perdure.agents.hooks import Hooks
from perdure.types.base import encode_json
from perdure.types.errors import DefinitionError
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage

Units: TypeAlias = "list[list[Message]]"
"""Messages, grouped into what must stay together."""


def keep_last(count: int) -> Hooks:
    """Show a model only the last messages of what was said before this turn.

    Args:
        count: how many messages at most; a tool call and its results, which stay together, count each.

    Raises:
        DefinitionError: the count is none.
    """
    _check(count, "keep_last")
    return _processor(lambda units, _rest: _newest(units, count, len))


def fit_tokens(limit: int, count: Callable[[Sequence[Message]], int] | None = None) -> Hooks:
    """Show a model only as much of what was said before this turn as fits a number of tokens, the newest first.

    Args:
        limit: how many tokens the system messages, what is kept and this turn may have; this turn is kept in any case.
        count: counts the tokens of messages; a quarter of the characters of their JSON unless given.

    Raises:
        DefinitionError: the limit is none.
    """
    _check(limit, "fit_tokens")
    counted = count or estimate_tokens

    def choose(units: Units, fixed: Sequence[Message]) -> Units:
        return _newest(units, limit - counted(fixed), counted)

    return _processor(choose)


def drop_tool_chatter(keep_turns: int = 0) -> Hooks:
    """Leave out the tool calls and results of earlier turns, and what was thought there; the texts stay.

    Args:
        keep_turns: how many turns before this one are left as they are.

    Raises:
        DefinitionError: the number is none.
    """
    if keep_turns:
        _check(keep_turns, "drop_tool_chatter")

    def choose(units: Units, _rest: Sequence[Message]) -> Units:
        turns = [n for n, unit in enumerate(units) if _is_user(unit[0])]
        whole = turns[-keep_turns] if 0 < keep_turns <= len(turns) else (0 if keep_turns else len(units))
        return [unit for n, unit in enumerate(units) if n >= whole or isinstance(unit[0], TextMessage)]

    return _processor(choose)


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Guess how many tokens messages have: a quarter of the characters of their JSON."""
    return sum(len(encode_json(one)) for one in messages) // 4


def _check(value: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"{what}({value!r}): give a whole number above 0.")


def _processor(choose: Callable[[Units, Sequence[Message]], Units]) -> Hooks:
    def on_start(_ctx: Any, messages: Sequence[Message]) -> list[Message] | None:
        system = [one for one in messages if _is_system(one)]
        said = [one for one in messages if not _is_system(one)]
        turn = max((n for n, one in enumerate(said) if _is_user(one)), default=0)
        units = units_of(said[:turn])
        kept = choose(units, [*system, *said[turn:]])
        if len(kept) == len(units):
            return None
        return [*system, *(one for unit in kept for one in unit), *said[turn:]]

    return Hooks(on_start=on_start)


def units_of(messages: Sequence[Message]) -> Units:
    """Group messages into what must stay together: a text alone, or thoughts with the tool calls and results behind."""
    units: Units = []
    opened = False
    for one in messages:
        if isinstance(one, ToolResultMessage) and units:
            units[-1].append(one)
            opened = False
        elif isinstance(one, ToolCallMessage) and opened:
            units[-1].append(one)
        else:
            units.append([one])
            opened = False
        opened = opened or isinstance(one, ReasoningMessage)
    return units


def _newest(units: Units, room: int, size: Callable[[Sequence[Message]], int]) -> Units:
    start = len(units)
    while start and (room := room - size(units[start - 1])) >= 0:
        start -= 1
    while start < len(units) and not isinstance(units[start][0], TextMessage):
        start += 1  # what begins with a call has lost the question that it answers
    return units[start:]


def _is_system(one: Message) -> bool:
    return isinstance(one, TextMessage) and one.role == "system"


def _is_user(one: Message) -> bool:
    return isinstance(one, TextMessage) and one.role == "user"
