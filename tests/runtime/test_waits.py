"""Runs that wait for events and for moments: rows while they wait, and woken once, by whoever is there."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    Conflict,
    Context,
    DefinitionError,
    Hooks,
    NeedsRuntime,
    RunCancelled,
    RunFailed,
    Runtime,
    tool,
)
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.messages import TextMessage
from perdure.types.sent_event import MOST
from perdure.types.waits import Received, wait_id
from tests.runtime.desk import QUICK, until
from tests.runtime.till import rows


def agent(fn: Any, *, name: str = "A") -> Agent[str, Any]:
    """An agent that calls one tool and says what it gave."""

    def model(request: Any) -> Any:
        last = request.messages[-1]
        return call(fn.__name__) if isinstance(last, TextMessage) else say(str(last.content))

    return Agent(name, model=FunctionModel(model), tools=[tool(fn, effect="steps")])


def opened(url: str, *definitions: Any) -> Runtime:
    return Runtime(url, definitions, timing=QUICK, durability="normal")


async def ends(run: Any) -> str:
    async with asyncio.timeout(30):
        return (await run.result()).output


async def paid(ctx: Context[Any]) -> Any:
    """Wait for a payment."""
    event = await ctx.step.wait_for_event("paid", "app/paid", match={"invoice.id": "i-7"})
    return event and event.data["amount"]


async def rest(ctx: Context[Any]) -> str:
    """Sleep."""
    await ctx.step.sleep("nap", 0.2)
    return "rested"


async def never(ctx: Context[Any]) -> Any:
    """Wait for what does not come."""
    return await ctx.step.wait_for_event("it", "app/never", timeout=timedelta(seconds=0.2))


PAID, REST, NEVER = agent(paid, name="Paid"), agent(rest, name="Rest"), agent(never, name="Never")


async def test_b53_a_run_waits_for_an_event_that_fits_and_goes_on_with_it(url: str):
    async with opened(url, PAID) as rt:
        run = await rt.start(PAID, "go", run_id="job")
        assert (await run.reached()).status == "waiting"
        await rt.send_event("app/paid", {"invoice": {"id": "i-8"}, "amount": 1})
        await rt.send_event("app/other", {"invoice": {"id": "i-7"}, "amount": 2})
        assert (await rt.run(PAID, "go", run_id="job")).status == "waiting"
        await rt.send_event("app/paid", {"invoice": {"id": "i-7"}, "amount": 3})
        assert await ends(run) == "{'data': 3}"
        assert not await rt.container("default").log.waits()


async def test_b53_a_run_sleeps_and_a_wait_that_is_not_met_in_time_gives_none(url: str):
    async with opened(url, REST, NEVER) as rt:
        runs = [await rt.start(REST, "go"), await rt.start(NEVER, "go")]
        assert [await ends(one) for one in runs] == ["{'data': 'rested'}", "{'data': 'never successfully executed'}"]


async def test_b55_another_process_goes_on_when_all_have_gone(url: str):
    async with opened(url, PAID) as rt:
        assert (await rt.run(PAID, "go", run_id="job")).status == "waiting"
    async with opened(url, PAID) as rt:
        await rt.send_event("app/paid", {"invoice": {"id": "i-7"}, "amount": 3})
        run = await rt.start(PAID, "go", run_id="job")
        assert await ends(run) == "{'data': 3}"


async def test_d15_an_event_that_came_before_the_wait_is_not_lost(url: str):
    sent = asyncio.Event()

    async def late(ctx: Context[Any]) -> Any:
        """Wait, when the event is there already."""
        await sent.wait()
        return (await ctx.step.wait_for_event("paid", "app/paid", match={"n": 1})).data  # type: ignore[union-attr]

    async def fresh(ctx: Context[Any]) -> Any:
        """Wait for what comes from now on."""
        await sent.wait()
        return await ctx.step.wait_for_event("paid", "app/paid", since="now", timeout=0.1)

    agents = agent(late, name="Late"), agent(fresh, name="Fresh")
    async with opened(url, *agents) as rt:
        await rt.send_event("app/paid", {"n": 1, "of": "before the run"})
        runs = [await rt.start(one, "go") for one in agents]
        event = await rt.send_event("app/paid", {"n": 1, "of": "the run"})
        await until(lambda: rt.worker.store.now() > event.at + 0.01)  # SQLite's clock has milliseconds
        sent.set()
        assert await ends(runs[0]) == "{'data': {'n': 1, 'of': 'the run'}}"
        assert await ends(runs[1]) == "{'data': 'fresh successfully executed'}"


async def test_r17_an_event_is_used_once_by_a_run_and_the_oldest_first(url: str):
    async def both(ctx: Context[Any]) -> Any:
        """Wait twice for the same name."""
        first = await ctx.step.wait_for_event("a", "app/n")
        second = await ctx.step.wait_for_event("b", "app/n")
        assert first is not None and second is not None
        return [first.data["n"], second.data["n"]]

    one = agent(both)
    async with opened(url, one) as rt:
        runs = [await rt.start(one, "go", run_id=f"job_{n}") for n in range(2)]
        for n in range(3):
            await rt.send_event("app/n", {"n": n})
        assert [await ends(run) for run in runs] == ["{'data': [0, 1]}"] * 2


async def test_r17_an_event_ends_one_of_two_waits_of_a_run(url: str):
    async def both(ctx: Context[Any]) -> Any:
        """Wait twice at once."""
        waits = [ctx.step.wait_for_event(id, "app/n", timeout=60) for id in ("a", "b")]
        found = await asyncio.gather(*waits)
        return sorted(one.data["n"] for one in found if one is not None)

    one = agent(both)
    async with opened(url, one) as rt:
        run = await rt.start(one, "go")
        assert len((await run.reached()).waits) == 2
        await rt.send_event("app/n", {"n": 1})
        assert len(await rt.container("default").log.waits()) == 1
        await rt.send_event("app/n", {"n": 2})
        assert await ends(run) == "{'data': [1, 2]}"


async def test_d19_an_event_is_sent_once_with_its_step(url: str):
    async def tells(ctx: Context[Any]) -> Any:
        """Send an event, and wait for it in the same run."""
        sent = await ctx.step.send_event("tell", "app/told", {"n": 1})
        event = await ctx.step.wait_for_event("hear", "app/told")
        assert event is not None
        return [event.id == sent.id, event.data]

    one = agent(tells)
    async with opened(url, one, PAID) as rt:
        run = await rt.start(one, "go")
        assert await ends(run) == "{'data': [True, {'n': 1}]}"
        first = await rt.send_event("app/paid", {"amount": 1}, id="e1")
        assert await rt.send_event("app/paid", {"amount": 1}, id="e1") == first
        with pytest.raises(Conflict, match="another id"):
            await rt.send_event("app/paid", {"amount": 2}, id="e1")
        assert (await rt.container("other").send_event("app/paid", {"amount": 2}, id="e1")).data == {"amount": 2}


async def test_what_is_no_event_is_refused(url: str):
    async with opened(url, PAID) as rt:
        for name, data, said in (
            ("", {}, "not allowed"),
            ("no good", {}, "not allowed"),
            ("app/x", [1], "JSON object"),
            ("app/x", {"x": "y" * 10 * MOST}, r"10\.5 MB and at most 1\.0 MB"),
        ):
            with pytest.raises(DefinitionError, match=said):
                await rt.send_event(name, data)
        with pytest.raises(TypeError, match=r"\.x: object"):
            await rt.send_event("app/x", {"x": object()})


async def test_without_a_runtime_nobody_could_send_an_event():
    async def asks(ctx: Context[Any]) -> Any:
        """Try both."""
        with pytest.raises(NeedsRuntime, match="wait_for_event"):
            await ctx.step.wait_for_event("a", "app/n")
        with pytest.raises(NeedsRuntime, match="send_event"):
            await ctx.step.send_event("b", "app/n")
        return datetime.now(UTC).year > 2000

    assert (await agent(asks).run("go")).output == "{'data': True}"


async def test_r16_a_call_that_was_answered_goes_on_beside_one_that_still_runs(url: str):
    reached: list[str] = []
    hold = asyncio.Event()

    async def works(ctx: Context[Any]) -> str:
        """Work until the other one has gone on."""
        await hold.wait()
        return "worked"

    async def hears(ctx: Context[Any]) -> str:
        """Wait."""
        await ctx.step.wait_for_event("it", "app/it")
        reached.append("heard")
        hold.set()
        return "heard"

    def model(request: Any) -> Any:
        last = request.messages[-1]
        return calls(call("works"), call("hears")) if isinstance(last, TextMessage) else say("done")

    tools = [tool(works, effect="steps"), tool(hears, effect="steps")]
    one = Agent("A", model=FunctionModel(model), tools=tools)
    async with opened(url, one) as rt:
        run = await rt.start(one, "go")
        log = rt.container("default").log
        await until(log.waits)
        assert (await log.run(run.id)).status == "running"
        await rt.send_event("app/it")
        assert (await ends(run), reached) == ("done", ["heard"])


async def test_r17_what_a_body_has_given_up_takes_no_event_of_a_later_wait(url: str):
    async def first(ctx: Context[Any]) -> Any:
        """Take whichever comes first, then wait for the other one's name again."""
        waits = [asyncio.create_task(ctx.step.wait_for_event(id, f"app/{id}")) for id in ("a", "b")]
        try:
            done, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        event = await ctx.step.wait_for_event("again", "app/b")
        assert event is not None
        return [len(done), len(left), event.data]

    one = agent(first)
    async with opened(url, one) as rt:
        run = await rt.start(one, "go", run_id="job")
        assert len((await run.reached()).waits) == 2
        log = rt.container("default").log
        await rt.send_event("app/a")
        await until(lambda: waits_at(log, "again"))
        await rt.send_event("app/b", {"n": 1})
        assert await ends(run) == "{'data': [1, 1, {'n': 1}]}"


