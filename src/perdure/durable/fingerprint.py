"""What a run's code looked like, and whether it is the same, compatible or changed when the run is gone on with. Pure.

Prints are a tree of short texts by name: a prompt as its hash, a tool's parameters as their types, a router by its
name. They are kept in the run's first record, so that a difference can be told when the code that made them is gone.
Records are facts: a loop derives only its next action, so what merely differs is compatible. Changed is what a run
needs and does not find again: then it is parked, until somebody accepts the new code for what was there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from perdure.types.messages import ToolCallMessage
from perdure.types.records import Claimed, InferenceDone, Record, RunStarted, Unparked

Prints: TypeAlias = dict[str, Any]
"""Short texts, or prints of parts, by name."""

REST = "text"
"""The name of the print that stands for all that a part's other prints do not tell."""
CODE = "code"
"""The name of the print that stands for a code's text: a hint as well, which says nothing under another Python."""
MOST = 30
"""How many differences are told."""


class Verdict(NamedTuple):
    """What became of a run's code.

    `differences` is what differs, `needed` what the run needs and does not find, `prints` those of the code as it is if
    they differ from what the log has.
    """

    differences: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    prints: Prints | None = None

    @property
    def name(self) -> Literal["same", "compatible", "changed"]:
        """The verdict in a word."""
        return "changed" if self.needed else "compatible" if self.differences else "same"


CHANGED = "its code has changed: "
"""How it begins what is said of a run that is parked because of its code."""


def has_changed(*needed: str) -> str:
    """Say why a run whose code has changed is parked."""
    return CHANGED + "; ".join(needed)


def what_to_do(run_id: str, why: str) -> str:
    """Say what to do with a run that is parked."""
    if not why.startswith(CHANGED):
        return "See what it does, then resume it"
    return (
        "Put the code back and resume it, or let it go on with the code as it is, which uses what was finished before: "
        f"perdure runs resume {run_id} --accept"
    )


def hashed(text: str | bytes) -> str:
    """The print of something that is too long to be kept."""
    return f"#{blake2b(text.encode() if isinstance(text, str) else text, digest_size=6).hexdigest()}"


def differences(old: Prints, new: Prints) -> tuple[str, ...]:
    """Say what differs between two prints, each in a few words such as `tool pay: parameter amount is gone`."""
    found = list(_differ("", old, new))
    return (*found[:MOST], f"and {len(found) - MOST} more") if len(found) > MOST else tuple(found)


def _differ(where: str, old: Prints, new: Prints) -> Iterator[str]:
    told = 0
    for name in [*old, *(one for one in new if one not in old)]:
        before, after, label = old.get(name), new.get(name), f"{where}{name}"
        if before == after or (name in (REST, CODE) and told):
            continue
        if name == CODE and str(before).rpartition(" ")[2] != str(after).rpartition(" ")[2]:
            continue
        told += 1
        if before is None or after is None:
            yield f"{label} is {'new' if before is None else 'gone'}"
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from _differ(f"{label}: ", cast("Prints", before), cast("Prints", after))
        elif (shown := _shown(before)) == (now := _shown(after)):
            yield f"{label} changed"
        else:
            yield f"{label} changed from {shown} to {now}"


def _shown(value: Any) -> str:
    return "a text" if isinstance(value, str) and value.startswith("#") else str(value)


def last_prints(records: Sequence[Record]) -> Prints | None:
    """The prints of the code that went on with a run last; None if none were kept."""
    for record in reversed(records):
        payload = record.payload
        if isinstance(payload, (Claimed, RunStarted)) and payload.fingerprints is not None:
            return payload.fingerprints
    return None


def accepted_places(records: Sequence[Record]) -> frozenset[str]:
    """The places that were there, done or begun, when somebody last accepted that a run goes on with changed code."""
    at = [n for n, one in enumerate(records) if isinstance(one.payload, Unparked) and one.payload.accepted]
    return places_of(records[: at[-1] if at else 0])


def places_of(records: Sequence[Record]) -> frozenset[str]:
    """The places of what was done or begun, open calls included."""
    places: set[str] = set()
    for record in records:
        payload = record.payload
        step: str | None = record.key or getattr(payload, "step", None)
        if step is not None:
            places.add(step)
        if isinstance(payload, InferenceDone):
            count = sum(len(one.tools) for one in payload.messages if isinstance(one, ToolCallMessage))
            places.update(f"{record.key}/tool/{n}" for n in range(count))
    return frozenset(places)


def part(prints: Mapping[str, Any] | None, *names: str) -> Any:
    """Find a print by its path; None if there is none."""
    found: Any = prints
    for name in names:
        if not isinstance(found, Mapping):
            return None
        found = cast("Mapping[str, Any]", found).get(name)
    return found
