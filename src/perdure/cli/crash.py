"""`perdure demo --crash`: a worker is killed in the middle of a run, another one goes on, and both are counted.

Each worker is a process of its own on one SQLite file. It writes down every call of a model or a tool, at once, in a
file beside the store; that file, not the log, is what is counted. The first one is killed with SIGKILL while its model
answers; then the log says what was finished, and nothing of that may be written down by the second one.

As a program, `python -m perdure.cli.crash FOLDER LIBRARY NUMBER QUESTION` is such a worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perdure.agents.context import Context
from perdure.agents.hooks import Hooks
from perdure.cli.demo import library_desk
from perdure.cli.paint import Painter
from perdure.cli.store import guarded
from perdure.cli.table import Cell, table
from perdure.cli.talk import DEFAULT_QUESTION, open_library
from perdure.log.owners import Timing
from perdure.models.model import Capabilities, ModelRequest
from perdure.models.offline import OfflineModel
from perdure.runtime.runtime import Runtime
from perdure.types.chunks import ModelEvent
from perdure.types.errors import PerdureError
from perdure.types.ids import derive_id
from perdure.types.messages import ToolCall

RUN = "demo"
DIES_AT = 2
"""The first worker is killed while its model answers for this time."""
PATIENCE = 60.0
_QUICK = Timing(death=2.0, beat=0.2, sweep=0.1)


class Call(NamedTuple):
    """A call that a worker has written down before it made it; `key` is the step's idempotency key."""

    worker: int
    kind: str
    key: str
    name: str


class Proof(NamedTuple):
    """What was called before and after the kill, what the log had finished when it happened, and what it has now."""

    calls: Sequence[Call]
    finished: Sequence[str]
    closed: Sequence[str]

    def repeated(self) -> list[str]:
        """The finished steps that were called again, and places that were closed twice: there must be none."""
        after = {one.key for one in self.calls if one.worker > 1}
        again = {place for place in self.finished if key_of(place) in after}
        return sorted(again | {place for place, count in Counter(self.closed).items() if count > 1})

    def missing(self) -> list[str]:
        """The steps of the log that nobody has written down: if there are any, nothing is proved."""
        known = {one.key for one in self.calls}
        return sorted({place for place in self.closed if _kind(place) and key_of(place) not in known})

    def holds(self) -> bool:
        """Whether a run that was killed in the middle has gone on to its end, and nothing finished ran again."""
        both = {one.worker for one in self.calls} == {1, 2}
        return both and bool(self.finished) and not self.repeated() and not self.missing()

    def made(self, kind: str, worker: int) -> int:
        """How often a worker has called a model or a tool."""
        return sum(one.kind == kind and one.worker == worker for one in self.calls)

    def logged(self, kind: str) -> int:
        """How many such steps the log has in the end."""
        return sum(_kind(place) == kind for place in self.closed)


def key_of(place: str) -> str:
    """The idempotency key of a step of the run."""
    return derive_id("key", RUN, place)


def _kind(place: str) -> str | None:
    return "tool" if "/tool/" in place else "model" if "/infer/" in place else None


# -- the one who watches ---------------------------------------------------------------------------------------------


def run_crash(path: str | None, question: str | None) -> int:
    """Show a crash and what comes after it."""
    painter = Painter()

    async def work() -> int:
        open_library(path)  # says at once what is wrong with it
        with tempfile.TemporaryDirectory(prefix="perdure-crash-") as folder:
            return await _show(painter, Path(folder), path, question or DEFAULT_QUESTION)

    return guarded(painter, work)


async def _show(painter: Painter, folder: Path, path: str | None, question: str) -> int:
    painter.line(f"One run of the demo network, in {folder}/desk.db, with the offline model.", "dim")
    painter.line()
    painter.line(f"? {question}", "bold")
    first = await _start(folder, path, 1, question)
    await _until(first, folder, lambda: _reached(folder))
    first.send_signal(signal.SIGKILL)
    await first.wait()
    finished = await _closed(folder)
    _lines(painter, f"A worker (process {first.pid})", 1, calls(folder), finished)
    painter.line("  killed with SIGKILL while the model answers", "bold red")
    painter.line(f"  finished, in the log: {', '.join(finished)}", "dim")

    second = await _start(folder, path, 2, question)
    async with asyncio.timeout(PATIENCE):
        code = await second.wait()
    closed = await _closed(folder)
    _lines(painter, f"Another worker (process {second.pid})", 2, calls(folder), closed)
    if code != 0 or not (folder / "answer").exists():
        raise PerdureError(f"The second worker ended with exit code {code} and no answer.")
    painter.line()
    painter.line((folder / "answer").read_text(encoding="utf-8"))
    return tell(painter, Proof(calls(folder), finished, closed))


