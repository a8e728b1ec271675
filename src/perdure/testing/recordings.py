"""A recording: all of a stored run that is needed to drive it again elsewhere, offline, as a value and as a file.

run = await recording(runtime, "run_1")
run.save("tests/run_1.json")
replay(recorded("tests/run_1.json"), definitions).check()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec

from perdure.agents.outcome import RunResult
from perdure.agents.running import Running
from perdure.log.log import Log
from perdure.log.sql import SqlLog
from perdure.runtime.container import Container
from perdure.runtime.conversations import Conversations
from perdure.runtime.runtime import Runtime
from perdure.testing.redact import Redact, redacted
from perdure.types.base import Base, encode_json
from perdure.types.errors import PerdureError, UnknownName
from perdure.types.messages import Message
from perdure.types.records import ChildDone, Erased, Record, RunStarted, WaitOpened
from perdure.types.status import RunStatus
from perdure.types.waits import ChildRun

FORMAT = 1
MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read, unless another limit is given."""


class RecordingError(PerdureError):
    """A run cannot be recorded, or a file is no recording, is damaged, too large, or of a newer version."""


class RecordedRun(Base):
    """One run as it is stored: its records, and what was said in its session before it."""

    id: str
    session_id: str
    definition: str
    status: RunStatus
    records: tuple[Record, ...]
    earlier: tuple[Message, ...] = ()
    user_id: str | None = None
    parent: str | None = None
    parent_key: str | None = None

    @property
    def started(self) -> RunStarted:
        """What it started from."""
        first = self.records[0].payload
        assert isinstance(first, RunStarted)
        return first


class Recording(Base):
    """A run with its child runs, and theirs; the first is the run itself.

    `durable` says that it was kept in a store, where definitions are found by their names; `redacted` that some of its
    texts are placeholders.
    """

    format: int
    runs: tuple[RecordedRun, ...]
    durable: bool = True
    redacted: bool = False

    @property
    def run(self) -> RecordedRun:
        """The run itself."""
        return self.runs[0]

    def find(self, run_id: str) -> RecordedRun | None:
        """Find one of its runs."""
        return next((one for one in self.runs if one.id == run_id), None)

    def save(self, path: str | Path, *, redact: Redact | Sequence[Redact] | None = ()) -> Path:
        """Write it to a file, without secrets.

        Args:
            path: the file.
            redact: what is to be redacted besides secrets, see `redacted`; None leaves everything as it is.

        Raises:
            OSError: the file cannot be written.
        """
        kept = self if redact is None else redacted(self, redact)
        target = Path(path)
        target.write_bytes(msgspec.json.format(encode_json(kept), indent=1) + b"\n")
        return target

    def __repr__(self) -> str:
        records = sum(len(one.records) for one in self.runs)
        return f"Recording({self.run.id!r} of {self.run.definition!r}, {len(self.runs)} runs, {records} records)"


Source: TypeAlias = Runtime | Container | RunResult[Any, Any]


async def recording(source: Source, run_id: str | None = None) -> Recording:
    """Record a run that is stored, or one that was run without a runtime.

    Args:
        source: the runtime or the tenant that has it; or the result of a run.
        run_id: the run; that of the result unless given.

    Raises:
        UnknownName: there is no such run.
        RecordingError: it was erased, or nothing of it is there yet.
    """
    if isinstance(source, RunResult):
        running = cast("Running", source._running)  # pyright: ignore[reportPrivateUsage]
        log, durable = running.env.kernel.log, running.env.kernel.durable
        run_id = run_id or source.run_id
    else:
        container = source.container("default") if isinstance(source, Runtime) else source
        log, durable = container.log, True
    if run_id is None:
        raise RecordingError("recording(…) of a runtime needs the id of a run.")
    found: list[RecordedRun] = []
    waiting = [run_id]
    for id in waiting:
        try:
            one = await _run(log, id)
        except UnknownName:
            if id == run_id:
                raise
            continue  # a child that was begun and never taken in
        found.append(one)
        waiting += [child for child in await _children(log, one) if child not in waiting]
    return Recording(FORMAT, tuple(found), durable)


async def _run(log: Log, id: str) -> RecordedRun:
    row = await log.run(id)
    records = await log.read_run(id)
    whole = RecordedRun(
        id,
        row.session_id,
        row.definition,
        row.status,
        tuple(records),
        await Conversations(log).before(row),
        row.user_id,
        row.parent,
        records[0].payload.parent_key if records and isinstance(records[0].payload, RunStarted) else None,
    )
    _check_run(whole, f"The run {id!r}")
    return whole


async def _children(log: Log, run: RecordedRun) -> list[str]:
    """The runs that a run has started."""
    payloads = [one.payload for one in run.records]
    done = [one.run_id for one in payloads if isinstance(one, ChildDone)]
    asked = [
        wait.child
        for one in payloads
        if isinstance(one, WaitOpened)
        for wait in one.waits
        if isinstance(wait, ChildRun)
    ]
    asked += [wait.run_id for one in payloads if isinstance(one, WaitOpened) for wait in one.waits]
    still = [one.id for one in await log.children(run.id)] if isinstance(log, SqlLog) else []
    return [id for id in dict.fromkeys((*done, *asked, *still)) if id != run.id]


def recorded(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Recording:
    """Read a recording from a file.

    Args:
        path: the file.
        max_bytes: the largest file that is read.

    Raises:
        RecordingError: there is no such file, or it is no recording, damaged, too large, or of a newer version.
    """
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > max_bytes:
            raise RecordingError(
                f"{source} is {size / 1e6:.1f} MB and at most {max_bytes / 1e6:.1f} MB are read; give max_bytes=…."
            )
        data = source.read_bytes()
    except OSError as error:
        raise RecordingError(f"{source} cannot be read: {error.strerror or error}.") from error
    try:
        said: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(
            f"{source} is damaged, or no recording: it is no JSON ({error}). Export it again."
        ) from None
    version: object = cast("Mapping[str, Any]", said).get("format") if isinstance(said, dict) else None
    if type(version) is not int:
        raise RecordingError(f"{source} is no recording of a run: it does not say its format.")
    if version > FORMAT:
        raise RecordingError(f"{source} has the format {version}, and this version reads {FORMAT}; upgrade.")
    try:
        whole = msgspec.convert(said, Recording)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RecordingError(f"{source} is damaged: {error}. Export it again.") from None
    if not whole.runs:
        raise RecordingError(f"{source} is damaged: it has no run. Export it again.")
    for one in whole.runs:
        _check_run(one, f"{source}: the run {one.id!r}")
    return whole


def _check_run(run: RecordedRun, where: str) -> None:
    """See that a run can be driven again from its records."""
    if any(isinstance(one.payload, Erased) for one in run.records):
        raise RecordingError(f"{where} was erased; nothing is left of it that could be driven again.")
    if not run.records or not isinstance(run.records[0].payload, RunStarted):
        raise RecordingError(f"{where} does not begin with its start, so it cannot be driven again.")
    before = 0
    for record in run.records:
        if record.run_id != run.id or record.seq <= before:
            raise RecordingError(f"{where} has a record out of place: {record.seq} of {record.run_id!r}.")
        before = record.seq
