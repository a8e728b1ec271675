"""Two writers, interleaved statement by statement by hand: whoever comes first, the log stays one line."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Literal, TypeVar

import psycopg
import pytest

from perdure.db.database import Exists, Row, Script, StoreBusy
from perdure.log.log import Token
from perdure.log.sql import SqlLog
from perdure.testing.conformance import DONE, claimed, gapless, owned, step
from perdure.types.errors import Conflict
from perdure.types.records import Answered, CancelAsked
from perdure.types.waits import Answer
from tests.log.stores import log_of, opened

T = TypeVar("T")


class Hand:
    """A connection of its own, on which one transaction goes on statement by statement."""

    def __init__(self, address: str) -> None:
        self._sqlite = address.startswith("sqlite")
        self.dialect: Literal["sqlite", "postgres"] = "sqlite" if self._sqlite else "postgres"
        if self._sqlite:
            path = address.removeprefix("sqlite:///")
            self._db: Any = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        else:
            self._db = psycopg.connect(address, autocommit=True)
            self.pid = self._db.info.backend_pid
        self._script: Script[Any] | None = None
        self._next: Any = None
        self._error: Exception | None = None

    # what a log is made over: it hands its script to whoever moves it

    async def write(self, make: Callable[[], Script[T]], *, notify: bool = False, brief: bool = False) -> T:
        raise Handed(make)

    async def read(self, make: Callable[[], Script[T]]) -> T:
        raise AssertionError

    async def take(self, doing: Any) -> None:
        """Take the transaction that a call of the log would make."""
        try:
            await doing
        except Handed as handed:
            self._script = handed.make()
            self._next = next(self._script)

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE" if self._sqlite else "BEGIN", ())

    def step(self) -> bool:
        """Run the next statement; False when the script is over (`value` is then what it gave)."""
        assert self._script is not None
        try:
            rows = self._execute(self._next.text, self._next.params)
        except (sqlite3.IntegrityError, psycopg.errors.UniqueViolation) as error:
            raise Exists(str(error)) from error
        try:
            self._next = self._script.send(rows)
        except StopIteration as end:
            self.value = end.value
            return False
        return True

    def commit(self) -> None:
        self._execute("COMMIT", ())

    def whole(self) -> Any:
        """Go through the whole transaction."""
        self.begin()
        try:
            while self.step():
                pass
        except BaseException:
            self._execute("ROLLBACK", ())
            raise
        self.commit()
        return self.value

    def close(self) -> None:
        self._db.close()

    def _execute(self, text: str, params: Any) -> list[Row]:
        cursor = self._db.execute(text if self._sqlite else text.replace("?", "%s"), tuple(params))
        return cursor.fetchall() if cursor.description else []


class Handed(Exception):
    """A transaction that is to be moved by hand."""

    def __init__(self, make: Callable[[], Script[Any]]) -> None:
        super().__init__()
        self.make = make


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return request.getfixturevalue("postgres_url")


class Both:
    """Two hands on one store, and the log as a third reader sees it."""

    def __init__(self, address: str, log: SqlLog) -> None:
        self.log = log
        self.one, self.other = Hand(address), Hand(address)
        self.as_one = SqlLog(self.one, log.now, "one")  # type: ignore[arg-type]
        self.as_other = SqlLog(self.other, log.now, "two")  # type: ignore[arg-type]
        self.sqlite = address.startswith("sqlite")

    async def race(self, cut: int) -> tuple[Any, Any]:
        """Move `one` past `cut` statements, then let `other` try the whole way, then end both; what each gave."""
        one, other = self.one, self.other
        one.begin()
        more = True
        for _ in range(cut):
            more = more and one.step()
        behind = asyncio.create_task(asyncio.to_thread(self._try, other))
        await self._blocked_or_done(behind)
        await self.no_gap()
        first = self._finish(one, more)
        await self.no_gap()
        second = await behind
        if isinstance(second, StoreBusy):  # SQLite does not let it begin: it comes when the file is free
            second = self._try(other)
        await self.no_gap()
        return first, second

    @staticmethod
    def _finish(one: Hand, more: bool) -> Any:
        try:
            while more:
                more = one.step()
            one.commit()
            return one.value
        except (Conflict, Exists) as error:
            one._execute("ROLLBACK", ())
            return error

    @staticmethod
    def _try(hand: Hand) -> Any:
        try:
            return hand.whole()
        except (Conflict, Exists) as error:
            return error
        except sqlite3.OperationalError as error:
            assert "locked" in str(error)
            with suppress(sqlite3.Error):
                hand._execute("ROLLBACK", ())
            return StoreBusy(str(error))

    async def _blocked_or_done(self, task: asyncio.Task[Any]) -> None:
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        while not task.done():
            if not self.sqlite:
                with psycopg.connect(self.one._db.info.dsn, autocommit=True) as watcher:
                    if watcher.execute(waits, (self.other.pid,)).fetchall():
                        return
            await asyncio.sleep(0)

    async def no_gap(self) -> None:
        assert gapless([one.seq for one in await self.log.read_session("ses_1")])

    def close(self) -> None:
        self.one.close()
        self.other.close()


@pytest.fixture
async def both(address: str) -> AsyncIterator[Both]:
    async with opened(address, "normal") as db:
        both = Both(address, log_of(db))
        yield both
        both.close()


@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("first", ["append", "claim"])
async def test_r02_a_new_owner_folds_all_that_the_old_one_has_written(first: str, cut: int, both: Both) -> None:
    log = both.log
    token = await owned(log)
    append, claim = (both.one, both.other) if first == "append" else (both.other, both.one)
    as_owner, as_new = (both.as_one, both.as_other) if first == "append" else (both.as_other, both.as_one)
    await append.take(as_owner.append(token, [step("k", 1)]))
    await claim.take(as_new.claim("run_1", dead=["one"]))
    gave = await both.race(cut)
    appended, taken = gave if first == "append" else (gave[1], gave[0])
    new, head = taken
    assert new.epoch == 2
    folded = [one.key for one in await log.read_run("run_1") if one.seq <= head]
    kept = [one.key for one in await log.read_run("run_1")]
    if isinstance(appended, int):
        assert folded == [None, "k"], "an acknowledged record that the new owner does not see"
    else:
        assert isinstance(appended, Conflict)
        assert kept == [None], "a refused record is not there"
    await log.append(new, [step("k", 2) if "k" not in kept else step("l")])


@pytest.mark.parametrize("cut", range(5))
async def test_r02_two_writers_of_a_session_get_sequence_numbers_in_the_order_of_their_commits(
    cut: int, both: Both
) -> None:
    log = both.log
    token = await owned(log)
    await both.one.take(both.as_one.append(token, [step("a"), step("b")]))
    await both.other.take(both.as_other.post("run_1", Answered("w", Answer("x"))))
    appended, posted = await both.race(cut)
    assert sorted([appended, posted]) in ([3, 4], [2, 4])
    assert [one.key or one.kind for one in await log.read_run("run_1")] in (
        ["run_started", "a", "b", "answer"],
        ["run_started", "answer", "a", "b"],
    )


@pytest.mark.parametrize("cut", range(5))
@pytest.mark.parametrize("first", ["finish", "cancel"])
async def test_r14_d17_of_a_cancel_and_an_end_exactly_one_wins(first: str, cut: int, both: Both) -> None:
    log = both.log
    token = await owned(log)
    finish, cancel = (both.one, both.other) if first == "finish" else (both.other, both.one)
    as_owner, as_other = (both.as_one, both.as_other) if first == "finish" else (both.as_other, both.as_one)
    await finish.take(as_owner.append(token, [DONE]))
    await cancel.take(as_other.post("run_1", CancelAsked()))
    gave = await both.race(cut)
    ended = gave[0] if first == "finish" else gave[1]
    kinds = [one.kind for one in await log.read_run("run_1")]
    if isinstance(ended, int):
        assert kinds == ["run_started", "run_finished", "cancel"]
    else:
        assert kinds == ["run_started", "cancel"], "a finishing append with a lower cancel is refused"


async def test_r03_one_bad_append_of_forty_fails_alone_and_the_others_share_a_commit(address: str) -> None:
    async with opened(address) as db:
        log = log_of(db)
        tokens = [await owned(log, f"run_{n}", f"ses_{n}") for n in range(40)]
        await claimed(log, "run_17", dead=True)
        gave = await asyncio.gather(
            *(log.append(token, [step("k", n)]) for n, token in enumerate(tokens)), return_exceptions=True
        )
        assert [type(one) for one in gave] == [Conflict if n == 17 else int for n in range(40)]
        for n in range(40):
            assert [one.key for one in await log.read_run(f"run_{n}")][1:] == ([] if n == 17 else ["k"])


async def test_r04_a_token_is_an_epoch_and_a_nonce(address: str) -> None:
    async with opened(address, "normal") as db:
        log = log_of(db)
        token = await owned(log)
        for other in (
            Token(token.run_id, token.session_id, token.epoch, "0" * 16),  # as if the epoch had been given twice
            Token(token.run_id, token.session_id, token.epoch + 1, token.nonce),
        ):
            with pytest.raises(Conflict):
                await log.append(other, [step("k")])
        assert await log_of(db, "two").claim("run_1") is None, "a healthy owner is never preempted"
        assert await log_of(db, "two").claim("run_1", dead=["three"]) is None
        assert (await log.run("run_1")).epoch == 1
        await log.append(token, [step("k")])
