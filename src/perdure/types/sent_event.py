"""An event that was sent to start functions and to end waits: a name, some data, and an id that makes it once."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.types.base import Base


class SentEvent(Base):
    """Something that has happened, as somebody has told it.

    `name` says what, such as `app/invoice.paid`; `data` is plain JSON. The same `id` in the same container is the same
    event. `at` is when the store took it in, in seconds since the epoch; 0 before that.
    """

    name: str
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    id: str = ""
    at: float = 0.0
