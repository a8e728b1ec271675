"""The `Database` protocol, scripts, and what can go wrong with a database."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from perdure.types.base import Base
from perdure.types.errors import PerdureError

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]


class Sql(Base):
    """One statement, with `?` for each parameter; if `blind`, its rows are not looked at, and it may be sent later."""

    text: str
    params: Sequence[Any] = ()
    blind: bool = False


class Call(Sql, kw_only=True):
    """Code of a user's in the middle of a transaction; its result is the one row, and what it raised a `CallFailed`.

    `fn` is given a `Transaction`. `text` says what it is.
    """

    fn: Callable[[Any], Any]


class CallFailed(Exception):
    """What the code of a `Call` raised, apart from failures of the database itself; `late` if its time was over."""

    def __init__(self, error: Exception, *, late: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.late = late


Script: TypeAlias = Generator[Sql, list[Row], T]
"""Statements of one transaction: each `yield` gives the rows that the statement returned."""


class Guard(NamedTuple):
    """What every writing transaction asks first: a statement, and what looks at its rows and may raise."""

    statement: Sql
    check: Callable[[list[Row]], None]


class StoreError(PerdureError):
    """The database cannot do what was asked.

    Args:
        message: what happened, where, and what to do.
        retryable: whether the same may work later without anybody changing the request.
        unknown: whether it is not known if the transaction was committed; else it was not.
    """

    def __init__(self, message: str, *, retryable: bool = False, unknown: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.unknown = unknown


class StoreBusy(StoreError):
    """Somebody else has held the database, or the same rows, for too long."""


class StoreFull(StoreError):
    """The disk, or the quota, is full."""


class StoreReadOnly(StoreError):
    """The database cannot be written to."""


class StoreCorrupt(StoreError):
    """The file is no database, or is damaged."""


class StoreMissing(StoreError):
    """The database is not there any more."""


class StoreTooNew(StoreError):
    """A newer Perdure has changed the schema so that this one must not write."""


class StoreUnreachable(StoreError):
    """The connection to the database server failed."""


class Exists(StoreError):
    """A row with the same unique key exists already."""


class Database(Protocol):
    """A database that runs scripts."""

    @property
    def dialect(self) -> Literal["sqlite", "postgres"]:
        """Which SQL it speaks where the two differ."""
        ...

    @property
    def url(self) -> str:
        """Its address, without a password."""
        ...

    @property
    def clock(self) -> str:
        """The expression by which it tells its own time, in seconds since the epoch."""
        ...

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreError: it cannot be opened; the message says why.
        """
        ...

    def guard(self, guard: Guard) -> None:
        """Ask something at the beginning of every writing transaction from now on; what it raises stops them all."""
        ...

    def protect(self, tables: Sequence[str]) -> None:
        """Let no code of a user's write to these tables; those of the schema."""
        ...

    async def write(self, make: Callable[[], Script[T]], *, notify: bool = False, brief: bool = False) -> T:
        """Run a script in a transaction of its own, and return when that is committed.

        A caller that is cancelled does not know whether its transaction was committed.

        Args:
            make: makes the script; called again if the transaction must be repeated.
            notify: whether other processes should look, see `changed`.
            brief: whether the script is short, small and runs no code of a user's; it may hold up an event loop.

        Raises:
            StoreError: the database failed; `unknown` says whether the commit may have happened.
            Exception: what the script raised; its transaction is undone.
        """
        ...

    async def write_apart(self, make: Callable[[], Script[T]]) -> T:
        """Run a script in a transaction, in another event loop than the one in which the database was opened."""
        ...

    async def read(self, make: Callable[[], Script[T]]) -> T:
        """Run a script that only reads, in one snapshot."""
        ...

    async def changed(self, seconds: float) -> bool:
        """Wait until somebody may have written, at most this long; say whether it may have.

        A hint for one caller at a time: who must not miss anything looks anyway from time to time.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked for and disconnect."""
        ...
