"""Who takes part in a run: agents by name, and what the pure loop must know of each.

A roster refers to definitions only, never back to the run that uses it. So one serves every run of a stand-alone agent,
and what a run leaves behind is freed at once instead of waiting for the garbage collector.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from perdure.agents.agent_loop import LoopRules
from perdure.agents.definition import AgentDefinition, Definition, NetworkDefinition, RoutingDefinition
from perdure.agents.hooks import Hooks
from perdure.types.base import encode_json
from perdure.types.errors import DefinitionError, UnknownName


class Roster:
    """The agents of a definition's runs; `max_iter` is what a run's options say for a stand-alone agent."""

    __slots__ = ("_hooks", "_max_iter", "_resolve", "_rules", "agents", "routing")

    def __init__(
        self,
        definition: Definition,
        hooks: Sequence[Hooks] = (),
        max_iter: tuple[int | None, ...] = (),
    ) -> None:
        network = definition if isinstance(definition, NetworkDefinition) else None
        self.agents: dict[str, AgentDefinition] = dict(network.agents) if network is not None else {}
        if isinstance(definition, AgentDefinition):
            self.agents[definition.name] = definition
        self.routing: dict[str, RoutingDefinition] = {}
        self._resolve = network.resolve if network is not None else None
        self._hooks = hooks
        self._max_iter = max_iter if network is None else ()
        self._rules: dict[str, LoopRules] = {}

    def find(self, name: str, args: dict[str, Any] | None = None) -> AgentDefinition:
        """Find an agent by the name in a decision, building it if the network can."""
        if args is None:
            found = self.agents.get(name)
            if found is not None:
                return found
        if self._resolve is not None:
            key = f"{name}:{encode_json(args).decode()}"
            if key not in self.agents:
                built: object = self._resolve(name, args or {})
                if not isinstance(built, AgentDefinition):  # pyright: ignore[reportUnnecessaryIsInstance]
                    if inspect.iscoroutine(built):
                        built.close()
                    raise DefinitionError(
                        f"Network(resolve=…) returned {built!r} for {name!r}; it must return an agent."
                    )
                self.agents[key] = built
            return self.agents[key]
        raise UnknownName("agent", name, list(self.agents))

    def rules(self, name: str, args: dict[str, Any] | None = None) -> LoopRules:
        """What the loop must know of an agent."""
        if args is not None:
            return self._rules_of(self.find(name, args), name)
        found = self._rules.get(name)
        if found is None:
            try:
                found = self._rules[name] = self._rules_of(self.find(name), None)
            except UnknownName:  # it is gone since: what it has said is there all the same
                return LoopRules(name)
        return found

    def routing_rules(self, name: str) -> LoopRules:
        """What the loop must know of a routing agent: it is asked again only while its calls fail."""
        return LoopRules(name, 3, False, once_chosen=True)

    def _rules_of(self, agent: AgentDefinition, name: str | None) -> LoopRules:
        return LoopRules(
            name or agent.name,
            self._max_iter[0] if self._max_iter else agent.max_iter,
            agent.parallel_tools,
            agent.stop_when,
            any(one.on_finish is not None for one in (*self._hooks, *agent.hooks)),
            False,
            agent.output_retries,
        )
