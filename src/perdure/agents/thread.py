"""The thread of a run whose conversation is kept elsewhere: named before the run begins, because it is the session."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from msgspec import structs

from perdure.agents.history import HistoryAdapter, HistoryContext, ask, read_thread_id, rules_of, said_text
from perdure.agents.history_program import asked_of
from perdure.agents.state import State
from perdure.durable.endings import describe
from perdure.durable.patience import patiently
from perdure.types.errors import UnknownName
from perdure.types.events import RunFailed

if TYPE_CHECKING:
    from perdure.agents.history_loop import Origin
    from perdure.agents.running import Running

_NAMESPACE = uuid.UUID("8f6d3a54-1f0e-5b7c-9a41-2f4f0c5e7d11")


class Thread:
    """How a run comes to its thread: its caller names it, the adapter creates it, or it follows from the run's id.

    Attributes:
        naming: whether the adapter is being asked just now; the log does not know the run then.
    """

    __slots__ = ("adapter", "named", "naming")

    def __init__(self, adapter: HistoryAdapter, *, named: bool) -> None:
        self.adapter = adapter
        self.named = named
        self.naming = False

    async def name(self, running: Running) -> None:
        """Give a run its thread, before the log takes it in."""
        if self.named:
            return
        env = running.env
        self.naming = True
        try:
            known = await self._known(running) if env.options.get("run_id") is not None else None
            env.session_id, origin = (known, "given") if known is not None else await self._make(running)
        except Exception as error:
            if running.sink is not None:  # there is no record that would say so
                running.sink(RunFailed(error=describe(error), run_id=env.run_id, session_id=env.session_id))
            raise
        finally:
            self.naming = False
        self.named = True
        env.thread_id = env.session_id
        running.started = structs.replace(running.started, options={**running.started.options, "thread": origin})

    async def _known(self, running: Running) -> str | None:
        """The session of the same run, if the log has it."""
        kernel, run_id = running.env.kernel, running.env.run_id
        try:
            return (await patiently(kernel.clock, lambda: kernel.log.run(run_id))).session_id
        except UnknownName:
            return None

    async def _make(self, running: Running) -> tuple[str, Origin]:
        env, started, rules = running.env, running.started, rules_of(self.adapter)
        if "create_thread" in rules:
            state: State[Any] = State.lazy(
                lambda: env.kind.load(started.state), started.history, lambda: tuple(env.results()), None
            )
            asked = asked_of(started, env.run_id, env.kernel.clock.now())
            ctx = HistoryContext("", said_text(started.messages), state, env.name, env.run_id, env.user_id, asked)
            return read_thread_id(self.adapter, await ask(self.adapter, "create_thread", ctx)), "created"
        if "get" in rules:
            return str(uuid.uuid5(_NAMESPACE, env.run_id)), "new"  # so that the same run is in the same thread
        return env.session_id, "new"
