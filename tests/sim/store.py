"""The store under the simulator: faults of the file, where chance says."""

import sqlite3
from typing import TYPE_CHECKING

from perdure.db.database import Row, Sql
from perdure.db.writer import Connection
from perdure.testing.inline import Killed

if TYPE_CHECKING:
    from tests.sim.world import Process


CLAIM = "UPDATE runs SET status = 'running', owner = ?"
"""How a claim begins to write."""


EPOCH = 1_700_000_000.0
"""When the world begins."""


class Faulty(Connection):
    """A connection to the file, with faults."""

    def __init__(self, process: "Process", inner: Connection, *, writes: bool) -> None:
        self._process = process
        self._inner = inner
        self._writes = writes

    def _meet(self, where: str) -> str | None:
        if not self._process.loop.alive:
            raise Killed
        return self._process.fault(where, writes=self._writes)

    def begin(self) -> None:
        fault = self._meet("begin")
        if fault is not None:
            raise error_of("SQLITE_BUSY" if fault == "busy" and self._writes else "SQLITE_IOERR_READ")
        self._inner.begin()

    def execute(self, statement: Sql) -> list[Row]:
        fault = self._meet("execute")
        if fault is not None:
            raise error_of("SQLITE_FULL" if fault == "full" and self._writes else "SQLITE_IOERR_READ")
        if statement.text.startswith(CLAIM):
            self._process.world.claims(self._process, str(statement.params[-1]))
        return self._inner.execute(statement)

    def commit(self) -> None:
        fault = self._meet("commit")
        if fault == "full":
            self._inner.rollback()
            raise error_of("SQLITE_FULL")
        if fault == "lost":
            self._inner.rollback()
            raise error_of("SQLITE_IOERR_FSYNC")
        self._inner.commit()
        self._process.world.committed(self._process, writes=self._writes)
        self._meet("committed")
        if fault is not None:
            raise error_of("SQLITE_IOERR_FSYNC")

    def rollback(self) -> None:
        self._meet("rollback")
        self._inner.rollback()

    def savepoint(self) -> None:
        self._inner.savepoint()

    def release(self) -> None:
        self._inner.release()

    def undo(self) -> None:
        self._meet("undo")
        self._inner.undo()

    def error(self, error: BaseException, *, committing: bool = False) -> BaseException:
        return self._inner.error(error, committing=committing)

    def close(self) -> None:
        self._inner.close()


def error_of(name: str) -> sqlite3.OperationalError:
    """Make an error of SQLite's."""
    error = sqlite3.OperationalError(f"simulated {name}")
    error.sqlite_errorname = name
    return error
