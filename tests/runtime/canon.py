"""What must be the same however often a run was disturbed."""

import re
from collections.abc import Sequence
from typing import Any

from perdure import Runtime
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


def _plain(value: Any) -> bytes:
    """Without the ids that a provider gives to calls: the scripted one counts them by process, and places tell."""
    return re.sub(rb'"call_\d+"', b'"call"', encode_json(value))
