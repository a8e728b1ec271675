"""The network: agents, a router, a state type and a model. Immutable; each run of it is independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, overload

from typing_extensions import TypeVar

from perdure.agents.agent import Agent
from perdure.agents.definition import NetworkDefinition, Resolve
from perdure.agents.doors import Doors
from perdure.agents.hooks import HooksLike
from perdure.models.model import Model

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from perdure.agents.history import HistoryAdapter
    from perdure.agents.routers import Condition, RouterFn
    from perdure.agents.routing_agent import RoutingAgent

S = TypeVar("S", default=Any)
Out = TypeVar("Out", default=Any)
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741  # the output, in signatures only


if TYPE_CHECKING:

    class NetworkOptions(TypedDict, total=False):
        """What may be said of a network, and says nothing of its types; each means what it means in `Network`."""

        description: str
        model: Model | str | None
        hooks: HooksLike
        history: HistoryAdapter | None
        max_iter: int | None
        resolve: Resolve | None


class Network(NetworkDefinition, Doors[Out, S], Generic[S, Out]):
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
        router: RouterFn[dict[str, Any]] | RoutingAgent | None = None,
        stop_when: Condition[dict[str, Any]] | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Network[T, str],
        name: str,
        *,
        agents: Sequence[Agent[Any, T]],
        state: Callable[[], T],
        router: RouterFn[T] | RoutingAgent | None = None,
        stop_when: Condition[T] | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Network[dict[str, Any], O],
        name: str,
        *,
        agents: Sequence[Agent[Any, dict[str, Any]]],
        output_type: type[O],
        router: RouterFn[dict[str, Any]] | RoutingAgent | None = None,
        stop_when: Condition[dict[str, Any]] | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Network[T, O],
        name: str,
        *,
        agents: Sequence[Agent[Any, T]],
        state: Callable[[], T],
        output_type: type[O],
        router: RouterFn[T] | RoutingAgent | None = None,
        stop_when: Condition[T] | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None: ...
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
