"""Which records of a session count for what is said in it: a rewind hides what it goes back behind."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.types.records import Payload, Record, Rewound


def visible(records: Sequence[Record]) -> list[Record]:
    """Leave out what rewinds have hidden as of the last of these records; the rewinds that hide something stay.

    A rewind that is hidden by a later one hides nothing, so a rewind to just before it takes it back.

    Args:
        records: records of a session, in order; what they go back to may lie before them.
    """
    if not any(type(one.payload) is Rewound for one in records):
        return list(records)
    shown: list[Record] = []
    end: int | None = None
    for record in reversed(records):
        if end is not None and record.seq > end:
            continue
        shown.append(record)
        if type(record.payload) is Rewound:
            end = record.payload.to
    shown.reverse()
    return shown


def hidden_by(rewinds: Sequence[tuple[int, Payload | None]]) -> list[tuple[int, int]]:
    """Say between which records (both exclusive) rewinds hide everything, in order; a hidden one hides nothing."""
    found: list[tuple[int, int]] = []
    end: int | None = None
    for seq, payload in reversed(rewinds):
        if isinstance(payload, Rewound) and (end is None or seq <= end):
            found.append((payload.to, seq))
            end = payload.to
    found.reverse()
    return found
