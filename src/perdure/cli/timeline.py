"""A run's records as lines of time: each step, what it took, its attempts, and what outlived a process. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.cli.paint import shorten, shown_call, shown_result
from perdure.types import records as rec
from perdure.types.base import Base, Json, plain
from perdure.types.messages import TextMessage, ToolCallMessage
from perdure.types.waits import Approval, Wait, about, told


class Line(Base):
    """One line: when after the start, how long it took, at which place, what it was.

    `kept` says that the step was finished before another process went on: it was answered from the log. A line without
    a place is a note; `mark` one that divides the time of two owners.
    """

    seq: int
    at: float
    kind: str
    place: str = ""
    took: float | None = None
    what: str = ""
    tokens: int = 0
    status: str = "ok"
    kept: bool = False
    mark: bool = False

    @property
    def label(self) -> str:
        """The place as it is shown: a step below another one by its last part, further in."""
        above, _, last = self.place.partition("/tool/")
        if not last:
            return above
        number, *below = last.split("/")
        return f"  tool/{number}" if not below else f"    {'/'.join(below)}"


def timeline(records: Sequence[rec.Record]) -> list[Line]:
    """Lay out the records of one run."""
    claims = [one.seq for one in records if isinstance(one.payload, rec.Claimed)]
    last = claims[-1] if claims else 0
    clock = _Clock(records[0].created_at if records else 0.0)
    lines: list[Line] = []
    waits: dict[str, Wait] = {}
    for record in records:
        if isinstance(record.payload, rec.WaitOpened):
            waits |= {wait.id: wait for wait in record.payload.waits}
        took = clock.see(record)
        at = record.created_at - clock.start
        kept = record.key is not None and record.seq < last
        closed = sum(one.key is not None and one.seq < record.seq for one in records)
        note = _note(record.payload, closed, waits)
        lines.append(Line(record.seq, at, record.kind, _place(record), took, kept=kept, **note))
    return lines


class _Clock:
    """Says how long steps took: since what made them possible, as only ends are in the log."""

    def __init__(self, start: float) -> None:
        self.start = start
        self._owned = start
        self._turns: dict[str, float] = {}
        self._steps: dict[str, float] = {}
        self._routed = start

    def see(self, record: rec.Record) -> float | None:
        at, payload, key = record.created_at, record.payload, record.key
        if isinstance(payload, (rec.Claimed, rec.Forked)):
            self._owned = at
        elif isinstance(payload, (rec.Started, rec.AttemptFailed)):
            self._steps[payload.step] = at
        if key is None:
            return None
        prefix, infer, rest = key.partition("/infer/")
        turn = self._turns.get(prefix, self._routed)
        tool = f"{prefix}{infer}{'/'.join(rest.split('/')[:3])}" if "/tool/" in rest else key
        since = max(self._steps.get(key, 0.0), self._steps.get(tool, turn) if tool != key else turn, self._owned)
        if isinstance(payload, (rec.InferenceDone, rec.AgentDone, rec.RouteDone)):
            self._turns[prefix] = at
            self._routed = at if not infer else self._routed
        elif tool != key:
            self._steps[tool] = at
        return max(0.0, at - since)


def _place(record: rec.Record) -> str:
    payload = record.payload
    if isinstance(payload, (rec.Started, rec.StepFailed, rec.AttemptFailed, rec.AttemptLost)):
        return payload.step
    return record.key or ""


def _note(payload: rec.Payload, closed: int, waits: Mapping[str, Wait]) -> dict[str, Any]:
    """What a record says, in a few words."""
    match payload:
        case rec.RunStarted():
            if payload.program == "function":
                return {"what": f"{payload.definition} was given {shown_result(payload.input)}"}
            asked = [one.text for one in payload.messages if isinstance(one, TextMessage)]
            return {"what": f"{payload.definition} was asked: {shorten(asked[-1], 200) if asked else 'nothing'}"}
        case rec.InferenceDone():
            return _inference(payload)
        case rec.ToolDone():
            call = payload.result.tool
            shown = f"{shown_call(call.name, call.input)} → {shown_result(payload.result.content)}"
            bad = "" if payload.outcome == "ok" else f"{payload.outcome}: "
            return {"what": bad + shown, "status": payload.outcome, "tokens": payload.usage.total_tokens}
        case rec.RouteDone():
            names = [name for pick in payload.picks for name in pick.agents]
            said = f"asks {payload.ask}" if payload.ask else f"picks {', '.join(names)}" if names else "ends the run"
            return {"what": said, "tokens": payload.usage.total_tokens}
        case rec.AgentDone():
            detail = f" ({payload.detail})" if payload.detail else ""
            return {"what": f"{payload.agent} ends: {payload.stop_reason}{detail}"}
        case rec.Started():
            return {"what": "begins; it is never begun twice"}
        case rec.Claimed():
            changed = f"; changed since: {', '.join(payload.changes)}" if payload.changes else ""
            if payload.parked:
                return {"what": f"parked: {payload.parked}{changed}", "status": "error", "mark": True}
            died = "the process died; " if payload.died else ""
            kept = f"{closed} finished {'step is' if closed == 1 else 'steps are'} answered from the log"
            return {"what": f"{died}owner {payload.epoch} goes on, {kept}{changed}", "mark": True}
        case rec.InferDone():
            used = payload.usage
            tokens = f" [{used.input_tokens:,} → {used.output_tokens:,} tokens]"
            return {"what": f"{payload.name} → {shown_result(payload.result)}{tokens}", "tokens": used.total_tokens}
        case rec.StepDone():
            if payload.error is not None:
                return {"what": f"{payload.name}: {_error(payload.error)}", "status": "error"}
            return {"what": f"{payload.name} → {shown_result(payload.result)}"}
        case rec.ChildDone():
            return {"what": f"child {payload.run_id}: {payload.status}", "tokens": payload.usage.total_tokens}
        case rec.WaitOpened():
            asked = ", ".join(f"{_asked(wait)} ({wait.id})" for wait in payload.waits)
            return {"what": f"waits for {asked}", "status": "waiting"}
        case rec.StepFailed():
            return {"what": f"failed: {_error(payload.error)}", "status": "error"}
        case rec.AttemptFailed():
            again = f"again in {payload.wait:.1f} s"
            if payload.model:
                return {"what": f"{payload.error.message}; the next model is asked", "status": "error"}
            return {"what": f"attempt {payload.attempt} failed: {_error(payload.error)}; {again}", "status": "error"}
        case rec.AttemptLost():
            used = payload.usage.total_tokens
            lost = f"a call was lost with its process; about {used:,} tokens"
            return {
                "what": f"an answer that is not kept has used {used:,} tokens" if payload.told else lost,
                "status": "error",
                "tokens": used,
            }
        case rec.RunFinished():
            why = _error(payload.error) if payload.error else payload.stop_reason
            failed = payload.status == "failed"
            return {"what": f"{payload.status}: {why}", "status": "error" if failed else "ok"}
        case rec.Answered():
            wait = waits.get(payload.wait_id)
            what = payload.wait_id if wait is None else f"{_asked(wait)} ({wait.id})"
            return {"what": f"{what} was {told(payload.answer)}"}
        case rec.CancelAsked():
            return {"what": f"{payload.reason}{f': {payload.detail}' if payload.detail else ''}", "status": "error"}
        case rec.Compacted():
            return {"what": f"the conversation was written down: {len(payload.messages)} messages"}
        case rec.Forked():
            at = f"forked from {payload.base} at #{payload.seq}"
            return {"what": f"{at}; what stands above was done by {payload.origin}", "mark": True}
        case rec.Rewound():
            return {"what": f"rewound to #{payload.to}", "mark": True}
        case rec.SessionEvent():
            return {"what": f"{payload.event_type}: {shorten(payload.content, 200)}"}
        case rec.StateSet():
            return {"what": f"the session is {payload.state}", "mark": True}
        case rec.Unparked():
            how = "taken from its owner by force" if payload.forced else "resumed by hand"
            return {"what": f"{how}, with changed code" if payload.accepted else how, "mark": True}
        case rec.Erased():
            return {"what": f"({payload.was}, erased)", "status": "erased"}
    return {"what": ""}


def _inference(done: rec.InferenceDone) -> dict[str, Any]:
    calls = [call.name for one in done.messages if isinstance(one, ToolCallMessage) for call in one.tools]
    texts = [one.text for one in done.messages if isinstance(one, TextMessage)]
    said = f"calls {', '.join(calls)}" if calls else shorten(texts[-1], 200) if texts else done.stop_detail or "nothing"
    usage = done.usage
    tokens = f" [{usage.input_tokens:,} → {usage.output_tokens:,} tokens]" if usage.total_tokens else ""
    cut = "cut off: " if done.interrupted else ""
    return {"what": f"{done.agent}: {cut}{said}{tokens}", "tokens": usage.total_tokens}


def _asked(wait: Wait) -> str:
    if not isinstance(wait, Approval):
        return about(wait)
    return f"approval of {wait.tool}{f': {shorten(wait.reason, 100)}' if wait.reason else ''}"


def _error(error: rec.ErrorInfo) -> str:
    return f"{error.type}: {error.message}"


def as_json(line: Line) -> Json:
    """Show a line as plain JSON values."""
    return plain(line)
