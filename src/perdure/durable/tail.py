"""Pure fold: a session's records, and what is said beside them, become the events that one reader is shown.

Records come in order and are never left out. What an open step says without a record may come late, twice, or not at
all; it is shown where it continues what was shown. When the record of an answer comes, the reader is given what is
missing; if what it was shown does not lead there, `MessageReset` and the whole. So the pieces since the last
`MessageReset` are always the message. Each event has a cursor, from which another `Tail` goes on just behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from perdure.types import events as ev
from perdure.types import records as rec
from perdure.types.base import sound
from perdure.types.errors import InvalidId
from perdure.types.live import Cursor, Part, Place, size
from perdure.types.messages import ToolCall, ToolCallMessage
from perdure.types.project import Projector

_TAKEN_OVER = "another process goes on with the run, and asks again"
_INCOMPLETE = "not all of it was shown"
_PIECES = (ev.TextDelta, ev.ReasoningDelta)


class Tail:
    """One reader's view of a session.

    Args:
        session_id: the session.
        after: where the reader is.
        only: the run whose events are wanted, without cursors; all of them if None.

    Attributes:
        seq: the last record that was taken.
    """

    def __init__(self, session_id: str, after: Cursor, only: str | None = None) -> None:
        self.session_id = session_id
        self.seq = after.seq - (after.left > 0)
        self._after = after
        self._left = after.left
        self._only = only
        self._runs: dict[str, _Run] = {}
        self._turn: _Run | None = None

    def lacks(self, run_id: str) -> bool:
        """Whether a run must be recalled before something of it is taken: it began before this reader's place."""
        return self._wants(run_id) and run_id not in self._runs

    def _wants(self, run_id: str) -> bool:
        return bool(run_id) and self._only in (None, run_id)

    def recall(self, run_id: str, records: Iterable[rec.Record]) -> None:
        """Take what a run has written before this reader's place, which shows nothing."""
        run = self._runs[run_id] = _Run(Projector(run_id, self.session_id))
        for record in records:
            if record.seq <= self.seq:
                run.record(record)
        if run.position == self._after.position:
            run.reopen(self._after.open)
        if run.open and not run.ended:
            self._turn = run

    def adopt(self, projector: Projector, epoch: int) -> None:
        """Go on where another view of a run was left, which does not say how far open steps were shown."""
        run = self._runs[projector.run_id] = self._turn = _Run(projector)
        run.epoch = epoch
        run.open = {step: _Shown(epoch, 2, known="/tool/" in step) for step in projector.open_steps}

    def places(self) -> list[tuple[str, Place]]:
        """How far open steps were shown, by run; of those that are not named everything is wanted."""
        runs = self._runs.items()
        return [(id, Place(step, one.epoch, one.n)) for id, run in runs for step, one in run.open.items() if one.known]

    def record(self, record: rec.Record) -> list[ev.AnyEvent]:
        """Take the next record.

        Raises:
            InvalidId: the reader's cursor is not of this session.
        """
        if record.seq <= self.seq:
            return []
        if not self._wants(record.run_id):
            self.seq = record.seq
            if record.run_id or self._only is not None:
                return []
            told = Projector("", self.session_id).record(record)  # what the session itself tells
            return [_at(event, self._place(self.seq)) for event in told]
        run = self._runs.get(record.run_id)
        if run is None:
            run = self._runs[record.run_id] = _Run(Projector(record.run_id, self.session_id))
        before = self._place(self.seq)
        events = run.record(record)
        self.seq = record.seq
        if self._left:
            if self._left > len(events) and not isinstance(record.payload, rec.Erased):
                raise InvalidId(f"after={str(self._after)!r} is no cursor of the session {self.session_id!r}.")
            events, self._left = events[-self._left :], 0
        if run.ended:
            del self._runs[record.run_id]
            if self._turn is run:
                self._turn = None
        if self._only is not None:
            return events
        between = Cursor(record.seq, 0, before.position, before.open)
        last = len(events) - 1
        return [
            _at(event, msgspec.structs.replace(between, left=last - n) if n < last else self._place(record.seq))
            for n, event in enumerate(events)
        ]

    def live(self, part: Part) -> list[ev.AnyEvent]:
        """Take what an open step says; nothing is shown before the records that it came after."""
        run = self._runs.get(part.run_id)
        if run is None or part.base > self.seq or not part.events:
            return []
        if not run.is_open(part):
            return []
        self._turn = run
        if self._only is not None:
            return list(run.live(part))
        return [_at(event, self._place(self.seq)) for event in run.live(part)]

    def close(self, run_id: str) -> list[ev.AnyEvent]:
        """Close what is open of a run that nobody goes on with."""
        run = self._runs.get(run_id)
        return run.projector.close("error") if run is not None else []

    def _place(self, seq: int) -> Cursor:
        run = self._turn
        if run is None or not run.open:
            return Cursor(seq)
        open = tuple(Place(step, one.epoch, one.n) for step, one in run.open.items())
        return Cursor(seq, 0, run.position, open)


