"""Events of the bus read by `async for`: a slow reader keeps nobody waiting, and is told what it has missed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from perdure.types.envelope import SystemEvent, missed
from perdure.types.errors import DefinitionError


class EventStream:
    """A reader of events, with a buffer.

    Who is too far behind is given one event `events_missed`, in place of those that came meanwhile: its data say how
    many (`count`), and by session the last record of which everything was given (`after`), for `runtime.events` to go
    on from. Leave the loop by `break` and close it, or use it with `async with`.

    Args:
        buffer: how many events the reader may be behind.
        on_close: called with it when it ends.
    """

    def __init__(self, buffer: int, on_close: Callable[[EventStream], object]) -> None:
        if buffer < 1:
            raise DefinitionError(f"stream(buffer={buffer!r}) must be at least 1.")
        self._most = buffer
        self._on_close = on_close
        self._events: deque[SystemEvent] = deque()
        self._missed = 0
        self._last: dict[str, int] = {}
        self._gap: dict[str, int] = {}
        self._more = asyncio.Event()
        self._closed = False
        self._subscription: Callable[[], object] | None = None

    def follow(self, subscription: Callable[[], object]) -> None:
        """Own the subscription that gives it its events."""
        self._subscription = subscription

    def put(self, event: SystemEvent) -> None:
        """Take an event in, if there is room."""
        session, seq = event.context.session_id, event.seq
        if self._missed or len(self._events) >= self._most:  # also behind a gap: the order stays
            self._missed += 1
            if session is not None and session not in self._gap:
                self._gap[session] = self._last.get(session, (seq or 1) - 1)
            return
        if session is not None and seq is not None:
            self._last[session] = seq
        self._events.append(event)
        self._more.set()

    def close(self) -> None:
        """End it: the loop ends when what it has was read."""
        if self._closed:
            return
        self._closed = True
        if self._subscription is not None:
            self._subscription()
        self._on_close(self)
        self._more.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SystemEvent:
        while True:
            if self._events:
                return self._events.popleft()
            if self._missed:
                event = missed(self._missed, self._gap)
                self._missed, self._gap, self._last = 0, {}, {}
                return event
            if self._closed:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
