"""The rows of the log: how records and runs are written to tables and read from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import msgspec

from perdure.db.database import Row, Script, Sql, StoreCorrupt
from perdure.log.log import RunRow
from perdure.log.schema import ROOM
from perdure.types.base import Base, encode_json
from perdure.types.ids import random_hex
from perdure.types.records import Record, RunStarted, decode_payload

INLINE = 64 * 1024
"""Payloads above this many bytes are kept beside their record, in the same transaction."""

RUN = (
    "id, session, definition, status, epoch, owner, position, deaths, parent, user_id, input_hash, created_at, held, "
    "detached, lane, ends_at"
)
LAST_SLOT = (
    f"COALESCE((SELECT MAX(slot) FROM records WHERE slot > number * {ROOM} AND slot < (number + 1) * {ROOM}), "
    f"number * {ROOM})"
)
FENCED = f"SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ? AND turn = ? AND epoch = ? AND nonce = ?"
RECORD = (
    "SELECT r.seq, r.run, r.session, r.key, r.kind, r.version, COALESCE(r.payload, b.payload), r.created_at "
    "FROM records r LEFT JOIN blobs b ON r.blob = 1 AND b.slot = r.slot "
)


class Coded(Base):
    """A record that is encoded, before it has a place."""

    key: str | None
    kind: str
    data: bytes
    at: float | None = None


def input_hash(started: RunStarted, *, stated: bool = False) -> str:
    """Hash what a run was started with, to tell a repetition from another run with the same id.

    Args:
        started: its first record.
        stated: whether its state was given: one that was not is no input, its type may have other defaults by now.
    """
    digest = blake2b(digest_size=12)
    for one in (started.messages, started.state if stated else None, started.history, started.input):
        part = encode_json(one)
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def new_nonce() -> str:
    """Make what tells two owners of one epoch apart."""
    return random_hex()


def insert_rows(table: str, rows: Sequence[Row]) -> Script[None]:
    """Insert rows by as few statements as parameters allow."""
    if len(rows) == 1:  # as most often
        yield Sql(_insertion(table, len(rows[0]), 1), rows[0], True)
        return
    for start in range(0, len(rows), 500):
        some = rows[start : start + 500]
        yield Sql(_insertion(table, len(some[0]), len(some)), tuple(itertools.chain(*some)), blind=True)


@lru_cache(maxsize=128)
def _insertion(table: str, columns: int, rows: int) -> str:
    marks = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([marks] * rows)}"


def record_of(row: Row) -> Record:
    """Read a record.

    Raises:
        StoreCorrupt: its payload is lost, or cannot be read.
    """
    seq, run_id, session_id, key, kind, version, data, at = row
    if data is None:
        raise StoreCorrupt(
            f"The record {seq} ({kind}) of session {session_id!r} has lost its payload; restore a backup. Its step is "
            "not repeated."
        )
    try:
        payload = decode_payload(bytes(data), int(version))
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(
            f"The record {seq} ({kind}, version {version}) of session {session_id!r} cannot be read: {error}. If a "
            "newer Perdure wrote it, upgrade this one; else restore a backup."
        ) from error
    return Record(int(seq), run_id, session_id, key, payload, float(at), int(version))


def run_of(row: Row) -> RunRow:
    """Read a run's row."""
    id, session, definition, status, epoch, owner, position, deaths, parent, user, hashed, at, *more = row
    held, detached, lane, ends_at = more
    which = (id, session, definition, status, int(epoch), owner, int(position), int(deaths))
    return RunRow(*which, parent, user, hashed, float(at), held, bool(detached), lane, ends_at)
