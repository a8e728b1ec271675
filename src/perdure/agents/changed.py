"""Judges the code that shall go on with a run by what the log has of it: same, compatible or changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from perdure.agents.agent_loop import AgentLoop
from perdure.agents.definition import Definition, NetworkDefinition
from perdure.agents.env import Env, output_of
from perdure.agents.fingerprints import prints_of
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.network_loop import NetworkLoop
from perdure.agents.routing import recall_routing
from perdure.durable.fingerprint import Prints, Verdict, accepted_places, differences, last_prints, part
from perdure.types.errors import PerdureError
from perdure.types.records import Record, RunStarted

if TYPE_CHECKING:
    from perdure.agents.env import RunLoop


def judge_definition(definition: Definition, started: RunStarted) -> str:
    """Say why a definition cannot go on with what a run of its name has; nothing if it can."""
    kind = "network" if isinstance(definition, NetworkDefinition) else "agent"
    if isinstance(definition, FunctionDefinition):
        kind = "function"
    if kind != started.program:
        return f"{started.definition!r} was {_a(started.program)} and is {_a(kind)} now"
    if isinstance(definition, FunctionDefinition):
        try:
            definition.read(started.input)
        except PerdureError as error:
            return f"{definition!r} does not take any more what the run was given: {error}"
    return ""


def compare(env: Env, records: Sequence[Record]) -> Verdict:
    """Compare the prints of a run's code with what the log has."""
    old, new = last_prints(records), prints_of(env.definition, env.fallback)
    found = differences(old, new) if old is not None else ()
    return Verdict(found, (), new if found else None)


async def judge(env: Env, loop: RunLoop, records: Sequence[Record], *, accepts: bool = False) -> Verdict:
    """Judge the code that shall go on with a run; `accepts` says that all of it is accepted."""
    verdict = compare(env, records)
    if not isinstance(loop, NetworkLoop):
        return verdict  # a function's code is judged when it is entered: by the steps that it asks for
    accepted = accepted_places(records)
    needed = [*_agents(env, loop), *_values(env, loop)]
    asking = loop.asking
    if asking is not None and asking.rules.agent not in env.roster.routing and not await recall_routing(env, loop):
        needed.append(f"the router does not ask the routing agent {asking.rules.agent!r} any more, whose turn it is")
    old, new = last_prints(records), prints_of(env.definition, env.fallback)
    turns = [*loop.current, asking] if asking is not None else loop.current
    if not accepts:
        needed += [why for turn in turns for place, why in _calls(turn, old, new) if place not in accepted]
        needed += [why for turn in turns for place, why in _outputs(env, turn) if place not in accepted]
    return verdict._replace(needed=tuple(needed))


def _agents(env: Env, loop: NetworkLoop) -> Iterator[str]:
    """Agents by whom a run goes on, and who are not there."""
    open_turns = [turn.rules.agent for turn in loop.current if turn.args is None and turn.phase != "done"]
    queued = [name for pick in loop.queue if pick.args is None for name in pick.agents]
    for names, what in ((open_turns, "it is in the middle of its turn"), (queued, "it has a turn to come")):
        for name in names:
            if name not in env.roster.agents and (env.network is None or env.network.resolve is None):
                yield f"agent {name!r} is gone, and {what}"


def _values(env: Env, loop: NetworkLoop) -> Iterator[str]:
    """The state, if it does not fit its type."""
    for doc in [loop.doc, *(turn.doc for turn in loop.current if turn.doc is not loop.doc)]:
        try:
            env.kind.load(doc)
        except Exception as error:
            yield f"the state does not fit {env.kind!r} any more: {_said(error)}"
            return


def _calls(turn: AgentLoop, old: Prints | None, new: Prints) -> Iterator[tuple[str, str]]:
    """Calls that are open, and whose tool is not there or does something else when it is repeated."""
    whose = f"{'routing agent' if turn.prefix.startswith('route/') else 'agent'} {turn.rules.agent}"
    for one in turn.calls if turn.phase == "tools" else ():
        before = part(old, whose, f"tool {one.call.name}")
        if one.done is not None or before is None:
            continue
        after = part(new, whose, f"tool {one.call.name}")
        if after is None:
            yield one.key, f"tool {one.call.name!r} of {whose} is gone, and its call {one.key} is open"
        elif after["effect"] != before["effect"]:
            was, now = before["effect"], after["effect"]
            yield one.key, f"tool {one.call.name!r}: effect changed from {was} to {now}, and its call {one.key} is open"


def _outputs(env: Env, turn: AgentLoop) -> Iterator[tuple[str, str]]:
    """An answer that was given, and that does not fit the output type."""
    agent: Any = env.roster.agents.get(turn.rules.agent)
    output = agent.cached("output", lambda: output_of(agent)) if turn.has_output and agent is not None else False
    if not output:
        return
    try:
        output.load(turn.output)
    except Exception as error:
        key = f"{turn.prefix}/infer/{turn.inferences - 1}"
        yield key, f"the answer of {agent!r} at {key} does not fit its output type any more: {_said(error)}"


def _said(error: Exception) -> str:
    from perdure.agents.output import readable  # only here, as few runs have a type for their answers

    return readable(error)


def _a(kind: str) -> str:
    return f"a{'n' if kind == 'agent' else ''} {kind}"
