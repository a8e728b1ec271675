"""Whatever is done in whatever order, a log in a database answers as the one in memory does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.db.database import Database
from perdure.log.log import Entry, Log, NewRun, RunRow, Token
from perdure.log.memory import MemoryLog
from perdure.types import records as rec
from perdure.types.errors import PerdureError
from perdure.types.waits import Answer
from tests.log.stores import log_of, opened

RUNS = ("r1", "r2", "r3", "r4")
SESSIONS = {"r1": "s1", "r2": "s1", "r3": "s1", "r4": "s2"}
PARENTS = {"r4": "r1"}

runs = st.sampled_from(RUNS)
payloads: st.SearchStrategy[rec.Payload] = st.one_of(
    st.builds(rec.StepDone, st.just("s"), st.integers(0, 1)),
    st.builds(rec.StepDone, st.just("s"), st.sampled_from(["x" * 70_000, "y" * 70_000])),
    st.builds(rec.Started, st.sampled_from(["a", "b"])),
    st.builds(rec.CancelAsked, st.sampled_from(["cancelled", "budget"])),
    st.builds(rec.RunFinished, st.sampled_from(["completed", "failed", "cancelled"]), st.just("answer")),
)
entries = st.lists(
    st.builds(Entry, st.none() | st.sampled_from(["k1", "k2", "k3"]), payloads, st.none() | st.just(7.0)), max_size=3
)
statuses = st.sampled_from([None, None, None, "waiting", "running", "parked", "queued"])
steps = st.one_of(
    st.tuples(
        st.just("accept"),
        runs,
        st.sampled_from(["", "other"]),
        st.sampled_from(["queue", "queue", "reject", "interrupt"]),
    ),
    st.tuples(st.just("claim"), runs, st.booleans()),
    st.tuples(st.just("append"), runs, st.integers(0, 2), entries, statuses, st.booleans()),
    st.tuples(st.just("append"), runs, st.integers(0, 2), entries, statuses, st.booleans()),
    st.tuples(st.just("post"), runs, st.sampled_from([rec.CancelAsked(), rec.Answered("w", Answer("x"))])),
    st.tuples(st.just("read"), runs, st.integers(0, 6), st.none() | st.integers(0, 8)),
)


class Side:
    """One of the logs, and the tokens that its runs have had."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.tokens: dict[str, list[Token]] = {run: [] for run in RUNS}

    async def do(self, step: Any) -> Any:
        try:
            return await getattr(self, step[0])(*step[1:])
        except (PerdureError, TypeError) as error:
            return type(error).__name__

    async def accept(self, run: str, input_hash: str, on_busy: Any) -> Any:
        new = NewRun(run, SESSIONS[run], "A", input_hash, parent=PARENTS.get(run))
        accepted = await self.log.accept(new, rec.RunStarted("A", "agent", ()), on_busy)
        if accepted.token is not None:
            self.tokens[run].append(accepted.token)
        return accepted.token is not None, accepted.head, accepted.known, accepted.behind, self.seen(accepted.run)

    async def claim(self, run: str, dead: bool) -> Any:
        owner = (await self.log.run(run)).owner
        found = await self.log.claim(run, dead=[owner] if dead and owner is not None else [])
        if found is not None:
            self.tokens[run].append(found[0])
        return found and (found[0].epoch, found[1])

    async def append(self, run: str, back: int, entries: list[Entry], status: Any, repeat: bool) -> Any:
        if len(self.tokens[run]) <= back:
            return None
        return await self.log.append(self.tokens[run][-1 - back], entries, status, repeat=repeat)

    async def post(self, run: str, payload: rec.Payload) -> Any:
        return await self.log.post(run, payload)

    async def read(self, run: str, after: int, before: int | None) -> Any:
        records = await self.log.read_session(SESSIONS[run], after, before)
        return [(one.seq, one.run_id, one.key, one.payload) for one in records], await self.log.read_run(run, after)

    async def end(self) -> Any:
        rows = [self.seen(await self.log.run(run)) for run in RUNS if self.tokens[run]]
        sessions = [await self.log.read_session(one) for one in ("s1", "s2")]
        return rows, [(r.seq, r.run_id, r.key, r.payload) for records in sessions for r in records]

    @staticmethod
    def seen(row: RunRow) -> Any:
        return row.id, row.status, row.epoch, row.owner is not None, row.position, row.deaths


def untimed(found: Any) -> Any:
    """Leave out the store's own times."""
    if isinstance(found, list):
        return [untimed(one) for one in found]
    if isinstance(found, tuple):
        return tuple(untimed(one) for one in found)
    if isinstance(found, rec.Record):
        return found.seq, found.run_id, found.key, found.payload, found.created_at == 7.0
    return found


@pytest.fixture
async def db(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", "normal") as db:
        yield db


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(done=st.lists(steps, min_size=4, max_size=30))
async def test_a_database_answers_as_memory_does(db: Database, done: list[Any]) -> None:
    sides = [Side(MemoryLog()), Side(log_of(db, container=uuid4().hex))]
    for number, step in enumerate([("accept", "r1", "", "queue"), *done]):
        memory, database = [untimed(await side.do(step)) for side in sides]
        assert database == memory, f"step {number}: {step}"
    memory, database = [await side.end() for side in sides]
    assert database == memory
    await asyncio.sleep(0)
