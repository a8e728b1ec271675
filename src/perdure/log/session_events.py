"""Sessions as clients keep them: started, told of events, suspended, resumed, ended; and their events read back.

An event is a record like any other, in the session's one order; the row of its session counts it and says whether it is
taken. That there is one of each `event_id` is what the index of keys says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from perdure.db.database import Database, Exists, Row, Script, Sql
from perdure.db.migrate import add_part
from perdure.log.parts import Part, parts_of
from perdure.log.policy import Quota, check_sessions
from perdure.log.rows import LAST_SLOT, RECORD, Coded, record_of
from perdure.log.schema import EVENTS, ROOM
from perdure.types.base import decode_json
from perdure.types.errors import Conflict, QuotaExceeded, SessionNotFound
from perdure.types.records import Payload, Record, SessionEvent, StateSet, decode_payload, encode_payload, kind_of
from perdure.types.session import (
    LIVELY,
    NewState,
    PostedEvent,
    SessionInfo,
    SessionState,
    body,
    check_move,
    event_key,
    of_another,
    posted,
    takes_none,
)
from perdure.types.visible import hidden_by

_INFO = "id, COALESCE(status, 'created'), created_at, user_id, metadata, events, retain_context, number"
_SEARCHED = 500
"""How many events are read at once when only some of them are wanted."""


class Wanted(NamedTuple):
    """Which events are wanted: of a type, from an agent, for an agent."""

    type: str | None = None
    from_agent: str | None = None
    to_agent: str | None = None

    def takes(self, event: PostedEvent) -> bool:
        """Whether an event is among them."""
        pairs = ((self.type, event.type), (self.from_agent, event.from_agent), (self.to_agent, event.to_agent))
        return all(one is None or one == its for one, its in pairs)


class SessionEvents(ABC):
    """What a log does with sessions and their events."""

    db: Database
    now: Callable[[], float]
    container: str
    quota: Quota | None
    _indexed = False

    @abstractmethod
    def _insert(self, last: int, session: str, run_id: str, coded: Sequence[Coded], now: float) -> Script[None]: ...

    @abstractmethod
    def _lock(self, session_id: str) -> Sql: ...

    # -- what becomes of a session -----------------------------------------------------------------------------------

    async def start_session(
        self, session_id: str, user_id: str | None, metadata: str | None, full: QuotaExceeded | None = None
    ) -> SessionInfo:
        """Start a session, unless it is started; one that only has runs so far goes on as one that is.

        Args:
            session_id: the session.
            user_id: whose it is.
            metadata: what is said of it, as a JSON object.
            full: what is raised if it is new, because there is no room for it.

        Raises:
            Conflict: it is another user's, or was started with other metadata.
        """
        mine, now = (self.container, session_id), self.now()

        def script() -> Script[SessionInfo]:
            rows = yield Sql(
                "INSERT INTO sessions (container, id, user_id, metadata, created_at) VALUES (?, ?, ?, ?, ?) "
                f"ON CONFLICT (container, id) DO NOTHING RETURNING {_INFO}",
                (*mine, user_id, metadata, now),
            )
            if rows:
                if full is not None:
                    raise full
                yield from check_sessions(self.db, self.container, self.quota)
            else:
                rows = yield from self._found(session_id)
            info = _info(rows[0])
            _, state, _, owner, said, _, _, number = rows[0]
            if user_id is not None and owner not in (None, user_id):
                raise of_another(session_id, user_id)
            if metadata is not None and said is not None and decode_json(said) != decode_json(metadata):
                raise Conflict(
                    f"The session {session_id!r} was started with other metadata; give the same again, or none, or "
                    "start another session."
                )
            if (user_id is None or owner is not None) and (metadata is None or said is not None) and state != "created":
                return info
            yield Sql(
                "UPDATE sessions SET status = COALESCE(status, 'active'), user_id = COALESCE(user_id, ?), "
                "metadata = COALESCE(metadata, ?) WHERE number = ?",
                (user_id, metadata, number),
                blind=True,
            )
            if state == "created":
                yield from self._note(session_id, StateSet("active"), now)
            return _info((yield from self._found(session_id))[0])

        return await self.db.write(script, notify=True)

    async def set_state(
        self, session_id: str, to: NewState, user_id: str | None = None, *, retain_context: bool | None = None
    ) -> SessionInfo:
        """Suspend, resume, end or archive a session.

        Raises:
            SessionNotFound: there is none of this id.
            InvalidSessionState: its state does not allow that; nothing is changed.
            Conflict: it is another user's.
        """
        now = self.now()

        def script() -> Script[SessionInfo]:
            rows = yield from self._found(session_id)
            _, state, _, owner, _, _, _, number = rows[0]
            if user_id is not None and owner not in (None, user_id):
                raise of_another(session_id, user_id)
            check_move(session_id, state, to)
            keeps = None if retain_context is None else int(retain_context)
            yield Sql(
                "UPDATE sessions SET status = ?, retain_context = COALESCE(?, retain_context) WHERE number = ?",
                (to, keeps, number),
                blind=True,
            )
            yield from self._note(session_id, StateSet(to, retain_context), now)
            return _info((yield from self._found(session_id))[0])

        return await self.db.write(script, notify=True)

    async def session_info(self, session_id: str) -> SessionInfo:
        """Read what a session is now.

        Raises:
            SessionNotFound: there is none of this id.
        """
        return _info((await self.db.read(lambda: self._found(session_id, lock=False)))[0])

    def refuse_run(self, run_id: str, session_id: str, state: str) -> Script[None]:
        """Refuse a run in a session that takes none; one that is known already is the same run, whatever comes after.

        Raises:
            InvalidSessionState: the run is new.
        """
        if not (yield Sql("SELECT 1 FROM runs WHERE container = ? AND id = ?", (self.container, run_id))):
            raise takes_none(session_id, state, "run")

    def _found(self, session_id: str, *, lock: bool = True) -> Script[list[Row]]:
        """Read a session's row, and lock it to change it."""
        if lock and self.db.dialect == "postgres":
            yield self._lock(session_id)
        rows = yield Sql(f"SELECT {_INFO} FROM sessions WHERE container = ? AND id = ?", (self.container, session_id))
        if not rows:
            raise SessionNotFound(session_id)
        return rows

    def _note(self, session_id: str, payload: StateSet, now: float) -> Script[None]:
        """Write down in a locked session what has become of it."""
        mine = (self.container, session_id)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
        coded = Coded(None, kind_of(payload), encode_payload(payload))
        yield from self._insert(int(rows[0][0]), session_id, "", [coded], now)

    # -- events ------------------------------------------------------------------------------------------------------

    async def post_event(self, session_id: str, event: SessionEvent, full: QuotaExceeded | None = None) -> PostedEvent:
        """Write an event behind what is in a session; the same one again is the one that is there.

        Args:
            session_id: the session.
            event: the event.
            full: what is raised if the event is new, because there is no room for it.

        Raises:
            SessionNotFound: there is no such session.
            InvalidSessionState: it takes no events, or not now.
            Conflict: its id was used for another event, or the session is another user's.
        """
        if not self._indexed:
            await add_part(self.db, EVENTS)
            self._indexed = True
        key, now = event_key(session_id, event.event_id), self.now()
        mine, locks = (self.container, session_id), self.db.dialect == "postgres"
        text = (
            "UPDATE sessions SET events = events + 1 WHERE container = ? AND id = ? AND status IN "
            f"{LIVELY} RETURNING events, base, user_id, {'NULL' if locks else LAST_SLOT}"
        )

        def script() -> Script[PostedEvent]:
            rows = yield Sql(text, mine)
            if not rows:
                known = yield from self._known_event(session_id, event)
                if known is not None:
                    return known
                raise takes_none(session_id, (yield from self._found(session_id, lock=False))[0][1], "event")
            count, base, owner, last = rows[0]
            if event.user_id is not None and owner not in (None, event.user_id):
                raise of_another(session_id, event.user_id)
            if base is not None or full is not None:  # what was posted before may be another session's record
                known = yield from self._known_event(session_id, event)
                if known is not None:
                    yield Sql("UPDATE sessions SET events = events - 1 WHERE container = ? AND id = ?", mine)
                    return known
            if full is not None:
                raise full
            if last is None:  # where the update had to wait for a lock, it did not see what was written meanwhile
                last = (yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine))[0][0]
            parts = (event.event_type, event.content, event.event_id, int(count), event.event_data, event.metadata)
            made = SessionEvent(*parts, event.parent_event_id, event.user_id)
            yield from self._insert(last, session_id, "", [Coded(key, "event", encode_payload(made))], now)
            return posted(Record(int(last) % ROOM + 1, "", session_id, key, made, now))

        try:
            return await self.db.write(script, notify=True)
        except Exists:
            known = await self.db.read(lambda: self._known_event(session_id, event))
            assert known is not None, "a key exists that nobody has"
            return known

    def _known_event(self, session_id: str, event: SessionEvent) -> Script[PostedEvent | None]:
        """Find the event of an id in a session and in what it goes on from, and see that it is the same.

        Raises:
            SessionNotFound: there is no such session.
            Conflict: it is another one, or was erased.
        """
        parts = yield from parts_of(self.container, session_id)
        if not parts:
            raise SessionNotFound(session_id)
        for part in parts:
            rows = yield Sql(
                f"{RECORD} WHERE r.container = ? AND r.run = '' AND r.key = ? AND r.seq <= ?",
                (self.container, event_key(part.session, event.event_id), part.high),
            )
            if rows:
                record = part.shown(record_of(rows[0]), session_id)
                if not isinstance(record.payload, SessionEvent):
                    raise Conflict(f"The event {event.event_id!r} of the session {session_id!r} was erased.")
                if body(record.payload) != body(event):
                    raise Conflict(
                        f"The event id {event.event_id!r} was used in the session {session_id!r} for another event; "
                        "the same id with the same content is the same event, so give another id."
                    )
                return posted(record)
        return None

    async def replay(
        self,
        session_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest: bool = False,
        wanted: Wanted = Wanted(),  # noqa: B008  # a value
    ) -> list[PostedEvent]:
        """Read events of a session in order, without those that a rewind hides or that were erased.

        Args:
            session_id: the session.
            after: only those whose records have a higher number.
            before: only those whose records have a lower number.
            limit: at most so many.
            newest: whether these are the last ones, not the first.
            wanted: which of them.

        Raises:
            SessionNotFound: there is none of this id.
        """
        every = wanted == Wanted()
        size = limit if every else max(limit, _SEARCHED)
        low, high = after, ROOM if before is None else before
        found: list[PostedEvent] = []
        while True:
            page = await self.db.read(lambda a=low, b=high: self._page(session_id, a, b, size, newest=newest))
            shown = [posted(one) for one in page.records if isinstance(one.payload, SessionEvent) and page.shows(one)]
            found += [one for one in shown if every or wanted.takes(one)][: limit - len(found)]
            if len(found) == limit or len(page.records) < size:
                return found[::-1] if newest else found
            if newest:
                high = page.records[-1].seq
            else:
                low = page.records[-1].seq

    def _page(self, session_id: str, after: int, before: int, limit: int, *, newest: bool) -> Script[_Page]:
        """Read records of events, forwards or backwards, and what rewinds hide."""
        parts = yield from parts_of(self.container, session_id)
        if not parts:
            raise SessionNotFound(session_id)
        records: list[Record] = []
        for part in parts if newest else reversed(parts):
            start, end = part.between(after, before)
            if len(records) < limit and start + 1 < end:
                rows = yield Sql(
                    f"{RECORD} WHERE r.slot > ? AND r.slot < ? AND r.kind = 'event' "
                    f"ORDER BY r.slot {'DESC' if newest else ''} LIMIT ?",
                    (start, end, limit - len(records)),
                )
                records += [part.shown(record_of(row), session_id) for row in rows]
        return _Page(records, (yield from _hidden(parts)))


