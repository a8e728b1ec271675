"""Conversations that are kept elsewhere: what an adapter may do, what it is told, and how it is asked.

An adapter overrides the methods that it needs, sync or async; each call of one is a step of the run. The thread's id is
the run's session id. What agents have done is given as `AgentResult`, what a user has said as `Asked`.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from perdure.agents.result import AgentResult
from perdure.types.base import Base
from perdure.types.errors import DefinitionError, HistoryError, HistoryUnavailable
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage

if TYPE_CHECKING:
    from perdure.agents.state import State


def said_text(messages: Sequence[Message]) -> str:
    """What a user has said, as text."""
    return "\n".join(one.text for one in messages if isinstance(one, TextMessage) and one.role == "user")


class Asked(Base):
    """What a user said to begin a run; `id` is the message's own, or follows from run and text, so that a repetition
    has the same one. `created_at` is in seconds since the epoch."""

    id: str
    messages: tuple[Message, ...]
    created_at: float

    @property
    def content(self) -> str:
        """The text of it."""
        return said_text(self.messages)


Past: TypeAlias = AgentResult | Asked | Message
"""What a history is made of."""


class HistoryContext(Base):
    """What an adapter is told with each call.

    Attributes:
        thread_id: the conversation; empty while it is created.
        input: what the user has said, as text.
        state: the run's state; a copy of it, so that changing it changes nothing.
        definition: the name of the agent or network.
        run_id: the run.
        user_id: whom it serves, if that was said.
        user_message: what the user has said, where it is to be stored; None if nothing was said, or it is stored.
        new_results: what agents have done since the last call, in `append_results`.
    """

    thread_id: str
    input: str
    state: State[Any]
    definition: str
    run_id: str
    user_id: str | None
    user_message: Asked | None = None
    new_results: tuple[AgentResult, ...] = ()


class HistoryAdapter:
    """Keeps conversations elsewhere: override what you need, as sync or async methods.

    Sync methods are called in a thread. A call that raises, or takes longer than `timeout` seconds, fails the run with
    a `HistoryError`; before the first model call nothing was paid by then. After a crash a call may be repeated with
    the same ids, so an adapter that stores should pass over what it has.
    """

    timeout: float = 30.0

    def create_thread(self, ctx: HistoryContext) -> Awaitable[str] | str:
        """Make a conversation, because the run names none, and give its id."""
        raise NotImplementedError

    def ensure_thread(self, ctx: HistoryContext) -> Awaitable[None] | None:
        """See that the conversation `ctx.thread_id`, which this adapter has not created, exists."""
        raise NotImplementedError

    def get(self, ctx: HistoryContext) -> Awaitable[Sequence[Past]] | Sequence[Past]:
        """Give what was said in `ctx.thread_id`, in order; what has the id of `ctx.user_message` is left out."""
        raise NotImplementedError

    def append_user_message(self, ctx: HistoryContext) -> Awaitable[None] | None:
        """Store `ctx.user_message`, before any model is asked."""
        raise NotImplementedError

    def append_results(self, ctx: HistoryContext) -> Awaitable[None] | None:
        """Store `ctx.new_results`, after each turn; also `ctx.user_message`, if there is no `append_user_message`."""
        raise NotImplementedError


METHODS = ("create_thread", "ensure_thread", "get", "append_user_message", "append_results")


def rules_of(adapter: HistoryAdapter) -> frozenset[str]:
    """Say which methods an adapter overrides."""
    kind = type(adapter)
    return frozenset(name for name in METHODS if getattr(kind, name) is not getattr(HistoryAdapter, name))


def check_adapter(history: Any, where: str) -> HistoryAdapter:
    """Refuse what is no adapter, and one that does nothing."""
    if not isinstance(history, HistoryAdapter):
        made = " (give an instance)" if isinstance(history, type) and issubclass(history, HistoryAdapter) else ""
        raise DefinitionError(f"{where}: history= takes a HistoryAdapter, not {history!r}{made}.")
    if not rules_of(history):
        raise DefinitionError(f"{where}: history={history!r} overrides none of {', '.join(METHODS)}.")
    timeout: Any = history.timeout
    if type(timeout) not in (int, float) or not timeout > 0:
        raise DefinitionError(f"{where}: {type(history).__name__}.timeout={timeout!r} must be seconds, above 0.")
    return history


async def ask(adapter: HistoryAdapter, method: str, ctx: HistoryContext) -> Any:
    """Call one method of an adapter."""
    import asyncio
    from inspect import isawaitable, iscoroutinefunction

    from perdure.durable.threads import in_thread

    call = getattr(adapter, method)
    thread = f" for thread {ctx.thread_id!r}" if ctx.thread_id else ""
    what = f"The history adapter {type(adapter).__name__} of {ctx.definition!r} failed in {method}(){thread}"
    limit = asyncio.timeout(adapter.timeout)
    try:
        async with limit:
            answer = call(ctx) if iscoroutinefunction(call) else await in_thread(call, ctx)
            return await answer if isawaitable(answer) else answer
    except TimeoutError as error:
        if not limit.expired():
            raise HistoryUnavailable(f"{what}: {error or 'timed out'}") from error
        raise HistoryUnavailable(
            f"{what}: no answer within {adapter.timeout:g} s. Look at its store, or raise its timeout."
        ) from error
    except HistoryError as error:
        error.add_note(f"in {type(adapter).__name__}.{method}(){thread}, run {ctx.run_id}")
        raise
    except Exception as error:
        raise HistoryError(f"{what}: {type(error).__name__}: {error}") from error


def read_thread_id(adapter: HistoryAdapter, given: Any) -> str:
    """Check what `create_thread` gave."""
    from perdure.types.errors import InvalidId
    from perdure.types.ids import check_id

    if isinstance(given, Mapping):
        given = cast("Mapping[str, Any]", given).get("thread_id")
    try:
        return check_id(given, "the thread id")
    except InvalidId as error:
        raise HistoryError(f"{type(adapter).__name__}.create_thread() gave no thread id: {error}") from error


def read_past(adapter: HistoryAdapter, given: Any) -> list[Past]:
    """Check what `get` gave."""
    if given is None:
        return []
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise HistoryError(f"{type(adapter).__name__}.get() gave {type(given).__name__}; give a list of results.")
    past: list[Past] = []
    for one in cast("Sequence[Any]", given):
        if not isinstance(one, (AgentResult, Asked, *_MESSAGES)):
            raise HistoryError(
                f"{type(adapter).__name__}.get() gave a list that holds a {type(one).__name__}; give AgentResult, "
                "Asked or messages."
            )
        past.append(one)
    return past


_MESSAGES = (TextMessage, ToolCallMessage, ToolResultMessage, ReasoningMessage)
