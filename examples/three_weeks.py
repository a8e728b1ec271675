"""A reminder after three weeks, which outlives the process that began it: `python examples/three_weeks.py [seconds]`.

The first runtime begins the wait and is closed; the second finds the run when the time is over. For the demonstration
three weeks are as many seconds as are given, a fifth of one unless told otherwise.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import Context, Runtime, function


@function
async def remind(ctx: Context, who: str, weeks_last: float) -> str:
    """Order now, and remind somebody when three weeks are over."""
    await ctx.step.run("order", print, f"ordered for {who}", effect="idempotent")
    await ctx.step.sleep("three weeks", weeks_last)
    await ctx.step.run("remind", print, f"reminded {who}", effect="idempotent")
    return f"{who} was reminded"


async def main(seconds: float = 0.2) -> None:
    """Begin in one runtime, and end in another."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/orders.db"
        given = {"who": "Ada", "weeks_last": seconds}
        async with Runtime(url, [remind]) as runtime:
            result = await runtime.run(remind, given, run_id="order-1")
            print("the first process leaves, the run is", result.status)
        async with Runtime(url, [remind]) as runtime:
            run = await runtime.start(remind, given, run_id="order-1")
            print((await run.result()).output)


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:])))
