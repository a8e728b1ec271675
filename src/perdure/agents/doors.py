"""The four doors of every definition: `run`, `start`, `stream`, `run_sync`.

Definitions know the doors, not what is behind them: what runs, and asyncio, are loaded when the first one is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from perdure.agents.runnable import Runnable
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from typing_extensions import Unpack

    from perdure.agents.handle import Run
    from perdure.agents.options import RunOptions
    from perdure.agents.outcome import RunResult
    from perdure.agents.running import Running
    from perdure.agents.stream import RunStream
    from perdure.types.messages import Input

Out_co = TypeVar("Out_co", covariant=True, default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)
O = TypeVar("O")  # noqa: E741  # the output, in signatures only
S = TypeVar("S")


class Doors(Runnable[Out_co], Generic[Out_co, S_contra]):
    """The doors of agents and networks."""

    __slots__ = ()

    async def run(self: Doors[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunResult[O, S]:
        """Run it until it has answered, its router ends it, or it waits for somebody outside.

        Raises:
            RunFailed: the run failed; it carries what was reached.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await run(self, input, options)

    def start(self: Doors[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> Run[O, S]:
        """Start a run in the background and return its handle; needs a running event loop."""
        return start(self, input, options)

    def stream(self: Doors[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunStream[O, S]:
        """Run it and stream its events; use it with `async with`."""
        return stream(self, input, options)

    def run_sync(self: Doors[O, S], input: Input = None, **options: Unpack[RunOptions[S]]) -> RunResult[O, S]:
        """Run it from sync code, also inside a notebook."""
        return run_sync(self, input, options)


@cache
def _running() -> type[Running]:
    from perdure.agents.running import Running

    return Running


async def run(definition: Any, input: Any, options: Mapping[str, Any]) -> RunResult[Any, Any]:
    """Run a definition to its end, or until it waits."""
    running = _running()(definition, input, options)
    result = await running.drive()
    if result.status != "completed":
        from perdure.agents.outcome import raise_for

        raise_for(result, definition.name, running.cause, running.loop.error)
    return result


def start(definition: Any, input: Any, options: Mapping[str, Any]) -> Run[Any, Any]:
    """Start a run in the background."""
    import asyncio

    from perdure.agents.handle import Run

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise DefinitionError("start() needs a running event loop; from sync code use run_sync().") from None
    return Run(_running()(definition, input, options))


def stream(definition: Any, input: Any, options: Mapping[str, Any]) -> RunStream[Any, Any]:
    """Run a definition and stream its events."""
    from perdure.agents.stream import RunStream

    return RunStream(_running()(definition, input, options))


def run_sync(definition: Any, input: Any, options: Mapping[str, Any]) -> RunResult[Any, Any]:
    """Run a definition from sync code; where an event loop runs already, in a thread with a loop of its own."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(definition, input, options))
    import contextvars
    import threading
    from concurrent.futures import Future
    from contextlib import suppress

    ended: Future[RunResult[Any, Any]] = Future()
    tasks: list[asyncio.Task[Any] | None] = []
    unwanted = threading.Event()

    async def whole() -> RunResult[Any, Any]:
        tasks.append(asyncio.current_task())
        if unwanted.is_set():
            raise asyncio.CancelledError
        return await run(definition, input, options)

    def work() -> None:
        try:
            ended.set_result(asyncio.run(whole()))
        except BaseException as error:
            ended.set_exception(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="perdure-run-sync", daemon=True)
    try:
        thread.start()
        return ended.result()
    except BaseException:
        if not ended.done():  # somebody interrupts the wait, and the run must not go on unseen
            unwanted.set()
            for task in tasks:
                if task is not None:
                    with suppress(RuntimeError):  # its loop is closed: it has ended just now
                        task.get_loop().call_soon_threadsafe(task.cancel)
            if thread.is_alive():
                ended.exception()
        raise
