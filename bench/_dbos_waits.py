"""DBOS on SQLite with workflows that wait, in a process of its own.

It says "ready", then answers each line on its input: `wait N` starts N workflows that wait for a message, `answer N`
sends one to each of N of them, one after the other, and waits for its end; `rest N SECONDS` starts N that sleep, and
waits for the end of all.
"""

# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
import asyncio
import json
import logging
import sys
import time
from typing import Any

from dbos import DBOS, SetWorkflowID


@DBOS.workflow()
async def waits() -> Any:
    """Wait for a message."""
    return await DBOS.recv_async("ok", timeout_seconds=100_000)


@DBOS.workflow()
async def rests(until: float) -> None:
    """Sleep until a moment."""
    await DBOS.sleep_async(max(0.0, until - time.time()))


async def main(path: str) -> None:
    """Serve."""
    logging.disable(logging.CRITICAL)
    config: Any = {"name": "bench", "system_database_url": f"sqlite:///{path}", "run_admin_server": False}
    DBOS(config=config)
    DBOS.launch()
    print("ready", flush=True)
    handles: list[Any] = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, *given = line.split()
        said: Any = None
        if kind == "wait":
            for n in range(int(given[0])):
                with SetWorkflowID(f"waits-{n}"):
                    handles.append(await DBOS.start_workflow_async(waits))
            said = len(asyncio.all_tasks())
        elif kind == "answer":
            said = []
            for n in range(int(given[0])):
                begun = time.perf_counter()
                await DBOS.send_async(f"waits-{n}", "go", "ok")
                await handles[n].get_result()
                said.append(time.perf_counter() - begun)
        else:
            until = time.time() + float(given[1])
            resting = [await DBOS.start_workflow_async(rests, until) for _ in range(int(given[0]))]
            await asyncio.gather(*(one.get_result() for one in resting))
            said = time.time() - until
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
