"""`perdure runs replay`: does the code still do what a stored run did, and writing that down as a test."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from perdure.agents.definition import Definition
from perdure.cli.paint import Painter
from perdure.cli.store import WrongUsage, find_run, guarded, in_store
from perdure.cli.worker import load
from perdure.runtime.runtime import Runtime
from perdure.testing.exports import export_test
from perdure.testing.recordings import Recording, recorded, recording
from perdure.testing.redact import EMAILS, Redact
from perdure.testing.replays import replay


def replay_run(given: argparse.Namespace) -> int:
    """Replay a run of a store, or a recording that was exported."""
    file, painter = Path(given.run), Painter()

    def begin() -> Coroutine[Any, Any, int]:
        rules = [_rule(one) for one in given.redact]
        app = load(given.app)

        async def stored(runtime: Runtime, painter: Painter) -> int:
            container = runtime.container(given.container)
            run = await find_run(container, given.run)
            return _replay(given, painter, app, rules, await recording(container, run.id))

        async def exported() -> int:
            return _replay(given, painter, app, rules, recorded(file))

        return exported() if file.suffix == ".json" or file.is_file() else in_store(given, painter, stored)

    return guarded(painter, begin)


def _replay(given: argparse.Namespace, painter: Painter, app: Any, rules: list[Redact], whole: Recording) -> int:
    if given.export is not None:
        redact = None if given.keep_secrets else rules
        try:
            files = export_test(whole, given.export, given.app, calls=_is_made(given.app), redact=redact)
        except OSError as error:
            raise WrongUsage(f"Nothing can be written to {given.export}: {error.strerror or error}.") from error
        whole = recorded(files[0])
        painter.line(f"Written: {files[0]} and {files[1]}.")
    result = replay(whole, app)
    first, *rest = result.text.split("\n")
    painter.line(first, "green" if result.same else "red")
    for line in rest:
        style = "red" if line.startswith("-") else "green" if line.startswith("+") else ""
        painter.line(line, style)
    return 0 if result.same else 1


def _is_made(name: str) -> bool:
    """Whether what an app's name stands for must be called to be had."""
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return callable(found) and not isinstance(found, (Runtime, Definition))


def _rule(text: str) -> Redact:
    """Read what is to be redacted: a field's name, `/an expression/`, or `emails`."""
    if text == "emails":
        return EMAILS
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        try:
            return re.compile(text[1:-1])
        except re.error as error:
            raise WrongUsage(f"--redact {text}: this is no regular expression ({error}).") from None
    return text
