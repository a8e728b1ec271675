"""What an agent and a network are defined by: checked when they are made, immutable after.

The loops and steps of a run know definitions by these classes; `Agent` and `Network` add the doors for users.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias

from typing_extensions import TypeVar

from perdure.agents.checks import (
    check_choice,
    check_contexts,
    check_count,
    check_enabled,
    check_kind,
    check_limit,
    check_model,
    check_name,
    check_output,
    check_prompt,
    check_settings,
    check_state,
    check_stop,
    check_tools,
)
from perdure.agents.context import Context
from perdure.agents.history import HistoryAdapter, check_history
from perdure.agents.hooks import Hook, Hooks, HooksLike, read_hooks
from perdure.agents.state_kind import StateKind
from perdure.agents.tool import Tool
from perdure.agents.toolsets import Offered, ToolLike
from perdure.models.model import Model, ModelSettings
from perdure.types.errors import DefinitionError

S = TypeVar("S", default=Any)
# The last of each is for lambdas, whose context says nothing about the state; a function's own annotation comes first.
Prompt: TypeAlias = (
    str | Callable[[Context[S]], "str | Awaitable[str]"] | Callable[[Context[Any]], "str | Awaitable[str]"] | None
)
Enabled: TypeAlias = (
    bool | Callable[[Context[S]], "bool | Awaitable[bool]"] | Callable[[Context[Any]], "bool | Awaitable[bool]"]
)
Resolve: TypeAlias = Callable[[str, dict[str, Any]], "AgentDefinition"]


class Definition:
    """A named value that cannot be changed; what is worked out from it is kept with it."""

    __slots__ = ("_caches", "name")
    name: str
    output_type: Any
    history: HistoryAdapter | None = None
    _caches: dict[str, Any]

    def __init__(self, name: str, what: str) -> None:
        check_name(name, what)
        self.put(name=name, _caches={})

    def put(self, **values: Any) -> None:
        """Set fields while the definition is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r} is immutable; make a changed copy with .replace({name}=…).")

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


class AgentDefinition(Definition):
    """Everything that an agent is; see `Agent` for what the arguments mean."""

    __slots__ = (
        "description",
        "enabled",
        "history",
        "hooks",
        "max_iter",
        "model",
        "output_retries",
        "output_type",
        "parallel_tools",
        "prefill",
        "settings",
        "stop_when",
        "strict",
        "system",
        "tool_choice",
        "tools",
    )
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

    def __init__(
        self,
        name: str,
        *,
        system: Prompt[Any] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[Any]] = (),
        tool_choice: str = "auto",
        output_type: Any = str,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: Enabled[Any] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] | frozenset[str] = (),
        output_retries: int = 2,
    ) -> None:
        super().__init__(name, type(self).__name__)
        where = repr(self)
        checked = check_tools(tools, where)
        self.put(
            system=check_prompt(system, where),
            description=check_kind(description, str, "description", where),
            model=check_model(model, where),
            tools=checked,
            tool_choice=check_choice(tool_choice, checked, where),
            output_type=check_output(output_type, where),
            hooks=read_hooks(hooks, where),
            history=check_history(history, where),
            settings=check_settings(settings, where),
            prefill=prefill if prefill is None else check_kind(prefill, str, "prefill", where),
            enabled=check_enabled(enabled, where),
            max_iter=check_limit(max_iter, where),
            parallel_tools=check_kind(parallel_tools, bool, "parallel_tools", where),
            strict=check_kind(strict, bool, "strict", where),
            stop_when=check_stop(stop_when, checked, where),
            output_retries=check_count(output_retries, "output_retries", where),
        )

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some arguments changed; everything else stays."""
        options = {name: getattr(self, name) for name in ("name", *AgentDefinition.__slots__)}
        return type(self)(**{**options, **changes})

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


class NetworkDefinition(Definition):
    """Everything that a network is; see `Network` for what the arguments mean."""

    __slots__ = (
        "agents",
        "description",
        "history",
        "hooks",
        "kind",
        "max_iter",
        "model",
        "output_type",
        "resolve",
        "router",
        "state",
        "stop_when",
    )
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

    def __init__(
        self,
        name: str,
        *,
        agents: Sequence[AgentDefinition],
        description: str = "",
        router: Any = None,
        state: Callable[[], Any] = dict,
        model: Model | str | None = None,
        output_type: Any = str,
        hooks: HooksLike = (),
        history: HistoryAdapter | None = None,
        max_iter: int | None = 10,
        resolve: Resolve | None = None,
        stop_when: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(name, type(self).__name__)
        where = repr(self)
        for option, value in (("resolve", resolve), ("stop_when", stop_when)):
            if value is not None and not callable(value):
                raise DefinitionError(f"{where}: {option}= takes a function, not {value!r}.")
        by_name = _by_name(agents, where)
        self.put(
            agents=by_name,
            description=check_kind(description, str, "description", where),
            router=check_router(router, where),
            state=check_state(state, where),
            model=check_model(model, where),
            output_type=check_output(output_type, where),
            hooks=read_hooks(hooks, where),
            history=check_history(history, where),
            max_iter=check_limit(max_iter, where),
            resolve=resolve,
            stop_when=stop_when,
            kind=StateKind.of(state),
        )
        for agent in by_name.values():
            check_contexts(agent.name, agent.tools, state, where)

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some arguments changed; everything else stays."""
        options = {name: getattr(self, name) for name in ("name", *NetworkDefinition.__slots__) if name != "kind"}
        options["agents"] = list(self.agents.values())
        return type(self)(**{**options, **changes})


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
