"""The log in a database: fenced appends, posts, reads; the same scripts on SQLite and PostgreSQL.

Whoever writes to a session locks it first, so the order of commitment is the order of the sequence and no reader sees a
gap. On SQLite a writing transaction has the whole file locked; on PostgreSQL the session's
row is locked. Only then is the token compared and the last sequence number read, in one statement: the session's row
holds the token of whoever has the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from perdure.db.database import Database, Exists, Row, Script, Sql, StoreFull
from perdure.log.events import Outside
from perdure.log.forks import Forks
from perdure.log.functions import Functions
from perdure.log.live import LiveTable
from perdure.log.log import (
    ENDED,
    INBOX,
    OPEN,
    Accepted,
    CancelWins,
    Entry,
    NewRun,
    OnBusy,
    RunRow,
    Token,
    at_work,
    seen_beat,
    stops,
    used_otherwise,
)
from perdure.log.policy import Quota, check_quota
from perdure.log.reads import Reads
from perdure.log.rows import (
    FENCED,
    INLINE,
    LAST_SLOT,
    RECORD,
    RUN,
    Coded,
    insert_rows,
    new_nonce,
    run_of,
)
from perdure.log.schema import ROOM
from perdure.log.session_events import SessionEvents
from perdure.log.transact import Transactions
from perdure.log.waits import Waker, over
from perdure.types.errors import Conflict, UnknownName
from perdure.types.records import (
    SCHEMA_VERSION,
    Answered,
    CancelAsked,
    Payload,
    RunFinished,
    RunStatus,
    WaitOpened,
    encode_payload,
    kind_of,
)
from perdure.types.session import CLOSED

_ENTER_LOCKED = (
    "INSERT INTO sessions (container, id, turn, epoch, nonce, user_id, parent, created_at) "
    "VALUES (?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT (container, id) DO UPDATE SET "
    "epoch = CASE WHEN sessions.turn IS NULL THEN excluded.epoch ELSE sessions.epoch END, "
    "nonce = CASE WHEN sessions.turn IS NULL THEN excluded.nonce ELSE sessions.nonce END, "
    "turn = COALESCE(sessions.turn, excluded.turn) RETURNING number, nonce, turn, status, NULL"
)
"""Enter a session with a run. Where this has to wait for a lock, it does not see what was written meanwhile."""
_ENTER = f"{_ENTER_LOCKED.removesuffix('NULL')}{LAST_SLOT}"
_OUTSIDE = frozenset((WaitOpened, Answered))
"""What the owner of a run appends that others have to do with."""


class SqlLog(Reads, Transactions, Functions, Forks, SessionEvents):
    """One container's records in a database.

    Args:
        db: the opened database, with the log's tables.
        now: the store's clock, seconds since the epoch.
        owner: this process's id as an owner of runs.
        container: the tenant; nothing of another one is seen.
        live: what open steps have said so far; containers of one process share it.
        waker: who is told of runs that can go on, and of moments at which waits are over.
    """

    def __init__(
        self,
        db: Database,
        now: Callable[[], float],
        owner: str,
        container: str = "default",
        live: LiveTable | None = None,
        waker: Waker | None = None,
    ) -> None:
        self.db = db
        self.now = now
        self.owner = owner
        self.container = container
        self.live = live or LiveTable(db)
        self.waker = waker
        self.quota: Quota | None = None
        self._locks = db.dialect == "postgres"  # on SQLite a writing transaction has the whole file locked

    # -- taking runs in, and owning them -----------------------------------------------------------------------------

    async def accept(self, new: NewRun, payload: Payload, on_busy: OnBusy = "queue") -> Accepted:
        """Take a run in, in one commit: it begins at once if its session is free, else it queues.

        Args:
            new: the run.
            payload: what it starts from; its first record.
            on_busy: what to do if the session is not free: queue, refuse, or cancel all that is open in it and queue.

        Raises:
            Conflict: the id belongs to a run with another input or definition, or the session is at work and
                `on_busy` is `"reject"`.
            QuotaExceeded: the container has no room for it.
        """
        first = Coded(None, kind_of(payload), encode_payload(payload))
        nonce, now = new_nonce(), self.now()
        container, locks = self.container, self._locks

        def script() -> Script[Accepted]:
            if self.quota is not None:
                yield from check_quota(self.db, container, new, self.quota)
            session = (container, new.session_id, new.id, nonce, new.user_id, new.parent, now)
            number, holder, turn, state, last = (yield Sql(_ENTER_LOCKED if locks else _ENTER, session))[0]
            if state in CLOSED:
                yield from self.refuse_run(new.id, new.session_id, state)
            free = holder == nonce
            begins = free and not new.detached and new.lane is None
            if not free and on_busy != "queue":
                yield from self._make_way(new, turn, now, reject=on_busy == "reject")
                last = None
            if last is None:
                last = (yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE number = ?", (number,)))[0][0]
            position = last % ROOM + 1
            owner = self.owner if begins else None
            status: RunStatus = "running" if begins else "queued"
            epoch = 1 if begins else 0
            yield Sql(
                "INSERT INTO runs (container, id, session, definition, status, input_hash, position, last, epoch, "
                "nonce, owner, claimed_at, parent, parent_key, user_id, created_at, detached, lane, queuer, event) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                "(SELECT COALESCE(MAX(number), 0) FROM events))",
                (
                    *(container, new.id, new.session_id, new.definition, status, new.input_hash, position, position),
                    *(epoch, nonce if begins else "", owner, position),
                    *(new.parent, new.parent_key, new.user_id, now, int(new.detached), new.lane),
                    None if begins or new.detached else self.owner,  # who waits for its turn
                ),
                blind=True,
            )
            yield from self._insert(last, new.session_id, new.id, [first], now)
            hashed, parent, user = new.input_hash, new.parent, new.user_id
            run = RunRow(
                *(new.id, new.session_id, new.definition, status, epoch, owner, position, 0, parent, user, hashed, now)
            )
            token = Token(new.id, new.session_id, 1, nonce) if begins else None
            return Accepted(run, token, position, False, None if free else turn)

        try:
            return await self.db.write(script, notify=True, brief=len(first.data) <= INLINE and on_busy == "queue")
        except Exists:
            run = await self.run(new.id)
            if (run.input_hash, run.definition) != (new.input_hash, new.definition):
                raise used_otherwise(new.id, run.definition) from None
            return Accepted(run, None, 0, True)

    def _make_way(self, new: NewRun, turn: str, now: float, *, reject: bool) -> Script[None]:
        """Refuse a run whose session is at work, or cancel what is open there; a repetition changes nothing."""
        known = yield Sql("SELECT 1 FROM runs WHERE container = ? AND id = ?", (self.container, new.id))
        if known:
            return
        if reject:
            raise at_work(new.session_id, turn)
        rows = yield Sql(
            f"SELECT id, session FROM runs WHERE container = ? AND session = ? AND status IN {OPEN} ORDER BY position",
            (self.container, new.session_id),
        )
        for id, session in rows:
            yield from self._cancel(id, session, CancelAsked("interrupted"), now)

    async def claim(self, run_id: str, *, dead: Collection[str] = ()) -> tuple[Token, int] | None:
        """Own a run with a new epoch, if nobody alive owns it and it has its session's turn.

        Args:
            run_id: the run.
            dead: owners that are known to be dead; a run of any other owner is left alone. In a mapping each has the
                beat at which it was seen (0: it was not known): one that has beaten since is alive.

        Returns:
            The token and the session's head; None if the run is not to be had.

        Raises:
            UnknownName: there is no such run.
        """
        nonce = new_nonce()
        container = self.container

        def script() -> Script[tuple[Token, int] | None]:
            session = yield from self._lock_of(run_id)
            rows = yield Sql(
                f"SELECT number, turn, {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", (container, session)
            )
            number, turn, last = rows[0]
            rows = yield Sql(
                f"SELECT {RUN}, claimed_at, cancelled FROM runs WHERE container = ? AND id = ?", (container, run_id)
            )
            run, (claimed_at, cancelled) = run_of(rows[0][:-2]), rows[0][-2:]
            died = run.status == "running" and run.owner in dead
            if turn != run_id or not (died or run.status in ("queued", "waiting")):
                return None
            beat = seen_beat(dead, run.owner) if died and run.owner is not None and run.owner != self.owner else None
            if beat is not None:
                rows = yield Sql("SELECT 1 FROM owners WHERE id = ? AND beat <> ?", (run.owner, beat))
                if rows:
                    return None  # it had nothing to do and so did not beat, until it took this run in
            if run.lane is not None and not (died or cancelled) and not (yield from self.has_room(run_id, run.lane)):
                return None
            # a death counts until a step is closed: a run that gets on is not what kills its process
            rows = yield Sql(
                "SELECT 1 FROM records WHERE slot > ? AND slot <= ? AND run = ? AND key IS NOT NULL LIMIT 1",
                (number * ROOM + claimed_at, last, run_id),
            )
            deaths = (0 if rows else run.deaths) + died
            epoch, head = run.epoch + 1, last % ROOM
            yield Sql(
                "UPDATE runs SET status = 'running', owner = ?, epoch = ?, nonce = ?, deaths = ?, claimed_at = ? "
                "WHERE container = ? AND id = ?",
                (self.owner, epoch, nonce, deaths, head, container, run_id),
                blind=True,
            )
            yield Sql("UPDATE sessions SET epoch = ?, nonce = ? WHERE number = ?", (epoch, nonce, number), blind=True)
            yield from self.live.clear(container, session, run_id)  # what was said in another attempt is void
            return Token(run_id, session, epoch, nonce), head

        return await self.db.write(script)

    # -- writing -----------------------------------------------------------------------------------------------------

    async def append(
        self,
        token: Token,
        entries: Sequence[Entry],
        status: RunStatus | None = None,
        *,
        repeat: bool = False,
        seen: int | None = None,
        until: float | None = None,
    ) -> int:
        """Write records of one step, all or none; a terminal record ends the run and frees its session.

        Args:
            token: proof of owning the run.
            entries: the records; a step that is closed already with the same payload is not closed again.
            status: the run's status from now on, if it changes without a terminal record.
            repeat: whether this very append was tried before with an unknown outcome; what the run has of it is not
                written again.
            seen: up to which record the owner has folded; a wait that has ended since lets the run not wait.
            until: when a run that waits from now on goes on to its end, by the store's clock.

        Returns:
            The sequence number of the last record; higher than expected if others have written, or a wait that is
            recorded here has ended already.

        Raises:
            Conflict: another owner has the run since, it has ended, or another payload closes a step already.
            CancelWins: the run was to be completed, and a cancel came first.
            StoreError: the database failed; if `retryable`, the append may be repeated as it is.
        """
        now = self.now()
        ends, cancels, stopped = status, False, False
        coded: list[Coded] = []
        outside: Outside | None = None
        for one in entries:
            payload = one.payload
            coded.append(Coded(one.key, kind_of(payload), encode_payload(payload), one.at))
            if isinstance(payload, RunFinished):
                ends = payload.status
            elif type(payload) is CancelAsked:
                stopped, cancels = True, cancels or stops(payload)
            if type(payload) in _OUTSIDE or one.sends or one.over:
                outside = (outside or Outside()).with_entry(one)
        keys = [one.key for one in coded if one.key is not None]
        said = self.live.said(self.container, token.run_id, None if ends in ENDED else keys)
        above: list[str] = []

        def script(look: bool = repeat) -> Script[int]:
            above.clear()
            if ends in ENDED:
                yield from self.lock_above(token.run_id)
            if outside is not None:
                yield from self._lock_for(token, outside)
            last = yield from self._fence(token)
            if last is None:
                return (yield from self._refused(token, coded, status))
            fresh: Sequence[Coded] = coded
            known: dict[int, int] = {}
            if look:
                known = yield from self._known(token, coded)
                fresh = [one for n, one in enumerate(coded) if n not in known]
            if fresh:
                yield from self._insert(last, token.session_id, token.run_id, fresh, now)
            head = last % ROOM + len(fresh)
            if outside is not None:
                head = yield from self._meet(token, outside, now)
            if stopped or ends == "failed":
                yield from self._cancel_below(token.run_id, now, detached=stopped)
            if cancels or ends is not None:
                yield from self._turn(token, ends, head, cancels=cancels, seen=seen, until=until)
                if ends in ENDED:
                    above.extend((yield from self.tell_above(token.run_id, now)))
            if said:
                yield from self.live.clear(self.container, token.session_id, token.run_id, said)
            return head if fresh else max(known.values(), default=head)

        changes = (ends is not None and ends != "running") or outside is not None
        brief = outside is None and sum(len(one.data) for one in coded) <= INLINE
        try:
            seq = await self.db.write(script, notify=changes, brief=brief)
        except Exists:
            seq = await self.db.write(lambda: script(True), notify=changes)
        if said:
            self.live.cleared(self.container, token.run_id, said)
        if above:
            self.tell(above)
        if outside is not None or until is not None:
            waits = outside.waits if outside is not None else ()
            expected = [wait.expires for wait in waits if wait.expires is not None]
            woken = outside.woken if outside is not None else ()
            self.tell(woken, expected if until is None else [*expected, until])
        return seq

    async def post(self, run_id: str, payload: Payload) -> int:
        """Write an inbox record, without a token; a cancel is posted to all open descendants of the run with it.

        Returns:
            Its sequence number.

        Raises:
            UnknownName: there is no such run.
            TypeError: the payload is not of an inbox kind.
        """
        if not isinstance(payload, INBOX):
            raise TypeError(f"A {type(payload).__name__} cannot be posted; only the owner of the run may append it.")
        now = self.now()

        woken: list[str] = []

        def script() -> Script[int]:
            woken.clear()
            if not isinstance(payload, CancelAsked):
                session = yield from self._lock_of(run_id)
                return (yield from self._post(run_id, session, payload, now))
            above, its = yield from self._driven_by(run_id)
            if above != run_id and self._locks:
                yield self._lock(its)  # from the top down
            session = yield from self._lock_of(run_id)
            ended: list[str] = []
            seq = yield from self._cancel(run_id, session, payload, now, ended)
            if above != run_id:
                woken.extend((yield from self._end_of_children(above, its, ended, now)))
            return seq

        seq = await self.db.write(script, notify=True)
        self.tell(woken)
        return seq

    def _post(self, run_id: str, session: str, payload: Payload, now: float) -> Script[int]:
        """Write an inbox record into a locked session."""
        mine = (self.container, session)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
        last = int(rows[0][0])
        coded = Coded(None, kind_of(payload), encode_payload(payload))
        yield from self._insert(last, session, run_id, [coded], now)
        seq = last % ROOM + 1
        also = f", woken = {seq}" if type(payload) is not CancelAsked else ", cancelled = 1" if stops(payload) else ""
        text = f"UPDATE runs SET last = ?{also} WHERE container = ? AND id = ?"
        yield Sql(text, (seq, self.container, run_id), blind=True)
        if stops(payload):
            yield from over(self.container, run_id, ended=False)
        return seq

    def _cancel(
        self, run_id: str, session: str, payload: CancelAsked, now: float, asked: list[str] | None = None
    ) -> Script[int]:
        """Ask for the end of a run and of all below it, and note which were asked; sessions are locked from the top
        down, so in one order."""
        seq = yield from self._post(run_id, session, payload, now)
        if asked is not None:
            asked.append(run_id)
        children = yield Sql(
            f"SELECT id, session FROM runs WHERE container = ? AND parent = ? AND status IN {OPEN} ORDER BY id",
            (self.container, run_id),
        )
        for child, its in children:
            if self._locks:
                yield self._lock(its)
            yield from self._cancel(child, its, payload, now, asked)
        return seq

    def _cancel_below(self, run_id: str, now: float, *, detached: bool) -> Script[None]:
        """Ask for the end of what a run has started and that is open, when the run is stopped by its owner or fails.

        What waits with it has nobody else to end it; what is `detached` goes on without a run that has failed.
        """
        only = "" if detached else "AND detached = 0 "
        rows = yield Sql(
            f"SELECT id, session FROM runs WHERE container = ? AND parent = ? AND status IN {OPEN} AND cancelled = 0 "
            f"{only}ORDER BY id",
            (self.container, run_id),
        )
        for child, its in rows:
            if self._locks:
                yield self._lock(its)
            yield from self._cancel(child, its, CancelAsked(detail="The run that had started this one is over."), now)

    def _lock_of(self, run_id: str) -> Script[str]:
        """Lock a run's session, and name it."""
        rows = yield Sql("SELECT session FROM runs WHERE container = ? AND id = ?", (self.container, run_id))
        if not rows:
            raise UnknownName("run", run_id)
        session = str(rows[0][0])
        if self._locks:
            yield self._lock(session)
        return session

    def _lock(self, session_id: str) -> Sql:
        """Lock a session; a statement of its own, as what follows must see what was committed while this one waited."""
        mine = (self.container, session_id)
        return Sql("SELECT 1 FROM sessions WHERE container = ? AND id = ? FOR UPDATE", mine, blind=True)

    def _fence(self, token: Token) -> Script[int | None]:
        """Lock the session, and give its last slot if the token is its owner's."""
        if self._locks:
            yield self._lock(token.session_id)
        rows = yield Sql(FENCED, (self.container, token.session_id, token.run_id, token.epoch, token.nonce))
        return int(rows[0][0]) if rows else None

    def _refused(self, token: Token, coded: Sequence[Coded], asked: RunStatus | None) -> Script[int]:
        """The token has not the turn: fine if this very append ended the run before, else say why."""
        rows = yield Sql(
            "SELECT epoch, nonce, status FROM runs WHERE container = ? AND id = ?", (self.container, token.run_id)
        )
        if not rows:
            raise UnknownName("run", token.run_id)
        epoch, nonce, status = rows[0]
        if (epoch, nonce) != (token.epoch, token.nonce):
            raise Conflict(
                f"The run {token.run_id!r} belongs to another owner since epoch {epoch}; this one must stop."
            )
        known = yield from self._known(token, coded)
        if len(known) < len(coded) or asked not in (None, status):
            raise Conflict(f"The run {token.run_id!r} is {status}; nothing more can be appended to it.")
        if known:
            return max(known.values())
        mine = (self.container, token.session_id)
        rows = yield Sql(f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?", mine)
        return int(rows[0][0]) % ROOM

    def _known(self, token: Token, coded: Sequence[Coded]) -> Script[dict[int, int]]:
        """Which of these the run has already, with their sequence numbers."""
        mine = (self.container, token.run_id)
        keys = [one.key for one in coded if one.key is not None]
        if len(set(keys)) < len(keys):
            raise Conflict(f"An append to the run {token.run_id!r} closes a step twice: {', '.join(keys)}.")
        rows: list[Row] = []
        if keys:
            marks = ", ".join("?" * len(keys))
            rows = yield Sql(f"{RECORD} WHERE r.container = ? AND r.run = ? AND r.key IN ({marks})", (*mine, *keys))
        by_key = {row[3]: row for row in rows}
        start, end, *_ = yield from self._bounds(token.run_id)
        rows = yield Sql("SELECT claimed_at FROM runs WHERE container = ? AND id = ?", mine)
        since = start - start % ROOM + int(rows[0][0])
        rows = yield Sql(
            f"{RECORD} WHERE r.slot > ? AND r.slot < ? AND r.run = ? AND r.key IS NULL", (since, end, token.run_id)
        )
        without = {bytes(row[6]): row for row in rows if row[6] is not None}
        known: dict[int, int] = {}
        for n, one in enumerate(coded):
            key, data = one.key, one.data
            row = without.get(data) if key is None else by_key.get(key)
            if row is not None:
                if key is not None and bytes(row[6] or b"") != data:
                    raise Conflict(
                        f"The step {key!r} of the run {token.run_id!r} is closed already, with another result."
                    )
                known[n] = int(row[0])
        return known

    def _insert(self, last: int, session: str, run_id: str, coded: Sequence[Coded], now: float) -> Script[None]:
        """Write records behind a session's last slot."""
        if last % ROOM + len(coded) >= ROOM:
            raise StoreFull(f"The session {session!r} has {ROOM:,} records, which is all it may have; start another.")
        container = self.container
        rows: list[Row] = []
        blobs: list[Row] = []
        for slot, one in enumerate(coded, last + 1):
            data = one.data
            large = len(data) > INLINE
            kept = None if large else data
            made = now if one.at is None else one.at
            seq, version = slot % ROOM, SCHEMA_VERSION
            rows.append((slot, container, session, seq, run_id, one.key, one.kind, version, kept, int(large), made))
            if large:
                blobs.append((slot, container, data))
        yield from insert_rows("records", rows)
        if blobs:
            yield from insert_rows("blobs", blobs)

    def _turn(
        self,
        token: Token,
        status: RunStatus | None,
        head: int,
        *,
        cancels: bool,
        seen: int | None,
        until: float | None,
    ) -> Script[None]:
        """Change a run's status; one that has ended or is parked hands the session to the next in the queue."""
        mine = (self.container, token.run_id)
        if cancels:
            yield Sql("UPDATE runs SET cancelled = 1 WHERE container = ? AND id = ?", mine, blind=True)
        if status is None:
            return
        owner = self.owner if status == "running" else None
        if status == "waiting" and seen is not None:
            yield Sql(
                "UPDATE runs SET status = CASE WHEN woken > ? THEN status ELSE 'waiting' END, "
                "owner = CASE WHEN woken > ? THEN owner END, last = ?, ends_at = ? WHERE container = ? AND id = ?",
                (seen, seen, head, until, *mine),
                blind=True,
            )
            return  # a wait that has ended since is about to be folded: nobody else would wake the run
        rows = yield Sql(
            "UPDATE runs SET status = ?, owner = ?, last = ? WHERE container = ? AND id = ? "
            f"{'AND cancelled = 0 ' if status == 'completed' else ''}RETURNING woken",
            (status, owner, head, *mine),
        )
        if not rows:
            raise CancelWins(f"The run {token.run_id!r} was cancelled before it had finished.")
        if status in ENDED and rows[0][0]:
            yield from over(*mine, ended=True)
        if status in ENDED or status == "parked":
            yield Sql(
                "UPDATE sessions SET epoch = 0, nonce = '', turn = (SELECT id FROM runs WHERE container = ? AND "
                "session = ? AND status = 'queued' ORDER BY position LIMIT 1) WHERE container = ? AND id = ?",
                (self.container, token.session_id, self.container, token.session_id),
                blind=True,
            )
