"""An app for `perdure worker --app`, and what its runs do."""

import asyncio
import os
from pathlib import Path
from typing import Any

from perdure import Agent, Runtime, tool
from perdure.models.model import ModelRequest
from perdure.testing import FunctionModel, call, say
from perdure.types.messages import TextMessage, ToolCallMessage
from tests.runtime.desk import QUICK, until


@tool(effect="pure")
async def look() -> str:
    """Look."""
    return "two charges of 20"


@tool(effect="pure")
async def wait() -> str:
    """Wait for a file."""
    folder = Path(os.environ["DESK"])
    (folder / "waits").touch()
    while not (folder / "go").exists():
        try:
            await until((folder / "go").exists)
        except asyncio.CancelledError:
            if "STUBBORN" not in os.environ:
                raise
    return "at last"


def answer(request: ModelRequest) -> Any:
    asked = max(n for n, one in enumerate(request.messages) if isinstance(one, TextMessage) and one.role == "user")
    called = any(isinstance(one, ToolCallMessage) for one in request.messages[asked:])
    if request.tools and not called:
        return call(request.tools[0].name)
    return say("You were charged twice.")


biller = Agent("Billing", system="You answer billing questions.", tools=[look], model=FunctionModel(answer))
slow = Agent("Slow", tools=[wait], model=FunctionModel(answer))
definitions = [biller, slow]
nothing = 7


def runtime() -> Runtime:
    return Runtime(os.environ["STORE"], definitions, timing=QUICK)
