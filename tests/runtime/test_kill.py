"""A process is killed at every write of a run, and again while it recovers: nothing finished is done twice.

The run has parallel tools of every effect, steps, a child run and transactions.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime
from perdure.types import records as rec
from perdure.types.base import decode_json
from tests.runtime import desk
from tests.runtime.canon import canon, lost
from tests.runtime.conftest import Processes
from tests.runtime.desk import effects
from tests.runtime.till import TILL, rows
from tests.runtime.whole import WHOLE

CHARGE = "agent/0/infer/0/tool/2"
TRANSACTIONS = ("agent/0/infer/0/tool/4/transaction:book", "agent/0/infer/0/tool/4/transaction:book#2")
WRITES = 20
"""At least as many writes as an undisturbed run makes: steps that end together share one."""
SURE = 12
"""At most as many."""

SAMPLE = [
    *(("sqlite", at, when, at % 4 + 2) for at in range(1, 18) for when in ("before", "after")),
    *(("postgres", at, "after", at % 4 + 2) for at in range(1, 18, 3)),
    *(("postgres", at, "before", at % 4 + 2) for at in range(2, 18, 4)),
]
ALL = [
    (store, at, when, again)
    for store in ("sqlite", "postgres")
    for at in range(1, WRITES + 1)
    for when in ("before", "after")
    for again in range(1, WRITES + 1)
]
CASES = ALL if "SOAK" in os.environ else SAMPLE
"""The store, at which write it dies, before or after it, and at which write of its recovery it dies again."""

DIES = {False: (-signal.SIGKILL,), True: (-signal.SIGKILL, 0)}
"""How a process may end: one that is to die later than its last write lives."""

STEPS = {
    "model desk 0": "agent/0/infer/0",
    "model desk 1": "agent/0/infer/1",
    "charge": CHARGE,
    "step a": "agent/0/infer/0/tool/3/a",
    "step b": "agent/0/infer/0/tool/3/b",
    "tell ada": "agent/0/infer/0/tool/4/tell",
    "book ada": TRANSACTIONS[1],
}
"""Which place each effect belongs to, where one place has it."""


def runtime(url: str) -> Runtime:
    return desk.runtime(url, WHOLE)


async def go(rt: Any) -> Any:
    return await asyncio.wait_for(rt.run(WHOLE, "go", session_id="s", run_id="job"), 60)


async def till(rt: Runtime) -> list[Any]:
    return [int(amount) for (amount,) in await rows(rt.db, "SELECT amount FROM till ORDER BY amount")]


class Seen:
    """What a process has left: what is closed in the log, the effects, the run's row."""

    def __init__(self, records: list[rec.Record], run: Any) -> None:
        self.closed = {one.key for one in records if one.key}
        self.effects = effects()
        self.status, self.epoch = (run.status, run.epoch) if run is not None else (None, 0)


async def left(url: str) -> Seen:
    async with desk.Runtime(url, [], workers=False) as rt:
        records = await rt.session("s").records()
        runs = await rt.container("default").log.runs(session_id="s")
        seen = Seen(records, runs[0] if runs else None)
        assert len(await till(rt)) == len(seen.closed & set(TRANSACTIONS)), "a row is there if and only if its step is"
        return seen


async def undisturbed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / "calm").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(desk, "place", folder / "calm")
        async with runtime(f"sqlite:///{folder}/calm.db") as rt:
            await rows(rt.db, TILL)
            result = await go(rt)
            child = next(one.payload for one in await rt.session("s").records() if one.kind == "child")
            assert isinstance(child, rec.ChildDone)
            session = f"session_{child.run_id.removeprefix('run_')}"
            return await canon(rt, "s"), await canon(rt, session), session, result


@pytest.mark.parametrize(("url", "at", "when", "again"), CASES, indirect=["url"])
async def test_d01_d02_d04_d05_d06_d08_d09_d18_r11_nothing_finished_is_done_again(
    at: int, when: str, again: int, url: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (parent, said), (child, child_said), child_session, calm = await undisturbed(tmp_path, monkeypatch)
    async with runtime(url) as rt:
        await rows(rt.db, TILL)
    assert await processes.run("whole", "go", "job", kill=f"{at}:{when}") in DIES[at > SURE]
    first = await left(url)
    died = await processes.run("whole", "go", "job", kill=f"{again}:{when}")
    assert died in DIES[at > SURE or again > 2]
    second = await left(url)
    if first.status == "running" and died:  # its first write hands the run in again, its second one claims it
        assert second.epoch == first.epoch + (again > 2 or (again == 2 and when == "after")), "it died in the recovery"
    async with runtime(url) as rt:
        result = await go(rt)
        records = await rt.session("s").records()
        mine, messages = await canon(rt, "s")
        its, its_messages = await canon(rt, child_session)
        its_records = await rt.session(child_session).records()
        assert await till(rt) == [1, 2]
    assert result.output == calm.output == "done: go"

    after = effects()
    for effect, key in STEPS.items():
        for one in (first, second):
            if key in one.closed:
                assert after.count(effect) == one.effects.count(effect), f"{effect} was done again after its record"
    assert after.count("charge") <= 1
    keys = {one for one in after if one.startswith("fetch")}
    assert len(keys) == 1, "every attempt has the same idempotency key"

    charged = decode_json(mine[CHARGE])
    if charged.get("outcome") == "unknown":  # at most once, and the transcript says that nobody knows
        place = said.index(next(one for one in said if b'"charged"' in one))
        assert b"Check before repeating it" in messages[place]
        mine[CHARGE], messages[place] = parent[CHARGE], said[place]
    else:
        assert after.count("charge") == 1
    assert mine == parent
    assert messages == said
    assert its == child, "the child run is the same one, with the same log"
    assert its_messages == child_said
    used = calm.usage + lost(records) + lost(its_records)
    assert result.usage == used, "the child's usage counts once, and so does each attempt that was lost"
    assert sum(isinstance(one.payload, rec.RunFinished) for one in records) == 1


async def test_the_run_that_is_killed_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    writes = 0
    for name in ("accept", "append", "transact"):
        inner = getattr(desk.SqlLog, name)

        async def counted(*args: Any, inner: Any = inner, **options: Any) -> Any:
            nonlocal writes
            writes += 1
            return await inner(*args, **options)

        monkeypatch.setattr(desk.SqlLog, name, counted)
    async with runtime(f"sqlite:///{tmp_path}/desk.db") as rt:
        await rows(rt.db, TILL)
        await go(rt)
        kinds = [one.kind for one in await rt.session("s").records()]
    assert SURE < writes <= WRITES
    assert kinds.count("transaction") == 2
    assert kinds.count("child") == 1
    assert kinds.count("tool") == 5, "all called by one answer"
    assert kinds.count("started") == 1