def _at(event: ev.AnyEvent, cursor: Cursor) -> ev.AnyEvent:
    return msgspec.structs.replace(event, cursor=str(cursor))


class _Shown:
    """How far an open step was shown, and what of an answer; `known` says whether that is known."""

    __slots__ = ("calls", "epoch", "known", "n", "since", "texts")

    def __init__(self, epoch: int, n: int, *, known: bool = True) -> None:
        self.epoch = epoch
        self.n = n
        self.known = known
        self.since = 0
        self.clear()

    def clear(self) -> None:
        """What was shown is void."""
        self.texts: dict[type, list[str]] = {}
        self.calls: list[str] = []

    def add(self, event: ev.AnyEvent) -> None:
        """Take a piece of the answer."""
        if isinstance(event, _PIECES):
            self.texts.setdefault(type(event), []).append(event.text)
        elif isinstance(event, ev.ToolCallStarted):
            self.calls.append(event.call_id)
        elif isinstance(event, ev.MessageReset):
            self.clear()

    @property
    def begun(self) -> bool:
        """Whether any of the answer may have been shown."""
        return bool(self.texts or self.calls) if self.known else self.n > 1

    def missing(self, whole: Sequence[ev.AnyEvent], *, cut: bool) -> list[ev.AnyEvent] | None:
        """Say what of an answer was not shown yet; None if what was shown does not lead there."""
        left = {kind: sound("".join(pieces)) for kind, pieces in self.texts.items()}
        calls = self.calls
        for n, event in enumerate(whole):
            if isinstance(event, _PIECES):
                shown = left.get(type(event), "")
                if shown.startswith(event.text):
                    left[type(event)] = shown[len(event.text) :]
                    continue
                if not event.text.startswith(shown):
                    return None
                left[type(event)] = ""
                rest = [msgspec.structs.replace(event, text=event.text[len(shown) :]), *whole[n + 1 :]]
            elif isinstance(event, ev.ToolCallStarted) and calls[:1] == [event.call_id]:
                calls = calls[1:]
                continue
            else:
                rest = [*whole[n:]]
            break
        else:
            rest = []
        if any(left.values()) or (calls and not cut):
            return None
        return rest


