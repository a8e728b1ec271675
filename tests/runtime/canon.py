"""What must be the same however often a run was disturbed."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure import Runtime, Usage
from perdure.types import records as rec
from perdure.types.base import encode_json


def closings(records: Sequence[rec.Record]) -> dict[str, Any]:
    """The closing records by place, without sequence numbers and times; the terminal record is `end`."""
    found: dict[str, Any] = {}
    for one in records:
        place = one.key or ("end" if isinstance(one.payload, rec.RunFinished) else None)
        if place is not None:
            assert place not in found, f"{place} was closed twice"
            found[place] = _plain(one.payload)
    return found


async def canon(runtime: Runtime, session_id: str) -> tuple[dict[str, Any], list[bytes]]:
    """A session's closing records and its messages in transcript order."""
    session = runtime.session(session_id)
    return closings(await session.records()), [_plain(one) async for one in session.messages()]


def lost(records: Sequence[rec.Record]) -> Usage:
    """What attempts are taken to have consumed that were lost with a process."""
    return sum((one.payload.usage for one in records if isinstance(one.payload, rec.AttemptLost)), Usage())


def _plain(value: Any) -> bytes:
    """Without the ids that a provider gives to calls: the scripted one counts them by process, and places tell.

    Nor with sums of what was consumed: they count attempts that were lost.
    """
    if isinstance(value, (rec.RunFinished, rec.ChildDone, rec.ToolDone)):
        value = msgspec.structs.replace(value, usage=Usage())
    return re.sub(rb'"call_\d+"', b'"call"', encode_json(value))
