"""Agents whose tools and models die in the middle: `DIE=where` in the environment says in which."""

import os
import signal
from typing import Any

from perdure import Agent, Context, ModelSettings, NotDone, RateLimited, StepError, tool
from perdure.models import fallback
from perdure.models.model import ModelRequest
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.messages import ToolCallMessage
from tests.runtime.desk import effects, note

Ctx = Context[Any]


def act(where: str, more: str = "") -> str:
    """Have an effect, and perhaps die before anybody hears of it."""
    note(f"{where} {more}".strip())
    if os.environ.get("DIE") == where:
        os.kill(os.getpid(), signal.SIGKILL)
    return where


def unbook(ctx: Ctx, room: int) -> None:
    if os.environ.get("DIE") == "never undone":
        raise OSError("the hotel is closed")
    act("unbook", f"{room} {ctx.idempotency_key}")


@tool(undo=unbook)
def book(ctx: Ctx, room: int) -> str:
    """Book a room."""
    return act("book", f"{room} {ctx.idempotency_key}")


@tool(effect="steps")
async def steps(ctx: Ctx) -> list[str]:
    """Do steps of each effect."""
    found: list[str] = []
    for name, options in STEPS.items():
        try:
            found.append(await ctx.step.run(name, act, name, **options))
        except StepError as error:
            found.append(type(error).__name__)
    return found


def give_back(name: str) -> None:
    act(f"undo {name}")


STEPS: dict[str, Any] = {
    "pure": {"effect": "pure"},
    "idempotent": {"effect": "idempotent"},
    "once": {},
    "undone": {"undo": give_back},
}


@tool(retries=2)
def dial() -> str:
    """Ring somebody who is busy at first."""
    note("dial")
    if (os.environ.get("KILL") or "").startswith("4"):
        raise NotDone("busy")
    return "hello"


@tool(effect="idempotent")
async def add(ctx: Ctx, n: int) -> str:
    """Count."""
    ctx.state.data["n"] = n
    ctx.state.data["seen"][str(n)] = True
    return act(f"add {n}")


ASKS: dict[str, Any] = {
    "book": call("book", room=7),
    "steps": call("steps"),
    "dial": call("dial"),
    "add": calls(call("add", n=1), call("add", n=2), call("add", n=3)),
}


def says(request: ModelRequest) -> Any:
    """Call the tool that was asked for, once; or just answer."""
    asked = request.messages[-1].text if not any(isinstance(one, ToolCallMessage) for one in request.messages) else ""
    if asked == "limited":
        note("model")
        raise RateLimited("slow down", retry_after=30)
    if asked not in ASKS:
        act("model")
    return ASKS.get(asked) or say("done")


ACTOR = Agent(
    "Actor",
    tools=[book, steps, dial, add],
    model=FunctionModel(says),
    settings=ModelSettings(retries=2),
)


def first(_: ModelRequest) -> Any:
    """Always be overloaded."""
    note("first")
    raise RateLimited("slow down", retry_after=30)


def second(_: ModelRequest) -> Any:
    """Answer when asked for the third time; the first time, perhaps, the process dies."""
    act("second")
    if effects().count("second") == 2:
        raise RateLimited("slow down too", retry_after=30)
    return say("done")


CHAINED = Agent(
    "Chained",
    model=fallback(FunctionModel(first, name="first"), FunctionModel(second, name="second")),
    settings=ModelSettings(retries=1),
)