class _Run:
    """One run of the session, as far as it was shown."""

    def __init__(self, projector: Projector) -> None:
        self.projector = projector
        self.position = 0
        self.epoch = 0
        self.ended = False
        self.open: dict[str, _Shown] = {}
        self._closed: set[str] = set()
        self._names: dict[str, str] = {}
        self._calls: dict[str, ToolCall] = {}

    # -- records -----------------------------------------------------------------------------------------------------

    def record(self, record: rec.Record) -> list[ev.AnyEvent]:
        payload = record.payload
        if isinstance(payload, rec.Claimed):
            return self._claimed(payload, record.seq)
        before: list[ev.AnyEvent] = []
        if isinstance(payload, rec.RunStarted):
            self.position = record.seq
        elif isinstance(payload, rec.RunFinished):
            self.ended = True
        elif isinstance(payload, rec.InferenceDone) and record.key is not None:
            self._names[record.key] = payload.agent
            calls = [call for one in payload.messages if isinstance(one, ToolCallMessage) for call in one.tools]
            self._calls = {f"{record.key}/tool/{n}": call for n, call in enumerate(calls)}
            if self.projector.has_open(record.key):
                before = self._complete(payload, record.key, record.seq)
        elif isinstance(payload, rec.AttemptFailed):
            before = self._again(payload.step, payload.error.message, record.seq)
        elif isinstance(payload, rec.StepFailed) and "/tool/" not in payload.step:
            if payload.cut is not None and self.projector.has_open(payload.step):
                before = self._complete(payload.cut, payload.step, record.seq)
            self._closed.add(payload.step)  # it stays among the open ones, which tell that its agent was shown
        if record.key is not None:
            self._closed.add(record.key)
            self.open.pop(record.key, None)
        return [*before, *self.projector.record(record)]

    def _claimed(self, claimed: rec.Claimed, seq: int) -> list[ev.AnyEvent]:
        """A new owner has the run: it says open answers again from their beginning."""
        self.epoch = claimed.epoch
        out: list[ev.AnyEvent] = []
        for step in self.open:
            out += self._renew(step, claimed.epoch, seq)
        return out

    def _renew(self, step: str, epoch: int, seq: int | None) -> list[ev.AnyEvent]:
        shown = self.open[step]
        out = self._reset(step, _TAKEN_OVER, seq) if shown.begun else []
        self.open[step] = _Shown(epoch, min(shown.n, 1))  # its beginning was shown, and is not shown again
        return out

    def _again(self, step: str, reason: str, seq: int) -> list[ev.AnyEvent]:
        """An attempt has failed: what was said in it is void."""
        shown = self.open.get(step)
        if shown is None:
            return []
        out = self._reset(step, reason, seq) if shown.begun else []
        shown.clear()
        shown.known = True
        shown.since = seq
        return out

    def _reset(self, step: str, reason: str, seq: int | None) -> list[ev.AnyEvent]:
        if "/tool/" in step or not self.projector.has_open(step):
            return []
        projector = self.projector
        return [
            ev.MessageReset(
                message_id=projector.message_id(step),
                reason=reason,
                run_id=projector.run_id,
                session_id=projector.session_id,
                step=step,
                seq=seq,
            )
        ]

    def _complete(self, done: rec.InferenceDone, step: str, seq: int) -> list[ev.AnyEvent]:
        """What leads from what was shown of an answer to the whole."""
        whole = self.projector.pieces(done, step, seq)
        shown = self.open.get(step)
        missing = shown.missing(whole, cut=done.interrupted) if shown is not None and shown.known else None
        if missing is not None:
            return missing
        return [*(self._reset(step, _INCOMPLETE, seq) if shown is not None and shown.begun else []), *whole]

    # -- what is live ------------------------------------------------------------------------------------------------

    def is_open(self, part: Part) -> bool:
        """Whether a step may still say something, and in this attempt."""
        shown = self.open.get(part.step)
        newest = max(self.epoch, shown.epoch if shown is not None else 0)
        return not self.ended and part.step not in self._closed and part.epoch >= newest

    def live(self, part: Part) -> Iterable[ev.AnyEvent]:
        """Show what continues what was shown; `open` says how far at each event that is given."""
        step = part.step
        shown = self.open.get(step)
        if shown is None:
            shown = self.open[step] = _Shown(part.epoch, 0)
        elif part.epoch > shown.epoch:
            yield from self._renew(step, part.epoch, None)
            shown = self.open[step]
        end = part.end
        if part.base < shown.since:  # said in an attempt that has failed
            shown.n = max(shown.n, end)
            return
        begins_anew = isinstance(part.events[0], ev.MessageReset)
        if not shown.known:
            if end < shown.n or (part.start > 0 and not begins_anew):
                return
            shown.clear()
        elif part.start > shown.n and not begins_anew:
            return  # something between is missing, and the record will tell
        void = _last_reset(part, shown.n)
        n = part.start
        for event in part.events:
            start, n = n, n + size(event)
            if n <= shown.n:
                if not shown.known:
                    shown.add(event)
                continue
            if not shown.known:
                if start < shown.n:
                    shown.add(_cut(event, 0, shown.n - start))
                shown.known = True
            if n < void:
                continue
            if start < shown.n:
                event = _cut(event, shown.n - start)
            yield from self._show(step, shown, event, n)
        shown.known = True
        shown.n = max(shown.n, n)

    def _show(self, step: str, shown: _Shown, event: ev.AnyEvent, n: int) -> Iterable[ev.AnyEvent]:
        projector, name = self.projector, event.agent or ""
        if isinstance(event, ev.ToolStarted):
            opening = projector.begin_tool(step, name, event.tool, event.call_id, event.args)
        elif "/tool/" in step:
            opening = []
        else:
            opening = projector.begin_message(step, name)
        is_opening = isinstance(event, (ev.ToolStarted, ev.MessageStarted))
        skipped = isinstance(event, ev.MessageReset) and not shown.begun
        events = opening if is_opening or skipped else [*opening, event]
        shown.add(event)
        for one in events[:-1]:
            if isinstance(one, (ev.MessageStarted, ev.ToolStarted)):
                shown.n = max(shown.n, 1)
            yield one
        shown.n = n
        yield from events[-1:]

    # -- going on from a cursor --------------------------------------------------------------------------------------

    def reopen(self, places: Iterable[Place]) -> None:
        """Open what was open at the reader's place, which shows nothing."""
        for one in places:
            self.projector.begin_agent(one.step, self._name(one.step))
            tool = "/tool/" in one.step
            call = self._calls.get(one.step)
            if one.n and one.step not in self._closed:
                if call is not None:
                    self.projector.begin_tool(one.step, self._name(one.step), call.name, call.id, call.input)
                elif not tool:
                    self.projector.begin_message(one.step, self._name(one.step))
            self.open[one.step] = _Shown(one.epoch, one.n, known=tool or one.n < 2)

    def _name(self, step: str) -> str:
        """The agent that a step belongs to, as far as records tell."""
        agent = step.split("/infer/", 1)[0]
        return next((name for known, name in self._names.items() if known.startswith(f"{agent}/")), "")


def _last_reset(part: Part, after: int) -> int:
    """The number behind the last reset in a part: what is before it need not be shown; 0 if there is none to show."""
    n, found = part.start, 0
    for event in part.events:
        n += size(event)
        if isinstance(event, ev.MessageReset) and n > after:
            found = n
    return found


def _cut(event: ev.AnyEvent, start: int, end: int | None = None) -> ev.AnyEvent:
    """Some of a piece of text."""
    if isinstance(event, (ev.TextDelta, ev.ReasoningDelta, ev.ToolArgsDelta)):
        return msgspec.structs.replace(event, text=event.text[start:end])
    return event
