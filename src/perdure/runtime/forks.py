"""Forks and rewinds of a container's sessions: where they are cut, what is closed there, and who goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.handle import Run
from perdure.agents.in_sync import InSync
from perdure.agents.running import Running
from perdure.durable.fork import last_end, not_carried_over, open_turns, place, spent
from perdure.log.log import ENDED, Accepted, Entry, Fork, NewRun, RunRow, beyond, is_erased
from perdure.log.owners import Left
from perdure.runtime.conversations import seen
from perdure.types.errors import Conflict, InvalidId, UnknownName
from perdure.types.ids import check_id, derive_id, new_id
from perdure.types.records import Erased, Forked, Record, Rewound, RunFinished, RunStarted

if TYPE_CHECKING:
    from perdure.runtime.container import Container

PATIENCE = 30.0
"""Seconds that a rewind waits for the end of runs that it has cancelled."""


class Forks:
    """What a container does with forks."""

    async def fork(
        self,
        run_id: str,
        at: int | str | None = None,
        *,
        id: str | None = None,
        session_id: str | None = None,
        title: str | None = None,
    ) -> Run[Any, Any]:
        """Go on from inside a run, in a session of its own: a new run begins with what the other one had finished.

        Nothing that was finished there is done again; new steps have keys of their own. Calls that were open are closed
        as not carried over, and the model is told so. Open waits, answers that nothing was finished behind, and cancels
        stay where they are. The same place forked again under the same id is the same run. It may be over, or go on:
        nothing changes for it.

        Args:
            run_id: the run.
            at: the number of a record of its session, or the key of a step, behind which to go on. Unless given: the
                last step that was finished before it was cancelled or failed, or so far.
            id: the new run's id.
            session_id: the new session's id.
            title: the new session's title; unless given, that of the session it goes on from.

        Raises:
            UnknownName: there is no such run or step, or its definition is not registered here.
            InvalidId: there is no such record in its turn.
            Conflict: it had not begun or had ended there, was erased, or an id belongs to something else.
        """
        container = cast("Container", self)
        await container.check_size()
        return await fork_run(container, await cut_run(container, run_id, at, id, session_id, title))

    fork_sync = InSync(fork)


class Cut(NamedTuple):
    """A fork that is to be made of a run, and what there is of the run up to there."""

    fork: Fork
    run: NewRun
    records: list[Record]


async def fork_session(container: Container, session_id: str, at: int | None, id: str | None, title: str | None) -> str:
    """Make a session that goes on from a place in another one; a turn that is open there is ended in the new one."""
    await container.check_size()
    log = container.log
    head = await _head(container, session_id)
    seq = head if at is None else _number(at)
    if not 0 < seq <= head:
        raise beyond(session_id, seq, head)
    id = new_id("session") if id is None else check_id(id, "id")
    records = await seen(log, session_id, seq + 1)
    turns = open_turns(records)
    if not turns:
        await log.fork(Fork(id, session_id, seq, title))
        return id
    origin = await log.run(turns[-1])
    own = _of(origin.id, records)
    end = RunFinished("cancelled", "interrupted", usage=spent(own))
    run = NewRun(derive_id("run", "cut off", id), id, origin.definition, user_id=origin.user_id)
    entries = (*not_carried_over(own), Entry(None, end))
    await log.fork(Fork(id, session_id, seq, title, run, origin.id, own[0].seq, entries))
    return id


async def cut_run(
    container: Container,
    run_id: str,
    at: int | str | None,
    id: str | None = None,
    session_id: str | None = None,
    title: str | None = None,
) -> Cut:
    """Find where a run is to be forked, and what is closed there; nothing is written yet."""
    log = container.log
    run = await log.run(run_id)
    own = await log.read_run(run_id)
    if any(isinstance(one.payload, Erased) for one in own):
        raise is_erased(run.session_id, own[0].seq)
    seq = place(run_id, own, at if at is None or isinstance(at, str) else _number(at))
    base = next((one.payload for one in own if isinstance(one.payload, Forked) and seq <= one.payload.seq), None)
    if base is not None:  # nothing of this run is left: what follows from its id would be another run's
        return await cut_run(container, base.origin, seq, id, session_id, title)
    records = await seen(log, run.session_id, seq + 1)
    if run_id not in open_turns(records):
        raise Conflict(f"The run {run_id!r} was queued at record {seq}, and had not begun; give a later one.")
    own = _of(run_id, records)
    id = new_id("run") if id is None else check_id(id, "id")
    session_id = f"session_{id.removeprefix('run_')}" if session_id is None else check_id(session_id, "session_id")
    mark = blake2b(f"fork {run_id} {seq}".encode(), digest_size=12).hexdigest()
    new = NewRun(id, session_id, run.definition, mark, run.user_id, lane=_lane(container, run.definition, own[0]))
    entries = tuple(not_carried_over(own))
    return Cut(Fork(session_id, run.session_id, seq, title, new, run_id, own[0].seq, entries), new, own)


def _lane(container: Container, name: str, first: Record) -> str | None:
    """With which runs of a function a continuation shares how many are active at once."""
    registry = container.runtime.registry
    definition = registry.get(name) if registry.has(name) else None
    if not isinstance(definition, FunctionDefinition) or not isinstance(first.payload, RunStarted):
        return None
    return definition.lane(container.name, first.payload.input)


async def fork_run(container: Container, cut: Cut) -> Run[Any, Any]:
    """Make the fork of a run, and drive it on here."""
    fork, new = cut.fork, cut.run
    row = RunRow(
        *(new.id, new.session_id, new.definition, "queued", 0, None, fork.position, 0, None, new.user_id),
        *(new.input_hash, container.runtime.clock.now()),
        lane=new.lane,
    )

    async def accept(_: Running) -> Accepted:
        container.runtime.held.check()
        await container.runtime.worker.fresh()
        head = await container.log.fork(fork)
        made = await container.log.run(new.id)
        return Accepted(made, None, head, made.status != "queued")

    taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    run: Run[Any, Any] = container.launch(container.revived(row, cut.records), taken, accept)
    await taken
    return run


async def rewind(container: Container, session_id: str, to: int, *, cancel: bool) -> int:
    """Let a session go on from the end of an earlier turn."""
    log = container.log
    await _head(container, session_id)
    if cancel:
        await _stop(container, session_id)
    head = await log.head(session_id)
    if not 0 <= _number(to) <= head:
        raise beyond(session_id, to, head)
    if to == head:
        raise InvalidId(f"The record {to} is the last one of the session {session_id!r}; there is nothing to rewind.")
    records = await seen(log, session_id, to + 1)
    inside = open_turns(records)
    if inside:
        raise Conflict(
            f"The record {to} of the session {session_id!r} is inside the turn of the run {inside[-1]!r}. A rewind "
            f"goes to the end of a turn, here to {last_end(records)} or to {await _end_of(container, inside[-1])}; to "
            "go on inside of one, fork the run."
        )
    return await log.mark(session_id, Rewound(to), head)


async def _head(container: Container, session_id: str) -> int:
    head = await container.log.head(session_id)
    if not head:
        raise UnknownName("session", session_id)
    return head


async def _end_of(container: Container, run_id: str) -> str:
    records = await container.log.read_run(run_id)
    return next((str(one.seq) for one in records if isinstance(one.payload, RunFinished)), "its end, which is to come")


async def _stop(container: Container, session_id: str) -> None:
    """Cancel what is open in a session, and wait for its end; what is open still then is named when it is refused."""
    asked: set[str] = set()
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while True:
                change = container.runtime.worker.listen()
                still = [one for one in await container.log.runs(session_id=session_id) if one.status not in ENDED]
                if not still:
                    return
                fresh = [one for one in still if one.id not in asked]
                for one in fresh:  # the newest first, so that none begins when its turn comes
                    asked.add(one.id)
                    await container.cancel(one.id)
                if not fresh and still[-1].status == "queued":  # only the oldest can have its turn
                    await container.take_over(Left(container.name, still[-1].id, None, 0, 0), {})
                    if (await container.log.run(still[-1].id)).status in ENDED:
                        continue
                    change = container.runtime.worker.listen()  # that it was tried in vain is no news
                await container.runtime.worker.until(change)


def _of(run_id: str, records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.run_id == run_id]


def _number(at: Any) -> int:
    if not isinstance(at, int) or isinstance(at, bool):
        raise InvalidId(f"{at!r} is no record: give its sequence number.")
    return at
