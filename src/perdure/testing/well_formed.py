"""Pure fold: whether a list of events is what a run may show: one beginning, one end, everything opened is closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.types import events as ev


def find_flaw(events: Sequence[ev.AnyEvent]) -> str | None:
    """Say what is wrong with the events of one or several runs, with a list of them; None if nothing is."""
    if not events:
        return "Nothing was recorded."
    books: dict[str, _Book] = {}
    for place, event in enumerate(events):
        problem = books.setdefault(event.run_id, _Book(event.run_id)).take(event)
        if problem is not None:
            return f"{problem}\n{_listing(events, place)}"
    for book in books.values():
        if book.ended is None:
            return f"Run {book.run_id} has no terminal event.\n{_listing(events, -1)}"
    return None


def _listing(events: Sequence[ev.AnyEvent], bad: int) -> str:
    return "\n".join(
        f"{'>' if n == bad else ' '} {n:3} {type(event).__name__} {event.step or ''}" for n, event in enumerate(events)
    )


_OPENING: Mapping[type[ev.Event], str] = {
    ev.AgentStarted: "agent",
    ev.MessageStarted: "message",
    ev.ToolStarted: "tool",
}
_CLOSING: Mapping[type[ev.Event], str] = {
    ev.AgentFinished: "agent",
    ev.MessageFinished: "message",
    ev.ToolFinished: "tool",
}
_INSIDE: Mapping[type[ev.Event], str] = {
    ev.TextDelta: "message",
    ev.ReasoningDelta: "message",
    ev.ToolCallStarted: "message",
    ev.ToolArgsDelta: "message",
    ev.ToolCallReady: "message",
    ev.MessageReset: "message",
    ev.ToolProgress: "tool",
}


class _Book:
    """What is open in one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.begun = False
        self.ended: ev.AnyEvent | None = None
        self.open: set[tuple[str, str]] = set()
        self.closed: set[tuple[str, str]] = set()

    def take(self, event: ev.AnyEvent) -> str | None:
        """Enter one event; say what is wrong with it, if anything is."""
        name = f"{type(event).__name__} of run {self.run_id}"
        if isinstance(event, ev.RunResumed):
            problem = None if isinstance(self.ended, ev.RunWaiting) else f"{name}: the run did not wait"
            self.begun, self.ended = True, None
            return problem
        if self.ended is not None:
            return f"{name} comes behind the terminal event {type(self.ended).__name__}"
        if isinstance(event, ev.RunStarted):
            problem = f"{name}: the run was begun already" if self.begun else None
            self.begun = True
            return problem
        if not self.begun:
            return f"{name} comes before RunStarted"
        if isinstance(event, ev.TERMINAL):
            return self._end(event, name)
        return self._nesting(event, name)

    def _end(self, event: ev.AnyEvent, name: str) -> str | None:
        self.ended = event
        left = {one for one in self.open if one[0] == "message"} if isinstance(event, ev.RunWaiting) else self.open
        if left:
            return f"{name} leaves open: {', '.join(f'{what} {place}' for what, place in sorted(left))}"
        return None

    def _nesting(self, event: ev.AnyEvent, name: str) -> str | None:
        kind = type(event)
        what = _OPENING.get(kind) or _CLOSING.get(kind) or _INSIDE.get(kind)
        if what is None:
            return None
        thing = (what, _place(event, what))
        at = f"{name} at {event.step}"
        if kind in _OPENING:
            if thing in self.open or thing in self.closed:
                return f"{at}: this {what} was opened already"
            self.open.add(thing)
        elif thing not in self.open:
            return f"{at}: this {what} is not open"
        elif kind in _CLOSING:
            self.open.remove(thing)
            self.closed.add(thing)
        return None


def _place(event: ev.AnyEvent, what: str) -> str:
    message_id = getattr(event, "message_id", None)
    if what == "message" and message_id:
        return str(message_id)
    step = event.step or ""
    return step.split("/infer/", 1)[0] if what == "agent" else step
