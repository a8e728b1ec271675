"""State: typed data, messages and results that the agents of one run share.

What user code gets is always a private copy, made at first access; a step's changes are taken from the copy as a patch
when the step ends. Identity (session, user) is a run option and never part of the data.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, cast

import msgspec
from typing_extensions import TypeVar

from perdure.agents.result import AgentResult
from perdure.types.base import Base, plain
from perdure.types.errors import DefinitionError
from perdure.types.ids import check_id
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage

S = TypeVar("S", default=dict[str, Any])
T = TypeVar("T")


class _Stored(Base):
    data: Any
    messages: tuple[Message, ...] = ()
    results: tuple[AgentResult, ...] = ()
    thread_id: str | None = None


class State(Generic[S]):
    """Data, messages and results of a run.

    Args:
        data: any JSON-serialisable object: dataclass, pydantic model, TypedDict, msgspec struct or dict.
        messages: what was said before; given, nothing is loaded from a history.
        results: what agents did before; given, nothing is loaded from a history.
        thread_id: another word for the run's `session_id`.

    Raises:
        DefinitionError: messages or results are of another type.
    """

    __slots__ = ("_data", "_load", "_messages", "_results", "thread_id")

    def __init__(
        self,
        data: S | None = None,
        *,
        messages: Sequence[Message] = (),
        results: Sequence[AgentResult] = (),
        thread_id: str | None = None,
    ) -> None:
        self._data: S = cast("S", {} if data is None else data)
        self._load: Callable[[], S] | None = None
        self._messages: Callable[[], tuple[Message, ...]] | tuple[Message, ...] = tuple(messages)
        self._results: Callable[[], tuple[AgentResult, ...]] | tuple[AgentResult, ...] = tuple(results)
        self.thread_id = thread_id if thread_id is None else check_id(thread_id, "thread_id")
        for one in self._messages:
            if not isinstance(one, (TextMessage, ToolCallMessage, ToolResultMessage, ReasoningMessage)):
                raise DefinitionError(f"State(messages=…) holds a {type(one).__name__}; give messages.")
        for one in self._results:
            if not isinstance(one, AgentResult):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(f"State(results=…) holds a {type(one).__name__}; give AgentResult values.")

    @classmethod
    def lazy(
        cls,
        load: Callable[[], S],
        messages: Callable[[], tuple[Message, ...]] | tuple[Message, ...],
        results: Callable[[], tuple[AgentResult, ...]] | tuple[AgentResult, ...],
        thread_id: str | None,
    ) -> State[S]:
        """Make a state whose parts, where they are functions, are only worked out when they are read."""
        self = cls.__new__(cls)
        self._load = load
        self._messages = messages
        self._results = results
        self.thread_id = thread_id
        return self

    @property
    def data(self) -> S:
        """The typed data; in a step, the step's own copy."""
        if self._load is not None:
            self._data = self._load()
            self._load = None
        return self._data

    @data.setter
    def data(self, value: S) -> None:
        self._data = value
        self._load = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, in order."""
        if callable(self._messages):
            self._messages = self._messages()
        return self._messages

    @property
    def results(self) -> tuple[AgentResult, ...]:
        """What each agent did, in order."""
        if callable(self._results):
            self._results = self._results()
        return self._results

    @property
    def touched(self) -> bool:
        """Whether the data were read or written."""
        return self._load is None

    def clone(self) -> State[S]:
        """Copy the state, deeply."""
        return State(copy.deepcopy(self.data), messages=self.messages, results=self.results, thread_id=self.thread_id)

    def to_json(self) -> dict[str, Any]:
        """Show everything as plain JSON values; `from_json` reads it without loss."""
        stored = _Stored(plain(self.data, "state"), self.messages, self.results, self.thread_id)
        return msgspec.to_builtins(stored)

    @staticmethod
    def from_json(value: dict[str, Any], kind: Callable[[], T]) -> State[T]:
        """Read what `to_json` gave.

        Args:
            value: plain JSON values.
            kind: the type of the data.

        Raises:
            DefinitionError: the value does not have the shape.
        """
        from perdure.agents.state_kind import StateKind

        try:
            stored = msgspec.convert(value, _Stored)
        except msgspec.ValidationError as error:
            raise DefinitionError(f"This is not a stored state: {error}") from error
        data = StateKind.of(kind).load(stored.data)
        return State(data, messages=stored.messages, results=stored.results, thread_id=stored.thread_id)

    def __repr__(self) -> str:
        return f"State({self.data!r}, messages={len(self.messages)}, results={len(self.results)})"
