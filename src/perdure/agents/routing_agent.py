"""Routing agents: a model decides which agent runs next; and the default one."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition, Prompt, RoutingDefinition
from perdure.agents.hooks import Hook, HooksLike
from perdure.agents.result import AgentResult
from perdure.agents.tool import Tool, tool
from perdure.agents.toolsets import ToolLike
from perdure.models.model import Model, ModelSettings
from perdure.types.errors import DefinitionError, ModelRetry


class RoutingAgent(RoutingDefinition):
    """An agent whose answer is a routing decision; it is not part of the conversation.

    Args:
        name: its name in decisions.
        on_route: `(ctx, result)`, sync or async; turns what the model said into an agent, a name, several, or None.
        system: its system prompt, or a function of the context that makes it.
        description: what it is for.
        model: its model; the run's or network's is used without it.
        tools: tools it may call; one successful call is enough, failed ones are told to it and it is asked again.
        tool_choice: `"any"` if it has tools, else `"auto"`, unless given.
        hooks: as for an agent.
        settings: parameters of inference.

    Raises:
        DefinitionError: an argument has a wrong type or value.
    """

    __slots__ = ()

    def __init__(
        self,
        name: str,
        *,
        on_route: Hook,
        system: Prompt[Any] = None,
        description: str = "",
        model: Model | str | None = None,
        tools: Sequence[ToolLike[Any]] = (),
        tool_choice: str | None = None,
        hooks: HooksLike = (),
        settings: ModelSettings | None = None,
    ) -> None:
        if not callable(on_route):
            raise DefinitionError(f"RoutingAgent({name!r}): on_route= takes a function, not {on_route!r}.")
        self.on_route = on_route
        self.agent = AgentDefinition(
            name,
            system=system,
            description=description,
            model=model,
            tools=tools,
            tool_choice=tool_choice or ("any" if tools else "auto"),
            hooks=hooks,
            settings=settings,
        )

    def with_model(self, model: Model | str) -> RoutingAgent:
        """Make a copy with another model; everything else stays."""
        copy = RoutingAgent.__new__(RoutingAgent)
        copy.on_route = self.on_route
        copy.agent = self.agent.with_model(model)
        return copy

    def __repr__(self) -> str:
        return f"RoutingAgent({self.name!r})"


@tool(effect="pure")
async def select_agent(ctx: Context[Any], name: str, reason: str = "") -> str:
    """Choose the agent that works on the request next.

    Args:
        name: the agent's name, exactly as it is listed
        reason: why it is the right one
    """
    known = [one.name for one in await ctx.available_agents()]
    if name not in known:
        raise ModelRetry(f"There is no agent named {name!r}. Choose one of: {', '.join(known)}.")
    return name


@tool(effect="pure")
def done(summary: str = "") -> str:
    """End the work, because the request has been met.

    Args:
        summary: what was achieved
    """
    return summary or "The request has been met."


async def _prompt(ctx: Context[Any]) -> str:
    listed: list[str] = []
    for agent in await ctx.available_agents():
        tools = "".join(
            f"\n    <tool><name>{_escape(one.name)}</name><description>{_escape(one.description)}</description></tool>"
            for one in agent.tools
            if isinstance(one, Tool)
        )
        listed.append(
            f"  <agent>\n    <name>{_escape(agent.name)}</name>\n"
            f"    <description>{_escape(agent.description)}</description>{tools}\n  </agent>"
        )
    return (
        "You direct a group of agents that work on a user's request together.\n\n<agents>\n"
        + "\n".join(listed)
        + "\n</agents>\n\n"
        "Read the conversation and decide one of two things. If the request has been met, or nothing more can be done "
        "for it, call `done`. Otherwise call `select_agent` with the one agent that should work next. Do not answer "
        "the request yourself, and do not choose an agent whose work is done already."
    )


def _decide(ctx: Context[Any], result: AgentResult) -> str | None:
    for one in result.tool_calls:
        if not one.is_error:
            return str(one.data) if one.tool.name == "select_agent" else None
    return None


_default: RoutingAgent | None = None


def default_routing_agent() -> RoutingAgent:
    """Get the routing agent that a network without a router uses: it lists the agents and chooses one or ends."""
    global _default
    if _default is None:
        _default = RoutingAgent(
            "Default routing agent",
            description="Chooses the agent that works next, or ends the work.",
            system=_prompt,
            tools=[select_agent, done],
            on_route=_decide,
        )
    return _default


def _escape(text: str) -> str:
    return html.escape(text, quote=False)
