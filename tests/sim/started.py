"""What functions promise: each event starts each of them once, schedules too, caps hold, and each is done."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from perdure.types.ids import derive_id
from tests.sim.jobs import EARLY, HEARING, tick
from tests.sim.store import EPOCH

if TYPE_CHECKING:
    from tests.sim.check import Found


def once(found: "Found") -> Iterator[str]:
    """d19: an event that is there has started each of its functions once, and nothing else has."""
    store = found.world.store
    due = {
        (container, derive_id("run", container, id, one.name)): one.name
        for container, id, name, *_ in store.events
        if name == "job" and found.world.plan.jobs
        for one in HEARING
    }
    forks = {(container, fork[3]) for (container, _), fork in store.forks.items()}
    names = {one.name for one in HEARING}
    there = {
        (container, run): definition
        for container, run, *_, definition, _ in store.runs
        if definition in names and (container, run) not in forks
    }
    for place in set(due) - set(there):
        yield f"{due[place]} was not started by its event: {place}"
    for place in set(there) - set(due):
        yield f"{there[place]} was started by no event: {place}"


def ticks(found: "Found") -> Iterator[str]:
    """d16: a schedule starts its function once at each of its times that a process lives through, never before."""
    world = found.world
    if not world.plan.jobs:
        return
    seen = [
        records[0].payload.input["data"]["due"]  # type: ignore[union-attr, index, call-overload]
        for place, records in found.runs.items()
        if world.store.definition.get(place) == tick.name and records[0].kind == "run_started"
    ]
    if len(seen) != len(set(seen)):
        yield f"the schedule has started twice for one time: {sorted(seen)}"
    first = EPOCH + EARLY
    for due in seen:
        if due % 60 or not first < due <= first + world.ended:
            yield f"the schedule has started at {due - first:.1f} s of {world.ended:.1f}"
    for (upcoming,) in world.store.schedules:
        if upcoming - 60 > first + world.subscribed and upcoming - 60 not in seen:
            yield f"the schedule was due {upcoming - 60 - first:.1f} s after the beginning, and has not started"


CHECKS = (once, ticks)
