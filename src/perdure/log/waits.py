"""How waits are kept, and how they end: every way is one record, and whoever deletes the waiter's row decides.

A waiter belongs to the run that drives: a child run that is not detached is driven by its parent and waits with it, so
only what the parent records of it counts. A name of an event is locked first, then sessions in the order of their ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.log import ENDED
from perdure.log.rows import LAST_SLOT, Coded
from perdure.log.schema import ROOM
from perdure.types.errors import DefinitionError, UnknownName
from perdure.types.matching import matches, probe
from perdure.types.records import Answered, Payload, encode_payload, kind_of
from perdure.types.sent_event import SentEvent
from perdure.types.waits import (
    Answer,
    Approve,
    ChildEnded,
    Deny,
    Elapsed,
    EventWait,
    Received,
    Wait,
    WaitAnswer,
    check_answer,
    run_of_wait,
)

Taken: TypeAlias = Literal["taken", "early", "late"]
"""What became of an answer: the wait has ended by it, it is kept until the wait is recorded, or the wait was over."""

BATCH = 300
"""How many waits end in one transaction whose time has come."""

MOST = 2**20
"""More than the waits of one append; with the record's number it makes a waiter's place among those of its run."""

_PAGE = 100
_encode = msgspec.json.Encoder().encode
read_answer = msgspec.json.Decoder(WaitAnswer).decode
read_wait = msgspec.json.Decoder(Wait).decode
_PEOPLE = (Approve, Deny, Answer)


class Waker(Protocol):
    """Who sees to it that runs go on, and that waits end whose time has come."""

    def woken(self, container: str, run_ids: Sequence[str]) -> None:
        """Runs can go on, and perhaps nobody drives them."""
        ...

    def expected(self, expires: float) -> None:
        """A wait is over at a moment, unless it ends before."""
        ...


class End(NamedTuple):
    """A wait that ends: its id, who asked, how."""

    wait: str
    asker: str
    answer: WaitAnswer


class Waits(ABC):
    """The waits of one container."""

    db: Database
    now: Callable[[], float]
    container: str
    waker: Waker | None
    _locks: bool

    @abstractmethod
    def _lock(self, session_id: str) -> Sql: ...

    @abstractmethod
    def _insert(self, last: int, session: str, run_id: str, coded: Sequence[Coded], now: float) -> Script[None]: ...

    # -- ending ------------------------------------------------------------------------------------------------------

    async def answer(self, wait_id: str, answer: WaitAnswer) -> Taken:
        """End a wait, if nothing else has; an answer to one that is not recorded yet is kept until it is.

        Args:
            wait_id: the wait.
            answer: how it ends.

        Returns:
            `"late"` if something else has ended it, or its run; the answer is kept and changes nothing.

        Raises:
            InvalidId: it is the id of no wait.
            UnknownName: there is no such run.
            DefinitionError: the wait is not answered like this.
        """
        asker = run_of_wait(wait_id)
        data, now = _encode(answer), self.now()

        woken: list[str] = []

        def script() -> Script[Taken]:
            woken.clear()
            run, session = yield from self._driven_by(asker)
            if self._locks:
                yield self._lock(session)
            rows = yield from self._take_waiter(wait_id)
            if rows:
                if isinstance(answer, _PEOPLE):
                    check_answer(read_wait(bytes(rows[0][0])), answer)
                if (yield from self._end_waits(run, session, [End(wait_id, asker, answer)], now)):
                    woken.append(run)
                return "taken"
            first = yield Sql(
                "SELECT answer, seq FROM answers WHERE container = ? AND wait = ? AND late = 0",
                (self.container, wait_id),
            )
            if first and bytes(first[0][0]) == data:  # asked again, perhaps because the outcome was not known
                return "taken" if first[0][1] else "early"
            over = yield Sql(
                f"SELECT 1 FROM runs WHERE container = ? AND id IN (?, ?) AND status IN {ENDED}",
                (self.container, run, asker),
            )
            late = bool(first or over)
            yield from self._keep_answer(run, End(wait_id, asker, answer), 0, now, late=late)
            if not late:
                yield has_waits(self.container, run)
            return "late" if late else "early"

        taken = await self.db.write(script, notify=True)
        self.tell(woken)
        return taken

    async def due(self, limit: int = BATCH) -> int:
        """End waits whose time has come by the store's clock, the oldest first.

        Args:
            limit: at most so many.

        Returns:
            How many were due; as many as `limit` means that there may be more.
        """
        now = self.now()

        def script() -> Script[tuple[int, list[str]]]:
            rows = yield Sql(
                f"SELECT id, asker, run, session FROM waiters WHERE container = ? AND expires <= {self.db.clock} "
                "ORDER BY expires, id LIMIT ?",
                (self.container, limit),
            )
            ends = [(End(id, asker, Elapsed()), run, session) for id, asker, run, session in rows]
            return len(ends), (yield from self._end_all(ends, now))

        count, woken = await self.db.write(script, notify=True)
        self.tell(woken)
        return count

    async def overdue(self, limit: int = BATCH) -> int:
        """Let runs go on that wait and have used their time, the oldest first: whoever drives them ends them.

        Args:
            limit: at most so many.

        Returns:
            How many there were.
        """
        now = self.now()
        text = (
            "SELECT id, session FROM runs WHERE container = ? AND status = 'waiting' AND cancelled = 0 AND "
            f"ends_at > 0 AND ends_at <= {self.db.clock} ORDER BY ends_at, id LIMIT ?"
        )

        def script() -> Script[tuple[int, list[str]]]:
            rows = yield Sql(text, (self.container, limit))
            tops: dict[str, tuple[str, str]] = {}
            for id, _ in rows:
                tops[str(id)] = yield from self._driven_by(str(id))
            yield from self._lock_all({str(its) for _, its in rows} | {its for _, its in tops.values()})
            woken: list[str] = []
            for id, (above, its) in tops.items():
                won = yield Sql(
                    "UPDATE runs SET status = 'queued' WHERE container = ? AND id = ? AND status = 'waiting' "
                    "AND cancelled = 0 RETURNING 1",
                    (self.container, id),
                )
                if won and above == id:
                    woken.append(id)
                elif won:  # a child goes on with its parent, which waits in its place
                    woken += yield from self._end_of_children(above, its, [id], now)
            return len(rows), woken

        count, woken = await self.db.write(script, notify=True)
        self.tell(woken)
        return count

    def tell(self, woken: Sequence[str], expected: Sequence[float] = ()) -> None:
        """Let it be known which runs can go on, and when waits are over."""
        if self.waker is not None:
            if woken:
                self.waker.woken(self.container, woken)
            if expected:
                self.waker.expected(min(expected))

    def _end_all(self, ends: Iterable[tuple[End, str, str]], now: float) -> Script[list[str]]:
        """End waits of several runs, each with its run and session, and give the runs that can go on."""
        by_run: dict[tuple[str, str], list[End]] = {}
        for end, run, session in ends:
            by_run.setdefault((session, run), []).append(end)
        yield from self._lock_all({session for session, _ in by_run})
        woken: list[str] = []
        for (session, run), some in sorted(by_run.items()):
            mine: list[End] = []
            for end in some:
                taken = yield from self._take_waiter(end.wait)
                mine += [end] * len(taken)
            if mine and (yield from self._end_waits(run, session, mine, now)):
                woken.append(run)
        return woken

    def _lock_all(self, sessions: Collection[str]) -> Script[None]:
        if self._locks:
            for one in sorted(sessions):
                yield self._lock(one)

    def _end_of_children(self, run: str, session: str, ended: Sequence[str], now: float) -> Script[list[str]]:
        """End what a run waits for on behalf of children that were cancelled; its session is locked."""
        ends: list[tuple[End, str, str]] = []
        for child in ended:
            text = "SELECT id FROM waiters WHERE container = ? AND run = ? AND asker = ? ORDER BY id"
            rows = yield Sql(text, (self.container, run, child))
            ends += [(End(str(row[0]), child, ChildEnded(child)), run, session) for row in rows]
        return (yield from self._end_all(ends, now))

    def _take_waiter(self, wait_id: str) -> Script[list[Row]]:
        text = "DELETE FROM waiters WHERE container = ? AND id = ? RETURNING wait"
        return (yield Sql(text, (self.container, wait_id)))

    def _end_waits(self, run: str, session: str, ends: Sequence[End], now: float) -> Script[bool]:
        """Write in a locked session how waits have ended, and say whether the run can go on because of it."""
        mine = (self.container, session)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
        last = int(rows[0][0])
        payloads: list[Payload] = [Answered(end.wait, end.answer) for end in ends]
        yield from self._insert(last, session, run, [Coded(None, kind_of(o), encode_payload(o)) for o in payloads], now)
        for seq, end in enumerate(ends, last % ROOM + 1):
            yield from self._keep_answer(run, end, seq, now)
        seq = last % ROOM + len(ends)
        rows = yield Sql(
            "UPDATE runs SET last = ?, woken = ?, status = CASE status WHEN 'waiting' THEN 'queued' ELSE status END, "
            "held = CASE held WHEN 'waiting' THEN 'queued' ELSE held END WHERE container = ? AND id = ? "
            "RETURNING status",
            (seq, seq, self.container, run),
        )
        return rows[0][0] == "queued"

    def _keep_answer(self, run: str, end: End, seq: int, now: float, *, late: bool = False) -> Script[None]:
        event = end.answer.event.id if isinstance(end.answer, Received) else None
        values = (self.container, end.wait, run, end.asker, _encode(end.answer), event, seq, int(late), now)
        yield Sql(
            "INSERT INTO answers (container, wait, run, asker, answer, event, seq, late, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (container, wait) WHERE late = 0 "
            "DO UPDATE SET seq = CASE answers.seq WHEN 0 THEN excluded.seq ELSE answers.seq END",
            values,
            blind=True,
        )

    def _driven_by(self, run_id: str) -> Script[tuple[str, str]]:
        """Find the run that drives another one, which may be itself, and its session."""
        id: str | None = run_id
        while True:
            rows = yield Sql(
                "SELECT parent, detached, session FROM runs WHERE container = ? AND id = ?", (self.container, id)
            )
            if not rows:
                raise UnknownName("run", str(id))
            parent, detached, session = rows[0]
            if parent is None or detached:
                return str(id), str(session)
            id = parent

    # -- recording ---------------------------------------------------------------------------------------------------

    def _wait(self, run_id: str, session: str, waits: Sequence[Wait], now: float) -> Script[None]:
        """Keep what a run waits for from now on, in its locked session; what is over already ends at once."""
        rows = yield Sql(
            "SELECT parent, detached, cancelled FROM runs WHERE container = ? AND id = ?", (self.container, run_id)
        )
        parent, detached, cancelled = rows[0]
        if (parent is not None and not detached) or cancelled:
            return  # who drives it waits for it; or it ends
        yield has_waits(self.container, run_id)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", (self.container, session))
        first_place = int(rows[0][0]) % ROOM * MOST
        timed = any(one.expires is not None for one in waits)
        clock = float((yield Sql(f"SELECT {self.db.clock}"))[0][0]) if timed else 0.0
        ends: list[End] = []
        used: set[str] = set()
        for place, wait in enumerate({one.id: one for one in waits}.values(), first_place):
            first = yield Sql(
                "SELECT answer, seq FROM answers WHERE container = ? AND wait = ? AND late = 0",
                (self.container, wait.id),
            )
            if first and first[0][1]:
                continue  # its record is there, and the driver is about to see it
            answer = yield from self._early(wait, first)
            if answer is None and isinstance(wait, EventWait):
                answer = yield from self._came(run_id, wait, used)
            if answer is None and wait.expires is not None and wait.expires <= clock:
                answer = Elapsed()
            if answer is not None:
                yield from self._take_waiter(wait.id)  # it may have waited before, beside another one that has ended
                ends.append(End(wait.id, wait.run_id, answer))
                if isinstance(answer, Received):
                    used.add(answer.event.id)
                continue
            name, mark = (wait.name, probe(wait.match)) if isinstance(wait, EventWait) else (None, None)
            yield Sql(
                "INSERT INTO waiters (container, id, run, session, asker, kind, wait, name, probe, expires, place, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    *(self.container, wait.id, run_id, session, wait.run_id, wait.__struct_config__.tag),
                    *(_encode(wait), name, mark, wait.expires, place, now),
                ),
                blind=True,
            )
        if ends:
            yield from self._end_waits(run_id, session, ends, now)

    def wait(self, run_id: str, session: str, waits: Sequence[Wait]) -> Script[None]:
        """Keep what a run waits for that was taken in from elsewhere, in the transaction that takes it in."""
        yield from self._wait(run_id, session, waits, self.now())

    def _early(self, wait: Wait, first: Sequence[Row]) -> Script[WaitAnswer | None]:
        """Read an answer that came before its wait; one that does not fit is taken for a late one."""
        if not first:
            return None
        answer = read_answer(bytes(first[0][0]))
        try:
            if isinstance(answer, _PEOPLE):
                check_answer(wait, answer)
            return answer
        except DefinitionError:
            yield Sql(
                "UPDATE answers SET late = 1 WHERE container = ? AND wait = ? AND late = 0",
                (self.container, wait.id),
                blind=True,
            )
            return None

    def _came(self, run: str, wait: EventWait, used: Collection[str]) -> Script[Received | None]:
        """Find the oldest event that a wait is for, which came since its run was created and was not used by it."""
        rows = yield Sql("SELECT event FROM runs WHERE container = ? AND id = ?", (self.container, wait.run_id))
        after = int(rows[0][0]) if rows else 0
        while True:
            rows = yield Sql(
                "SELECT e.number, e.id, e.data, e.at, e.user_id FROM events e WHERE e.container = ? AND e.name = ? "
                "AND e.number > ? AND e.at >= ? AND NOT EXISTS (SELECT 1 FROM answers a WHERE "
                "a.container = e.container AND a.run = ? AND a.asker = ? AND a.event = e.id AND a.late = 0) "
                "ORDER BY e.number LIMIT ?",
                (self.container, wait.name, after, wait.since or 0.0, run, wait.run_id, _PAGE),
            )
            for number, id, data, at, user in rows:
                after = int(number)
                event = SentEvent(wait.name, msgspec.json.decode(bytes(data)), str(id), float(at), user)
                if id not in used and matches(wait.match, event.data):
                    return Received(event)
            if len(rows) < _PAGE:
                return None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def waits(self, run_id: str | None = None, *, after: str = "", limit: int = 100) -> list[Wait]:
        """List what runs wait for, in the order of the waits' ids; only what one run waits for if it is given.

        Args:
            run_id: the run that drives.
            after: the id of the last wait of the page before.
            limit: at most so many.
        """
        only = "" if run_id is None else " AND run = ?"

        def script() -> Script[list[Row]]:
            text = f"SELECT wait FROM waiters WHERE container = ? AND id > ?{only} ORDER BY id LIMIT ?"
            return (yield Sql(text, (self.container, after, *([run_id] if run_id is not None else []), limit)))

        return [read_wait(bytes(row[0])) for row in await self.db.read(script)]

    async def late(self, run_id: str) -> list[tuple[str, WaitAnswer]]:
        """List answers that came when a wait of a run was over, with the waits' ids."""

        def script() -> Script[list[Row]]:
            text = "SELECT wait, answer FROM answers WHERE container = ? AND run = ? AND late = 1 ORDER BY at, wait"
            return (yield Sql(text, (self.container, run_id)))

        return [(str(wait), read_answer(bytes(answer))) for wait, answer in await self.db.read(script)]

    async def driver_of(self, run_id: str) -> str:
        """Say which run drives another one: itself, unless it is a child that its parent waits for.

        Raises:
            UnknownName: there is no such run.
        """
        return (await self.db.read(lambda: self._driven_by(run_id)))[0]


