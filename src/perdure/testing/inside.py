"""What the code of a step finds of the steps inside it when its run is followed again, and what it may not do.

Finished steps are answered from the recording, in the order in which they ended; what would be done for real is a
difference, and is not done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import msgspec

from perdure.agents.env import Env
from perdure.agents.steps import Invocation
from perdure.durable.function import BODY
from perdure.durable.kernel import Kernel
from perdure.durable.run_io import RunIO
from perdure.durable.tried import Tried
from perdure.log.log import Token
from perdure.testing.compare import Difference
from perdure.testing.recordings import RecordedRun, Recording
from perdure.testing.stage import AnyHash, Step, current, differ, error_info, failure, inner_name
from perdure.types.errors import NonRetriable
from perdure.types.ids import derive_id
from perdure.types.records import (
    Answered,
    AttemptFailed,
    AttemptLost,
    ChildDone,
    ErrorInfo,
    Payload,
    Record,
    Started,
    StepDone,
    StepFailed,
    ToolDone,
    WaitOpened,
)
from perdure.types.waits import ChildRun, Timer, Wait, WaitAnswer, wait_id

INNER = (StepDone, ChildDone)
invoking: ContextVar[Invocation | None] = ContextVar("perdure_replayed_invocation", default=None)


class Failed(BaseException):
    """Ends a body where an attempt of a function has failed; the next one is another entry."""

    def __init__(self, payload: AttemptFailed) -> None:
        super().__init__()
        self.payload = payload


class EntryIO(RunIO):
    """A run's way to a log where nothing is kept: an attempt of a function ends where it fails."""

    __slots__ = ()

    def __init__(self, kernel: Kernel, token: Token) -> None:
        super().__init__(kernel, token)
        self.tried = _Known()

    async def attempt_failed(self, step: str, attempt: int, error: Exception, wait: float) -> None:
        """Note that an attempt failed."""
        self._over(AttemptFailed(step, attempt, ErrorInfo(type(error).__name__, str(error)), wait))
        await super().attempt_failed(step, attempt, error, wait)

    def note(self, key: str | None, payload: Payload, sends: Any = ()) -> Record:
        """Hold a record back."""
        self._over(payload)
        return super().note(key, payload, sends)

    def _over(self, payload: Payload) -> None:
        if isinstance(payload, AttemptFailed) and payload.step == BODY:
            raise Failed(payload)


