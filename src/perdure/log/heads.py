"""How far sessions have come: one look for many readers, so that each reads only what is new in its own session."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from perdure.db.database import Database, Script, Sql
from perdure.log.rows import LAST_SLOT
from perdure.log.schema import ROOM

CHUNK = 500
"""How many sessions are asked for in one statement."""

Name: TypeAlias = tuple[str, str]
"""A session: its container and its id."""


class Heads(NamedTuple):
    """What a look has found.

    Attributes:
        last: the sequence number of each session's last record.
        said: for sessions in which another process says something just now, a number that changes when it goes on.
    """

    last: dict[Name, int]
    said: dict[Name, tuple[int, int]]


async def read_heads(db: Database, sessions: Mapping[str, Collection[str]]) -> Heads:
    """See how far sessions have come.

    Args:
        db: the opened database.
        sessions: their ids, by container.
    """

    def script() -> Script[Heads]:
        last: dict[Name, int] = {}
        for container, some in sessions.items():
            ids = list(some)
            for start in range(0, len(ids), CHUNK):
                part = ids[start : start + CHUNK]
                text = (
                    f"SELECT id, {LAST_SLOT} FROM sessions WHERE container = ? AND id IN ({', '.join('?' * len(part))})"
                )
                for id, slot in (yield Sql(text, (container, *part))):
                    last[container, str(id)] = int(slot) % ROOM
        rows = yield Sql("SELECT container, session, COUNT(*), SUM(n) FROM live GROUP BY container, session")
        return Heads(last, {(str(name), str(id)): (int(count), int(n)) for name, id, count, n in rows})

    return await db.read(script)
