"""Steps inside a tool: done once, kept under their place, answered from the log when the body is entered again."""

import asyncio
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from perdure import Agent, Approve, Context, Network, RunFailed, sequence, tool
from perdure import events as ev
from perdure.testing import ScriptedModel, call, calls
from tests.agents.watching import watch


async def told(one: Any, *, run_id: str | None = None) -> Any:
    """What the model is told by the one call of a tool."""
    watched = await watch(Agent("A", tools=[one], model=ScriptedModel(call(one.name), "ok")), run_id=run_id)
    return watched.result.results[0].tool_calls[0].content, watched


def steps_of(watched: Any, records: Any) -> list[str]:
    return [one.key.removeprefix("agent/0/infer/0/tool/0/") for one in records if one.kind == "step"]


# -- keys ---------------------------------------------------------------------------------------------


async def test_a_step_s_key_is_its_place_below_the_call():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> list[int]:
        return [await ctx.step.run("first", lambda: 1), await ctx.step.run("second", lambda: 2)]

    content, watched = await told(work)
    assert content == {"data": [1, 2]}
    records = await watched.records()
    assert [one.key for one in records if one.kind == "step"] == [
        "agent/0/infer/0/tool/0/first",
        "agent/0/infer/0/tool/0/second",
    ]
    assert [one.name for one in watched.of(ev.StepStarted)] == ["first", "second"]
    assert [one.name for one in watched.of(ev.StepFinished)] == ["first", "second"]


async def test_r07_repeats_in_sequence_are_numbered():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> list[int]:
        return [await ctx.step.run("fetch", lambda n: n, n) for n in range(3)]

    content, watched = await told(work)
    assert content == {"data": [0, 1, 2]}
    assert steps_of(watched, await watched.records()) == ["fetch", "fetch#2", "fetch#3"]


async def test_r07_a_repeat_at_the_same_time_is_refused():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        async def fetch() -> None:
            await asyncio.sleep(0)

        return await asyncio.gather(ctx.step.run("fetch", fetch), ctx.step.run("fetch", fetch))

    content, _ = await told(work)
    assert content["error"]["name"] == "AmbiguousStep"
    assert "ctx.step.scope(name).run" in content["error"]["message"]


async def test_r07_a_repeat_after_two_were_open_at_once_is_refused():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        async def fetch() -> None:
            await asyncio.sleep(0)

        await asyncio.gather(ctx.step.run("a", fetch), ctx.step.run("b", fetch))
        await ctx.step.run("a", fetch)

    content, _ = await told(work)
    assert content["error"]["name"] == "AmbiguousStep"


async def test_r07_scopes_tell_branches_apart():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        async def fetch(n: int) -> int:
            await asyncio.sleep(0)
            return n

        first = asyncio.gather(*(ctx.step.scope(name).run("fetch", fetch, n) for n, name in enumerate("ab")))
        return [*await first, await ctx.step.scope("c").scope("d").run("fetch", fetch, 2)]

    content, watched = await told(work)
    assert content == {"data": [0, 1, 2]}
    assert sorted(steps_of(watched, await watched.records())) == ["a/fetch", "b/fetch", "c/d/fetch"]


async def test_a_scope_that_is_used_again_goes_on_counting():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> list[int]:
        found = iter(range(3))
        return [await ctx.step.scope("a").run("next", lambda: next(found)) for _ in range(3)]

    content, watched = await told(work)
    assert content == {"data": [0, 1, 2]}
    assert steps_of(watched, await watched.records()) == ["a/next", "a/next#2", "a/next#3"]


async def test_r16_a_body_ends_only_when_all_that_is_open_waits_in_scopes_too():
    finished: list[str] = []
    helper = Agent("Helper", tools=[tool(lambda: "paid", name="pay", requires_approval=True)])

    async def slow() -> str:
        for _ in range(10):
            await asyncio.sleep(0)
        finished.append("slow")
        return "slow"

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        both = await asyncio.gather(ctx.run(helper, "pay"), ctx.step.scope("a").run("slow", slow))
        return both[1]

    model = ScriptedModel(call("work"), call("pay"), "helped", "ok")
    waiting = await Agent("A", tools=[work], model=model).run("x")
    assert (waiting.status, finished) == ("waiting", ["slow"])
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.results[0].tool_calls[0].data == "slow"
    assert finished == ["slow"]


