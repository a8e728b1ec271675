"""What a run starts from, read from what its caller gave: a message for agents and networks, data for functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.agents.definition import Definition, NetworkDefinition
from perdure.agents.env import Env
from perdure.agents.fingerprints import prints_of
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.function_program import FunctionProgram
from perdure.agents.network_loop import RunRules
from perdure.agents.options import NOT_FOR_FUNCTIONS
from perdure.agents.program import AgentsProgram
from perdure.agents.run_options import DICT_KIND, keep_options, read_state
from perdure.agents.state_kind import StateKind
from perdure.durable.kernel import Kernel
from perdure.durable.program import Program
from perdure.types.base import Json
from perdure.types.errors import DefinitionError
from perdure.types.messages import Message, read_input
from perdure.types.records import RunStarted


class Beginning(msgspec.Struct):
    """What a run starts from: state, conversation, earlier results, thread, what was asked."""

    kind: StateKind[Any]
    doc: Json
    history: tuple[Message, ...]
    results: tuple[Any, ...]
    thread_id: str | None
    messages: tuple[Message, ...] = ()
    turn_prompt: str | None = None
    given: Any = None


def read_beginning(definition: Definition, input: Any, options: Mapping[str, Any], *, lasts: bool) -> Beginning:
    """Read and check what a run is given; `lasts` says that a conversation can be continued by its id."""
    if isinstance(definition, FunctionDefinition):
        for name in NOT_FOR_FUNCTIONS:
            if options.get(name) is not None:
                raise DefinitionError(f"{definition!r} takes no {name}=: a function has neither messages nor a state.")
        return Beginning(DICT_KIND, {}, (), (), None, given=definition.read(input))
    messages, turn_prompt = read_input(input)
    if not options and not isinstance(definition, NetworkDefinition):
        return Beginning(DICT_KIND, {}, (), (), None, messages, turn_prompt)
    return Beginning(*read_state(definition, options, lasts=lasts), messages, turn_prompt)


def program_of(definition: Definition, env: Env, beginning: Beginning) -> Program[Any]:
    """Make the program that a definition's runs follow."""
    if isinstance(definition, FunctionDefinition):
        return FunctionProgram(env)
    network, reducers = env.network, beginning.kind.reducers
    if definition.history is not None:
        from perdure.agents.history import rules_of
        from perdure.agents.history_loop import KeptRules
        from perdure.agents.history_program import HistoryProgram

        first, most = (definition.name, None) if network is None else (None, _most(env, network))
        kept = KeptRules(first, most, env.roster, reducers, rules_of(definition.history))
        return HistoryProgram(env, kept, definition.history)
    if network is None:
        return AgentsProgram(env, RunRules(definition.name, None, env.roster, reducers))
    return AgentsProgram(env, RunRules(None, _most(env, network), env.roster, reducers))


def _most(env: Env, network: NetworkDefinition) -> int | None:
    """The most agent turns of a run."""
    return env.options.get("max_iter", network.max_iter)


def first_record(
    definition: Definition,
    env: Env,
    beginning: Beginning,
    parent: tuple[Any, str, str] | None,
    kernel: Kernel | None,
) -> RunStarted:
    """Make the record that a run begins with."""
    options, kind, network = env.options, beginning.kind, env.network is not None
    return RunStarted(
        definition.name,
        "network" if network else "function" if isinstance(definition, FunctionDefinition) else "agent",
        beginning.messages,
        beginning.history,
        beginning.turn_prompt,
        beginning.doc,
        keep_options(options, DICT_KIND if network else kind) if options else {},
        env.user_id,
        parent[1] if parent is not None else None,
        parent[2] if parent is not None else None,
        prints_of(definition, env.fallback) if kernel is not None and kernel.durable else None,
        beginning.given,
    )