class _Known(Tried):
    """What a run had tried: nothing is waited for, and nothing undone."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.undone = _All()

    def __bool__(self) -> bool:
        return False


class _All(set[str]):
    def __contains__(self, _: object) -> bool:
        return True


class Inside:
    """Stands in for the steps inside of a run's steps.

    Args:
        whole: the recording.
        run: the run's part of it.
        env: the run's live side.
        patience: seconds that a step's own code may take.
        invoked: is told of runs that a step has invoked: its place, what it asked for, the recorded run.
    """

    def __init__(
        self,
        whole: Recording,
        run: RecordedRun,
        env: Env,
        patience: float,
        invoked: Callable[[str, Invocation, RecordedRun], None],
    ) -> None:
        self.whole = whole
        self.run = run
        self.env = env
        self.patience = patience
        self.invoked = invoked
        self.io: RunIO
        self._known = {
            one.key: one
            for one in run.records
            if one.key is not None and one.key != BODY and isinstance(one.payload, INNER)
        }
        self._renamed: dict[str, str] = {}

    def below(self, place: str, before: int, since: int = 0) -> list[Record]:
        """The inner steps of a step's own code that were recorded in between."""
        found: list[Record] = []
        for key, record in self._known.items():
            rest = key.removeprefix(f"{place}/")
            apart = rest.startswith(("infer/", "tool/")) or "#undo" in rest or "#try/" in rest
            if rest != key and since <= record.seq < before and not apart:
                found.append(record)
        return found

    # -- what a body asks for ----------------------------------------------------------------------------------------

    def done(self, key: str) -> StepDone | ChildDone | None:
        """What an inner step of the current step's code had given; None if it waits, or its run goes on."""
        step, what = current.get(), invoking.get()
        invoking.set(None)
        key = self._place(step, key)
        record = self._known.get(key)
        payload: Any = record.payload if record is not None and record.seq < step.closing.seq else None
        begun = payload.run_id if isinstance(payload, ChildDone) else derive_id("run", self.env.run_id, key)
        child = self.whole.find(begun)
        if what is not None and child is not None:
            self.invoked(key, what, child)
        runs = key.rpartition("/")[2].startswith("run:")  # whoever begins it says whether it was recorded
        if payload is None and (runs or child is not None or self._awaits(step, key)):
            return None
        if payload is None:
            raise self._unknown(step, key)
        step.give(key)
        if self.whole.redacted:  # the hash is of what was there before
            return msgspec.structs.replace(payload, arguments=AnyHash(payload.arguments))
        return payload

    def _place(self, step: Step, key: str) -> str:
        """The recorded place of a child run, if it was made of what is redacted now."""
        head, colon, _ = key.rpartition(":")
        if not self.whole.redacted or key in self._known or f"{step.do.key}/run:" not in head:
            return key
        if key not in self._renamed:
            places = [one.parent_key or "" for one in self.whole.runs]
            taken = self._renamed.values()
            fits = (one for one in places if one.startswith(head + colon) and one not in taken)
            self._renamed[key] = next(fits, key)
        return self._renamed[key]

    def child(self, key: str, run_id: str) -> RecordedRun | None:
        """The recorded run that a step's code begins."""
        place = self._renamed.get(key)
        found = self.whole.find(run_id)
        named = (one for one in self.whole.runs if one.parent_key == place)
        return found if found is not None or place is None else next(named, None)

    def _awaits(self, step: Step, key: str) -> bool:
        """Whether a step without a record is what was waited for."""
        payload, run_id = step.closing.payload, self.env.run_id
        if not isinstance(payload, WaitOpened):
            return False
        marks = {wait_id(run_id, one) for one in (key, f"{key}#doubt{self.io.tried.begun.get(key)}")}
        return any(one.id in marks for one in payload.waits)

    def _unknown(self, step: Step, key: str) -> BaseException:
        below = [one for one in self.below(step.do.key, step.closing.seq) if one.key not in step.asked]
        known = ", ".join(inner_name(one.payload) for one in below) or "no further step"
        what = "the code asks for a step that was not recorded."
        difference = Difference(self.run.id, key, what, known, key.removeprefix(f"{step.do.key}/"))
        error = _failed(step.closing.payload)
        if error is None:
            return differ(step, difference)
        # a step that may be done again leaves no record when it fails: it is taken to have failed like its body
        step.unknown = difference
        return failure(error, NonRetriable if isinstance(step.closing.payload, StepFailed) else Exception)

    def answer(self, step: Step, id: str) -> WaitAnswer | None:
        """How a wait of a step's code had been answered by then, if it had."""
        payload = step.closing.payload
        if isinstance(payload, WaitOpened) and any(one.id == id for one in payload.waits):
            return None
        for record in self.run.records:
            answered = record.payload
            if record.seq < step.closing.seq and isinstance(answered, Answered) and answered.wait_id == id:
                return answered.answer
        return None

    def wait(self, id: str) -> Wait | None:
        """A wait as it was recorded, where it is a moment that depends on when it began, or a run that has begun."""
        for record in self.run.records:
            if isinstance(record.payload, WaitOpened):
                for one in record.payload.waits:
                    if one.id == id and isinstance(one, (Timer, ChildRun)):
                        return one
        return None

    # -- what steps would do -----------------------------------------------------------------------------------------

    def model(self, run_id: str, key: str, model: Any) -> Any:
        """Let a model be asked where the run asks it, and by no step inside."""
        self._refuse(key, "asks the model")
        return model

    async def asked(self, io: Any, key: str, closing: Any) -> None:
        """Let a body have what a step gave when all that had ended before it has been asked for."""
        step, record = current.get(), self._known.get(key)
        if record is None:
            if self._cut_off(step, key):
                await asyncio.get_running_loop().create_future()  # it never ended
            return
        if step.left is None:
            step.left = deque(self.below(step.do.key, step.closing.seq, step.since))
        while (first := step.next) is not None and first.seq < record.seq:
            if not await step.more(self.patience):
                what = "the code asks for its steps in another order."
                raise differ(
                    step, Difference(self.run.id, key, what, inner_name(first.payload), inner_name(record.payload))
                )

    def _cut_off(self, step: Step, key: str) -> bool:
        """Whether a step was begun that its body did not wait for."""
        for record in self.run.records:
            payload, meanwhile = record.payload, step.since <= record.seq < step.closing.seq
            if meanwhile and isinstance(payload, (Started, AttemptLost)) and payload.step.split("#")[0] == key:
                return True
        return False

    async def entering(self, run_id: str, key: str, name: str, effect: str, mark: str) -> None:
        """Let a step's own code be entered, and nothing else."""
        self._refuse(key, f"calls {name} ({effect})")

    def _refuse(self, key: str, now: str) -> None:
        step = current.get()
        if key != step.do.key:
            raise differ(step, Difference(self.run.id, key, "the step would be done again.", "it was open", now))

    async def left(self, run_id: str, key: str) -> None:
        """Nothing is noted."""

    # -- runs that are invoked ---------------------------------------------------------------------------------------

    def check(self, definition: Any) -> None:
        """What was begun then could be found."""

    async def begin(self, running: Any) -> None:
        """Nobody drives it: it is followed when the one that has invoked it has been."""

    async def cancel(self, run_id: str) -> None:
        """It has ended."""


def _failed(payload: Payload) -> ErrorInfo | None:
    """The error that ended a body, if one did."""
    if isinstance(payload, (AttemptFailed, StepFailed)):
        return payload.error
    return error_info(payload) if isinstance(payload, ToolDone) and payload.outcome == "error" else None
