"""Where simulated code runs."""

import asyncio
from typing import Any

from perdure.testing.clockwork import ProcessLoop


def here() -> Any:
    """The process that this code runs in."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProcessLoop)
    return loop.process


async def work() -> None:
    """Take some time."""
    await asyncio.sleep(here().latency() * 20)
