"""Sessions as they are started, told of events, suspended, resumed and ended: states, and what is kept. Pure."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import msgspec

from perdure.types.base import Base, encode_json, plain
from perdure.types.errors import Conflict, DefinitionError, InvalidSessionState
from perdure.types.ids import check_id, new_id
from perdure.types.messages import MAX_MESSAGE_BYTES
from perdure.types.records import Record, SessionEvent

SessionState: TypeAlias = Literal["created", "active", "suspended", "resumed", "ended", "archived"]
"""`created` is a session that has runs, and that nobody has started."""

NewState: TypeAlias = Literal["active", "suspended", "resumed", "ended", "archived"]

LIVELY = ("active", "resumed")
"""The states in which events are taken."""

CLOSED = ("suspended", "ended", "archived")
"""The states in which no run is taken in; what was taken in before goes on to its end."""

MAX_METADATA_BYTES = 64 * 1024
"""The most that a session's metadata may hold."""

MAX_TYPE = 200
"""How many characters an event's type may have."""

_FOLLOWS: dict[str, tuple[NewState, ...]] = {
    "created": ("active", "ended", "archived"),
    "active": ("suspended", "ended", "archived"),
    "suspended": ("resumed", "ended", "archived"),
    "resumed": ("suspended", "ended", "archived"),
    "ended": ("archived",),
    "archived": (),
}
_VERBS: dict[NewState, str] = {
    "active": "started",
    "suspended": "suspended",
    "resumed": "resumed",
    "ended": "ended",
    "archived": "archived",
}
_INSTEAD = {
    "created": "start it first",
    "suspended": "resume it first",
    "ended": "start another one",
    "archived": "start another one",
}


class SessionInfo(Base):
    """A session as it is now: its state, whose it is, and how many events were posted in it.

    `retain_context` is what was said at its end; None as long as it has not ended.
    """

    session_id: str
    state: SessionState
    created_at: float
    user_id: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    events: int = 0
    retain_context: bool | None = None


class PostedEvent(Base):
    """An event of a session as the store has it.

    `sequence` is its number among the session's events, `seq` that of its record, among all records of the session.
    """

    session_id: str
    event_id: str
    sequence: int
    seq: int
    type: str
    content: str
    created_at: float
    event_data: Any = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    parent_event_id: str | None = None
    user_id: str | None = None

    @property
    def from_agent(self) -> str | None:
        """Which agent has said it, by its metadata."""
        return self.metadata.get("from_agent")

    @property
    def to_agent(self) -> str | None:
        """Which agent it is for, by its metadata."""
        return self.metadata.get("to_agent")


def check_move(session_id: str, state: str, to: NewState) -> None:
    """See that a session may change its state."""
    if to not in _FOLLOWS[state]:
        after = ", ".join(_FOLLOWS[state]) or "nothing"
        raise InvalidSessionState(session_id, state, f"cannot be {_VERBS[to]}", f"what may follow is {after}")


def takes_none(session_id: str, state: str, what: Literal["event", "run"]) -> InvalidSessionState:
    """Make the error of a session that takes no event or run any more, or not now."""
    return InvalidSessionState(session_id, state, f"takes no {what}", _INSTEAD[state])


def of_another(session_id: str, user_id: str) -> Conflict:
    """Make the error of a session that is not the caller's."""
    return Conflict(f"The session {session_id!r} is not that of the user {user_id!r}; give its own user, or none.")


def read_user(user_id: str | None) -> str | None:
    """Check who somebody says to be."""
    return None if user_id is None else _text("user_id", user_id, 200)


def read_metadata(metadata: Mapping[str, Any] | None) -> str | None:
    """Write a session's metadata as they are kept."""
    if metadata is None:
        return None
    data = encode_json(_object("metadata", metadata))
    if len(data) > MAX_METADATA_BYTES:
        raise DefinitionError(
            f"The metadata of a session take {len(data):,} bytes; they may take {MAX_METADATA_BYTES:,}. Post what is "
            "large as an event."
        )
    return data.decode()


def new_event(
    type: str,
    content: str,
    *,
    event_id: str | None,
    event_data: Any,
    metadata: Mapping[str, Any] | None,
    parent_event_id: str | None,
    user_id: str | None,
) -> SessionEvent:
    """Make an event that is to be posted, without a number yet."""
    if not isinstance(content, str):
        raise DefinitionError(f"content is a {_kind(content)}; give a text, and anything else as event_data.")
    made = SessionEvent(
        _text("type", type, MAX_TYPE),
        str(plain(content, "content")),
        new_id("evt") if event_id is None else check_id(event_id, "event_id"),
        0,
        plain(event_data, "event_data"),
        {} if metadata is None else _object("metadata", metadata),
        None if parent_event_id is None else check_id(parent_event_id, "parent_event_id"),
        read_user(user_id),
    )
    size = len(encode_json(made))
    if size > MAX_MESSAGE_BYTES:
        raise DefinitionError(f"The event takes {size:,} bytes; one may take {MAX_MESSAGE_BYTES:,}. Keep it elsewhere.")
    return made


def event_key(session_id: str, event_id: str) -> str:
    """Say under which key a session has an event: one that says nothing of it, as it stays when that is erased."""
    return f"event/{blake2b(chr(0).join((session_id, event_id)).encode(), digest_size=16).hexdigest()}"


def body(event: SessionEvent) -> bytes:
    """What tells an event from another one of the same id."""
    bare = msgspec.structs.replace(event, sequence=0)
    return msgspec.json.encode(bare, order="deterministic")


def posted(record: Record) -> PostedEvent:
    """Show the record of an event."""
    event = record.payload
    assert isinstance(event, SessionEvent)
    place = (record.session_id, event.event_id, event.sequence, record.seq)
    what = (event.event_type, event.content, record.created_at, event.event_data, event.metadata)
    return PostedEvent(*place, *what, event.parent_event_id, event.user_id)


def _text(what: str, value: Any, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
        raise DefinitionError(f"{what} is {shown}; give a text of 1 to {most} printable characters.")
    return value


def _object(what: str, value: Any) -> dict[str, Any]:
    read = plain(value, what)
    if not isinstance(read, dict):
        raise DefinitionError(f"{what} is a {_kind(value)}; give an object.")
    return read


def _kind(value: Any) -> str:
    return type(value).__name__
