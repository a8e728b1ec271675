"""The agent loop as a pure fold: what an agent has said and called, and what it does next.

Keys are places below the agent's own (`agent/0`): `…/infer/<k>` for the k-th inference, `…/infer/<k>/tool/<n>` for the
n-th call of its answer. A round is one inference with its calls. Results enter the transcript in call order and
patches apply in call order when the round closes, however the calls ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from perdure.agents.patch import Patch, Reducers, apply, merge
from perdure.durable.program import Do, Keep, Waiting
from perdure.types.base import Json
from perdure.types.events import AnyEvent, StateConflict
from perdure.types.messages import Message, ToolCall, ToolCallMessage, ToolResultMessage
from perdure.types.records import (
    AgentDone,
    Answered,
    AttemptFailed,
    AttemptLost,
    Claimed,
    ErrorInfo,
    InferenceDone,
    Outcome,
    Record,
    Started,
    StepFailed,
    StopReason,
    ToolDone,
    WaitOpened,
)
from perdure.types.usage import NOTHING, Usage
from perdure.types.waits import Deny, Elapsed, Wait, WaitAnswer, wait_id


class LoopRules(msgspec.Struct, frozen=True):
    """What the loop must know of an agent's definition.

    `max_iter` is the most inferences (None: no limit; 0 counts as 1), `stop_tools` the tools whose success ends the
    turn, `effects_at_end` whether finish hooks must be performed, `once_chosen` whether one call that succeeds ends the
    turn, as it does for a routing agent.
    """

    agent: str
    max_iter: int | None = 25
    parallel_tools: bool = True
    stop_tools: frozenset[str] = frozenset()
    effects_at_end: bool = False
    once_chosen: bool = False
    output_retries: int = 2


class Infer(msgspec.Struct, frozen=True):
    """The note of an inference to be performed."""

    loop: AgentLoop
    number: int


class Call(msgspec.Struct, frozen=True):
    """The note of a tool call to be performed; `again` is the wait that it had opened, if it is entered again."""

    loop: AgentLoop
    open: OpenCall
    again: WaitOpened | None


class Doubt(msgspec.Struct, frozen=True):
    """The note of a call that was begun before a crash, never ended, and must not be made again."""

    loop: AgentLoop
    open: OpenCall


class End(msgspec.Struct, frozen=True):
    """The note of an agent's turn to be ended, with its finish hooks."""

    loop: AgentLoop
    reason: StopReason
    detail: str


class OpenCall(msgspec.Struct, eq=False):
    """A call of the current round."""

    call: ToolCall
    number: int
    key: str
    done: ToolDone | None = None
    error: ErrorInfo | None = None
    opened: WaitOpened | None = None
    waits: tuple[Wait, ...] = ()
    answers: dict[str, WaitAnswer] = {}
    rounds: int = 0
    started: Started | None = None
    in_doubt: bool = False

    @property
    def resting(self) -> bool:
        """Whether nothing of what this call waits for was answered; any answer lets it go on, to wait for the rest."""
        return bool(self.waits) and all(wait.id not in self.answers for wait in self.waits)


