"""What must hold after any seed, however it was disturbed."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from perdure.agents.running import Running
from perdure.durable.function import BODY
from perdure.durable.kernel import Kernel
from perdure.log.log import ENDED
from perdure.log.memory import MemoryLog
from perdure.runtime.container import DEATHS
from perdure.runtime.parked import lonely_deaths
from perdure.testing import canon as canon_of
from perdure.types import records as rec
from perdure.types.base import encode_json
from perdure.types.transcript import Transcript
from tests.runtime.canon import closings
from tests.sim import forked, promises, started, waited
from tests.sim.desk import BY_NAME, HELPER
from tests.sim.jobs import hears_too, tick
from tests.sim.plan import Plan
from tests.sim.watch import digest, mark, moment
from tests.sim.world import World

Place = tuple[str, str]
IN_STEPS = ("trip", "book", "stay", "nap", "hear", "talk", "ask", "errand", "order", "hire")
"""Tools whose effects are all in their steps."""
NOT_KNOWN = re.compile(rb'"outcome":"unknown"|StepInDoubt|StepUndone|"name":"undone"|"name":"(hear|ask)"')
INBOX = (rec.CancelAsked, rec.Answered, rec.RunStarted)
NO_WORK = (*INBOX, rec.Forked, rec.Rewound)
"""What does not say that its run has the turn."""


class Found:
    """The store at the end, read."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: dict[Place, list[rec.Record]] = defaultdict(list)
        self.runs: dict[tuple[str, str], list[rec.Record]] = defaultdict(list)
        self.data: dict[tuple[str, str], set[tuple[str | None, bytes]]] = defaultdict(set)
        for container, session, seq, run, key, _, payload, at, version in world.store.records:
            record = rec.Record(seq, run, session, key, rec.decode_payload(payload), at, version)
            self.sessions[container, session].append(record)
            if run:
                self.runs[container, run].append(record)
                self.data[container, run].add((key, payload))
        self.status = {(container, run): status for container, run, _, status, *_ in world.store.runs}

    def cancelled(self, run: tuple[str, str]) -> bool:
        return any(isinstance(one.payload, rec.CancelAsked) for one in self.runs[run])

    def disturbed(self, place: Place) -> bool:
        """Whether somebody stopped a run of a session, or it was given up: then it may have ended anywhere."""
        return any(
            self.cancelled((place[0], one.run_id)) or self.status[place[0], one.run_id] != "completed"
            for one in self.sessions[place]
            if one.run_id
        )


def problems(world: World) -> list[str]:
    """Say everything that is wrong with a world that has come to its end."""
    wrong = list(world.wrong)
    if not world.finished:
        wrong.append(f"not everything came to its end: {[one for one in world.store.runs if one[3] not in ENDED]}")
    if world.store.check != "ok":
        wrong.append(f"the file is damaged: {world.store.check}")
    found = Found(world)
    for check in (
        _sequence,
        _turns,
        _ends,
        _starts,
        _effects,
        _acknowledged,
        _cancels,
        _folding,
        *promises.CHECKS,
        *waited.CHECKS,
        *forked.CHECKS,
        *started.CHECKS,
    ):
        wrong += check(found)
    return wrong


def _sequence(found: Found) -> Iterator[str]:
    for place in found.sessions:
        records = forked.prefixed(found, place)
        if [one.seq for one in records] != list(range(1, len(records) + 1)):
            yield f"the sequence of {place} has gaps: {[one.seq for one in records]}"


def _turns(found: Found) -> Iterator[str]:
    """Turns of a session come one after another, in the order in which they were taken in."""
    for place in found.sessions:
        records = forked.prefixed(found, place)
        queue = [one.run_id for one in records if isinstance(one.payload, rec.RunStarted)]
        at_work = [one.run_id for one in records if not isinstance(one.payload, NO_WORK)]
        blocks = [run for n, run in enumerate(at_work) if not n or at_work[n - 1] != run]
        if blocks != [run for run in queue if run in set(at_work)]:
            yield f"the turns of {place} overlap or changed places: taken in {queue}, at work {blocks}"


