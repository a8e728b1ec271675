"""One conversation: its messages and its records, read from the log, and what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Unpack

from perdure.agents.agent import Agent
from perdure.agents.handle import Run
from perdure.agents.in_sync import EachInSync, InSync, Loop
from perdure.agents.network import Network
from perdure.agents.options import RunOptions
from perdure.agents.outcome import RunResult
from perdure.agents.stream import RunStream
from perdure.log.erase import Erasure
from perdure.log.sessions import PAGE
from perdure.log.transfer import export_session
from perdure.runtime.forks import fork_session, rewind
from perdure.types.errors import DefinitionError
from perdure.types.events import AnyEvent
from perdure.types.live import Cursor
from perdure.types.messages import Input, Message
from perdure.types.records import Record
from perdure.types.session import PostedEvent, SessionInfo

if TYPE_CHECKING:
    from perdure.runtime.container import Container

Out = TypeVar("Out")
S = TypeVar("S")


class Session:
    """A handle on one conversation of a container.

    Args:
        container: whose it is.
        id: its id.
    """

    def __init__(self, container: Container, id: str) -> None:
        self._container = container
        self.id = id

    async def messages(self) -> AsyncIterator[Message]:
        """What was said in all turns that have ended, in order."""
        for message in tuple((await self._container.conversations.of(self.id)).messages):
            yield message

    async def records(self, after: int = 0) -> list[Record]:
        """The session's records behind a sequence number, in order of commitment."""
        return await self._container.log.read_session(self.id, after)

    # -- as its clients keep it --------------------------------------------------------------------------------------

    async def open(self, *, user_id: str | None = None, metadata: Mapping[str, Any] | None = None) -> SessionInfo:
        """Start it, so that it takes events; see `Sessions.start`. (`start` starts a run in it.)"""
        return await self._container.session.start(session_id=self.id, user_id=user_id, metadata=metadata)

    async def event(
        self,
        type: str,
        content: str = "",
        *,
        event_id: str | None = None,
        event_data: Any = None,
        metadata: Mapping[str, Any] | None = None,
        parent_event_id: str | None = None,
        user_id: str | None = None,
    ) -> PostedEvent:
        """Keep what was said or done outside of a run; see `Sessions.event`."""
        given: dict[str, Any] = {"event_id": event_id, "event_data": event_data, "metadata": metadata}
        more: dict[str, Any] = {"parent_event_id": parent_event_id, "user_id": user_id}
        return await self._container.session.event(session_id=self.id, type=type, content=content, **given, **more)

    async def replay(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = PAGE,
        newest: bool = False,
        type: str | None = None,
        from_agent: str | None = None,
        to_agent: str | None = None,
    ) -> list[PostedEvent]:
        """Read its events in order, a page at a time; see `Sessions.replay`."""
        page: dict[str, Any] = {"after": after, "before": before, "limit": limit, "newest": newest}
        only: dict[str, Any] = {"type": type, "from_agent": from_agent, "to_agent": to_agent}
        return await self._container.session.replay(session_id=self.id, **page, **only)

    async def info(self) -> SessionInfo:
        """What it is now: its state, whose it is, its metadata.

        Raises:
            SessionNotFound: it has never been.
        """
        return await self._container.session.get(session_id=self.id)

    async def suspend(self) -> SessionInfo:
        """Let it rest; see `Sessions.suspend`."""
        return await self._container.session.suspend(session_id=self.id)

    async def resume(self) -> SessionInfo:
        """Go on with it after a rest; see `Sessions.resume`."""
        return await self._container.session.resume(session_id=self.id)

    async def end(self, *, retain_context: bool = True) -> SessionInfo:
        """End it; see `Sessions.end`."""
        return await self._container.session.end(session_id=self.id, retain_context=retain_context)

    async def archive(self) -> SessionInfo:
        """Put it away; see `Sessions.archive`."""
        return await self._container.session.archive(session_id=self.id)

    # -- what can be done with it ------------------------------------------------------------------------------------

    async def compact(self, messages: Sequence[Message] | None = None) -> int:
        """Write down what was said so far as one record, so that a process that does not know it reads no further back.

        Nothing is removed: the records before it stay, and runs that have ended still give their results.

        Args:
            messages: what stands for the conversation from now on, such as a summary; unless given, just what was said.

        Returns:
            The record's sequence number.

        Raises:
            Conflict: a run of the session has not ended, or somebody has written to it meanwhile.
            UnknownName: there is no such session.
        """
        return await self._container.conversations.compact(self.id, messages)

    async def fork(self, at: int | None = None, *, id: str | None = None, title: str | None = None) -> Session:
        """Make a session that goes on from a place in this one; nothing is copied, and nothing changes here.

        It reads what counts here up to that place, then its own records. Waits, timers, queued messages and cancels are
        not carried over; a turn that is open there is ended in it, and its open calls are closed as not carried over. A
        session that is erased takes its forks with it. The same place forked again under the same id is the same.

        Args:
            at: the number of the last record that it reads; the last one there is unless given.
            id: its id.
            title: its title; unless given, that of this one.

        Raises:
            UnknownName: this session has never been.
            InvalidId: it has no such record.
            Conflict: the id belongs to something else, or what was there was erased.
        """
        return Session(self._container, await fork_session(self._container, self.id, at, id, title))

    async def rewind(self, to: int, *, cancel: bool = False) -> int:
        """Go on from the end of an earlier turn: what was said since is not looked at any more.

        Nothing is removed: what is hidden stays in the log, has been paid for, and is told to who follows from the
        beginning, with `SessionRewound` behind it. A rewind to just before an earlier one takes that one back.

        Args:
            to: the number of the last record that still counts; 0 for the beginning.
            cancel: whether open runs are cancelled first.

        Returns:
            The number of the record that says so.

        Raises:
            UnknownName: this session has never been.
            InvalidId: it has no such record, or nothing behind it.
            Conflict: the record is inside a turn, a run has not ended, or somebody has written to it meanwhile.
        """
        return await rewind(self._container, self.id, to, cancel=cancel)

    async def export(self, path: str | Path) -> int:
        """Write all of it, with the sessions of its child runs, to a file of JSON lines.

        Of a fork the sessions that it goes on from are written too, whole, so that the file is; forks of it are not.

        Returns:
            How many lines were written.

        Raises:
            UnknownName: there is no such session.
            OSError: the file cannot be written.
        """
        return await export_session(self._container.log, self.id, Path(path))

    async def erase(self, *, cancel: bool = False) -> Erasure:
        """Erase what was said; that there were runs and steps, and when, stays.

        The sessions of its child runs and its forks go with it; a session that it is a fork of does not.

        Copies, backups and exports are out of reach. On SQLite the bytes are gone from the file when this returns; on
        PostgreSQL when it has vacuumed.

        Args:
            cancel: whether open runs are cancelled first.

        Raises:
            UnknownName: there is no such session.
            Conflict: a run is open.
            StoreBusy: it is erased, but a reader keeps the old bytes in the file's write-ahead log.
        """
        return await self._container.erase(self.id, cancel=cancel)

    def events(self, after: Cursor | str | int | None = None) -> AsyncIterator[AnyEvent]:
        """Follow what happens here, from the beginning or behind a cursor; see `Container.events`."""
        return self._container.events(self.id, after)

    async def run(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunResult[Out, S]:
        """Run a definition as the next turn of this conversation; see `Container.run`."""
        return await self._container.run(definition, input, **self._here(options))

    async def start(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> Run[Out, S]:
        """Start the next turn of this conversation in the background; see `Container.start`."""
        return await self._container.start(definition, input, **self._here(options))

    def stream(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunStream[Out, S]:
        """Run a definition as the next turn of this conversation and stream its events."""
        return self._container.stream(definition, input, **self._here(options))

    def run_sync(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunResult[Out, S]:
        """Run a definition as the next turn of this conversation from sync code; see `Runtime.run_sync`."""
        return self._container.run_sync(definition, input, **self._here(options))

    # -- for sync code -----------------------------------------------------------------------------------------------

    messages_sync = EachInSync(messages)
    events_sync = EachInSync(events)
    records_sync = InSync(records)
    open_sync = InSync(open)
    event_sync = InSync(event)
    replay_sync = InSync(replay)
    info_sync = InSync(info)
    suspend_sync = InSync(suspend)
    resume_sync = InSync(resume)
    end_sync = InSync(end)
    archive_sync = InSync(archive)
    compact_sync = InSync(compact)
    fork_sync = InSync(fork)
    rewind_sync = InSync(rewind)
    export_sync = InSync(export)
    erase_sync = InSync(erase)

    def start_sync(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> Run[Out, S]:
        """Start the next turn of this conversation in the background from sync code; see `Runtime.start_sync`."""
        return self._container.start_sync(definition, input, **self._here(options))

    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""
        return self._container.loop_thread()

    def _here(self, options: RunOptions[Any]) -> RunOptions[Any]:
        if options.get("session_id") is not None:
            raise DefinitionError(f"This is session {self.id!r}; its verbs take no session_id.")
        options["session_id"] = self.id
        return options

    def __repr__(self) -> str:
        return f"Session({self.id!r})"
