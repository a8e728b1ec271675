"""A process is killed at each statement of a fork and of a rewind: both are there whole or not at all."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime
from perdure.types import records as rec
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, effects, runtime

CHARGE = "agent/0/infer/0/tool/2"
WRITES = {"fork": 6, "continue": 7, "mark": 4}
"""More statements than there are within each."""
ALL = [
    (store, verb, when)
    for store in ("sqlite", "postgres")
    for verb, most in WRITES.items()
    for when in (*map(str, range(1, most + 1)), "after")
]
SAMPLE = [
    ("sqlite", "fork", "3"),
    ("sqlite", "continue", "4"),
    ("sqlite", "continue", "after"),
    ("sqlite", "mark", "3"),
    ("postgres", "fork", "after"),
    ("postgres", "continue", "5"),
    ("postgres", "mark", "4"),
]
POINTS = ALL if "SOAK" in os.environ else SAMPLE
"""The store, what is done, and at which of its statements, or behind it, the process dies."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


async def read(rt: Runtime, session: str) -> list[rec.Record]:
    return await rt.container("default").log.read_session(session)


def said(effect: str) -> int:
    return effects().count(effect)


@pytest.mark.parametrize(("url", "verb", "when"), POINTS, indirect=["url"])
async def test_d03_d06_r18_a_fork_or_rewind_is_whole_or_not_there_wherever_its_process_dies(
    url: str, verb: str, when: str, processes: Processes
):
    async with runtime(url) as rt:
        await rt.run(DESK, "go", session_id="s", run_id="job")
        base = await read(rt, "s")
    end = base[-1].seq
    arguments: dict[str, tuple[str, ...]] = {
        "fork": ("fork", str(end)),
        "continue": ("continue", "job", CHARGE),
        "mark": ("rewind", "0"),
    }
    name = "mark" if verb == "mark" else "fork"
    died = await processes.run(*arguments[verb], kill=f"{name}:{when}")
    statements = [int(one.split()[1]) for one in effects() if one.startswith("statements")]
    if died == 0:
        assert when.isdigit() and statements and int(when) > statements[0], "it lives on only behind the last one"
    else:
        assert died == -signal.SIGKILL
    there = died == 0 or when == "after"
    async with Runtime(url, [], workers=False) as rt:
        assert (await read(rt, "s"))[: len(base)] == base, "nothing has changed in the base"
        if verb == "mark":
            assert [one.payload for one in (await read(rt, "s"))[len(base) :]] == [rec.Rewound(0)] * there
        else:
            assert bool(await read(rt, "f")) == there
        assert await rt.check(deep=True) == []
    async with runtime(url) as rt:
        if verb == "mark":
            if not there:
                await rt.session("s").rewind(0)
            assert [one async for one in rt.session("s").messages()] == []
            assert (await rt.run(DESK, "-", session_id="s")).status == "completed"
        elif verb == "fork":
            fork = await rt.session("s").fork(end, id="f")
            whole: list[Any] = [one async for one in fork.messages()]
            assert whole == [one async for one in rt.session("s").messages()]
        else:
            done = said("charge"), said("model desk 0")
            again = await rt.fork("job", CHARGE, id="again", session_id="f")
            assert (await asyncio.wait_for(again.result(), 60)).output == "done: go"
            assert (said("charge"), said("model desk 0")) == done, "what was finished is not done again"
            ends = [one for one in await read(rt, "f") if isinstance(one.payload, rec.RunFinished)]
            assert len(ends) == 1
        assert (await read(rt, "s"))[: len(base)] == base
        assert await rt.check(deep=True) == []
