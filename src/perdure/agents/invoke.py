"""Has a definition run as a run of its own, and waits for what it returns.

In a runtime it is detached: any process drives it, and the run that waits for it is a row. The step's place gives its
id, so exactly one run comes of it. In memory it is driven here, like any child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from perdure.agents.budget import UNLIMITED
from perdure.agents.children import drive_child
from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition, NetworkDefinition
from perdure.agents.env import Child, Env
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.loading import load_output, output_of
from perdure.agents.steps import Invocation
from perdure.durable.arguments import arguments_hash
from perdure.durable.endings import describe
from perdure.durable.patience import patiently
from perdure.durable.step import Body
from perdure.types.errors import DefinitionError, InvokeError, InvokeTimeout, OutputInvalid
from perdure.types.ids import derive_id
from perdure.types.records import ChildDone, ErrorInfo, RunFinished
from perdure.types.usage import Usage
from perdure.types.waits import ChildRun, Elapsed, wait_id

_TIMED_OUT = "InvokeTimeout"


async def invoke(env: Env, ctx: Context[Any], body: Body, what: Invocation) -> Any:
    """Run a definition as a step of a body, and give what it returns.

    Raises:
        InvokeError: it failed, was cancelled, or (`InvokeTimeout`) did not end in time.
        DefinitionError: it is no definition, or an option is not for children.
    """
    definition = what.definition
    called = f"ctx.step.invoke({what.id!r})"
    if not isinstance(definition, (AgentDefinition, NetworkDefinition, FunctionDefinition)):
        raise DefinitionError(f"{called} takes a function, an agent or a network, not {definition!r}.")
    for name in ("session_id", "run_id", "session_budget"):
        if what.options.get(name) is not None:
            raise DefinitionError(
                f"{called} takes no {name}: the run has its own session, derived from its parent's place."
            )
    with body.enter(what.id, called) as key:
        child_id = derive_id("run", env.run_id, key)
        arguments = arguments_hash([definition.name, _given(definition, what.data)])
        done = body.done.get(key)
        body.asked.add(wait_id(env.run_id, key))  # also where its end is recorded and is not waited for any more
        if isinstance(done, ChildDone):
            if done.arguments != arguments and key not in body.io.tried.accepted:
                body.differs(key, "was finished with other arguments")
                await body.park(())
        elif env.kernel.peers is not None:
            done = await _elsewhere(env, body, key, child_id, what, arguments)
        else:
            done = await _here(env, ctx, body, key, child_id, what, arguments)
        ctx.children[child_id] = done.usage
        if env.kernel.peers is not None and child_id not in env.charged:
            env.charged |= {child_id}  # once in each process: nobody else tells this ledger
            env.ledger.charge(done.usage)
        try:
            return _outcome(definition, done, what)
        except OutputInvalid as error:
            await body.unfit(key, error)


def _given(definition: Any, data: Any) -> Any:
    return definition.read(data) if isinstance(definition, FunctionDefinition) else data


def _outcome(definition: Any, done: ChildDone, what: Invocation) -> Any:
    """Give what a run returned, or raise how it ended."""
    if done.status == "completed":
        return load_output(definition, done.output)
    about = f"{definition.name!r} (run {done.run_id}), which the step {what.id!r} has invoked,"
    if done.error is not None and done.error.type == _TIMED_OUT:
        raise InvokeTimeout(f"{about} did not end within {what.timeout:g} s and was cancelled.", "", done.run_id)
    if done.error is not None:
        raise InvokeError(f"{about} failed: {done.error.type}: {done.error.message}", done.error.type, done.run_id)
    raise InvokeError(f"{about} was cancelled.", "", done.run_id)


async def _here(
    env: Env, ctx: Context[Any], body: Body, key: str, child_id: str, what: Invocation, arguments: str
) -> ChildDone:
    """Drive it in this process, in memory."""
    options = {
        "resources": env.resources,
        "model": env.model,
        "settings": env.settings,
        **_inherited(env, what.options, child_id),
    }
    try:
        async with asyncio.timeout(what.timeout):
            running, _ = await drive_child(env, ctx, body, key, what.definition, what.data, options)
        finished = running.loop.finished
        assert finished is not None  # one that waits parks the body
        done = _closed(what.definition, child_id, finished, arguments)
    except TimeoutError:
        done = _late(child_id, key, arguments, ctx.children.get(child_id, Usage()))
    await body.io.keep(key, done)
    return done


async def _elsewhere(env: Env, body: Body, key: str, child_id: str, what: Invocation, arguments: str) -> ChildDone:
    """Have it driven by whoever has its definition, and wait for its end."""
    kernel, peers = env.kernel, env.kernel.peers
    assert peers is not None
    mark = wait_id(env.run_id, key)
    env.invoked_any = True
    answer = body.answers.get(mark)
    if answer is None:
        wait = body.waits.get(mark)
        if wait is None:
            peers.check(what.definition)
            options = _inherited(env, what.options, child_id)
            place = (env.ledger, env.run_id, key)
            child: Child = env.doing.launch(env, what.definition, what.data, options, place, env.fallback)
            if env.ledger is not UNLIMITED:
                child.bounded()
            await patiently(kernel.clock, lambda: peers.begin(child))
            expires = None if what.timeout is None else kernel.store_now() + what.timeout
            wait = ChildRun(mark, child_id, what.definition.name, env.run_id, expires)
        await body.park((wait,))
    if isinstance(answer, Elapsed):
        await patiently(kernel.clock, lambda: peers.cancel(child_id))
        done = _late(child_id, key, arguments, Usage())
    else:
        records = await patiently(kernel.clock, lambda: kernel.log.read_run(child_id))
        finished = records[-1].payload if records else None
        if not isinstance(finished, RunFinished):
            finished = RunFinished("failed", "error", error=ErrorInfo("Erased", "what it has returned was erased"))
        done = _closed(what.definition, child_id, finished, arguments)
    await body.io.keep(key, done)
    return done


def _closed(definition: Any, child_id: str, finished: RunFinished, arguments: str) -> ChildDone:
    """The record of a run that has ended."""
    if finished.status != "completed":
        return ChildDone(child_id, finished.status, finished.usage, None, finished.error, arguments)
    try:
        output = output_of(definition, finished)
    except OutputInvalid as error:
        return ChildDone(child_id, "failed", finished.usage, None, describe(error), arguments)
    return ChildDone(child_id, "completed", finished.usage, output, None, arguments)


def _late(child_id: str, key: str, arguments: str, used: Usage) -> ChildDone:
    """The record of a run that did not end in time."""
    return ChildDone(child_id, "cancelled", used, None, ErrorInfo(_TIMED_OUT, "it did not end in time", key), arguments)


def _inherited(env: Env, options: Mapping[str, Any], child_id: str) -> dict[str, Any]:
    user = {"user_id": env.user_id} if env.user_id is not None else {}
    return {**user, **options, "run_id": child_id}
