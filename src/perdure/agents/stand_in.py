"""What may stand in for a run's models and tools, so that it can be driven again from what was recorded of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from perdure.agents.context import Context
    from perdure.agents.definition import AgentDefinition
    from perdure.agents.tool import Tool
    from perdure.models.model import Model
    from perdure.types.messages import ToolCall
    from perdure.types.records import ToolDone


class StandIn(Protocol):
    """Stands in for what costs money or has effects; hooks, prompts, checks and routers stay the run's own."""

    def agent(self, agent: AgentDefinition) -> AgentDefinition:
        """What an agent is taken for when its prompts and tools are worked out."""
        ...

    def model(self, agent: AgentDefinition) -> Model | None:
        """The model that answers for an agent; None for the one that would anyway."""
        ...

    async def tool(
        self, key: str, tool: Tool[..., Any, Any], call: ToolCall, args: dict[str, Any], ctx: Context[Any]
    ) -> ToolDone | None:
        """What a tool is taken to have done with arguments as the hooks have left them; None if it is to be called."""
        ...
