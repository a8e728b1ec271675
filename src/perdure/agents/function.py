"""Durable functions: ordinary Python that lives for weeks, started by events, by schedules, or called like an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeAlias, cast, overload

from typing_extensions import TypedDict, TypeVar, Unpack

from perdure.agents import doors
from perdure.agents.context import Context
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.options import FunctionOptions
from perdure.agents.runnable import Runnable, ToolSource
from perdure.agents.tool import Tool, tool_name
from perdure.types.concurrency import Concurrency
from perdure.types.errors import DefinitionError
from perdure.types.sent_event import SentEvent

if TYPE_CHECKING:
    from perdure.agents.handle import Run
    from perdure.agents.outcome import RunResult
    from perdure.agents.stream import RunStream

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
Out_co = TypeVar("Out_co", covariant=True, default=Any)
Given: TypeAlias = Mapping[str, Any] | SentEvent | None
"""What a function's run is given: arguments by name, an event's data, or an event."""
Nothing: TypeAlias = dict[str, Any]


class Function(FunctionDefinition, Runnable[Out_co], ToolSource[object], Generic[P, Out_co]):
    """A durable function; made by `function`, and called like the function it was made of.

    Its steps are done once and kept. It may sleep, wait for events and people, call agents and other functions, and is
    tried again after a failure; after a crash it goes on behind its last finished step.
    """

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[Out_co]:
        """Call the function, exactly as it was written: no run, nothing kept."""
        return self.fn(*args, **kwargs)

    def as_tool(self, *, name: str | None = None, description: str | None = None) -> Tool[..., Any, object]:
        """Make a tool that invokes this function as a run of its own, and returns what it returns.

        Args:
            name: the tool's name; made from the function's unless given.
            description: what a model is told; the docstring's beginning unless given.

        Raises:
            DefinitionError: the function takes an event, which no model can send.
        """
        signature = self.signature
        if signature is None:
            raise DefinitionError(
                f"{self!r} is started by events or a schedule, so it has no arguments that a model could give. Let a "
                "tool send the event with ctx.step.send_event(…), or give the function arguments of its own."
            )

        async def invoke(ctx: Context[Any], **given: Any) -> Any:
            return await ctx.step.invoke(self.name, self, given)

        return Tool(
            invoke,
            name=name or tool_name(self.name),
            description=description or self.description,
            effect="steps",
            parameters=signature.parameters,
        )

    # -- doors -------------------------------------------------------------------------------------------------------

    async def run(self, data: Given = None, **options: Unpack[FunctionOptions]) -> RunResult[Out_co, Nothing]:
        """Run the function in memory until it has returned, or waits for somebody outside; sleeps sleep.

        Args:
            data: its arguments by name; for a function that takes an event, the event or its data.
            options: as for an agent.

        Raises:
            RunFailed: the run failed, also when tried again.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await doors.run(self, data, cast("Mapping[str, Any]", options))

    def start(self, data: Given = None, **options: Unpack[FunctionOptions]) -> Run[Out_co, Nothing]:
        """Start a run in the background and return its handle; needs a running event loop."""
        return doors.start(self, data, cast("Mapping[str, Any]", options))

    def stream(self, data: Given = None, **options: Unpack[FunctionOptions]) -> RunStream[Out_co, Nothing]:
        """Run the function and stream its events; use it with `async with`."""
        return doors.stream(self, data, cast("Mapping[str, Any]", options))

    def run_sync(self, data: Given = None, **options: Unpack[FunctionOptions]) -> RunResult[Out_co, Nothing]:
        """Run the function from sync code, also inside a notebook."""
        return doors.run_sync(self, data, cast("Mapping[str, Any]", options))


class _Options(TypedDict, total=False):
    event: str | None
    cron: str | None
    container: str | Sequence[str] | None
    name: str | None
    retries: int
    concurrency: int | Concurrency | None
    description: str | None


class _Decorator(Protocol):
    """The type of `@function(...)`: infers like `@function`."""

    def __call__(self, fn: Callable[Q, Awaitable[R]], /) -> Function[Q, R]: ...


@overload
def function(fn: Callable[P, Awaitable[R]], /, **options: Unpack[_Options]) -> Function[P, R]: ...
@overload
def function(fn: None = None, /, **options: Unpack[_Options]) -> _Decorator: ...
def function(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a durable function; used as `@function`, `@function(...)` or `function(fn, ...)`.

    Args:
        fn: an `async def`; `Context` is its first parameter if it wants one. With `event` or `cron` it takes a
            `SentEvent` behind it, else arguments of its own, which are checked.
        event: the name of the event that starts it.
        cron: when it is started: five fields, in UTC unless `TZ=Europe/Oslo ` stands before them.
        container: where `cron` starts it: a container, several, or `"*"` for each that the store has then; `default`
            unless given.
        name: unique within a runtime; the function's own unless given.
        retries: how often it is tried again when it has raised, with growing rests in between.
        concurrency: how many of its runs are active at once, in all processes together; a run that waits is not.
        description: what a model is told of it as a tool; the docstring's beginning unless given.

    Raises:
        DefinitionError: an option has a wrong value, or the parameters do not fit.
        MissingExtra: `cron` is given, and the package that reads it is not installed.
    """
    if fn is None:
        return partial(Function[..., Any], **options)
    return Function(fn, **options)
