"""The live side of one run: definitions, resources, hooks and settings, which are never recorded.

Every step is performed in an `Env`. What it works out once per agent and run (model, tools, hooks, prompt) is a `Plan`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from perdure.agents.agent_loop import AgentLoop
from perdure.agents.budget import Ledger
from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition, Definition, NetworkDefinition
from perdure.agents.hooks import HookChain, Hooks, settle
from perdure.agents.roster import Roster
from perdure.agents.stand_in import StandIn
from perdure.agents.state_kind import StateKind
from perdure.agents.steps import Doing
from perdure.agents.tool import Tool
from perdure.agents.toolbox import EMPTY_TOOLBOX, Toolbox, make_toolbox
from perdure.agents.toolsets import Toolset
from perdure.durable.run_io import RunIO
from perdure.durable.step import Body
from perdure.models.model import DEFAULT_SETTINGS, Model, ModelSettings
from perdure.types.errors import DefinitionError, NoModel
from perdure.types.messages import Message, TextMessage, ToolCall

if TYPE_CHECKING:
    from perdure.agents.network_loop import NetworkLoop
    from perdure.agents.outcome import RunResult
    from perdure.agents.output import Output
    from perdure.agents.result import AgentResult
    from perdure.durable.function import FunctionLoop
    from perdure.durable.kernel import Kernel
    from perdure.durable.program import Waiting
    from perdure.types.waits import WaitAnswer

    RunLoop: TypeAlias = NetworkLoop | FunctionLoop


class Plan:
    """What is worked out once per agent and run, or once per agent where the run has no say in it."""

    __slots__ = (
        "agent",
        "chain",
        "dynamic",
        "fixed_prompt",
        "model",
        "output",
        "settings",
        "system",
        "toolbox",
        "via_tool",
    )

    def __init__(self, env: Env, agent: AgentDefinition) -> None:
        self.agent = agent
        self.model = env.model_for(agent)
        self.settings = env.settings_for(agent, self.model)
        self.chain = HookChain((*env.hooks, *agent.hooks)) if env.hooks or agent.hooks else NO_HOOKS
        self.output: Output | None = agent.cached("output", lambda: output_of(agent)) or None
        self.via_tool = False
        if self.output is not None:
            native = self.model.capabilities.structured_output
            self.via_tool = native == "no" or (native == "alone" and bool(agent.tools))
        self.dynamic = any(isinstance(one, Toolset) for one in agent.tools)
        self.toolbox = EMPTY_TOOLBOX
        if not self.dynamic and (agent.tools or self.via_tool):
            self.toolbox = agent.cached(f"toolbox:{self.via_tool}", self._static_toolbox)
        self.system: TextMessage | None = None
        self.fixed_prompt = env.turn_prompt is None and not callable(agent.system)
        if self.fixed_prompt and agent.system:
            self.system = agent.cached("system", lambda: TextMessage("system", agent.system))  # type: ignore[arg-type]

    @property
    def holds_for_all(self) -> bool:
        """Whether all runs that change nothing of the agent share it: a model's name may come to mean another."""
        return not self.dynamic and self.model is self.agent.model

    def _static_toolbox(self) -> Toolbox:
        tools = [one for one in self.agent.tools if isinstance(one, Tool)]
        return make_toolbox(tools, self.agent.name, self.output if self.via_tool else None)


def output_of(agent: AgentDefinition) -> Output | bool:
    """How an agent's structured answers are read; False for text."""
    if agent.output_type is str:
        return False
    from perdure.agents.output import Output

    return Output(agent.output_type)


NO_HOOKS = HookChain(())


class Child(Protocol):
    """A run that a step of this one has started; see `Running`."""

    accepts: bool
    env: Env
    loop: RunLoop
    waiting: Waiting | None

    @property
    def cause(self) -> BaseException | None: ...
    def bounded(self) -> None: ...
    async def drive(self) -> RunResult[Any, Any]: ...
    async def answer(self, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]: ...
    def result(self) -> RunResult[Any, Any]: ...
    def leave(self) -> None: ...
    async def cancel(self) -> None: ...


