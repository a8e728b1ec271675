"""A history adapter over a Perdure store: threads are sessions there, and what is said in them is posted as events.

So runs without a runtime share conversations with those of a runtime on the same store, and with clients of it. The
store is opened for each call and closed behind it, so nothing is held between two, and the adapter belongs to no event
loop; or it is kept open by `async with`, for the event loop that has entered it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, cast

from perdure.agents.history import Asked, HistoryContext, Past
from perdure.db.database import Database, StoreError
from perdure.db.migrate import migrate
from perdure.db.open import open_database
from perdure.history.threads import Entry, ThreadStore, from_text, shown_address
from perdure.log.erase import erase_session
from perdure.log.schema import MIGRATIONS
from perdure.log.sql import SqlLog
from perdure.types.base import decode_json, encode_json
from perdure.types.errors import Conflict, HistoryError, HistoryUnavailable, UnknownName
from perdure.types.ids import check_id, new_id
from perdure.types.messages import Message
from perdure.types.records import Erased, Record, RunStarted, SessionEvent, StateSet
from perdure.types.transcript import Transcript
from perdure.types.visible import visible


class LogHistory(ThreadStore):
    """Keeps conversations in a Perdure store, such as one that a `Runtime` has, too.

    `async with` keeps the store open until it is left, instead of opening it for each call.

    Args:
        url: the store's address, as for `Runtime`: `sqlite:///name.db` or `postgresql://user@host/name`.
        container: whose sessions these are.

    Raises:
        DefinitionError: the address names no store.
        InvalidId: the container's id has a shape that is not allowed.
    """

    def __init__(self, url: str, *, container: str = "default") -> None:
        open_database(url)  # only to see that it can be read
        self._url = url
        self._container = check_id(container, "container")
        self._kept: tuple[asyncio.AbstractEventLoop, Database] | None = None

    def __repr__(self) -> str:
        return f"LogHistory({shown_address(self._url)!r})"

    async def __aenter__(self) -> Self:
        if self._kept is None:
            with self._explained():
                self._kept = (asyncio.get_running_loop(), await self._open())
        return self

    async def close(self) -> None:
        """Close the store, if this event loop keeps it open."""
        if self._kept is not None and self._kept[0] is asyncio.get_running_loop():
            db, self._kept = self._kept[1], None
            await db.close()

    async def put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        """Post the entries as events of the session, which is started if need be."""
        async with self._opened() as log:
            await log.start_session(thread_id, user_id, None)
            for one in entries:
                await log.post_event(thread_id, _event(one, repr(self)))

    async def texts(self, thread_id: str) -> Sequence[bytes]:
        """Read the entries among what is in the session."""
        return [text for one in await self._records(thread_id) if (text := _kept(one)) is not None]

    async def forget(self, thread_id: str) -> bool:
        """Erase the session, with all that was said in it; that it was there stays, and what was erased stays out."""
        there = any(not isinstance(one.payload, (Erased, StateSet)) for one in await self._records(thread_id))
        if there:
            async with self._opened() as log:
                await erase_session(log, thread_id)
        return there

    async def get(self, ctx: HistoryContext) -> Sequence[Past]:
        """Give what was said, also in runs of a runtime and by clients, without the message that this run is about."""
        records = await self._records(check_id(ctx.thread_id, "thread_id"))
        if not any(isinstance(one.payload, RunStarted) for one in records):
            return await super().get(ctx)
        conversation = _Conversation(ctx.user_message.id if ctx.user_message is not None else None, repr(self))
        for one in records:
            conversation.add(one)
        return list(conversation.messages)

    async def append_user_message(self, ctx: HistoryContext) -> None:
        """Store what the user said, unless the run itself is kept here."""
        if not await self._has(ctx.run_id):
            await super().append_user_message(ctx)

    async def append_results(self, ctx: HistoryContext) -> None:
        """Store what agents have done, unless the run itself is kept here."""
        if not await self._has(ctx.run_id):
            await super().append_results(ctx)

    async def _has(self, run_id: str) -> bool:
        async with self._opened() as log:
            try:
                await log.run(run_id)
            except UnknownName:
                return False
            return True

    async def _records(self, thread_id: str) -> list[Record]:
        async with self._opened() as log:
            try:
                return visible(await log.read_session(thread_id))
            except UnknownName:
                return []

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[SqlLog]:
        with self._explained():
            kept = self._kept
            if kept is not None and kept[0] is asyncio.get_running_loop():
                yield self._log(kept[1])
                return
            db = await self._open()
            try:
                yield self._log(db)
            finally:
                await db.close()

    def _log(self, db: Database) -> SqlLog:
        return SqlLog(db, time.time, "", self._container)

    async def _open(self) -> Database:
        db = open_database(self._url)
        try:
            await db.open()
            await migrate(db, MIGRATIONS, new_id("store"))
        except BaseException:
            await db.close()
            raise
        return db

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Say what the store says as a history does."""
        try:
            yield
        except StoreError as error:
            raise HistoryUnavailable(f"{self!r} cannot be used now: {type(error).__name__}: {error}") from error
        except Conflict as error:
            raise HistoryError(f"{self!r} refused it: {error}") from error


class _Conversation(Transcript):
    """A session's conversation in which what this adapter has posted is whole, calls and their results included."""

    __slots__ = ("_own", "_store")

    def __init__(self, own: str | None, store: str) -> None:
        super().__init__()
        self._own = own
        self._store = store

    def said(self, event: SessionEvent) -> Sequence[Message]:
        """What an event says in the conversation."""
        text = _text(event)
        if text is None:
            return super().said(event)
        turn = from_text(text, self._store)
        return () if isinstance(turn, Asked) and turn.id == self._own else turn.messages


def _event(entry: Entry, store: str) -> SessionEvent:
    turn = from_text(entry.text, store)
    if isinstance(turn, Asked):
        kind, content, metadata = "user_message", turn.content, {}
    else:
        kind, content, metadata = "agent_message", turn.text, {"from_agent": turn.agent_name}
    return SessionEvent(kind, content, entry.id, 0, {"turn": decode_json(entry.text)}, metadata)


def _kept(record: Record) -> bytes | None:
    return _text(record.payload) if isinstance(record.payload, SessionEvent) else None


def _text(event: SessionEvent) -> bytes | None:
    """The entry that an event was made of; None if somebody else has posted it."""
    data: Any = event.event_data
    turn: Any = cast("dict[str, Any]", data).get("turn") if isinstance(data, dict) else None
    return None if turn is None else encode_json(turn)
