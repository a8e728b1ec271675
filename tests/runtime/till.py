"""Agents whose tools write to tables of their own, in the database that the runs are kept in."""

from typing import Any

from perdure import Agent, Context, Transaction, tool
from perdure.db.database import Database, Script, Sql
from perdure.testing import call, calls, say
from tests.runtime.desk import answer, note

TILL = "CREATE TABLE IF NOT EXISTS till (who TEXT NOT NULL, amount INTEGER NOT NULL)"


def book(tx: Transaction, who: str, amount: int) -> int:
    """Write one row, and say how many there are for this one."""
    note(f"book {who}")
    assert tx.execute("INSERT INTO till (who, amount) VALUES (?, ?)", (who, amount)) == 1
    return int(tx.fetch("SELECT COUNT(*) FROM till WHERE who = ?", (who,))[0][0])


@tool(effect="steps")
async def pay(ctx: Context[Any], who: str) -> Any:
    """Pay in two transactions with a step in between."""
    first = await ctx.transaction(book, who, 1)
    await ctx.step.run("tell", note, f"tell {who}", effect="idempotent")
    return [first, await ctx.transaction(book, who, 2)]


def till_says(asked: str, number: int) -> Any:
    return say("paid") if number else calls(call("pay", who="ada"), call("pay", who="bo"))


CASHIER = Agent("Cashier", tools=[pay], model=answer(till_says, "cashier"))


async def rows(db: Database, sql: str, *params: Any) -> list[Any]:
    """Run a statement of a test's own."""

    def script() -> Script[list[Any]]:
        return (yield Sql(sql, params))

    return await db.write(script)
