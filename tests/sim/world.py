"""The simulated world: processes with runtimes of their own on one store, users, and what goes wrong.

One seed decides everything: `World(Plan.of(seed)).run()` gives the same log each time, byte by byte.
"""

import asyncio
import gc
import logging
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from perdure import Conflict, RunCancelled, RunFailed, Runtime
from perdure.agents import function_program, handle
from perdure.db import transaction
from perdure.db.database import StoreError
from perdure.durable import retry, threads
from perdure.log import owners
from perdure.testing.clockwork import ProcessLoop, Turns
from perdure.testing.inline import InlineDatabase, Killed, cut
from perdure.types import ids
from perdure.types.errors import RunError
from tests.sim.desk import BY_NAME, DEFINITIONS
from tests.sim.forked import Readings
from tests.sim.forking import Forking
from tests.sim.jobs import EARLY, JOBS
from tests.sim.ledger import TABLES
from tests.sim.people import People
from tests.sim.plan import Plan, Trouble
from tests.sim.store import EPOCH, Faulty, error_of

TIMING = owners.Timing()
TROUBLED = 12.0
"""Until when things go wrong; from then on everything must come to its end."""
PATIENCE = 400.0
"""Virtual seconds after which a run that is not over is stuck."""


class Effect(NamedTuple):
    """Something that was done to the outside."""

    kind: str
    run: str
    key: str
    mark: str
    owner: str


class SimLock:
    """The lock file of a process: free when the process is gone, unless its machine went with it."""

    def __init__(self, process: "Process", owner: str) -> None:
        self.host = f"host{process.host}"
        self.path = Path("/locks") / owner
        self.held = process.world.held
        self.held.add(owner)

    def close(self, *, remove: bool) -> None:
        self.held.discard(self.path.name)


class Clock:
    """A process's clock; its wall clock may be wrong by an hour."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    def now(self) -> float:
        return self._process.world.time() + self._process.skew

    def monotonic(self) -> float:
        return self._process.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Process:
    """One process from its start to its death.

    Args:
        world: where it lives.
        number: its place among the processes; the one after it has the same.
    """

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.host = number % world.plan.hosts
        self.loop = ProcessLoop(world.turns, world.chance.uniform(0, 1000))
        self.loop.process = self
        self.skew = world.skews.get(number, 0.0)
        self.connections: list[Any] = []
        self.runtime: Runtime | None = None
        self.owner = ""
        self.beaten = 0.0
        self._listening: asyncio.Future[bool] | None = None
        self._main = self.loop.spawn(self._live())

    async def _live(self) -> None:
        self._stopping = asyncio.Event()
        definitions: list[Any] = [*DEFINITIONS, *(JOBS if self.world.plan.jobs else ())]
        runtime = Runtime("sqlite:///unused.db", definitions, timing=TIMING)
        runtime.db = InlineDatabase(self, self.world.path, self.world.time)
        runtime.clock = Clock(self)  # type: ignore[assignment]
        try:
            async with runtime:
                self.runtime = runtime
                self.owner = runtime.worker.owners.id
                self.world.processes_by_owner[self.owner] = self
                self.world.subscribed = self.world.subscribed or self.world.turns.now
                await self._stopping.wait()
                self.runtime = None
        except StoreError:  # it could not be opened: somebody starts it again
            pass
        self.loop.alive = False
        self.world.gone(self)

    def stop(self) -> None:
        """End it in order."""
        if self.runtime is not None:
            self.loop.within(self._stopping.set)

    def kill(self, *, machine: bool) -> None:
        """End it at once; with its machine, its lock file is not seen to be free."""
        if not self.loop.alive:
            return
        self.loop.alive = False
        self.runtime = None
        for one in self.connections:
            cut(one)
        if self.owner and not machine:
            self.world.held.discard(self.owner)
        self.world.gone(self)

    def pause(self, seconds: float) -> None:
        """Stop it as SIGSTOP does, and let it go on later."""
        if self.loop.alive and not self.loop.paused:
            self.loop.paused = True
            self.world.turns.after(seconds, self.wake)

    def wake(self) -> None:
        self.loop.paused = False
        self.world.woken = self.world.turns.now
        self.loop.woken = self.world.turns.steps

    # -- what the process asks the world for -------------------------------------------------------------------------

    def opened(self, connection: Any, *, writes: bool) -> Any:
        self.connections.append(connection)
        return Faulty(self, connection, writes=writes)

    def latency(self) -> float:
        return self.world.chance.expovariate(1) * self.world.plan.slowness

    def fault(self, where: str, *, writes: bool) -> str | None:
        """Say what goes wrong with the store here, if anything; the process may die of it."""
        world = self.world
        if world.calm:
            return None
        chance = world.chance
        if writes and world.plan.deaths and chance.random() < world.plan.deaths / 4:
            self.kill(machine=chance.random() < 0.3)
            raise Killed
        if not world.plan.faults or where in ("committed", "rollback", "undo"):
            return None
        if chance.random() >= world.plan.faults / (8 if where == "execute" else 1):
            return None
        if where != "commit":
            return chance.choice(("busy", "io")) if where == "begin" else chance.choice(("full", "io"))
        return chance.choice(("full", "lost", "kept")) if writes else "kept"

    def effect(self, kind: str, run: str, key: str, mark: str) -> None:
        """Something is done to the outside; nothing whose record exists is done again."""
        if self.loop.alive:
            self.world.effect(self, Effect(kind, run, key, mark, self.owner))

    def transacts(self, run: str, key: str) -> None:
        """A user's code is called in a transaction; never when its record is there."""
        self.world.transacts(self, run, key)

    def trouble(self) -> None:
        """Let the store fail, or the process die, in the middle of a user's code."""
        fault = self.fault("execute", writes=True)
        if fault is not None:
            raise error_of("SQLITE_FULL" if fault == "full" else "SQLITE_IOERR_WRITE")

    async def hear(self, seconds: float) -> bool:
        """Wait until another process has written; a word may be lost."""
        self._listening = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                return await self._listening
        except TimeoutError:
            return False
        finally:
            self._listening = None

    def told(self) -> None:
        if self._listening is not None and self.loop.alive and self.world.chance.random() > 0.1:
            self.loop.call_later(self.latency() + 0.01, self._hears, self._listening)

    def _hears(self, future: "asyncio.Future[bool]") -> None:
        if not future.done():
            future.set_result(True)


