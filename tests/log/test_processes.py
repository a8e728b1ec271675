"""Several processes on one store, and processes that are killed in the middle of writing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from perdure.testing.conformance import gapless
from perdure.types.records import Answered
from tests.log.stores import log_of, opened

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("appending.py")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return request.getfixturevalue("postgres_url")


def start(address: str, name: str, count: int, tasks: int) -> subprocess.Popen[str]:
    """Start a process that appends; it begins when it is told to."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), address, name, str(count), str(tasks)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process that has nothing to complain of, and give what it has printed."""
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"It does not end after {len(out.split())} lines. It said: {err!r}", pytrace=False)
    if (process.returncode, err) != (code, ""):
        pytest.fail(
            f"It ended with {process.returncode} after {len(out.split())} lines, and said:\n{err}", pytrace=False
        )
    return out


async def check(address: str, acknowledged: Iterable[str]) -> None:
    """See that all that was acknowledged is there, whole, in order and once."""
    async with opened(address) as db:
        log = log_of(db)
        shared = await log.read_session("shared")
        assert gapless([one.seq for one in shared])
        posted = [one.payload.wait_id for one in shared if isinstance(one.payload, Answered)]
        assert len(set(posted)) == len(posted)
        by_run: dict[str, set[str]] = {}
        for key in acknowledged:
            by_run.setdefault(key.split("/")[0], set()).add(key)
        for run, keys in by_run.items():
            records = await log.read_session((await log.run(run)).session_id)
            assert gapless([one.seq for one in records])
            closed = [one.key for one in records[1:] if one.key is not None]
            assert closed[0::2] == [f"{key[:-2]}/a" for key in closed[1::2]], "an append is there by half"
            assert len(closed) == len(records) - 1
            assert keys <= {key[:-2] for key in closed}, "something acknowledged is gone"


async def test_processes_that_write_at_once_lose_nothing(address: str) -> None:
    processes = [start(address, f"p{n}", count=25, tasks=3) for n in range(4)]
    for one in processes:
        go(one)  # all at once: they also race to make the file and its tables
    acknowledged: list[str] = []
    for one in processes:
        acknowledged += end(one).split()
    assert len(acknowledged) == 4 * 25 * 3
    await check(address, acknowledged)
    async with opened(address) as db:
        shared = await log_of(db).read_session("shared")
        posted = {one.payload.wait_id for one in shared if isinstance(one.payload, Answered)}
        assert posted == set(acknowledged)


async def test_what_a_killed_process_was_told_is_there(address: str, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for n in range(5):
        process = start(address, f"p{n}", count=10_000, tasks=20)
        assert process.stdout is not None
        go(process)
        acknowledged += [process.stdout.readline().strip() for _ in range(20 + 37 * n)]
        process.send_signal(signal.SIGKILL)
        acknowledged += end(process, -signal.SIGKILL).split("\n")[:-1]  # the last line may be cut off
    await check(address, filter(None, acknowledged))
    if address.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "log.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
