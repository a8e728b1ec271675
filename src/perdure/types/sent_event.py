"""An event that was sent to start functions and to end waits: a name, some data, and an id that makes it once."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.types.base import Base, encode_json, plain
from perdure.types.errors import Conflict, DefinitionError
from perdure.types.ids import check_id, new_id

MOST = 1024 * 1024
"""The most bytes that an event's data may have, as JSON."""

CRON_EVENT = "cron"
"""The name of the event that a function is given which a schedule has started."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,199}\Z")


class SentEvent(Base):
    """Something that has happened, as somebody has told it.

    `name` says what, such as `app/invoice.paid`; `data` is plain JSON. The same `id` in the same container is the same
    event. `at` is when the store took it in, in seconds since the epoch; 0 before that. `user_id` is whose it is: the
    runs that it starts are theirs, and it is erased with them.
    """

    name: str
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    id: str = ""
    at: float = 0.0
    user_id: str | None = None


def check_event_name(name: str) -> str:
    """Return the name of an event if its shape is allowed."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise DefinitionError(
            f"The event name {str(name)[:60]!r} is not allowed: use 1 to 200 ASCII letters, digits or _./:@- , "
            "starting with a letter, a digit or _, such as 'app/invoice.paid'."
        )
    return name


def new_event(name: str, data: Any = None, id: str | None = None, user_id: str | None = None) -> SentEvent:
    """Make an event of what a user gives.

    Raises:
        DefinitionError: the name, the data or their size are not allowed.
        InvalidId: the id is not.
        Unserialisable: something in the data is not JSON.
    """
    check_event_name(name)
    given = plain({} if data is None else data, f"data of the event {name!r}")
    if not isinstance(given, Mapping):
        raise DefinitionError(f"The data of the event {name!r} are {data!r}; give a JSON object, such as a dict.")
    size = len(encode_json(given))
    if size > MOST:
        raise DefinitionError(
            f"The data of the event {name!r} have {size / 1e6:.1f} MB and at most {MOST / 1e6:.1f} MB are taken; send "
            "where they are kept instead."
        )
    return SentEvent(name, given, new_id("event") if id is None else check_id(id, "event id"), user_id=user_id)


def same_event(one: SentEvent, other: SentEvent) -> bool:
    """Whether two events of one id are the same."""
    return one.name == other.name and encode_json(one.data) == encode_json(other.data)


def event_used(known: SentEvent) -> Conflict:
    """Make the error of an event id that belongs to another event."""
    return Conflict(
        f"The event id {known.id!r} was used for {known.name!r} with other data; the same id is the same event, so "
        "give another id."
    )
