"""Letting a run go on that nobody drives any more, or that its owner shall not have any more."""

from __future__ import annotations

from perdure.db.database import Script, Sql
from perdure.log.log import RunRow
from perdure.log.sessions import add_record, lock_session
from perdure.log.sql import SqlLog
from perdure.types.errors import Conflict
from perdure.types.records import Unparked
from perdure.types.status import RunStatus


async def unpark(
    log: SqlLog, run_id: str, *, force: bool = False, accept: bool = False, to_end: bool = False
) -> RunRow:
    """Make a parked run one that can be claimed, with its deaths forgotten; who had it before has no token any more.

    Args:
        log: the container's log.
        run_id: the run.
        force: whether it is taken from an owner that has it.
        accept: whether it goes on with changed code.
        to_end: whether it was cancelled and shall only be closed; then a waiting one need not wait.

    Raises:
        UnknownName: there is no such run.
        Conflict: it is not parked.
    """
    now = log.now()
    session = (await log.run(run_id)).session_id

    def script() -> Script[None]:
        number = yield from lock_session(log.db, log.container, session)
        mine = (log.container, run_id)
        rows = yield Sql("SELECT status, held, owner, definition FROM runs WHERE container = ? AND id = ?", mine)
        status, held, owner, definition = rows[0]
        then: RunStatus = "queued"
        if status == "parked":
            then = held if held is not None and not to_end else "queued"
        elif not (status == "waiting" and to_end) and not (status == "running" and force):
            raise Conflict(f"The run {run_id!r} {_WHY[status].format(owner=owner, definition=definition)}")
        assert number is not None  # no run is without its session
        yield Sql(
            "UPDATE runs SET status = ?, held = NULL, owner = NULL, deaths = 0, nonce = '', epoch = epoch + 1 "
            "WHERE container = ? AND id = ?",
            (then, *mine),
        )
        yield Sql(
            "UPDATE sessions SET turn = ?, epoch = 0, nonce = '' WHERE number = ? AND (turn IS NULL OR turn = ?)",
            (run_id, number, run_id),
        )
        yield from add_record(log, number, session, run_id, Unparked(force, accept), now)

    await log.db.write(script, notify=True)
    return await log.run(run_id)


_ENDED = "is over; start another one."
_WHY = {
    "queued": "is queued already: a process that has {definition!r} takes it when its session's turn is its own.",
    "running": (
        "belongs to {owner}. If that process is dead, another one takes the run over within seconds. If it is alive "
        "and stuck, force it: what it still writes is refused then."
    ),
    "waiting": "waits for somebody outside; answer it, and it goes on.",
    "completed": _ENDED,
    "failed": _ENDED,
    "cancelled": _ENDED,
}
