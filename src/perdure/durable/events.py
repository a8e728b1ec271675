"""Events of a durable program: sending one as a step, and waiting for one."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from msgspec import structs

from perdure.durable.arguments import arguments_hash
from perdure.types.errors import DefinitionError, NeedsRuntime
from perdure.types.ids import derive_id
from perdure.types.matching import check_match
from perdure.types.records import StepDone
from perdure.types.sent_event import SentEvent, check_event_name, event_used, new_event, same_event
from perdure.types.waits import EventWait, Received

if TYPE_CHECKING:
    from perdure.durable.step import Body


@runtime_checkable
class Receiving(Protocol):
    """A log that takes events in."""

    async def send(self, events: Sequence[SentEvent], run_id: str | None = None) -> list[SentEvent]:
        """Take events in, and end the waits that they are for."""
        ...

    async def event(self, id: str) -> SentEvent | None:
        """Find an event that was taken in."""
        ...


async def wait_for_event(
    body: Body,
    id: str,
    name: str,
    match: Mapping[str, Any] | None,
    timeout: float | timedelta | None,
    since: datetime | Literal["now"] | None,
) -> SentEvent | None:
    """Wait until an event has come; see `Step.wait_for_event`."""
    what = f"ctx.step.wait_for_event({id!r})"
    kernel = body.io.kernel
    if not kernel.durable:
        raise NeedsRuntime(what)
    check_event_name(name)
    wanted = check_match({} if match is None else match)
    seconds = None if timeout is None else in_seconds(timeout, f"{what} with timeout={timeout!r}")
    if since is not None and since != "now" and (not isinstance(since, datetime) or since.tzinfo is None):
        raise DefinitionError(f"{what} with since={since!r}: give 'now', or a time with a time zone.")

    def make(mark: str) -> EventWait:
        now = kernel.store_now()
        after = since.timestamp() if isinstance(since, datetime) else None if since is None else now
        return EventWait(mark, name, body.io.token.run_id, wanted, after, None if seconds is None else now + seconds)

    answer = await body.wait(id, what, make)
    return answer.event if isinstance(answer, Received) else None


async def send_event(body: Body, id: str, name: str, data: Any, event_id: str | None) -> SentEvent:
    """Send an event with the record of a step; see `Step.send_event`."""
    what = f"ctx.step.send_event({id!r})"
    io = body.io
    log = io.kernel.log
    if not isinstance(log, Receiving):
        raise NeedsRuntime(what)
    with body.enter(id, what) as key:
        event = new_event(name, data, event_id or derive_id("event", io.token.run_id, key))
        closing = StepDone(id, event.id, arguments_hash([name, event.data, event_id]))
        done = await body.known(key, closing)
        if done is not None:  # perhaps by the run that this one goes on from
            event = structs.replace(event, id=done.result)
        else:
            known = await log.event(event.id) if event_id is not None else None
            if known is not None and not same_event(known, event):
                raise event_used(known)
            await io.keep(key, closing, sends=(event,))
        return event


def in_seconds(duration: float | timedelta, what: str) -> float:
    """Read a duration that a user gives.

    Raises:
        DefinitionError: it is none.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds < 1e10:
        raise DefinitionError(f"{what}: give seconds from 0, or a timedelta.")
    return seconds
