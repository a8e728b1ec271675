"""The envelope of the bus: what happened, when, where it came from, and what it is for."""

from __future__ import annotations

import time
from typing import Any, Literal, TypeAlias

import msgspec

from perdure.types.base import Base

Source: TypeAlias = Literal["environment", "agent", "session", "container", "sandbox", "command"]
Category: TypeAlias = Literal[
    "stream",
    "connection",
    "state",
    "message",
    "turn",
    "error",
    "lifecycle",
    "persist",
    "action",
    "workdir",
    "mcp",
    "request",
    "response",
]
Intent: TypeAlias = Literal["request", "result", "notification"]


class EventContext(Base, omit_defaults=True):
    """Whom an event belongs to."""

    container_id: str | None = None
    image_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    turn_id: str | None = None
    correlation_id: str | None = None


NOBODY = EventContext()


class SystemEvent(Base, omit_defaults=False):
    """One event of the bus.

    `timestamp` is in milliseconds since the epoch, `data` plain JSON with snake_case names, `seq` the number of the
    session's record that the event is a view of, if it is one.
    """

    type: str
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    source: Source = "agent"
    category: Category = "state"
    intent: Intent = "notification"
    context: EventContext = NOBODY
    timestamp: int = msgspec.field(default_factory=lambda: time.time_ns() // 1_000_000)
    seq: int | None = None


def is_from_source(event: SystemEvent, source: Source) -> bool:
    """Whether an event comes from this source."""
    return event.source == source


def has_intent(event: SystemEvent, intent: Intent) -> bool:
    """Whether an event is meant as this."""
    return event.intent == intent


def is_request(event: SystemEvent) -> bool:
    """Whether an event asks for something."""
    return event.intent == "request"


def is_result(event: SystemEvent) -> bool:
    """Whether an event is the result of something that was asked for."""
    return event.intent == "result"


def is_notification(event: SystemEvent) -> bool:
    """Whether an event only tells something."""
    return event.intent == "notification"


def is_command_event(event: SystemEvent) -> bool:
    """Whether an event is a command's request or response, or says that a command failed."""
    return event.source == "command"


def is_command_request(event: SystemEvent) -> bool:
    """Whether an event asks for a command to be done."""
    return event.source == "command" and event.category == "request"


def is_command_response(event: SystemEvent) -> bool:
    """Whether an event is a command's response."""
    return event.source == "command" and event.category == "response"


MISSED = "events_missed"
"""The type of the event that tells a slow reader what it was not given."""


def missed(count: int, after: dict[str, int]) -> SystemEvent:
    """Tell a slow reader what it was not given."""
    return SystemEvent(MISSED, {"count": count, "after": after}, "session", "connection")
