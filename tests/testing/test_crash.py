"""`crash_everywhere` passes what is honest, and finds what is not."""

import asyncio
import itertools
import random
from typing import Any

import pytest

from perdure import Agent, Context, DefinitionError, Hooks, Network, Transaction, tool
from perdure.testing import FunctionModel, ScriptedModel, call, calls, crash_everywhere, fail, say
from perdure.types.errors import Overloaded


class Till:
    """The world outside: what was paid, under which keys."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.by_key: dict[str, int] = {}


# -- honest -----------------------------------------------------------------------------------------------------------


@tool(effect="pure")
async def look(ctx: Context[Any], what: str) -> str:
    """Look."""
    await asyncio.sleep(1)
    return await asyncio.to_thread(lambda: f"{what} seen")


@tool(effect="idempotent")
async def book(ctx: Context[Any], amount: int) -> str:
    """Book under a key."""
    ctx.use(Till).by_key[ctx.idempotency_key] = amount
    await asyncio.sleep(0.1)
    return "booked"


@tool(effect="once")
def charge(ctx: Context[Any], amount: int) -> str:
    """Charge."""
    ctx.use(Till).paid.append(f"charge {amount}")
    return "charged"


@tool(effect="steps")
async def trip(ctx: Context[Any]) -> str:
    """Make a trip."""
    till = ctx.use(Till)
    number = await ctx.step.run("number", lambda: random.random(), effect="pure")
    await ctx.step.run("hotel", till.by_key.__setitem__, f"hotel {ctx.run_id}", 1, effect="idempotent")
    helped = await ctx.run(HELPER, "help")
    return f"{helped.output} {number}"


def write(tx: Transaction, who: str) -> int:
    tx.execute("CREATE TABLE IF NOT EXISTS till (who TEXT)")
    tx.execute("INSERT INTO till VALUES (?)", (who,))
    return int(tx.fetch("SELECT COUNT(*) FROM till")[0][0])


@tool(effect="steps")
async def keep(ctx: Context[Any]) -> int:
    """Keep in a table."""
    return await ctx.transaction(write, "ada")


HELPER = Agent("Helper", tools=[look], model=ScriptedModel(call("look", what="sea"), say("helped"), repeat=True))
CHARGE = call("charge", amount=3)
TOOLS = [look, book, charge, trip, keep]


def honest() -> Agent[Any, Any]:
    answers = calls(call("look", what="sky"), call("book", amount=2), call("charge", amount=3))
    model = ScriptedModel(answers, calls(call("trip"), call("keep")), say("done"))
    return Agent("Honest", tools=TOOLS, model=model)


def test_an_honest_run_passes_everywhere_and_shows_where(capsys: pytest.CaptureFixture[str]):
    report = crash_everywhere(honest, "go", outside=Till)
    assert report.failures == ()
    places = " | ".join(one.where for one in report.points)
    assert "killed before commit 1 (run_started)" in places
    assert "transaction agent/0/infer/1/tool/1/transaction:write" in places
    assert "charge at agent/0/infer/0/tool/2 was recorded and look at agent/0/infer/0/tool/0" in places
    assert len(report.points) > 40
    report.print()
    assert capsys.readouterr().out == f"{len(report.points)} crashes, 0 with consequences\n"


def test_d06_a_recovery_is_killed_too_and_the_same_seed_tries_the_same():
    def make() -> Agent[Any, Any]:
        return Agent("A", tools=[charge, book], model=ScriptedModel(calls(CHARGE, call("book", amount=1)), "ok"))

    first, again, other = (
        crash_everywhere(make, "go", outside=Till, twice=True, most=24, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert [one.where for one in first.points] != [one.where for one in other.points]
    assert first.skipped > 50
    assert any("and again in the recovery, killed" in one.where for one in first.points)


async def test_a_network_with_state_and_a_model_as_a_function_inside_an_event_loop():
    def reply(request: Any) -> Any:
        return say("done") if len(request.messages) > 1 else call("charge", amount=1)

    first, second = (
        Agent("First", tools=[charge], model=FunctionModel(reply)),
        Agent("Second", model=ScriptedModel("x")),
    )
    net = Network("Net", agents=[first, second], router=lambda r: (first, second, None)[r.call_count])
    report = crash_everywhere(net, "go", outside=Till, state={"n": 1})
    assert report.failures == ()
    assert len(report.points) > 8


@tool(effect="steps")
async def wait(ctx: Context[Any]) -> str:
    """Wait for three weeks."""
    await ctx.step.sleep("weeks", 3 * 7 * 86400)
    ctx.use(Till).paid.append("no step, and behind the wait")
    return "waited"


def test_weeks_pass_at_once():
    agent = Agent("A", tools=[wait], model=ScriptedModel(call("wait"), say("ok")))
    report = crash_everywhere(agent, "go", outside=Till, raises=False)
    assert len(report.points) >= 12
    assert any("['no step, and behind the wait', 'no" in problem for one in report.failures for problem in one.problems)


def test_attempts_of_a_model_are_asked_for_in_their_order():
    model = ScriptedModel(fail(Overloaded("too many")), call("charge", amount=2), fail(Overloaded("again")), say("ok"))
    report = crash_everywhere(Agent("A", tools=[charge], model=model), "go", outside=Till)
    assert "killed before commit 2 (attempt)" in [one.where for one in report.points]


def test_what_is_waited_for_may_be_the_end():
    asked = tool(charge.fn, name="charge", requires_approval=True)
    agent = Agent("A", tools=[asked], model=ScriptedModel(call("charge", amount=2)))
    assert crash_everywhere(agent, "go", outside=Till).failures == ()


# -- not honest --------------------------------------------------------------------------------------------------------


def problems(agent: Any, **options: Any) -> str:
    """What is found."""
    with pytest.raises(AssertionError) as found:
        crash_everywhere(agent, "go", outside=Till, **options)
    return str(found.value)


def with_tool(one: Any, *, hooks: Any = ()) -> Agent[Any, Any]:
    return Agent("A", tools=[one, look], model=ScriptedModel(call(one.name), say("ok")), hooks=hooks)


def test_a_pure_tool_that_counts_is_found():
    @tool(effect="pure")
    async def count(ctx: Context[Any]) -> str:
        ctx.use(Till).paid.append("counted")
        return "counted"

    said = problems(with_tool(count))
    assert "killed before commit 3 (tool agent/0/infer/0/tool/0):" in said
    assert "outside: {'paid': ['counted', 'counted']" in said
    assert "and undisturbed {'paid': ['counted']" in said


def test_a_pure_tool_whose_result_counts_is_found_by_the_log():
    @tool(effect="pure")
    async def count(ctx: Context[Any]) -> int:
        made = ctx.use(list)
        made.append(1)
        return len(made)

    with pytest.raises(AssertionError, match=r'agent/0/infer/0/tool/0 is .*"data":2.*and undisturbed .*"data":1'):
        crash_everywhere(with_tool(count), "go", outside=list)


def test_an_effect_outside_of_the_steps_is_found():
    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> str:
        ctx.use(Till).paid.append("outside of a step")
        return await ctx.step.run("inside", lambda: "x", effect="pure")

    assert "['outside of a step', 'outside of a step']" in problems(with_tool(work))


def test_a_hook_with_an_effect_is_found():
    @tool(effect="pure")
    async def work() -> str:
        return "x"

    hooks = Hooks(after_tool=lambda ctx, call, result: ctx.use(Till).paid.append("mail"))
    assert "['mail', 'mail']" in problems(with_tool(work, hooks=hooks))


def test_a_body_that_is_another_one_each_time_is_found():
    numbers = itertools.count()

    @tool(effect="steps")
    async def work(ctx: Context[Any]) -> str:
        await ctx.step.run("number", lambda n: n, next(numbers), effect="pure")
        return await ctx.step.run("last", lambda: "x", effect="pure")

    said = problems(with_tool(work))
    assert "the run is parked, and undisturbed it is completed" in said
    assert "the step 'agent/0/infer/0/tool/0/number' was finished with other arguments" in said


def test_an_idempotent_tool_that_does_not_go_by_its_key_is_found():
    @tool(effect="idempotent")
    async def pay(ctx: Context[Any]) -> str:
        ctx.use(Till).by_key[str(random.random())] = 1
        return "paid"

    with pytest.raises(AssertionError, match="Two undisturbed runs leave different worlds outside"):
        crash_everywhere(with_tool(pay), "go", outside=Till)


def test_a_tool_that_undoes_wrongly_is_found():
    def back(ctx: Context[Any]) -> None:
        ctx.use(Till).paid.append("undone twice over")

    @tool(effect="once", undo=back)
    async def pay(ctx: Context[Any]) -> str:
        ctx.use(Till).paid.append("paid")
        return "paid"

    assert "undone twice over" in problems(with_tool(pay))


def test_memory_that_does_not_outlast_a_process_is_found():
    def make() -> Agent[Any, Any]:
        seen: list[int] = []

        @tool(effect="pure")
        async def first() -> str:
            seen.append(1)
            return "ok"

        @tool(effect="pure")
        async def second() -> int:
            return len(seen)

        return Agent("A", tools=[first, second], model=ScriptedModel(call("first"), call("second"), say("ok")))

    assert '"data":0' in problems(make)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_undisturbed_is_no_run_to_try():
    with pytest.raises(
        AssertionError, match=r"Undisturbed the run does not come to its end: it is failed\. .*Exhausted"
    ):
        crash_everywhere(Agent("A", model=ScriptedModel()), "go")


def test_options_that_crashes_decide_are_refused():
    with pytest.raises(DefinitionError, match="takes no run_id"):
        crash_everywhere(Agent("A", model=ScriptedModel("x")), "go", run_id="mine")


def test_what_stalls_is_told():
    stuck: list[int] = []

    @tool(effect="pure")
    async def hang() -> str:
        stuck.append(1)
        await asyncio.sleep(0 if len(stuck) < 4 else 1e9)
        return "x"

    said = problems(with_tool(hang), most=4)
    assert "does not get on within an hour" in said