class _Page(NamedTuple):
    records: list[Record]
    hidden: list[tuple[int, int]]

    def shows(self, record: Record) -> bool:
        return not any(low < record.seq < high for low, high in self.hidden)


def _hidden(parts: Sequence[Part]) -> Script[list[tuple[int, int]]]:
    """Between which records everything is hidden by rewinds."""
    rewinds: list[tuple[int, Payload | None]] = []
    for part in reversed(parts):
        rows = yield Sql(
            "SELECT seq, payload FROM records WHERE slot > ? AND slot < ? AND kind IN ('compacted', 'rewound') "
            "AND kind = 'rewound' ORDER BY slot",
            part.between(0, ROOM),
        )
        rewinds += [(int(seq), decode_payload(bytes(payload))) for seq, payload in rows]
    return hidden_by(rewinds)


def posted_before(container: str, session_id: str, seq: int) -> Script[int]:
    """Say how many events a session has up to one of its records."""
    rows = yield Sql("SELECT events FROM sessions WHERE container = ? AND id = ?", (container, session_id))
    if not rows or not rows[0][0]:
        return 0
    count = 0
    for part in (yield from parts_of(container, session_id)):
        rows = yield Sql(
            "SELECT COUNT(*) FROM records WHERE slot > ? AND slot < ? AND kind = 'event'", part.between(0, seq + 1)
        )
        count += int(rows[0][0])
    return count


def _info(row: Row) -> SessionInfo:
    id, state, at, user, metadata, events, retained, _ = row
    said: dict[str, Any] = {} if metadata is None else decode_json(metadata)
    kept = None if retained is None else bool(retained)
    return SessionInfo(str(id), cast("SessionState", state), float(at), user, said, int(events), kept)
