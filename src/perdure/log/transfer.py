"""A session as lines of JSON: written out whole, with the sessions of its child runs, and taken in again.

Of a fork the sessions that it goes on from are written before it, whole, as it reads them; where one of these is there
already when it is taken in, and is the same, it is left as it is.

The first line says what the file is; then comes, for each session, a line of its own, its runs, and its records in
order, payloads as they are stored, whether beside their record or in it; the last line counts and hashes what stands
before it, so that a file that was cut off or changed is seen. What is taken in keeps its ids, so that nothing that
refers to it breaks: if one is taken, nothing is taken in. Runs that were open are held like those of a copied store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from perdure.db.database import Exists, Script, Sql
from perdure.log.log import ENDED
from perdure.log.parts import parts_of
from perdure.log.policy import check_sessions
from perdure.log.rows import INLINE
from perdure.log.schema import ROOM
from perdure.log.sessions import insertion
from perdure.log.sql import SqlLog
from perdure.types.base import Base, encode_json
from perdure.types.errors import Conflict, PerdureError, UnknownName
from perdure.types.ids import check_id
from perdure.types.records import Answered, WaitOpened, decode_payload
from perdure.types.status import RunStatus
from perdure.types.waits import Wait

FORMAT = 1
_PAGE = 64


class ImportRefused(PerdureError):
    """A file is no export, is not whole, or was written by a newer version."""


class Head(Base, tag="perdure", tag_field="line"):
    """The first line."""

    format: int
    session: str


class SessionLine(Base, tag="session", tag_field="line"):
    """A session."""

    id: str
    created_at: float
    user_id: str | None = None
    title: str | None = None
    parent: str | None = None
    base: str | None = None
    base_seq: int = 0
    base_run: str | None = None
    fork_run: str | None = None
    status: str | None = None
    metadata: str | None = None
    events: int = 0
    retain_context: int | None = None


class RunLine(Base, tag="run", tag_field="line"):
    """A run of the session before it."""

    id: str
    definition: str
    status: RunStatus
    position: int
    last: int
    epoch: int
    created_at: float
    input_hash: str = ""
    cancelled: int = 0
    parent: str | None = None
    parent_key: str | None = None
    user_id: str | None = None
    deaths: int = 0
    held: RunStatus | None = None
    claimed_at: int = 0
    detached: int = 0


class RecordLine(Base, tag="record", tag_field="line"):
    """A record of the session before it, its payload as it is stored."""

    seq: int
    run: str
    kind: str
    version: int
    created_at: float
    payload: msgspec.Raw
    key: str | None = None


class End(Base, tag="end", tag_field="line"):
    """The last line: how many lines there are before it, and their hash."""

    lines: int
    hash: str


Line = Head | SessionLine | RunLine | RecordLine | End
_read_line = msgspec.json.Decoder(Line).decode
_SESSION = tuple(name for name in SessionLine.__struct_fields__)
_RUN = tuple(name for name in RunLine.__struct_fields__)
_RECORD = "r.seq, r.run, r.kind, r.version, r.created_at, COALESCE(r.payload, b.payload), r.key"


class _File:
    """A file that gets its name only when it is whole."""

    def __init__(self, target: Path) -> None:
        self.count = 0
        self._target = target
        self._part = target.with_name(f".{target.name}.part")
        self._hashed = blake2b(digest_size=16)
        self._file = self._part.open("wb")

    def write(self, line: Base) -> None:
        data = encode_json(line) + b"\n"
        self._file.write(data)
        self._hashed.update(data)
        self.count += 1

    def finish(self) -> None:
        self.write(End(self.count, self._hashed.hexdigest()))
        self._file.close()
        self._part.replace(self._target)

    def close(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


async def export_session(log: SqlLog, session_id: str, target: Path) -> int:
    """Write a session and those of its child runs to a file.

    Returns:
        How many lines were written.

    Raises:
        UnknownName: there is no such session.
        OSError: the file cannot be written.
    """
    file = _File(target)
    try:
        file.write(Head(FORMAT, session_id))
        parts = await log.db.read(lambda: parts_of(log.container, session_id))
        waiting = [one.session for one in reversed(parts)] or [session_id]
        for id in waiting:
            start, head, lines = await log.db.read(lambda id=id: _outline(log, id))
            for line in lines:
                file.write(line)
            waiting += await log.db.read(lambda id=id: _children(log, id))
            for at in range(start, head, _PAGE):  # no snapshot is held for long, as records stay
                for record in await log.db.read(lambda a=at, b=head: _records(a, b)):
                    file.write(record)
        file.finish()
    finally:
        file.close()
    return file.count


def _outline(log: SqlLog, id: str) -> Script[tuple[int, int, list[Base]]]:
    """The slot before a session's first, its last one, and the lines of itself and its runs, all of one moment."""
    mine = (log.container, id)
    rows = yield Sql(f"SELECT number, {', '.join(_SESSION)} FROM sessions WHERE container = ? AND id = ?", mine)
    if not rows:
        raise UnknownName("session", id)
    number = int(rows[0][0])
    line = SessionLine(*rows[0][1:])
    lines: list[Base] = [line]
    start = number * ROOM + line.base_seq
    text = f"SELECT {', '.join(_RUN)} FROM runs WHERE container = ? AND session = ? ORDER BY position"
    lines += [RunLine(*row) for row in (yield Sql(text, mine))]
    rows = yield Sql("SELECT MAX(slot) FROM records WHERE slot > ? AND slot < ?", (number * ROOM, (number + 1) * ROOM))
    return start, int(rows[0][0] or start), lines