@pytest.mark.parametrize("id", ["", "a/b", "a#2"])
async def test_ids_that_would_be_mistaken_for_places_are_refused(id: str):
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> None:
        await ctx.step.run(id, lambda: 1)

    content, _ = await told(work)
    assert content["error"]["name"] == "AmbiguousStep"


@pytest.mark.parametrize("name", ["", "a/b", "a#2"])
async def test_so_are_names_of_scopes(name: str):
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> None:
        await ctx.step.scope(name).run("x", lambda: 1)

    content, _ = await told(work)
    assert content["error"]["name"] == "AmbiguousStep"


async def test_equal_ids_in_two_calls_are_two_places():
    @tool(effect="steps")
    async def work(ctx: Context[Any], n: int) -> int:
        return await ctx.step.run("x", lambda: n)

    model = ScriptedModel(calls(call("work", n=1), call("work", n=2)), call("work", n=3), "ok")
    result = await Agent("A", tools=[work], model=model).run("x")
    assert [one.data for one in result.results[0].tool_calls] == [1, 2, 3]


# -- effects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["once", "idempotent"])
async def test_steps_want_the_effect_steps(effect: Any):
    entered: list[int] = []

    @tool(effect=effect)
    async def work(ctx: Context[Any]) -> None:
        await ctx.step.run("x", entered.append, 1)

    content, _ = await told(work)
    assert content["error"]["name"] == "StepOutsideSteps"
    assert "ctx.step.run('x')" in content["error"]["message"]
    assert '@tool(effect="steps")' in content["error"]["message"]
    assert entered == []


@pytest.mark.parametrize("effect", ["steps", "pure"])
async def test_a_pure_tool_may_use_steps_too(effect: Any):
    @tool(effect=effect)
    async def work(ctx: Context[Any]) -> int:
        return await ctx.step.run("x", lambda: 1)

    assert (await told(work))[0] == {"data": 1}


# -- done once --------------------------------------------------------------------------------------------------------


async def test_a_body_that_is_entered_again_finds_its_steps_done():
    done: list[str] = []
    helper = Agent("Helper", tools=[tool(lambda: "paid", name="pay", requires_approval=True)])

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        for _ in range(2):
            await ctx.step.run("before", done.append, "before")
        stamp = ctx.step.uuid(), ctx.step.random().random()
        await ctx.run(helper, "pay")
        kept = await ctx.step.run("stamp", lambda: [str(stamp[0]), stamp[1]])
        return [kept, [str(ctx.step.uuid()), ctx.step.random().random()]]

    model = ScriptedModel(call("work"), call("pay"), "helped", "ok")
    waiting = await Agent("A", tools=[work], model=model).run("x")
    assert done == ["before", "before"]
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert done == ["before", "before"], "both are answered from the log"
    kept, again = result.results[0].tool_calls[0].data
    assert kept == again, "the same uuid and random numbers each time"


async def test_a_retry_of_the_tool_finds_its_steps_done(monkeypatch: pytest.MonkeyPatch):
    from perdure.durable.kernel import SystemClock

    async def at_once(self: Any, seconds: float) -> None: ...

    monkeypatch.setattr(SystemClock, "sleep", at_once)
    done: list[str] = []
    attempts: list[int] = []

    @tool(effect="steps", retries=2)
    async def work(ctx: Context[Any]) -> str:
        attempts.append(1)
        await ctx.step.run("charge", done.append, "charged")
        if len(attempts) < 3:
            raise OSError("down")
        return "ok"

    content, watched = await told(work)
    assert content == {"data": "ok"}
    assert (len(attempts), done) == (3, ["charged"])
    assert steps_of(watched, await watched.records()) == ["charge"]


