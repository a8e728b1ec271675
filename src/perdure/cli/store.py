"""Opening the store that a command looks after."""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import closing
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from perdure.cli.paint import Painter
from perdure.cli.talk import STOPPED, WRONG_USAGE, fail
from perdure.db.database import Row, Script, Sql, StoreMissing
from perdure.db.open import open_database
from perdure.db.sqlite import SqliteDatabase, map_error
from perdure.log.log import RunRow
from perdure.runtime.container import Container
from perdure.runtime.runtime import Runtime
from perdure.types.errors import PerdureError, UnknownName

VARIABLE = "PERDURE_URL"
LOOKS_LIKE = 500
"""How many of the newest ids are compared with one that is not there."""
STYLES = {
    "running": "cyan",
    "queued": "cyan",
    "completed": "green",
    "failed": "red",
    "parked": "yellow",
    "waiting": "yellow",
    "cancelled": "dim",
}


class WrongUsage(PerdureError):
    """What was asked for makes no sense."""


def operate(given: argparse.Namespace, work: Callable[[Runtime, Painter], Awaitable[int]]) -> int:
    """Open the store that was named, do something with it, and say what went wrong."""
    painter = Painter()
    return guarded(painter, lambda: in_store(given, painter, work))


async def in_store(
    given: argparse.Namespace, painter: Painter, work: Callable[[Runtime, Painter], Awaitable[int]]
) -> int:
    """Open the store that was named and do something with it."""
    url = store_url(given)
    async with await existing(url, take_over=getattr(given, "take_over", False)) as runtime:
        return await work(runtime, painter)


def guarded(painter: Painter, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a command to its exit code; `work` is called before there is an event loop, what it gives runs in one."""
    try:
        with asyncio.Runner() as runner:
            return runner.run(work())
    except WrongUsage as error:
        fail(error, painter)
        return WRONG_USAGE
    except PerdureError as error:
        fail(error, painter)
        return 1
    except KeyboardInterrupt:
        painter.line("Stopped.", "yellow")
        return STOPPED


def store_url(given: argparse.Namespace) -> str:
    """The address of the store: as given, else from the environment.

    Raises:
        WrongUsage: neither names one.
    """
    url = given.store or os.environ.get(VARIABLE)
    if not url:
        raise WrongUsage(f"No store is named. Give --store, such as --store sqlite:///desk.db, or set {VARIABLE}.")
    return url


async def existing(url: str, *, take_over: bool = False) -> Runtime:
    """Make the runtime of a store that is there; a command never makes an empty one.

    Raises:
        StoreMissing: there is no file, or nothing of Perdure's in it.
        DefinitionError: the address is wrong.
    """
    db = open_database(url)
    if isinstance(db, SqliteDatabase):
        if not db.path.is_file():
            raise StoreMissing(f"There is no store at {db.path}. Check the address {url}.")
        try:
            with closing(sqlite3.connect(f"{db.path.absolute().as_uri()}?mode=ro", uri=True)) as look:
                there = look.execute("SELECT 1 FROM sqlite_master WHERE name = 'perdure_store'").fetchall()
        except sqlite3.Error as error:
            raise map_error(error, db.path, 0) from error
    else:
        await db.open()
        try:
            there = await db.read(_tables)
        finally:
            await db.close()
    if not there:
        raise StoreMissing(f"{db.url} has no store of Perdure's in it. Check the address.")
    return Runtime(url, workers=False, take_over=take_over)


def _tables() -> Script[list[Row]]:
    return (yield Sql("SELECT 1 FROM information_schema.tables WHERE table_name = 'perdure_store'"))


async def find_run(container: Container, id: str) -> RunRow:
    """Find a run, or say which ids are like the one that is not there.

    Raises:
        UnknownName: there is no such run.
    """
    try:
        return await container.log.run(id)
    except UnknownName:
        known = [one.id for one in await container.runs(limit=LOOKS_LIKE)]
        raise no_such("run", id, known, container.name) from None


def no_such(kind: str, id: str, known: Sequence[str], container: str | None = None) -> PerdureError:
    """Make the error of an id that is not there."""
    close = [one for one in known if id in one] or get_close_matches(id, known, 3, 0.5)
    like = f" Like it: {', '.join(close[:3])}." if close else ""
    where = "" if container is None else f" in container {container!r}"
    return PerdureError(f"There is no {kind} {id!r}{where}.{like} perdure {kind}s list shows them.")


def moment(at: float) -> str:
    """Show a time as the clock here does."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasted(seconds: float) -> str:
    """Show how long something took."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