class World:
    """Everything that there is.

    Args:
        plan: what happens.
        calm: whether nothing goes wrong and messages come one after another, to compare with.
        order: then, in which order the messages come.
    """

    def __init__(self, plan: Plan, *, calm: bool = False, order: tuple[str, ...] = ()) -> None:
        self.plan = plan
        self.calm = calm
        self.order = order
        self.chance = Random(f"world {plan.seed}")
        self.turns = Turns(self.chance)
        self.held: set[str] = set()
        self.skews: dict[int, float] = {}
        self.processes: list[Process | None] = [None] * plan.processes
        self.everybody: list[Process] = []
        self.processes_by_owner: dict[str, Process] = {}
        self.effects: list[Effect] = []
        self.wrong: list[str] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.taken: set[tuple[str, str]] = set()
        self.answers: dict[tuple[str, str], set[str]] = {}
        self.cancels: list[tuple[str, str, bool]] = []
        self.appended: list[tuple[str, str, str | None, bytes]] = []
        self.owned: list[tuple[str, str, int, int]] = []
        self.checked: dict[tuple[str, str], int] = {}
        self.folded: dict[tuple[str, str | None, bytes, float], list[tuple[int, bytes]]] = {}
        self.people = People(self)
        self.forking = Forking(self)
        self.readings = Readings()
        self.subscribed = 0.0
        self.ended = 0.0
        self.rested: dict[tuple[str, str], float] = {}
        self.claimed = 0
        self.finished = False
        self.woken = 0.0
        self._open = 0
        self._eye: sqlite3.Connection | None = None

    # -- the course of things ----------------------------------------------------------------------------------------

    def time(self) -> float:
        """The store's time, in seconds since the epoch."""
        return EPOCH + self.turns.now + (EARLY if self.plan.jobs else 0.0)

    def run(self) -> "World":
        """Let the plan happen, and everything come to its end."""
        shared = Path("/dev/shm")
        gc_was_on = gc.isenabled()
        gc.disable()
        log = logging.getLogger("perdure")
        disabled, log.disabled = log.disabled, True
        try:
            with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder, self._patched():
                self.path = f"{folder}/store.db"
                with closing(sqlite3.connect(self.path)) as store, store:
                    for statement in TABLES:
                        store.execute(statement)
                self._begin()
                self.finished = self.turns.run(self._over, TROUBLED + PATIENCE)
                for one in self.everybody:
                    self.wrong += [f"unseen: {seen}" for seen in one.loop.unseen]
                    one.loop.bury()
                if self._eye is not None:
                    self._eye.close()
                self.ended = self.turns.now
                self.store = _Store(self.path)
                if self.store.reread:
                    asyncio.run(self.readings.read(self.path, self.store.reread, list(self.store.definition)))
        finally:
            log.disabled = disabled
            if gc_was_on:
                gc.enable()
        return self

    def _begin(self) -> None:
        plan, turns = self.plan, self.turns
        for number in range(plan.processes):
            turns.at(0.0 if not number else self.chance.uniform(0, 3), lambda number=number: self._start(number))
        self._open = len(plan.asks)
        self.people.begin()
        self.forking.begin()
        for news in plan.news:
            self._open += 1 if self.calm else news.times
            for _ in range(1 if self.calm else news.times):
                turns.at(news.at, lambda news=news: self.people.announce(news))
        if self.calm:
            turns.at(0.0, lambda: self._next_ask(0))
            return
        for ask in plan.asks:
            self._open += ask.times - 1
            for _ in range(ask.times):
                turns.at(ask.at, lambda ask=ask: self._deliver(ask))
        for trouble in plan.troubles:
            turns.at(trouble.at, lambda trouble=trouble: self._meet(trouble))
        turns.at(TROUBLED, self._calm_down)

    def _start(self, number: int) -> None:
        if self.processes[number] is None:
            process = self.processes[number] = Process(self, number)
            self.everybody.append(process)
            self.turns.loops.append(process.loop)

    def gone(self, process: Process) -> None:
        """A process has ended; another one takes its place after a while."""
        self.processes[process.number] = None
        self.turns.loops.remove(process.loop)
        later = self.chance.choice((0.1, 2.0, 20.0))
        self.turns.after(later, lambda: self._start(process.number))

    def _calm_down(self) -> None:
        self.calm = True

    def _over(self) -> bool:
        if self._open or not (self.calm or self.turns.now > TROUBLED):
            return False
        if self.turns.steps % 50 or any(one.loop.paused for one in self.everybody if one.loop.alive):
            return False
        if self.turns.now < self.woken + 3:  # who wakes up last shall have time to do something wrong
            return False
        return not self.look(  # a child whose parent was given up goes on when somebody resumes that
            "SELECT 1 FROM runs r WHERE status IN ('queued', 'running', 'waiting') AND NOT EXISTS "
            "(SELECT 1 FROM runs p WHERE p.container = r.container AND p.id = r.parent AND p.status = 'parked') LIMIT 1"
        )

    def look(self, text: str, *params: str) -> list[Any]:
        """What is committed now."""
        if self._eye is None:
            self._eye = sqlite3.connect(self.path, isolation_level=None)
        return self._eye.execute(text, params).fetchall()

    def _meet(self, trouble: Trouble) -> None:
        process = self.processes[trouble.process]
        if process is None:
            return
        if trouble.kind == "kill":
            process.kill(machine=self.chance.random() < 0.3)
        elif trouble.kind == "pause":
            process.pause(trouble.amount)
        elif trouble.kind == "stop":
            process.stop()
        elif trouble.kind == "jump":
            process.skew += trouble.amount
            self.skews[process.number] = process.skew  # who comes next on this machine has the same clock
        elif self.taken:
            container, run = self.chance.choice(sorted(self.taken))
            if process.runtime is not None:
                process.loop.spawn(self._cancel(process, container, run))

    # -- users -------------------------------------------------------------------------------------------------------

    def _next_ask(self, number: int) -> None:
        if number < len(self.order):
            ask = next(one for one in self.plan.asks if one.run == self.order[number])
            self._deliver(ask, number)

    def somebody(self, chance: Random) -> Process | None:
        """A process that is at work."""
        ready = [one for one in self.processes if one is not None and one.runtime is not None and not one.loop.paused]
        return chance.choice(ready) if ready else None

    def _deliver(self, ask: Any, number: int | None = None) -> None:
        process = self.somebody(self.chance)
        if process is None:
            self.turns.after(0.5, lambda: self._deliver(ask, number))
            return
        # the user asks again when there is no answer, as users do
        waiting = [True]
        process.loop.spawn(self._ask(process, ask, waiting, number))
        if number is None:
            self._watch(process, ask, waiting)

    def opened(self, count: int) -> None:
        """Something more is to come to its end, or has."""
        self._open += count

    def _watch(self, process: Process, ask: Any, waiting: list[bool]) -> None:
        if not waiting[0]:
            return
        if process.loop.alive:
            self.turns.after(1.0, lambda: self._watch(process, ask, waiting))
        else:
            self._deliver(ask)

    async def _ask(self, process: Process, ask: Any, waiting: list[bool], number: int | None) -> None:
        assert process.runtime is not None
        container = process.runtime.container(ask.container)
        definition: Any = BY_NAME[ask.definition]
        again = False
        try:
            run = await container.start(definition, ask.rounds, session_id=ask.session, run_id=ask.run)
            self.taken.add((ask.container, ask.run))
            if number is not None or self.chance.random() < 0.7:
                result = await run.result()
                self.answers.setdefault((ask.container, ask.run), set()).add(str(result.output))
        except (RunCancelled, RunFailed):
            pass
        except (StoreError, RunError, Conflict) as error:
            if isinstance(error, Conflict):
                self.wrong.append(f"a user was told: {error}")
            again = True
        waiting[0] = False
        if again and (ask.container, ask.run) not in self.taken:
            self.turns.after(0.5, lambda: self._deliver(ask))
            return
        self._open -= 1
        if number is not None:
            self._next_ask(number + 1)

    async def _cancel(self, process: Process, container: str, run: str) -> None:
        assert process.runtime is not None
        try:
            await process.runtime.container(container).cancel(run)
        except StoreError:
            return
        ((status,),) = self.look("SELECT status FROM runs WHERE container = ? AND id = ?", container, run)
        self.cancels.append((container, run, status in ("queued", "running", "waiting")))

    # -- what is told to the world -----------------------------------------------------------------------------------

    def times(self, what: str, run: str, key: str) -> int:
        """How often something was tried, this time included."""
        self.counts[what, run, key] += 1
        return self.counts[what, run, key]

    def fails(self, run: str, key: str) -> bool:
        """Whether a model fails now: some of its answers come only at the second or third attempt."""
        most = Random(f"model {self.plan.seed} {run} {key}").choice((0, 0, 0, 0, 1, 2))
        return not self.calm and self.times("model", run, key) <= most

    def fails_to_undo(self, run: str, key: str) -> bool:
        """Whether undoing something fails now: at the first time, in some places."""
        at_first = Random(f"undo {self.plan.seed} {run} {key}").random() < 0.3
        return not self.calm and self.times("undo", run, key) == 1 and at_first

    def committed(self, process: Process, *, writes: bool) -> None:
        if writes and self.plan.jobs:
            for lane, count, most in self.look(
                "SELECT r.definition, COUNT(*), f.most FROM runs r JOIN functions f ON f.name = r.definition "
                "WHERE f.most IS NOT NULL AND r.status = 'running' AND r.cancelled = 0 GROUP BY r.definition"
            ):
                if count > most:
                    self.wrong.append(f"{count} runs of {lane} are active at once, and {most} may be")
        if writes:
            for one in self.processes:
                if one is not None and one is not process:
                    one.told()

    def claims(self, process: Process, run: str) -> None:
        """A process takes a run: never from one that is well."""
        ((status, owner),) = self.look("SELECT status, owner FROM runs WHERE id = ?", run)
        self.claimed += 1
        before = self.processes_by_owner.get(owner)
        if status != "running" or before is None or before is process or not before.loop.alive or before.loop.paused:
            return
        if owner not in self.held:
            return  # it is closing, and has let go of its lock when it did nothing more: it need not be dead first
        age = self.turns.now - before.beaten
        if age < TIMING.death / 2:
            self.wrong.append(f"{run} was taken from {owner}, which had beaten {age:.2f} s ago")

    def effect(self, process: Process, effect: Effect) -> None:
        self.effects.append(effect)
        closed: Any = self.look("SELECT 1 FROM records WHERE run = ? AND key = ?", effect.run, effect.key)
        rows = self.look("SELECT owner, container FROM runs WHERE id = ?", effect.run)
        if rows and not closed and self.forking.made:
            closed = self.forking.inherits(rows[0][1], effect.run, effect.key)
        stale = not rows or rows[0][0] != process.owner
        if not (closed or stale):
            return
        # between the last look at the token and the effect the process may have been stopped: nobody can prevent that
        if self.checked.get((process.owner, effect.run), -1) > process.loop.woken:
            why = "after its record" if closed else f"by {process.owner}, while {rows} had the run"
            self.wrong.append(f"{effect.kind} {effect.run} {effect.key} was done {why}")

    def transacts(self, process: Process, run: str, key: str) -> None:
        self.effects.append(Effect("transaction", run, key, key, process.owner))
        if self.look("SELECT 1 FROM records WHERE run = ? AND key = ?", run, key):
            self.wrong.append(f"the transaction {run} {key} was called after its record")

    def rests(self, run: str, place: str) -> None:
        """A body has been entered that sleeps."""
        self.rested.setdefault((run, place), self.turns.now)

    def wakes(self, run: str, place: str, seconds: float) -> None:
        """r16: it goes on, and never too early, as far as a process can know the store's time."""
        if self.look("SELECT 1 FROM sessions WHERE fork_run = ?", run):
            return  # the run that it goes on from may have slept there already, for as long as that one wanted
        slept = self.turns.now - self.rested[run, place]
        if slept < seconds - 20 * self.plan.slowness - 0.01:
            self.wrong.append(f"{run} {place} slept {slept:.3f} s instead of {seconds}")

    # -- chance, time, threads and locks of the simulated processes --------------------------------------------------

    @contextmanager
    def _patched(self) -> Iterator[None]:
        from tests.sim.watch import watch

        chance = Random(f"ids {self.plan.seed}")
        system = SimpleNamespace(urandom=chance.randbytes, getpid=os.getpid)

        def lock(owner: str) -> SimLock:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, ProcessLoop)
            return SimLock(loop.process, owner)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ids, "os", system)
            patch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: int(self.time() * 1e9)))
            patch.setattr(ids, "_stock", [])
            patch.setattr(retry, "random", chance)
            patch.setattr(threads, "threading", SimpleNamespace(Thread=_Thread))
            patch.setattr(transaction, "SQLITE_SECONDS", 1000.0)  # this machine may be slow
            patch.setattr(function_program, "LONG", 1.5)  # so that some rests before another attempt are waits
            patch.setattr(handle, "_going_on", set())  # a process that was killed leaves runs that are never over
            patch.setattr(owners, "LockFile", lock)
            patch.setattr(owners, "_is_free", lambda path: path.name not in self.held)
            watch(self, patch)
            yield


