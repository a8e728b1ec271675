"""What the tests of histories share: an adapter that keeps threads in memory and notes what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from perdure import (
    AgentResult,
    Asked,
    HistoryAdapter,
    HistoryContext,
    LogHistory,
    MongoHistory,
    RedisHistory,
    SqlHistory,
    TextMessage,
)
from perdure.history.threads import ThreadStore
from perdure.models.model import Capabilities, ModelRequest
from perdure.types.chunks import ModelEvent, TextChunk


class Threads(HistoryAdapter):
    """Keeps threads in lists; `calls` says what was asked, `fails` what raises, by the method's name."""

    def __init__(self, threads: dict[str, list[Any]] | None = None, calls: list[str] | None = None) -> None:
        self.threads: dict[str, list[Any]] = {} if threads is None else threads
        self.calls: list[str] = [] if calls is None else calls
        self.fails: dict[str, BaseException] = {}

    def note(self, method: str, ctx: HistoryContext, more: str = "") -> None:
        self.calls.append(f"{method} {ctx.thread_id}{more}".strip())
        if method in self.fails:
            raise self.fails[method]

    async def get(self, ctx: HistoryContext) -> list[Any]:
        self.note("get", ctx)
        return list(self.threads.get(ctx.thread_id, ()))

    async def append_user_message(self, ctx: HistoryContext) -> None:
        assert ctx.user_message is not None
        self.note("user", ctx, f": {ctx.user_message.content}")
        self.put(ctx.thread_id, [ctx.user_message])

    async def append_results(self, ctx: HistoryContext) -> None:
        asked = f"{ctx.user_message.content} + " if ctx.user_message is not None else ""
        self.note("save", ctx, f": {asked}{', '.join(one.text for one in ctx.new_results)}")
        self.put(ctx.thread_id, [*([ctx.user_message] if ctx.user_message else []), *ctx.new_results])

    def put(self, thread_id: str, turns: list[Any]) -> None:
        self.threads.setdefault(thread_id, []).extend(turns)

    def said(self, thread_id: str) -> list[str]:
        found: list[str] = []
        for turn in self.threads.get(thread_id, ()):
            found += [one.text for one in turn.messages if isinstance(one, TextMessage)]
        return found


class Creating(Threads):
    """Makes threads `t-1`, `t-2` and so on."""

    async def create_thread(self, ctx: HistoryContext) -> str:
        self.note("create", ctx, f"for {ctx.user_id}: {ctx.input}")
        id = f"t-{len(self.threads) + 1}"
        self.threads[id] = []
        return id


class OnlySaving(HistoryAdapter):
    """As in the source's example: the user's message comes with the results."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, Asked | None, list[str]]] = []

    def append_results(self, ctx: HistoryContext) -> None:
        self.saved.append((ctx.thread_id, ctx.user_message, [one.text for one in ctx.new_results]))


class Halting:
    """A model that begins to answer and never ends."""

    name = "halting"
    provider = "test"
    capabilities = Capabilities()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextChunk("Tw")
        await asyncio.Event().wait()


def texts(request: Any) -> list[str]:
    """What a model was asked with, as texts."""
    return [one.text for one in request.messages if isinstance(one, TextMessage)]


# -- the ready adapters ----------------------------------------------------------------------------------------------


def opened(kind: str, address: str, name: str) -> ThreadStore:
    """An adapter over a store; `name` is what tells this test's threads from those of others."""
    if kind == "redis":
        return RedisHistory(address, prefix=name)
    if kind == "mongodb":
        return MongoHistory(address, collection=name)
    if kind.startswith("log"):
        return LogHistory(address, container=name)
    return SqlHistory(address, tables=name)


def result(who: str, n: int) -> AgentResult:
    """A result that is the same for whoever makes it."""
    return AgentResult(who, (TextMessage("assistant", f"{who} {n}"),), f"run_{who}/agent/{n}", 1_700_000_000.0 + n)
