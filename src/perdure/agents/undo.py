"""Settles a call that was begun before a crash and never ended: it is undone if it can be, and never made again.

The model is told what is known, and decides whether it still wants the call. With `in_doubt="ask"` a person decides.
"""

from __future__ import annotations

from typing import Any

from perdure.agents.agent_loop import IN_DOUBT, Call, Doubt
from perdure.agents.call_tools import call_tool, closed_with
from perdure.agents.context import Context
from perdure.agents.env import Env
from perdure.agents.hooks import settle
from perdure.durable.effects import take_back
from perdure.durable.people import UNKNOWN
from perdure.durable.program import Keep
from perdure.durable.run_io import RunIO
from perdure.durable.threads import in_thread
from perdure.types.base import encode_json
from perdure.types.messages import ToolResultMessage
from perdure.types.records import ToolDone, WaitOpened
from perdure.types.waits import DOUBT, GIVE_UP, HAPPENED, REPEAT, Answer, Question, wait_id

_UNDONE = "The process died while this tool ran. What it may have done has been undone; call it again if it is wanted."


async def settle_doubt(env: Env, note: Doubt, key: str, io: RunIO) -> ToolDone | Keep:
    """Close a call that is in doubt, or ask a person about it, or make it again if one has said so.

    Raises:
        Parked: it cannot be undone.
    """
    plan = env.plan(note.loop)
    call, agent, started = note.open.call, plan.agent.name, note.open.started
    ctx: Context[Any] = Context(env, io, key, note.loop, note.loop.doc, call)
    tools = (await env.toolbox_of_calls(plan, ctx) if plan.dynamic else plan.toolbox).tools
    tool = tools.get(call.name)
    args: Any = started.args if started is not None and started.args is not None else call.input
    if note.open.waits:
        return await _told(env, note, key, io)
    if tool is not None and tool.in_doubt == "ask":
        return _ask(env, note, key, args)
    if tool is None or tool.undo is None:
        return closed_with(agent, call, "unknown", IN_DOUBT, "unknown")
    undo, signature = tool.undo, tool.undo_signature

    async def take() -> Any:
        bound = signature.bind(args)
        if signature.is_async:
            return await signature.call(undo, ctx, bound)
        return await settle(await in_thread(signature.call, undo, ctx, bound))

    await take_back(io, key, tool.name, take)
    return closed_with(agent, call, "undone", _UNDONE, "error")


def _ask(env: Env, note: Doubt, key: str, args: Any) -> Keep:
    one, agent = note.open, note.loop.rules.agent
    shown = encode_json(args).decode()
    text = f"The process died while {one.call.name} ran with {shown}; {UNKNOWN}"
    place = f"{key}/wait/{one.rounds}"
    question = Question(wait_id(env.run_id, place), text, env.run_id, agent, DOUBT)
    before = one.opened
    patch, scheduled = (before.patch, before.scheduled) if before is not None else (None, ())
    return Keep(place, WaitOpened(agent, (question,), args, patch, scheduled))


async def _told(env: Env, note: Doubt, key: str, io: RunIO) -> ToolDone | Keep:
    """Do with a call in doubt what a person has said."""
    one, agent = note.open, note.loop.rules.agent
    answer = one.answers.get(one.waits[0].id)
    text = answer.text if isinstance(answer, Answer) else GIVE_UP
    if text == REPEAT:
        return await call_tool(env, Call(note.loop, one, one.opened), key, io)
    if text == HAPPENED:
        who = answer.by if isinstance(answer, Answer) and answer.by else "a person"
        said = f"The process died while this tool ran; {who} says that it took effect. Its result is lost."
        return ToolDone(agent, ToolResultMessage(one.call, {"data": said}))
    return closed_with(agent, one.call, "unknown", IN_DOUBT, "unknown")
