"""The network loop as a pure fold: router, agents, queue. A stand-alone agent is a network of one without a router.

The router is asked before the first agent and after every turn; what it picks goes to the end of the queue, and the
queue is first in, first out. Places: `route/<n>` is the n-th decision (a routing agent's inferences lie below it),
`agent/<i>` the i-th turn, `agent/<i>/<n>` the n-th of several agents that run at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from perdure.agents.agent_loop import AgentLoop, LoopRules
from perdure.agents.patch import Reducers, apply, diff, merge
from perdure.agents.result import AgentResult
from perdure.durable.program import Action, Do, Finish, Keep, Waiting
from perdure.types.base import Json
from perdure.types.events import AnyEvent, StateConflict
from perdure.types.messages import Message
from perdure.types.records import (
    AgentDone,
    Answered,
    AttemptFailed,
    AttemptLost,
    CancelAsked,
    ChildDone,
    Claimed,
    ErrorInfo,
    Forked,
    InferDone,
    InferenceDone,
    Pick,
    Record,
    RouteDone,
    RunFinished,
    RunStarted,
    RunStatus,
    Started,
    StepDone,
    StepFailed,
    StopReason,
    ToolDone,
    WaitOpened,
)
from perdure.types.usage import NOTHING, Usage
from perdure.types.waits import Wait, WaitAnswer


class RulesByName(Protocol):
    """Who may take part in a run, and what the loop must know of them; see `Roster`."""

    def rules(self, name: str, args: dict[str, Any] | None = None) -> LoopRules: ...
    def routing_rules(self, name: str) -> LoopRules: ...


class RunRules(msgspec.Struct, frozen=True):
    """What the loop must know of the definition.

    `first` is the agent of a stand-alone run, None for a network; `max_iter` the most agent turns (None or 0: no
    limit); `roster` looks up an agent's rules by the name and arguments of a pick.
    """

    first: str | None
    max_iter: int | None
    roster: RulesByName
    reducers: Reducers


class Route(msgspec.Struct, frozen=True):
    """The note of a routing decision; `asked` is the turn of the routing agent that was asked, if it is over."""

    number: int
    asked: AgentLoop | None
    agent: str | None


class NetworkLoop(msgspec.Struct, eq=False):
    """The state of one run: folded from its records, never written to otherwise."""

    rules: RunRules
    run_id: str = ""
    earlier: Sequence[Message] = ()
    started: RunStarted | None = None
    transcript: list[Message] = []
    doc: Json = None
    group_doc: Json = None
    queue: tuple[Pick, ...] = ()
    current: list[AgentLoop] = []
    asking: AgentLoop | None = None
    agent: AgentLoop | None = None
    results: tuple[AgentResult, ...] = ()
    call_count: int = 0
    routes: int = 0
    routed: bool = False
    usage: Usage = NOTHING
    texts: frozenset[str] = frozenset()
    steps: dict[str, StepDone | ChildDone] = {}
    answers: dict[str, WaitAnswer] = {}
    waits: dict[str, Wait] = {}
    stopping: StopReason | None = None
    stop_reason: StopReason = "router"
    stop_detail: str = ""
    error: ErrorInfo | None = None
    finished: RunFinished | None = None

    # -- what next ---------------------------------------------------------------------------------------------------

    def next(self) -> Action:
        """Say what the run wants now."""
        if self.stopping is not None:
            return self._closing()
        if len(self.current) == 1:
            action = self.current[0].next()
            return action if action is not None else self._finish()
        if self.current:
            return self._agents()
        if self.rules.first is not None:
            return self._finish()
        if self.asking is not None:
            return self._ask(self.asking)
        if self.routed:
            return self._finish()
        if self.rules.max_iter and self.call_count >= self.rules.max_iter:
            return self._finish("max_iter")
        return Do(f"route/{self.routes}", Route(self.routes, None, None))

    def _agents(self) -> Action:
        ready: list[Do] = []
        waits: list[Wait] = []
        for loop in self.current:
            action = loop.next()
            if isinstance(action, Keep):
                return action
            if isinstance(action, Do):
                ready.append(action)
            elif isinstance(action, Waiting):
                waits += action.waits
            elif action is not None:
                ready += action
        return ready or Waiting(tuple(waits))

    def _ask(self, loop: AgentLoop) -> Action:
        action = loop.next()
        if isinstance(action, Keep) and action.key == loop.prefix:  # its turn is over: no record, only the decision
            return Do(loop.prefix, Route(self.routes, loop, loop.rules.agent))
        assert action is not None
        return action

    def _turns(self) -> list[AgentLoop]:
        """The turns that are open, a routing agent's included."""
        return [*self.current, self.asking] if self.asking is not None else self.current

    def _closing(self) -> Action:
        reason = self.stopping or "cancelled"
        for loop in self._turns():
            open_call = loop.abandon("interrupted", _WHY.get(reason, "The run ended before this call was answered."))
            if open_call is not None:
                return open_call
        for loop in self.current:
            if loop.phase != "done":
                return Keep(loop.prefix, loop.closing(reason, self.stop_detail))
        return self._finish()

    def _finish(self, reason: StopReason | None = None) -> Finish:
        status: RunStatus = "completed"
        reason = reason or self.stop_reason
        if self.stopping is not None:
            reason = self.stopping
            status = "failed" if reason == "error" else "completed" if reason == "budget" else "cancelled"
        last = self.agent
        has_output = last is not None and last.has_output
        output = last.output if last is not None and has_output else self.results[-1].text if self.results else ""
        error = self.error if status == "failed" else None
        return Finish(RunFinished(status, reason, has_output, output, self.total_usage, error))

    @property
    def total_usage(self) -> Usage:
        """What the run has consumed, child runs included."""
        total = self.usage
        for loop in self._turns():
            total += loop.usage
        return total

    # -- folding -----------------------------------------------------------------------------------------------------

    def fold(self, record: Record) -> Sequence[AnyEvent]:
        """Take one record of the run."""
        payload = record.payload
        if type(payload) in _STEPS:
            return self._step(record)
        if type(payload) is AgentDone:
            return self._agent_done(record, payload)
        if type(payload) is RunFinished:
            self.finished = payload
        elif type(payload) is RunStarted:
            self._start(record, payload)
        elif type(payload) is RouteDone:
            self._routed(payload)
        elif type(payload) is Answered:
            self.answers.setdefault(payload.wait_id, payload.answer)
            for loop in self._turns():
                loop.answered(payload.wait_id, payload.answer)
        elif type(payload) is StepFailed:
            if self.stopping is None:
                self.stopping = "error"
            self.error = self.error or payload.error
            for loop in self._turns():
                loop.fold(record)
        elif type(payload) is CancelAsked:
            self.stopping = payload.reason
            self.stop_detail = payload.detail
        elif type(payload) is Started or type(payload) is AttemptFailed or type(payload) is AttemptLost:
            self._loop_of(payload.step).fold(record)
        elif type(payload) is Claimed:
            for loop in self._turns():
                loop.fold(record)
        elif type(payload) is Forked:  # what has stopped the run that this one goes on from does not stop it
            self.stopping, self.stop_detail, self.error = None, "", None
        elif isinstance(payload, (StepDone, ChildDone)):
            self.steps[record.key or ""] = payload
            if type(payload) is InferDone:
                self._infer_done(record.key or "", payload.usage)
        return ()

    def _infer_done(self, key: str, usage: Usage) -> None:
        """Count a model call of a user's step in the turn that it belongs to, if it is one's."""
        for loop in self._turns():
            if key.startswith(f"{loop.prefix}/"):
                loop.usage += usage
                return
        self.usage += usage

    def _start(self, record: Record, payload: RunStarted) -> None:
        self.started = payload
        self.run_id = record.run_id
        self.transcript = [*self.earlier, *payload.history, *payload.messages]
        self.doc = payload.state
        if self.rules.first is not None:
            self._begin(Pick((self.rules.first,)))

    def _step(self, record: Record) -> Sequence[AnyEvent]:
        payload = record.payload
        key = record.key or ""
        loop = self._loop_of(key)
        notes = loop.fold(record)
        if type(payload) is WaitOpened:
            for wait in payload.waits:
                self.waits[wait.id] = wait
                if wait.id in self.answers:  # somebody was faster
                    loop.answered(wait.id, self.answers[wait.id])
        if type(payload) is InferenceDone and payload.texts:
            self.texts = self.texts.union(payload.texts)
        if loop.scheduled:
            self._schedule(loop)
        return notes

    def _loop_of(self, key: str) -> AgentLoop:
        if len(self.current) == 1:
            return self.current[0]
        prefix = key.split("/infer/", 1)[0]
        for loop in self.current:
            if loop.prefix == prefix:
                return loop
        if self.asking is not None and self.asking.prefix == prefix:
            return self.asking
        raise LookupError(f"The record {key!r} belongs to no open agent of run {self.run_id}.")

    def _schedule(self, loop: AgentLoop) -> None:
        self.queue += tuple(Pick((name,)) for name in loop.scheduled)
        loop.scheduled = ()

    def _agent_done(self, record: Record, payload: AgentDone) -> Sequence[AnyEvent]:
        loop = self._loop_of(record.key or "")
        loop.over(payload)
        if loop.scheduled:
            self._schedule(loop)
        for one in self.current:
            if one.phase != "done":
                return ()
        return self._group_done(record)

    def _group_done(self, record: Record) -> Sequence[AnyEvent]:
        loops = self.current
        notes: Sequence[AnyEvent] = ()
        for loop in loops:
            said = loop.said
            self.transcript += said
            self.usage += loop.usage
            place = f"{record.run_id}/{loop.prefix}"
            result = AgentResult(loop.rules.agent, tuple(said), place, record.created_at, loop.stop_reason, loop.usage)
            self.results = (*self.results, result)
        if len(loops) == 1:
            self.doc = loops[0].doc
        else:
            patches = [diff(self.group_doc, loop.doc) for loop in loops]
            self.doc, overlaps = merge(self.group_doc, patches, self.rules.reducers)
            notes = [
                StateConflict(
                    path=one.path,
                    winner=loops[one.winner].prefix,
                    loser=loops[one.loser].prefix,
                    run_id=record.run_id,
                    session_id=record.session_id,
                    seq=record.seq,
                )
                for one in overlaps
            ]
        self.agent = loops[-1]
        self.call_count += len(loops)
        self.current = []
        last = self.agent.stop_reason
        if self.rules.first is not None or last == "budget":
            self.stop_reason = last
            self.routed = True
        return notes

    def _routed(self, payload: RouteDone) -> None:
        if self.asking is not None:
            self.doc = self.asking.doc
        if payload.patch:
            self.doc = apply(self.doc, payload.patch)
        if payload.ask is not None:
            rules = self.rules.roster.routing_rules(payload.ask)
            place = f"route/{self.routes}"
            self.asking = AgentLoop(rules, self.run_id, place, self.transcript, self.doc, self.rules.reducers)
            return
        if self.asking is not None:
            self.usage += self.asking.usage
            self.asking = None
        self.routes += 1
        self.queue += payload.picks
        if payload.reason == "stop_when":
            self.queue = ()
            self.stop_reason = "stop_when"
            self.routed = True
        elif self.queue:
            first, *rest = self.queue
            self.queue = tuple(rest)
            self._begin(first)
        else:
            self.stop_reason = "router"
            self.routed = True

    def _begin(self, pick: Pick) -> None:
        place = f"agent/{self.call_count}"
        several = len(pick.agents) > 1
        self.group_doc = self.doc
        self.current = [
            AgentLoop(
                self.rules.roster.rules(name, pick.args),
                self.run_id,
                f"{place}/{n}" if several else place,
                self.transcript,
                self.doc,
                self.rules.reducers,
                pick.args,
            )
            for n, name in enumerate(pick.agents)
        ]


# a class is compared and not asked for by isinstance(), which takes three times as long to say no
_STEPS = frozenset((InferenceDone, ToolDone, WaitOpened))
_WHY: dict[StopReason, str] = {
    "cancelled": "The run was cancelled before this call was answered.",
    "interrupted": "The run was interrupted before this call was answered.",
    "deadline": "The run's deadline passed before this call was answered.",
    "budget": "The run's budget was used up before this call was answered.",
    "error": "The run failed before this call was answered.",
}
