"""Performs one tool call, whole: look up, validate, hooks, approval, handler, hooks.

Whatever happens, the call is closed by a result that the model can read: `{"data": …}` or `{"error": {"name",
"message"}}`, never with a stack trace.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from perdure.agents.agent_loop import Call
from perdure.agents.context import Context, Saved
from perdure.agents.env import Env, Plan
from perdure.agents.hooks import settle
from perdure.agents.signature import ArgumentsInvalid
from perdure.agents.tool import Tool
from perdure.durable.endings import Parked
from perdure.durable.limit import TimeLimit
from perdure.durable.people import expiry
from perdure.durable.program import Keep
from perdure.durable.retry import TOOL_BACKOFF
from perdure.durable.run_io import RunIO
from perdure.durable.step import Suspended, changed
from perdure.durable.threads import in_thread
from perdure.types.base import decode_json, encode_json, find_unserialisable, plain, sound
from perdure.types.errors import ModelRetry, NotDone, ToolServerError, UnknownName, Unserialisable
from perdure.types.messages import MAX_MESSAGE_BYTES, ToolCall, ToolResultMessage
from perdure.types.records import Handled, Outcome, Started, ToolDone, WaitOpened
from perdure.types.usage import Usage
from perdure.types.waits import Approval, Wait, wait_id


async def call_tool(env: Env, note: Call, key: str, io: RunIO) -> ToolDone | Keep:
    """Perform one tool call.

    Returns:
        The record that closes the call, or the wait that it opened.

    Raises:
        Exception: what a hook raised; what the tool raised if its agent is strict.
    """
    call, loop = note.open.call, note.loop
    plan = env.plan(loop)
    agent = plan.agent
    if io.projector is not None:
        io.emit(io.projector.begin_tool(key, agent.name, call.name, call.id, call.input))
    ctx: Context[Any] = Context(env, io, key, loop, loop.doc, call)
    if note.again is None:
        over = env.ledger.exceeded(tool=True)
        if over is not None:
            return closed_with(agent.name, call, "budget", over, "not_run")
        env.ledger.charge(Usage(tool_calls=1))
    else:
        ctx.restore(Saved(note.again.patch, note.again.scheduled))
    tools = (await env.toolbox_of_calls(plan, ctx) if plan.dynamic else plan.toolbox).tools
    tool = tools.get(call.name)
    if tool is None:
        if agent.strict:
            raise UnknownName("tool", call.name, list(tools))
        known = ", ".join(tools) or "none"
        return closed_with(agent.name, call, "UnknownTool", f"There is no tool named {call.name!r}. Known: {known}.")
    handling = _Handling(env, plan, tool, ctx, note, key, io)
    try:
        return await handling.perform()
    except Suspended as suspended:
        return handling.wait(suspended.waits)
    except asyncio.CancelledError:
        if not io.interrupted():
            return closed_with(agent.name, call, "CancelledError", "The tool cancelled itself.")
        certain = tool.effect in ("pure", "idempotent") or not handling.entered
        outcome: Outcome = "interrupted" if certain else "unknown"
        return closed_with(agent.name, call, "interrupted", _CUT[outcome], outcome, ctx.child_usage)


_FREE = Usage()
_CUT = {
    "interrupted": "The run was stopped while this tool ran.",
    "unknown": "The run was stopped while this tool ran; whether it took effect is unknown. Check before repeating it.",
}


class _Handling:
    """The way of one call from its arguments to its result."""

    __slots__ = ("args", "before", "bound", "call", "ctx", "entered", "env", "io", "key", "note", "plan", "tool")

    def __init__(
        self,
        env: Env,
        plan: Plan,
        tool: Tool[..., Any, Any],
        ctx: Context[Any],
        note: Call,
        key: str,
        io: RunIO,
    ) -> None:
        self.env = env
        self.plan = plan
        self.tool = tool
        self.ctx = ctx
        self.note = note
        self.key = key
        self.io = io
        self.call = note.open.call
        self.args = note.open.call.input if note.again is None else note.again.args
        self.before = ctx.save()
        self.bound: dict[str, Any] | tuple[Any, ...] = {}
        self.entered = False

    async def perform(self) -> ToolDone | Keep:
        """Go the whole way."""
        tool, call, plan = self.tool, self.call, self.plan
        try:
            bound = self.bound = tool.signature.bind(cast("Any", self.args))
        except ArgumentsInvalid as problem:
            if plan.agent.strict:
                raise
            return self._closed("ArgumentsInvalid", str(problem))
        done: ToolDone | None = None
        if self.note.again is None:
            if plan.chain.before_tool:
                changed, done = await self._before(plan)
                self.before = self.ctx.save()
                if changed is not call:
                    self.args = changed.input
                    try:
                        bound = self.bound = tool.signature.bind(changed.input)
                    except ArgumentsInvalid as problem:
                        return self._closed("ArgumentsInvalid", str(problem))
            if done is None and tool.requires_approval is not False:
                wait = await self._approval()
                if wait is not None:
                    return self.wait((wait,))
        by_hook = done is not None
        if done is None:
            done = await self._run(bound)
        if plan.chain.after_tool:
            done = await self._after(plan, done)
        args = None if self.args == call.input else self._args()
        if by_hook or args is not None:
            done = msgspec.structs.replace(done, args=args, by_hook=by_hook)
        return done

    async def _before(self, plan: Plan) -> tuple[ToolCall, ToolDone | None]:
        call = self.call
        for hook in plan.chain.before_tool:
            try:
                answer = await settle(hook(self.ctx, call))
            except ModelRetry as veto:
                return call, self._closed("denied", str(veto), "denied")
            if isinstance(answer, ToolCall):
                args = plain(answer.input, f"call of {call.name!r}, as the hook before_tool returned it,")
                call = msgspec.structs.replace(call, input=args)
            elif answer is not None:
                return call, self._answered(answer, "before_tool")
        return call, None

    async def _after(self, plan: Plan, before: ToolDone) -> ToolDone:
        done = before
        for hook in plan.chain.after_tool:
            answer = await settle(hook(self.ctx, self.call, done.result))
            if answer is not None:
                done = self._answered(answer, "after_tool")
        patch = self.ctx.patch() if done.outcome == "ok" else None
        handled = None
        if done is not before or patch != before.patch:
            handled = Handled(before.result.content, before.outcome, before.patch)
        return msgspec.structs.replace(done, patch=patch, handled=handled)

    def _answered(self, answer: Any, hook: str) -> ToolDone:
        """Turn what a hook returned into a result."""
        what = f"result of the tool {self.tool.name!r}, as the hook {hook} returned it,"
        if isinstance(answer, ToolResultMessage):
            return self._done(plain(answer.content, what), "error" if answer.is_error else "ok")
        return self._done({"data": plain(answer, what)}, "ok")

    async def _approval(self) -> Approval | None:
        """Say whether a person must be asked, and what; a predicate sees what the handler will get."""
        args, tool = cast("dict[str, Any]", self.args), self.tool
        needed = tool.requires_approval
        if callable(needed):
            named = self.bound if isinstance(self.bound, dict) else args
            needed = await settle(needed(**{**tool.signature.defaults, **named}))
        if not needed:
            return None
        return Approval(
            wait_id(self.env.run_id, self.key),
            tool.name,
            tool.signature.whole(args, self.bound),
            self.env.run_id,
            self.plan.agent.name,
            self.call.id,
            sound(needed) if isinstance(needed, str) else "",
            expiry(self.io.kernel.store_now(), tool.approval_timeout),
        )

    def _args(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.args)

    def wait(self, waits: tuple[Wait, ...]) -> Keep:
        """Let the call wait, and keep what it is entered with again."""
        args = self.tool.signature.whole(self._args(), self.bound)
        opened = WaitOpened(self.plan.agent.name, waits, args, self.before.patch, self.before.scheduled)
        return Keep(f"{self.key}/wait/{self.note.open.rounds}", opened)

    async def _run(self, bound: Any) -> ToolDone:
        """Call the handler, again where its effect allows it, and make of its end a result."""
        tool = self.tool
        self.io.reached[self.key] = None
        if self.env.instead is not None:
            answered = await self.env.instead.tool(self.key, tool, self.call, self._args(), self.ctx)
            if answered is not None:
                return answered
        limit: TimeLimit | None = None
        left_out = ""
        tried = self.io.tried
        attempt = await tried.before(self.key, self.io.kernel.clock) if tried else 0
        while True:
            attempt += 1
            if tool.effect == "once" and self.env.kernel.durable:
                # from here on a crash leaves the outcome in doubt
                await self.io.keep(None, Started(self.key, None if self.args == self.call.input else self._args()))
            await self.io.sure()  # whoever was stopped behind the start's commit must not act beside a successor
            self.entered = True
            try:
                if tool.timeout is None:
                    value = await self._handle(bound)
                else:
                    with (limit := TimeLimit(tool.timeout)):
                        value = await self._handle(bound)
                left_out = self._left_out(attempt)
                if left_out:
                    raise self._changed(left_out, "ended")
                return self._encoded(value)
            except TimeoutError as error:
                self.ctx.restore(self.before)
                if limit is not None and limit.expired:
                    if self._may_repeat(error, attempt) and (tool.signature.is_async or tool.effect == "pure"):
                        await self._wait(error, attempt)
                        continue
                    return self._timed_out()
                failure: Exception = error
            except Exception as error:
                left_out = self._left_out(attempt)
                self.ctx.restore(self.before)
                failure = error
            if self._may_repeat(failure, attempt):
                await self._wait(failure, attempt)
                continue
            if left_out:
                raise self._changed(left_out, f"ended with {type(failure).__name__}: {failure}") from failure
            if self.plan.agent.strict and not isinstance(failure, (ModelRetry, Unserialisable)):
                raise failure
            name = type(failure).__name__
            lost = isinstance(failure, ToolServerError) and not isinstance(failure, NotDone)
            outcome: Outcome = "unknown" if lost and self.tool.effect == "once" else "error"
            return self._closed(name, str(failure) or name, outcome)

    def _left_out(self, attempt: int) -> str:
        """Which steps a body that was entered again has not asked for by its end."""
        again = self.note.again
        if again is None and attempt == 1 and not self.io.tried.before_us:
            return ""
        return self.ctx.left_out(again.waits if again is not None else ())

    def _changed(self, left_out: str, how: str) -> Parked:
        return changed(
            f"the tool {self.tool.name!r} at {self.key} has {how} and did not ask for {left_out}, which it had done, "
            "begun or waited for before",
        )

    async def _handle(self, bound: Any) -> Any:
        witness = self.env.kernel.witness
        if witness is None:
            return await self._enter(bound)
        run_id, tool = self.env.run_id, self.tool
        await witness.entering(run_id, self.key, tool.name, tool.effect, self.ctx.idempotency_key)
        value = await self._enter(bound)
        await witness.left(run_id, self.key)
        return value

    async def _enter(self, bound: Any) -> Any:
        tool = self.tool
        signature = tool.signature
        try:
            if signature.is_async:
                return await signature.call(tool.fn, self.ctx, bound)
            return await settle(await in_thread(signature.call, tool.fn, self.ctx, bound))
        finally:
            self.ctx.check_suspended()  # a body that waits has no end yet, whatever its code makes of being ended

    def _may_repeat(self, error: Exception, attempt: int) -> bool:
        """Whether the declared effect allows another attempt."""
        if attempt > self.tool.retries or isinstance(error, (ModelRetry, Unserialisable)):
            return False
        return self.tool.effect != "once" or isinstance(error, NotDone)

    async def _wait(self, error: Exception, attempt: int) -> None:
        self.entered = not isinstance(error, NotDone)
        await self.io.attempt_failed(self.key, attempt, error, TOOL_BACKOFF.wait(attempt))

    def _timed_out(self) -> ToolDone:
        tool = self.tool
        message = f"The tool did not end within {tool.timeout:g} s."
        if tool.effect == "pure":
            return self._closed("timeout", message, "timeout")
        message += " Whether it took effect is unknown; check before repeating it."
        return self._closed("timeout", message, "unknown")

    def _encoded(self, value: Any) -> ToolDone:
        """Turn what a tool returned into a result; what cannot be kept is an error that says where."""
        if value is None:
            return self._done({"data": f"{self.tool.name} successfully executed"}, "ok")
        if type(value) is str and len(value) < MAX_MESSAGE_BYTES // 4 and sound(value) is value:
            return self._done({"data": value}, "ok")
        try:
            data = encode_json(value)
            if len(data) > MAX_MESSAGE_BYTES:
                return self._closed(
                    "TooLarge",
                    f"The tool returned {len(data) / 1e6:.1f} MB and at most {MAX_MESSAGE_BYTES / 1e6:.1f} MB are "
                    "accepted; ask for less.",
                )
            return self._done({"data": decode_json(data)}, "ok")
        except (TypeError, ValueError, NotImplementedError, RecursionError, OverflowError, msgspec.MsgspecError) as bad:
            where = find_unserialisable(value) or type(value).__qualname__
            raise Unserialisable(f"result of the tool {self.tool.name!r}", where) from bad

    def _done(self, content: Any, outcome: Outcome) -> ToolDone:
        ctx = self.ctx
        return ToolDone(
            self.plan.agent.name,
            ToolResultMessage(self.call, content),
            outcome,
            ctx.patch() if outcome == "ok" else None,
            ctx.take_scheduled() if outcome == "ok" else (),
            self.ctx.child_usage,
        )

    def _closed(self, name: str, message: str, outcome: Outcome = "error") -> ToolDone:
        return closed_with(self.plan.agent.name, self.call, name, message, outcome, self.ctx.child_usage)


def closed_with(
    agent: str, call: ToolCall, name: str, message: str, outcome: Outcome = "error", usage: Usage = _FREE
) -> ToolDone:
    """Close a call with an error that the model can read."""
    content = {"error": {"name": name, "message": sound(message)}}
    return ToolDone(agent, ToolResultMessage(call, content), outcome, usage=usage)
