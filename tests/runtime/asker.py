"""A process that is killed while a function asks a model, and one that goes on."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from perdure import Context, Runtime, function
from perdure.testing import FunctionModel, say
from tests.runtime.desk import QUICK

FOLDER = Path(os.environ.get("ASKER", "."))


async def answers(request: Any) -> Any:
    """Say once that it was asked, and never answer; the next time answer."""
    asked = FOLDER / "asked"
    if asked.exists():
        return say("Oslo")
    asked.touch()
    await asyncio.Event().wait()


@function
async def asks(ctx: Context[Any]) -> str:
    """Ask twice."""
    await ctx.step.run("first", str.upper, "a", effect="pure")
    where = await ctx.step.infer("where", FunctionModel(answers), "Where is it? " * 10)
    return f"{where}, {await ctx.step.infer('again', FunctionModel(answers), 'And now?')}"


async def main(url: str) -> None:
    """Drive one run."""
    async with Runtime(url, [asks], timing=QUICK) as rt:
        await rt.run(asks, run_id="job")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
