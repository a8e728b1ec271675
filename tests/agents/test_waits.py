"""Bodies that wait: ended when all that is open in them waits, entered again when something is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Agent, Approve, Context, Question, tool
from perdure.durable.step import Step
from perdure.testing import ScriptedModel, call, say
from perdure.types.waits import Answer, WaitAnswer


async def ask(step: Step, id: str, text: str) -> str:
    run_id = step._body.io.token.run_id
    answer: WaitAnswer = await step._body.wait(id, "ask", lambda mark: Question(mark, text, run_id))
    assert isinstance(answer, Answer)
    return answer.text


def agent(fn: Any) -> Agent[str, Any]:
    return Agent("A", model=ScriptedModel(call(fn.__name__), say("Done.")), tools=[tool(fn, effect="steps")])


def result_of(result: Any) -> Any:
    return result.results[-1].messages[1].content


async def test_r16_a_body_is_ended_only_when_all_that_is_open_in_it_waits():
    charged: list[str] = []
    finals: list[bool] = []
    may_charge = asyncio.Event()

    async def both(ctx: Context[Any]) -> Any:
        async def charge() -> str:
            await may_charge.wait()
            charged.append("once")
            return "charged"

        async def release() -> str:
            may_charge.set()
            return await ask(ctx.step, "q", "Go on?")

        try:
            return await asyncio.gather(ctx.step.run("charge", charge), release())
        finally:
            finals.append(ctx.suspending)

    result = await agent(both).run("x")
    assert result.status == "waiting" and charged == ["once"] and finals == [True]
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result_of(result) == {"data": ["charged", "yes"]} and charged == ["once"] and finals == [True, False]


async def test_b55_no_handler_of_a_users_makes_an_end_of_being_suspended():
    seen: list[str] = []

    async def stubborn(ctx: Context[Any]) -> str:
        try:
            return await ask(ctx.step, "q", "Go on?")
        except BaseException:
            seen.append("caught")
            try:
                await ctx.step.run("later", lambda: seen.append("done"))
            except BaseException:
                seen.append("again")
            return "swallowed"

    result = await agent(stubborn).run("x")
    assert result.status == "waiting" and seen == ["caught", "again"]
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result_of(result) == {"data": "yes"} and seen == ["caught", "again"]


async def test_any_answer_lets_the_body_go_on_and_wait_for_the_rest():
    reached: list[str] = []

    async def two(ctx: Context[Any]) -> Any:
        async def branch(name: str) -> str:
            step = ctx.step.scope(name)
            first = await ask(step, "q", name)
            reached.append(name)
            return first

        return await asyncio.gather(branch("a"), branch("b"))

    result = await agent(two).run("x")
    a, b = result.waits
    assert isinstance(a, Question) and (a.text, reached) == ("a", [])
    result = await result.resume({b.id: Answer("B")})
    assert result.status == "waiting" and [wait.id for wait in result.waits] == [a.id] and reached == ["b"]
    result = await result.resume({a.id: Answer("A")})
    assert result_of(result) == {"data": ["A", "B"]}


async def test_sleep_and_now_are_done_once_in_memory_too():
    times: list[Any] = []

    async def late(ctx: Context[Any]) -> str:
        times.append(ctx.step.now())
        await ctx.step.sleep("nap", 0.001)
        return await ask(ctx.step, "q", "Go on?")

    result = await agent(late).run("x")
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result_of(result) == {"data": "yes"} and len(times) == 2 and times[0] == times[1]


@pytest.mark.parametrize("answer", [Approve(), Answer("maybe")])
async def test_a_question_is_answered_with_one_of_its_choices(answer: Any):
    from perdure import DefinitionError

    async def choose(ctx: Context[Any]) -> str:
        run_id = ctx.run_id
        await ctx.body.wait("q", "ask", lambda mark: Question(mark, "Well?", run_id, choices=("yes", "no")))
        return "ok"

    result = await agent(choose).run("x")
    with pytest.raises(DefinitionError, match="question"):
        await result.resume({result.waits[0].id: answer})
    result = await result.resume({result.waits[0].id: Answer("yes")})
    assert result.output == "Done."
