"""How code of a user's is done according to its declared effect: tried again, never again, or undone.

`pure` and `idempotent` steps are called again after a failure or a crash. The start of a `once` step is recorded before
it is called; whatever it ends with closes it, and one that was begun and never ended is in doubt: it is undone if it
can be, or a person is asked, or the body is told by an exception, which is the same whenever the body is entered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from perdure.durable.endings import Parked, describe
from perdure.durable.retry import TOOL_BACKOFF
from perdure.durable.run_io import RunIO
from perdure.types.base import plain
from perdure.types.errors import ModelRetry, NotDone, StepError, StepInDoubt, StepUndone, Unserialisable
from perdure.types.records import ErrorInfo, Started, StepDone
from perdure.types.waits import HAPPENED, REPEAT

StepEffect: TypeAlias = Literal["pure", "idempotent", "once"]
UNDO_ATTEMPTS = 4
"""How often something is undone that cannot be undone, before the run is parked."""


async def perform(
    io: RunIO,
    key: str,
    closing: StepDone,
    work: Callable[[], Awaitable[Any]],
    *,
    effect: StepEffect,
    retries: int,
    undo: Callable[[], Awaitable[Any]] | None,
    ask: Callable[[int], Awaitable[str]] | None = None,
) -> Any:
    """Do a step that has no record yet, and keep how it ended.

    Args:
        io: the run's way to the log.
        key: the step's place.
        closing: the record that closes it, without its result.
        work: calls the user's function.
        effect: what a repetition would do.
        retries: how often a failed call is tried again; for `once` only after `NotDone`.
        undo: takes back what a call that is in doubt may have done.
        ask: asks a person about a call that is in doubt; it is given how often the call was begun.

    Raises:
        StepError: a `once` step has failed, or is in doubt.
        Exception: what another one raised.
    """
    once = effect == "once"
    if once and key in io.tried.open:
        said = None if ask is None else await ask(io.tried.begun[key])
        if said == HAPPENED:
            await io.keep(key, closing)
            return None
        if said != REPEAT:
            raise raised(closing.name, await _in_doubt(io, key, closing, undo))
    attempt = await io.tried.before(key, io.kernel.clock)
    while True:
        attempt += 1
        if once:
            await io.keep(None, Started(key, arguments=closing.arguments))
        await io.sure()
        try:
            result = plain(await _call(io, key, closing.name, effect, work), f"result of the step {closing.name!r}")
        except Exception as error:
            if attempt <= retries and _may_repeat(error, once=once):
                await io.attempt_failed(key, attempt, error, TOOL_BACKOFF.wait(attempt))
                continue
            if not once:
                raise
            failed = StepDone(closing.name, None, closing.arguments, describe(error))
            await io.keep(key, failed)
            if isinstance(error, (ModelRetry, Unserialisable)):
                raise
            raise raised(closing.name, failed.error) from error
        await io.keep(key, StepDone(closing.name, result, closing.arguments))
        return result


async def _call(io: RunIO, key: str, name: str, effect: str, work: Callable[[], Awaitable[Any]]) -> Any:
    witness, run_id = io.kernel.witness, io.token.run_id
    if witness is None:
        return await work()
    await witness.entering(run_id, key, name, effect, key)
    value = await work()
    await witness.left(run_id, key)
    return value


def _may_repeat(error: Exception, *, once: bool) -> bool:
    return isinstance(error, NotDone) if once else not isinstance(error, (ModelRetry, Unserialisable))


async def _in_doubt(io: RunIO, key: str, closing: StepDone, undo: Callable[[], Awaitable[Any]] | None) -> ErrorInfo:
    """Close a step that was begun and never ended."""
    if undo is not None:
        await take_back(io, key, closing.name, undo)
    error = ErrorInfo("StepInDoubt" if undo is None else "StepUndone", "")
    await io.keep(key, StepDone(closing.name, None, closing.arguments, error))
    return error


def raised(name: str, error: ErrorInfo | None) -> Exception:
    """The exception that a body meets for a step that is closed with an error."""
    assert error is not None
    what = f"The step {name!r}"
    if error.type == "ModelRetry":
        return ModelRetry(error.message)
    if error.type == "StepInDoubt":
        return StepInDoubt(
            f"{what} was begun before and never ended, so whether it took effect is unknown, and it is not done again. "
            "Find out, or give the step undo=…, or effect='idempotent' if it may be repeated.",
            error.type,
        )
    if error.type == "StepUndone":
        return StepUndone(
            f"{what} was begun before and never ended; what it may have done has been undone.", error.type
        )
    return StepError(f"{what} failed with {error.type}: {error.message}", error.type)


async def take_back(io: RunIO, key: str, name: str, undo: Callable[[], Awaitable[Any]]) -> None:
    """Undo what may have been done, as a step of its own; it is repeated until it has succeeded once.

    Raises:
        Parked: it cannot be undone.
    """
    place = f"{key}#undo"
    if place in io.tried.undone:
        return
    attempt = await io.tried.before(place, io.kernel.clock)
    while True:
        attempt += 1
        try:
            await undo()
            break
        except Exception as error:
            if attempt >= UNDO_ATTEMPTS:
                raise Parked(
                    f"{name!r} was begun before a crash and never ended, and undoing it failed {attempt} times, at "
                    f"last with {type(error).__name__}: {error}"
                ) from error
            await io.attempt_failed(place, attempt, error, TOOL_BACKOFF.wait(attempt))
    await io.keep(place, StepDone("undo"))
