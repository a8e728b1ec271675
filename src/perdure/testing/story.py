"""One story of a run: processes that drive it one after another on one SQLite file, all but the last one killed.

All of it happens in one thread and in virtual time, so that the same seed gives the same story. A process that is
killed never runs again, not even its `finally`; the next one has nothing of it but the file and the outside world.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from perdure.agents import handle
from perdure.agents.outcome import RunResult
from perdure.db.database import Row, Sql
from perdure.db.writer import Connection
from perdure.durable import retry, threads
from perdure.log import owners
from perdure.runtime.runtime import Runtime
from perdure.testing.clockwork import ProcessLoop, Turns
from perdure.testing.inline import InlineDatabase, Killed, cut
from perdure.testing.models import ScriptedModel
from perdure.types import ids
from perdure.types.errors import PerdureError, RunCancelled, RunFailed
from perdure.types.records import Record, decode_payload
from perdure.types.waits import Answer, Approval, Approve, Deny, Question

EPOCH = 1_700_000_000.0
PATIENCE = 3600.0
"""Virtual seconds that a process may take to come to its end."""
STALLED = 600.0
"""Virtual seconds after which calls that are held are taken to keep others from ending."""
TIMING = owners.Timing(death=500.0, beat=100.0, sweep=50.0)
"""Nobody else watches: the lock alone says who is dead, and looking around takes time."""
RUN, SESSION = "run_crash", "session_crash"
When = Literal["before", "after"]
People: TypeAlias = Callable[[Approval | Question], Approve | Deny | Answer | None]
"""Says what people answer to what they are asked; nothing if they do not."""


class Kill(NamedTuple):
    """A process dies at its n-th commit of records, before it or after it, when nobody has been told of it yet."""

    number: int
    when: When

    def told(self, what: str) -> str:
        """Say it in words."""
        after = "" if self.when == "before" else ", before it was acknowledged"
        return f"killed {self.when} commit {self.number}{f' ({what})' if what else ''}{after}"


class Pairing(NamedTuple):
    """A process dies when some calls of a round are recorded, and the others are about to begin or have just ended."""

    recorded: tuple[str, ...]
    others: tuple[str, ...]
    ended: bool

    def told(self, names: Mapping[str, str]) -> str:
        """Say it in words."""
        some = ", ".join(_shown(one, names) for one in self.recorded) or "no call"
        rest = ", ".join(_shown(one, names) for one in self.others)
        return f"killed when {some} was recorded and {rest} had {'ended' if self.ended else 'begun'}"


def _shown(place: str, names: Mapping[str, str]) -> str:
    return f"{names.get(place, 'a call')} at {place.partition(' ')[2]}"


class Called(NamedTuple):
    """A tool or an inner step that was called: by which process, at which place, with which effect; `again` says that
    its record was there."""

    process: int
    run: str
    key: str
    name: str
    effect: str
    mark: str
    again: bool


class Plan(NamedTuple):
    """What all stories of a run share.

    `make` makes the definition for each process, `places` which answers of scripted models belong to which inference,
    as the undisturbed story has found, `people` say what they answer.
    """

    make: Callable[[], Any]
    input: Any
    options: dict[str, Any]
    outside: Callable[[], Any]
    seed: int
    places: dict[tuple[str, str], list[int]]
    people: People | None = None


class Told(NamedTuple):
    """How a story has ended."""

    status: str
    why: str
    records: list[Record]
    calls: list[Called]
    before: Any
    outside: Any
    tables: dict[str, list[Any]]
    commits: list[list[list[str]]]
    done: frozenset[tuple[str, str]]
    killed: int


class _Watched(Connection):
    """The connection that writes, where a process may die."""

    def __init__(self, process: _Process, inner: Connection) -> None:
        self._process = process
        self._inner = inner
        self._places: list[str] = []

    def begin(self) -> None:
        self._places = []
        self._inner.begin()

    def execute(self, statement: Sql) -> list[Row]:
        if not self._process.loop.alive:
            raise Killed
        if statement.text.startswith("INSERT INTO records VALUES"):
            rows = range(0, len(statement.params), _COLUMNS)
            self._places += [f"{statement.params[n + 6]} {statement.params[n + 5] or ''}".strip() for n in rows]
        elif statement.text.startswith("INSERT INTO records"):
            self._places.append("a record of others")
        return self._inner.execute(statement)

    def commit(self) -> None:
        process = self._process
        if not process.loop.alive:
            raise Killed
        if not self._places:
            return self._inner.commit()
        process.commits.append(self._places)
        if process.dies_at("before"):
            process.kill()
            raise Killed
        self._inner.commit()
        if process.dies_at("after") or (process.number == 0 and process.story.met()):
            process.kill()
            raise Killed

    def rollback(self) -> None:
        self._inner.rollback()

    def savepoint(self) -> None:
        self._inner.savepoint()

    def release(self) -> None:
        self._inner.release()

    def undo(self) -> None:
        self._inner.undo()

    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        return self._inner.error(error, committing=committing)

    def close(self) -> None:
        self._inner.close()


_COLUMNS = 11


class _Process:
    def __init__(self, story: Story, number: int, kill: Kill | None) -> None:
        self.story = story
        self.number = number
        self.kill_at = kill
        self.loop = ProcessLoop(story.turns, 0.0)
        self.loop.process = self
        self.commits: list[list[str]] = []
        self.result: RunResult[Any, Any] | None = None
        self.error: BaseException | None = None
        self._connections: list[Connection] = []
        self._owner = ""
        self.main = self.loop.spawn(self._live())

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return not self.loop.alive or self.main.done() or self.result is not None or self.error is not None

    async def _live(self) -> None:
        story = self.story
        plan = story.plan
        definition = plan.make()
        runtime = Runtime("sqlite:///unused.db", [definition], resources=story.resources, timing=TIMING)
        runtime.simulate(InlineDatabase(self, story.path, self.now), self, self)
        async with runtime:
            self._owner = runtime.worker.owners.id
            story.ours = set(vars(runtime.db)["_protected"])
            given: set[str] = set()
            try:
                while True:
                    result = await runtime.run(definition, plan.input, run_id=RUN, session_id=SESSION, **plan.options)
                    if await self._answered(runtime, result, given):
                        continue
                    ends = [one.expires for one in result.waits if one.expires is not None]
                    if not ends:
                        break
                    story.turns.skip(min(ends) - EPOCH)
                    await asyncio.sleep(1)
                self.result = result
            except (RunFailed, RunCancelled) as end:
                self.result, self.error = end.result, end
            except PerdureError as error:
                self.error = error
            await asyncio.get_running_loop().create_future()  # it is not closed: that would write

    async def _answered(self, runtime: Runtime, result: RunResult[Any, Any], given: set[str]) -> bool:
        """Let people answer what they are asked, and say whether they have; whoever asks again is told the same."""
        people = self.story.plan.people
        fresh = [one for one in result.waits if isinstance(one, (Approval, Question)) and one.id not in given]
        answers = [(one.id, answer) for one in fresh if people is not None and (answer := people(one)) is not None]
        for id, answer in answers:
            given.add(id)
            await runtime.container("default").log.answer(id, answer)
        return bool(answers)

    # -- what the runtime asks for -----------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.story.turns.now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        await asyncio.sleep(seconds)

    def latency(self) -> float:
        """How long the store takes for something."""
        return self.story.chance.expovariate(1000)

    def opened(self, connection: Connection, *, writes: bool) -> Connection:
        """Watch a connection that writes."""
        self._connections.append(connection)
        return _Watched(self, connection) if writes else connection

    async def hear(self, seconds: float) -> bool:
        """Nobody else writes."""
        await asyncio.sleep(seconds)
        return False

    # -- what it is seen doing ---------------------------------------------------------------------------------------

    def model(self, run_id: str, key: str, model: Any) -> Any:
        """Let a scripted model give the answer that belongs to the place, however often it is asked."""
        return _Placed(self.story, (run_id, key), model) if isinstance(model, ScriptedModel) else model

    async def asked(self, io: Any, key: str, closing: Any) -> None:
        """It is of no matter who asks for what."""

    async def entering(self, run_id: str, key: str, name: str, effect: str, mark: str) -> None:
        """Note that a tool or step is called, unless it is to be held here."""
        story = self.story
        again = story.recorded(run_id, key)
        await self._gate(run_id, key, ended=False)
        story.calls.append(Called(self.number, run_id, key, name, effect, mark, again))

    async def left(self, run_id: str, key: str) -> None:
        """Note that it has ended, and has no record yet."""
        self.story.done.add((run_id, key))
        await self._gate(run_id, key, ended=True)

    async def _gate(self, run_id: str, key: str, *, ended: bool) -> None:
        pairing = self.story.pairing
        if self.number == 0 and pairing is not None and pairing.ended == ended and f"{run_id} {key}" in pairing.others:
            self.story.held.add(f"{run_id} {key}")
            if self.story.met():
                asyncio.get_running_loop().call_soon(self.kill)
            await asyncio.get_running_loop().create_future()

    # -- its death ---------------------------------------------------------------------------------------------------

    def dies_at(self, when: When) -> bool:
        """Whether it dies now."""
        return self.kill_at == Kill(len(self.commits), when)

    def kill(self) -> None:
        """End it as SIGKILL does."""
        if self.loop.alive:
            self.loop.alive = False
            for one in self._connections:
                cut(one)
            self.story.locks.discard(self._owner)


class Story:
    """A run from its beginning to its end.

    Args:
        plan: what is to be run.
        name: what the story is about; chance follows from it.
        kills: where the processes die, one after another.
        pairing: where the first one dies otherwise.
    """

    def __init__(self, plan: Plan, name: str, kills: Sequence[Kill] = (), pairing: Pairing | None = None) -> None:
        self.plan = plan
        self.chance = Random(f"{plan.seed} {name}")
        self.turns = Turns(self.chance, 2_000_000)
        self.kills = kills
        self.pairing = pairing
        self.held: set[str] = set()
        self.locks: set[str] = set()
        self.calls: list[Called] = []
        self.done: set[tuple[str, str]] = set()
        self.asked: dict[tuple[str, str], int] = {}
        self.path = ""
        self.resources: list[Any] = []
        self.before: Any = None
        self.ours: set[str] = set()
        self._eye: sqlite3.Connection | None = None

    def tell(self) -> Told:
        """Let it happen."""
        shared = Path("/dev/shm")
        was_on = gc.isenabled()
        gc.disable()  # what a dead process has left would run its `finally` when it is collected
        processes: list[_Process] = []
        try:
            with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder, self._instead():
                self.path = f"{folder}/store.db"
                world = self.plan.outside()
                self.before = snapshot(world)
                self.resources = [*cast("tuple[Any, ...]", world)] if isinstance(world, tuple) else [world]
                self._run(processes)
                try:
                    return self._told(processes, world)
                finally:
                    for one in processes:
                        one.loop.bury()
                    if self._eye is not None:
                        self._eye.close()
        finally:
            if was_on:
                gc.enable()

    def _run(self, processes: list[_Process]) -> None:
        deaths: list[Kill | None] = [*self.kills] if self.pairing is None else [None, *self.kills]
        for number in range(len(deaths) + 1):
            process = _Process(self, number, deaths[number] if number < len(deaths) else None)
            processes.append(process)
            self.turns.loops.append(process.loop)
            patience = STALLED if self.pairing is not None and number == 0 else PATIENCE
            self.turns.run(lambda process=process: process.over, self.turns.now + patience)
            if process.loop.alive and not process.main.done() and number < len(deaths):
                if process.result is not None:
                    return  # it has come to its end before
                process.kill()
            self.turns.loops.remove(process.loop)

    def _told(self, processes: list[_Process], world: Any) -> Told:
        last = processes[-1]
        if last.main.done() and not last.main.cancelled() and last.main.exception() is not None:
            last.error = last.main.exception()
        status = last.result.status if last.result is not None else "none"
        rows = self.look("SELECT status FROM runs WHERE id = ?", RUN)
        if last.error is not None and rows:
            status = str(rows[0][0])
        why = str(last.error) if last.error is not None else ""
        if not last.over:
            why = f"it is {rows[0][0] if rows else 'not there'} and does not get on within an hour"
        killed = sum(not one.loop.alive for one in processes)
        tables = self._tables()
        commits = [one.commits for one in processes]
        after, done = snapshot(world), frozenset(self.done)
        return Told(status, why, self._records(), self.calls, self.before, after, tables, commits, done, killed)

    # -- the store ---------------------------------------------------------------------------------------------------

    def look(self, text: str, *params: Any) -> list[Any]:
        """What is committed now."""
        if self._eye is None:
            self._eye = sqlite3.connect(self.path, isolation_level=None)
        return self._eye.execute(text, params).fetchall()

    def recorded(self, run_id: str, key: str) -> bool:
        """Whether a place has its record."""
        return bool(self.look("SELECT 1 FROM records WHERE run = ? AND key = ?", run_id, key))

    def met(self) -> bool:
        """Whether it has come to what the pairing says."""
        if self.pairing is None or self.held != set(self.pairing.others):
            return False
        return all(self.recorded(*one.split(" ", 1)) for one in self.pairing.recorded)

    def failures(self, run_id: str, key: str) -> int:
        """How many attempts of a place are recorded as failed."""
        rows = self.look("SELECT payload FROM records WHERE run = ? AND kind = 'attempt'", run_id)
        return sum(getattr(decode_payload(row[0]), "step", "") == key for row in rows)

    def _records(self) -> list[Record]:
        rows = self.look(
            "SELECT r.seq, r.run, r.session, r.key, COALESCE(r.payload, b.payload), r.created_at, r.version "
            "FROM records r LEFT JOIN blobs b ON b.slot = r.slot ORDER BY r.slot"
        )
        return [Record(seq, run, of, key, decode_payload(data), at, v) for seq, run, of, key, data, at, v in rows]

    def _tables(self) -> dict[str, list[Any]]:
        """What is in the tables that are not Perdure's."""
        names = [str(name) for (name,) in self.look("SELECT name FROM sqlite_master WHERE type = 'table'")]
        mine = [one for one in names if one not in self.ours and not one.startswith("sqlite_")]
        return {name: sorted(map(repr, self.look(f'SELECT * FROM "{name}"'))) for name in mine}

    # -- chance, time, threads and locks -----------------------------------------------------------------------------

    @contextmanager
    def _instead(self) -> Generator[None]:
        """Put what is simulated in the place of the machine, for code that runs in a simulated process."""
        locks = self.locks
        real_lock, real_free, real_thread = owners.LockFile, vars(owners)["_is_free"], threading.Thread

        def lock(owner: str) -> Any:
            if not isinstance(_running(), ProcessLoop):
                return real_lock(owner)
            locks.add(owner)
            return SimpleNamespace(host="simulated", path=Path("/locks") / owner, close=_closed)

        def free(path: Path) -> bool:
            return path.name not in locks if isinstance(_running(), ProcessLoop) else real_free(path)

        def thread(target: Any, name: str, daemon: bool) -> Any:
            loop = _running()
            if not isinstance(loop, ProcessLoop):
                return real_thread(target=target, name=name, daemon=daemon)
            return SimpleNamespace(start=lambda: loop.call_soon(target))

        puts: list[tuple[Any, str, Any]] = [
            (owners, "LockFile", lock),
            (owners, "_is_free", free),
            (threads, "threading", SimpleNamespace(Thread=thread)),
            (retry, "random", Random(f"retry {self.plan.seed}")),
            (ids, "_stock", []),
            (handle, "_going_on", set()),  # what was killed leaves runs that are never over
        ]
        before: list[tuple[Any, str, Any]] = [(module, name, vars(module)[name]) for module, name, _ in puts]
        for module, name, value in puts:
            setattr(module, name, value)
        try:
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)


