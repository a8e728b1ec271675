"""Owners: the processes that drive runs, and which of them are dead.

The lease belongs to the process and is a counter. An owner is dead when an observer saw the same number for ten seconds
of its own monotonic clock, or at once when its lock file on the same machine is free. Wall clocks never decide; safety
does not depend on it, the token does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, NamedTuple

from perdure.db.database import Database, Row, Script, Sql, StoreError
from perdure.log.functions import FREE
from perdure.log.log import OPEN, seen_beat
from perdure.types.errors import ConfigurationError
from perdure.types.ids import new_id

try:
    import fcntl
except ImportError:  # a system without file locks: there only the counter tells
    fcntl = None


class Timing(NamedTuple):
    """How an owner shows that it lives.

    `death` is how many seconds without a new beat mean death, `beat` how often it beats, `sweep` how often it looks for
    what dead ones have left. After `stuck` seconds a process whose event loop is blocked counts as dead.
    """

    death: float = 10.0
    beat: float = 2.0
    sweep: float = 1.0
    stuck: float = 300.0


class Left(NamedTuple):
    """A run that nobody alive drives: who had it, how many runs that one had, and how many have died with this one.

    `again` says that it was driven before and is no one's since: a wait has ended, or somebody has resumed it. `queuer`
    is the process that waits for its turn, if others know that one.
    """

    container: str
    run_id: str
    owner: str | None
    held: int
    deaths: int
    again: bool = False
    queuer: str | None = None


class LockFile:
    """A file that is locked as long as this process lives, so that others on the machine see at once when it dies."""

    def __init__(self, owner: str) -> None:
        folder = Path(tempfile.gettempdir()) / f"perdure-owners-{os.getuid() if hasattr(os, 'getuid') else 0}"
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.lstat()
        others = not stat.S_ISDIR(seen.st_mode) or seen.st_mode & 0o022
        if hasattr(os, "getuid") and (others or seen.st_uid != os.getuid()):
            raise ConfigurationError(
                f"{folder} is not a folder that only this user can write to, so somebody else could make a living "
                "process look dead. Remove it, or set TMPDIR to a folder of this user's."
            )
        self.host = f"{socket.gethostname()}:{_name_of(folder)}"
        self.path = folder / owner
        self._file: IO[bytes] = self.path.open("wb")
        if fcntl is not None:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX)

    def close(self, *, remove: bool) -> None:
        """Let go of the lock, which others see; the file is removed if nobody has to see it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _name_of(folder: Path) -> str:
    """A name that only processes which see the same folder know: machines and containers may share a host name."""
    path = folder / "id"
    own = folder / new_id("host")
    own.write_text(own.name)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(own)
    own.unlink()
    return path.read_text()


