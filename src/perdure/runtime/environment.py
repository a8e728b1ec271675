"""Environments: where an image's answers come from if not from an agent of ours.

An environment is a receptor, which emits what it perceives, and an effector, which is told what to do, on a bus of
their own that no subscriber of the runtime sees. The runtime asks by `user_message` and `interrupt`; the environment
answers by stream events, `tool_result`s of tools that it runs itself, and `error_received`. What it says is kept like
any model's answer: each message is an inference and each of its tool calls a step of a durable run.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from perdure.agents.context import Context
from perdure.agents.tool import Tool, tool
from perdure.agents.toolsets import AnyTool, Toolset
from perdure.models.model import Capabilities, ModelRequest
from perdure.runtime.bus import Bus, Consumer, Producer
from perdure.runtime.messages import user_message
from perdure.types.base import Base
from perdure.types.chunks import Finished, FinishReason, ModelEvent, TextChunk, ToolCallChunk, Used
from perdure.types.envelope import EventContext, SystemEvent
from perdure.types.errors import BadResponse, ModelError, ModelRetry
from perdure.types.ids import new_id
from perdure.types.messages import TextMessage, ToolResultMessage
from perdure.types.usage import Usage

GRACE = 5.0
"""How many seconds an interrupted environment has to say that it has stopped."""
PARTING = 0.5
"""How many seconds each has at the end: what warms up, what lets go, and what does not heed that it was cancelled."""

_STOPS: dict[str, FinishReason] = {"max_tokens": "max_tokens", "tool_use": "tool"}
_log = logging.getLogger("perdure")


class Receptor(Protocol):
    """What an environment perceives: it emits events."""

    def connect(self, producer: Producer, /) -> None:
        """Take the way by which events are emitted."""
        ...


class Effector(Protocol):
    """What an environment does: it is told by events."""

    def connect(self, consumer: Consumer, /) -> None:
        """Take the way by which it is told; subscribe to `user_message` and `interrupt`."""
        ...


class EnvironmentConfig(Base):
    """What an environment is made with.

    `resume_session_id` is what an earlier environment of the image gave to `on_session_id_captured`.
    """

    agent_id: str
    system_prompt: str | None = None
    model: str | None = None
    cwd: Path | None = None
    resume_session_id: str | None = None
    mcp_servers: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    on_session_id_captured: Callable[[str], None] | None = None


@runtime_checkable
class Environment(Protocol):
    """The world outside, as one live agent meets it.

    It may also have `async def warmup(self)`, which is called once it is connected.
    """

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def receptor(self) -> Receptor:
        """What it perceives with."""
        ...

    @property
    def effector(self) -> Effector:
        """What it acts with."""
        ...

    def dispose(self) -> Any:
        """Let go of everything; called once. May be async."""
        ...


class EnvironmentFactory(Protocol):
    """Makes the environment of a live agent."""

    def create(self, config: EnvironmentConfig, /) -> Environment:
        """Make one."""
        ...


class Hosted:
    """One environment, connected: asked as a model is, turn by turn.

    Args:
        factory: makes it.
        config: what it is made with.
        context: the live agent that it belongs to.
        patience: how many seconds it may say nothing in the middle of a turn.

    Attributes:
        lost: whether it was told to stop and did not say that it has; it is of no use any more.
        calls: the tools that it runs just now, by the ids of their calls.
    """

    def __init__(
        self, factory: EnvironmentFactory, config: EnvironmentConfig, context: EventContext, patience: float
    ) -> None:
        self._bus = Bus(self._failed)
        self._context = context
        self._patience = patience
        self._heard: asyncio.Queue[SystemEvent] = asyncio.Queue()
        self._turn: str | None = None
        self._busy = False
        self._failure: EnvironmentFailed | None = None
        self.calls: dict[str, str] = {}
        self._results: dict[str, SystemEvent] = {}
        self._closed = False
        self._warming: asyncio.Task[None] | None = None
        self.lost = False
        self._bus.on_any(self._hear, filter=self._is_mine)
        self.environment = factory.create(config)

    async def connect(self) -> None:
        """Connect it and have it warm up; one that cannot be connected is let go of.

        Raises:
            Exception: what its receptor or effector has raised.
        """
        try:
            self.environment.receptor.connect(self._bus.as_producer())
            self.environment.effector.connect(self._bus.as_consumer())
        except BaseException:
            await self.close()
            raise
        warmup: Any = getattr(self.environment, "warmup", None)
        if warmup is not None:
            self._warming = asyncio.create_task(self._warm(warmup), name=f"perdure-warmup-{self._context.agent_id}")

    async def _warm(self, warmup: Callable[[], Any]) -> None:
        try:
            result = warmup()
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("The environment %r could not warm up; it is asked all the same.", _name(self.environment))

    def _is_mine(self, event: SystemEvent) -> bool:
        return event.source == "environment" and event.context.agent_id == self._context.agent_id

    def _hear(self, event: SystemEvent) -> None:
        if self._busy and event.data.get("request_id") in (None, self._turn):
            self._heard.put_nowait(event)

    def _failed(self, error: Exception, event: SystemEvent) -> None:
        """A handler of the environment's has raised: the turn ends with what it said."""
        data = {"message": f"{type(error).__name__}: {error}", "error_code": "runtime_error"}
        self._hear(SystemEvent("error_received", data, "environment", "stream", context=self._context))

    def leave(self) -> None:
        """Ask and wait for nothing more: whoever drives its turn next asks anew."""
        self._busy = False
        self._turn = None

    async def close(self, why: str | None = None) -> None:
        """Let go of the environment, once, in less than two seconds whatever it does.

        Args:
            why: ends a turn that goes on, as an error; else whoever drives it next asks anew.
        """
        if self._closed:
            return
        self._closed = True
        if why is not None:
            data = {"message": why, "error_code": "environment_closed"}
            self._hear(SystemEvent("error_received", data, "environment", "stream", context=self._context))
        self.leave()
        name = _name(self.environment)
        if self._warming is not None and not await _ended(self._warming):
            _log.error("The environment %r does not stop warming up; it is left alone.", name)
        task = asyncio.create_task(self._dispose(), name=f"perdure-dispose-{self._context.agent_id}")
        await asyncio.wait([task], timeout=PARTING)
        if not task.done():
            gone = await _ended(task)
            left = "" if gone else ", and does not heed that it was cancelled"
            _log.error("The environment %r is not disposed of after %g s%s.", name, PARTING, left)
        self._bus.destroy()

    async def _dispose(self) -> None:
        try:
            result = self.environment.dispose()
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("The environment %r could not be disposed of.", _name(self.environment))

    # -- a turn ------------------------------------------------------------------------------------------------------

    async def answer(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask for the next message of the turn, and stream it."""
        last = request.messages[-1] if request.messages else None
        if isinstance(last, ToolResultMessage):
            if self._turn is None:
                lost = BadResponse("The environment was lost in the middle of its turn.", provider="environment")
                raise self._failure or lost
        else:
            self._ask(request)
        done = False
        try:
            async for piece in self._message():
                done = isinstance(piece, Finished)
                yield piece
        finally:
            if not done:
                await self.interrupt()

    def _ask(self, request: ModelRequest) -> None:
        said = [one for one in request.messages if isinstance(one, TextMessage) and one.role == "user"]
        self._turn = new_id("turn")
        self._busy = True
        self._failure = None
        self._heard = asyncio.Queue()
        self.calls.clear()
        self._results.clear()
        message = user_message(said[-1].id or new_id("msg") if said else new_id("msg"), said[-1:], 0)
        self._command("user_message", {**message, "request_id": self._turn}, "message")

    def _command(self, type: str, data: dict[str, Any], category: Any) -> None:
        self._bus.emit(SystemEvent(type, data, "agent", category, "request", self._context))

    async def interrupt(self) -> None:
        """Have the environment stop, and wait for it to say that it has, for a while."""
        if not self._busy:
            return
        self._command("interrupt", {"agent_id": self._context.agent_id, "request_id": self._turn}, "action")
        try:
            async with asyncio.timeout(GRACE):
                while (await self._heard.get()).type not in ("interrupted", "message_stop", "error_received"):
                    pass
        except TimeoutError:
            self.lost = True
            _log.warning(
                "The environment %r did not say that it has stopped; another is made.", _name(self.environment)
            )
        finally:
            self._busy = False
            self._turn = None

    async def _next(self) -> SystemEvent:
        try:
            async with asyncio.timeout(self._patience):
                event = await self._heard.get()
        except TimeoutError:
            waited = f"Request timeout after {self._patience * 1000:g}ms: the environment said nothing."
            raise EnvironmentFailed(waited, "timeout") from None
        if event.type == "error_received":
            self._busy = False
            self._turn = None
            message, code = event.data.get("message"), event.data.get("error_code")
            self._failure = EnvironmentFailed(str(message or "An error occurred"), str(code or "api_error"))
            raise self._failure
        if event.type == "tool_result":
            self._results[str(event.data.get("tool_use_id"))] = event
        return event

    async def _message(self) -> AsyncIterator[ModelEvent]:
        """Stream what is said until the message ends; blocks are told apart by their index."""
        model, usage, place, current = "", Usage(), -1, 0
        blocks: dict[Any, int] = {}
        while True:
            event = await self._next()
            data = event.data
            index = data.get("index")
            if event.type == "message_start":
                told: Any = data.get("message") or {}
                model = str(told.get("model") or "")
            elif event.type == "text_delta":
                key = ("text", index)
                if key not in blocks:
                    place += 1
                    blocks[key] = place
                yield TextChunk(str(data.get("text", "")), blocks[key])
            elif event.type == "tool_use_content_block_start":
                place += 1
                current = blocks[("tool", index)] = place
                self.calls[str(data.get("id"))] = str(data.get("name"))
                yield ToolCallChunk(place, str(data.get("id")), str(data.get("name")))
            elif event.type == "input_json_delta":
                block = blocks.get(("tool", index), current)
                yield ToolCallChunk(block, arguments=str(data.get("partial_json", "")))
            elif event.type == "message_delta":
                usage = _usage(data.get("usage"))
                yield Used(usage)
            elif event.type in ("message_stop", "interrupted"):
                reason = _STOPS.get(str(data.get("stop_reason")), "stop")
                if reason != "tool":
                    self._busy = False
                    self._turn = None
                yield Finished(reason, usage, model, "environment")
                return

    async def result(self, call_id: str) -> Any:
        """Wait for what the environment's own tool has given.

        Raises:
            ModelRetry: the tool failed; the text says how.
        """
        try:
            while call_id not in self._results:
                await self._next()
        except asyncio.CancelledError:
            await self.interrupt()
            raise
        event = self._results.pop(call_id)
        self.calls.pop(call_id, None)
        value: Any = event.data.get("result")
        if event.data.get("is_error"):
            raise ModelRetry(value if isinstance(value, str) else repr(value))
        return value


class EnvironmentFailed(ModelError):
    """An environment has said that its turn failed; `code` is what it called that."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, provider="environment")
        self.code = code


class EnvironmentModel:
    """An environment as a model: whoever serves the image now is asked.

    Args:
        find: gives the environment of the image's live agent.
        name: what the model is called.
    """

    provider = "environment"
    capabilities = Capabilities()

    def __init__(self, find: Callable[[], Awaitable[Hosted]], name: str) -> None:
        self._find = find
        self.name = name

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Ask for the next message of the turn."""
        hosted = await self._find()
        async for piece in hosted.answer(request):
            yield piece


class EnvironmentTools(Toolset[Any]):
    """The tools that an environment runs itself: those that it has just called.

    Args:
        find: gives the environment of the image's live agent.
    """

    name = "environment"

    def __init__(self, find: Callable[[], Awaitable[Hosted]]) -> None:
        self._find = find

    async def list_tools(self, ctx: Context[Any]) -> Sequence[AnyTool]:
        """Say which tools there are: while the environment waits for none of its results, none."""
        hosted = await self._find()
        return [self._tool(hosted, name) for name in dict.fromkeys(hosted.calls.values())]

    def _tool(self, hosted: Hosted, name: str) -> Tool[..., Any, Any]:
        async def observe(ctx: Context[Any], **_: Any) -> Any:
            call = ctx.call
            assert call is not None
            return await hosted.result(call.id)

        return tool(
            observe,
            name=name,
            description="Run by the environment.",
            effect="pure",  # only looked at: the environment does it
            parameters={"type": "object", "properties": {}, "additionalProperties": True},
        )


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Cancel a task and wait for its end, for a while; says whether it has come."""
    task.cancel()
    await asyncio.wait([task], timeout=PARTING)
    return task.done()


def _name(environment: Environment) -> str:
    return str(getattr(environment, "name", type(environment).__name__))


def _usage(told: Any) -> Usage:
    if not isinstance(told, dict):
        return Usage()
    fields: dict[str, Any] = told  # pyright: ignore[reportUnknownVariableType]  # plain JSON
    return Usage(int(fields.get("input_tokens") or 0), int(fields.get("output_tokens") or 0))
