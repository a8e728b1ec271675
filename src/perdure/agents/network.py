"""The network: agents, a router, a state type and a model. Immutable; each run of it is independent."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, overload

from typing_extensions import TypeVar, Unpack

from perdure.agents import doors
from perdure.agents.agent import Agent
from perdure.agents.checks import check_limit, check_model, check_name
from perdure.agents.hooks import Hooks, HooksLike, read_hooks
from perdure.agents.options import RunOptions
from perdure.agents.routers import Condition, RouterArgs, RouterFn
from perdure.agents.routing_agent import RoutingAgent
from perdure.agents.state_kind import StateKind
from perdure.agents.tool import Tool
from perdure.models.model import Model
from perdure.types.errors import DefinitionError
from perdure.types.messages import Input

if TYPE_CHECKING:
    from perdure.agents.handle import Run
    from perdure.agents.outcome import RunResult
    from perdure.agents.stream import RunStream

S = TypeVar("S", default=Any)
Out = TypeVar("Out", default=Any)
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741  # the output, in signatures only
Resolve = Callable[[str, dict[str, Any]], Agent[Any, Any]]


class Network(Generic[S, Out]):
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
        max_iter: the most agent turns of a run; None or 0 for no limit.
        resolve: `(name, args) -> Agent` builds agents that a router asks for with `Route(name, args)`.
        stop_when: a condition on `RouterArgs`, sync or async, that ends the run before the router is asked.

    Raises:
        DefinitionError: an argument has a wrong type or value, or an agent's tools want another state.
    """

    __slots__ = (
        "agents",
        "description",
        "hooks",
        "kind",
        "max_iter",
        "model",
        "name",
        "output",
        "output_type",
        "resolve",
        "router",
        "state",
        "stop_when",
    )
    name: str
    agents: dict[str, Agent[Any, S]]
    description: str
    router: RouterFn[S] | RoutingAgent | None
    state: Callable[[], S]
    model: Model | str | None
    output_type: Any
    hooks: tuple[Hooks, ...]
    max_iter: int | None
    resolve: Resolve | None
    stop_when: Condition[S] | None
    kind: StateKind[S]

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
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[RouterArgs[T]], bool | Awaitable[bool]] | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        agents: Sequence[Agent[Any, Any]],
        description: str = "",
        router: Any = None,
        state: Callable[[], Any] = dict,
        model: Model | str | None = None,
        output_type: Any = str,
        hooks: HooksLike = (),
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Any = None,
    ) -> None:
        where = f"Network({name!r})"
        check_name(name, "Network")
        put = object.__setattr__
        put(self, "name", name)
        put(self, "agents", _by_name(agents, where))
        put(self, "description", description)
        put(self, "router", _check_router(router, where))
        put(self, "state", _check_state(state, where))
        put(self, "model", check_model(model, where))
        put(self, "output_type", output_type)
        put(self, "hooks", read_hooks(hooks, where))
        put(self, "max_iter", check_limit(max_iter, where))
        put(self, "resolve", resolve)
        put(self, "stop_when", stop_when)
        put(self, "kind", StateKind.of(state))
        put(self, "output", None)
        if stop_when is not None and not callable(stop_when):
            raise DefinitionError(f"{where}: stop_when= takes a function, not {stop_when!r}.")
        _check_contexts(self.agents.values(), state, where)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Network({self.name!r}) is immutable; make a changed copy with .replace({name}=…).")

    def __repr__(self) -> str:
        return f"Network({self.name!r}, agents={list(self.agents)})"

    def replace(self, **changes: Any) -> Network[S, Out]:
        """Make a copy with some arguments changed; everything else stays."""
        options = {name: getattr(self, name) for name in self.__slots__ if name not in ("kind", "output")}
        options["agents"] = list(self.agents.values())
        return Network(**{**options, **changes})

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


def _by_name(agents: Any, where: str) -> dict[str, Agent[Any, Any]]:
    if isinstance(agents, (str, Agent)) or not isinstance(agents, Sequence) or not agents:
        raise DefinitionError(f"{where}: agents= takes a list of at least one agent, not {agents!r}.")
    found: dict[str, Agent[Any, Any]] = {}
    given: list[Any] = list(agents)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    for one in given:
        if not isinstance(one, Agent):
            raise DefinitionError(f"{where}: agents= holds {one!r}, which is no agent.")
        if one.name in found:
            raise DefinitionError(f"{where}: two agents are named {one.name!r}; rename one of them.")
        found[one.name] = one
    return found


def _check_router(router: Any, where: str) -> Any:
    if router is None or isinstance(router, RoutingAgent) or (callable(router) and not isinstance(router, Tool)):
        return router
    raise DefinitionError(f"{where}: router= takes a function or a RoutingAgent, not {router!r}.")


def _check_state(state: Any, where: str) -> Any:
    if not callable(state):
        raise DefinitionError(
            f"{where}: state= takes a class or a function that makes the data, not {type(state).__name__}; pass "
            "state=lambda: … to start from a prepared value."
        )
    return state


def _check_contexts(agents: Any, state: Any, where: str) -> None:
    """Refuse tools that were written for another state, where their annotations say so."""
    if not isinstance(state, type):
        return
    for agent in agents:
        for one in agent.tools:
            wanted = _context_of(one.fn) if isinstance(one, Tool) else None
            if isinstance(wanted, type) and not issubclass(state, wanted):
                raise DefinitionError(
                    f"{where}: the tool {one.name!r} of agent {agent.name!r} wants Context[{wanted.__name__}], and the "
                    f"network's state is {state.__name__}."
                )


def _context_of(fn: Any) -> Any:
    from perdure.agents.hints import context_argument

    return context_argument(fn)