class _Placed:
    """A scripted model that is asked at one place."""

    def __init__(self, story: Story, place: tuple[str, str], model: ScriptedModel) -> None:
        self._story = story
        self._place = place
        self._model = model
        self.name = model.name
        self.provider = model.provider
        self.capabilities = model.capabilities
        self.prices = model.prices

    def stream(self, request: Any) -> Any:
        """Stream the place's answer; with several attempts, the one behind those that are recorded."""
        story, place, model = self._story, self._place, self._model
        numbers = story.plan.places.setdefault(place, [])
        at = story.failures(*place)
        if at >= len(numbers):
            used = story.asked.get((str(id(model)), ""), 0)
            story.asked[str(id(model)), ""] = used + 1
            numbers.append(used)
        return model.replay(numbers[at], request)


def _closed(*, remove: bool) -> None:
    """A lock of a simulated process is let go when that process is killed."""


def _running() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def snapshot(value: Any) -> Any:
    """What the outside world looks like: plain values, and objects by their fields."""
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return value
    if isinstance(value, Mapping):
        return {key: snapshot(one) for key, one in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(one) for one in cast("Sequence[Any]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted((snapshot(one) for one in cast("frozenset[Any]", value)), key=repr)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        fields = cast("dict[str, Any]", vars(value))
        return {name: snapshot(one) for name, one in fields.items()}
    return repr(value)
