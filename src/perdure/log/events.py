"""Events that were sent: each once by its id, kept in order, and given to the waits that they are for.

Whoever sends an event and whoever records a wait for one both lock its name first, so that one of them sees the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from perdure.db.database import Row, Script, Sql
from perdure.log.log import Entry, Token
from perdure.log.policy import Quota, lock_quota
from perdure.log.rows import LAST_SLOT
from perdure.log.schema import ROOM
from perdure.log.waits import End, Waits, has_waits, read_wait
from perdure.types.base import decode_json, encode_json
from perdure.types.matching import matches, probes
from perdure.types.records import Answered, WaitOpened
from perdure.types.sent_event import SentEvent, event_used, same_event
from perdure.types.waits import EventWait, Received, Wait

KEPT = 24 * 3600.0
"""For how many seconds an event is kept at least; longer as long as an open run of its container is older."""

_EVENT = "name, data, id, at, user_id"
"""What is read of an event, in this order."""


def event_of(row: Row) -> SentEvent:
    """Make an event of what was read."""
    name, data, id, at, user = row
    return SentEvent(str(name), decode_json(bytes(data)), str(id), float(at), user)


class Sent(NamedTuple):
    """What became of events: as the store has them, those of them that are new, and the runs that can go on."""

    events: list[SentEvent]
    fresh: list[SentEvent]
    woken: list[str]


class Outside:
    """What an append has to do with others: waits that it records or gives up, answers of its own, events."""

    __slots__ = ("answers", "over", "sends", "waits", "woken")

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.answers: list[Answered] = []
        self.sends: list[SentEvent] = []
        self.over: list[str] = []
        self.woken: list[str] = []

    def with_entry(self, entry: Entry) -> Outside:
        """Add what is in one entry."""
        payload = entry.payload
        if isinstance(payload, WaitOpened):
            self.waits += payload.waits
        elif isinstance(payload, Answered):
            self.answers.append(payload)
        self.sends += entry.sends
        self.over += entry.over
        return self


class Events(Waits):
    """The events of one container."""

    quota: Quota | None

    async def send(self, events: Sequence[SentEvent], run_id: str | None = None) -> list[SentEvent]:
        """Take events in, all or none, and end the waits that they are for.

        Args:
            events: in order; of one whose id is there already with the same name and data nothing more becomes.
            run_id: the run that sends them; what has no user is then its user's.

        Returns:
            The events as the store has them.

        Raises:
            Conflict: an id is there with another name or other data.
            QuotaExceeded: the container has no room for the functions that they start, and no run sends them.
        """
        now = self.now()

        def script() -> Script[Sent]:
            if self.quota is not None and run_id is None:
                yield from lock_quota(self.db, self.container)  # before sessions, as whoever takes a run in
            yield from self._lock_names({one.name for one in events})
            return (yield from self._send(events, run_id, now))

        sent = await self.db.write(script, notify=True)
        self.tell(sent.woken)
        return sent.events

    async def event(self, id: str) -> SentEvent | None:
        """Find an event that was taken in, unless it is too old to be kept."""
        return await self.db.read(lambda: self._event(id))

    @abstractmethod
    def start_subscribed(self, event: SentEvent, now: float, *, limited: bool) -> Script[list[str]]: ...

    async def events_of(self, run_id: str) -> list[SentEvent]:
        """List the events that a run has sent and that are still kept, in order."""

        def script() -> Script[list[Row]]:
            text = f"SELECT {_EVENT} FROM events WHERE container = ? AND run = ? ORDER BY number"
            return (yield Sql(text, (self.container, run_id)))

        return [event_of(row) for row in await self.db.read(script)]

    def _lock_names(self, names: set[str]) -> Script[None]:
        """Lock names of events for this transaction, in one order; on SQLite everything is locked anyway."""
        if self._locks:
            for one in sorted(names):
                mark = int.from_bytes(blake2b(f"{self.container}\0{one}".encode(), digest_size=8).digest(), signed=True)
                yield Sql("SELECT pg_advisory_xact_lock(?)", (mark,), blind=True)

    def _send(
        self, events: Sequence[SentEvent], run_id: str | None, now: float, *, strict: bool = True
    ) -> Script[Sent]:
        """Take events in whose names are locked; unless `strict`, one whose id is there already is the one there."""
        sent: list[SentEvent] = []
        fresh: list[SentEvent] = []
        ends: list[tuple[End, str, str]] = []
        ended: set[str] = set()
        for event in events:
            data = encode_json(event.data)
            rows = yield Sql(
                "INSERT INTO events (container, id, name, data, at, run, user_id) "
                f"VALUES (?, ?, ?, ?, {self.db.clock}, ?, "
                "COALESCE(?, (SELECT user_id FROM runs WHERE container = ? AND id = ?))) "
                "ON CONFLICT (container, id) DO NOTHING RETURNING at, user_id",
                (self.container, event.id, event.name, data, run_id, event.user_id, self.container, run_id),
            )
            if not rows:
                known = yield from self._event(event.id)
                if strict and known is not None and not same_event(known, event):
                    raise event_used(known)
                sent.append(known or event)
                continue
            new = msgspec.structs.replace(event, at=float(rows[0][0]), user_id=rows[0][1])
            sent.append(new)
            fresh.append(new)
            used: set[str] = set()
            for id, asker, run, session, wait in (yield from self._waiting_for(new)):
                wanted = read_wait(bytes(wait))
                if id in ended or asker in used or not isinstance(wanted, EventWait):
                    continue
                if (wanted.since or 0.0) <= new.at and matches(wanted.match, new.data):
                    used.add(asker)  # one wait of each run
                    ended.add(id)
                    ends.append((End(id, asker, Received(new)), run, session))
        woken = yield from self._end_all(ends, now)
        for event in fresh:
            woken += yield from self.start_subscribed(event, now, limited=run_id is None)
        return Sent(sent, fresh, woken)

    def _event(self, id: str) -> Script[SentEvent | None]:
        rows = yield Sql(f"SELECT {_EVENT} FROM events WHERE container = ? AND id = ?", (self.container, id))
        return event_of(rows[0]) if rows else None

    def _waiting_for(self, event: SentEvent) -> Script[list[Row]]:
        """The waits that may be for an event, the oldest first."""
        marks = probes(event.data)
        some: tuple[str, ...] = ()
        where = ""
        if marks is not None:
            some = tuple(dict.fromkeys(marks))
            where = f" AND probe IN ({', '.join('?' * len(some))})"
        return (
            yield Sql(
                f"SELECT id, asker, run, session, wait FROM waiters WHERE container = ? AND name = ?{where} "
                "ORDER BY run, place, id",
                (self.container, event.name, *some),
            )
        )

    # -- in an append ------------------------------------------------------------------------------------------------

    def _lock_for(self, token: Token, outside: Outside) -> Script[None]:
        """Lock what an append needs beside its own session, before it, in the order in which everybody locks."""
        names = {one.name for one in outside.sends}
        yield from self._lock_names(names | {one.name for one in outside.waits if isinstance(one, EventWait)})
        if outside.sends and self._locks:
            sessions = {token.session_id}
            for event in outside.sends:
                sessions.update(str(row[3]) for row in (yield from self._waiting_for(event)))
            yield from self._lock_all(sessions)

    def _meet(self, token: Token, outside: Outside, now: float) -> Script[int]:
        """Do what an append has to do with others, behind its records, and give the number of the last record."""
        for one in outside.answers:  # an answer of the owner's own: to a wait of its run, or of one above it
            yield from self._take_waiter(one.wait_id)
            end = End(one.wait_id, one.wait_id.rpartition("~")[0] or token.run_id, one.answer)
            yield from self._keep_answer(token.run_id, end, 1, now)
            yield has_waits(self.container, token.run_id)
        for one in outside.over:
            yield from self._take_waiter(one)
        if outside.sends:
            sent = yield from self._send(outside.sends, token.run_id, now, strict=False)
            outside.woken = sent.woken
        if outside.waits:
            yield from self._wait(token.run_id, token.session_id, outside.waits, now)
        mine = (self.container, token.session_id)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
        return int(rows[0][0]) % ROOM

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def forget_events(self, limit: int = 1000) -> int:
        """Remove events that nobody can wait for any more, at most so many, and say how many were removed."""

        def oldest() -> Script[tuple[bool, int | None]]:
            text = f"SELECT 1 FROM events WHERE container = ? AND at < {self.db.clock} - ? LIMIT 1"
            if not (yield Sql(text, (self.container, KEPT))):
                return False, None
            text = (
                "SELECT MIN(event) FROM runs WHERE container = ? AND status NOT IN ('completed', 'failed', 'cancelled')"
            )
            first = (yield Sql(text, (self.container,)))[0][0]
            return True, None if first is None else int(first)

        old, before = await self.db.read(oldest)  # a run that is taken in meanwhile is younger than all there are
        if not old:
            return 0
        only = "" if before is None else f"AND number <= {before} "

        def script() -> Script[int]:
            rows = yield Sql(  # the last of all stays, so that no number is given again
                "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE container = ? AND "
                f"at < {self.db.clock} - ? {only}AND number < (SELECT MAX(number) FROM events) ORDER BY at LIMIT ?) "
                "RETURNING number",
                (self.container, KEPT, limit),
            )
            return len(rows)

        return await self.db.write(script)


def with_events() -> Script[list[str]]:
    """Say which containers have events."""
    return [str(row[0]) for row in (yield Sql("SELECT DISTINCT container FROM events"))]
