"""Routers decide which agent runs next: functions, routing agents, or a mix; and helpers that make common ones.

A router is asked before the first agent and after every turn, and answers with an agent, a name, a `Route`, several of
these, a `parallel(...)` group, a routing agent (which is then asked), or None to end the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from perdure.agents.context import Context, NetworkRun
from perdure.agents.definition import RoutingDefinition
from perdure.agents.hooks import settle
from perdure.agents.result import AgentResult
from perdure.agents.runnable import Worker
from perdure.agents.state import State
from perdure.types.base import Base
from perdure.types.errors import DefinitionError
from perdure.types.messages import TextMessage

S = TypeVar("S", default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)


class Route(Base):
    """A router's wish for an agent by name; with `args` the network's `resolve=` builds it from them.

    Args:
        name: the agent's name.
        args: JSON-serialisable arguments, kept with the decision.
    """

    name: str
    args: dict[str, Any] | None = None


class Parallel(Base, Generic[S_contra]):
    """Several agents that run at once, each on its own copy of the state; made by `parallel(...)`."""

    agents: tuple[Worker[S_contra] | str, ...]


class RouterArgs(Base, Generic[S]):
    """What a router is given.

    `input` is the text of the user's message; `stack` the agents that are queued; `call_count` how many turns this run
    has had; `decisions` how many times the router has answered before; `last_result` the last turn's result, which may
    have come with the state.
    """

    input: str
    user_message: TextMessage | None
    network: NetworkRun[S]
    stack: list[Worker[S]]
    call_count: int
    decisions: int
    last_result: AgentResult | None
    ctx: Context[S]

    @property
    def state(self) -> State[S]:
        """Data, messages and results of the run; changes to the data are kept with the decision."""
        return self.ctx.state


Choice: TypeAlias = Worker[S_contra] | str | Route | Parallel[S_contra]
RouterAnswer: TypeAlias = Choice[S_contra] | RoutingDefinition | Sequence[Choice[S_contra]] | None
RouterFn: TypeAlias = Callable[[RouterArgs[S]], "RouterAnswer[S] | Awaitable[RouterAnswer[S]]"]
Stage: TypeAlias = Worker[S] | Parallel[S] | RoutingDefinition | RouterFn[S]
Condition: TypeAlias = Callable[[RouterArgs[S]], "bool | Awaitable[bool]"]


class StopWhen(Base):
    """A router's answer that ends the run because its condition holds."""


def parallel(*agents: Worker[S] | str) -> Parallel[S]:
    """Let several agents run at once; returned by a router, or a stage of `sequence`.

    Each works on its own copy of the state as it was when the group began; their changes are merged in the order of
    the agents when all are done.

    Raises:
        DefinitionError: fewer than two agents, or one of them twice.
    """
    names = [one if isinstance(one, str) else one.name for one in agents]
    if len(names) < 2 or len(set(names)) != len(names):
        raise DefinitionError(f"parallel(…) takes two or more different agents, not {names!r}.")
    return Parallel(agents)


def sequence(*stages: Stage[S], stop_when: Condition[S] | None = None) -> RouterFn[S]:
    """Make a router that goes through stages one after another and then ends the run.

    Args:
        stages: agents, `parallel(...)` groups, routing agents, or routers such as `branch(...)`, whose answer is taken
            for this stage; None from one of them ends the run.
        stop_when: a condition, sync or async, that ends the run before the next stage.

    Raises:
        DefinitionError: there is no stage.
    """
    if not stages:
        raise DefinitionError("sequence(…) takes at least one stage.")

    async def router(r: RouterArgs[S]) -> Any:
        if stop_when is not None and r.call_count > 0 and await settle(stop_when(r)):
            return StopWhen()
        if r.decisions >= len(stages):
            return None
        stage = stages[r.decisions]
        return await settle(stage(r)) if callable(stage) else stage

    router.__qualname__ = "sequence"
    return router


def branch(
    choose: Callable[[RouterArgs[S]], Any],
    choices: Mapping[Any, Stage[S]],
    default: Stage[S] | None = None,
) -> RouterFn[S]:
    """Make a router that chooses by a key.

    Args:
        choose: says, sync or async, which key holds.
        choices: what each key stands for.
        default: for any other key; None ends the run.

    Raises:
        DefinitionError: there is no function, or no mapping.
    """
    if not callable(choose) or not isinstance(choices, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(
            f"branch({choose!r}, {choices!r}): give a function that says the key, and a mapping from keys to agents."
        )

    async def router(r: RouterArgs[S]) -> Any:
        stage = choices.get(await settle(choose(r)), default)
        return await settle(stage(r)) if callable(stage) else stage

    router.__qualname__ = "branch"
    return router
