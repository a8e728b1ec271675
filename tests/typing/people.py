"""What people are asked, and what they say, is told apart by `match`; a decision is narrowed by whether it is true."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_never, assert_type

from perdure import (
    Agent,
    Answer,
    Approval,
    Approve,
    ChildRun,
    Context,
    Decision,
    Deny,
    Elapsed,
    EventWait,
    Question,
    RunResult,
    Runtime,
    Timer,
    ask_human,
    human_tool,
    tool,
)

agent = Agent("A", tools=[ask_human, human_tool("ask_boss", choices=["yes", "no"], timeout=timedelta(hours=4))])


async def waits(result: RunResult[str, Any]) -> None:
    for wait in result.waits:
        match wait:
            case Approval(tool=name, args=args, reason=reason):
                assert_type(name, str)
                assert_type(args, dict[str, Any])
                assert_type(reason, str)
            case Question(text=text, choices=choices):
                assert_type(text, str)
                assert_type(choices, tuple[str, ...])
            case EventWait() | Timer() | ChildRun():
                assert_type(wait.expires, float | None)
            case _:
                assert_never(wait)


@tool(effect="steps")
async def pay(ctx: Context[Any], amount: int) -> str:
    decision = await ctx.approve("Pay?", args={"amount": amount}, timeout=60)
    assert_type(decision, Decision)
    if decision:
        assert_type(decision, Approve)
        return decision.by or "somebody"
    assert_type(decision, Deny | Elapsed)
    answer = await ctx.ask("Why not?", choices=("a", "b"))
    assert_type(answer, Answer | None)
    return decision.why


async def charge(amount: int) -> float:
    return amount / 2


@tool(effect="steps")
async def steps(ctx: Context[Any]) -> None:
    assert_type(await ctx.step.run("a", charge, 1), float)
    assert_type(await ctx.step.run("a", charge, 1, in_doubt="ask"), float | None)
    await ctx.step.run("a", charge, 1, in_doubt="guess")  # pyright: ignore[reportCallIssue, reportArgumentType]


async def doors(runtime: Runtime) -> None:
    for one in await runtime.waits(kind="person", run_id="job"):
        assert_type(one.session_id, str)
        match one.wait:
            case Question(id=id):
                assert_type(await runtime.answer(id, "yes", by="ada"), RunResult[Any, Any])
            case wait:
                await runtime.respond(wait.id, Approve("ada"))
    await runtime.waits(kind="people")  # pyright: ignore[reportArgumentType]
    await runtime.respond("w", True)  # pyright: ignore[reportArgumentType]
