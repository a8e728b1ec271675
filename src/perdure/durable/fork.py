"""Where a session may be cut, and what a cut leaves open. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.log.log import Entry
from perdure.types.errors import Conflict, InvalidId, UnknownName
from perdure.types.messages import ToolCall, ToolCallMessage, ToolResultMessage
from perdure.types.records import (
    Answered,
    AttemptLost,
    CancelAsked,
    Erased,
    InferDone,
    InferenceDone,
    Outcome,
    Payload,
    Record,
    RunFinished,
    RunStarted,
    StepFailed,
    ToolDone,
)
from perdure.types.usage import NOTHING, Usage

_FROM_OUTSIDE = (Answered, CancelAsked, Erased)
_NOT_CARRIED_OVER = (
    "not_carried_over",
    "This call was open where the session was forked, and was not carried over: whether it took effect is not known "
    "here. Check before repeating it.",
)


def open_turns(records: Sequence[Record]) -> list[str]:
    """Say which turns are open behind the last of a session's records; a run that is only queued has not begun.

    Args:
        records: the session's visible records, from a place where no turn was open.
    """
    begun = _Turns()
    for record in records:
        begun.add(record)
    return begun.open


def last_end(records: Sequence[Record]) -> int:
    """The last record behind which no turn is open; 0 if it is the beginning."""
    turns, end = _Turns(), 0
    for record in records:
        turns.add(record)
        if not turns.open:
            end = record.seq
    return end


class _Turns:
    def __init__(self) -> None:
        self._begun: dict[str, bool] = {}

    def add(self, record: Record) -> None:
        run_id, payload = record.run_id, record.payload
        if isinstance(payload, RunStarted):
            self._begun[run_id] = not self._begun
        elif isinstance(payload, RunFinished):
            self._begun.pop(run_id, None)
        elif run_id in self._begun and not isinstance(payload, _FROM_OUTSIDE):
            self._begun[run_id] = True

    @property
    def open(self) -> list[str]:
        return [id for id, begun in self._begun.items() if begun]


def open_calls(records: Sequence[Record]) -> list[tuple[str, str, ToolCall]]:
    """The calls of a run that have no result: their places, who made them, and what was called."""
    closed = {one.key for one in records}
    found: list[tuple[str, str, ToolCall]] = []
    for record in records:
        done = record.payload
        if not isinstance(done, InferenceDone):
            continue
        answered = {one.tool.id for one in done.answered}
        calls = [call for one in done.messages if isinstance(one, ToolCallMessage) for call in one.tools]
        for n, call in enumerate(calls):
            key = f"{record.key}/tool/{n}"
            if key not in closed and call.id not in answered:
                found.append((key, done.agent, call))
    return found


def closings(records: Sequence[Record], name: str, why: str, outcome: Outcome) -> list[Entry]:
    """A result for each call of a run that has none, so that its history can always be continued.

    Args:
        records: all that there is of the run.
        name: what the error is called.
        why: what the model is told.
        outcome: how the calls have ended.
    """
    content = {"error": {"name": name, "message": why}}
    return [
        Entry(key, ToolDone(agent, ToolResultMessage(call, content), outcome))
        for key, agent, call in open_calls(records)
    ]


def not_carried_over(records: Sequence[Record]) -> list[Entry]:
    """Close the calls that were open in a run where its session is cut."""
    return closings(records, *_NOT_CARRIED_OVER, "not_run")


def spent(records: Sequence[Record]) -> Usage:
    """What the inferences of a run have consumed."""
    kinds = (InferenceDone, InferDone, AttemptLost)
    return sum((one.payload.usage for one in records if isinstance(one.payload, kinds)), NOTHING)


def place(run_id: str, records: Sequence[Record], at: int | str | None) -> int:
    """Find where a run is to be cut.

    Args:
        run_id: the run.
        records: all that there is of it.
        at: the number of a record of the session, or the key of a step, behind which it is cut. None: behind the last
            step before it was cancelled or failed, or behind the last one of a run that is open.

    Raises:
        UnknownName: the run has no such step.
        InvalidId: there is no such record in its turn.
        Conflict: it had ended there, or no place was named where only a named one makes sense.
    """
    keys = [one.key for one in records if one.key is not None]
    first, last = records[0].seq, records[-1].seq
    end = next((one.seq for one in records if isinstance(one.payload, RunFinished)), last + 1)
    if isinstance(at, str):
        found = [one.seq for one in records if one.key == at]
        if not found:
            raise UnknownName("finished step", at, keys)
        return found[0]
    if at is None:
        stop = next((one.seq for one in records if _stops(one.payload)), None)
        if stop is None and end <= last:
            raise Conflict(
                f"The run {run_id!r} was not stopped, so say behind which of its steps it is forked: "
                f"{', '.join(keys)}; or the number of a record from {first} to {end - 1}."
            )
        before = [one.seq for one in records if one.key is not None and (stop is None or one.seq < stop)]
        return before[-1] if before else first
    if not first <= at < end:
        if first <= at <= last:
            raise Conflict(
                f"The run {run_id!r} had ended by record {at}, so there is nothing of it to go on with. Give a record "
                f"from {first} to {end - 1}, or fork its session for another turn."
            )
        raise InvalidId(f"The run {run_id!r} has no record {at}: its records are {first} to {last} of its session.")
    return at


def _stops(payload: Payload) -> bool:
    """Whether something stops a run, or was cut off by what does."""
    if isinstance(payload, ToolDone):
        return payload.outcome == "interrupted"
    if isinstance(payload, InferenceDone):
        return payload.interrupted
    return isinstance(payload, (CancelAsked, StepFailed))
