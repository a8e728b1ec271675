"""The agents' program: the pure loop, and the one impure door that performs its steps."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.agents.agent_loop import AgentLoop, Call, Doubt, End, Infer
from perdure.agents.call_tools import call_tool
from perdure.agents.context import Context
from perdure.agents.env import Env
from perdure.agents.hooks import HookChain, read_result, settle
from perdure.agents.infer import infer
from perdure.agents.network_loop import NetworkLoop, Route, RunRules
from perdure.agents.result import AgentResult
from perdure.agents.routing import route
from perdure.agents.undo import settle_doubt
from perdure.durable.endings import Left, Parked
from perdure.durable.program import Do, Keep
from perdure.durable.run_io import RunIO
from perdure.types.errors import Conflict
from perdure.types.records import AgentDone, Payload


class AgentsProgram:
    """One run of an agent or a network."""

    __slots__ = ("env", "rules")

    def __init__(self, env: Env, rules: RunRules) -> None:
        self.env = env
        self.rules = rules

    def start(self) -> NetworkLoop:
        """Make the state before any record."""
        return NetworkLoop(self.rules)

    fold = staticmethod(NetworkLoop.fold)
    next = staticmethod(NetworkLoop.next)

    async def perform(self, state: NetworkLoop, do: Do, io: RunIO) -> Payload | Keep:
        """Do one step and return what closes it."""
        env, what = self.env, do.what
        try:
            if type(what) is Infer:
                return await infer(env, what.loop, do.key, io)
            if type(what) is Call:
                return await call_tool(env, what, do.key, io)
            if type(what) is Doubt:
                return await settle_doubt(env, what, do.key, io)
            if type(what) is End:
                return await _end(env, what, do.key, io)
            assert isinstance(what, Route)
            return await route(env, state, what, do.key, io)
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, Left):
            raise
        except Parked as why:
            if env.kernel.durable:
                raise
            error = Conflict(str(why))  # a run in memory has nobody who could look at it and let it go on
            await _tell(env, what, do.key, io, error)
            raise error from why
        except BaseException as error:
            await _tell(env, what, do.key, io, error)
            raise


async def _end(env: Env, what: End, key: str, io: RunIO) -> AgentDone:
    """End an agent's turn with its finish hooks."""
    loop = what.loop
    plan = env.plan(loop)
    ctx: Context[Any] = Context(env, io, key, loop, loop.doc)
    before = AgentResult(
        loop.rules.agent,
        tuple(loop.said),
        f"{env.run_id}/{key}",
        io.kernel.clock.now(),
        what.reason,
        loop.usage,
    )
    result = before
    for hook in plan.chain.on_finish:
        answer = await settle(hook(ctx, result))
        result = read_result(answer, result, "on_finish")
    return AgentDone(
        loop.rules.agent,
        what.reason,
        result.messages if result.messages != before.messages else None,
        loop.has_output,
        loop.output,
        ctx.patch(),
        ctx.take_scheduled(),
        what.detail,
    )


async def _tell(env: Env, what: Any, key: str, io: RunIO, error: BaseException) -> None:
    """Tell the error hooks, and note on the error where it happened."""
    loop = getattr(what, "loop", None)
    where = f"run {env.run_id}, step {key}"
    chain = HookChain(env.hooks)
    if isinstance(loop, AgentLoop):
        agent = env.agent_of(loop)
        where += f", agent {agent.name!r}"
        chain = HookChain((*env.hooks, *agent.hooks))
        if type(what) is Call or type(what) is Doubt:
            where += f", tool {what.open.call.name!r}"
    error.add_note(where)
    if chain.on_error:
        doc = loop.doc if isinstance(loop, AgentLoop) else env.loop.doc if env.loop is not None else None
        ctx: Context[Any] = Context(env, io, key, loop, doc)
        for hook in chain.on_error:
            try:
                await settle(hook(ctx, error))
            except Exception as worse:
                error.add_note(f"the hook on_error raised {type(worse).__name__}: {worse}")
