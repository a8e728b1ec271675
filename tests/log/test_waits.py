"""Waits in the log: whatever comes in whatever order, each ends as a simple model says, and once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure.db.database import Database
from perdure.log.log import Entry, NewRun, Token
from perdure.log.sql import SqlLog
from perdure.types import records as rec
from perdure.types.errors import Conflict, DefinitionError, InvalidId, UnknownName
from perdure.types.matching import check_match, matches, probe, probes
from perdure.types.sent_event import SentEvent
from perdure.types.waits import Answer, Approve, Elapsed, EventWait, Question, Received, Timer, Wait, WaitAnswer
from tests.log.stores import log_of, opened

RUNS = ("r1", "r2")
START = 1_000.0

runs = st.sampled_from(RUNS)
places = st.sampled_from(["a", "b", "c", "d"])
names = st.sampled_from(["x", "y"])
values = st.integers(0, 1)
wanted = st.one_of(
    st.tuples(st.just("event"), places, names, st.none() | values, st.none() | st.integers(1, 3)),
    st.tuples(st.just("question"), places, st.none() | st.integers(1, 3)),
    st.tuples(st.just("timer"), places, st.integers(0, 3)),
)
steps = st.one_of(
    st.tuples(st.just("rest"), runs, st.lists(wanted, min_size=1, max_size=3, unique_by=lambda one: one[1])),
    st.tuples(st.just("rest"), runs, st.lists(wanted, min_size=1, max_size=3, unique_by=lambda one: one[1])),
    st.tuples(st.just("send"), st.lists(st.tuples(names, values), min_size=1, max_size=2)),
    st.tuples(st.just("answer"), runs, places, st.sampled_from(["yes", "no"])),
    st.tuples(st.just("pass"), st.integers(1, 2)),
    st.tuples(st.just("cancel"), runs),
    st.tuples(st.just("finish"), runs),
)


def id_of(run: str, place: str) -> str:
    return f"{run}~wait_{place}"


class Model:
    """What must happen, said in lists and dicts."""

    def __init__(self) -> None:
        self.now = START
        self.events: list[SentEvent] = []
        self.status: dict[str, str] = dict.fromkeys(RUNS, "running")
        self.open: dict[str, Wait] = {}
        self.answers: dict[str, WaitAnswer] = {}
        self.early: dict[str, WaitAnswer] = {}
        self.cancelled: set[str] = set()
        self.made: dict[str, Wait] = {}

    def end(self, wait: str, answer: WaitAnswer) -> None:
        run = wait.partition("~")[0]
        self.open.pop(wait, None)
        self.answers[wait] = answer
        if self.status[run] == "waiting":
            self.status[run] = "queued"

    def used(self, run: str) -> set[str]:
        mine = [one for wait, one in self.answers.items() if wait.startswith(f"{run}~")]
        return {one.event.id for one in mine if isinstance(one, Received)}

    def rest(self, run: str, waits: list[Wait]) -> None:
        came = False
        for wait in waits if run not in self.cancelled else ():
            answer = self.early.pop(wait.id, None)
            if answer is not None and not isinstance(wait, Question):
                answer = None
            if answer is None and isinstance(wait, EventWait):
                fits = [one for one in self.events if one.name == wait.name and matches(wait.match, one.data)]
                answer = next((Received(one) for one in fits if one.id not in self.used(run)), None)
            if answer is None and wait.expires is not None and wait.expires <= self.now:
                answer = Elapsed()
            if answer is None:
                self.open[wait.id] = wait
            else:
                self.answers[wait.id] = answer
                came = True
        self.status[run] = "running" if came else "waiting"

    def send(self, event: SentEvent) -> None:
        self.events.append(event)
        used: set[str] = set()
        for id, wait in list(self.open.items()):
            run = id.partition("~")[0]
            fits = isinstance(wait, EventWait) and wait.name == event.name and matches(wait.match, event.data)
            if fits and run not in used:
                used.add(run)
                self.end(id, Received(event))

    def answer(self, wait: str, answer: WaitAnswer) -> str:
        run = wait.partition("~")[0]
        found = self.open.get(wait)
        if found is not None:
            if not isinstance(found, Question):
                return "DefinitionError"
            self.end(wait, answer)
            return "taken"
        if self.status[run] in ("completed", "cancelled"):
            return "late"
        first = self.answers.get(wait, self.early.get(wait))
        if first is None:
            self.early[wait] = answer
            return "early"
        if first != answer:
            return "late"
        return "taken" if wait in self.answers else "early"

    def over(self, run: str) -> None:
        for id in [id for id in self.open if id.startswith(f"{run}~")]:
            del self.open[id]


class Side:
    """The log, and who owns its runs."""

    def __init__(self, log: SqlLog) -> None:
        self.log = log
        self.tokens: dict[str, Token] = {}
        self.seen: dict[str, int] = {}
        self.rounds = 0

    async def begin(self) -> None:
        for run in RUNS:
            accepted = await self.log.accept(NewRun(run, f"s{run}", "A"), rec.RunStarted("A", "agent", ()))
            assert accepted.token is not None
            self.tokens[run], self.seen[run] = accepted.token, accepted.head

    async def own(self, run: str) -> bool:
        """Own a run, if it can be had, with everything folded that it has."""
        if (await self.log.run(run)).status == "queued":
            claimed = await self.log.claim(run)
            assert claimed is not None
            self.tokens[run], self.seen[run] = claimed
        if (await self.log.run(run)).status != "running":
            return False
        self.seen[run] = await self.log.head(f"s{run}")
        return True

    async def rest(self, run: str, waits: list[Wait]) -> None:
        self.rounds += 1
        opened = Entry(f"k/wait/{self.rounds}", rec.WaitOpened("A", tuple(waits)))
        last = await self.log.append(self.tokens[run], [opened], "waiting", seen=self.seen[run])
        assert (last > self.seen[run] + 1) == ((await self.log.run(run)).status == "running")


@pytest.fixture(params=["sqlite", "postgres"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    async with opened(url, "normal") as db:
        yield db


def made(run: str, what: Any, now: float) -> Wait:
    kind, place, *rest = what
    id = id_of(run, place)
    if kind == "timer":
        return Timer(id, run, now + rest[0])
    expires = None if rest[-1] is None else now + rest[-1]
    if kind == "question":
        return Question(id, "?", run, expires=expires)
    return EventWait(id, rest[0], run, {} if rest[1] is None else {"n": rest[1]}, None, expires)


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
orders = st.lists(steps, min_size=4, max_size=20)


TWO = [("rest", "r1", [("event", "a", "x", None, None), ("event", "b", "x", None, None)]), ("send", [("x", 0)])]


@settings(max_examples=60, suppress_health_check=QUIET)
@given(done=orders)
@example(done=TWO)
async def test_r17_waits_end_as_a_simple_model_says(tmp_path: Path, done: list[Any]) -> None:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", "normal") as db:
        await follow(db, done)


@settings(max_examples=10, suppress_health_check=QUIET)
@given(done=orders)
async def test_r17_waits_end_as_a_simple_model_says_on_postgres(postgres_url: str, done: list[Any]) -> None:
    async with opened(postgres_url) as db:
        await follow(db, done)


async def follow(db: Database, done: list[Any]) -> None:
    """Do what an order says, and compare the log with the model after each step."""
    model, side = Model(), Side(log_of(db, container=uuid4().hex))
    log = side.log
    await side.begin()
    for what, *rest in done:
        db.clock = repr(model.now)  # type: ignore[misc]
        if what == "rest" and await side.own(rest[0]):
            run = rest[0]
            model.status[run] = "running"
            fresh = [made(run, one, model.now) for one in rest[1]]
            known = [model.made.setdefault(one.id, one) for one in fresh]  # a place always has the same wait
            waits = [one for one in known if one.id not in model.answers]
            if waits:
                await side.rest(run, waits)
                model.rest(run, waits)
        elif what == "send":
            events = [SentEvent(name, {"n": n}, uuid4().hex, model.now) for name, n in rest[0]]
            assert await log.send(events) == events
            for one in events:
                model.send(one)
        elif what == "answer":
            try:
                given = await log.answer(id_of(*rest[:2]), Answer(rest[2]))
            except DefinitionError as error:
                given = type(error).__name__
            assert given == model.answer(id_of(*rest[:2]), Answer(rest[2]))
        elif what == "pass":
            model.now += rest[0]
            db.clock = repr(model.now)  # type: ignore[misc]
            due = [id for id, one in model.open.items() if one.expires is not None and one.expires <= model.now]
            assert await log.due() == len(due)
            for id in due:
                model.end(id, Elapsed())
        elif what == "cancel" and model.status[rest[0]] not in ("completed", "cancelled"):
            await log.post(rest[0], rec.CancelAsked())
            model.cancelled.add(rest[0])
            model.over(rest[0])
        elif what == "finish" and await side.own(rest[0]):
            status: Any = "cancelled" if rest[0] in model.cancelled else "completed"
            await log.append(side.tokens[rest[0]], [Entry(None, rec.RunFinished(status, "answer"))])
            model.status[rest[0]] = status
            model.over(rest[0])
        await compare(log, model)


async def compare(log: SqlLog, model: Model) -> None:
    assert {one.id for one in await log.waits()} == set(model.open)
    for run in RUNS:
        status = (await log.run(run)).status
        assert status == model.status[run], run
        found = [one.payload for one in await log.read_run(run) if isinstance(one.payload, rec.Answered)]
        ended = {id: one for id, one in model.answers.items() if id.startswith(f"{run}~")}
        assert ({one.wait_id: one.answer for one in found}, len(found)) == (ended, len(ended)), "each once"


async def test_d15_an_answer_that_came_before_its_wait_is_found_and_one_that_does_not_fit_is_late(db: Database):
    log = log_of(db)
    side = Side(log)
    await side.begin()
    assert await log.answer("r1~wait_a", Answer("x")) == "early"
    assert await log.answer("r1~wait_b", Approve()) == "early"
    await side.rest("r1", [Question("r1~wait_a", "?", "r1"), Question("r1~wait_b", "?", "r1")])
    assert [one.id for one in await log.waits()] == ["r1~wait_b"]
    assert await log.late("r1") == [("r1~wait_b", Approve())]
    assert await log.answer("r1~wait_a", Answer("x")) == "taken", "the same answer again"
    assert await log.answer("r1~wait_a", Answer("z")) == "late"


async def test_an_answer_to_no_wait_of_no_run_is_refused(db: Database):
    log = log_of(db)
    with pytest.raises(UnknownName, match="no run named 'ghost'"):
        await log.answer("ghost~wait_a", Answer("x"))
    with pytest.raises(InvalidId, match="not the id of a wait"):
        await log.answer("ghost", Answer("x"))


async def test_events_are_kept_as_long_as_somebody_may_wait_for_them(db: Database):
    log = log_of(db)
    db.clock = repr(START)  # type: ignore[misc]
    await log.send([SentEvent("x", {}, "before")])
    await Side(log).begin()
    await log.send([SentEvent("x", {}, f"e{n}") for n in range(3)])
    assert await log.forget_events() == 0, "too young"
    db.clock = repr(START + 90_000)  # type: ignore[misc]
    assert await log.forget_events() == 1, "only what is older than every open run"
    for run in RUNS:
        await log.post(run, rec.CancelAsked())
        claimed = await log.claim(run, dead=["one"])
        assert claimed is not None
        await log.append(claimed[0], [Entry(None, rec.RunFinished("cancelled", "cancelled"))])
    assert [await log.forget_events(1), await log.forget_events(1), await log.forget_events(1)] == [1, 1, 0]
    assert await log.event("e2") is not None, "the last one stays, so that its number is not given again"


async def test_r17_processes_that_send_wait_and_end_waits_at_once_lose_nothing(
    request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path
):
    for url in (postgres_url, f"sqlite:///{tmp_path}/waits.db"):
        async with opened(url) as db:
            file = Path(__file__).parent / "waiting.py"
            root = Path(__file__).parents[2]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
            started = [
                await asyncio.create_subprocess_exec(sys.executable, str(file), url, f"p{n}", "4", env=environment)
                for n in range(3)
            ]
            async with asyncio.timeout(100):
                assert [await one.wait() for one in started] == [0, 0, 0]
            assert await log_of(db).waits() == []


data = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.just(1.0) | st.text("ab.", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab.", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["a", "b"]), data), st.lists(st.sampled_from(["a", "b"]), min_size=1), data)
def test_what_matches_is_found_by_its_mark(body: dict[str, Any], path: list[str], value: Any) -> None:
    match = check_match({".".join(path): value})
    marks = probes(body)
    assert marks is not None
    if matches(match, body):
        assert probe(match) in marks
    assert probe({}) in marks and matches({}, body)


def test_values_are_equal_as_json_is():
    assert matches({"a.b": 1}, {"a": {"b": 1.0}})
    assert matches({"a": {"b": [1, None]}}, {"a": {"b": [1.0, None]}})
    for body in ({"a": {"b": True}}, {"a": {"b": "1"}}, {"a": 1}, {"a.b": 1}, {}):
        assert not matches({"a.b": 1}, body)
    assert probes({str(n): n for n in range(2000)}) is None
    for bad in ({"": 1}, {"a..b": 1}, {1: 1}, {"a": object()}, [1], "a"):
        with pytest.raises(DefinitionError, match="match="):
            check_match(bad)
    assert isinstance(Conflict("x"), Exception)
