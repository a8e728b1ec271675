"""DBOS on SQLite as it is shipped, in a process of its own because it takes the process over.

It says "ready", then answers each line on its input: `sequential N` runs one workflow of N steps, `concurrent N STEPS`
N workflows at once. The steps do nothing and give the result that ours give.
"""

# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
import asyncio
import logging
import sys
from typing import Any

from dbos import DBOS, SetWorkflowID

from _raw import RESULT


@DBOS.step()
async def charge() -> str:
    """Do nothing."""
    return RESULT


@DBOS.workflow()
async def work(steps: int) -> int:
    """Do some steps."""
    for _ in range(steps):
        await charge()
    return steps


async def main(path: str) -> None:
    """Serve."""
    logging.disable(logging.CRITICAL)
    config: Any = {"name": "bench", "system_database_url": f"sqlite:///{path}", "run_admin_server": False}
    DBOS(config=config)
    DBOS.launch()
    await work(1)
    print("ready", flush=True)
    count = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, *numbers = line.split()
        if kind == "sequential":
            await work(int(numbers[0]))
        else:
            runs, steps = map(int, numbers)
            handles: list[Any] = []
            for _ in range(runs):
                count += 1
                with SetWorkflowID(f"work-{count}"):
                    handles.append(await DBOS.start_workflow_async(work, steps))
            await asyncio.gather(*(one.get_result() for one in handles))
        print("done", flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
