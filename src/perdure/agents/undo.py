"""Settles a call that was begun before a crash and never ended: it is undone if it can be, and never made again.

The model is told what is known, and decides whether it still wants the call.
"""

from __future__ import annotations

from typing import Any

from perdure.agents.agent_loop import IN_DOUBT, Doubt
from perdure.agents.call_tools import closed_with
from perdure.agents.context import Context
from perdure.agents.env import Env
from perdure.agents.hooks import settle
from perdure.durable.effects import take_back
from perdure.durable.run_io import RunIO
from perdure.durable.threads import in_thread
from perdure.types.records import ToolDone

_UNDONE = "The process died while this tool ran. What it may have done has been undone; call it again if it is wanted."


async def settle_doubt(env: Env, note: Doubt, key: str, io: RunIO) -> ToolDone:
    """Close a call that is in doubt.

    Raises:
        Parked: it cannot be undone.
    """
    plan = env.plan(note.loop)
    call, agent, started = note.open.call, plan.agent.name, note.open.started
    ctx: Context[Any] = Context(env, io, key, note.loop, note.loop.doc, call)
    tools = (await env.toolbox_of_calls(plan, ctx) if plan.dynamic else plan.toolbox).tools
    tool = tools.get(call.name)
    if tool is None or tool.undo is None:
        return closed_with(agent, call, "unknown", IN_DOUBT, "unknown")
    undo, signature = tool.undo, tool.undo_signature
    args: Any = started.args if started is not None and started.args is not None else call.input

    async def take() -> Any:
        bound = signature.bind(args)
        if signature.is_async:
            return await signature.call(undo, ctx, bound)
        return await settle(await in_thread(signature.call, undo, ctx, bound))

    await take_back(io, key, tool.name, take)
    return closed_with(agent, call, "undone", _UNDONE, "error")
