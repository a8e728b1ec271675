"""The driver, with a program of its own: what it does for any program, whatever its steps are."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from perdure import events as ev
from perdure.durable.drive import drive
from perdure.durable.kernel import Kernel
from perdure.durable.program import Action, Do, Finish, Keep
from perdure.durable.run_io import RunIO
from perdure.log.log import Entry, NewRun, Token
from perdure.log.memory import MemoryLog
from perdure.types.records import CancelAsked, Payload, Record, RunFinished, RunStarted, StepDone, StepFailed

Body = Callable[["Io"], Awaitable[Any]]
Io = RunIO


class Steps:
    """A program that runs some steps at once and then ends; its state is the list of what it was told."""

    def __init__(self, **bodies: Body) -> None:
        self.bodies = bodies

    def start(self) -> list[Payload]:
        return []

    def fold(self, state: list[Payload], record: Record) -> Sequence[ev.AnyEvent]:
        state.append(record.payload)
        return ()

    def next(self, state: list[Payload]) -> Action:
        done = {one.name for one in state if isinstance(one, StepDone)}
        left = [name for name in self.bodies if name not in done]
        stop = next((one for one in state if isinstance(one, CancelAsked)), None)
        failed = any(isinstance(one, StepFailed) for one in state)
        if left and (stop is not None or failed):
            return Keep(left[0], StepDone(left[0], "cut off"))
        if left:
            return [Do(name, name) for name in left]
        if stop is not None:
            return Finish(RunFinished("cancelled", stop.reason))
        return Finish(RunFinished("failed", "error") if failed else RunFinished("completed", "answer"))

    async def perform(self, state: list[Payload], do: Do, io: RunIO) -> Payload | Keep:
        try:
            return StepDone(do.what, await self.bodies[do.what](io))
        except asyncio.CancelledError:
            if not io.interrupted():
                raise
            return StepDone(do.what, "interrupted")


async def begun(kernel: Kernel) -> RunIO:
    started = RunStarted("P", "agent", ())
    accepted = await kernel.log.accept(NewRun("run_1", "session_1", "P"), started)
    assert accepted.token is not None
    return RunIO(kernel, accepted.token, None, accepted.head)


async def finished(program: Steps, io: RunIO) -> dict[str, Any]:
    """Drive to the end; give what the log has: results by step, and how the run ended."""
    await drive(program, program.start(), io)
    return await kept(io)


async def kept(io: RunIO) -> dict[str, Any]:
    records = [one.payload for one in await io.kernel.log.read_run("run_1")]
    found: dict[str, Any] = {one.name: one.result for one in records if isinstance(one, StepDone)}
    (end,) = (one for one in records if isinstance(one, RunFinished))
    assert records[-1] is end
    return {**found, "end": (end.status, end.stop_reason)}


def returns(value: Any) -> Body:
    async def body(io: RunIO) -> Any:
        await asyncio.sleep(0)
        return value

    return body


async def test_steps_run_at_once_and_all_are_kept():
    both = asyncio.Barrier(2)

    async def meets(io: RunIO) -> str:
        await both.wait()
        return "met"

    assert await finished(Steps(a=meets, b=meets), await begun(Kernel())) == {
        "a": "met",
        "b": "met",
        "end": ("completed", "answer"),
    }


async def test_the_first_reason_to_stop_counts():
    async def body(io: RunIO) -> str:
        io.ask_stop("deadline", "after 5 s")
        io.ask_stop("cancelled")
        await asyncio.get_running_loop().create_future()
        return "never"

    io = await begun(Kernel())
    assert await finished(Steps(a=body), io) == {"a": "interrupted", "end": ("cancelled", "deadline")}
    assert io.stop_detail == "after 5 s"


@pytest.mark.parametrize("late", [False, True])
async def test_a_stop_and_a_cancelled_task_are_both_heard(late: bool):
    async def body(io: RunIO) -> None:
        io.ask_stop("deadline")
        try:
            if not late:
                driving.cancel()
            await asyncio.get_running_loop().create_future()
        finally:
            if late:  # while the step cleans up, and the driver waits for it
                driving.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)

    io = await begun(Kernel())
    driving = asyncio.create_task(finished(Steps(a=body, b=returns(1)), io))
    with pytest.raises(asyncio.CancelledError):
        await driving
    assert (await kept(io))["end"] == ("cancelled", "deadline"), "the first reason counts, and the task is cancelled"


async def test_a_stop_while_the_log_writes_is_heard_after_it():
    class Slow(MemoryLog):
        async def append(self, token: Token, entries: Sequence[Entry], *more: Any, **options: Any) -> int:
            await asyncio.sleep(0)
            if any(isinstance(one.payload, StepDone) and one.payload.name == "a" for one in entries):
                io.ask_stop("cancelled")
            await asyncio.sleep(0)
            return await super().append(token, entries, *more, **options)

    async def hangs(io: RunIO) -> None:
        await asyncio.get_running_loop().create_future()

    io = await begun(Kernel(Slow()))
    async with asyncio.timeout(60):
        ended = await finished(Steps(a=returns(1), b=hangs), io)
    assert ended == {"a": 1, "b": "interrupted", "end": ("cancelled", "cancelled")}


async def test_a_stop_before_the_first_step_enters_none():
    entered: list[str] = []

    async def body(io: RunIO) -> None:
        entered.append("a")

    io = await begun(Kernel())
    io.ask_stop("cancelled")
    assert await finished(Steps(a=body), io) == {"a": "cut off", "end": ("cancelled", "cancelled")}
    assert entered == []


async def test_a_step_that_fails_lets_the_others_finish_and_is_the_cause():
    gate = asyncio.Event()

    async def breaks(io: RunIO) -> None:
        gate.set()
        raise ValueError("no")

    async def works(io: RunIO) -> str:
        await gate.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        return "done"

    io = await begun(Kernel())
    assert await finished(Steps(a=breaks, b=works), io) == {
        "a": "cut off",
        "b": "done",
        "end": ("failed", "error"),
    }
    assert isinstance(io.cause, ValueError)
    failed = [one.payload for one in await io.kernel.log.read_run("run_1") if isinstance(one.payload, StepFailed)]
    assert [(one.step, one.error.type, one.error.where) for one in failed] == [("a", "ValueError", "a")]


async def test_a_step_that_is_not_alone_and_cancels_itself_has_failed():
    async def gives_up(io: RunIO) -> None:
        raise asyncio.CancelledError

    async with asyncio.timeout(30):
        ended = await finished(Steps(a=gives_up, b=returns(1)), await begun(Kernel()))
    assert ended == {"a": "cut off", "b": 1, "end": ("failed", "error")}


async def test_a_stop_is_never_delivered_to_the_closing_of_the_run():
    """A stop that is asked for in the last moment of a step is met by no step: it must not hit an append."""

    async def body(io: RunIO) -> str:
        io.ask_stop("cancelled")
        return "done"

    io = await begun(Kernel())
    assert await finished(Steps(a=body), io) == {"a": "done", "end": ("cancelled", "cancelled")}
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_cancelled_task_closes_its_run_and_is_cancelled():
    entered = asyncio.Event()

    async def body(io: RunIO) -> None:
        entered.set()
        await asyncio.get_running_loop().create_future()

    io = await begun(Kernel())
    task = asyncio.create_task(finished(Steps(a=body, b=returns(1)), io))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert (await kept(io))["end"] == ("cancelled", "cancelled")


async def test_records_are_committed_before_the_next_effect():
    async def look(io: RunIO) -> list[str]:
        return [one.kind for one in await io.kernel.log.read_run("run_1")]

    class InTurn(Steps):
        def next(self, state: list[Payload]) -> Action:
            action = super().next(state)
            return action[0] if isinstance(action, list) else action

    ended = await finished(InTurn(a=look, b=look, c=look), await begun(Kernel()))
    assert (ended["a"], ended["b"], ended["c"]) == (
        ["run_started"],
        ["run_started", "step"],
        ["run_started", "step", "step"],
    )


async def test_an_attempt_that_failed_is_committed_before_the_wait():
    seen: list[list[str]] = []

    class Clock:
        def now(self) -> float:
            return 5.0

        def monotonic(self) -> float:
            return 5.0

        async def sleep(self, seconds: float) -> None:
            seen.append([one.kind for one in await io.kernel.log.read_run("run_1")])
            assert seconds == 1.5

    async def body(io: RunIO) -> str:
        await io.attempt_failed("a", 1, ValueError("no"), 1.5)
        return "done"

    io = await begun(Kernel(clock=Clock()))
    await finished(Steps(a=body), io)
    assert seen == [["run_started", "attempt"]]
    assert {one.created_at for one in await io.kernel.log.read_run("run_1")} == {5.0}


async def test_a_run_that_is_over_is_not_held_by_its_deadline():
    async def over() -> weakref.ref[Steps]:
        io = await begun(Kernel())
        io.stop_at(asyncio.get_running_loop().time() + 3600, "deadline", "after an hour")
        program = Steps(a=returns(1))
        await finished(program, io)
        return weakref.ref(program)

    held = await over()
    gc.collect()
    assert held() is None
