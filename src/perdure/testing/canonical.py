"""What of a log must be the same however often a run was disturbed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from perdure.types.base import encode_json
from perdure.types.messages import Message
from perdure.types.records import ChildDone, Record, RunFinished, ToolDone, WaitOpened
from perdure.types.transcript import Transcript
from perdure.types.usage import Usage


class Canon(NamedTuple):
    """What a log says: its closing records by run and place, and its messages in transcript order, as JSON.

    Claims, starts, attempts, waits, sequence numbers and times are left out, as are the ids that providers give to
    calls and sums of what was consumed, which count attempts that were lost.
    """

    places: dict[str, bytes]
    messages: list[bytes]


def canon(records: Sequence[Record]) -> Canon:
    """Reduce the records of a session to what must be the same however often its runs were disturbed.

    Args:
        records: all of them, or those of one run, in order.

    Raises:
        ValueError: a place was closed twice.
    """
    transcript = Transcript()
    for one in records:
        transcript.add(one)
    return Canon(closings(records), [_plain(one) for one in transcript.messages])


def closings(records: Sequence[Record]) -> dict[str, bytes]:
    """The closing records by run and place, such as `run_7 agent/0/infer/0`; that of the run itself is `run_7 end`."""
    found: dict[str, bytes] = {}
    for one in records:
        place = one.key or ("end" if isinstance(one.payload, RunFinished) else None)
        if place is None or isinstance(one.payload, WaitOpened):
            continue  # when it waited, and for what else at the same time, is a matter of time
        name = f"{one.run_id} {place}"
        if name in found:
            raise ValueError(f"{name} was closed twice.")
        found[name] = _plain(one.payload)
    return found


def _plain(value: Record | Message | object) -> bytes:
    if isinstance(value, (RunFinished, ChildDone, ToolDone)):
        value = msgspec.structs.replace(value, usage=Usage())
    return re.sub(rb'"call_\d+"', b'"call"', encode_json(value))