def _children(log: SqlLog, id: str) -> Script[list[str]]:
    rows = yield Sql(
        "SELECT c.id FROM sessions c JOIN runs r ON r.container = c.container AND r.id = c.parent "
        "WHERE r.container = ? AND r.session = ? ORDER BY c.number",
        (log.container, id),
    )
    return [str(row[0]) for row in rows]


def _records(start: int, head: int) -> Script[list[RecordLine]]:
    rows = yield Sql(
        f"SELECT {_RECORD} FROM records r LEFT JOIN blobs b ON r.blob = 1 AND b.slot = r.slot "
        "WHERE r.slot > ? AND r.slot <= ? ORDER BY r.slot",
        (start, min(start + _PAGE, head)),
    )
    lines: list[RecordLine] = []
    for seq, run, kind, version, at, payload, key in rows:
        if payload is None:
            raise ImportRefused(f"The record {seq} ({kind}) of run {run!r} has lost its payload; restore a backup.")
        lines.append(RecordLine(seq, run, kind, version, at, msgspec.Raw(bytes(payload)), key))
    return lines


async def import_session(log: SqlLog, source: Path) -> str:
    """Take a session in from a file, all or nothing.

    Returns:
        The session's id.

    Raises:
        ImportRefused: the file is no export, is not whole, or is of a newer version.
        Conflict: a session or a run of the same id is there already.
        OSError: the file cannot be read.
    """
    head = _check(source)
    known = await log.db.read(lambda: _known(log, source, head.session))
    taken = await log.db.read(lambda: _taken(log, list(_lines_but(source, known))))
    if taken is None:
        try:
            await log.db.write(lambda: _take_in(log, _lines_but(source, known)), notify=True)
            return head.session
        except Exists as error:
            taken = str(error)
    raise Conflict(
        f"{source} was not taken in: {taken} is in container {log.container!r} already. Take it into another "
        "container, or into another store."
    )


def _lines(source: Path) -> Iterator[Line]:
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _read_line(line)
            except msgspec.MsgspecError as error:
                raise ImportRefused(
                    f"{source}, line {number}: this is no line of an exported session ({error})."
                ) from error


def _lines_but(source: Path, known: Collection[str]) -> Iterator[Line]:
    """The lines of a file, without those of sessions that are there already, and of their child runs."""
    runs: set[str] = set()
    left_out = False
    for line in _lines(source):
        if isinstance(line, SessionLine):
            left_out = line.id in known or line.parent in runs
        if not left_out:
            yield line
        elif isinstance(line, RunLine):
            runs.add(line.id)


def _known(log: SqlLog, source: Path, session_id: str) -> Script[set[str]]:
    """Which of the sessions that a fork goes on from are there already: the same ones, and no less of them."""
    lines = {line.id: line for line in _lines(source) if isinstance(line, SessionLine)}
    known: set[str] = set()
    high, id = 0, session_id
    while id in lines:
        if id != session_id:
            rows = yield Sql(
                f"SELECT 1 FROM sessions s JOIN records r ON r.slot = s.number * {ROOM} + ? WHERE s.container = ? AND "
                "s.id = ? AND s.created_at = ?",
                (high, log.container, id, lines[id].created_at),
            )
            if rows:
                known.add(id)
        high, id = lines[id].base_seq, lines[id].base or ""
    return known


