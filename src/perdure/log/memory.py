"""A log in memory: the same rules and the same bytes, for runs that need not outlive their result."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence

from perdure.log.log import (
    ENDED,
    INBOX,
    OPEN,
    Accepted,
    CancelWins,
    Entry,
    Fork,
    NewRun,
    OnBusy,
    Point,
    RunRow,
    Token,
    at_work,
    beyond,
    ended_as,
    fork_records,
    forked_otherwise,
    still_open,
    stops,
    used_otherwise,
    written_since,
)
from perdure.types.errors import Conflict, UnknownName
from perdure.types.records import (
    CancelAsked,
    Compacted,
    Payload,
    Record,
    RunFinished,
    RunStatus,
    decode_payload,
    encode_payload,
)
from perdure.types.visible import visible

_nonces = itertools.count(1)


class _Session:
    __slots__ = ("queue", "rows", "turn")

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None, bytes, float]] = []
        self.turn: str | None = None
        self.queue: tuple[str, ...] = ()


class _Run:
    __slots__ = (
        "cancelled",
        "claimed_at",
        "closed",
        "deaths",
        "epoch",
        "new",
        "nonce",
        "position",
        "session",
        "started_at",
        "status",
        "woken",
    )

    def __init__(self, new: NewRun, session: _Session, position: int, at: float) -> None:
        self.new = new
        self.session = session
        self.position = position
        self.started_at = at
        self.status: RunStatus = "queued"
        self.claimed_at = 0
        self.deaths = 0
        self.epoch = 0
        self.nonce = ""
        self.cancelled = False
        self.woken = 0
        self.closed: dict[str, bytes] = {}

    @property
    def owner(self) -> str | None:
        """Who drives it: all owners live in this process, and each claim makes one."""
        return f"memory/{self.epoch}" if self.status == "running" else None

    def take(self) -> Token:
        """Give the run to a new owner."""
        self.status = "running"
        self.claimed_at = len(self.session.rows)
        self.epoch += 1
        self.nonce = f"{next(_nonces):x}"
        return Token(self.new.id, self.new.session_id, self.epoch, self.nonce)


class MemoryLog:
    """Keeps encoded records in lists, so that what cannot be stored is found here too."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sessions: dict[str, _Session] = {}
        self._runs: dict[str, _Run] = {}

    async def accept(self, new: NewRun, payload: Payload, on_busy: OnBusy = "queue") -> Accepted:
        """Take a run in: it begins at once if its session is free, else it queues."""
        known = self._runs.get(new.id)
        if known is not None:
            if (known.new.input_hash, known.new.definition) != (new.input_hash, new.definition):
                raise used_otherwise(new.id, known.new.definition)
            return Accepted(self._row(known), None, 0, True)
        now = self._now()
        data = encode_payload(payload)
        session = self._sessions.get(new.session_id)
        if session is None:
            session = self._sessions[new.session_id] = _Session()
        turn = session.turn
        if turn is not None and on_busy != "queue":
            if on_busy == "reject":
                raise at_work(new.session_id, turn)
            for one in [turn, *session.queue]:
                self._post(self._runs[one], CancelAsked("interrupted"))
        rows = session.rows
        rows.append((new.id, None, data, now))
        run = self._runs[new.id] = _Run(new, session, len(rows), now)
        token = None
        if turn is None:
            session.turn = new.id
            token = run.take()
        else:
            session.queue += (new.id,)
        return Accepted(self._row(run), token, len(rows), False, turn)

    async def claim(self, run_id: str, *, dead: Collection[str] = ()) -> tuple[Token, int] | None:
        """Own a run with a new epoch, if nobody alive owns it and it has its session's turn."""
        run = self._run(run_id)
        session = run.session
        died = run.owner is not None and run.owner in dead
        if session.turn != run_id or not (died or run.status in ("queued", "waiting")):
            return None
        rows = session.rows[run.claimed_at :]
        got_on = any(key is not None for id, key, _, _ in rows if id == run_id)
        run.deaths = (0 if got_on else run.deaths) + died
        return run.take(), len(session.rows)

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
        """Write records of one step, all or none; a terminal record ends the run and frees its session."""
        run = self._run(token.run_id)
        session = run.session
        if run.epoch != token.epoch or run.nonce != token.nonce:
            raise Conflict(
                f"The run {token.run_id!r} belongs to another owner since epoch {run.epoch}; this one must stop."
            )
        closed: dict[str, bytes] = {}
        fresh: list[tuple[str, str | None, bytes, float]] = []
        cancelled, wanted, stopped = run.cancelled, status, False
        for one in entries:
            payload, key = one.payload, one.key
            data = encode_payload(payload)
            if key is not None:
                if key in closed:
                    raise Conflict(f"An append to the run {token.run_id!r} closes the step {key!r} twice.")
                closed[key] = data
            fresh.append((token.run_id, key, data, self._now() if one.at is None else one.at))
            if type(payload) is RunFinished:
                status = payload.status
            elif type(payload) is CancelAsked:
                stopped, cancelled = True, cancelled or stops(payload)
        if repeat or session.turn != token.run_id or not run.closed.keys().isdisjoint(closed):
            known = self._known(run, fresh)
            last = max(known.values(), default=len(session.rows))
            over = session.turn != token.run_id
            if over and (len(known) < len(fresh) or wanted not in (None, run.status)):
                raise Conflict(f"The run {token.run_id!r} is {run.status}; nothing more can be appended to it.")
            if len(known) == len(fresh) and (over or wanted is None):
                return last
            if known:
                left = [one for n, one in enumerate(entries) if n not in known]
                at = await self.append(token, left, wanted, seen=seen)
                return at if left else last
        if status == "completed" and cancelled:
            raise CancelWins(f"The run {token.run_id!r} was cancelled before it had finished.")
        run.cancelled = cancelled
        run.closed.update(closed)
        session.rows += fresh
        head = len(session.rows)
        if stopped or status == "failed":
            self._cancel_below(run, detached=stopped)
        if status == "waiting" and seen is not None and run.woken > seen:
            status = None  # a wait that has ended since is about to be folded: nobody else would wake the run
        if status is not None:
            run.status = status
            if status in ENDED or status == "parked":
                session.turn = session.queue[0] if session.queue else None
                session.queue = session.queue[1:]
        return head

    def _cancel_below(self, run: _Run, *, detached: bool) -> None:
        """Ask for the end of what a run has started and that is open, when its owner stops it or it fails."""
        for one in sorted(self._runs.values(), key=lambda one: one.new.id):
            mine = one.new.parent == run.new.id and one.status in OPEN and not one.cancelled
            if mine and (detached or not one.new.detached):
                self._post(one, CancelAsked(detail="The run that had started this one is over."))

    @staticmethod
    def _known(run: _Run, rows: Sequence[tuple[str, str | None, bytes, float]]) -> dict[int, int]:
        """Which of these the run has already, with their sequence numbers."""
        known: dict[int, int] = {}
        seqs: dict[tuple[str | None, bytes], int] = {}
        for seq, (run_id, key, data, _) in enumerate(run.session.rows, 1):
            if run_id == run.new.id and (key is not None or seq > run.claimed_at):
                seqs[key, data] = seq
        for n, (_, key, data, _) in enumerate(rows):
            seq = seqs.get((key, data))
            if seq is not None:
                known[n] = seq
            elif key in run.closed:
                raise Conflict(f"The step {key!r} of the run {run.new.id!r} is closed already, with another result.")
        return known

    async def post(self, run_id: str, payload: Payload) -> int:
        """Write an inbox record, without a token."""
        if not isinstance(payload, INBOX):
            raise TypeError(f"A {type(payload).__name__} cannot be posted; only the owner of the run may append it.")
        return self._post(self._run(run_id), payload)

    def _post(self, run: _Run, payload: Payload) -> int:
        run.cancelled = run.cancelled or stops(payload)
        rows = run.session.rows
        rows.append((run.new.id, None, encode_payload(payload), self._now()))
        seq = len(rows)
        if type(payload) is not CancelAsked:
            run.woken = seq
        if type(payload) is CancelAsked:
            for one in list(self._runs.values()):
                if one.new.parent == run.new.id and one.status in OPEN:
                    self._post(one, payload)
        return seq

    async def mark(self, session_id: str, payload: Point, head: int) -> int:
        """Write the point that readers of a session start from."""
        session = self._session(session_id)
        for run in self._runs.values():
            if run.session is session and run.status not in ENDED:
                raise still_open(session_id, run.new.id, run.status, payload)
        if len(session.rows) != head:
            raise written_since(session_id, head, len(session.rows), payload)
        session.rows.append(("", None, encode_payload(payload), self._now()))
        return len(session.rows)

    async def fork(self, fork: Fork) -> int:
        """Make a session that goes on from a place in another one; the rows are shared."""
        base, new = self._session(fork.base), fork.run
        if not 0 < fork.seq <= len(base.rows):
            raise beyond(fork.base, fork.seq, len(base.rows))
        now = self._now()
        name = new.id if new is not None else ""
        own = [
            (name, one.key, encode_payload(one.payload), now if one.at is None else one.at)
            for one in fork_records(fork)
        ]
        if fork.id in self._sessions or (new is not None and new.id in self._runs):
            known = self._sessions.get(fork.id)
            if known is None or known.rows[fork.seq : fork.seq + 1] == [] or known.rows[fork.seq][:3] != own[0][:3]:
                raise forked_otherwise(fork.id)
            return len(known.rows)
        session = self._sessions[fork.id] = _Session()
        shared = base.rows[: fork.seq]
        session.rows += [(name if one[0] == fork.origin and fork.origin else one[0], *one[1:]) for one in shared]
        session.rows += own
        if new is not None:
            run = self._runs[new.id] = _Run(new, session, fork.position, now)
            run.status = ended_as(fork) or "queued"
            run.claimed_at = len(session.rows)
            run.closed = {key: data for _, key, data, _ in own if key is not None}
            session.turn = new.id if run.status == "queued" else None
        return len(session.rows)

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownName("session", session_id)
        return session

    async def compacted(self, session_id: str, before: int | None = None) -> int:
        """Say the sequence number of a session's last compacted record that no rewind hides; 0 if there is none."""
        records = visible(await self.read_session(session_id, 0, before))
        return max((one.seq for one in records if type(one.payload) is Compacted), default=0)

    async def read_run(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order."""
        session_id = self._run(run_id).new.session_id
        return [one for one in await self.read_session(session_id, after) if one.run_id == run_id]

    async def read_session(self, session_id: str, after: int = 0, before: int | None = None) -> list[Record]:
        """Read a session's records between two sequence numbers (both exclusive), in order."""
        session = self._sessions.get(session_id)
        rows = session.rows[after : None if before is None else max(before - 1, 0)] if session is not None else []
        return [
            Record(seq, run_id, session_id, key, decode_payload(data), at)
            for seq, (run_id, key, data, at) in enumerate(rows, after + 1)
        ]

    async def run(self, run_id: str) -> RunRow:
        """Read a run's row."""
        return self._row(self._run(run_id))

    def _row(self, run: _Run) -> RunRow:
        new = run.new
        return RunRow(
            new.id,
            new.session_id,
            new.definition,
            run.status,
            run.epoch,
            run.owner,
            run.position,
            run.deaths,
            new.parent,
            new.user_id,
            new.input_hash,
            run.started_at,
        )

    def _run(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise UnknownName("run", run_id)
        return run
