"""Toolsets: groups of tools that are listed when a run needs them, and thin wrappers around them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from perdure.agents.context import Context
from perdure.agents.hooks import settle
from perdure.agents.runnable import ToolSource
from perdure.agents.tool import Predicate, Tool
from perdure.types.errors import DefinitionError

S_contra = TypeVar("S_contra", contravariant=True, default=Any)
AnyTool: TypeAlias = Tool[..., Any, Any]


class Toolset(ABC, Generic[S_contra]):
    """A group of tools; define `list_tools`, and `acquire` and `release` if something must be opened.

    A run acquires a toolset before it first lists its tools and releases it when the run ends, however it ends.

    Attributes:
        local: whether listing needs nothing but this process, so that it can be done again for a run that is replayed.
    """

    name: str = "toolset"
    local: bool = False

    @abstractmethod
    async def list_tools(self, ctx: Context[Any]) -> Sequence[AnyTool]:
        """Say which tools there are now; called before each inference, so it should be cheap."""

    async def acquire(self) -> None:
        """Open what the tools need; called once per run, possibly by several runs at a time."""

    async def release(self) -> None:
        """Undo one `acquire`."""

    def prefixed(self, prefix: str) -> Toolset[S_contra]:
        """Put a prefix before each tool's name."""
        return _Mapped(self, lambda _ctx, one: one.replace(name=f"{prefix}{one.name}"))

    def filtered(self, keep: Callable[[Context[Any], AnyTool], Any]) -> Toolset[S_contra]:
        """Keep the tools for which a function (sync or async) says so."""

        async def choose(ctx: Context[Any], one: AnyTool) -> AnyTool | None:
            return one if await settle(keep(ctx, one)) else None

        return _Mapped(self, choose)

    def approved(self, when: bool | Predicate = True) -> Toolset[S_contra]:
        """Let a person allow each call, or each for whose arguments a predicate says so."""
        return _Mapped(self, lambda _ctx, one: one.replace(requires_approval=when))

    def prepared(self, prepare: Callable[[Context[Any], AnyTool], Any]) -> Toolset[S_contra]:
        """Change each tool by a function (sync or async) that returns a tool, or None to leave it out."""
        return _Mapped(self, prepare)


class _Mapped(Toolset[Any]):
    def __init__(self, inner: Toolset[Any], change: Callable[[Context[Any], AnyTool], Any]) -> None:
        self.name = inner.name
        self.local = inner.local
        self._inner = inner
        self._change = change

    async def list_tools(self, ctx: Context[Any]) -> Sequence[AnyTool]:
        listed = [await settle(self._change(ctx, one)) for one in await self._inner.list_tools(ctx)]
        return [one for one in listed if one is not None]

    async def acquire(self) -> None:
        await self._inner.acquire()

    async def release(self) -> None:
        await self._inner.release()


class _Static(Toolset[Any]):
    local = True

    def __init__(self, tools: Sequence[AnyTool]) -> None:
        self._tools = tuple(tools)

    async def list_tools(self, ctx: Context[Any]) -> Sequence[AnyTool]:
        return self._tools


def toolset(*tools: Tool[..., Any, S_contra]) -> Toolset[S_contra]:
    """Group tools, so that they can be prefixed, filtered, approved or prepared together.

    Raises:
        DefinitionError: one of them is not a tool.
    """
    for one in tools:
        if not isinstance(one, Tool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"toolset(…) takes tools, not {one!r}; decorate the function with @tool.")
    return _Static(tools)


Offered: TypeAlias = Tool[..., Any, S_contra] | Toolset[S_contra]
ToolLike: TypeAlias = Offered[S_contra] | ToolSource[S_contra]
