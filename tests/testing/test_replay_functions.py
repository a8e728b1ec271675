"""Runs of durable functions are followed again: every kind of step, waits, attempts, runs of their own, forks."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Context, NonRetriable, RetryAfter, RunCancelled, RunFailed, Runtime, SentEvent, function
from perdure.agents import function_program
from perdure.testing import EMAILS, Recording, Replay, ScriptedModel, recorded, recording, replay, say
from perdure.types.waits import Approval, EventWait, Question, Timer
from tests.runtime.desk import until

Ctx = Context[Any]
called: list[str] = []
HELPER = Agent("Helper", system="Help.", model=ScriptedModel(*[say("helped")] * 9))


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    called.clear()


def do(what: str, *with_this: Any) -> str:
    called.append(what)
    return what


def rows(tx: Any, n: int) -> int:
    called.append("rows")
    return tx.fetch("SELECT ?", [n])[0][0]


@function(name="Small")
async def small(ctx: Ctx, n: int) -> int:
    return n + await ctx.step.run("one", lambda: 1, effect="pure")


@function(name="Order", event="shop/order")
async def order(ctx: Ctx, event: SentEvent) -> dict[str, Any]:
    step, mail = ctx.step, event.data["mail"]
    began, mark, dice = step.now(), str(step.uuid("order")), step.random().randrange(100)
    await step.run("reserve", do, "reserve", mark, dice, undo=lambda *_: do("undo"))
    made = await ctx.transaction(rows, 3)
    kind = await step.infer("kind", ScriptedModel(say("boat")), f"What is this? {mail}")
    await step.send_event("tell", "shop/told", {"mark": mark})
    paid = await step.wait_for_event("paid", "shop/paid", match={"mark": mark}, timeout=60)
    await step.sleep("rest", 0.01)
    both = await asyncio.gather(
        step.scope("a").run("look", do, "a", effect="pure"), step.scope("b").run("look", do, "b", effect="pure")
    )
    more = await step.invoke("small", small, {"n": made})
    said = await ctx.run(HELPER, f"Help {mail}.")
    decision = await ctx.approve("Ship it?", args={"mail": mail})
    return {
        "year": began.year,
        "kind": kind,
        "paid": paid and paid.data["amount"],
        "both": both,
        "more": more,
        "said": said.output,
        "allowed": bool(decision),
    }


def differs(run: Recording, definitions: Any, *parts: str) -> Replay:
    result = replay(run, definitions)
    assert not result.same
    for part in parts:
        assert part in result.text, result.text
    return result


async def kept(folder: Path, *definitions: Any, run: Callable[[Runtime], Any]) -> Recording:
    """What a run was that was driven in a store."""
    async with Runtime(f"sqlite:///{folder}/desk.db", definitions, durability="normal") as rt:
        with suppress(RunFailed, RunCancelled):
            await run(rt)
        return await recording(rt, "job")


async def whole(rt: Runtime) -> None:
    log = rt.container("default").log
    run = await rt.start(order, {"mail": "ada@example.com"}, run_id="job")
    while (await log.run("job")).status not in ("completed", "failed"):
        for wait in await log.waits("job"):
            if isinstance(wait, EventWait):
                await rt.send_event("shop/paid", {"mark": wait.match["mark"], "amount": 12})
            elif isinstance(wait, Approval):
                await rt.approve(wait.id, by="ada")
        await asyncio.sleep(0.01)
    assert (await run.result()).output["paid"] == 12


async def test_every_kind_of_step_is_followed_and_none_is_done_again(tmp_path: Path):
    run = await kept(tmp_path, order, small, HELPER, run=whole)
    assert sorted(called) == ["a", "b", "reserve", "rows"]
    called.clear()
    result = replay(run, [order, small, HELPER])
    assert result.same, result.text
    assert result.steps > 6
    saved = recorded(run.save(tmp_path / "job.json", redact=EMAILS))
    assert "ada@example.com" not in (tmp_path / "job.json").read_text()
    replay(saved, [order, small, HELPER]).check()
    assert called == [], "neither steps nor transactions nor what undoes them"


def variant(name: str = "Small", **options: Any) -> Callable[[Any], Any]:
    return function(name=name, **options)


async def test_each_change_of_a_function_is_said_where_it_begins(tmp_path: Path):
    @variant("Steps")
    async def steps(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n)
        await ctx.step.run("b", do, "b")
        await ctx.step.sleep("rest", 0.01)
        return await ctx.step.run("c", do, "c")

    run = await kept(tmp_path, steps, run=lambda rt: ended(rt, steps, {"n": 1}))
    replay(run, steps).check()
    called.clear()

    @variant("Steps")
    async def other_order(ctx: Ctx, n: int) -> str:
        await ctx.step.run("b", do, "b")
        await ctx.step.run("a", do, "a", n)
        await ctx.step.sleep("rest", 0.01)
        return await ctx.step.run("c", do, "c")

    differs(
        run, other_order, "at function/b: the code asks for its steps in another order", "recorded: a", "now:      b"
    )

    @variant("Steps")
    async def other_arguments(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n + 1)
        return ""

    differs(run, other_arguments, "the code has changed", "the step 'function/a' was finished with other arguments")

    @variant("Steps")
    async def fewer(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n)
        await ctx.step.sleep("rest", 0.01)
        return "c"

    differs(run, fewer, "at function/b: the code does not ask for a step any more that it had asked for")

    @variant("Steps")
    async def more(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n)
        await ctx.step.run("between", do, "between")
        return ""

    differs(run, more, "at function/between: the code asks for a step that was not recorded")

    @variant("Steps")
    async def other_wait(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n)
        await ctx.step.run("b", do, "b")
        await ctx.ask("Why?")
        return ""

    differs(run, other_wait, "at function#wait/0: the call waits for something else", "a moment", "answer to 'Why?'")

    @variant("Steps")
    async def other_result(ctx: Ctx, n: int) -> str:
        await ctx.step.run("a", do, "a", n)
        await ctx.step.run("b", do, "b")
        await ctx.step.sleep("rest", 0.01)
        return (await ctx.step.run("c", do, "c")).upper()

    differs(run, other_result, "the function returns something else", "recorded: c", "now:      C")

    @variant("Steps")
    async def other_parameters(ctx: Ctx, m: int) -> str:
        return ""

    with pytest.raises(Exception, match="does not take any more what the run was given"):
        replay(run, other_parameters)
    with pytest.raises(Exception, match="'Steps' was a function and is an agent now"):
        replay(run, Agent("Steps"))
    with pytest.raises(Exception, match="Give the agent, network or function that made it"):
        replay(run, [small])
    assert called == []


async def begun(rt: Runtime) -> bool:
    return "started" in [one.kind for one in await rt.container("default").log.read_run("job")]


async def sleeps(rt: Runtime) -> bool:
    return [type(one) for one in await rt.container("default").log.waits("job")] == [Timer]


async def ended(rt: Runtime, definition: Any, data: Any = None) -> None:
    run = await rt.start(definition, data, run_id="job")
    await run.result()


async def test_attempts_are_followed_and_what_left_no_record_is_taken_to_have_failed_as_its_attempt_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(function_program, "LONG", 0.02)

    def shake() -> str:
        called.append("shake")
        if called.count("shake") < 3:
            raise RetryAfter(0.01 * called.count("shake") ** 2, "not yet")
        return "still"

    @variant("Flaky")
    async def flaky(ctx: Ctx) -> str:
        await ctx.step.run("once", do, "once")
        raise NonRetriable(await ctx.step.run("shake", shake, effect="idempotent"))

    run = await kept(tmp_path, flaky, run=lambda rt: ended(rt, flaky))
    waits = [one.key for one in run.run.records if one.kind == "wait"]
    assert waits == ["function#retry/2"], "the second rest was long, the first was not"
    assert replay(run, flaky).steps == 4
    replay(run, flaky).check()

    @variant("Flaky", retries=1)
    async def impatient(ctx: Ctx) -> str:
        await ctx.step.run("once", do, "once")
        return await ctx.step.run("shake", shake, effect="idempotent")

    differs(run, impatient, "attempt 2 fails with RetryAfter: not yet", "now:      fails with RetryAfter: not yet")

    @variant("Flaky")
    async def calmer(ctx: Ctx) -> str:
        await ctx.step.run("once", do, "once")
        return "calm"

    differs(run, calmer, "recorded: attempt 1 fails with RetryAfter", "now:      Flaky returns calm")
    assert called == ["once", "shake", "shake", "shake"]


async def test_branches_that_ran_beside_each_other_end_in_the_order_in_which_they_had_ended(tmp_path: Path):
    first = asyncio.Event()

    async def last() -> str:
        await first.wait()
        return "last"

    async def won() -> str:
        return "won"

    async def stuck() -> None:
        await asyncio.Event().wait()

    @variant("Race")
    async def race(ctx: Ctx) -> list[Any]:
        tasks = [asyncio.ensure_future(ctx.step.run(one.__name__, one)) for one in (last, won, stuck)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        some = [one.result() for one in done]
        first.set()
        done, _ = await asyncio.wait({*rest} - {tasks[2]})
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        return [*some, *(one.result() for one in done)]

    result = await race.run()
    assert result.output == ["won", "last"]
    replay(await recording(result), race).check()


async def test_open_cancelled_and_killed_runs_and_what_a_person_decides_of_a_step_in_doubt(tmp_path: Path):
    @variant("Doubtful")
    async def doubtful(ctx: Ctx) -> str:
        ctx.step.now()
        said = await ctx.step.run("charge", do, "charge", in_doubt="ask")
        await ctx.step.sleep("long", 10_000)
        return str(said)

    async def forever(what: str) -> None:
        await asyncio.Event().wait()

    @variant("Doubtful")
    async def dies(ctx: Ctx) -> str:
        ctx.step.now()
        await ctx.step.run("charge", forever, "charge")
        return ""

    url = f"sqlite:///{tmp_path}/desk.db"
    async with Runtime(url, [dies], durability="normal") as rt:
        await rt.start(dies, run_id="job")
        await until(lambda: begun(rt))
        replay(await recording(rt, "job"), dies).check()
    seen: list[Recording] = []
    async with Runtime(url, [doubtful], durability="normal") as rt:
        log = rt.container("default").log
        for _ in range(2):
            await until(lambda: log.waits("job"))
            (wait,) = await log.waits("job")
            seen.append(await recording(rt, "job"))
            if isinstance(wait, Question):
                await rt.answer(wait.id, "do it again")
                await until(lambda: sleeps(rt))
        await rt.cancel("job")
        with pytest.raises(RunCancelled):
            await rt.run(doubtful, run_id="job")
        seen.append(await recording(rt, "job"))
    assert called == ["charge"]
    for one in seen:
        replay(one, doubtful).check()

    def taken_back(*args: Any) -> None:
        called.append("undone")

    for options, said in (({}, "StepInDoubt"), ({"effect": "pure"}, "calls charge (pure)"), ({"undo": taken_back}, "")):

        @variant("Doubtful")
        async def other(ctx: Ctx, options: Any = options) -> str:
            ctx.step.now()
            await ctx.step.run("charge", do, "charge", **options)
            return ""

        differs(seen[0], other, said)
    assert called == ["charge"], "nothing is done again nor undone"


async def test_an_invoked_run_is_followed_too_and_its_own_changes_are_said(tmp_path: Path):
    @variant("Calls")
    async def calls(ctx: Ctx, n: int = 1) -> int:
        return await ctx.step.invoke("small", small, {"n": n}) + len(await ctx.step.invoke("ask", HELPER, "Help."))

    for source in ("memory", "store"):
        if source == "memory":
            run = await recording(await calls.run())
        else:
            run = await kept(tmp_path, calls, small, HELPER, run=lambda rt: ended(rt, calls))
        result = replay(run, calls)
        result.check()
        assert result.steps >= 2 + 2 + 3
        assert [one.definition for one in run.runs] == ["Calls", "Small", "Helper"]

        @variant("Small")
        async def bigger(ctx: Ctx, n: int) -> int:
            return n + await ctx.step.run("one", lambda: 1, effect="pure") + 1

        @variant("Calls")
        async def others(ctx: Ctx) -> int:
            return await ctx.step.invoke("small", bigger, {"n": 1}) + len(await ctx.step.invoke("ask", HELPER, "Help."))

        differs(run, others, f"in its child run {run.runs[1].id}, at function: the function returns something else")

        @variant("Calls")
        async def given(ctx: Ctx) -> int:
            return await ctx.step.invoke("small", small, {"n": 2}) + len(await ctx.step.invoke("ask", HELPER, "Help."))

        differs(run, given, "the child run is given something else", 'recorded: {"n":1}', 'now:      {"n":2}')
