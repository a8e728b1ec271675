"""`perdure worker`: a process that drives what others have left or queued, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from perdure.agents.definition import Definition
from perdure.cli.paint import Painter
from perdure.cli.store import WrongUsage, guarded, store_url
from perdure.runtime.runtime import Runtime


def run_worker(given: argparse.Namespace) -> int:
    """Drive runs until SIGTERM or SIGINT; what is then under way is left for others. A second one ends it at once."""
    painter = Painter()
    return guarded(painter, lambda: _work(painter, *_runtime(given, load(given.app))))


async def _work(painter: Painter, runtime: Runtime, names: str) -> int:
    stop = asyncio.Event()
    asked: list[str] = []

    def end(sent: signal.Signals) -> None:
        if asked:  # something does not heed that it is cancelled; what is kept is kept
            signal.signal(sent, signal.SIG_DFL)
            os.kill(os.getpid(), sent)
        asked.append(sent.name)
        stop.set()

    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, end, one)
    telling = _Telling(painter)
    log = logging.getLogger("perdure")
    level = log.level
    log.addHandler(telling)
    log.setLevel(logging.INFO)
    try:
        async with runtime:
            painter.line(
                f"Working on {runtime.db.url} for {names}. Ctrl-C or SIGTERM ends this; runs are left for others."
            )
            painter.end()
            await stop.wait()
            driven = runtime.live()
            left = f"; left for others: {', '.join(sorted(driven))}" if driven else ""
            painter.line(f"{asked[0]}: ending{left}. Once more ends it at once.")
            painter.end()
    finally:
        log.removeHandler(telling)
        log.setLevel(level)
    return 0


class _Telling(logging.Handler):
    """Shows what the runtime says."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self._painter = painter

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else ""
        self._painter.line(record.getMessage(), style)
        self._painter.end()


def _runtime(given: argparse.Namespace, app: Any) -> tuple[Runtime, str]:
    if isinstance(app, Runtime):
        if given.store or given.take_over:
            raise WrongUsage(
                f"{given.app} is a Runtime, which has its own store; --store and --take-over are for definitions."
            )
        return app, "its definitions"
    definitions: Sequence[Any] = cast("Sequence[Any]", app) if isinstance(app, (list, tuple)) else [app]
    if not definitions or not all(isinstance(one, Definition) for one in definitions):
        raise WrongUsage(
            f"{given.app} is {app!r}; name an agent, a network, a function, a list of them, or a Runtime, such as "
            "desk:runtime."
        )
    runtime = Runtime(store_url(given), definitions, take_over=given.take_over)
    return runtime, ", ".join(one.name for one in definitions)


def load(name: str) -> Any:
    """Import `module:attribute`, also from the folder where the command was given.

    Called where no event loop runs: the module may run one of its own.

    Raises:
        WrongUsage: there is no such thing, or its code has failed.
    """
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise WrongUsage(f"--app {name!r} is not module:attribute, such as desk:runtime.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(f"{module} cannot be imported", error) from None
        raise WrongUsage(f"There is no module {error.name!r}; looked in {here} and where Python looks.") from None
    except (Exception, SystemExit) as error:
        raise _failed(f"{module} cannot be imported", error) from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise WrongUsage(f"{module} has no {path!r}.")
        found = getattr(found, part)
    if callable(found) and not isinstance(found, (Runtime, Definition)):
        try:
            return cast("Callable[[], Any]", found)()
        except (Exception, SystemExit) as error:
            raise _failed(f"{name} cannot be called", error) from None
    return found


def _failed(what: str, error: BaseException) -> WrongUsage:
    """Say how a user's code has failed: with its own lines, and none of ours or of the import machinery."""
    trace = traceback.TracebackException.from_exception(error)
    trace.stack = traceback.StackSummary.from_list([one for one in trace.stack if _is_theirs(one.filename)])
    return WrongUsage(f"{what}:\n{''.join(trace.format()).rstrip()}")


def _is_theirs(file: str) -> bool:
    return not file.startswith("<frozen ") and Path(file) not in (Path(__file__), Path(importlib.__file__))