def _is_free(path: Path) -> bool:
    """Whether a lock file is there and nobody holds it, which means that its owner is dead."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:  # held, or not there: then the counter tells
        return False


_ON_TOP = (
    "(r.parent IS NULL OR r.detached = 1 OR NOT EXISTS (SELECT 1 FROM runs p WHERE p.container = r.container "
    f"AND p.id = r.parent AND p.status IN {OPEN}))"
)


def fair(left: Iterable[Left]) -> list[Left]:
    """Order runs so that each container has one before any has a second."""
    by_container: dict[str, list[Left]] = {}
    for one in left:
        by_container.setdefault(one.container, []).append(one)
    rounds = zip_longest(*by_container.values())
    return [one for some in rounds for one in some if one is not None]


class Owners:
    """This process as an owner, and its view of the others.

    Args:
        db: the opened database.
        timing: how long is what.
    """

    def __init__(self, db: Database, timing: Timing) -> None:
        self._db = db
        self._timing = timing
        self.id = new_id("owner")
        self._lock = LockFile(self.id)
        self._beats = 0
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked: float | None = None

    async def beat(self, *, apart: bool = False) -> None:
        """Show that this process is alive; makes it known if it is not, or not any more.

        Args:
            apart: whether this is another event loop than the one in which the database was opened.
        """
        self._beats += 1  # counted here: who was forgotten and comes back has not the number it was seen with
        row = (self.id, self._beats, self._lock.host, str(self._lock.path))

        def script() -> Script[None]:
            yield Sql(
                "INSERT INTO owners (id, beat, host, lock) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET beat = excluded.beat",
                row,
            )

        await (self._db.write_apart if apart else self._db.write)(script)

    async def dead(self, now: Callable[[], float]) -> dict[str, int]:
        """Say which owners are dead, each with its last beat: if it beats after all, nothing may be taken from it.

        Args:
            now: this process's monotonic clock, in seconds. It is read on both sides of the look, so that the time in
                which this process itself was stopped counts for nobody's death.

        Time in which nobody could look counts neither: who is alive could not show it while the store was away. So
        after a gap between two looks every owner has its whole time again.
        """

        def script() -> Script[list[Row]]:
            return (yield Sql("SELECT id, beat, host, lock FROM owners WHERE id <> ?", (self.id,)))

        found: dict[str, int] = {}
        most, before_look = max(self._timing.death / 2, 2 * self._timing.sweep), now()
        gap = self._looked is not None and before_look - self._looked > most
        seen: dict[str, tuple[int, float]] = {}
        rows = await self._db.read(script)
        after_look = now()
        for id, beat, host, lock in rows:
            before = None if gap else self._seen.get(id)
            seen[id] = before if before is not None and before[0] == beat else (beat, after_look)
            if before_look - seen[id][1] >= self._timing.death or (host == self._lock.host and _is_free(Path(lock))):
                found[id] = int(beat)
        self._seen, self._looked = seen, before_look  # what a look took belongs to the gap behind it
        return found

    async def alone(self) -> bool:
        """Whether no other process has shown itself at this store."""

        def script() -> Script[list[Row]]:
            return (yield Sql("SELECT 1 FROM owners WHERE id <> ? LIMIT 1", (self.id,)))

        return not await self._db.read(script)

    async def left(
        self,
        dead: Collection[str],
        live: Collection[str],
        most: int = 100,
        known: Collection[str] | None = None,
        prefix: str = "",
    ) -> list[Left]:
        """Find runs that nobody alive drives: of dead owners, queued ones whose turn it is, waiting ones to be ended.

        Child runs are among them only when their parent is over: else whoever drives the parent finds them.

        Args:
            dead: owners that are dead.
            live: the runs that this process drives or is about to.
            most: how many queued ones of each container are looked at, the oldest first.
            known: the definitions whose queued runs are looked at, unless they are to be ended; all unless given.
            prefix: how the names of others begin whose runs are looked at too.
        """
        mine, names = "", tuple(known or ())
        if known is not None:
            named = f"r.definition IN ({', '.join('?' * len(names))}) OR " if names else ""
            mine = f"AND ({named}substr(r.definition, 1, {len(prefix)}) = ? OR r.cancelled = 1) "
            names = (*names, prefix)

        def script() -> Script[tuple[list[Row], list[Row]]]:
            running = yield Sql(
                "SELECT r.container, r.id, r.owner, o.id, r.deaths FROM runs r LEFT JOIN owners o ON o.id = r.owner "
                f"WHERE r.status = 'running' AND {_ON_TOP} ORDER BY r.created_at, r.id"
            )
            queued = yield Sql(
                "SELECT container, id, deaths, again, queuer, lane, free FROM (SELECT r.container, r.id, r.deaths, "
                "(SELECT o.id FROM owners o WHERE o.id = r.queuer) AS queuer, "
                f"r.epoch + r.detached AS again, r.lane, CASE WHEN r.lane IS NULL THEN 1 ELSE {FREE} END AS free, "
                "ROW_NUMBER() OVER (PARTITION BY r.container ORDER BY r.created_at, r.id) AS place FROM "
                "(SELECT * FROM runs WHERE status = 'queued' UNION ALL "
                "SELECT * FROM runs WHERE status = 'waiting' AND cancelled = 1) r "
                "JOIN sessions s ON s.container = r.container AND s.id = r.session AND s.turn = r.id "
                f"WHERE {_ON_TOP} {mine}AND (r.lane IS NULL OR r.cancelled = 1 OR {FREE} > 0)) AS ready "
                "WHERE place <= ? ORDER BY place, container",
                (*names, most + len(live)),
            )
            return running, queued

        running, queued = await self._db.read(script)
        held: dict[str, int] = {}
        for _, _, owner, _, _ in running:
            held[owner] = held.get(owner, 0) + 1
        # an owner that others have forgotten is dead; a run of this process that it does not drive was lost on its way
        found = [
            Left(container, id, owner, held[owner], int(deaths) + (owner != self.id))
            for container, id, owner, known, deaths in running
            if id not in live and (owner in dead or known is None or owner == self.id)
        ]
        lanes: dict[tuple[str, str], int] = {}
        for container, id, deaths, again, queuer, lane, free in queued:
            if id in live:
                continue
            if lane is not None:  # no more of each container than may become active
                place = lanes[container, lane] = lanes.get((container, lane), 0) + 1
                if place > max(1, free):
                    continue
            found.append(Left(container, id, None, 0, int(deaths), again > 0, queuer))
        return found

    async def next_turn(self, container: str, run_id: str) -> Left | None:
        """Find the queued run that has the turn of a run's session by now, unless it needs a place of its own kind."""

        def script() -> Script[list[Row]]:
            text = (
                "SELECT r.id, r.deaths, r.epoch + r.detached, o.id FROM runs one "
                "JOIN sessions s ON s.container = one.container AND s.id = one.session "
                "JOIN runs r ON r.container = s.container AND r.id = s.turn LEFT JOIN owners o ON o.id = r.queuer "
                "WHERE one.container = ? AND one.id = ? AND r.id <> one.id AND r.status = 'queued' AND r.lane IS NULL "
                f"AND {_ON_TOP}"
            )
            return (yield Sql(text, (container, run_id)))

        for id, deaths, again, queuer in await self._db.read(script):
            return Left(container, id, None, 0, int(deaths), again > 0, queuer)
        return None

    async def turns(self, container: str, run_ids: Sequence[str]) -> set[str]:
        """Say which of these queued runs may have their session's turn, or are not queued any more."""

        def script() -> Script[list[Row]]:
            rows: list[Row] = []
            for start in range(0, len(run_ids), 500):
                some = run_ids[start : start + 500]
                rows += yield Sql(
                    f"SELECT r.id, r.lane, CASE WHEN r.lane IS NULL OR r.status <> 'queued' THEN 1 ELSE {FREE} END "
                    "FROM runs r JOIN sessions s ON s.container = r.container AND s.id = r.session "
                    f"WHERE r.container = ? AND r.id IN ({', '.join('?' * len(some))}) "
                    "AND (s.turn = r.id OR r.status <> 'queued') ORDER BY r.created_at, r.id",
                    (container, *some),
                )
            return rows

        found: set[str] = set()
        lanes: dict[str, int] = {}
        for id, lane, free in await self._db.read(script):
            if lane is not None:  # no more than may become active
                lanes[lane] = lanes.get(lane, 0) + 1
            if lane is None or lanes[lane] <= free:
                found.add(str(id))
        return found

    async def spoken_to(self) -> list[tuple[str, str, bool, int]]:
        """Find runs of this process that others have written to: container, id, whether one has cancelled it, and the
        number of the last record by which a wait has ended."""

        def script() -> Script[list[Row]]:
            text = (
                "SELECT container, id, cancelled, woken FROM runs "
                "WHERE status = 'running' AND owner = ? AND (cancelled = 1 OR woken > 1)"
            )
            return (yield Sql(text, (self.id,)))

        return [(str(name), str(id), bool(cut), int(seq)) for name, id, cut, seq in await self._db.read(script)]

    async def forget(self, owners: Collection[str]) -> bool:
        """Remove owners that have no run any more, with their lock files; say whether any was removed.

        Args:
            owners: in a mapping each has the beat at which it was seen; one that has beaten since stays.
        """

        def script() -> Script[list[str]]:
            gone: list[str] = []
            for one in owners:
                beat = seen_beat(owners, one)
                since = "" if beat is None else f"AND beat = {beat} "
                rows = yield Sql(
                    f"DELETE FROM owners WHERE id = ? {since}AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = ? AND "
                    "status = 'running') RETURNING lock",
                    (one, one),
                )
                gone += [str(row[0]) for row in rows]
            return gone

        if not owners:
            return False
        gone = [Path(lock) for lock in await self._db.write(script)]
        for lock in gone:
            if lock.parent == self._lock.path.parent and _is_free(lock):
                lock.unlink(missing_ok=True)
        return bool(gone)

    async def close(self) -> None:
        """Say that this process has gone."""
        removed = False
        with contextlib.suppress(StoreError):  # a store that is gone cannot be told; others see the lock file
            removed = await self.forget([self.id])
        self._lock.close(remove=removed)
