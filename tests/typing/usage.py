"""The same programs with annotations where mypy needs them; pyright and mypy both check this file strictly."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_type

from pydantic import BaseModel

from perdure import (
    Agent,
    Budget,
    Context,
    Message,
    Network,
    RouterArgs,
    RunResult,
    Runtime,
    TextDelta,
    ToolStarted,
    default_routing_agent,
    parallel,
    sequence,
    tool,
    toolset,
)
from perdure.testing import EventRecorder, ScriptedModel, call, context, say


class Invoice(BaseModel):
    total: Decimal
    currency: str


class Refusal(BaseModel):
    why: str


@dataclass
class Support:
    user: str = ""
    answered: bool = False


class Pool:
    def fetch(self, city: str) -> str:
        return city


@tool
async def answer(ctx: Context[Support], text: str) -> str:
    ctx.state.data.answered = True
    return ctx.use(Pool).fetch(text)


@tool(effect="pure", timeout=5)
def add(a: int, b: int = 1) -> int:
    return a + b


async def prompt(ctx: Context[Support]) -> str:
    return ctx.state.data.user


greeter = Agent("Greeter", system="Greet in one line.", model="openai:gpt-5-mini")
helper: Agent[str, Support] = Agent("Helper", system=prompt, tools=[answer, add])
grouped = Agent("Grouped", tools=[toolset(answer).prefixed("desk_")])
extract = Agent("Extract", output_type=Invoice)
either: Agent[Invoice | Refusal, object] = Agent("Either", output_type=(Invoice, Refusal))


def route(r: RouterArgs[Support]) -> Agent | None:
    if r.call_count == 0:
        return helper
    return None if r.state.data.answered else greeter


desk = Network("desk", agents=[helper, greeter], router=route, state=Support, model="openai:gpt-5-mini")
open_desk = Network(
    "open", agents=[greeter], router=lambda r: greeter if r.call_count == 0 else default_routing_agent()
)
line = Network("line", agents=[helper, greeter], router=sequence(helper, parallel(helper, greeter)), state=Support)


async def main() -> None:
    assert_type(greeter, Agent[str, object])
    assert_type(grouped, Agent[str, Support])
    assert_type(extract, Agent[Invoice, object])
    assert_type(desk, Network[Support, str])
    assert_type(open_desk, Network[dict[str, Any], str])
    assert_type((await greeter.run("hi")).output, str)
    assert_type((await extract.run("Read this")).output.total, Decimal)
    assert_type((await either.run("Read this")).output, Invoice | Refusal)
    assert_type(greeter.run_sync("hi").output, str)

    result = await desk.run("Why twice?", state=Support("u1"), budget=Budget(tokens=10), user_id="ada")
    assert_type(result, RunResult[str, Support])
    assert_type(result.state.data.answered, bool)

    async with desk.stream("Why twice?", model=ScriptedModel(call("answer", text="…"), say("done"))) as stream:
        async for event in stream:
            match event:
                case TextDelta(text=piece):
                    assert_type(piece, str)
                case ToolStarted(tool=name):
                    assert_type(name, str)
                case _:
                    pass
        assert_type(await stream.result(), RunResult[str, Support])

    assert_type(add(1, b=2), int)
    ctx = context(Support(), resources=[Pool()])
    assert_type(await answer(ctx, "Oslo"), str)
    assert_type(ctx.state.data.answered, bool)
    assert_type(await ctx.step.run("fetch", Pool().fetch, "Oslo"), str)
    run = await EventRecorder().watch(helper.stream("hi"))
    assert_type((await run.result()).state.data, Support)


def from_sync_code(runtime: Runtime) -> None:
    assert_type(runtime.answer_sync("w", "yes", by="ada"), RunResult[Any, Any])
    assert_type(runtime.session("s").messages_sync(), Iterator[Message])
    with runtime.stream(desk, "hi") as stream:
        assert_type(stream.result_sync(), RunResult[str, Support])
