"""Applications whose source files are written twice: one version is killed, the next one goes on with its runs.

As a program: `written.py URL FOLDER NAME` runs version NAME of the application in FOLDER, and is killed where the
environment's `DIE` says. Every effect is a line in FOLDER/effects.
"""

import asyncio
import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure import Runtime
from perdure.log.owners import Timing
from perdure.testing import FunctionModel, call, say
from perdure.types.messages import TextMessage
from tests.runtime import desk

QUICK = Timing(death=1.0, beat=0.1, sweep=0.1)


async def do(name: str, *args: Any) -> str:
    """Do something to the outside, or die just before."""
    die(name)
    desk.note(" ".join([name, *(str(one) for one in args)]))
    return name


def die(where: str) -> None:
    if os.environ.get("DIE") == where:
        os.kill(os.getpid(), signal.SIGKILL)


def answer(tool: str = "", name: str = "function", **arguments: Any) -> FunctionModel:
    """A model that calls one tool, if it has it, and then says what it was told to do."""

    def ask(request: Any) -> Any:
        die(f"model {name}")
        last = request.messages[-1]
        if tool and isinstance(last, TextMessage) and any(one.name == tool for one in request.tools):
            return call(tool, **arguments)
        system = request.messages[0]
        return say(system.text if isinstance(system, TextMessage) and system.role == "system" else "done")

    return FunctionModel(ask, name=name)


def load(folder: Path, name: str) -> ModuleType:
    """Load a version of the application, as its own process would."""
    spec = importlib.util.spec_from_file_location("app", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["app"] = module
    spec.loader.exec_module(module)
    return module


def runtime(url: str, module: ModuleType) -> Runtime:
    return Runtime(url, [module.DESK, *getattr(module, "OTHERS", ())], timing=QUICK, durability="normal")


async def main(url: str, folder: str, name: str) -> None:
    desk.place = Path(folder)
    module = load(Path(folder), name)
    async with runtime(url, module) as rt:
        await rt.run(module.DESK, getattr(module, "GIVEN", "go"), run_id="job", session_id="s")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
