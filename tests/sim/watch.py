"""What the world sees of the processes' inside: what the log has acknowledged, when tokens were looked at, and the
state after every record that was folded while it happened."""

from typing import TYPE_CHECKING, Any

import pytest

from perdure.agents.function_program import FunctionProgram
from perdure.agents.network_loop import NetworkLoop
from perdure.agents.program import AgentsProgram
from perdure.durable.function import FunctionLoop
from perdure.durable.program import Do, Finish, Keep, Waiting
from perdure.durable.run_io import RunIO
from perdure.log.owners import Owners
from perdure.log.sql import SqlLog
from perdure.types.base import encode_json
from perdure.types.records import Record, encode_payload, kind_of
from tests.sim.here import here

if TYPE_CHECKING:
    from tests.sim.world import World


def digest(loop: Any) -> bytes:
    """A run's state, and what it wants next."""
    if isinstance(loop, FunctionLoop):
        return _of_function(loop)
    turns = [
        [one.prefix, one.phase, one.said, one.doc, one.usage, one.inferences]
        for one in (*loop.current, *([loop.asking] if loop.asking is not None else []))
    ]
    what: Any = None
    if loop.finished is None:
        action = loop.next()
        if isinstance(action, Do):
            what = action.key
        elif isinstance(action, Keep):
            what = [action.key, kind_of(action.payload)]
        elif isinstance(action, Finish):
            what = action.payload
        elif isinstance(action, Waiting):
            what = [one.id for one in action.waits]
        else:
            what = sorted(one.key for one in action)
    said = [loop.transcript, loop.doc, turns, loop.queue, len(loop.results), loop.call_count, loop.routes]
    return encode_json([said, loop.total_usage, sorted(loop.steps), loop.stopping, loop.finished, what])


def _of_function(loop: FunctionLoop) -> bytes:
    action = None if loop.finished is not None else loop.next()
    what: Any = action
    if isinstance(action, Do):
        what = [action.key, repr(action.what)]
    elif isinstance(action, Finish):
        what = action.payload
    elif isinstance(action, Waiting):
        what = [one.id for one in action.waits]
    waits = [sorted(loop.answers), sorted(loop.waits), [one.id for one in loop.waited], loop.rounds]
    ends = [loop.failed, loop.rest, loop.returned, loop.stopping, loop.error, loop.finished]
    return encode_json([sorted(loop.steps), waits, ends, loop.total_usage, what])


def moment(record: Record) -> tuple[str, str | None, bytes, float]:
    """What tells a record that was folded from all others, before it has its final place."""
    return record.run_id, record.key, encode_payload(record.payload), record.created_at


def mark(record: Record) -> int:
    """A number of a record; sums of them tell which ones were folded, in whatever order."""
    return hash((record.run_id, record.key, encode_payload(record.payload)))


def watch(world: "World", patch: pytest.MonkeyPatch) -> None:
    append, sure, beat, fold = SqlLog.append, RunIO.sure, Owners.beat, AgentsProgram.fold
    transact, fold_in, fold_function = SqlLog.transact, NetworkLoop.fold, FunctionLoop.fold
    known: dict[int, tuple[int, Any]] = {}

    async def appended(log: Any, token: Any, entries: Any, status: Any = None, **given: Any) -> int:
        said = [(one.key, encode_payload(one.payload)) for one in entries]
        last = await append(log, token, entries, status, **given)
        world.appended += [(log.container, token.run_id, *one) for one in said]
        world.owned.append((log.container, token.run_id, token.epoch, last - len(said) + 1))
        return last

    async def transacted(log: Any, token: Any, key: str, *given: Any) -> Any:
        seq, payload = await transact(log, token, key, *given)
        world.appended.append((log.container, token.run_id, key, encode_payload(payload)))
        return seq, payload

    async def checked(io: Any) -> None:
        began = world.turns.steps  # the process may be stopped between its look at the store and what it hears of it
        await sure(io)
        world.checked[io.kernel.log.owner, io.token.run_id] = began

    async def beating(owners: Any, **given: Any) -> None:
        now = world.turns.now
        await beat(owners, **given)
        here().beaten = now

    def folded(loop: NetworkLoop, record: Record) -> Any:
        notes = fold(loop, record)
        world.folded.setdefault(moment(record), []).append((known.get(id(loop), (0, loop))[0], digest(loop)))
        return notes

    def folding(loop: NetworkLoop, record: Record) -> Any:
        known[id(loop)] = known.get(id(loop), (0, loop))[0] + mark(record), loop
        return fold_in(loop, record)

    def of_function(loop: FunctionLoop, record: Record) -> Any:
        notes = fold_function(loop, record)
        known[id(loop)] = known.get(id(loop), (0, loop))[0] + mark(record), loop
        world.folded.setdefault(moment(record), []).append((known[id(loop)][0], digest(loop)))
        return notes

    patch.setattr(FunctionProgram, "fold", staticmethod(of_function))
    patch.setattr(FunctionLoop, "fold", of_function)
    patch.setattr(SqlLog, "append", appended)
    patch.setattr(SqlLog, "transact", transacted)
    patch.setattr(RunIO, "sure", checked)
    patch.setattr(Owners, "beat", beating)
    patch.setattr(NetworkLoop, "fold", folding)
    patch.setattr(AgentsProgram, "fold", staticmethod(folded))
