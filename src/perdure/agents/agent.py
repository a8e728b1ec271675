"""The agent: a definition of who answers, with what prompt, model, tools and hooks. Immutable and reusable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, overload

from typing_extensions import TypeVar, Unpack

from perdure.agents import doors
from perdure.agents.checks import check_choice, check_limit, check_model, check_name, check_prompt, check_tools
from perdure.agents.context import Context
from perdure.agents.hooks import Hooks, HooksLike, read_hooks
from perdure.agents.options import RunOptions
from perdure.agents.tool import Tool
from perdure.agents.toolsets import ToolLike
from perdure.models.model import Model, ModelSettings
from perdure.types.errors import DefinitionError
from perdure.types.messages import Input

if TYPE_CHECKING:
    from perdure.agents.handle import Run
    from perdure.agents.outcome import RunResult
    from perdure.agents.stream import RunStream

Out_co = TypeVar("Out_co", covariant=True, default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)
O = TypeVar("O")  # noqa: E741  # the output, in signatures only
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
S = TypeVar("S")
Prompt: TypeAlias = str | Callable[[Context[S]], "str | Awaitable[str]"] | None


class Agent(Generic[Out_co, S_contra]):
    """Who answers: a name, a system prompt, a model, tools, an output type, hooks.

    Args:
        name: unique within a network and a runtime.
        system: the system prompt, or a sync or async function of the context that makes it.
        description: what the agent is for; routing agents and `as_tool` show it to a model.
        model: a model, or `"provider:name"`; the run's wins over it, the network's is used without it.
        tools: tools and toolsets.
        tool_choice: `"auto"`, `"any"`, or a tool's name; a forced choice holds for the first inference of a turn.
        output_type: a type, or a tuple of types, that the answer must have; text unless given.
        hooks: one `Hooks` or several.
        settings: parameters of inference.
        prefill: text that each answer starts with, where the provider can do that.
        enabled: whether the agent may be chosen, or a function of the context that says so.
        max_iter: the most inferences of a turn; None for no limit; 0 counts as 1.
        parallel_tools: whether the calls of one answer run at once.
        strict: raise on unknown tools and failing tools, instead of telling the model.
        stop_when: names of tools whose success ends the turn.
        output_retries: how often an answer that does not fit the output type may be corrected.

    Raises:
        DefinitionError: an argument has a wrong type or value.
    """

    __slots__ = (
        "_caches",
        "description",
        "enabled",
        "hooks",
        "max_iter",
        "model",
        "name",
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
    name: str
    description: str
    system: Prompt[Any]
    model: Model | str | None
    tools: tuple[ToolLike[Any], ...]
    tool_choice: str
    output_type: Any
    hooks: tuple[Hooks, ...]
    settings: ModelSettings | None
    prefill: str | None
    enabled: bool | Callable[[Context[Any]], bool | Awaitable[bool]]
    max_iter: int | None
    parallel_tools: bool
    strict: bool
    stop_when: frozenset[str]
    output_retries: int
    _caches: dict[str, Any]

    @overload
    def __init__(
        self: Agent[str, object],
        name: str,
        *,
        system: str | None = None,
        description: str = "",
        model: Model | str | None = None,
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[str, S],
        name: str,
        *,
        system: Prompt[S] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[S]] = (),
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool | Callable[[Context[S]], bool | Awaitable[bool]] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[O, object],
        name: str,
        *,
        output_type: type[O],
        system: str | None = None,
        description: str = "",
        model: Model | str | None = None,
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[O, S],
        name: str,
        *,
        output_type: type[O],
        system: Prompt[S] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[S]] = (),
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool | Callable[[Context[S]], bool | Awaitable[bool]] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[A | B, S],
        name: str,
        *,
        output_type: tuple[type[A], type[B]],
        system: Prompt[S] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[S]] = (),
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool | Callable[[Context[S]], bool | Awaitable[bool]] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[A | B | C, S],
        name: str,
        *,
        output_type: tuple[type[A], type[B], type[C]],
        system: Prompt[S] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[S]] = (),
        tool_choice: str = "auto",
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool | Callable[[Context[S]], bool | Awaitable[bool]] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None: ...
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
        settings: ModelSettings | None = None,
        prefill: str | None = None,
        enabled: bool | Callable[[Context[Any]], bool | Awaitable[bool]] = True,
        max_iter: int | None = 25,
        parallel_tools: bool = True,
        strict: bool = False,
        stop_when: str | Sequence[str] = (),
        output_retries: int = 2,
    ) -> None:
        where = f"Agent({name!r})"
        check_name(name, "Agent")
        put = object.__setattr__
        put(self, "name", name)
        put(self, "system", check_prompt(system, where))
        put(self, "description", description)
        put(self, "model", check_model(model, where))
        put(self, "tools", check_tools(tools, where))
        put(self, "tool_choice", check_choice(tool_choice, self.tools, where))
        put(self, "output_type", output_type)
        put(self, "hooks", read_hooks(hooks, where))
        put(self, "settings", settings)
        put(self, "prefill", prefill)
        put(self, "enabled", enabled)
        put(self, "max_iter", check_limit(max_iter, where))
        put(self, "parallel_tools", parallel_tools)
        put(self, "strict", strict)
        put(self, "stop_when", frozenset((stop_when,) if isinstance(stop_when, str) else stop_when))
        put(self, "output_retries", output_retries)
        put(self, "_caches", {})
        if settings is not None and not isinstance(settings, ModelSettings):
            raise DefinitionError(f"{where}: settings= takes ModelSettings, not {settings!r}.")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Agent({self.name!r}) is immutable; make a changed copy with .replace({name}=…).")

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    def replace(self, **changes: Any) -> Agent[Out_co, S_contra]:
        """Make a copy with some arguments changed; everything else stays."""
        options = {name: getattr(self, name) for name in self.__slots__ if name != "_caches"}
        return Agent(**{**options, **changes})

    def with_model(self, model: Model | str) -> Agent[Out_co, S_contra]:
        """Make a copy with another model; everything else stays."""
        return self.replace(model=model)

    def cached(self, key: str, make: Callable[[], Any]) -> Any:
        """Keep something worked out from this definition with it."""
        found = self._caches.get(key)
        if found is None:
            found = self._caches[key] = make()
        return found

    def as_tool(
        self, *, name: str | None = None, description: str | None = None
    ) -> Tool[[Context[Any], str], Any, object]:
        """Make a tool that runs this agent as a child run and returns its output.

        Args:
            name: the tool's name; made from the agent's unless given.
            description: what a model is told; the agent's description unless given.
        """
        from perdure.agents.children import agent_tool

        return agent_tool(self, name, description)

    # -- doors -------------------------------------------------------------------------------------------------------

    async def run(self: Agent[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunResult[O, S]:
        """Run the agent until it has answered, or waits for somebody outside.

        Raises:
            RunFailed: the run failed; it carries what was reached.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await doors.run(self, input, options)

    def start(self: Agent[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> Run[O, S]:
        """Start a run in the background and return its handle; needs a running event loop."""
        return doors.start(self, input, options)

    def stream(self: Agent[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunStream[O, S]:
        """Run the agent and stream its events; use it with `async with`."""
        return doors.stream(self, input, options)

    def run_sync(self: Agent[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunResult[O, S]:
        """Run the agent from sync code, also inside a notebook."""
        return doors.run_sync(self, input, options)
