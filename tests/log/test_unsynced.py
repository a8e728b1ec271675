"""The power fails: of what was written and not synced, the disk may have kept anything.

A process is traced, so that every write to its files, every sync, and every word of acknowledgement is known in order.
Then each of many moments is taken for the end: the file and its log are made again from what was synced by then and
from some part of what was not, and opened.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from perdure.testing.conformance import gapless
from tests.log.unsynced import SESSIONS

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("unsynced.py")
SOAK = [pytest.mark.soak, pytest.mark.timeout(1800)]
FOLDER = "the folder"
CALLS = "pwrite64,write,fsync,fdatasync,ftruncate,unlink"
LINE = re.compile(
    r"^\d+\s+(\w+)\((?:(\d+)<([^>]*)>|(\"[^\"]*\"))(?:, (\"[^\"]*\"|\d+))?(?:, (\d+))?(?:, (\d+))?\)\s+= (\d+)"
)


class Call(NamedTuple):
    """One call that changes a file: `sync` makes durable what was written to it before."""

    what: Literal["write", "truncate", "unlink", "sync", "say"]
    file: str
    place: int = 0
    data: bytes = b""


def traced(folder: Path, durability: str, count: int) -> list[Call]:
    """Run the program, and give what it did, in order."""
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    path = folder / "log.db"
    done = subprocess.run(
        [*command, sys.executable, str(PROGRAM), str(path), durability, str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(calls_of(trace, path.name))


def calls_of(trace: Path, name: str) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for text in trace.read_text().splitlines():
        line = text
        thread = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):  # two threads at once: it counts when it is done
            begun[thread] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"^\d+\s+<\.\.\. \w+ resumed>(.*)$", line)
        if resumed is not None:
            line = begun.pop(thread) + resumed[1]
        found = LINE.match(line)
        if found is None:
            continue
        call, fd, path, quoted, first, second, third, _ = found.groups()
        file = Path(_bytes(f'"{path}"' if path is not None else quoted).decode()).name
        if fd == "1" and call == "write":
            yield Call("say", "", 0, _bytes(first))
        elif file == trace.parent.name and call in ("fsync", "fdatasync"):
            yield Call("sync", FOLDER)
        elif not file.startswith(name) or file.endswith("-shm"):
            continue
        elif call == "pwrite64":
            data = _bytes(first)
            assert len(data) == int(second), "the trace has all that was written"
            yield Call("write", file, int(third), data)
        elif call == "write":
            raise AssertionError(f"a write without a place: {line[:100]}")
        elif call == "ftruncate":
            yield Call("truncate", file, int(first))
        elif call == "unlink":
            yield Call("unlink", file)
        else:
            yield Call("sync", file)


def _bytes(quoted: str) -> bytes:
    return bytes.fromhex(quoted.strip('"').replace("\\x", ""))


class Disk:
    """What is surely on the disk, and what was written and not synced since."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.unsynced: list[Call] = []
        self.said: dict[str, int] = {}
        self.begun = False

    def do(self, call: Call) -> None:
        if call.what == "say":
            for line in call.data.decode().split("\n")[:-1]:
                session, _, n = line.partition(" ")
                self.begun = self.begun or line == "begun"
                if n:
                    self.said[session] = int(n) + 1
        elif call.what == "sync":
            synced = [one for one in self.unsynced if (FOLDER if one.what == "unlink" else one.file) == call.file]
            for one in synced:
                _apply(self.files, one)
            done = {id(one) for one in synced}
            self.unsynced = [one for one in self.unsynced if id(one) not in done]
        else:
            self.unsynced.append(call)

    def make(self, folder: Path, kept: list[Call]) -> Path:
        """Make the files as the disk may have them."""
        files = {name: bytearray(data) for name, data in self.files.items()}
        for one in kept:
            _apply(files, one)
        for old in folder.iterdir():
            old.unlink()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder / "log.db"


def _apply(files: dict[str, bytearray], call: Call) -> None:
    if call.what == "unlink":
        files.pop(call.file, None)
        return
    data = files.setdefault(call.file, bytearray())
    end = call.place + len(call.data)
    if call.what == "truncate":
        del data[call.place :]
        end = call.place
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if call.what == "write":
        data[call.place : end] = call.data


def appends(path: Path) -> dict[str, int]:
    """See that the store is whole, and count the appends of each session."""
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {f"ses_{n}": 0 for n in range(SESSIONS)}
        if not file.execute("SELECT 1 FROM sqlite_schema WHERE name = 'records'").fetchall():
            return found  # nothing was synced yet
        for n in range(SESSIONS):
            rows: list[Any] = file.execute(
                "SELECT seq, key FROM records WHERE session = ? ORDER BY slot", (f"ses_{n}",)
            ).fetchall()
            assert gapless([row[0] for row in rows])
            keys = [row[1] for row in rows[1:]]
            assert keys == [f"{m}/{part}" for m in range(len(keys) // 2) for part in "ab"], "a hole, or half an append"
            found[f"ses_{n}"] = len(keys) // 2
    return found


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=SOAK)])
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_d25_what_a_loss_of_power_may_take(durability: str, count: int, tmp_path: Path) -> None:
    calls = traced(tmp_path, durability, count)
    folder = tmp_path / "after"
    folder.mkdir()
    chance = random.Random(25)
    disk = Disk()
    lost = moments = 0
    for call in calls:
        disk.do(call)
        if not disk.begun:
            continue
        some = disk.unsynced
        for kept in (
            [],  # nothing of it
            some[: chance.randrange(len(some) + 1)],  # in order, up to somewhere
            some[len(some) // 2 :],  # the last first
            [one for one in some if chance.random() < 0.5],
        ):
            moments += 1
            found = appends(disk.make(folder, kept))
            if durability == "full":
                for session, number in disk.said.items():
                    assert found[session] >= number, "something acknowledged is gone"
            lost += sum(max(0, number - found[session]) for session, number in disk.said.items())
            if not some:
                break
    assert disk.said == {f"ses_{n}": count for n in range(SESSIONS)}
    assert sum(one.what == "sync" and one.file == "log.db" for one in calls) > 3, "no checkpoint is among it"
    assert moments > 100
    assert (lost > 0) == (durability == "normal"), "that mode may lose the last ones, and here it has"