class _Thread:
    """A thread of a simulated process: its work is done at once, some time later."""

    def __init__(self, target: Any, name: str, daemon: bool) -> None:
        self._target = target

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        loop.call_later(loop.process.latency(), self._target)


class _Store:
    """What is in the store at the end."""

    def __init__(self, path: str) -> None:
        with sqlite3.connect(path) as store:
            self.records = store.execute(
                "SELECT r.container, r.session, r.seq, r.run, r.key, r.kind, COALESCE(r.payload, b.payload), "
                "r.created_at, r.version FROM records r LEFT JOIN blobs b ON b.slot = r.slot ORDER BY r.slot"
            ).fetchall()
            self.runs = store.execute(
                "SELECT container, id, session, status, position, epoch, owner, definition, parent FROM runs"
            ).fetchall()
            self.definition = {(one[0], one[1]): str(one[7]) for one in self.runs}
            self.forks: dict[tuple[str, str], tuple[str, int, str | None, str | None]] = {
                (container, id): (base, seq, origin, run)
                for container, id, base, seq, origin, run in store.execute(
                    "SELECT container, id, base, base_seq, base_run, fork_run FROM sessions WHERE base IS NOT NULL"
                )
            }
            rewound = store.execute("SELECT DISTINCT container, session FROM records WHERE kind = 'rewound'").fetchall()
            self.reread = sorted({*self.forks, *rewound})
            self.schedules = store.execute("SELECT next_at FROM functions WHERE cron IS NOT NULL").fetchall()
            self.ledger = store.execute("SELECT run, key, said FROM ledger").fetchall()
            self.waiters = store.execute(
                "SELECT w.container, w.id, w.run FROM waiters w "
                "JOIN runs r ON r.container = w.container AND r.id = w.run "
                "WHERE r.status IN ('completed', 'failed', 'cancelled')"
            ).fetchall()
            self.events = store.execute("SELECT container, id, name, data, at, number FROM events").fetchall()
            self.since = {
                (container, run): number
                for container, run, number in store.execute("SELECT container, id, event FROM runs")
            }
            ((self.total,),) = store.execute("SELECT rows FROM total").fetchall()
            self.check = store.execute("PRAGMA integrity_check").fetchone()[0]
        store.close()
