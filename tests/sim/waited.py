"""What waits promise (rules 16 and 17)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from perdure.types import records as rec
from perdure.types.base import decode_json
from perdure.types.waits import (
    Approval,
    ChildEnded,
    ChildRun,
    Elapsed,
    EventWait,
    Question,
    Received,
    Timer,
    Wait,
    WaitAnswer,
)

if TYPE_CHECKING:
    from tests.sim.check import Found

Of = tuple[str, str]


class Waited:
    """The waits of every run that is driven, and how they were answered."""

    def __init__(self, found: "Found") -> None:
        self.waits: dict[Of, dict[str, Wait]] = defaultdict(dict)
        self.answers: dict[Of, list[tuple[str, WaitAnswer]]] = defaultdict(list)
        for of, records in found.runs.items():
            for one in records:
                if isinstance(one.payload, rec.WaitOpened):
                    self.waits[of].update((wait.id, wait) for wait in one.payload.waits)
                elif isinstance(one.payload, rec.Answered):
                    self.answers[of].append((one.payload.wait_id, one.payload.answer))


def ended(found: "Found") -> Iterator[str]:
    """Each wait ends once, in one way, and one that can end by itself does."""
    waited = Waited(found)
    for container, id, run in found.world.store.waiters:
        yield f"{run} of {container} has ended, and {id} still waits"
    for of, answers in waited.answers.items():
        for wait, count in Counter(wait for wait, _ in answers).items():
            if count > 1:
                yield f"{of}: {wait} was answered {count} times"
        for wait, answer in answers:
            asked = waited.waits[of].get(wait)
            if asked is not None and not _fits(asked, answer):
                yield f"{of}: {wait} was answered with {answer}"
    for of, waits in waited.waits.items():
        if found.status[of] == "completed" and not found.cancelled(of):
            for wait in set(waits) - {wait for wait, _ in waited.answers[of]}:
                yield f"{of}: {wait} was never answered, and the run is completed"


def _fits(wait: Wait, answer: WaitAnswer) -> bool:
    match wait:
        case ChildRun():
            return isinstance(answer, ChildEnded) or (isinstance(answer, Elapsed) and wait.expires is not None)
        case Timer():
            return isinstance(answer, Elapsed)
        case EventWait():
            return isinstance(answer, Received) or (isinstance(answer, Elapsed) and wait.expires is not None)
        case Approval() | Question():
            return not isinstance(answer, Received) and (wait.expires is not None or not isinstance(answer, Elapsed))
        case _:
            return False


def events(found: "Found") -> Iterator[str]:
    """An event that a run waits for reaches one of its waits, in order, unless the time was over before it came."""
    store, waited = found.world.store, Waited(found)
    there = {
        (container, id): (name, decode_json(data), at, number) for container, id, name, data, at, number in store.events
    }
    for place in found.world.people.sent - set(there):
        yield f"{place}: an event that was acknowledged is not there"
    used: dict[tuple[str, str], list[tuple[str, WaitAnswer, int]]] = defaultdict(list)
    for (container, run), answers in waited.answers.items():
        for wait, answer in answers:
            asker = wait.rpartition("~")[0]
            if isinstance(answer, Received):
                number = there[container, answer.event.id][3]
                used[container, asker].append((answer.event.id, answer, number))
                asked = waited.waits[container, run].get(wait)
                if isinstance(asked, EventWait) and any(answer.event.data.get(k) != v for k, v in asked.match.items()):
                    yield f"{run}: {wait} has got {answer.event}, which is not for it"
    for of, some in used.items():
        for id, count in Counter(id for id, _, _ in some).items():
            if count > 1:
                yield f"{of}: the event {id} was used {count} times"
    for (container, run), answers in waited.answers.items():
        for wait, answer in answers:
            asked = waited.waits[container, run].get(wait)
            if not isinstance(answer, Elapsed) or not isinstance(asked, EventWait) or asked.expires is None:
                continue
            mine = {id for id, _, _ in used[container, asked.run_id]}
            for (where, id), (name, data, at, number) in there.items():
                known = where == container and name == asked.name and _matches(asked.match, data)
                late = at >= asked.expires or number <= store.since[container, asked.run_id]
                if known and not late and id not in mine:
                    yield f"{run}: {wait} ran out of time at {asked.expires}, and {id} had come at {at}"


def _matches(match: dict[str, Any], data: Any) -> bool:
    return all(data.get(key) == value for key, value in match.items())


def answered(found: "Found") -> Iterator[str]:
    """An answer that was taken is the one that counts, and no other was."""
    waited = Waited(found)
    kept: dict[tuple[str, str], WaitAnswer] = {
        (container, wait): answer for (container, _), some in waited.answers.items() for wait, answer in some
    }
    for place, answers in found.world.people.taken.items():
        if len(answers) > 1:
            yield f"{place}: {len(answers)} answers were taken: {answers}"
        if place in kept and kept[place] not in answers:
            yield f"{place}: {answers} was taken, and {kept[place]} is what counts"


CHECKS = (ended, events, answered)
