"""`crash_everywhere`: a run of your own is killed at every record it writes, and everything must come out the same.

The run happens once undisturbed. Then it happens again for each of its commits, in a process that dies just before it
or just after it, and for each choice of parallel calls that had ended when the process died; another process goes on.
What the log says and what has happened outside must then be what it is undisturbed, according to each declared effect.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, cast

from typing_extensions import Unpack

from perdure.agents.definition import AgentDefinition, NetworkDefinition
from perdure.agents.options import RunOptions
from perdure.testing.canonical import canon
from perdure.testing.story import Kill, Pairing, People, Plan, Story, Told
from perdure.types.errors import DefinitionError
from perdure.types.messages import Input, ToolCallMessage
from perdure.types.records import AttemptFailed, InferenceDone, Payload, Record, StepDone, ToolDone

CALLS = 4
"""Of rounds with more parallel calls than this, not every choice is tried."""


class Point(NamedTuple):
    """Where a run was killed, and what is not as it must be then; nothing if all is well."""

    where: str
    problems: tuple[str, ...]


class CrashReport(NamedTuple):
    """What came of it.

    `points` are all places at which the run was killed, `skipped` how many more there are that `most` has left out.
    """

    points: tuple[Point, ...]
    skipped: int = 0

    @property
    def failures(self) -> tuple[Point, ...]:
        """The points at which something is not as it must be."""
        return tuple(one for one in self.points if one.problems)

    def print(self) -> None:
        """Show what was tried, and what has failed."""
        sys.stdout.write(self.text() + "\n")

    def text(self, most: int = 10) -> str:
        """Say what was tried, and what has failed.

        Args:
            most: how many failures are told.
        """
        left_out = f" ({self.skipped} more were left out)" if self.skipped else ""
        lines = [f"{len(self.points)} crashes{left_out}, {len(self.failures)} with consequences"]
        for one in self.failures[:most]:
            lines += [f"- {one.where}:", *(f"    {problem}" for problem in one.problems)]
        if len(self.failures) > most:
            lines.append(f"- and {len(self.failures) - most} more")
        return "\n".join(lines)


def crash_everywhere(
    run: AgentDefinition | NetworkDefinition | Callable[[], AgentDefinition | NetworkDefinition],
    input: Input = None,
    *,
    outside: Callable[[], Any] | None = None,
    people: People | None = None,
    twice: bool = False,
    seed: int = 0,
    most: int = 300,
    raises: bool = True,
    **options: Unpack[RunOptions[Any]],
) -> CrashReport:
    """Kill a run at every record that it writes, let another process go on, and compare with the undisturbed run.

    It happens on a real SQLite file, in virtual time and in one thread: each process has its own event loop, which has
    no sockets, and sleeping costs nothing. A killed process is never run on. Scripted models give the answers that
    belong to each inference, however often it is asked.

    Args:
        run: an agent or a network, or a function that makes one: then each process has one of its own.
        input: what the user says.
        outside: makes the world outside anew for each time that the run happens, such as an account that tools pay
            from. What it returns is a resource of the run (a tuple: several), outlasts the crashes, and is compared.
        people: says what people answer when the run asks for an approval or has a question: `Approve`, `Deny`,
            `Answer`, or nothing. It must say the same to the same wait: after a crash it may be asked again.
        twice: whether the process that goes on is killed too, at each of its records.
        seed: what chance follows from: in what order things end, and which points are left out.
        most: how many points are tried at most.
        raises: whether a point that fails raises.
        options: of the run, such as `model=` and `state=`.

    Returns:
        The points, and what is wrong at each.

    Raises:
        AssertionError: something is not as it must be at some point, or the run cannot be compared with itself.
        DefinitionError: an option cannot be given here.
    """
    for name in ("resources", "run_id", "session_id"):
        if name in options:
            raise DefinitionError(f"crash_everywhere(…) takes no {name}; what outlasts a crash comes from outside=.")
    make: Any = (lambda: run) if isinstance(run, (AgentDefinition, NetworkDefinition)) else run
    plan = Plan(make, input, {**options}, outside or (lambda: ()), seed, {}, people)
    found: list[CrashReport | BaseException] = []

    def work() -> None:
        log = logging.getLogger("perdure")
        disabled, log.disabled = log.disabled, True
        try:
            found.append(_Crashes(plan, most, twice=twice).report())
        except BaseException as error:
            found.append(error)
        finally:
            log.disabled = disabled

    # a thread of its own: whoever calls may be in an event loop already
    thread = threading.Thread(target=work, name="crash-everywhere")
    thread.start()
    thread.join()
    report = found[0]
    if isinstance(report, BaseException):
        raise report
    if raises and report.failures:
        raise AssertionError(report.text())
    return report


class _Crashes:
    def __init__(self, plan: Plan, most: int, *, twice: bool) -> None:
        self._plan = plan
        self._most = most
        self._twice = twice
        self._chance = Random(f"points {plan.seed}")
        self._skipped = 0
        self._calm = self._undisturbed("undisturbed")
        self._canon = canon(self._calm.records)
        again = self._undisturbed("undisturbed again")
        if again.outside != self._calm.outside:
            raise AssertionError(
                "Two undisturbed runs leave different worlds outside, so nothing can be compared:\n"
                f"    {_short(self._calm.outside)}\n    {_short(again.outside)}"
            )
        other = canon(again.records).places
        self._varies = {place for place, data in self._canon.places.items() if other.get(place) != data}

    def _undisturbed(self, name: str) -> Told:
        told = Story(self._plan, name).tell()
        if told.status not in ("completed", "waiting") or told.why:
            raise AssertionError(f"Undisturbed the run does not come to its end: it is {told.status}. {told.why}")
        return told

    def report(self) -> CrashReport:
        points: list[Point] = []
        first = [Kill(n, when) for n in range(1, len(self._calm.commits[0]) + 1) for when in ("before", "after")]
        recoveries: list[tuple[Kill, Kill]] = []
        for kill in self._some(first):
            told = Story(self._plan, f"{kill}", [kill]).tell()
            if told.killed:
                points.append(Point(kill.told(self._what(kill)), self._compare(told)))
                writes = range(1, len(told.commits[1]) + 1) if len(told.commits) > 1 else ()
                recoveries += [(kill, Kill(n, when)) for n in writes for when in ("before", "after")]
        for pairing in self._some(list(self._pairings())):
            told = Story(self._plan, f"{pairing}", (), pairing).tell()
            if told.killed:
                points.append(Point(pairing.told(self._names()), self._compare(told)))
        for kill, second in self._some(recoveries) if self._twice else ():
            told = Story(self._plan, f"{kill} {second}", [kill, second]).tell()
            if told.killed > 1:
                where = f"{kill.told(self._what(kill))}, and again in the recovery, {second.told('')}"
                points.append(Point(where, self._compare(told)))
        return CrashReport(tuple(points), self._skipped)

    def _some(self, all: Sequence[Any]) -> Sequence[Any]:
        """At most as many as are left to be tried, by chance."""
        if len(all) <= self._most:
            self._most -= len(all)
            return all
        self._skipped += len(all) - self._most
        chosen = sorted(self._chance.sample(range(len(all)), self._most))
        self._most = 0
        return [all[n] for n in chosen]

    def _what(self, kill: Kill) -> str:
        """What the commit at which it is killed has in the undisturbed run."""
        return ", ".join(self._calm.commits[0][kill.number - 1])

    def _names(self) -> dict[str, str]:
        return {f"{one.run} {one.key}": one.name for one in self._calm.calls}

    def _pairings(self) -> Iterator[Pairing]:
        """Which calls of a round had their records when the process died."""
        called = self._names()
        for record in self._calm.records:
            done = record.payload
            said = done.messages if isinstance(done, InferenceDone) else ()
            calls = sum(len(one.tools) for one in said if isinstance(one, ToolCallMessage))
            places = [f"{record.run_id} {record.key}/tool/{n}" for n in range(calls)]
            places = [one for one in places if one in called][:CALLS]
            if len(places) < 2:
                continue
            for count in range(len(places)):
                for recorded in combinations(places, count):
                    others = tuple(one for one in places if one not in recorded)
                    yield Pairing(recorded, others, ended=False)
                    yield Pairing(recorded, others, ended=True)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def _compare(self, told: Told) -> tuple[str, ...]:
        if told.status != self._calm.status or told.why:
            return (f"the run is {told.status}, and undisturbed it is {self._calm.status}: {told.why}",)
        return (*_called(told), *self._log(told), *self._outside(told))

    def _log(self, told: Told) -> Iterator[str]:
        """What the log must say."""
        try:
            found = canon(told.records)
        except ValueError as twice:
            yield str(twice)
            return
        unknown = _unknown(told.records)
        passed = {place for place in {**found.places, **self._canon.places} if _above(place, unknown)} | self._varies
        if unknown and not self._plan.places:
            return  # what a model makes of it is its own affair
        for place in {**self._canon.places, **found.places}:
            mine, its = (_known(one.get(place), unknown) for one in (found.places, self._canon.places))
            if mine != its and (place not in passed or mine is None or its is None):
                yield f"{place.partition(' ')[2]} is {_json(mine)}, and undisturbed {_json(its)}"
        if not (unknown or self._varies) and found.messages != self._canon.messages:
            yield "the conversation is another one"

    def _outside(self, told: Told) -> Iterator[str]:
        """What must have happened outside: all of it, or less where the log says that nobody knows."""
        unknown = _unknown(told.records)
        exact = all(tuple(one.split(" ", 1)) in told.done for one in unknown) and not _undone(told.records)
        seen: list[tuple[str, Any, Any, Any]] = [
            ("outside", told.before, told.outside, self._calm.outside),
            ("the tables in the store", {}, told.tables, self._calm.tables),
        ]
        for what, start, mine, its in seen:
            if not (mine == its if exact else within(mine, start, its)):
                yield f"{what}: {_short(mine)}, and undisturbed {_short(its)}"


def _called(told: Told) -> Iterator[str]:
    """What calls there must not have been."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in told.records:
        if isinstance(record.payload, AttemptFailed):
            counts[record.run_id, record.payload.step] -= 1
    for one in told.calls:
        place = (one.run, one.key)
        counts[place] += 1
        if one.again:
            yield f"{one.name} at {one.key} was called though it had its record"
        elif one.effect == "once" and counts[place] > 1:
            yield f"{one.name} at {one.key} was called twice, and its effect is once"


