"""A function's run as a pure fold: its body is entered until it returns, waits, or has failed too often.

The body's place is `function`, its steps lie below. Entered again, finished steps are answered from their records. What
the body waits for has a record at `function#wait/<n>`, a long rest before the next attempt one at `function#retry/<n>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.durable.program import Action, Do, Finish, Waiting
from perdure.types.base import Json
from perdure.types.events import AnyEvent
from perdure.types.messages import Message
from perdure.types.records import (
    Answered,
    AttemptFailed,
    AttemptLost,
    CancelAsked,
    ChildDone,
    ErrorInfo,
    Forked,
    InferDone,
    Record,
    RunFinished,
    RunStarted,
    RunStatus,
    StepDone,
    StepFailed,
    StopReason,
    WaitOpened,
)
from perdure.types.usage import NOTHING, Usage
from perdure.types.waits import Wait, WaitAnswer

BODY = "function"
"""The place of a function's body."""


class Enter(msgspec.Struct, frozen=True):
    """The note of a body to be entered."""

    attempt: int


class FunctionLoop(msgspec.Struct, eq=False):
    """The state of a function's run: folded from its records, never written to otherwise.

    It says nothing, has no agents, and nothing in `doc` is kept: a function's effects are in its steps.
    """

    earlier: Sequence[Message] = ()
    started: RunStarted | None = None
    transcript: Sequence[Message] = ()
    doc: Json = {}
    current: Sequence[Any] = ()
    agent: None = None
    results: tuple[Any, ...] = ()
    texts: frozenset[str] = frozenset()
    steps: dict[str, StepDone | ChildDone] = {}
    answers: dict[str, WaitAnswer] = {}
    waits: dict[str, Wait] = {}
    opened: tuple[Wait, ...] = ()
    waited: tuple[Wait, ...] = ()
    rounds: int = 0
    failed: int = 0
    rest: tuple[float, float] = (0.0, 0.0)
    total_usage: Usage = NOTHING
    returned: StepDone | None = None
    stopping: StopReason | None = None
    stop_detail: str = ""
    error: ErrorInfo | None = None
    finished: RunFinished | None = None

    def next(self) -> Action:
        """Say what the run wants now."""
        if self.stopping is not None:
            return self._stopped(self.stopping)
        if self.returned is not None:
            return Finish(RunFinished("completed", "answer", True, self.returned.result, self.total_usage))
        if self.opened and all(wait.id not in self.answers for wait in self.opened):
            return Waiting(self.opened)
        return Do(BODY, Enter(self.failed + 1))

    def _stopped(self, reason: StopReason) -> Finish:
        status: RunStatus = "failed" if reason == "error" else "completed" if reason == "budget" else "cancelled"
        return Finish(RunFinished(status, reason, usage=self.total_usage, error=self.error))

    def fold(self, record: Record) -> Sequence[AnyEvent]:
        """Take one record of the run."""
        match record.payload:
            case RunStarted() as started:
                self.started = started
            case ChildDone() as done:
                self.steps[record.key or ""] = done
                self.total_usage += done.usage
            case StepDone() as done if record.key == BODY:
                self.returned = done
            case StepDone() as done:
                self.steps[record.key or ""] = done
                if isinstance(done, InferDone):
                    self.total_usage += done.usage
            case WaitOpened() as opened:
                self.opened = opened.waits
                self.waited = () if (record.key or "").startswith(f"{BODY}#retry/") else opened.waits
                self.waits |= {wait.id: wait for wait in opened.waits}
                self.rest = (0.0, 0.0)
                self.rounds += 1
            case Answered() as answered:
                self.answers.setdefault(answered.wait_id, answered.answer)
            case AttemptFailed() as failure if failure.step == BODY:
                self.failed = failure.attempt
                self.rest = (failure.wait, record.created_at + failure.wait)
            case AttemptLost() as lost:
                self.total_usage += lost.usage
            case StepFailed() as failure:
                self.stopping = self.stopping or "error"
                self.error = self.error or failure.error
            case CancelAsked() as asked:
                self.stopping, self.stop_detail = asked.reason, asked.detail
            case RunFinished() as finished:
                self.finished = finished
            case Forked():  # neither what the other run waited for nor what has stopped it is carried over
                self.opened = self.waited = ()
                self.rest = (0.0, 0.0)
                self.stopping, self.stop_detail, self.error = None, "", None
            case _:
                pass
        return ()
