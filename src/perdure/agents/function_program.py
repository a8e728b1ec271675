"""Performs a function's body: enters it, and makes of its end a result, a wait, another attempt or a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from perdure.agents.context import Context
from perdure.agents.env import Env
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.signature import ArgumentsInvalid
from perdure.durable.endings import describe
from perdure.durable.function import BODY, Enter, FunctionLoop
from perdure.durable.program import Do, Keep
from perdure.durable.retry import FUNCTION_BACKOFF
from perdure.durable.run_io import RunIO
from perdure.durable.step import Suspended, changed
from perdure.types import errors
from perdure.types.base import plain
from perdure.types.events import StepStarted
from perdure.types.ids import derive_id
from perdure.types.records import AttemptFailed, StepDone, WaitOpened
from perdure.types.waits import Timer, wait_id

LONG = 10.0
"""Seconds of rest before another attempt from which on the run waits by its row in the store, and no task sleeps."""

_FOR_GOOD = (
    errors.NonRetriable,
    errors.StepError,  # its record would answer the next attempt in the same way
    errors.RunError,
    errors.Unserialisable,
    ArgumentsInvalid,
    errors.DefinitionError,
    errors.AmbiguousStep,
    errors.StepOutsideSteps,
    errors.Conflict,
    errors.NeedsRuntime,
    errors.UnknownName,
)
"""What another attempt would only meet again."""


class FunctionProgram:
    """One run of a function."""

    __slots__ = ("env",)

    def __init__(self, env: Env) -> None:
        self.env = env

    def start(self) -> FunctionLoop:
        """Make the state before any record."""
        return FunctionLoop()

    fold = staticmethod(FunctionLoop.fold)
    next = staticmethod(FunctionLoop.next)

    async def perform(self, state: FunctionLoop, do: Do, io: RunIO) -> StepDone | Keep:
        """Enter the body, again after failures that may pass."""
        env, definition = self.env, cast("FunctionDefinition", self.env.definition)
        assert state.started is not None and isinstance(do.what, Enter)
        if io.projector is not None and not state.failed and not state.rounds:
            at: dict[str, Any] = {"run_id": env.run_id, "session_id": env.session_id, "step": do.key}
            io.emit([StepStarted(name=definition.name, **at)])
        attempt = do.what.attempt
        await self._rest(state, io)
        while True:
            ctx: Context[Any] = Context(env, io, do.key, None, state.doc)
            await io.sure()
            try:
                try:
                    value = await definition.enter(ctx, state.started.input)
                finally:
                    ctx.check_suspended()  # a body that waits has no end yet, whatever its code makes of being ended
                left_out = ctx.left_out(state.waited) if io.tried.before_us or state.waited else ""
                if left_out:
                    raise changed(
                        f"the function {definition.name!r} has ended and did not ask for {left_out}, which it had "
                        "done, begun or waited for before"
                    )
                return StepDone(definition.name, plain(value, f"result of the function {definition.name!r}"))
            except Suspended as suspended:
                return Keep(f"{BODY}#wait/{state.rounds}", WaitOpened("", suspended.waits))
            except Exception as error:
                if isinstance(error, _FOR_GOOD) or attempt > definition.retries:
                    error.add_note(f"run {env.run_id}, function {definition.name!r}, attempt {attempt}")
                    raise
                wait = self._wait(attempt, error, io.kernel.clock.now)
                if io.kernel.durable and wait > LONG:
                    return self._retry_later(io, attempt, error, wait)
                await io.attempt_failed(BODY, attempt, error, wait)
                attempt += 1

    async def _rest(self, state: FunctionLoop, io: RunIO) -> None:
        """Let pass what is left of the rest that another owner had begun."""
        wait, until = state.rest
        left = min(wait, until - io.kernel.clock.now())  # a clock that was set back is not waited for
        if left > 0:
            await io.kernel.clock.sleep(left)

    def _wait(self, attempt: int, error: Exception, now: Callable[[], float]) -> float:
        if isinstance(error, errors.RetryAfter):
            return error.seconds(now())
        jitter = int(derive_id("retry", self.env.run_id, str(attempt))[-8:], 16) / 2**32  # the same for every owner
        return FUNCTION_BACKOFF.wait(attempt, jitter=jitter)

    def _retry_later(self, io: RunIO, attempt: int, error: Exception, wait: float) -> Keep:
        """Wait for the next attempt as a run that waits for anything else."""
        record = io.note(None, AttemptFailed(BODY, attempt, describe(error), wait))
        if io.projector is not None:
            io.emit(io.projector.record(record))
        place = f"{BODY}#retry/{attempt}"
        run_id = self.env.run_id
        return Keep(place, WaitOpened("", (Timer(wait_id(run_id, place), run_id, io.kernel.store_now() + wait),)))