def _unknown(records: Sequence[Record]) -> set[str]:
    """The places of which the log says that nobody knows whether they took effect, or that they were undone."""
    return {f"{one.run_id} {one.key}" for one in records if _in_doubt(one.payload)}


def _in_doubt(payload: Payload) -> bool:
    if isinstance(payload, StepDone):
        return payload.error is not None and payload.error.type in ("StepInDoubt", "StepUndone")
    if not isinstance(payload, ToolDone):
        return False
    content: Any = payload.result.content
    undone = isinstance(content, dict) and cast("dict[str, Any]", content).get("error", {}).get("name") == "undone"
    return payload.outcome == "unknown" or (payload.outcome == "error" and undone)


def _undone(records: Sequence[Record]) -> bool:
    return any((one.key or "").endswith("#undo") for one in records)


def _above(place: str, unknown: set[str]) -> bool:
    """Whether a place is one that nobody knows of, belongs to one, or has one inside."""
    return any(place == one or one.startswith(f"{place}/") or place.startswith(f"{one}#") for one in unknown)


def within(found: Any, start: Any, whole: Any) -> bool:
    """Whether a snapshot is somewhere between the beginning and the whole: nothing was done more than once."""
    if all(isinstance(one, Mapping) for one in (found, start, whole)):
        keys = {*start, *whole}
        empty = {key: _nothing(value) for key, value in found.items()}
        return all(key in keys for key in found) and all(
            within(value, start.get(key, empty[key]), whole.get(key, empty[key])) for key, value in found.items()
        )
    if all(isinstance(one, list) for one in (found, start, whole)):
        return not Counter(map(repr, found)) - (Counter(map(repr, whole)) | Counter(map(repr, start)))
    if all(isinstance(one, (int, float)) for one in (found, start, whole)):
        return min(start, whole) <= found <= max(start, whole)
    return found in (start, whole)


def _nothing(value: Any) -> Any:
    return {} if isinstance(value, Mapping) else [] if isinstance(value, list) else 0


def _known(data: bytes | None, unknown: set[str]) -> bytes | None:
    """A record without what it has consumed, where a prompt says that something is not known."""
    return re.sub(rb'"usage":\{[^{}]*\},?', b"", data) if unknown and data is not None else data


def _json(data: bytes | None) -> str:
    return "not there" if data is None else _short(data.decode())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 400 else text[:399] + "…"
