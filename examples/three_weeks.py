"""A reminder after three weeks, which outlives the process that began it.

    python examples/three_weeks.py                 # three weeks are a fifth of a second
    python examples/three_weeks.py 60 orders       # or a minute; the run and the letters are in the folder orders

The first runtime begins the wait and is closed; the second finds the run when the time is over. Kill it
where you like, and start it again with the same folder: the time goes on, and each letter is there once.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import Context, Runtime, function


def send(folder: str, name: str, text: str) -> None:
    """Put a letter into the box: put in again, it is the same letter."""
    (Path(folder) / f"{name}.txt").write_text(text)
    print(text)


@function
async def remind(ctx: Context, who: str, weeks_last: float, box: str) -> str:
    """Order now, and remind somebody when three weeks are over."""
    await ctx.step.run("order", send, box, "order", f"ordered for {who}", effect="idempotent")
    await ctx.step.sleep("three weeks", weeks_last)
    await ctx.step.run("remind", send, box, "reminder", f"reminded {who}", effect="idempotent")
    return f"{who} was reminded"


async def main(seconds: float, folder: Path) -> None:
    """Begin in one runtime, and end in another."""
    url = f"sqlite:///{folder / 'orders.db'}"
    given = {"who": "Ada", "weeks_last": seconds, "box": str(folder)}
    async with Runtime(url, [remind]) as runtime:
        result = await runtime.run(remind, given, run_id="order-1")
        print("the first process leaves, the run is", result.status)
    async with Runtime(url, [remind]) as runtime:
        run = await runtime.start(remind, given, run_id="order-1")
        print((await run.result()).output)


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(exist_ok=True)
        asyncio.run(main(seconds, Path(sys.argv[2]).absolute()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(seconds, Path(folder)))
