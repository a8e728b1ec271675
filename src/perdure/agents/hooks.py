"""Hooks: the one place to step into a run.

A hook receives the context and what it is about. It returns nothing, or a changed copy of what it got. Hooks run in the
order runtime, network, agent on the way in, and reversed on the way out. A hook is part of the step it belongs to: it
runs at least once until the step's record exists, and what it changes is in the record.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from perdure.agents.result import AgentResult
from perdure.types.base import Base
from perdure.types.errors import DefinitionError
from perdure.types.messages import (
    Message,
    ReasoningMessage,
    TextMessage,
    ToolCallMessage,
    ToolResultMessage,
    dump_messages,
    load_messages,
)

Hook: TypeAlias = Callable[..., Any | Awaitable[Any]]


class Stop(Base):
    """Returned by `on_start`: do not ask the model; the agent's turn ends here with what it has."""

    reason: str = ""


class Hooks(Base, kw_only=True):
    """Functions, sync or async, that are called as a run goes on; each may return nothing.

    Args:
        on_start: `(ctx, messages)` before each inference; may return other messages, or `Stop(reason)`.
        on_response: `(ctx, result)` after each inference, before its tools; may return another `AgentResult`.
        on_finish: `(ctx, result)` once when the agent's turn ends; may return another `AgentResult`.
        before_tool: `(ctx, call)`; may return a changed `ToolCall`, or a result, which replaces the call.
        after_tool: `(ctx, call, result)`; may return another result.
        on_error: `(ctx, error)` when a step fails.
        on_route: `(ctx, decision)` after a routing decision, a tuple of names; may return another.
    """

    on_start: Hook | None = None
    on_response: Hook | None = None
    on_finish: Hook | None = None
    before_tool: Hook | None = None
    after_tool: Hook | None = None
    on_error: Hook | None = None
    on_route: Hook | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise DefinitionError(f"Hooks({name}=…) is a {type(value).__name__}; give a function.")


HooksLike: TypeAlias = Hooks | Sequence[Hooks]


def read_hooks(value: object, where: str) -> tuple[Hooks, ...]:
    """Turn what a user gave as `hooks=` into a tuple."""
    if isinstance(value, Hooks):
        return (value,)
    if isinstance(value, Iterable):
        given: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
        if all(isinstance(one, Hooks) for one in given):
            return tuple(one for one in given if isinstance(one, Hooks))
    raise DefinitionError(f"{where}: hooks= takes a Hooks value or a sequence of them, not {value!r}.")


def read_messages(answer: object, known: Sequence[Message], hook: str) -> tuple[Message, ...]:
    """Check messages that a hook returned; those that it was given are known to be good."""
    if not isinstance(answer, Sequence) or isinstance(answer, (str, bytes)):
        raise DefinitionError(
            f"The hook {hook} returned {type(answer).__name__}; return messages, Stop(…) from on_start, or nothing."
        )
    messages: tuple[Any, ...] = tuple(answer)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    given = {id(one) for one in known}
    fresh = [one for one in messages if id(one) not in given]
    for one in fresh:
        if not isinstance(one, (TextMessage, ToolCallMessage, ToolResultMessage, ReasoningMessage)):
            raise DefinitionError(f"The hook {hook} returned messages with a {type(one).__name__} among them.")
    try:
        load_messages(dump_messages(fresh))
    except (TypeError, ValueError, NotImplementedError, RecursionError, msgspec.MsgspecError) as error:
        raise DefinitionError(f"The hook {hook} returned messages that cannot be kept: {error}") from error
    return messages


def read_result(answer: object, before: AgentResult, hook: str) -> AgentResult:
    """Check what a hook returned in place of a result; nothing leaves it as it was."""
    if answer is None or answer is before:
        return before
    if not isinstance(answer, AgentResult):
        raise DefinitionError(f"The hook {hook} returned {type(answer).__name__}; return an AgentResult or nothing.")
    read_messages(answer.messages, before.messages, hook)
    return answer


class HookChain:
    """The hooks that apply to one agent, in calling order; what is not hooked costs nothing."""

    __slots__ = ("after_tool", "any", "before_tool", "on_error", "on_finish", "on_response", "on_route", "on_start")

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        back = hooks[::-1]
        self.any = bool(hooks)
        self.on_start = [one.on_start for one in hooks if one.on_start is not None]
        self.before_tool = [one.before_tool for one in hooks if one.before_tool is not None]
        self.on_route = [one.on_route for one in hooks if one.on_route is not None]
        self.on_response = [one.on_response for one in back if one.on_response is not None]
        self.on_finish = [one.on_finish for one in back if one.on_finish is not None]
        self.after_tool = [one.after_tool for one in back if one.after_tool is not None]
        self.on_error = [one.on_error for one in back if one.on_error is not None]


async def settle(value: Any) -> Any:
    """Await a value if it wants to be awaited, so that everything may be sync or async."""
    return await value if inspect.isawaitable(value) else value