class AgentLoop(msgspec.Struct, eq=False):
    """One agent's turn in a run.

    Args:
        rules: what the loop must know of the definition.
        run_id: the run.
        prefix: the turn's place, such as `agent/0`.
        transcript: the messages before this turn; shared, never changed here.
        doc: the state's data as plain JSON.
        reducers: how parallel writes to one path of it are merged.
        args: what a router gave for an agent that is built on demand.
    """

    rules: LoopRules
    run_id: str
    prefix: str
    transcript: Sequence[Message]
    doc: Json
    reducers: Reducers
    args: dict[str, Any] | None = None
    said: list[Message] = []
    inferences: int = 0
    feedbacks: int = 0
    usage: Usage = NOTHING
    calls: Sequence[OpenCall] = ()
    round: Mapping[str, OpenCall] = {}
    phase: Literal["infer", "tools", "end", "done"] = "infer"
    stop_reason: StopReason = "answer"
    detail: str = ""
    has_output: bool = False
    output: Any = None
    scheduled: tuple[str, ...] = ()

    # -- what next ---------------------------------------------------------------------------------------------------

    def next(self) -> Do | list[Do] | Keep | Waiting | None:
        """Say what the turn wants now; None when it is over."""
        phase = self.phase
        if phase == "infer":
            limit = self.rules.max_iter
            if limit is None or self.inferences < (limit or 1):
                key = f"{self.prefix}/infer/{self.inferences}"
                return Do(key, Infer(self, self.inferences))
            return self._last("max_iter", "")
        if phase == "tools":
            return self._next_calls()
        if phase == "done":
            return None
        return self._last(self.stop_reason, self.detail)

    def _last(self, reason: StopReason, detail: str) -> Do | Keep:
        if self.rules.effects_at_end:
            return Do(self.prefix, End(self, reason, detail))
        return Keep(self.prefix, self.closing(reason, detail))

    def closing(self, reason: StopReason, detail: str) -> AgentDone:
        """The record that ends the turn when no hook has a say."""
        return AgentDone(self.rules.agent, reason, has_output=self.has_output, output=self.output, detail=detail)

    def _next_calls(self) -> Do | list[Do] | Keep | Waiting:
        ready: list[Do] = []
        waits: list[Wait] = []
        for one in self.calls:
            if one.done is not None:
                continue
            if one.resting:
                waits += one.waits
                if not self.rules.parallel_tools:
                    break
                continue
            if one.in_doubt:
                ready.append(Do(one.key, Doubt(self, one)))
                continue
            answer = one.answers.get(wait_id(self.run_id, one.key)) if one.waits else None
            if isinstance(answer, Deny):  # of the call itself, not of something that its body has asked
                return Keep(one.key, self.not_run(one, "denied", answer.why or "A person did not allow this call."))
            if isinstance(answer, Elapsed):
                return Keep(one.key, self.not_run(one, "denied", EXPIRED, "timeout"))
            ready.append(Do(one.key, Call(self, one, one.opened)))
            if not self.rules.parallel_tools:
                return ready[0]
        if ready:
            return ready[0] if len(ready) == 1 else ready
        return Waiting(tuple(waits))

    def not_run(self, one: OpenCall, outcome: Outcome, why: str, name: str = "") -> ToolDone:
        """Close a call that gives no result of its own, so that the history can always be continued."""
        content = {"error": {"name": name or outcome, "message": why}}
        return ToolDone(self.rules.agent, ToolResultMessage(one.call, content), outcome)

    def abandon(self, outcome: Outcome, why: str) -> Keep | None:
        """Close one call that is still open; None if none is."""
        if self.phase == "tools":
            for one in self.calls:
                if one.done is None:
                    if one.error is not None:
                        return Keep(one.key, self.not_run(one, "error", one.error.message, one.error.type))
                    if one.in_doubt:
                        return Keep(one.key, self.not_run(one, "unknown", IN_DOUBT))
                    return Keep(one.key, self.not_run(one, outcome, why))
        return None

    # -- folding -----------------------------------------------------------------------------------------------------

    def fold(self, record: Record) -> Sequence[AnyEvent]:
        """Take one record of this turn."""
        payload = record.payload
        if type(payload) is InferenceDone:
            return self._inference(payload, record.key or "")
        if type(payload) is ToolDone:
            one = self.round[record.key or ""]
            one.done = payload
            if payload.patch and not self.rules.parallel_tools:
                self.doc = apply(self.doc, payload.patch)  # one after another, so the next call sees it
            return self._close_round(record)
        if type(payload) is AgentDone:
            self.over(payload)
        elif type(payload) is WaitOpened:
            one = self.round[(record.key or "").rsplit("/wait/", 1)[0]]
            one.opened = payload
            one.waits = payload.waits
            one.rounds += 1
        elif type(payload) is Started:
            if payload.step in self.round:  # else it is an inner step
                self.round[payload.step].started = payload
                self.round[payload.step].waits = ()  # if it is in doubt, that is another question
        elif type(payload) is AttemptFailed:
            if payload.step in self.round:  # tried again, so certainly nothing has happened
                self.round[payload.step].started = None
        elif type(payload) is AttemptLost:
            self.usage += payload.usage
        elif type(payload) is Claimed:
            for one in self.calls:
                one.in_doubt = one.started is not None  # a start of an older epoch, and nothing closed it
        elif type(payload) is Answered:
            self.answered(payload.wait_id, payload.answer)
        elif type(payload) is StepFailed:
            if payload.step in self.round:
                self.round[payload.step].error = payload.error
            elif payload.cut is not None and payload.step.startswith(f"{self.prefix}/infer/"):
                self.said += payload.cut.messages
        return ()

    def answered(self, wait_id: str, answer: WaitAnswer) -> None:
        """Let the call know that waits for this; the first answer counts."""
        for one in self.calls:
            if any(wait.id == wait_id for wait in one.waits):
                one.answers.setdefault(wait_id, answer)

    def _inference(self, done: InferenceDone, key: str) -> Sequence[AnyEvent]:
        self.inferences += 1
        self.usage += done.usage
        self.said += done.messages
        self.scheduled += done.scheduled
        if done.patch:
            self.doc = apply(self.doc, done.patch)
        if done.has_output:
            self.has_output = True
            self.output = done.output
        calls = [call for one in done.messages if type(one) is ToolCallMessage for call in one.tools]
        if calls:
            self.calls = [OpenCall(call, n, f"{key}/tool/{n}") for n, call in enumerate(calls)]
            self.round = {one.key: one for one in self.calls}
            self.phase = "tools"
            answered = {one.tool.id: one for one in done.answered}
            for one in self.calls:
                result = answered.get(one.call.id)
                if result is not None:
                    one.done = ToolDone(self.rules.agent, result, "error" if result.is_error else "ok")
            if answered:
                self.feedbacks += not done.has_output
                return self._close_round(None)
        elif done.feedback:
            self.said += done.feedback
            self.feedbacks += 1
        else:
            self.end(done.stop or ("max_tokens" if done.finish == "max_tokens" else "answer"), done.stop_detail)
        return ()

    def _close_round(self, record: Record | None) -> Sequence[AnyEvent]:
        for one in self.calls:
            if one.done is None:
                return ()
        notes: Sequence[AnyEvent] = ()
        results = [one.done for one in self.calls if one.done is not None]
        self.said += [done.result for done in results]
        self.usage += _usage_of(results)
        patches: list[Patch | None] = [done.patch for done in results] if self.rules.parallel_tools else []
        if any(patches):
            self.doc, overlaps = merge(self.doc, patches, self.reducers)
            if overlaps and record is not None:
                notes = [
                    StateConflict(
                        path=one.path,
                        winner=self.calls[one.winner].key,
                        loser=self.calls[one.loser].key,
                        run_id=record.run_id,
                        session_id=record.session_id,
                        seq=record.seq,
                        agent=self.rules.agent,
                    )
                    for one in overlaps
                ]
        for done in results:
            self.scheduled += done.scheduled
        if self.phase == "tools":
            self._after_round(results)
        self.calls = ()
        self.round = {}
        return notes

    def _after_round(self, results: list[ToolDone]) -> None:
        rules = self.rules
        if self.has_output:
            self.end("answer")
        elif any(done.outcome == "ok" and done.result.tool.name in rules.stop_tools for done in results):
            self.end("stop_when")
        elif rules.once_chosen and any(done.outcome == "ok" for done in results):
            self.end("answer")
        elif any(_is_budget(done) for done in results):
            self.end("budget", next(_why(done) for done in results if _is_budget(done)))
        else:
            self.phase = "infer"

    def over(self, done: AgentDone) -> None:
        """Take the record that ends the turn."""
        if done.messages is not None:
            self.said = list(done.messages)
        if done.patch:
            self.doc = apply(self.doc, done.patch)
        self.scheduled += done.scheduled
        self.stop_reason = done.stop_reason
        self.detail = done.detail
        self.has_output = done.has_output
        self.output = done.output
        self.phase = "done"

    def end(self, reason: StopReason, detail: str = "") -> None:
        """Turn towards the end."""
        self.stop_reason = reason
        self.detail = detail
        self.phase = "end"


EXPIRED = "This call needs a person's approval, and nobody answered in time. It was not made."
IN_DOUBT = "The process died while this tool ran; whether it took effect is unknown. Check before repeating it."


def _usage_of(results: Sequence[ToolDone]) -> Usage:
    total = Usage(tool_calls=sum(1 for done in results if done.outcome not in ("not_run", "denied")))
    for done in results:
        if done.usage.model_calls or done.usage.tool_calls:
            total += done.usage
    return total


def _is_budget(done: ToolDone) -> bool:
    content = done.result.content
    return isinstance(content, dict) and content.get("error", {}).get("name") == "budget"


def _why(done: ToolDone) -> str:
    content = done.result.content
    return str(content["error"]["message"]) if isinstance(content, dict) else ""
