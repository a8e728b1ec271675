"""What the tests of the runtime run, here and in processes that are killed.

As a program: `desk.py URL FOLDER VERB [ARGUMENT…]`. Every effect is a line in FOLDER/effects, written at once, so that
it outlasts a kill. `KILL=n:before` (or `after`) in the environment kills the process at its n-th write to the log.
"""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from perdure import Agent, Conflict, Context, Runtime, tool
from perdure.log.owners import Timing
from perdure.log.sql import SqlLog
from perdure.models.model import ModelRequest
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.messages import TextMessage, ToolCallMessage

QUICK = Timing(death=1.0, beat=0.1, sweep=0.1)
place = Path()
gate = "go"


def note(what: str) -> None:
    with (place / "effects").open("a") as file:
        file.write(what + "\n")


def effects() -> list[str]:
    path = place / "effects"
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something that another process does; nothing but looking tells."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)


@tool(effect="pure")
async def look() -> str:
    """Look."""
    note("look")
    return "seen"


@tool(effect="idempotent")
async def fetch(ctx: Context[Any]) -> str:
    """Fetch."""
    note(f"fetch {ctx.idempotency_key}")
    return "x" * 70_000  # more than a record holds itself


@tool(effect="once")
async def charge() -> str:
    """Charge."""
    note("charge")
    return "charged"


@tool(effect="steps")
async def trip(ctx: Context[Any]) -> str:
    """Make a trip in steps."""

    def step(name: str) -> str:
        note(f"step {name}")
        return name

    first = await ctx.step.run("a", step, "a")
    asked = await ctx.run(HELPER, "please")
    return first + asked.output + await ctx.step.run("b", step, "b")


@tool(effect="idempotent")
async def slow() -> str:
    """Wait for a file."""
    note("slow")
    await until((place / gate).exists)
    return "at last"


@tool(effect="idempotent")
async def boom() -> str:
    """Kill the process."""
    note("boom")
    if (place / "poison").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def answer(script: Callable[[str, int], Any], name: str) -> FunctionModel:
    """A model that goes by what was said last and how many answers it has given since."""

    def ask(request: ModelRequest) -> Any:
        asked = max(n for n, one in enumerate(request.messages) if isinstance(one, TextMessage) and one.role == "user")
        number = sum(isinstance(one, ToolCallMessage) for one in request.messages[asked:])
        note(f"model {name} {number}")
        question = request.messages[asked]
        assert isinstance(question, TextMessage)
        return script(question.text, number)

    return FunctionModel(ask)


def desk_says(asked: str, number: int) -> Any:
    if number:
        return call("charge") if asked == "slow" and number == 1 else say(f"done: {asked}")
    if asked == "go":
        return calls(call("look"), call("fetch"), call("charge"), call("trip"))
    return call(asked) if asked in ("slow", "boom", "look") else say(f"answer to {asked}")


def helper_says(asked: str, number: int) -> Any:
    return say("helped") if number else call("look")


HELPER = Agent("Helper", tools=[look], model=answer(helper_says, "helper"))
DESK = Agent("Desk", tools=[look, fetch, charge, trip, slow, boom], model=answer(desk_says, "desk"))


@tool(effect="steps")
async def ask_child(ctx: Context[Any]) -> str:
    """Ask the child."""
    return (await ctx.run(CHILD, "slow")).text


CHILD = Agent("Child", tools=[slow], model=answer(lambda asked, number: say("ok") if number else call("slow"), "child"))
PARENT = Agent(
    "Parent",
    tools=[ask_child],
    model=answer(lambda asked, number: say("ok") if number else call("ask_child"), "parent"),
)
FAMILY = (PARENT, CHILD)


def killing(at: int, when: str) -> None:
    """Kill this process at its n-th write to the log."""
    count = 0

    def watched(write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def written(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            number = count
            if number == at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = await write(*args, **options)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return written

    for name in ("accept", "claim", "append"):
        setattr(SqlLog, name, watched(getattr(SqlLog, name)))


def noting_refusals() -> None:
    """Note when the log refuses what this process writes."""
    append = SqlLog.append

    async def noted(*args: Any, **options: Any) -> int:
        try:
            return await append(*args, **options)
        except Conflict:
            note("refused")
            raise

    SqlLog.append = noted  # type: ignore[method-assign]


def runtime(url: str, *definitions: Any) -> Runtime:
    return Runtime(url, definitions or [DESK], timing=QUICK, durability="normal")


async def nothing_open(rt: Runtime) -> bool:
    return not any(one.status in ("queued", "running") for one in await rt.container("default").log.runs())


async def main(url: str, verb: str, *arguments: str) -> None:
    if "KILL" in os.environ:
        at, _, when = os.environ["KILL"].partition(":")
        killing(int(at), when)
    noting_refusals()
    async with runtime(url, DESK, *FAMILY) as rt:
        if verb == "run":
            result = await rt.run(DESK, arguments[0], session_id="s", run_id=arguments[1])
            note(f"output {result.output}")
        elif verb == "queue":
            runs = [await rt.start(DESK, one, session_id="s", run_id=f"run_{n}") for n, one in enumerate(arguments)]
            note("queued")
            for one in runs:
                await one.result()
        elif verb == "turns":
            await asyncio.gather(*(rt.run(DESK, one, session_id="s", run_id=f"run_{one}") for one in arguments))
        elif verb == "cancelled":
            run = await rt.start(DESK, arguments[0], session_id="s", run_id=arguments[1])
            async for _ in run.events():
                pass
            note(f"status {run.status}")
        elif verb == "both":
            await rt.start(DESK, "slow", session_id="s", run_id="innocent")
            await until(lambda: "slow" in effects())
            await rt.run(DESK, "boom", session_id="elsewhere", run_id="poison")
        elif verb == "family":
            await rt.run(PARENT, "go", session_id="s", run_id=arguments[0])
        elif verb == "drain":
            await until(lambda: nothing_open(rt))
        elif verb == "serve":
            note("serving")
            await until((place / "stop").exists)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    asyncio.run(main(sys.argv[1], *sys.argv[3:]))
