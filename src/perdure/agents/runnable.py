"""What the type system is told of definitions: what their output is, and in which state they can work.

These two bases hold nothing. They let the lower files speak of "something that can be run" without knowing agents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

Out_co = TypeVar("Out_co", covariant=True, default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)


class Runnable(Generic[Out_co]):
    """An agent or a network; `Out` is the type of its output."""

    __slots__ = ()


class Worker(Generic[S_contra]):
    """An agent that can take a turn in a network whose state is `S`."""

    __slots__ = ()
    name: str


class ToolSource(ABC, Generic[S_contra]):
    """Something else than a tool that may stand among an agent's tools, because a tool can be made of it."""

    __slots__ = ()

    @abstractmethod
    def as_tool(self) -> Any:
        """Make the tool."""


class AgentView(Protocol):
    """What a step sees of an agent: its name, what it is for, its tools and toolsets."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def tools(self) -> Sequence[Any]: ...
