"""Records of older versions: how each becomes what the next version would have written.

Records are never rewritten: a store may hold runs that have waited for weeks. So whoever changes the shape of a kind of
record raises `SCHEMA_VERSION` and adds a function here, which is applied whenever an older record is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

UPCASTERS: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By kind and version: what makes a record's fields those of the next version; its `type` may change, too."""


def upcast(data: bytes, version: int, current: int) -> bytes:
    """Give the bytes of an older record as the current version writes them.

    Args:
        data: the payload, as it was written.
        version: by which version.
        current: the current version.
    """
    fields: dict[str, Any] = msgspec.json.decode(data)
    for one in range(version, current):
        change = UPCASTERS.get((fields["type"], one))
        if change is not None:
            fields = change(fields)
    return msgspec.json.encode(fields)