def _check(source: Path) -> Head:
    """See that a file is whole and that all of it can be read, before anything is written."""
    head: Head | None = None
    hashed = blake2b(digest_size=16)
    ended: End | None = None
    sessions: set[str] = set()
    last = 0
    with source.open("rb") as file:
        for number, line in enumerate(_lines(source), 1):
            where = f"{source}, line {number}"
            raw = file.readline()
            if ended is not None:
                raise ImportRefused(f"{where}: something follows the last line.")
            if (number == 1) != isinstance(line, Head):
                raise ImportRefused(f"{where}: an export begins with the line that says what it is, and only there.")
            if isinstance(line, Head):
                head = line
                if line.format > FORMAT:
                    raise ImportRefused(
                        f"{source} has the format {line.format}, and this version reads {FORMAT}; upgrade."
                    )
            elif isinstance(line, SessionLine):
                sessions.add(check_id(line.id, "session"))
                last = line.base_seq
                if line.base is not None and line.base not in sessions:
                    raise ImportRefused(f"{where}: {line.id!r} goes on from {line.base!r}, which is not there.")
            elif isinstance(line, RunLine):
                check_id(line.id, "run")
            elif isinstance(line, RecordLine):
                if line.seq != last + 1:
                    raise ImportRefused(f"{where}: the record {line.seq} does not follow the record {last}.")
                last = line.seq
                try:
                    decode_payload(bytes(line.payload), line.version)
                except msgspec.MsgspecError as error:
                    raise ImportRefused(f"{where}: the record cannot be read: {error}.") from error
            else:
                ended = line
                if (line.lines, line.hash) != (number - 1, hashed.hexdigest()):
                    raise ImportRefused(f"{source} is not as it was written: lines are missing or were changed.")
            hashed.update(raw)
    if head is None or ended is None or head.session not in sessions:
        raise ImportRefused(f"{source} is not whole: its end is missing. Export the session again.")
    return head


def _taken(log: SqlLog, lines: Sequence[Line]) -> Script[str | None]:
    for line in lines:
        if not isinstance(line, (SessionLine, RunLine)):
            continue
        table, kind = ("sessions", "session") if isinstance(line, SessionLine) else ("runs", "run")
        if (yield Sql(f"SELECT 1 FROM {table} WHERE container = ? AND id = ?", (log.container, line.id))):
            return f"the {kind} {line.id!r}"
    return None


def _take_in(log: SqlLog, lines: Iterable[Line]) -> Script[None]:
    container = log.container
    number, session = 0, ""
    turn: str | None = None
    waits = _Waits()
    for line in lines:
        if isinstance(line, SessionLine):
            session, turn = line.id, None
            names = ("container", *(name for name in line.__struct_fields__))
            rows = yield Sql(
                f"INSERT INTO sessions ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) RETURNING number",
                (container, *msgspec.structs.astuple(line)),
            )
            number = int(rows[0][0])
            yield from check_sessions(log.db, container, log.quota)
        elif isinstance(line, RunLine):
            row = {"container": container, "session": session, **msgspec.structs.asdict(line)}
            yield insertion("runs", _held(row))
            waits.run(line, session)
            if turn is None and line.status not in ENDED and (line.status != "parked" or line.held is not None):
                turn = line.id
                yield Sql("UPDATE sessions SET turn = ? WHERE number = ?", (turn, number))
        elif isinstance(line, RecordLine):
            slot, data = number * ROOM + line.seq, bytes(line.payload)
            large = len(data) > INLINE
            row = msgspec.structs.asdict(line)
            row |= {"slot": slot, "container": container, "session": session}
            yield insertion("records", {**row, "payload": None if large else data, "blob": int(large)})
            if large:
                yield insertion("blobs", {"slot": slot, "container": container, "payload": data})
            waits.record(line.run, data if line.kind in ("wait", "answer") else b"")
    for run, its, open in waits.open():
        yield from log.wait(run, its, open)


class _Waits:
    """What runs that were open wait for, as their records say."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[str, dict[str, Wait]]] = {}

    def run(self, line: RunLine, session: str) -> None:
        """Take note of a run; who drives a child waits for it."""
        if line.status not in ENDED and (line.parent is None or line.detached):
            self._runs[line.id] = (session, {})

    def record(self, run: str, data: bytes) -> None:
        """Take note of a record that opens or ends waits."""
        if run in self._runs and data:
            payload, (_, open) = decode_payload(data), self._runs[run]
            if isinstance(payload, WaitOpened):
                open.update({one.id: one for one in payload.waits})
            elif isinstance(payload, Answered):
                open.pop(payload.wait_id, None)

    def open(self) -> Iterator[tuple[str, str, list[Wait]]]:
        """What each run still waits for."""
        for run, (session, open) in self._runs.items():
            if open:
                yield run, session, list(open.values())


def _held(row: dict[str, Any]) -> Mapping[str, Any]:
    """A run as it is taken in: one that was open waits until somebody takes the copy over."""
    status = row["status"]
    if status in (*ENDED, "parked"):
        return row
    return {**row, "status": "parked", "held": "queued" if status == "running" else status}
