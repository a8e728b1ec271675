"""What transactions and undoing promise."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from perdure.types import records as rec

if TYPE_CHECKING:
    from tests.sim.check import Found


def rows(found: "Found") -> Iterator[str]:
    """r11: what a transaction step writes is there exactly once if its record is, and otherwise not at all."""
    store = found.world.store
    there = Counter((run, key, said) for run, key, said in store.ledger)
    done = {
        (run, one.key, one.payload.result)
        for (_, run), records in found.runs.items()
        for one in records
        if isinstance(one.payload, rec.TransactionDone)
    }
    for row, count in there.items():
        if count > 1:
            yield f"the row {row} is there {count} times"
        if row not in done:
            yield f"the row {row} is there and its record is not"
    for row in sorted(done - set(there)):
        yield f"the record of the row {row} is there and the row is not"
    if store.total != len(store.ledger):
        yield f"{len(store.ledger)} rows were written, and {store.total} counted in the same transactions"


def undone(found: "Found") -> Iterator[str]:
    """What is undone was in doubt, is undone with the arguments that it was begun with, and is not done again."""
    events: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for one in found.world.effects:
        # nobody can prevent that a process which was stopped in the middle of something ends it when it wakes up
        process = found.world.processes_by_owner.get(one.owner)  # none yet, if it does this while it is opened
        woken = process is None or process.loop.woken >= 0
        if one.kind == "undo" or (one.kind == "once" and not woken):
            events[one.run, one.key.removesuffix("#undo")].append((one.kind, one.mark))
    for (container, run), records in found.runs.items():
        ends = {one.key: one.payload for one in records if one.key}
        started = {one.payload.step for one in records if isinstance(one.payload, rec.Started)}
        for key in {*ends, *(key for of, key in events if of == run)}:
            kinds = [kind for kind, _ in events[run, key]]
            end = ends.get(key)
            said = _undone(end)
            if "undo" in kinds:
                if "once" in kinds[kinds.index("undo") :]:
                    yield f"{run} {key} was done after it had been undone"
                if len({mark for _, mark in events[run, key]}) > 1:
                    yield f"{run} {key} was undone with other arguments: {events[run, key]}"
                if key not in started:
                    yield f"{run} {key} was undone and had never begun"
                if not said and not found.cancelled((container, run)) and found.status[container, run] == "completed":
                    yield f"{run} {key} was undone, and its record says {end}"
            if said and ("undo" not in kinds or f"{key}#undo" not in ends):
                yield f"{run} {key} is said to be undone and is not: {kinds}"
            if _unsure(end) and not found.cancelled((container, run)):
                yield f"{run} {key} can be undone, and its record says {end}"


def _undone(end: rec.Payload | None) -> bool:
    if isinstance(end, rec.StepDone):
        return end.error is not None and end.error.type == "StepUndone"
    if not isinstance(end, rec.ToolDone) or not isinstance(end.result.content, dict):
        return False
    return end.result.content.get("error", {}).get("name") == "undone"  # type: ignore[union-attr, call-overload]


def _unsure(end: rec.Payload | None) -> bool:
    """Whether nobody knows of something that can be undone."""
    if isinstance(end, rec.StepDone):
        return end.name == "bed" and end.error is not None and end.error.type == "StepInDoubt"
    return isinstance(end, rec.ToolDone) and end.result.tool.name == "reserve" and end.outcome == "unknown"


CHECKS = (rows, undone)
