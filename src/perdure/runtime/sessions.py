"""Sessions as clients keep them: start, event, suspend, resume, end; the words of the service, on the same log as runs.

A session that is started here and one that runs are made in are the same thing. `user_message` and `agent_message`
events are part of its conversation: the runs that are asked after them see them.
"""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perdure.agents.in_sync import InSync, Loop
from perdure.log.session_events import Wanted
from perdure.log.sessions import PAGE
from perdure.runtime.session import Session
from perdure.types.errors import DefinitionError
from perdure.types.ids import check_id, new_id
from perdure.types.session import NewState, PostedEvent, SessionInfo, new_event, read_metadata, read_user

if TYPE_CHECKING:
    from perdure.runtime.container import Container

MOST = 1000
"""How many events a page may have."""


class Sessions:
    """The sessions of a container.

    Args:
        container: whose they are.
    """

    def __init__(self, container: Container) -> None:
        self._container = container

    def __call__(self, id: str) -> Session:
        """A handle on a conversation; it need not exist yet.

        Raises:
            InvalidId: the id has a shape that is not allowed.
        """
        return Session(self._container, check_id(id, "session_id"))

    async def start(
        self, *, session_id: str | None = None, user_id: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> SessionInfo:
        """Start a session, so that it takes events; the same again is the same session, as it is now.

        One that only has runs so far goes on as one that is started.

        Args:
            session_id: its id; a new one unless given.
            user_id: whose it is; on a session that is there, left out means that one's.
            metadata: anything to be kept with it, as a JSON object; on a session that is there, left out means its own.

        Raises:
            Conflict: it is another user's, or was started with other metadata.
            InvalidId: the id has a shape that is not allowed.
            DefinitionError: the metadata are too large, or no object.
            QuotaExceeded: the container has no room.
        """
        full = await self._container.full()
        id = new_id("session") if session_id is None else check_id(session_id, "session_id")
        return self._told(
            await self._container.log.start_session(id, read_user(user_id), read_metadata(metadata), full)
        )

    async def event(
        self,
        *,
        session_id: str,
        type: str,
        content: str = "",
        event_id: str | None = None,
        event_data: Any = None,
        metadata: Mapping[str, Any] | None = None,
        parent_event_id: str | None = None,
        user_id: str | None = None,
    ) -> PostedEvent:
        """Keep what was said or done outside of a run; it is stored when this returns.

        What `user_message` and `agent_message` say is part of the conversation; events of other types are kept, shown
        and replayed.

        Args:
            session_id: the session.
            type: what it is: `user_message`, `agent_message`, `tool_execution`, or a word of your own.
            content: a text.
            event_id: makes it once: the same event again gives the one that is there, whatever has become of the
                session since. A new one unless given.
            event_data: anything that goes with it, as plain JSON.
            metadata: anything said of it, as a JSON object; `from_agent` and `to_agent` can be asked for.
            parent_event_id: the event that it follows from; it is not looked up.
            user_id: who says it; the session's user.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it is not active or resumed.
            Conflict: the id was used for another event, or the session is another user's.
            InvalidId: an id has a shape that is not allowed.
            DefinitionError: something is not of its kind, or it is too large.
            QuotaExceeded: the container has no room.
        """
        made = new_event(
            type,
            content,
            event_id=event_id,
            event_data=event_data,
            metadata=metadata,
            parent_event_id=parent_event_id,
            user_id=user_id,
        )
        full = await self._container.full()
        posted = await self._container.log.post_event(check_id(session_id, "session_id"), made, full)
        self._container.live_here.posted(session_id)
        return posted

    async def replay(
        self,
        *,
        session_id: str,
        after: int = 0,
        before: int | None = None,
        limit: int = PAGE,
        newest: bool = False,
        type: str | None = None,
        from_agent: str | None = None,
        to_agent: str | None = None,
    ) -> list[PostedEvent]:
        """Read the events of a session in the order in which they were posted, a page at a time.

        What was rewound or erased is left out.

        Args:
            session_id: the session.
            after: the `seq` of the last event of the page before.
            before: the `seq` of the first event of the page behind.
            limit: at most so many.
            newest: whether the page is the last one there is, and not the first.
            type: only events of this type.
            from_agent: only what this agent has said, as the events' metadata have it.
            to_agent: only what is for this agent.

        Raises:
            SessionNotFound: there is no such session.
            DefinitionError: the page is too large.
        """
        if not isinstance(limit, int) or not 0 < limit <= MOST:
            raise DefinitionError(f"limit={limit!r}: a page has 1 to {MOST:,} events.")
        wanted = Wanted(type, from_agent, to_agent)
        id, log = check_id(session_id, "session_id"), self._container.log
        return await log.replay(id, after=after, before=before, limit=limit, newest=newest, wanted=wanted)

    async def get(self, *, session_id: str) -> SessionInfo:
        """What a session is now.

        Raises:
            SessionNotFound: there is no such session.
        """
        return await self._container.log.session_info(check_id(session_id, "session_id"))

    async def suspend(self, *, session_id: str, user_id: str | None = None) -> SessionInfo:
        """Let a session rest: it takes no events and no runs until it is resumed.

        Runs that were taken in before go on to their end, those that are queued or wait too.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it is not active or resumed.
        """
        return await self._move(session_id, "suspended", user_id)

    async def resume(self, *, session_id: str, user_id: str | None = None) -> SessionInfo:
        """Go on with a session that rests.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it is not suspended.
        """
        return await self._move(session_id, "resumed", user_id)

    async def end(self, *, session_id: str, retain_context: bool = True, user_id: str | None = None) -> SessionInfo:
        """End a session: it takes no events and no runs any more, and can still be read, forked and erased.

        Runs that were taken in before go on to their end, those that are queued or wait too; cancel them if they are
        not to.

        Args:
            session_id: the session.
            retain_context: whether what is remembered of it may be used in other sessions of its user.
            user_id: whose it is.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it has ended already.
        """
        return await self._move(session_id, "ended", user_id, retain_context=bool(retain_context))

    async def archive(self, *, session_id: str, user_id: str | None = None) -> SessionInfo:
        """Put a session away; nothing follows but reading, forking and erasing.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it is archived already.
        """
        return await self._move(session_id, "archived", user_id)

    # -- for sync code -----------------------------------------------------------------------------------------------

    start_sync = InSync(start)
    event_sync = InSync(event)
    replay_sync = InSync(replay)
    get_sync = InSync(get)
    suspend_sync = InSync(suspend)
    resume_sync = InSync(resume)
    end_sync = InSync(end)
    archive_sync = InSync(archive)

    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""
        return self._container.loop_thread()

    async def _move(
        self, session_id: str, to: NewState, user_id: str | None, *, retain_context: bool | None = None
    ) -> SessionInfo:
        id, user = check_id(session_id, "session_id"), read_user(user_id)
        return self._told(await self._container.log.set_state(id, to, user, retain_context=retain_context))

    def _told(self, info: SessionInfo) -> SessionInfo:
        """Have those look who follow the session here; others see it by themselves."""
        self._container.live_here.posted(info.session_id)
        return info
