"""A function that runs every night, here once at once: `python examples/nightly.py`, offline and without a key."""

import asyncio

from perdure import Context, SentEvent, function

SALES = [("Monday", 120), ("Tuesday", 80), ("Wednesday", 200)]


def count() -> int:
    """Add up what was sold."""
    return sum(amount for _, amount in SALES)


@function(cron="TZ=Europe/Oslo 30 2 * * *", retries=4)
async def report(ctx: Context, event: SentEvent) -> str:
    """Write last night's report."""
    total = await ctx.step.run("count", count, effect="pure")
    await ctx.step.run("print", print, f"{len(SALES)} days, {total} sold", effect="idempotent")
    return f"{total} sold"


async def main() -> None:
    """Run it once now; given to a Runtime, it runs when it is due."""
    result = await report.run({"due": 0.0})
    print("report:", result.output)


if __name__ == "__main__":
    asyncio.run(main())