def _ends(found: Found) -> Iterator[str]:
    for (container, run), records in found.runs.items():
        status = found.status[container, run]
        ends = [one.payload for one in records if isinstance(one.payload, rec.RunFinished)]
        if len(ends) != (status in ENDED):
            yield f"{run} is {status} and has {len(ends)} terminal records"
        if ends and ends[0].status != status:
            yield f"{run} is {status} and its terminal record says {ends[0].status}"
        if status == "failed":
            yield f"{run} failed: {ends}"
        if status == "parked" and lonely_deaths(records) < DEATHS:
            yield f"{run} was parked after {lonely_deaths(records)} deaths"
        epochs = [one.payload.epoch for one in records if isinstance(one.payload, rec.Claimed)]
        if sorted(set(epochs)) != epochs:
            yield f"the epochs of {run} are {epochs}"
        closings(records)


def _starts(found: Found) -> Iterator[str]:
    """What must not be there twice."""
    for (_, run), records in found.runs.items():
        epoch = 1
        seen: Counter[Any] = Counter()
        failed: Counter[str] = Counter()
        for one in records:
            payload = one.payload
            if isinstance(payload, rec.Claimed):
                epoch = payload.epoch
            elif isinstance(payload, rec.Started):
                seen["start", payload.step, failed[payload.step]] += 1
            elif isinstance(payload, rec.AttemptFailed):
                failed[payload.step] += 1  # nothing has happened, so it begins anew
                seen[epoch, payload.step, payload.attempt] += 1
            elif isinstance(payload, rec.StepFailed):
                seen[payload.step] += 1
        for what, count in seen.items():
            if count > 1:
                yield f"{run}: {what} is there {count} times"


def _effects(found: Found) -> Iterator[str]:
    done: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in found.world.effects:
        done[one.kind, one.run, one.key].append(one.mark)
    for (kind, run, key), marks in done.items():
        if kind == "once" and len(marks) > 1:
            yield f"once {run} {key} was done {len(marks)} times"
        if len(set(marks)) > 1:
            yield f"{kind} {run} {key} was done with different keys: {set(marks)}"
    for (_, run), records in found.runs.items():
        for one in records:
            payload = one.payload
            certain = isinstance(payload, rec.ToolDone) and payload.outcome in ("not_run", "denied", "interrupted")
            if certain and done.get(("once", run, one.key or "")):
                yield f"once {run} {one.key} was done, and its record says {payload}"
    places = {(run, key) for _, run, key in done}
    for (_, run), records in found.runs.items():
        for one in records:
            payload = one.payload
            tool = payload.result.tool.name if isinstance(payload, rec.ToolDone) and payload.outcome == "ok" else None
            sure = (
                (tool is not None and tool not in IN_STEPS)
                or (isinstance(payload, rec.InferenceDone) and not payload.interrupted)
                or (isinstance(payload, rec.StepDone) and payload.error is None and not _own(one.key, payload.name))
            )
            if sure and (run, one.key) not in places:
                yield f"{run} {one.key} has a record and was never done"


def _own(key: str | None, name: str) -> bool:
    """Whether a step is done by the code of Perdure: an event that is sent, or the end of a function."""
    return key == BODY or "send" in name


def _acknowledged(found: Found) -> Iterator[str]:
    world = found.world
    for container, run in world.taken:
        if (container, run) not in found.status:
            yield f"{run} was taken in and is not there"
    for container, run, key, payload in world.appended:
        if (key, payload) not in found.data[container, run]:
            yield f"{run} {key}: an acknowledged record is not there: {payload[:200]!r}"
    for container, run, epoch, first in world.owned:
        for one in found.runs[container, run]:
            if isinstance(one.payload, rec.Claimed) and one.payload.epoch > epoch and one.seq < first:
                yield f"{run}: an owner of epoch {epoch} has written {first}, behind the claim at {one.seq}"
    for (container, run), outputs in world.answers.items():
        ends = [one.payload for one in found.runs[container, run] if isinstance(one.payload, rec.RunFinished)]
        if {str(one.output) for one in ends} != outputs:
            yield f"{run}: users were told {outputs}, the log says {ends}"


def _cancels(found: Found) -> Iterator[str]:
    for container, run, still_open in found.world.cancels:
        if still_open and not found.cancelled((container, run)):
            ended = found.status[container, run]
            yield f"{run} ({ended}): an acknowledged cancel is not there"
    for (container, run), records in found.runs.items():
        asked = [one.seq for one in records if isinstance(one.payload, rec.CancelAsked)]
        end = [one.seq for one in records if isinstance(one.payload, rec.RunFinished)]
        if asked and end and asked[0] < end[0] and found.status[container, run] == "completed":
            yield f"{run} was cancelled and is completed"


