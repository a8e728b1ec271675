"""Child runs: an agent or network run by a tool, kept with the run that started it.

A child has its own session, and an id that follows from its parent and its place, so that entering the tool again
finds the same child. Only its result enters the parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition, NetworkDefinition
from perdure.agents.env import Child, Env
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.outcome import RunResult, raise_for
from perdure.durable.endings import Parked
from perdure.durable.step import Body
from perdure.types.base import encode_json
from perdure.types.errors import DefinitionError
from perdure.types.ids import derive_id
from perdure.types.messages import Input, read_input
from perdure.types.records import ChildDone
from perdure.types.waits import WaitAnswer


async def run_child(
    env: Env, ctx: Context[Any], definition: Any, input: Input, options: Mapping[str, Any]
) -> RunResult[Any, Any]:
    """Run a definition as a child of a run."""
    if not isinstance(definition, (AgentDefinition, NetworkDefinition, FunctionDefinition)):
        raise DefinitionError(f"ctx.run(…) takes an agent, a network or a function, not {definition!r}.")
    for name in ("session_id", "run_id", "session_budget"):
        if options.get(name) is not None:
            raise DefinitionError(
                f"ctx.run(…) takes no {name}: a child run has its own session, derived from its parent's place."
            )
    given = definition.read(input) if isinstance(definition, FunctionDefinition) else read_input(input)[0]
    body = ctx.body
    mark = blake2b(encode_json(given), digest_size=4).hexdigest()
    with body.enter(f"run:{definition.name}:{mark}", f"ctx.run({definition.name!r})") as key:
        done = body.done.get(key)
        inherited = {
            "user_id": env.user_id,
            "resources": env.resources,
            "model": env.model,
            "settings": env.settings,
            **options,
            "run_id": done.run_id if isinstance(done, ChildDone) else derive_id("run", env.run_id, key),
        }
        running, result = await drive_child(env, ctx, body, key, definition, input, inherited)
        if done is None:
            await body.io.keep(key, ChildDone(result.run_id, result.status, result.usage))
        raise_for(result, definition.name, running.cause, running.loop.error)
        return result


def _answers(env: Env, running: Any) -> dict[str, WaitAnswer]:
    """How waits of a child were answered that it still waits for."""
    open = {wait.id for wait in running.waiting.waits} if running.waiting is not None else ()
    known = env.answers()
    return {id: known[id] for id in open if id in known}


async def drive_child(
    env: Env, ctx: Context[Any], body: Body, key: str, definition: Any, input: Any, options: Mapping[str, Any]
) -> tuple[Child, RunResult[Any, Any]]:
    """Drive a child to its end in this process; while it waits, the body of its parent waits with it."""
    child_id: str = options["run_id"]
    running = env.children.get(child_id)
    if running is None:
        place = (env.ledger, env.run_id, key)
        running = cast("Child", env.doing.launch(env, definition, input, options, place, _fallback(env, ctx)))
        running.accepts = body.key in body.io.tried.accepted
        env.children[child_id] = running
        go_on = running.drive()
    else:
        go_on = None
    try:
        result = await go_on if go_on is not None else running.result()
        while given := _answers(env, running):  # waits of the child that were answered, each by this run's log
            result = await running.answer(given)
    except Parked as why:
        raise Parked(f"{why} (in its child run {child_id})") from None
    except asyncio.CancelledError:
        ctx.children[child_id] = running.loop.total_usage  # what was spent until it was cut off
        raise
    if result.status == "waiting":
        await body.park(result.waits)
    ctx.children[child_id] = result.usage
    return running, result


def _fallback(env: Env, ctx: Context[Any]) -> Any:
    """The model of a child that names none: its parent agent's."""
    return env.model_for(cast("AgentDefinition", ctx.agent)) if ctx.call is not None else env.fallback
