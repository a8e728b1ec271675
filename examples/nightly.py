"""A function that runs every night, here once at once: `python examples/nightly.py [store]`, offline and without a key.

It needs the extra for schedules: `pip install 'perdure[cron]'`. Kill it where you like, and start it again with the
same store: the report is there once, because it is written in the transaction that says that it is written.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import Context, Runtime, SentEvent, Transaction, function

SALES = [("Monday", 120), ("Tuesday", 80), ("Wednesday", 200)]


def count() -> int:
    """Add up what was sold."""
    return sum(amount for _, amount in SALES)


def write(tx: Transaction, due: float, total: int) -> int:
    """Write a report into a table of one's own in the same database; gives how many there are."""
    tx.execute("CREATE TABLE IF NOT EXISTS report (due REAL, total INTEGER)")
    tx.execute("INSERT INTO report VALUES (?, ?)", (due, total))
    return tx.fetch("SELECT COUNT(*) FROM report")[0][0]


@function(cron="TZ=Europe/Oslo 30 2 * * *", retries=4)
async def report(ctx: Context, event: SentEvent) -> str:
    """Write last night's report."""
    total = await ctx.step.run("count", count, effect="pure")
    number = await ctx.transaction(write, event.data["due"], total)
    return f"report {number}: {len(SALES)} days, {total} sold"


async def main(store: Path) -> None:
    """Run it once now; in a runtime that stays open it runs when it is due."""
    async with Runtime(f"sqlite:///{store}", [report]) as runtime:
        result = await runtime.run(report, {"due": 0.0}, run_id="report-of-thursday")  # the same id is the same report
        print(result.output)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1]).absolute()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder) / "shop.db"))
