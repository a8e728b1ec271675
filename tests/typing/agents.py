"""What is inferred for agents: the output from `output_type=`, the state from tools and prompts."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_type

from pydantic import BaseModel

from perdure import Agent, Context, Run, RunResult, RunStream, Tool, tool, toolset


class Invoice(BaseModel):
    total: Decimal
    currency: str


class Refusal(BaseModel):
    why: str


class Question(BaseModel):
    text: str


@dataclass
class Support:
    user: str = ""
    answered: bool = False


@dataclass
class Billing:
    total: int = 0


@tool
async def answer(ctx: Context[Support], text: str) -> str:
    ctx.state.data.answered = True
    return text


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool
def charge(ctx: Context[Billing], amount: int) -> int:
    return ctx.state.data.total + amount


async def prompt(ctx: Context[Support]) -> str:
    return f"You serve {ctx.state.data.user}."


# -- construction ------------------------------------------------------------------------------------------------------

plain = Agent("Plain")
assert_type(plain, Agent[str, object])
assert_type(Agent("Prompted", system="Greet in one line.", model="openai:gpt-5-mini"), Agent[str, object])

helper = Agent("Helper", tools=[answer])
assert_type(helper, Agent[str, Support])
assert_type(Agent("Both", tools=[answer, add]), Agent[str, Support])
assert_type(Agent("Grouped", tools=[toolset(answer)]), Agent[str, Support])
assert_type(Agent("Prompted", system=prompt), Agent[str, Support])

extract = Agent("Extract", output_type=Invoice, model="openai:gpt-5-mini")
assert_type(extract, Agent[Invoice, object])
assert_type(Agent("Extract", output_type=Invoice, tools=[answer]), Agent[Invoice, Support])

either = Agent("Either", output_type=(Invoice, Refusal))
assert_type(either, Agent[Invoice | Refusal, object])
one_of_three = Agent("Three", output_type=(Invoice, Refusal, Question))
assert_type(one_of_three, Agent[Invoice | Refusal | Question, object])
assert_type(Agent("Either", output_type=(Invoice, Refusal), tools=[answer]), Agent[Invoice | Refusal, Support])

# a lambda says nothing about the state, so the tools say it; they must come first
lettered = Agent("Lettered", system=lambda ctx: ctx.run_id, enabled=lambda ctx: ctx.user_id is not None)
assert_type(lettered, Agent[str, Any])
assert_type(Agent("Lettered", tools=[answer], system=lambda ctx: ctx.state.data.user), Agent[str, Support])

Agent("Torn", tools=[answer, charge])  # pyright: ignore[reportArgumentType]
Agent("Torn", system=prompt, tools=[charge])  # pyright: ignore[reportArgumentType]
Agent("Undecorated", tools=[print])  # pyright: ignore[reportArgumentType]
Agent("Misspelt", sytem="…")  # pyright: ignore[reportCallIssue]


# -- the bare annotation takes every agent -----------------------------------------------------------------------------


def choose(n: int) -> Agent | None:
    if n == 0:
        return plain
    if n == 1:
        return helper
    if n == 2:
        return extract
    return either if n == 3 else None


def billed(agents: list[Agent]) -> int:
    return len(agents)


billed([plain, helper, extract])
wide: Agent[BaseModel, Support] = extract
"""An agent of a narrower output that wants less of the state is one."""

narrow: Agent[Refusal, object] = extract  # pyright: ignore[reportAssignmentType]
needy: Agent[str, object] = helper  # pyright: ignore[reportAssignmentType]


# -- doors -------------------------------------------------------------------------------------------------------------


async def doors() -> None:
    result = await plain.run("hi")
    assert_type(result.output, str)
    assert_type(await extract.run("Read this"), RunResult[Invoice, object])
    assert_type((await extract.run("Read this")).output.total, Decimal)
    assert_type((await either.run("Read this")).output, Invoice | Refusal)

    served = await helper.run("hi", state=Support(user="ada"))
    assert_type(served, RunResult[str, Support])
    assert_type(served.state.data.answered, bool)

    run = helper.start("hi")
    assert_type(run, Run[str, Support])
    assert_type(await run.result(), RunResult[str, Support])

    async with helper.stream("hi") as stream:
        assert_type(stream, RunStream[str, Support])
        async for piece in stream.text():
            assert_type(piece, str)
        assert_type(await stream.result(), RunResult[str, Support])

    assert_type(extract.run_sync("Read this").output, Invoice)
    assert_type(helper.with_model("openai:gpt-5"), Agent[str, Support])


asked = helper.as_tool(description="Ask the helper.")
assert_type(asked, Tool[[Context[Any], str], Any, object])
assert_type(Agent("Boss", tools=[asked]), Agent[str, object])
assert_type(Agent("Boss", tools=[asked, charge]), Agent[str, Billing])
