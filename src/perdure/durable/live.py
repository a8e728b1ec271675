"""What open steps have said so far, in this process: for readers here at once, and for the table that others read.

A driver tells its run's `Feed` what it tells everybody else; readers come and take what they have not seen. Nothing is
kept per reader, so a slow one costs nothing: what it has not taken when a step is closed, it is told by the record.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import msgspec

from perdure.log.log import Token
from perdure.types import events as ev
from perdure.types.base import sound
from perdure.types.live import Part, Place, size

Wake = Callable[[bool], None]
"""Has a reader look; whether also at the log."""

_SAID = (
    *(ev.TextDelta, ev.ReasoningDelta, ev.ToolCallStarted, ev.ToolArgsDelta, ev.MessageReset),
    *(ev.ToolProgress, ev.StepStarted),
)
_TEXTS = (ev.TextDelta, ev.ReasoningDelta, ev.ToolArgsDelta)


class Live:
    """The feeds of one container's runs that are driven here, and who reads them.

    Args:
        noticed: called when there is something that other processes may want to know.
    """

    def __init__(self, noticed: Callable[[], None]) -> None:
        self.feeds: dict[str, Feed] = {}
        self.unsent: dict[Feed, None] = {}
        self._noticed = noticed
        self._readers: dict[str, list[Wake]] = {}

    @contextmanager
    def reading(self, session_id: str, wake: Wake) -> Generator[None]:
        """Have a reader told of what happens in a session, as long as this is open."""
        readers = self._readers.setdefault(session_id, [])
        readers.append(wake)
        try:
            yield
        finally:
            readers.remove(wake)
            if not readers:
                self._readers.pop(session_id, None)

    def posted(self, session_id: str) -> None:
        """Have the readers of a session look: there is a record in it that belongs to no run."""
        for wake in self._readers.get(session_id, ()):
            wake(True)

    def tell(self, feed: Feed, *, log: bool) -> None:
        """Have the readers of a feed's session look."""
        for wake in self._readers.get(feed.token.session_id, ()):
            wake(log)
        self.unsent[feed] = None
        self._noticed()


class _Step:
    """An open step: what it has said since its last reset, with the step's number behind each event."""

    __slots__ = ("base", "ends", "events", "sent", "start")

    def __init__(self) -> None:
        self.start = 0
        self.base = 0
        self.sent = 0
        self.events: list[ev.AnyEvent] = []
        self.ends: list[int] = []

    def add(self, event: ev.AnyEvent, base: int) -> None:
        end = self.ends[-1] if self.ends else self.start
        if isinstance(event, ev.MessageReset):  # what was said before is void
            self.start, self.events, self.ends = end, [], []
        self.events.append(event)
        self.ends.append(end + size(event))
        self.base = base

    def since(self, n: int) -> tuple[int, list[ev.AnyEvent]]:
        """What was said from a number on, and the number that it begins with."""
        place = bisect_right(self.ends, n)
        return (self.ends[place - 1] if place else self.start), self.events[place:]


class Feed:
    """What the open steps of one run have said so far.

    Args:
        live: where it is read from while the run is driven.
        token: proof of owning the run.
        head: the sequence number of the session's last record.
    """

    def __init__(self, live: Live, token: Token, head: int) -> None:
        self.token = token
        self.committed = head
        self._live = live
        self._steps: dict[str, _Step] = {}

    def begin(self) -> None:
        """The run is driven from now on."""
        self._live.feeds[self.token.session_id] = self

    def end(self) -> None:
        """The run is not driven here any more."""
        self._steps.clear()
        if self._live.feeds.get(self.token.session_id) is self:
            del self._live.feeds[self.token.session_id]
        self._live.tell(self, log=True)

    def beside(self, sink: ev.Sink | None) -> ev.Sink:
        """Make a sink that tells this feed, and another one if there is one."""

        def both(event: ev.AnyEvent) -> None:
            self.take(event)
            if sink is not None:
                sink(event)

        return both

    def take(self, event: ev.AnyEvent) -> None:
        """Take what the driver tells everybody."""
        step = event.step
        if step is None:
            return
        if isinstance(event, (ev.MessageFinished, ev.ToolFinished)):
            self._steps.pop(step, None)
            return
        if isinstance(event, (ev.MessageStarted, ev.ToolStarted)):
            found = self._steps.setdefault(step, _Step())
        elif event.seq is not None or not isinstance(event, _SAID):
            return
        else:
            found = self._steps.get(_tool_of(step) if isinstance(event, ev.StepStarted) else step)
            if found is None:
                return
        found.add(event, self.committed)
        self._live.tell(self, log=False)

    def wrote(self, head: int) -> None:
        """Records were committed up to this one."""
        self.committed = head
        self._live.tell(self, log=True)

    def parts(self, shown: Sequence[tuple[str, Place]]) -> list[Part]:
        """What open steps have said that a reader was not shown; of steps that are not named everything."""
        run_id, epoch = self.token.run_id, self.token.epoch
        known = {one.step: one.n for id, one in shown if id == run_id and one.epoch == epoch}
        return [part for name, step in self._steps.items() if (part := self._part(name, step, known.get(name, 0)))]

    def unsent(self) -> list[Part]:
        """What the table has not been given yet, in as few events as it can be said."""
        found = [(name, step, self._part(name, step, step.sent)) for name, step in self._steps.items()]
        return [msgspec.structs.replace(part, events=tuple(merged(part.events))) for _, _, part in found if part]

    def sent(self, parts: Sequence[Part]) -> None:
        """The table has been given these."""
        for part in parts:
            step = self._steps.get(part.step)
            if step is not None:
                step.sent = max(step.sent, part.end)

    def _part(self, name: str, step: _Step, n: int) -> Part | None:
        start, events = step.since(n)
        if not events:
            return None
        return Part(self.token.run_id, name, self.token.epoch, step.base, start, tuple(events))


def merged(events: Sequence[ev.AnyEvent]) -> list[ev.AnyEvent]:
    """Join neighbouring pieces of one text."""
    out: list[ev.AnyEvent] = []
    pieces: list[str] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, _TEXTS):
            if last is not None and _same(last, event):
                pieces.append(event.text)
                continue
            _join(out, pieces)
            pieces = [event.text]
        else:
            _join(out, pieces)
            pieces = []
        out.append(event)
    _join(out, pieces)
    return out


def _join(out: list[ev.AnyEvent], pieces: list[str]) -> None:
    """Give the last event all its pieces; halves of one sign that were cut apart become it where they meet."""
    if pieces:
        out[-1] = msgspec.structs.replace(out[-1], text=sound("".join(pieces)))


def _same(one: ev.AnyEvent, other: ev.AnyEvent) -> bool:
    return type(one) is type(other) and getattr(one, "call_id", "") == getattr(other, "call_id", "")


def _tool_of(step: str) -> str:
    """The tool call that an inner step is part of."""
    head, _, tail = step.rpartition("/tool/")
    return f"{head}/tool/{tail.partition('/')[0]}"
