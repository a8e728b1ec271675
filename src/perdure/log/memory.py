"""A log in memory: the same rules and the same bytes, for runs that need not outlive their result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from perdure.log.log import INBOX, Entry, Token
from perdure.types.errors import Conflict, UnknownName
from perdure.types.records import Payload, Record, decode_payload, encode_payload


class _Session:
    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[str, str | None, bytes, float]] = []


class _Run:
    __slots__ = ("closed", "epoch", "nonce", "session_id")

    def __init__(self, session_id: str, nonce: str) -> None:
        self.session_id = session_id
        self.epoch = 1
        self.nonce = nonce
        self.closed: dict[str, bytes] = {}


class MemoryLog:
    """Keeps encoded records in lists, so that what cannot be stored is found here too."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._sessions: dict[str, _Session] = {}
        self._runs: dict[str, _Run] = {}

    async def start(self, run_id: str, session_id: str, entries: Sequence[Entry]) -> Token:
        """Create a run and its first records, and own it."""
        if run_id in self._runs:
            raise Conflict(f"A run with the id {run_id!r} exists already; give another id, or read that run's result.")
        run = _Run(session_id, os.urandom(6).hex())
        rows = self._encode(run_id, run, entries)
        self._runs[run_id] = run
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = _Session()
        session.rows += rows
        return Token(run_id, session_id, 1, run.nonce)

    async def claim(self, run_id: str) -> Token:
        """Own a run that exists, with a new epoch."""
        run = self._run(run_id)
        run.epoch += 1
        run.nonce = os.urandom(6).hex()
        return Token(run_id, run.session_id, run.epoch, run.nonce)

    async def append(self, token: Token, entries: Sequence[Entry]) -> int:
        """Write records of one step, all or none."""
        run = self._run(token.run_id)
        if run.epoch != token.epoch or run.nonce != token.nonce:
            raise Conflict(
                f"The run {token.run_id!r} belongs to another owner since (epoch {run.epoch}, not {token.epoch}); "
                "this one must stop."
            )
        rows = self._sessions[run.session_id].rows
        rows += self._encode(token.run_id, run, entries)
        return len(rows)

    async def post(self, run_id: str, payload: Payload) -> int:
        """Write an inbox record."""
        if not isinstance(payload, INBOX):
            raise TypeError(f"A {type(payload).__name__} cannot be posted; only the owner of the run may append it.")
        run = self._run(run_id)
        rows = self._sessions[run.session_id].rows
        rows += self._encode(run_id, run, [Entry(None, payload)])
        return len(rows)

    async def read(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order."""
        session_id = self._run(run_id).session_id
        rows = self._sessions[session_id].rows
        return [
            Record(seq, run_id, session_id, key, decode_payload(data), at)
            for seq, (owner, key, data, at) in enumerate(rows[after:], after + 1)
            if owner == run_id
        ]

    def _encode(self, run_id: str, run: _Run, entries: Sequence[Entry]) -> list[tuple[str, str | None, bytes, float]]:
        now = self._now()
        rows: list[tuple[str, str | None, bytes, float]] = []
        for key, payload in entries:
            data = encode_payload(payload)
            if key is not None:
                known = run.closed.get(key)
                if known is not None:
                    if known == data:
                        continue
                    raise Conflict(f"The step {key!r} of the run {run_id!r} is closed already, with another result.")
                run.closed[key] = data
            rows.append((run_id, key, data, now))
        return rows

    def _run(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise UnknownName("run", run_id, list(self._runs)[:10])
        return run
