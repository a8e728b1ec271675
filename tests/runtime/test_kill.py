"""A process is killed at every write of a run, and again while it recovers: nothing finished is done twice."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure.types import records as rec
from perdure.types.base import decode_json
from tests.runtime import desk
from tests.runtime.canon import canon, lost
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, effects, runtime

CHARGE = "agent/0/infer/0/tool/2"
WRITES = 15
"""At least as many writes as an undisturbed run makes: steps that end together share one."""

SAMPLE = [
    *(("sqlite", at, when, at % 4 + 2) for at in range(1, WRITES + 1) for when in ("before", "after")),
    *(("postgres", at, "after", at % 4 + 2) for at in range(1, WRITES + 1, 2)),
    *(("postgres", at, "before", at % 4 + 2) for at in range(2, WRITES + 1, 4)),
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
}
"""Which place each effect belongs to, where one place has it."""


async def go(rt: Any) -> Any:
    return await asyncio.wait_for(rt.run(DESK, "go", session_id="s", run_id="job"), 60)


async def finished(url: str) -> tuple[set[str], list[str]]:
    """What is closed in the log now, and the effects so far."""
    async with desk.Runtime(url, [], workers=False) as rt:
        return {one.key for one in await rt.session("s").records() if one.key}, effects()


async def undisturbed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / "calm").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(desk, "place", folder / "calm")
        async with runtime(f"sqlite:///{folder}/calm.db") as rt:
            result = await go(rt)
            child = next(one.payload for one in await rt.session("s").records() if one.kind == "child")
            assert isinstance(child, rec.ChildDone)
            session = f"session_{child.run_id.removeprefix('run_')}"
            return await canon(rt, "s"), await canon(rt, session), session, result


@pytest.mark.parametrize(("url", "at", "when", "again"), CASES, indirect=["url"])
async def test_d01_d02_d04_d05_d06_d08_d09_d18_nothing_finished_is_done_again(
    at: int, when: str, again: int, url: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (parent, said), (child, child_said), child_session, calm = await undisturbed(tmp_path, monkeypatch)
    assert await processes.run("run", "go", "job", kill=f"{at}:{when}") in DIES[at > 10]
    closed, before = await finished(url)
    assert await processes.run("run", "go", "job", kill=f"{again}:{when}") in DIES[True]
    closed_again, between = await finished(url)
    async with runtime(url) as rt:
        result = await go(rt)
        records = await rt.session("s").records()
        mine, messages = await canon(rt, "s")
        its, its_messages = await canon(rt, child_session)
        its_records = await rt.session(child_session).records()
    assert result.output == calm.output == "done: go"

    after = effects()
    for effect, key in STEPS.items():
        if key in closed:
            assert after.count(effect) == before.count(effect), f"{effect} was done again after its record"
        if key in closed_again:
            assert after.count(effect) == between.count(effect)
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


async def test_the_number_of_writes_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    writes = 0
    for name in ("accept", "append"):
        inner = getattr(desk.SqlLog, name)

        async def counted(*args: Any, inner: Any = inner, **options: Any) -> Any:
            nonlocal writes
            writes += 1
            return await inner(*args, **options)

        monkeypatch.setattr(desk.SqlLog, name, counted)
    async with runtime(f"sqlite:///{tmp_path}/desk.db") as rt:
        await go(rt)
    assert 10 < writes <= WRITES
