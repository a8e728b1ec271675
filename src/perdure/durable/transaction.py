"""Exactly once: a step whose writes and whose record are committed together, or not at all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from perdure.db.transaction import Params, PostgresTransaction
from perdure.durable.run_io import RunIO
from perdure.durable.threads import in_thread
from perdure.log.log import Token
from perdure.types.base import plain
from perdure.types.errors import NeedsRuntime, TransactionError
from perdure.types.records import Payload, TransactionDone


@runtime_checkable
class Transacting(Protocol):
    """A log in a database, which a user's code can share a transaction with."""

    async def transact(
        self, token: Token, key: str, call: Callable[[Any], Any], close: Callable[[Any], Payload]
    ) -> tuple[int, Payload]:
        """Run a user's code in one transaction with the record that closes its step; done before, it is not run."""
        ...


async def transact(
    io: RunIO, key: str, closing: TransactionDone, fn: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Do a transaction step that has no record yet.

    Raises:
        NeedsRuntime: there is no database.
        TransactionError: the function did what it may not, or took too long.
        Exception: what the function raised; nothing of it is kept.
    """
    log = io.kernel.log
    if not isinstance(log, Transacting):
        raise NeedsRuntime("ctx.transaction(…)")

    def call(tx: Any) -> Any:
        if isinstance(tx, PostgresTransaction):
            if inspect.iscoroutinefunction(fn):
                return fn(tx, *args, **kwargs)
            return in_thread(fn, _InThread(tx, loop), *args, **kwargs)
        value = fn(tx, *args, **kwargs)
        if inspect.isawaitable(value):
            close = getattr(value, "close", None)
            if close is not None:
                close()
            raise TransactionError(
                f"{closing.name!r} is async: on SQLite the function of a transaction is a plain one, because every "
                "other run waits for it."
            )
        return value

    def close(value: Any) -> TransactionDone:
        return TransactionDone(closing.name, plain(value, f"result of {closing.name!r}"), closing.arguments)

    loop = asyncio.get_running_loop()
    done = (await io.transact(key, lambda: log.transact(io.token, key, call, close))).payload
    assert isinstance(done, TransactionDone)
    return done.result


class _InThread:
    """A transaction on PostgreSQL for a plain function: it runs in a thread, while the event loop works for it."""

    def __init__(self, tx: PostgresTransaction, loop: asyncio.AbstractEventLoop) -> None:
        self._tx = tx
        self._loop = loop

    def execute(self, sql: str, params: Params = (), /) -> int:
        return asyncio.run_coroutine_threadsafe(self._tx.execute(sql, params), self._loop).result()

    def fetch(self, sql: str, params: Params = (), /) -> list[tuple[Any, ...]]:
        return asyncio.run_coroutine_threadsafe(self._tx.fetch(sql, params), self._loop).result()
