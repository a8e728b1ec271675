"""The four doors of every definition: `run`, `start`, `stream`, `run_sync`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perdure.agents.outcome import RunResult, raise_for
from perdure.types.errors import DefinitionError
from perdure.types.messages import Input

if TYPE_CHECKING:
    from perdure.agents.handle import Run
    from perdure.agents.stream import RunStream


async def run(definition: Any, input: Input, options: Mapping[str, Any]) -> RunResult[Any, Any]:
    """Run a definition to its end, or until it waits."""
    from perdure.agents.running import Running

    running = Running(definition, input, options)
    result = await running.drive()
    if result.status != "completed":
        raise_for(result, definition.name, running.cause, running.loop.error)
    return result


def start(definition: Any, input: Input, options: Mapping[str, Any]) -> Run[Any, Any]:
    """Start a run in the background."""
    from perdure.agents.handle import Run
    from perdure.agents.running import Running

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise DefinitionError("start() needs a running event loop; from sync code use run_sync().") from None
    return Run(Running(definition, input, options))


def stream(definition: Any, input: Input, options: Mapping[str, Any]) -> RunStream[Any, Any]:
    """Run a definition and stream its events."""
    from perdure.agents.running import Running
    from perdure.agents.stream import RunStream

    return RunStream(Running(definition, input, options))


def run_sync(definition: Any, input: Input, options: Mapping[str, Any]) -> RunResult[Any, Any]:
    """Run a definition from sync code; where an event loop runs already, in a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(definition, input, options))
    box: list[RunResult[Any, Any]] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            box.append(asyncio.run(run(definition, input, options)))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="perdure-run-sync", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return box[0]
