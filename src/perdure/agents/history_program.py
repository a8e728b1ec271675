"""Performs what a run asks of its history adapter, and names the thread before the run begins."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, cast

from perdure.agents.env import Env
from perdure.agents.history import Asked, HistoryAdapter, HistoryContext, ask, read_past, said_text
from perdure.agents.history_loop import ASKING, HistoryLoop, KeptRules, Open, Save
from perdure.agents.network_loop import NetworkLoop
from perdure.agents.program import AgentsProgram
from perdure.agents.result import AgentResult
from perdure.agents.state import State
from perdure.durable.program import Do, Keep
from perdure.durable.run_io import RunIO
from perdure.types.base import encode_json
from perdure.types.messages import Message, TextMessage
from perdure.types.records import Imported, PastResult, Payload, RunStarted, StepDone


class HistoryProgram(AgentsProgram):
    """One run of an agent or a network with a history adapter."""

    __slots__ = ("adapter",)

    def __init__(self, env: Env, rules: KeptRules, adapter: HistoryAdapter) -> None:
        super().__init__(env, rules)
        self.adapter = adapter

    def start(self) -> NetworkLoop:
        """Make the state before any record."""
        return HistoryLoop(self.rules)

    fold = staticmethod(cast("Any", HistoryLoop.fold))
    next = staticmethod(cast("Any", HistoryLoop.next))

    async def perform(self, state: NetworkLoop, do: Do, io: RunIO) -> Payload | Keep:
        """Do one step and return what closes it."""
        what = do.what
        if type(what) not in ASKING:
            return await super().perform(state, do, io)
        assert isinstance(state, HistoryLoop)
        try:
            if type(what) is Open:
                return await self._open(state, what)
            if type(what) is Save:
                return await self._save(state, what)
            return await self._store_user(state)
        except Exception as error:
            error.add_note(f"run {self.env.run_id}, step {do.key}")
            raise

    async def _open(self, state: HistoryLoop, what: Open) -> Imported:
        ctx = self._context(state, user=True)
        if self.env.instead is not None:  # a replay asks nobody
            return Imported("history")
        if what.ensure:
            await ask(self.adapter, "ensure_thread", ctx)
        past = read_past(self.adapter, await ask(self.adapter, "get", ctx)) if what.load else []
        own = ctx.user_message and ctx.user_message.id
        messages: list[Message] = []
        results: list[PastResult] = []
        for one in past:
            if own and isinstance(one, (Asked, TextMessage)) and one.id == own:
                continue  # it was stored before the run, and is what the run is about
            start = len(messages)
            if isinstance(one, (AgentResult, Asked)):
                messages += one.messages
            else:
                messages.append(one)
            if isinstance(one, AgentResult):
                results.append(PastResult(one.agent_name, one.id, one.created_at, start, len(messages)))
        return Imported("history", messages=tuple(messages), results=tuple(results))

    async def _store_user(self, state: HistoryLoop) -> StepDone:
        if self.env.instead is None:
            await ask(self.adapter, "append_user_message", self._context(state, user=True))
        return StepDone("history")

    async def _save(self, state: HistoryLoop, what: Save) -> StepDone:
        fresh = tuple(one for one in state.results[what.start :] if one.messages)
        if self.env.instead is None:
            await ask(self.adapter, "append_results", self._context(state, fresh, user=what.user))
        return StepDone("history", len(state.results))

    def _context(
        self, state: HistoryLoop, fresh: tuple[AgentResult, ...] = (), *, user: bool = False
    ) -> HistoryContext:
        env, started = self.env, state.started
        assert started is not None
        asked = asked_of(started, env.run_id, state.began_at) if user else None
        said = tuple(state.transcript)
        whole: State[Any] = State.lazy(
            lambda: env.kind.load(state.doc), said, lambda: tuple(env.results()), env.session_id
        )
        return HistoryContext(
            env.session_id, said_text(started.messages), whole, env.name, env.run_id, env.user_id, asked, fresh
        )


def asked_of(started: RunStarted, run_id: str, created_at: float) -> Asked | None:
    """What the user has said, as a history stores it; None if nothing."""
    messages = started.messages
    if not messages:
        return None
    own = next((one.id for one in messages if isinstance(one, TextMessage) and one.id is not None), None)
    id = own or f"{run_id}/input/{blake2b(encode_json(messages), digest_size=8).hexdigest()}"
    return Asked(id, messages, created_at)