async def waits_at(log: Any, place: str) -> bool:
    """Whether a run waits at one place and nowhere else."""
    return [one.id for one in await log.waits()] == [wait_id("job", f"agent/0/infer/0/tool/0/{place}")]


async def test_b55_a_child_waits_with_its_parent_and_is_answered_by_another_process(url: str):
    async def asks(ctx: Context[Any]) -> Any:
        """Run a child that waits."""
        return (await ctx.run(PAID, "go")).output

    one = agent(asks, name="Parent")
    async with opened(url, one, PAID) as rt:
        waits = (await rt.run(one, "go", run_id="job")).waits
        assert [wait.run_id != "job" for wait in waits] == [True]
        log = rt.container("default").log
        assert await log.waits("job") == list(waits)
        assert {run.status for run in await log.runs()} == {"waiting"}
    async with opened(url, one, PAID) as rt:
        await rt.send_event("app/paid", {"invoice": {"id": "i-7"}, "amount": 3})
        assert await ends(await rt.start(one, "go", run_id="job")) == "{'data': \"{'data': 3}\"}"
        assert {run.status for run in await rt.runs()} == {"completed"}


async def test_d17_a_cancelled_child_does_not_keep_its_parent_waiting(url: str):
    async def asks(ctx: Context[Any]) -> Any:
        """Run a child that is cancelled."""
        try:
            return (await ctx.run(PAID, "go")).output
        except RunCancelled:
            return "cancelled"

    one = agent(asks, name="Parent")
    async with opened(url, one, PAID) as rt:
        run = await rt.start(one, "go", run_id="job")
        child = (await run.reached()).waits[0].run_id
        await rt.cancel(child)
        assert await ends(run) == "{'data': 'cancelled'}"
        assert (await rt.container("default").log.run(child)).status == "cancelled"


