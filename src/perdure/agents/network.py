"""The network: agents, a router, a state type and a model. Immutable; each run of it is independent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, overload

from typing_extensions import TypeVar, Unpack

from perdure.agents import doors
from perdure.agents.agent import Agent
from perdure.agents.checks import check_arguments
from perdure.agents.definition import NetworkDefinition, Resolve
from perdure.agents.history import HistoryAdapter
from perdure.agents.hooks import HooksLike
from perdure.agents.options import RunOptions
from perdure.agents.routers import RouterArgs, RouterFn
from perdure.agents.routing_agent import RoutingAgent
from perdure.agents.runnable import Runnable
from perdure.models.model import Model
from perdure.types.messages import Input

if TYPE_CHECKING:
    from perdure.agents.handle import Run
    from perdure.agents.outcome import RunResult
    from perdure.agents.stream import RunStream

S = TypeVar("S", default=Any)
Out = TypeVar("Out", default=Any)
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741  # the output, in signatures only


class Network(NetworkDefinition, Runnable[Out], Generic[S, Out]):
    """Several agents that work on one request together.

    Args:
        name: unique within a runtime.
        agents: who may work; their names must differ.
        description: what the network is for.
        router: a function of `RouterArgs`, sync or async, or a `RoutingAgent`; without one the default routing agent
            decides, by the network's model.
        state: the type of the shared data, or a function that makes them; called once per run.
        model: the model of agents that have none, and of the default routing agent.
        output_type: what the last agent's output is read as; text unless given.
        hooks: one `Hooks` or several; they apply to every agent.
        history: keeps the conversation elsewhere.
        max_iter: the most agent turns of a run; None or 0 for no limit.
        resolve: `(name, args) -> Agent` builds agents that a router asks for with `Route(name, args)`.
        stop_when: a condition on `RouterArgs`, sync or async, that ends the run before the router is asked.

    Raises:
        DefinitionError: an argument has a wrong type or value, or an agent's tools want another state.
    """

    __slots__ = ()
    if TYPE_CHECKING:
        agents: dict[str, Agent[Any, S]]

    @overload
    def __init__(
        self: Network[dict[str, Any], str],
        name: str,
        *,
        agents: Sequence[Agent[Any, dict[str, Any]]],
        description: str = "",
        router: RouterFn[dict[str, Any]] | RoutingAgent | None = None,
        model: Model | str | None = None,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[RouterArgs[dict[str, Any]]], bool | Awaitable[bool]] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Network[T, str],
        name: str,
        *,
        agents: Sequence[Agent[Any, T]],
        state: Callable[[], T],
        description: str = "",
        router: RouterFn[T] | RoutingAgent | None = None,
        model: Model | str | None = None,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[RouterArgs[T]], bool | Awaitable[bool]] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Network[dict[str, Any], O],
        name: str,
        *,
        agents: Sequence[Agent[Any, dict[str, Any]]],
        output_type: type[O],
        description: str = "",
        router: RouterFn[dict[str, Any]] | RoutingAgent | None = None,
        model: Model | str | None = None,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[RouterArgs[dict[str, Any]]], bool | Awaitable[bool]] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Network[T, O],
        name: str,
        *,
        agents: Sequence[Agent[Any, T]],
        state: Callable[[], T],
        output_type: type[O],
        description: str = "",
        router: RouterFn[T] | RoutingAgent | None = None,
        model: Model | str | None = None,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[RouterArgs[T]], bool | Awaitable[bool]] | None = None,
    ) -> None: ...
    def __init__(self, name: str, **options: Any) -> None:
        known = [one for one in NetworkDefinition.__slots__ if one != "kind"]
        check_arguments(options, known, f"Network({name!r})")
        super().__init__(name, **options)

    # -- doors -------------------------------------------------------------------------------------------------------

    async def run(self: Network[T, O], input: Input = None, **options: Unpack[RunOptions[T]]) -> RunResult[O, T]:
        """Run the network until its router ends it, or it waits for somebody outside.

        Raises:
            RunFailed: the run failed; it carries what was reached.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await doors.run(self, input, options)

    def start(self: Network[T, O], input: Input = None, **options: Unpack[RunOptions[T]]) -> Run[O, T]:
        """Start a run in the background and return its handle; needs a running event loop."""
        return doors.start(self, input, options)

    def stream(self: Network[T, O], input: Input = None, **options: Unpack[RunOptions[T]]) -> RunStream[O, T]:
        """Run the network and stream its events; use it with `async with`."""
        return doors.stream(self, input, options)

    def run_sync(self: Network[T, O], input: Input = None, **options: Unpack[RunOptions[T]]) -> RunResult[O, T]:
        """Run the network from sync code, also inside a notebook."""
        return doors.run_sync(self, input, options)
