"""`perdure doctor` and `perdure backup`: is the store well, and a copy of it."""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from perdure.cli.pages import print_json
from perdure.cli.paint import Painter
from perdure.cli.store import operate
from perdure.cli.table import Cell, table
from perdure.db.database import Row, Script, Sql
from perdure.db.sqlite import SqliteDatabase
from perdure.log.owners import Timing
from perdure.runtime.image_names import OUTSIDE, PREFIX
from perdure.runtime.runtime import Runtime
from perdure.types.base import plain

LARGE_WAL = 256 * 1024 * 1024
SKEW = 2.0
"""How many seconds two clocks may differ before it is worth a word."""


class Finding(NamedTuple):
    """What was looked at, whether it is well ("ok", "look" or "bad"), and what was seen."""

    what: str
    state: str
    seen: str


def run_doctor(given: argparse.Namespace) -> int:
    """Look whether a store is well."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        found = await examine(runtime, deep=given.deep)
        bad = any(one.state == "bad" for one in found)
        if given.json:
            print_json({"well": not bad, "findings": [plain(one._asdict()) for one in found]})
            return int(bad)
        signs = {"ok": Cell("ok", "green"), "look": Cell("look", "yellow"), "bad": Cell("bad", "bold red")}
        table(painter, ("", "", ""), [(signs[one.state], one.what, one.seen) for one in found])
        return int(bad)

    return operate(given, work)


async def examine(runtime: Runtime, *, deep: bool = False) -> list[Finding]:
    """Look at everything there is to look at."""
    rows = await _read(runtime, "SELECT name FROM perdure_store WHERE name LIKE 'part:%' ORDER BY name")
    parts = ", ".join(str(name).removeprefix("part:").replace(":", " ") for (name,) in rows)
    found = [
        Finding("store", "ok", f"{runtime.db.url} answers; it is {runtime.store_id}"),
        Finding("schema", "ok", parts),
    ]
    if runtime.db.dialect == "postgres":
        rows = await _read(runtime, "SHOW synchronous_commit")
        if rows[0][0] == "off":
            found.append(Finding("durability", "look", "synchronous_commit is off: losing power loses some"))
    damage = await runtime.check(deep=deep)
    found += [Finding("integrity", "bad", f"{one.where}: {one.what}") for one in damage]
    if not damage:
        how = "every payload can be read" if deep else "no record, blob or turn is missing; --deep reads every payload"
        found.append(Finding("integrity", "ok", how))
    dead = await runtime.worker.owners.dead(time.monotonic)
    runs = [*await _runs(runtime), *await _left(runtime, dead)]
    return [*found, *await _owners(runtime, dead), *runs, *_files(runtime), await _clock(runtime)]


async def _owners(runtime: Runtime, dead: Collection[str]) -> list[Finding]:
    me = runtime.worker.owners
    rows = await _read(
        runtime,
        "SELECT o.id, o.host, o.beat, COUNT(r.id) FROM owners o LEFT JOIN runs r ON r.owner = o.id AND "
        "r.status = 'running' WHERE o.id <> ? GROUP BY o.id, o.host, o.beat ORDER BY o.id LIMIT 50",
        me.id,
    )
    found: list[Finding] = []
    for id, host, beat, runs in rows:
        name = str(host).partition(":")[0]
        if id in dead:
            state, how = "look", "dead; a worker takes its runs over"
        elif name == socket.gethostname():
            state, how = "ok", "alive"
        else:
            state, how = "ok", f"on {name}; it is dead if its beat is still {beat} in {Timing().death:g} s"
        found.append(Finding("owner", state, f"{id} has {runs} {'run' if runs == 1 else 'runs'}: {how}"))
    return found or [Finding("owners", "ok", "no process has the store open, apart from this one")]


async def _runs(runtime: Runtime) -> list[Finding]:
    rows = await _read(
        runtime,
        "SELECT container, status, held IS NOT NULL, COUNT(*), MIN(created_at) FROM runs WHERE status NOT IN "
        "('completed', 'failed', 'cancelled') GROUP BY container, status, held IS NOT NULL ORDER BY 1, 2, 3",
    )
    found: list[Finding] = []
    for container, status, held, count, _ in rows:
        state = "look" if status == "parked" else "ok"
        why = ""
        if held:
            why = ": held, as this store is a copy; --take-over lets all go on, perdure runs resume one"
        elif status == "parked":
            why = f": perdure runs list --container {container} --status parked"
        found.append(Finding("runs", state, f"{container}: {count} {'held' if held else status}{why}"))
    return found or [Finding("runs", "ok", "none is open or parked")]


async def _left(runtime: Runtime, dead: Collection[str]) -> list[Finding]:
    """Say of runs that nobody drives, though nothing but a process that has their code is missing, what that is."""
    rows = await _read(
        runtime,
        "SELECT r.container, r.definition, r.owner, COUNT(*) FROM runs r JOIN sessions s ON s.container = r.container "
        "AND s.id = r.session AND s.turn = r.id WHERE r.status = 'queued' OR r.status = 'running' "
        "GROUP BY r.container, r.definition, r.owner ORDER BY 1, 2",
    )
    left: dict[tuple[str, str], int] = {}
    for container, name, owner, count in rows:
        if owner is None or owner in dead:
            left[container, name] = left.get((container, name), 0) + count
    found: list[Finding] = []
    for (container, name), count in left.items():
        state, needed = "ok", ""
        if name.startswith(OUTSIDE):
            state, needed = "look", ", by its Runtime(…, environment_factory=…)"
        elif name.startswith(PREFIX):
            needed = ", by a Runtime(…) without environment_factory"
        seen = f"{container}: {count} of {name!r} {'waits' if count == 1 else 'wait'} for a process that has it{needed}"
        found.append(Finding("runs", state, seen))
    return found


def _files(runtime: Runtime) -> list[Finding]:
    db = runtime.db
    if not isinstance(db, SqliteDatabase):
        return []
    wal = Path(f"{db.path}-wal")
    size, ahead = db.path.stat().st_size, wal.stat().st_size if wal.exists() else 0
    free = os.statvfs(db.path.parent).f_bavail * os.statvfs(db.path.parent).f_frsize if hasattr(os, "statvfs") else None
    found = [Finding("file", "ok", _bytes(size))]
    why = "; a reader keeps it from being emptied" if ahead > LARGE_WAL else ""
    found.append(Finding("write-ahead log", "look" if why else "ok", _bytes(ahead) + why))
    if free is not None:
        small = free < 2 * size + 64 * 1024 * 1024
        found.append(Finding("disk", "look" if small else "ok", f"{_bytes(free)} free"))
    return found


async def _clock(runtime: Runtime) -> Finding:
    before = time.time()
    if runtime.db.dialect == "postgres":
        rows = await _read(runtime, "SELECT EXTRACT(EPOCH FROM clock_timestamp())::double precision")
        other, at = "the server's", float(rows[0][0])
    else:
        rows = await _read(runtime, "SELECT COALESCE(MAX(created_at), 0) FROM records")
        other, at = "the newest record's", float(rows[0][0])
        before = min(before, at)  # a record may be old, but not of tomorrow
    ahead = max(before - at, 0.0) + min(time.time() - at, 0.0)
    well = abs(ahead) < SKEW
    seen = f"agrees with {other}" if well else f"{abs(ahead):.1f} s {'before' if ahead > 0 else 'behind'} {other}"
    return Finding("clock", "ok" if well else "look", seen)


async def _read(runtime: Runtime, text: str, *params: Any) -> list[Row]:
    def script() -> Script[list[Row]]:
        return (yield Sql(text, params))

    return await runtime.db.read(script)


def _bytes(size: int) -> str:
    if size < 1_000_000:
        return f"{size / 1000:.1f} kB"
    return f"{size / 1_000_000:,.1f} MB" if size < 1_000_000_000 else f"{size / 1_000_000_000:,.1f} GB"


def run_backup(given: argparse.Namespace) -> int:
    """Copy a store to a new file."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        path = Path(given.target)
        size = await runtime.backup(path)
        painter.line(f"{path} is a copy of {runtime.db.url}: {_bytes(size)}, checked.")
        painter.line(
            "Opened, it is a store of its own, and holds the runs that were open until it is opened with --take-over.",
            "dim",
        )
        if runtime.db.dialect == "postgres":
            painter.line("It is a SQLite file. To restore into PostgreSQL, use pg_dump and pg_restore.", "dim")
        return 0

    return operate(given, work)
