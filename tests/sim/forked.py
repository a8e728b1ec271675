"""What forks and rewinds promise (rule 18), derived here anew from the rows, and compared with what is read."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from perdure.db.sqlite import SqliteDatabase
from perdure.log.sql import SqlLog
from perdure.runtime.conversations import Conversations, seen
from perdure.types import records as rec
from perdure.types.errors import UnknownName

if TYPE_CHECKING:
    from tests.sim.check import Found

Place = tuple[str, str]


class Readings:
    """What the log itself reads of sessions that are forks, or were rewound, and of runs that are continuations."""

    def __init__(self) -> None:
        self.whole: dict[Place, list[rec.Record]] = {}
        self.seen: dict[Place, list[rec.Record]] = {}
        self.runs: dict[Place, list[rec.Record]] = {}
        self.said: dict[Place, list[Any]] = {}

    async def read(self, path: str, sessions: Sequence[Place], runs: Sequence[Place]) -> None:
        """Read them from a file that nobody writes to any more."""
        db = SqliteDatabase(path, "normal")
        await db.open()
        try:
            for container, session in sessions:
                log = SqlLog(db, lambda: 0.0, "reader", container)
                self.whole[container, session] = await log.read_session(session)
                self.seen[container, session] = await seen(log, session)
                self.said[container, session] = (await Conversations(log).of(session)).messages
            for container, run in runs:
                log = SqlLog(db, lambda: 0.0, "reader", container)
                try:
                    self.runs[container, run] = await log.read_run(run)
                except UnknownName:  # it is to be there: whoever looks says so
                    continue
        finally:
            await db.close()


def prefixed(found: "Found", place: Place) -> list[rec.Record]:
    """All that a session reads: of its base what came up to the cut, then its own."""
    fork = found.world.store.forks.get(place)
    own = found.sessions.get(place, [])
    if fork is None:
        return own
    base, seq, origin, run = fork
    names = {origin: run} if origin is not None and run is not None else {}
    before = [one for one in prefixed(found, (place[0], base)) if one.seq <= seq]
    return [*(replace(one, session_id=place[1], run_id=names.get(one.run_id, one.run_id)) for one in before), *own]


def counting(records: Sequence[rec.Record]) -> list[rec.Record]:
    """What counts of a session that was rewound: after a rewind what counted just behind the place it goes back to."""
    now: list[rec.Record] = []
    after: dict[int, list[rec.Record]] = {0: []}
    for one in records:
        now = [*after[one.payload.to], one] if isinstance(one.payload, rec.Rewound) else [*now, one]
        after[one.seq] = now
    return now


def whole_runs(found: "Found") -> dict[Place, list[rec.Record]]:
    """The records of every run, of a continuation with those of the run that it goes on from."""
    whole = dict(found.runs)
    for place, (_, _, _, run) in found.world.store.forks.items():
        if run is not None:
            whole[place[0], run] = [one for one in prefixed(found, place) if one.run_id == run]
    return whole


def prefixes(found: "Found") -> Iterator[str]:
    """r18: a fork reads exactly its prefix and then its own records, and a rewind hides exactly what came behind it."""
    readings, made = found.world.readings, found.world.forking.made
    for place, (base, seq, _) in made.items():
        there = found.world.store.forks.get(place)
        if there is None or there[0] != base or there[1] != seq:
            yield f"the fork {place} of {base} at {seq} was acknowledged, and is {there}"
    for place, whole in readings.whole.items():
        expected = prefixed(found, place)
        if whole != expected:
            yield f"{place} reads {_short(whole)}, and its prefix and its own are {_short(expected)}"
        counts = [one for one in counting(expected) if not isinstance(one.payload, rec.Rewound)]
        seen = [one for one in readings.seen[place] if not isinstance(one.payload, rec.Rewound)]
        if seen != counts:
            yield f"{place}: {_short(seen)} counts, and it should be {_short(counts)}"
    runs = whole_runs(found)
    for (container, run), records in readings.runs.items():
        if records != runs[container, run]:
            yield f"{run} of {container} reads {_short(records)}, and should {_short(runs[container, run])}"


def rewinds(found: "Found") -> Iterator[str]:
    """r18: an acknowledged rewind is there, no run was at work across it, and nothing was removed."""
    for place, to, at in found.world.forking.rewound:
        there = [one for one in found.sessions[place] if one.seq == at]
        if not there or there[0].payload != rec.Rewound(to):
            yield f"the rewind of {place} to {to} at {at} was acknowledged, and there is {there}"
    for place, records in found.sessions.items():
        for point in (one for one in records if isinstance(one.payload, rec.Rewound)):
            before = {one.run_id for one in records if one.seq < point.seq and one.run_id}
            behind = {one.run_id for one in records if one.seq > point.seq and one.run_id}
            if before & behind:
                yield f"{place} was rewound at {point.seq} in the middle of {before & behind}"


def carried(found: "Found") -> Iterator[str]:
    """r18: what was open where a run was cut is closed there, and no wait of the other run is answered in it."""
    for (container, session), (base, seq, origin, run) in found.world.store.forks.items():
        if origin is None or run is None:
            continue
        waits: dict[str, int] = defaultdict(int)
        for one in found.runs[container, run]:
            if isinstance(one.payload, rec.Answered):
                waits[one.payload.wait_id.rpartition("~")[0]] += 1
        if origin in waits:
            yield f"{run} (fork of {origin} in {base} at {seq}, {session}) was given an answer to a wait of {origin}"


def _short(records: Sequence[rec.Record]) -> str:
    return " ".join(f"{one.seq}:{one.kind}:{one.run_id}:{one.key or ''}" for one in records)[-800:]


CHECKS = (prefixes, rewinds, carried)