async def test_a_failed_step_is_not_kept_and_is_done_again(monkeypatch: pytest.MonkeyPatch):
    from perdure.durable.kernel import SystemClock

    async def at_once(self: Any, seconds: float) -> None: ...

    monkeypatch.setattr(SystemClock, "sleep", at_once)
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 2:
            raise OSError("down")
        return "up"

    @tool(effect="steps", retries=1)
    async def work(ctx: Context[Any]) -> str:
        return await ctx.step.run("x", flaky, effect="idempotent")

    assert (await told(work))[0] == {"data": "up"}
    assert len(attempts) == 2


async def test_r07_a_step_that_is_reused_with_other_arguments_ends_a_run_in_memory():
    helper = Agent("Helper", tools=[tool(lambda: "paid", name="pay", requires_approval=True)])
    entered: list[int] = []

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> Any:
        entered.append(1)
        await ctx.step.run("x", lambda n: n, len(entered))
        await ctx.run(helper, "pay")

    model = ScriptedModel(call("work"), call("pay"), "helped", "ok")
    waiting = await Agent("A", tools=[work], model=model).run("x")
    with pytest.raises(RunFailed, match=r"code has changed: the step '.*/x' was finished with other arguments"):
        await waiting.resume({waiting.waits[0].id: Approve()})


# -- values and functions ---------------------------------------------------------------------------------------------


async def test_sync_and_async_functions_with_arguments():
    async def later(a: int, *, b: int) -> int:
        return a + b

    def soon(a: int, *, b: int) -> int:
        return a * b

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> list[int]:
        return [await ctx.step.run("a", partial(later, b=3), 2), await ctx.step.run("b", partial(soon, b=3), 2)]

    assert (await told(work))[0] == {"data": [5, 6]}


async def test_a_result_comes_back_as_plain_json_also_the_first_time():
    import dataclasses

    @dataclasses.dataclass
    class Point:
        x: int

    seen: list[Any] = []

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> None:
        seen.append(await ctx.step.run("x", lambda: Point(1)))
        seen.append(await ctx.step.run("y", lambda: (1, 2)))

    await told(work)
    assert seen == [{"x": 1}, [1, 2]]


async def test_what_cannot_be_kept_is_an_error_and_is_not_done_again():
    entered: list[int] = []

    def bad() -> object:
        entered.append(1)
        return object()

    @tool(effect="steps", retries=3)
    async def work(ctx: Context[Any]) -> None:
        await ctx.step.run("x", bad)

    content, _ = await told(work)
    assert content["error"]["name"] == "Unserialisable"
    assert "result of the step 'x'" in content["error"]["message"]
    assert entered == [1]


async def test_ids_made_in_a_tool_belong_to_their_place():
    seen: list[Any] = []

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> None:
        seen.append([ctx.step.uuid(), ctx.step.uuid("a"), ctx.step.random("b").random()])
        assert isinstance(ctx.step.uuid(), UUID)
        assert ctx.step.uuid().version == 4

    await told(work, run_id="run_1")
    await told(work, run_id="run_1")
    await told(work, run_id="run_2")
    assert seen[0] == seen[1]
    assert not set(seen[0]) & set(seen[2])
    assert len(set(seen[0])) == 3


async def test_steps_of_a_cancelled_run_that_had_finished_are_kept():
    entered = asyncio.Event()

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> None:
        await ctx.step.run("done", lambda: 1)
        entered.set()
        await ctx.step.run("hangs", asyncio.Event().wait)

    run = Agent("A", tools=[work], model=ScriptedModel(call("work"))).start("x")
    await entered.wait()
    await asyncio.sleep(0)
    await run.cancel()
    running = run._running
    records = await running.env.kernel.log.read_run(run.id)
    assert steps_of(None, records) == ["done"]


async def test_steps_within_a_network_lie_below_their_agent():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> int:
        return await ctx.step.run("x", lambda: 1)

    one, two = Agent("One"), Agent("Two", tools=[work])
    network = Network("N", agents=[one, two], router=sequence(one, two))
    watched = await watch(network, model=ScriptedModel("a", call("work"), "b"))
    assert [one.key for one in await watched.records() if one.kind == "step"] == ["agent/1/infer/0/tool/0/x"]
