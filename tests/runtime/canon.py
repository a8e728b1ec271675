"""What must be the same however often a run was disturbed."""

from collections.abc import Sequence
from typing import Any

from perdure import Runtime, Usage
from perdure.testing import canon as canon_of
from perdure.types import records as rec


def closings(records: Sequence[rec.Record]) -> dict[str, Any]:
    """The closing records of a run by place; the terminal record is `end`."""
    found = canon_of(records).places
    places = {name.partition(" ")[2]: data for name, data in found.items()}
    assert len(places) == len(found), "these are records of several runs"
    return places


async def canon(runtime: Runtime, session_id: str) -> tuple[dict[str, Any], list[bytes]]:
    """A session's closing records and its messages in transcript order."""
    records = await runtime.session(session_id).records()
    return closings(records), canon_of(records).messages


def lost(records: Sequence[rec.Record]) -> Usage:
    """What attempts are taken to have consumed that were lost with a process."""
    return sum((one.payload.usage for one in records if isinstance(one.payload, rec.AttemptLost)), Usage())
