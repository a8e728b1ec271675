"""The agent: a definition of who answers, with what prompt, model, tools and hooks. Immutable and reusable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, overload

from typing_extensions import TypeVar

from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition, Enabled, Prompt
from perdure.agents.doors import Doors
from perdure.agents.hooks import HooksLike
from perdure.agents.runnable import Worker
from perdure.agents.tool import Tool, tool_name
from perdure.agents.toolsets import ToolLike
from perdure.models.model import Model, ModelSettings
from perdure.types.base import plain

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from perdure.agents.history import HistoryAdapter

Out_co = TypeVar("Out_co", covariant=True, default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)
O = TypeVar("O")  # noqa: E741  # the output, in signatures only
S = TypeVar("S")


if TYPE_CHECKING:

    class AgentOptions(TypedDict, total=False):
        """What may be said of an agent, and says nothing of its types; each means what it means in `Agent`."""

        description: str
        model: Model | str | None
        tool_choice: str
        hooks: HooksLike
        history: HistoryAdapter | None
        settings: ModelSettings | None
        prefill: str | None
        max_iter: int | None
        parallel_tools: bool
        strict: bool
        stop_when: str | Sequence[str]
        output_retries: int


class Agent(AgentDefinition, Doors[Out_co, S_contra], Worker[S_contra], Generic[Out_co, S_contra]):
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
        history: keeps the conversation elsewhere, when the agent is run alone.
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

    __slots__ = ()

    @overload
    def __init__(
        self: Agent[str, object],
        name: str,
        *,
        system: str | None = None,
        enabled: bool = True,
        **options: Unpack[AgentOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[str, S],
        name: str,
        *,
        system: Prompt[S] = None,
        tools: Sequence[ToolLike[S]] = (),
        enabled: Enabled[S] = True,
        **options: Unpack[AgentOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[O, object],
        name: str,
        *,
        output_type: type[O] | tuple[type[O], ...],
        system: str | None = None,
        enabled: bool = True,
        **options: Unpack[AgentOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[O, S],
        name: str,
        *,
        output_type: type[O] | tuple[type[O], ...],
        system: Prompt[S] = None,
        tools: Sequence[ToolLike[S]] = (),
        enabled: Enabled[S] = True,
        **options: Unpack[AgentOptions],
    ) -> None: ...
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)

    def as_tool(
        self, *, name: str | None = None, description: str | None = None
    ) -> Tool[[Context[Any], str], Any, object]:
        """Make a tool that runs this agent as a child run and returns its output.

        Args:
            name: the tool's name; made from the agent's unless given.
            description: what a model is told; the agent's description unless given.
        """

        async def ask(ctx: Context[Any], request: str) -> Any:
            result = await ctx.run(self, request)
            return plain(result.output, "output")

        ask.__doc__ = f"Ask {self.name}.\n\nArgs:\n    request: what it shall do, with everything it must know"
        said = description or self.description or f"Ask {self.name}."
        return Tool(ask, name=name or tool_name(self.name), description=said, effect="steps")
