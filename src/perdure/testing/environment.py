"""A scripted environment: says what it was told to, so that a runtime with environments is tested without a world."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from perdure.runtime.bus import Consumer, Producer
from perdure.runtime.environment import EnvironmentConfig
from perdure.types.envelope import Category, EventContext, SystemEvent

Item: TypeAlias = "str | tuple[str, dict[str, Any]] | asyncio.Event | Exception"
"""A text (said as a whole message), an event's type and data, something to wait for, or an error to raise."""
Turn: TypeAlias = "str | Sequence[Item]"


class ScriptedEnvironments:
    """A factory of environments that share one script: each turn that is asked for takes the next part of it.

    Args:
        turns: what is said in each turn: a text, or items in order.
        error: what `create` raises, if it is to fail.

    Attributes:
        created: the environments, in the order in which they were made.
        asked: the messages and interrupts that they were told of.
    """

    def __init__(self, *turns: Turn, error: Exception | None = None) -> None:
        self.turns = list(turns)
        self.created: list[ScriptedEnvironment] = []
        self.asked: list[SystemEvent] = []
        self._error = error

    def create(self, config: EnvironmentConfig, /) -> ScriptedEnvironment:
        """Make one."""
        if self._error is not None:
            raise self._error
        made = ScriptedEnvironment(self, config)
        self.created.append(made)
        return made


class ScriptedEnvironment:
    """One environment of a script: what it was made with, and how often it was warmed up and disposed of."""

    name = "scripted"

    def __init__(self, script: ScriptedEnvironments, config: EnvironmentConfig) -> None:
        self._script = script
        self.config = config
        self.warmed = 0
        self.disposed = 0
        self.receptor = self
        self.effector = self
        self._emit: Producer | None = None
        self._playing: asyncio.Task[None] | None = None

    def connect(self, way: Producer | Consumer, /) -> None:
        """Take a half of the bus: this is its own receptor and effector."""
        if isinstance(way, Producer):
            self._emit = way
        else:
            way.on("user_message", self._told)
            way.on("interrupt", self._interrupted)

    async def warmup(self) -> None:
        """Be ready."""
        self.warmed += 1

    async def dispose(self) -> None:
        """Stop what it says."""
        self.disposed += 1
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait([self._playing])

    def say(self, type: str, data: dict[str, Any], agent_id: str | None = None) -> None:
        """Emit an event, as this agent or as another."""
        assert self._emit is not None
        context = EventContext(agent_id=agent_id or self.config.agent_id)
        category: Category = "error" if type == "error_received" else "stream"
        self._emit.emit(SystemEvent(type, data, "environment", category, context=context))

    def _told(self, event: SystemEvent) -> None:
        self._script.asked.append(event)
        turn = self._script.turns.pop(0) if self._script.turns else "Nothing."
        items = [turn] if isinstance(turn, str) else list(turn)
        if items and isinstance(items[0], Exception):
            raise items[0]
        self._playing = asyncio.create_task(self._play(items))

    def _interrupted(self, event: SystemEvent) -> None:
        self._script.asked.append(event)
        if self._playing is not None:
            self._playing.cancel()
        self.say("interrupted", {"reason": "user_interrupt"})

    async def _play(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, asyncio.Event):
                await item.wait()
            elif isinstance(item, Exception):
                self.say("error_received", {"message": str(item), "error_code": type(item).__name__})
            elif isinstance(item, str):
                self.say("message_start", {"message": {"id": "m", "model": "scripted"}})
                self.say("text_content_block_start", {"index": 0})
                self.say("text_delta", {"text": item, "index": 0})
                self.say("text_content_block_stop", {"index": 0})
                self.say("message_delta", {"usage": {"input_tokens": 3, "output_tokens": 5}})
                self.say("message_stop", {"stop_reason": "end_turn"})
            else:
                self.say(*item)