def _folding(found: Found) -> Iterator[str]:
    """d26: the state from folding is the state that was there when the record was made."""
    whole = forked.whole_runs(found)
    for place in found.sessions:
        records = forked.prefixed(found, place)
        runs = {one.run_id for one in found.sessions[place] if isinstance(one.payload, (rec.RunStarted, rec.Forked))}
        for run in sorted(runs - {""}):
            yield from _fold(found, run, whole[place[0], run], records)


def _fold(found: Found, run: str, records: Sequence[rec.Record], session: Sequence[rec.Record]) -> Iterator[str]:
    started = records[0].payload
    assert isinstance(started, rec.RunStarted)
    definition: Any = HELPER if started.definition == HELPER.name else BY_NAME[started.definition]
    options = {"run_id": run, "session_id": records[0].session_id}
    given = started.input if getattr(definition, "signature", None) is not None else None
    running = Running(definition, given, options, kernel=Kernel(MemoryLog(lambda: 0.0)))
    before = Transcript()
    first = next((one.seq for one in records if not isinstance(one.payload, INBOX)), records[0].seq)
    for one in forked.counting([one for one in session if one.seq < first]):
        if one.run_id != run:
            before.add(one)
    running.recall((), tuple(before.messages))
    posted, known = False, 0
    for one in records:
        running.loop.fold(one)
        known += mark(one)
        live = found.world.folded.get(moment(one), [])
        if isinstance(one.payload, rec.CancelAsked):
            posted = not live  # whoever drives folds it when it has cut off what runs
        # what comes from outside, and transactions, may be folded behind what their run's other steps have held back:
        # the state must be the same when the same records were folded
        live = [state for sum, state in live if sum == known]
        if not posted and any(state != digest(running.loop) for state in live):
            yield f"{run}: at {one.seq} ({one.kind} {one.key}) folding gives {digest(running.loop)!r}, it was {live!r}"
            return


def compare(world: World) -> list[str]:
    """Compare each session that nobody stopped with the same messages in an undisturbed world."""
    found = Found(world)
    order = [one.run_id for records in found.sessions.values() for one in records if _asked(world.plan, one)]
    calm = Found(World(world.plan, calm=True, order=tuple(order)).run())
    wrong: list[str] = []
    for place, records in found.sessions.items():
        if found.disturbed(place) or place in found.world.store.forks or _free(found, calm, place):
            continue
        mine, its = canon(records), canon(calm.sessions[place])
        if _unknown(mine):
            mine, its = _certain(mine), _certain(its)
        if mine != its:
            changed = [key for key in {**mine, **its} if mine.get(key) != its.get(key)]
            wrong.append(
                f"{place} is not what it is undisturbed: {[(key, mine.get(key), its.get(key)) for key in changed]}"
            )
    return wrong


def _free(found: Found, calm: Found, place: Place) -> bool:
    """Whether what a session's runs do depends on when, it was rewound, or forks have brought it forth."""
    free = {hears_too.name, tick.name}
    asked = any(_asked(found.world.plan, one) for one in found.sessions[place])
    return (not asked and place not in calm.sessions) or any(
        isinstance(one.payload, rec.Rewound) or found.world.store.definition.get((place[0], one.run_id)) in free
        for one in found.sessions[place]
    )


def _asked(plan: Plan, record: rec.Record) -> bool:
    return isinstance(record.payload, rec.RunStarted) and any(one.run == record.run_id for one in plan.asks)


def canon(records: Sequence[rec.Record]) -> dict[str, bytes]:
    """The closing records of a session by run and place."""
    places = canon_of(records).places
    return {place: one for place, one in places.items() if "function#" not in place}


def _unknown(records: dict[str, bytes]) -> bool:
    return any(NOT_KNOWN.search(one) for one in records.values())


def _certain(records: dict[str, bytes]) -> dict[str, bytes]:
    """Without what `once` tools and steps said, of which the transcript may say that nobody knows."""
    return {key: one for key, one in records.items() if not _once(key, one)}


def _once(key: str, record: bytes) -> bool:
    if key.endswith(("/bed", "/fee", "#undo")):
        return True
    named = (b'"name":"%s"' % name for name in (b"charge", b"pay", b"reserve", b"stay", b"permit", b"hear", b"ask"))
    return b'"tool"' in record[:20] and any(one in record for one in named)


def log_of(world: World) -> bytes:
    """The whole log, byte by byte."""
    return encode_json([[*one[:6], (one[6] or b"").decode(), *one[7:]] for one in world.store.records])
