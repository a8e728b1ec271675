"""A recorded run goes on from one of its steps with something else, and what that changes is shown."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Approve, Context, Network, Runtime, Usage, function, tool
from perdure.testing import NotForReal, ScriptedModel, call, calls, recording, rerun, say
from perdure.types.errors import UnknownName

called: list[str] = []


@tool(effect="pure")
async def look(what: str = "all") -> str:
    """Look."""
    called.append(f"look {what}")
    return f"seen {what}"


@tool
async def charge(ctx: Context[Any], amount: int) -> str:
    """Charge."""
    called.append(f"charge {amount}")
    ctx.state.data["charged"] = amount
    return f"charged {amount}"


def state(ctx: Context[Any]) -> str:
    return f"So far: {ctx.state.data}"


agent = Agent("A", system=state, tools=[look, charge])
COSTS = Usage(10, 5, cost=Decimal("0.10"))


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    called.clear()


async def recorded_run() -> Any:
    model = ScriptedModel(call("look"), call("charge", amount=5), say("Charged.", usage=COSTS))
    run = await recording(await agent.run("Charge me", model=model, state={}))
    called.clear()
    return run


async def test_another_model_goes_on_from_a_step_and_tools_are_answered_from_the_recording():
    run = await recorded_run()
    model = ScriptedModel(call("charge", amount=5), say("All is charged.", usage=Usage(20, 10, cost=Decimal("0.05"))))
    again = await rerun(run, agent, from_step=1, model=model)
    assert called == []
    assert not again.same
    assert [(one.step, one.same) for one in again.changes] == [
        ("agent/0/infer/1", True),
        ("agent/0/infer/1/tool/0", True),
        ("agent/0/infer/2", False),
    ]
    assert (again.recorded_output, again.output, again.status) == ("Charged.", "All is charged.", "completed")
    assert again.changes[2].recorded_usage.total_tokens == 15
    assert again.changes[2].now_usage.cost == Decimal("0.05")
    # what a tool had changed is changed, and what was said before is there
    assert model.requests[1].messages[0].text == "So far: {'charged': 5}"  # type: ignore[union-attr]
    assert len(model.requests[0].messages) == 4
    assert again.text.splitlines()[-3:-1] == ["    - A: Charged.", "    + A: All is charged."]
    assert "15 → 30 tokens (+15), $0.1000 → $0.0500" in again.text
    assert again.text.splitlines()[0].endswith("of 'A', again from agent/0/infer/1:")


async def test_the_same_model_says_the_same():
    run = await recorded_run()
    answers = ScriptedModel(call("look"), call("charge", amount=5), say("Charged.", usage=COSTS))
    again = await rerun(run, agent, model=answers)
    assert again.same
    assert again.from_step == "the beginning"
    assert called == []


async def test_another_prompt():
    run = await recorded_run()
    model = ScriptedModel(say("No."))
    again = await rerun(run, agent, from_step="agent/0/infer/0", model=model, prompt="Refuse.")
    assert model.requests[0].messages[0].text == "Refuse."  # type: ignore[union-attr]
    assert [(one.step, one.now) for one in again.changes][:2] == [
        ("agent/0/infer/0", "A: No."),
        ("agent/0/infer/0/tool/0", None),
    ]
    first, second = Agent("First", system="1"), Agent("Second", system="2")
    desk = Network("Desk", agents=[first, second], router=lambda r: (first, second, None)[r.call_count])
    run = await recording(await desk.run("x", model=ScriptedModel(say("a"), say("b"))))
    for step, given in (("agent/1/infer/0", "Other"), (0, {"Second": "Other"})):
        model = ScriptedModel(say("c"), say("d"))
        await rerun(run, desk, from_step=step, model=model, prompt=given)
        assert model.requests[-1].messages[0].text == "Other"  # type: ignore[union-attr]


async def test_a_call_with_effects_that_was_not_recorded_is_made_only_if_that_is_asked_for():
    run = await recorded_run()
    answers = (call("charge", amount=7), say("Charged."))
    with pytest.raises(NotForReal, match=r"agent/0/infer/1/tool/0 the tool 'charge' \(once\).*\{\"amount\":7\}"):
        await rerun(run, agent, from_step=1, model=ScriptedModel(*answers))
    assert called == []
    again = await rerun(run, agent, from_step=1, model=ScriptedModel(*answers), tools=["charge"])
    assert called == ["charge 7"]
    assert again.changes[1].now == 'charge({"amount":7}) → {"data":"charged 7"}'
    again = await rerun(run, agent, from_step=1, model=ScriptedModel(call("look", what="more"), say("x")))
    assert called == ["charge 7", "look more"]


async def test_other_tools():
    run = await recorded_run()

    @tool(name="charge", effect="pure")
    async def pretend(amount: int) -> str:
        """Pretend."""
        return f"pretended {amount}"

    @tool(effect="pure")
    async def extra() -> str:
        """Extra."""
        return "more"

    model = ScriptedModel(calls(call("charge", amount=5), call("extra")), say("Done."))
    again = await rerun(run, agent, from_step=1, model=model, tools=[pretend, extra])
    assert {one.name: one.description for one in model.requests[0].tools} == {
        "look": "Look.",
        "charge": "Pretend.",
        "extra": "Extra.",
    }
    assert "pretended 5" in (again.changes[1].now or "")
    assert "more" in (again.changes[2].now or "")
    assert called == []


async def test_child_runs_and_people(tmp_path: Path):
    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        called.append("pay")
        return "paid"

    payer = Agent("Payer", tools=[pay])
    asker = Agent("Asker", tools=[payer.as_tool()])
    model = ScriptedModel(call("payer", request="pay"), call("pay", amount=5), say("Paid."), say("It is paid."))
    waiting = await asker.run("x", model=model)
    run = await recording(await waiting.resume({waiting.waits[0].id: Approve()}))
    called.clear()
    model = ScriptedModel(call("payer", request="pay"), call("pay", amount=5), say("Paid!"), say("Well."))
    again = await rerun(run, asker, model=model, tools=["payer"])
    assert (again.output, again.waits, called) == ("Well.", 0, [])
    again = await rerun(run, asker, model=ScriptedModel(call("payer", request="pay"), say("Well.")))
    assert (again.output, called) == ("Well.", [])
    model = ScriptedModel(call("payer", request="other"), call("pay", amount=9))
    again = await rerun(run, asker, model=model, tools=["payer"])
    assert (again.status, again.waits) == ("waiting", 1)
    assert "it waits for 1 answers" in again.text


async def test_a_stored_run_is_left_as_it_is(tmp_path: Path):
    mine = agent.replace(model=ScriptedModel(say("One."), say("Two."), say("Three.")))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [mine], durability="normal") as rt:
        await rt.run(mine, "first", session_id="s")
        result = await rt.run(mine, "second", session_id="s", deadline=60)
        before = await rt.container("default").log.read_session("s")
        again = await rerun(await recording(rt, result.run_id), rt)
        assert (again.recorded_output, again.output) == ("Two.", "Three.")
        assert await rt.container("default").log.read_session("s") == before
    assert len(mine.model.requests[2].messages) == 4  # type: ignore[union-attr]


async def test_a_step_that_is_not_there():
    run = await recorded_run()
    for step in ("agent/7", 9, "9"):
        with pytest.raises(UnknownName, match=r"There is no step named .*agent/0/infer/0"):
            await rerun(run, agent, from_step=step, model=ScriptedModel())


async def test_a_function_goes_on_from_a_step_and_only_its_models_are_asked(tmp_path: Path):
    done: list[str] = []

    def do(what: str) -> str:
        done.append(what)
        return what

    @function(name="Answers")
    async def answers(ctx: Context[Any], text: str) -> str:
        await ctx.step.run("keep", do, text)
        await ctx.step.sleep("rest", 0.01)
        kind = await ctx.step.infer("kind", ScriptedModel(say("order")), text)
        length = await ctx.step.run("length", len, kind, effect="pure")
        await ctx.step.run("file", do, kind)
        return f"{kind} {length}"

    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [answers], durability="normal") as rt:
        run = await rt.start(answers, {"text": "A boat"}, run_id="job")
        await run.result()
        whole = await recording(rt, "job")
    assert done == ["A boat", "order"]
    again = await rerun(whole, answers, model=ScriptedModel(say("order")))
    assert again.same, again.text
    assert again.output == "order 5"
    with pytest.raises(NotForReal, match=r"function/file the step 'file' \(once\).*tools=\['file'\]"):
        await rerun(whole, answers, from_step="function/kind", model=ScriptedModel(say("offer")))
    assert done == ["A boat", "order"], "nothing was done again"
    other = await rerun(
        whole, answers, from_step="function/kind", model=ScriptedModel(say("complaint")), tools=["file"]
    )
    assert done == ["A boat", "order", "complaint"]
    assert [(one.step, one.recorded, one.now) for one in other.changes] == [
        ("function/kind", "order", "complaint"),
        ("function/length", "5", "9"),
        ("function/file", "order", "complaint"),
    ]
