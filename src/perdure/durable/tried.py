"""What a run has tried before: which steps were begun and never ended, and how often an attempt has failed."""

from __future__ import annotations

from collections.abc import Sequence, Set

from perdure.durable.fingerprint import accepted_places, places_of
from perdure.durable.kernel import Clock
from perdure.types.records import Answered, AttemptFailed, ChildDone, Forked, Record, Started, StepDone
from perdure.types.waits import WaitAnswer, wait_id


class Tried:
    """A run's open starts and failed attempts, folded from its records.

    Attributes:
        open: the places of steps that must not be done again, were begun, and never ended, with their arguments' hash.
        begun: how often each of these was begun.
        undone: the places that were undone.
        accepted: the places whose records are used as they are, though the code has changed since.
        before_us: whether another owner had the run.
        origins: the runs that this one is a continuation of.
    """

    __slots__ = (
        "_attempts",
        "_inherited",
        "_models",
        "_steps",
        "accepted",
        "before_us",
        "begun",
        "open",
        "origins",
        "undone",
    )

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        self.begun: dict[str, int] = {}
        self.accepted: frozenset[str] = frozenset()
        self.before_us = False
        self.undone: set[str] = set()
        self.origins: tuple[str, ...] = ()
        self._inherited: dict[str, WaitAnswer] = {}
        self._attempts: dict[str, tuple[int, float, float]] = {}
        self._models: dict[str, list[str]] = {}
        self._steps: dict[str, set[str]] = {}

    def __bool__(self) -> bool:
        """Whether another owner has seen any attempt fail, or a model of a chain."""
        return bool(self._attempts or self._models)

    def note(self, record: Record) -> None:
        """Take a record that this process has just made."""
        payload = record.payload
        if type(payload) is Started:
            self.open[payload.step] = payload.arguments
            self.begun[payload.step] = self.begun.get(payload.step, 0) + 1
        elif type(payload) is Forked:  # a new run, which has tried nothing
            self.open.clear()
            self.begun.clear()
            self._attempts.clear()
        elif type(payload) is AttemptFailed:
            self.open.pop(payload.step, None)  # only what has certainly not happened is tried again
        elif record.key is not None:
            self.open.pop(record.key, None)
            if record.key.endswith("#undo"):
                self.undone.add(record.key)

    def recall(self, records: Sequence[Record], *, accepts: bool = False) -> None:
        """Take what the log has of a run that another owner had; `accepts` says that all of it is accepted."""
        self.before_us = True
        self.accepted |= places_of(records) if accepts else accepted_places(records)
        answers: dict[str, WaitAnswer] = {}
        steps: set[str] = set()
        for record in records:
            self.note(record)
            payload = record.payload
            if type(payload) is Answered:
                answers.setdefault(payload.wait_id, payload.answer)
            elif type(payload) is Forked:
                self.origins += (payload.origin,)
                self._steps[payload.origin], steps = steps, set()
                answers.clear()  # nothing was done after these, so they are asked for again
            elif record.key is not None:
                self._inherited |= answers
                answers.clear()
                if isinstance(payload, (StepDone, ChildDone)):
                    steps.add(record.key.removesuffix("#undo"))
            if type(payload) is AttemptFailed:
                if payload.model:
                    self._models.setdefault(payload.step, []).append(payload.model)
                else:
                    self._attempts[payload.step] = (payload.attempt, payload.wait, record.created_at + payload.wait)
                    self._models.pop(payload.step, None)  # the next attempt asks all of them again

    def inherited(self, place: str) -> WaitAnswer | None:
        """How a wait was answered in a run that this one goes on from, which has gone on after it."""
        marks = (wait_id(one, place) for one in self.origins)
        return next((self._inherited[one] for one in marks if one in self._inherited), None)

    def drawing(self, run_id: str, body: str, asked: Set[str]) -> str:
        """Say from which run a body draws what follows from a run's id, such as a UUID.

        A continuation is told what its base was told, until it has asked for all that the base had finished, so that it
        asks with the same arguments; what comes then is new, and differs from what the base goes on to do.

        Args:
            run_id: the run.
            body: the body's place.
            asked: the places that it has asked for so far.
        """
        for origin, steps in self._steps.items():
            if any(one.startswith(f"{body}/") and one not in asked for one in steps):
                return origin
        return run_id

    def rest(self, step: str, now: float) -> float:
        """Say how many seconds of a step's last wait are left."""
        _, wait, until = self._attempts.get(step, (0, 0.0, 0.0))
        return max(0.0, min(wait, until - now))  # a clock that was set back is not waited for

    async def before(self, step: str, clock: Clock) -> int:
        """Say how many attempts of a step another owner has seen fail, when the rest of the last wait has passed.

        The next time the step is entered here, it counts from nothing.
        """
        rest = self.rest(step, clock.now())
        if rest:
            await clock.sleep(rest)
        return self._attempts.pop(step, (0,))[0]

    def failed_models(self, step: str) -> Sequence[str]:
        """Say which models of a chain another owner has seen fail in the attempt that it did not finish, in order.

        The next time the step is entered here, it is as if there were none.
        """
        return self._models.pop(step, ())