def has_waits(container: str, run_id: str) -> Sql:
    """Note that a run has rows that go when it ends."""
    text = "UPDATE runs SET woken = 1 WHERE container = ? AND id = ? AND woken = 0"
    return Sql(text, (container, run_id), blind=True)


def over(container: str, run_id: str, *, ended: bool) -> Script[None]:
    """Forget what a run waits for, and if it has ended also how its waits have ended; late answers stay."""
    yield Sql("DELETE FROM waiters WHERE container = ? AND run = ?", (container, run_id), blind=True)
    if ended:
        yield Sql("DELETE FROM answers WHERE container = ? AND run = ? AND late = 0", (container, run_id), blind=True)


def soonest(db: Database) -> Script[tuple[float, float | None, float | None]]:
    """Say what time it is for a store, when its next wait or the time of a run that waits is over, if ever, and when a
    container was changed last, if ever."""
    rows = yield Sql(
        f"SELECT {db.clock}, (SELECT MAX(updated_at) FROM containers), "
        "(SELECT MIN(expires) FROM waiters WHERE expires IS NOT NULL), "
        "(SELECT MIN(ends_at) FROM runs WHERE status = 'waiting' AND cancelled = 0 AND ends_at > 0)"
    )
    now, changed, *moments = rows[0]
    soon = min((float(one) for one in moments if one is not None), default=None)
    return float(now), soon, None if changed is None else float(changed)


def with_due(db: Database) -> Script[list[str]]:
    """Say which containers have waits, or runs that wait, whose time has come."""
    rows = yield Sql(
        f"SELECT container FROM waiters WHERE expires <= {db.clock} UNION SELECT container FROM runs "
        f"WHERE status = 'waiting' AND cancelled = 0 AND ends_at > 0 AND ends_at <= {db.clock}"
    )
    return [str(row[0]) for row in rows]
