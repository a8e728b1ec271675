"""A process of its own in which a long conversation gets its next turn: `python summing.py URL FOLDER [kill]`."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from perdure import Agent, Runtime, summarise
from perdure.log.owners import Timing
from perdure.testing import FunctionModel, say


def desk(folder: Path, *, kill: bool = False) -> Agent[Any, Any]:
    """An agent that notes in files who was asked; it dies as soon as it is asked the seventh question."""

    def short(request: Any) -> Any:
        with (folder / "summaries").open("a") as file:
            file.write(f"{len(request.messages[-1].text)}\n")
        return say("They have talked.")

    def answer(request: Any) -> Any:
        if request.messages[-1].text == "question 6":
            (folder / "seen").write_text("\n".join(one.text for one in request.messages))
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
        return say("yes")

    return Agent("Desk", model=FunctionModel(answer), hooks=summarise(4, 6, model=FunctionModel(short)))


async def main(url: str, folder: Path, *, kill: bool) -> None:
    """Talk, or go on with what another process has left."""
    agent = desk(folder, kill=kill)
    async with Runtime(url, [agent], timing=Timing(beat=0.05, death=0.5, sweep=0.05), durability="normal") as rt:
        for n in range(7):
            await rt.run(agent, f"question {n}", session_id="s", run_id=f"job-{n}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), kill="kill" in sys.argv))
