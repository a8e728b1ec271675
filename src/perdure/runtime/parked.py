"""Why runs are parked: which have killed their processes, and what is said of one."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.durable.fingerprint import what_to_do
from perdure.log.log import RunRow
from perdure.types.records import Claimed, Forked, Record, Unparked


def lonely_deaths(records: Sequence[Record]) -> int:
    """Count the processes that died since anything of a run was finished, and that drove nothing but it."""
    count = 0
    for record in records:
        if record.key is not None or isinstance(record.payload, (Forked, Unparked)):
            count = 0
        elif isinstance(record.payload, Claimed):
            count += record.payload.alone
    return count


def why_parked(run: RunRow, records: Sequence[Record]) -> str:
    """Say why a run is parked, and what to do."""
    if run.held is not None:
        return (
            "its store is a copy, and the original may go on with it. Open the copy with Runtime(…, take_over=True) if "
            "it takes the original's place."
        )
    said = [one.payload.parked for one in records if isinstance(one.payload, Claimed) and one.payload.parked]
    why = said[-1] if said else "nobody could go on with it"
    return f"{why}. {what_to_do(run.id, why)}."