async def test_d17_a_child_that_waits_ends_with_its_parent_when_that_fails(url: str):
    asked = asyncio.Event()

    @tool(requires_approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    child: Agent[Any, Any] = Agent("Child", tools=[pay], model=FunctionModel(lambda _: call("pay")))

    @tool(effect="steps")
    async def consult(ctx: Context[Any]) -> str:
        """Ask somebody else."""
        return (await ctx.run(child, "go")).output

    @tool(effect="pure")
    async def look() -> str:
        """Look."""
        await asked.wait()
        return "seen"

    def refuse(ctx: Any, call: Any, result: Any) -> None:
        if call.name == "look":
            raise ValueError("not this")

    both = FunctionModel(lambda _: calls(call("consult"), call("look")))
    parent: Agent[Any, Any] = Agent("Parent", tools=[consult, look], hooks=Hooks(after_tool=refuse), model=both)
    async with Runtime(url, [parent, child], timing=QUICK, durability="normal") as rt:
        run = await rt.start(parent, "go")
        await until(rt.waits)
        asked.set()
        with pytest.raises(RunFailed, match="not this"):
            await run.result()

        async def over() -> bool:
            return {one.definition: one.status for one in await rt.runs()} == {"Parent": "failed", "Child": "cancelled"}

        await until(over)
        assert await rt.waits() == [] and await rt.check() == []


async def test_d17_a_cancelled_run_waits_for_nothing_any_more(url: str):
    async with opened(url, PAID) as rt:
        run = await rt.start(PAID, "go", run_id="job")
        log = rt.container("default").log
        wait = (await run.reached()).waits[0]
        await run.cancel()
        assert (await log.run("job")).status == "cancelled"
        assert await log.waits() == []
        event = await rt.send_event("app/paid", {"invoice": {"id": "i-7"}})
        assert await log.answer(wait.id, Received(event)) == "late"
        assert await log.late("job") == [(wait.id, Received(event))]
        assert [one.kind for one in await log.read_run("job")][-2:] == ["agent_finished", "run_finished"]
        with pytest.raises(RunCancelled):
            await run.result()


async def test_r04_an_exported_session_takes_its_waits_along(url: str, tmp_path: Path):
    async def asks(ctx: Context[Any]) -> Any:
        """Run a child that waits."""
        return (await ctx.run(PAID, "go")).output

    one = agent(asks, name="Parent")
    async with opened(url, one, PAID) as rt:
        waits = (await rt.run(one, "go", run_id="job", session_id="s")).waits
        await rt.session("s").export(tmp_path / "s.jsonl")
    new = f"sqlite:///{tmp_path}/new.db"
    async with opened(new, one, PAID) as rt:
        await rt.import_session(tmp_path / "s.jsonl")
        log = rt.container("default").log
        assert await log.waits("job") == list(waits)
        assert [(run.status, run.held) for run in await log.runs()] == [("parked", "waiting")] * 2
        await rt.send_event("app/paid", {"invoice": {"id": "i-7"}, "amount": 3})
        assert (await log.run("job")).status == "parked", "it is held, and has its answer"
        assert await rt.check() == []
    async with Runtime(new, [one, PAID], timing=QUICK, take_over=True) as rt:
        assert await ends(await rt.start(one, "go", run_id="job", session_id="s")) == "{'data': \"{'data': 3}\"}"


async def test_r04_a_copy_holds_what_waits_and_its_moments_come_when_it_is_taken_over(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/one.db", REST) as rt:
        await rt.run(REST, "go", run_id="job")
        await rt.backup(tmp_path / "two.db")
    async with opened(f"sqlite:///{tmp_path}/two.db", REST) as rt:
        log = rt.container("default").log
        await until(lambda: ended_in(log, "job"))
        assert ((await log.run("job")).status, (await log.run("job")).held) == ("parked", "queued")
    async with Runtime(f"sqlite:///{tmp_path}/two.db", [REST], timing=QUICK, take_over=True) as rt:
        assert await ends(await rt.start(REST, "go", run_id="job")) == "{'data': 'rested'}"


async def ended_in(log: Any, run_id: str) -> bool:
    """Whether the waits of a run are over."""
    return "answer" in [one.kind for one in await log.read_run(run_id)]


async def test_r18_what_was_answered_and_sent_is_erased_with_its_session(url: str, tmp_path: Path):
    async def tells(ctx: Context[Any]) -> Any:
        """Send a secret, and wait for one."""
        await ctx.step.send_event("tell", "app/told", {"secret": "tiger"})
        return (await ctx.step.wait_for_event("hear", "app/heard")) and "heard"

    one = agent(tells)
    async with opened(url, one) as rt:
        log = rt.container("default").log
        wait = (await rt.run(one, "go", run_id="job", session_id="s")).waits[0]
        await rt.session("s").erase(cancel=True)
        assert await log.waits() == []
        assert [(one.name, one.data) for one in await log.events_of("job")] == [("app/told", {})]
        assert await log.answer(wait.id, Received(await rt.send_event("app/heard"))) == "late"
        await rt.session("s").erase()
        assert await log.late("job") == []
        assert await rt.check() == []


async def test_a_wait_that_is_lost_is_seen(url: str):
    async with opened(url, PAID) as rt:
        await rt.run(PAID, "go", run_id="job")
        assert await rt.check() == []
        await rows(rt.db, "UPDATE waiters SET run = 'gone'")
        assert sorted(one.what.partition(":")[0] for one in await rt.check()) == [
            "a run waits for nothing, so nobody wakes it",
            "a wait belongs to a run that is not open",
        ]
