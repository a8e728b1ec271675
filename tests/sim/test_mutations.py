"""The suite notices when what it guards is broken: each mutation of the code makes one of a few seeds fail."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from perdure.agents import program
from perdure.db.writer import Server
from perdure.durable import effects
from perdure.durable.call_waits import CallWaits
from perdure.durable.run_io import RunIO
from perdure.durable.step import Step
from perdure.log.forks import Forks
from perdure.log.functions import Functions
from perdure.log.owners import Owners
from perdure.log.parts import Part
from perdure.log.sql import SqlLog
from perdure.log.transact import Transactions
from perdure.log.waits import Waits
from tests.sim.check import problems
from tests.sim.mutate import mutated
from tests.sim.plan import Ask, Cut, News, Plan, Trouble
from tests.sim.world import World


def stopped(plan: Plan) -> Plan:
    """Two of three processes are stopped for longer than it takes to be thought dead."""
    chance = Random(plan.seed)
    asks = [ask._replace(at=3.0 + 0.1 * n, times=1, session=None) for n, ask in enumerate(plan.asks)]
    pauses = [Trouble(chance.uniform(3.5, 8), "pause", n, 25.0) for n in range(2)]
    return _quiet(plan, 3, asks, pauses, 0.1)


def failing(plan: Plan) -> Plan:
    """The store fails often, and processes die in it."""
    return _quiet(plan, 2, plan.asks, (), 0.003)._replace(faults=0.1, deaths=0.05)


def doubting(plan: Plan) -> Plan:
    """The store often does not say whether it has committed, also records that no key tells from another."""
    asks = [ask._replace(at=3.0 + 0.1 * n, rounds="shaky,charge|shaky|shaky,charge") for n, ask in enumerate(plan.asks)]
    return _quiet(plan, 2, asks, (), 0.003)._replace(faults=0.2)


def dying(plan: Plan) -> Plan:
    """Processes are killed in the middle of what is done once."""
    asks = [
        ask._replace(at=3.0 + 0.1 * n, session=None, rounds="charge,charge|charge") for n, ask in enumerate(plan.asks)
    ]
    return _quiet(plan, 2, asks, [Trouble(3.5 + n, "kill", n % 2) for n in range(4)], 0.05)


def booking(plan: Plan) -> Plan:
    """Rows are written in transactions, which the store often fails in, or does not say whether they are committed."""
    asks = [ask._replace(at=3.0 + 0.1 * n, times=1, session=None, rounds="book") for n, ask in enumerate(plan.asks)]
    return _quiet(plan, 2, asks, (), 0.01)._replace(faults=0.1, deaths=0.03)


def doubted(plan: Plan) -> Plan:
    """Processes are killed in the middle of what can be undone."""
    asks = [
        ask._replace(at=3.0 + 0.1 * n, times=1, session=None, rounds="reserve,stay|stay")
        for n, ask in enumerate(plan.asks)
    ]
    return _quiet(plan, 2, asks, [Trouble(3.2 + n / 3, "kill", n % 2) for n in range(6)], 0.02)


def waiting(plan: Plan) -> Plan:
    """Runs wait for moments by clocks that are wrong, for news, and for people."""
    asks = [
        ask._replace(at=3.0 + 0.3 * n, times=1, session=None, rounds="nap,permit,hear|hear,talk,ask|errand")
        for n, ask in enumerate(plan.asks)
    ]
    jumps = [Trouble(1.0 + n, "jump", n % 2, 3600.0 * (-1) ** n) for n in range(2)]
    return _quiet(plan, 2, asks, [*jumps, Trouble(4.0, "stop", 0), Trouble(6.0, "kill", 1)], 0.003)


def hiring(plan: Plan) -> Plan:
    """Events start functions, more of them than may be active at once, and processes die."""
    asks = [
        ask._replace(at=3.0 + 0.3 * n, times=1, session=None, rounds="order,hire") for n, ask in enumerate(plan.asks)
    ]
    news = tuple(News(3.0 + 0.1 * n, "default", n, 1 + n % 2) for n in range(5))
    troubles = [Trouble(3.5 + n, "kill", n % 2) for n in range(3)]
    return _quiet(plan, 2, asks, troubles, 0.02)._replace(jobs=True, news=news)


def cut(plan: Plan) -> Plan:
    """Sessions and runs are forked, and sessions are rewound, while runs go on in them."""
    asks = [
        ask._replace(at=1.0 + 0.3 * n, times=1, session="s", rounds="charge,trip|hear|trip")
        for n, ask in enumerate(plan.asks)
    ]
    chance = Random(f"cuts {plan.seed}")
    kinds = ("fork", "continuation", "continuation", "rewind")
    cuts = [Cut(2.0 + n, kinds[n % 4], n, "trip", hard=chance.random() < 0.5) for n in range(8)]
    news = tuple(News(1.0 + 0.5 * n, "default", n) for n in range(3))
    return _quiet(plan, 2, asks, (), 0.02)._replace(jobs=True, news=news, cuts=tuple(cuts))


def idle(plan: Plan) -> Plan:
    """Processes have nothing to do until they have been thought dead for long."""
    runs = [ask._replace(run=f"{ask.run}{copy}", session=None) for ask in plan.asks for copy in range(3)]
    asks = [ask._replace(at=13.0 + 0.15 * n, times=1) for n, ask in enumerate(runs)]
    return _quiet(plan, 4, asks, (), 0.15)


def _quiet(plan: Plan, processes: int, asks: Sequence[Ask], troubles: Sequence[Trouble], slowness: float) -> Plan:
    return Plan(plan.seed, processes, 1, tuple(asks), tuple(troubles), 0.0, 0.0, slowness)


def as_it_is(plan: Plan) -> Plan:
    return plan


MUTATIONS: dict[str, tuple[Any, str, str, str, Callable[[Plan], Plan]]] = {
    "the fence: the token is not compared": (
        SqlLog,
        "_fence",
        "FENCED, (self.container, token.session_id, token.run_id, token.epoch, token.nonce)",
        "f'SELECT {LAST_SLOT} FROM sessions WHERE container = ? AND id = ?', (self.container, token.session_id)",
        stopped,
    ),
    "the start record: a `once` tool is entered without one": (
        RunIO,
        "keep",
        "record = self.note(key, payload, sends)",
        "if type(payload).__name__ == 'Started':\n        return\n    record = self.note(key, payload, sends)",
        dying,
    ),
    "the turn: a second run of a session begins at once": (
        SqlLog,
        "accept",
        "free = holder == nonce",
        "free = True",
        as_it_is,
    ),
    "the order: a queued run is claimed before its turn": (
        SqlLog,
        "claim",
        "turn != run_id or not",
        "not",
        as_it_is,
    ),
    "the acknowledgement: callers are answered before the commit": (
        Server,
        "_together",
        "committing = True",
        "committing = True\n        [one.future.set_result(one.value) for one in jobs if one.error is None]",
        failing,
    ),
    "the repetition: an append whose outcome is unknown is made anew": (
        RunIO,
        "_insist",
        "repeat=unknown",
        "repeat=False",
        doubting,
    ),
    "the death: an owner is taken for dead at once": (
        Owners,
        "dead",
        "before_look - seen[id][1] >= self._timing.death",
        "before_look - seen[id][1] >= 0",
        as_it_is,
    ),
    "the death: an owner that has beaten since counts as dead": (
        SqlLog,
        "claim",
        "if rows:\n                return None",
        "if False:\n                return None",
        idle,
    ),
    "the wake: a process that was stopped does not look at its tokens": (
        RunIO,
        "sure",
        "lease.doubtful() or lease.gaps != self._gaps",
        "False",
        stopped,
    ),
    "the joint commit: a transaction's record is committed before its writes": (
        Transactions,
        "transact",
        "return await self.db.write(script)",
        """from tests.sim.ledger import Later
            later = Later(call)
            call = later.note
            result = await self.db.write(script)
            await self.db.write(later.write)
            return result""",
        booking,
    ),
    "the joint commit: a transaction's writes are committed before its record": (
        Transactions,
        "transact",
        "return await self.db.write(script)",
        """def first():
                return (yield Call('first', fn=call))
            rows = await self.db.write(first)
            call = lambda tx: rows[0][0]
            return await self.db.write(script)""",
        booking,
    ),
    "the transaction: its record is not looked for before it is called": (
        Transactions,
        "transact",
        "if rows:",
        "if rows and not self.db.write:",
        booking,
    ),
    "the undoing: it is not recorded": (
        effects,
        "take_back",
        'await io.keep(place, StepDone("undo"))',
        "pass",
        doubted,
    ),
    "the undoing: what is in doubt is done again": (
        effects,
        "perform",
        "once and key in io.tried.open",
        "False",
        doubted,
    ),
    "the waits: whoever ends one does not see whether it is there": (
        Waits,
        "_take_waiter",
        "DELETE FROM waiters WHERE container = ? AND id = ? RETURNING wait",
        "SELECT wait FROM waiters WHERE container = ? AND id = ?",
        waiting,
    ),
    "the waits: an event is used again": (Waits, "_came", "a.late = 0) ", "a.late = 2) ", waiting),
    "the waits: whoever answers later is told that it counts": (
        Waits,
        "answer",
        "late = bool(first or over)",
        "late = bool(over)",
        waiting,
    ),
    "the waits: what came before is not looked for": (
        Waits,
        "_wait",
        "answer = yield from self._came(run_id, wait, used)",
        "pass",
        waiting,
    ),
    "the waits: the machine's clock says when a timer is over": (
        Step,
        "_rest",
        "until(io.kernel.store_now())",
        "until(clock.now())",
        waiting,
    ),
    "the functions: an event starts only one of them": (
        Functions,
        "start_subscribed",
        "for name, most, key in rows:",
        "for name, most, key in rows[:1]:",
        hiring,
    ),
    "the functions: how many are active is not looked at": (
        SqlLog,
        "claim",
        "if run.lane is not None and not (died or cancelled)",
        "if not self.db and not (died or cancelled)",
        hiring,
    ),
    "the functions: who has invoked a run is not told of its end": (
        Functions,
        "tell_above",
        "if (yield from self._take_waiter(end.wait)):",
        "if False:",
        hiring,
    ),
    "the forks: one record more is read than is in the prefix": (
        Part,
        "between",
        "min(before, self.high + 1)",
        "min(before, self.high + 2)",
        cut,
    ),
    "the forks: a continuation does not know what the other run had finished": (
        Part,
        "shown",
        "run_id=self.names.get(record.run_id, record.run_id)",
        "run_id=record.run_id",
        cut,
    ),
    "the forks: what the other run waits for is taken away": (
        CallWaits,
        "recall",
        "if type(record.payload) is Forked:",
        "if False:",
        cut,
    ),
    "the rewinds: runs that are open are not looked at": (
        Forks,
        "mark",
        "raise still_open(session_id, str(id), str(status), payload)",
        "pass",
        cut,
    ),
    "the undoing: the arguments are the model's": (
        program,
        "settle_doubt",
        "started.args if started is not None and started.args is not None else call.input",
        "call.input",
        doubted,
    ),
}
SEEDS = range(200)


def notices(change: Callable[[Plan], Plan]) -> int | None:
    """The first of some seeds that fails."""
    for seed in SEEDS:
        world = World(change(Plan.of(seed))).run()
        try:
            wrong = problems(world)
        except Exception as error:  # a log that cannot even be read
            wrong = [repr(error)]
        if wrong:
            return seed
    return None


@pytest.mark.parametrize("what", MUTATIONS)
def test_what_is_broken_on_purpose_is_noticed(what: str):
    owner, name, old, new, change = MUTATIONS[what]
    with mutated(owner, name, old, new):
        assert notices(change) is not None, f"no seed has noticed: {what}"


@pytest.mark.parametrize("change", [stopped, failing, doubting, dying, booking, doubted, waiting, idle, hiring, cut])
def test_the_same_plans_hold_when_nothing_is_broken(change: Callable[[Plan], Plan]):
    for seed in range(6):
        assert problems(World(change(Plan.of(seed))).run()) == []