def _lines(painter: Painter, who: str, worker: int, made: Sequence[Call], closed: Sequence[str]) -> None:
    painter.line()
    painter.line(who, "bold")
    places = {key_of(place): place for place in closed}
    table(
        painter,
        ("", "", ""),
        [
            (Cell(f"  {one.kind}", "dim"), Cell(places.get(one.key, "(no record yet)"), "cyan"), one.name)
            for one in made
            if one.worker == worker
        ],
    )


def tell(painter: Painter, proof: Proof) -> int:
    """Show the figures and what they prove; the exit code."""
    painter.line()
    rows: list[Sequence[str | Cell]] = []
    for kind in ("model", "tool"):
        numbers = (proof.made(kind, 1), proof.made(kind, 2), proof.logged(kind))
        rows.append((f"{kind} calls", *(Cell(str(number), right=True) for number in numbers), ""))
    table(painter, ("", "before the kill", "after it", "steps in the log", ""), rows)
    painter.line()
    if proof.holds():
        painter.line(f"No step that had finished ran again: {len(proof.finished)} were answered from the log.", "green")
        painter.line("Only the model call that was cut off, and so has no record, was made a second time.", "dim")
        return 0
    for what, places in (("ran again", proof.repeated()), ("is in the log, and nobody called it", proof.missing())):
        for place in places:
            painter.line(f"{place} {what}.", "red")
    painter.line("The proof has failed.", "bold red")
    return 1


async def _start(folder: Path, path: str | None, number: int, question: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "perdure.cli.crash", str(folder), path or "", str(number), question)
    return await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)


async def _until(process: asyncio.subprocess.Process, folder: Path, true: Any) -> None:
    """Wait for what another process writes down; nothing but looking tells."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            if process.returncode is not None:
                raise PerdureError(f"The first worker ended by itself, with exit code {process.returncode}.")
            await asyncio.sleep(0.01)


def _reached(folder: Path) -> bool:
    return sum(one.kind == "model" for one in calls(folder)) >= DIES_AT


async def _closed(folder: Path) -> list[str]:
    """The places of the run that are closed in the log, in order."""
    async with Runtime(_url(folder), workers=False) as runtime:
        records = await runtime.container("default").log.read_run(RUN)
    return [one.key for one in records if one.key is not None]


def calls(folder: Path) -> list[Call]:
    """What the workers have written down."""
    path = folder / "calls"
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last line may be half
    return [Call(*json.loads(line)) for line in whole]


def _url(folder: Path) -> str:
    return f"sqlite:///{folder}/desk.db"


# -- a worker --------------------------------------------------------------------------------------------------------


class _Witness:
    """Writes down each call before it is made, and stops at the place where the process is to be killed."""

    name = OfflineModel.name
    provider = OfflineModel.provider
    prices = OfflineModel.prices
    capabilities: Capabilities = OfflineModel.capabilities

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._model = OfflineModel()
        self._asked = 0
        self._place = ("", "")

    def note(self, kind: str, key: str, name: str) -> None:
        with (self._folder / "calls").open("a", encoding="utf-8") as file:
            file.write(json.dumps([self._number, kind, key, name]) + "\n")

    def before_model(self, ctx: Context[Any], _: Any) -> None:
        self._place = (ctx.idempotency_key, ctx.agent.name)

    def before_tool(self, ctx: Context[Any], call: ToolCall) -> None:
        self.note("tool", ctx.idempotency_key, call.name)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self._asked += 1
        self.note("model", *self._place)
        async for event in self._model.stream(request):
            yield event
            if self._number == 1 and self._asked == DIES_AT:
                await asyncio.Event().wait()  # in the middle of an answer: the process is killed here


async def _work(folder: Path, path: str, number: int, question: str) -> None:
    witness = _Witness(folder, number)
    hooks = Hooks(on_start=witness.before_model, before_tool=witness.before_tool)
    library = open_library(path or None)
    async with Runtime(
        _url(folder), [library_desk], model=witness, hooks=hooks, resources=[library], timing=_QUICK
    ) as runtime:
        result = await runtime.run(library_desk, question, run_id=RUN)
        (folder / "answer").write_text(result.text, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]))
    os._exit(0)
