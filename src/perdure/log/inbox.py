"""What runs wait for, page by page: the inbox of whoever answers."""

from __future__ import annotations

from typing import Literal, TypeAlias

from perdure.db.database import Row, Script, Sql
from perdure.log.sessions import PAGE, check_page
from perdure.log.sql import SqlLog
from perdure.log.waits import read_wait
from perdure.types.base import Base
from perdure.types.errors import DefinitionError
from perdure.types.records import Answered, Record
from perdure.types.waits import Wait, run_of_wait

WaitKind: TypeAlias = Literal["person", "approval", "question", "event", "timer", "child"]
"""What is waited for; `person` is an approval or a question."""

KINDS: dict[str, tuple[str, ...]] = {
    "person": ("approval", "question"),
    **{one: (one,) for one in ("approval", "question", "event", "timer", "child")},
}


class WaitRow(Base):
    """A wait that is open: since when, in which session, and which run goes on when it is answered."""

    wait: Wait
    run_id: str
    session_id: str
    since: float


async def list_waits(
    log: SqlLog,
    *,
    session_id: str | None = None,
    run_id: str | None = None,
    kind: WaitKind | None = None,
    after: str | None = None,
    limit: int = PAGE,
) -> list[WaitRow]:
    """List what runs wait for, in the order of the waits' ids.

    Args:
        log: the container's log.
        session_id: only what the runs of this session wait for.
        run_id: only what this run waits for, or asks as a child of another one.
        kind: only this kind.
        after: the id of the last wait of the page before; it need not be open any more.
        limit: at most so many.

    Raises:
        DefinitionError: there is no such kind, or the page is too large.
    """
    check_page(limit)
    where, params = ["container = ?", "id > ?"], [log.container, after or ""]
    if session_id is not None:
        where, params = [*where, "session = ?"], [*params, session_id]
    if run_id is not None:
        where, params = [*where, "(run = ? OR asker = ?)"], [*params, run_id, run_id]
    if kind is not None:
        kinds = KINDS.get(kind)
        if kinds is None:
            raise DefinitionError(f"There is no kind of wait {kind!r}; it is one of {', '.join(KINDS)}.")
        where, params = [*where, f"kind IN ({', '.join('?' * len(kinds))})"], [*params, *kinds]

    def script() -> Script[list[Row]]:
        text = f"SELECT wait, run, session, at FROM waiters WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"
        return (yield Sql(text, (*params, limit)))

    return [
        WaitRow(read_wait(bytes(wait)), str(run), str(session), float(at))
        for wait, run, session, at in await log.db.read(script)
    ]


async def ended_by(log: SqlLog, wait_id: str) -> tuple[Answered, Record] | None:
    """Find how a wait has ended, with its record; None if it has not, or nothing of it is left.

    Raises:
        InvalidId: it is the id of no wait.
        UnknownName: there is no such run.
    """
    for record in await log.read_run(await log.driver_of(run_of_wait(wait_id))):
        if isinstance(record.payload, Answered) and record.payload.wait_id == wait_id:
            return record.payload, record
    return None
