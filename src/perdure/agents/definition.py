"""What an agent and a network are defined by: checked when they are made, immutable after.

The loops and steps of a run know definitions by these classes; `Agent` and `Network` add the doors for users.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from typing_extensions import TypeVar

from perdure.agents import checks
from perdure.agents.context import Context
from perdure.agents.hooks import Hook, Hooks, read_hooks
from perdure.agents.state_kind import StateKind
from perdure.agents.tool import Tool
from perdure.agents.toolsets import Offered
from perdure.models.model import Model, ModelSettings
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.agents.history import HistoryAdapter

S = TypeVar("S", default=Any)
# The last of each is for lambdas, whose context says nothing about the state; a function's own annotation comes first.
Prompt: TypeAlias = (
    str | Callable[[Context[S]], "str | Awaitable[str]"] | Callable[[Context[Any]], "str | Awaitable[str]"] | None
)
Enabled: TypeAlias = (
    bool | Callable[[Context[S]], "bool | Awaitable[bool]"] | Callable[[Context[Any]], "bool | Awaitable[bool]"]
)
Resolve: TypeAlias = Callable[[str, dict[str, Any]], "AgentDefinition"]
Check: TypeAlias = Callable[[Any, str], Any]
"""Gives an argument as it is kept, or refuses it, given where it stands."""


class Definition:
    """A named value that cannot be changed; what is worked out from it is kept with it."""

    __slots__ = ("_caches", "name")
    OPTIONS: ClassVar[Mapping[str, tuple[Any, Check]]] = {}
    """The arguments besides the name: what each is unless given, and its check."""

    name: str
    output_type: Any
    history: HistoryAdapter | None = None
    _caches: dict[str, Any]

    def __init__(self, name: str, **options: Any) -> None:
        checks.check_name(name, type(self).__name__)
        self.put(name=name, _caches={})
        where = repr(self)
        checks.check_arguments(options, tuple(self.OPTIONS), where)
        self.put(**{one: check(options.get(one, default), where) for one, (default, check) in self.OPTIONS.items()})

    def put(self, **values: Any) -> None:
        """Set fields while the definition is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is immutable; make a changed copy with .replace({name}=…).")

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some arguments changed; everything else stays."""
        options = {name: getattr(self, name) for name in ("name", *self.OPTIONS)}
        return type(self)(**{**options, **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def cached(self, key: str, make: Callable[[], Any]) -> Any:
        """Get something worked out from this definition, working it out at the first time."""
        found = self._caches.get(key)
        if found is None:
            found = self._caches[key] = make()
        return found

    def kept(self, key: str) -> Any:
        """Get what `keep` was given, or None."""
        return self._caches.get(key)

    def keep(self, key: str, value: Any) -> None:
        """Keep something worked out from this definition alone."""
        self._caches[key] = value


_AGENT: Mapping[str, tuple[Any, Check]] = {
    "system": (None, checks.check_prompt),
    "description": ("", checks.of_kind(str, "description")),
    "model": (None, checks.check_model),
    "tools": ((), checks.check_tools),
    "tool_choice": ("auto", checks.of_kind(str, "tool_choice")),
    "output_type": (str, checks.check_output),
    "hooks": ((), read_hooks),
    "history": (None, checks.check_history),
    "settings": (None, checks.check_settings),
    "prefill": (None, checks.check_prefill),
    "enabled": (True, checks.check_enabled),
    "max_iter": (25, checks.check_limit),
    "parallel_tools": (True, checks.of_kind(bool, "parallel_tools")),
    "strict": (False, checks.of_kind(bool, "strict")),
    "stop_when": ((), checks.read_names),
    "output_retries": (2, checks.check_retries),
}


class AgentDefinition(Definition):
    """Everything that an agent is; see `Agent` for what the arguments mean."""

    __slots__ = tuple(_AGENT)
    OPTIONS = _AGENT
    system: Prompt[Any]
    description: str
    model: Model | str | None
    tools: tuple[Offered[Any], ...]
    tool_choice: str
    output_type: Any
    hooks: tuple[Hooks, ...]
    history: HistoryAdapter | None
    settings: ModelSettings | None
    prefill: str | None
    enabled: Enabled[Any]
    max_iter: int | None
    parallel_tools: bool
    strict: bool
    stop_when: frozenset[str]
    output_retries: int

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        checks.check_choice(self.tool_choice, self.tools, repr(self))
        checks.check_stop(self.stop_when, self.tools, repr(self))

    def with_model(self, model: Model | str) -> Self:
        """Make a copy with another model; everything else stays."""
        return self.replace(model=model)


class RoutingDefinition:
    """An agent whose answer is a routing decision; see `RoutingAgent`."""

    __slots__ = ("agent", "on_route")
    agent: AgentDefinition
    on_route: Hook

    @property
    def name(self) -> str:
        """Its name in decisions."""
        return self.agent.name


def _by_name(agents: Any, where: str) -> dict[str, AgentDefinition]:
    if isinstance(agents, (str, AgentDefinition)) or not isinstance(agents, Sequence) or not agents:
        raise DefinitionError(f"{where}: agents= takes a list of at least one agent, not {agents!r}.")
    found: dict[str, AgentDefinition] = {}
    given: list[Any] = list(agents)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    for one in given:
        if not isinstance(one, AgentDefinition):
            raise DefinitionError(f"{where}: agents= holds {one!r}, which is no agent.")
        if one.name in found:
            raise DefinitionError(f"{where}: two agents are named {one.name!r}; rename one of them.")
        found[one.name] = one
    return found


def check_router(router: Any, where: str) -> Any:
    """Refuse what is neither a function nor a routing agent."""
    if router is None or isinstance(router, RoutingDefinition) or (callable(router) and not isinstance(router, Tool)):
        return router
    raise DefinitionError(f"{where}: router= takes a function or a RoutingAgent, not {router!r}.")


_NETWORK: Mapping[str, tuple[Any, Check]] = {
    "agents": ((), _by_name),
    "description": ("", checks.of_kind(str, "description")),
    "router": (None, check_router),
    "state": (dict, checks.check_state),
    "model": (None, checks.check_model),
    "output_type": (str, checks.check_output),
    "hooks": ((), read_hooks),
    "history": (None, checks.check_history),
    "max_iter": (10, checks.check_limit),
    "resolve": (None, checks.of_function("resolve")),
    "stop_when": (None, checks.of_function("stop_when")),
}


class NetworkDefinition(Definition):
    """Everything that a network is; see `Network` for what the arguments mean."""

    __slots__ = ("kind", *_NETWORK)
    OPTIONS = _NETWORK
    agents: dict[str, Any]
    description: str
    router: Any
    state: Callable[[], Any]
    model: Model | str | None
    output_type: Any
    hooks: tuple[Hooks, ...]
    history: HistoryAdapter | None
    max_iter: int | None
    resolve: Resolve | None
    stop_when: Callable[[Any], Any] | None
    kind: StateKind[Any]

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.put(kind=StateKind.of(self.state))
        for agent in self.agents.values():
            checks.check_contexts(agent.name, agent.tools, self.state, repr(self))

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some arguments changed; everything else stays."""
        return super().replace(**{"agents": list(self.agents.values()), **changes})
