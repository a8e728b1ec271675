"""What is asked every second, and at every end of a turn, leaves runs that are over alone: SQLite says how it goes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from perdure.db.database import Row, Script, Sql
from perdure.log.log import Entry, NewRun
from perdure.log.owners import Owners, Timing
from perdure.types.records import RunFinished, RunStarted, SessionEvent
from tests.log.stores import log_of, opened

T = TypeVar("T")


class Explained:
    """A database that also asks how it will go about each statement."""

    dialect = "sqlite"

    def __init__(self, db: Any) -> None:
        self.db = db
        self.plans: list[str] = []

    async def read(self, make: Callable[[], Script[T]]) -> T:
        """Read."""
        return await self.db.read(lambda: self._explain(make))

    async def write(self, make: Callable[[], Script[T]], *, notify: bool = False, brief: bool = False) -> T:
        """Write."""
        return await self.db.write(lambda: self._explain(make))

    def protect(self, tables: Sequence[str]) -> None:
        """Protect tables."""
        self.db.protect(tables)

    def _explain(self, make: Callable[[], Script[T]]) -> Script[T]:
        script = make()
        rows: list[Row] | None = None
        try:
            while True:
                statement = script.send(rows)  # type: ignore[arg-type]  # None begins it
                plan = yield Sql(f"EXPLAIN QUERY PLAN {statement.text}", statement.params)
                self.plans += [str(row[3]) for row in plan]
                rows = yield statement
        except StopIteration as end:
            return end.value

    def of_runs(self) -> set[str]:
        """How the runs' table was gone through, apart from looking up one run by its id; then begin anew."""
        plans, self.plans = self.plans, []
        return {one.split("USING INDEX ")[-1] for one in plans if "runs" in one or one == "SCAN r"} - {
            "sqlite_autoindex_runs_1 (container=? AND id=?)"
        }


async def test_only_open_runs_are_looked_at(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as db:
        explained: Any = Explained(db)
        log = log_of(explained)
        token = (await log.accept(NewRun("run_1", "ses_1", "A"), RunStarted("A", "agent", ()))).token
        assert token is not None
        await log.accept(NewRun("run_2", "ses_1", "A"), RunStarted("A", "agent", ()))
        assert explained.of_runs() == set()
        await log.append(token, [Entry(None, RunFinished("completed", "answer"))])
        assert explained.of_runs() == {"runs_queued (container=? AND session=?)"}
        owners = Owners(explained, Timing())
        await owners.left({"other": 1}, [])
        assert explained.of_runs() == {
            "runs_running",
            "runs_queued",
            "runs_waiting (cancelled=?)",
            "runs_lane (lane=?)",
        }
        await owners.spoken_to()
        assert explained.of_runs() == {"runs_running (owner=?)"}
        await log.runs(status="queued")
        assert explained.of_runs() == {"runs_queued (container=?)"}
        await owners.close()


async def test_events_are_found_by_their_indexes_however_many_records_there_are(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as db:
        explained: Any = Explained(db)
        log = log_of(explained)
        await log.start_session("ses_1", None, None)
        event = SessionEvent("note", "x", "e1", 0)
        posted = await log.post_event("ses_1", event)
        explained.plans.clear()
        assert await log.post_event("ses_1", event) == posted
        assert not [one for one in explained.plans if one.startswith("SCAN")]
        assert "SEARCH r USING INDEX records_key (container=? AND run=? AND key=?)" in explained.plans
        for newest in (False, True):
            explained.plans.clear()
            assert await log.replay("ses_1", limit=10, newest=newest) == [posted]
            assert "SEARCH r USING INDEX records_events (slot>? AND slot<?)" in explained.plans
            assert not [one for one in explained.plans if one.startswith("SCAN") or "TEMP B-TREE" in one]
