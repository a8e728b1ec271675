"""A tool whose steps write rows, which must be there exactly once, if and only if their records are."""

import asyncio
from collections.abc import Callable
from typing import Any

from perdure import Context, Transaction, tool
from perdure.db.database import Call, Script
from tests.sim.here import here, work

TABLES = (
    "CREATE TABLE ledger (run TEXT NOT NULL, key TEXT NOT NULL, said TEXT NOT NULL)",
    "CREATE TABLE total (rows INTEGER NOT NULL)",
    "INSERT INTO total VALUES (0)",
)


def enter(tx: Transaction, run: str, key: str, said: str) -> str:
    """Write a row, and count it in another table; the store may fail in between, or the process die."""
    here().transacts(run, key)
    tx.execute("INSERT INTO ledger VALUES (?, ?, ?)", (run, key, said))
    here().trouble()
    tx.execute("UPDATE total SET rows = rows + 1")
    return said


def refuse(tx: Transaction, run: str, key: str) -> None:
    """Write a row and fail, so that nothing of it is kept."""
    tx.execute("INSERT INTO ledger VALUES (?, ?, 'refused')", (run, key))
    raise LookupError("no such account")


@tool(effect="steps")
async def book(ctx: Context[Any]) -> str:
    """Write rows in transactions: two in sequence, one that fails, and two at once."""
    run, place = ctx.run_id, ctx._key

    async def tell() -> str:
        here().effect("step", run, f"{place}/tell", "tell")
        await work()
        return "told"

    said = [await ctx.transaction(enter, run, f"{place}/transaction:enter", "a")]
    said.append(await ctx.step.run("tell", tell, effect="idempotent"))
    said.append(await ctx.transaction(enter, run, f"{place}/transaction:enter#2", "b"))
    try:
        await ctx.transaction(refuse, run, place)
    except LookupError:
        said.append("refused")
    both = [ctx.step.scope(one).transaction(enter, run, f"{place}/{one}/transaction:enter", one) for one in "xy"]
    return "".join([*said, *await asyncio.gather(*both)])


class Later:
    """Breaks a joint commit: what the code writes is written behind the commit of its record.

    Args:
        code: what is given the transaction.
    """

    def __init__(self, code: Callable[[Any], Any]) -> None:
        self._code = code
        self._written: list[tuple[Any, ...]] = []

    def note(self, tx: Any) -> Any:
        self._written.clear()
        return self._code(self)

    def execute(self, *statement: Any) -> int:
        self._written.append(statement)
        return 1

    def write(self) -> Script[None]:
        yield Call("later", fn=lambda tx: [tx.execute(*one) for one in self._written])