class Env:
    """Everything live that the steps of one run need."""

    __slots__ = (
        "_acquiring",
        "_plans",
        "acquired",
        "charged",
        "children",
        "definition",
        "doing",
        "fallback",
        "hooks",
        "instead",
        "invoked_any",
        "kernel",
        "kind",
        "ledger",
        "loop",
        "model",
        "network",
        "options",
        "resources",
        "roster",
        "router",
        "run_id",
        "session_id",
        "settings",
        "thread_id",
        "turn_prompt",
        "user_id",
    )

    def __init__(
        self,
        *,
        kernel: Kernel,
        definition: Definition,
        kind: StateKind[Any],
        hooks: tuple[Hooks, ...],
        ledger: Ledger,
        run_id: str,
        session_id: str,
        options: Mapping[str, Any],
        doing: Doing,
    ) -> None:
        self.doing = doing
        self.kernel = kernel
        self.definition = definition
        self.network = definition if isinstance(definition, NetworkDefinition) else None
        self.kind = kind
        self.hooks = hooks
        self.roster = _roster(definition, hooks, options)
        self.ledger = ledger
        self.run_id = run_id
        self.session_id = session_id
        self.options = options
        self.user_id: str | None = None
        self.model: Model | None = None
        self.settings: ModelSettings | None = None
        self.resources: Sequence[Any] = ()
        self.router: Any = None
        if options:
            self.user_id = options.get("user_id")
            self.model = resolve(options["model"]) if "model" in options else None
            self.settings = options.get("settings")
            self.resources = options.get("resources") or ()
            self.router = options.get("router")
        self.thread_id: str | None = None
        self.turn_prompt: str | None = None
        self.fallback: Model | None = None
        self.instead: StandIn | None = None
        self.children: dict[str, Child] = {}
        self.charged: frozenset[str] = frozenset()
        self.invoked_any = False
        self.loop: RunLoop | None = None
        self._plans: dict[str, Plan] = {}
        self.acquired: tuple[Toolset[Any], ...] = ()
        self._acquiring: asyncio.Lock | None = None

    # -- looking up --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The definition's name."""
        return self.definition.name

    @property
    def is_network(self) -> bool:
        """Whether agents can be queued here."""
        return self.network is not None

    @property
    def agents(self) -> dict[str, AgentDefinition]:
        """Who takes part, by name."""
        return self.roster.agents

    def agent_of(self, loop: AgentLoop) -> AgentDefinition:
        """The agent whose turn a loop is."""
        if loop.prefix.startswith("route/"):
            return self.roster.routing[loop.rules.agent].agent
        return self.roster.find(loop.rules.agent, loop.args)

    def plan(self, loop: AgentLoop) -> Plan:
        """What is worked out once for the agent whose turn a loop is."""
        found = self._plans.get(loop.prefix)
        if found is None:
            found = self._plans[loop.prefix] = self._plan_for(self.agent_of(loop))
        return found

    def _plan_for(self, agent: AgentDefinition) -> Plan:
        if self.instead is not None:
            return Plan(self, self.instead.agent(agent))
        if self.model is not None or self.settings is not None or self.hooks or self.turn_prompt is not None:
            return Plan(self, agent)
        found = agent.kept("plan")
        if found is None:
            found = Plan(self, agent)
            if found.holds_for_all:
                agent.keep("plan", found)
        return found

    def model_for(self, agent: AgentDefinition) -> Model:
        """The model that answers for an agent: the run's, its own, the network's."""
        stand_in = self.instead.model(agent) if self.instead is not None else None
        if stand_in is not None:
            return stand_in
        if self.model is not None:
            return self.model
        chosen = agent.model
        if chosen is None and self.network is not None:
            chosen = self.network.model
        model = resolve(chosen) or self.fallback
        if model is None:
            at = f" in network {self.network.name!r}" if self.network is not None else ""
            raise NoModel(
                f"Agent {agent.name!r}{at} has no model. Give one to the run (model=…), to the agent, or to the "
                'network, such as "openai:gpt-5-mini".'
            )
        return model

    def settings_for(self, agent: AgentDefinition, model: Model) -> ModelSettings:
        """The parameters of inference: the run's over the agent's over the model's own."""
        own: ModelSettings = getattr(model, "settings", None) or DEFAULT_SETTINGS
        return own.merged(agent.settings).merged(self.settings)

    def transcript(self) -> Sequence[Message]:
        """The conversation so far, without the turns that are going on."""
        return self.loop.transcript if self.loop is not None else ()

    def results(self) -> Sequence[AgentResult]:
        """What agents have done so far, those given with the state first."""
        return [*self.earlier_results(), *(self.loop.results if self.loop is not None else ())]

    def earlier_results(self) -> Sequence[AgentResult]:
        """What agents had done before this run: as it was given with the state, or by a history."""
        past = getattr(self.loop, "past", ())
        return past or self.options.get("results", ())

    def texts_kept(self) -> Set[str]:
        """The hashes of the texts that the run has kept already."""
        return self.loop.texts if self.loop is not None else frozenset()

    def answers(self) -> Mapping[str, WaitAnswer]:
        """How waits of this run and its children were answered so far."""
        return self.loop.answers if self.loop is not None else {}

    async def available(self, ctx: Context[Any]) -> list[AgentDefinition]:
        """The agents of the network that are enabled now."""
        found: list[AgentDefinition] = []
        for agent in (self.network.agents if self.network is not None else self.roster.agents).values():
            enabled = agent.enabled
            if enabled is True or (callable(enabled) and await settle(enabled(ctx))):
                found.append(agent)
        return found

    # -- tools and their bodies --------------------------------------------------------------------------------------

    async def toolbox(self, plan: Plan, ctx: Context[Any]) -> Toolbox:
        """The tools of an agent now; toolsets are acquired at first use and listed each time."""
        if not plan.dynamic:
            return plan.toolbox
        listed: list[Tool[..., Any, Any]] = []
        for one in plan.agent.tools:
            if isinstance(one, Toolset):
                await self._hold(one)
                listed += await one.list_tools(ctx)
            else:
                listed.append(one)
        plan.toolbox = make_toolbox(listed, plan.agent.name, plan.output if plan.via_tool else None)
        return plan.toolbox

    async def toolbox_of_calls(self, plan: Plan, ctx: Context[Any]) -> Toolbox:
        """The tools that the model was offered when it made its calls, held again if the run has waited since."""
        if plan.toolbox is EMPTY_TOOLBOX:
            return await self.toolbox(plan, ctx)
        for one in plan.agent.tools:
            if isinstance(one, Toolset):
                await self._hold(one)
        return plan.toolbox

    async def _hold(self, one: Toolset[Any]) -> None:
        """Acquire a toolset once, also if agents that run at once all want it."""
        if one in self.acquired:
            return
        if self._acquiring is None:
            self._acquiring = asyncio.Lock()
        async with self._acquiring:
            if one not in self.acquired:
                await one.acquire()
                self.acquired += (one,)

    async def release(self) -> None:
        """Give back what the run has acquired: all of it, also if one of them fails or the task is cancelled."""
        try:
            while self.acquired:
                *rest, last = self.acquired
                self.acquired = tuple(rest)
                await last.release()
        finally:
            if self.acquired:
                await self.release()

    def body(self, io: RunIO | None, key: str, call: ToolCall | None) -> Body:
        """Open the body of a tool, for its inner steps.

        Raises:
            DefinitionError: there is no run to keep steps in, or this is not a tool.
        """
        if io is None or self.loop is None:
            raise DefinitionError("Steps need a run: this context was made for testing a tool alone.")
        name = call.name if call is not None else key
        effect = "steps"
        if call is None and not isinstance(self.definition, (AgentDefinition, NetworkDefinition)):
            name = self.definition.name
        if call is not None:
            plan = self._plans.get(key.partition("/infer/")[0])
            tool = plan.toolbox.tools.get(name) if plan is not None else None
            effect = tool.effect if tool is not None else "once"
        return Body(io, key, effect, self.loop.steps, self.loop.answers, self.loop.waits, name)


def _roster(definition: Definition, hooks: tuple[Hooks, ...], options: Mapping[str, Any]) -> Roster:
    """Who takes part: one roster for all runs of an agent that say nothing about it, else one of the run's own."""
    if isinstance(definition, NetworkDefinition) or hooks or "max_iter" in options:
        return Roster(definition, hooks, (options["max_iter"],) if "max_iter" in options else ())
    roster: Roster | None = definition.kept("roster")
    if roster is None:
        roster = Roster(definition)
        definition.keep("roster", roster)
    return roster


def resolve(model: Model | str | None) -> Model | None:
    """Turn `"provider:name"` into a model."""
    if not isinstance(model, str):
        return model
    from perdure.models.resolve import resolve_model

    return resolve_model(model)
