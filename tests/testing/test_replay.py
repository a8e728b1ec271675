"""A recorded run is followed again offline: the same code does the same, and a change is said where it begins."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs
from pydantic import BaseModel

from perdure import (
    Agent,
    Approve,
    Context,
    Hooks,
    ModelRetry,
    Network,
    RouterArgs,
    Runtime,
    Stop,
    tool,
    toolset,
)
from perdure.agents.toolsets import Toolset
from perdure.testing import Recording, Replay, ScriptedModel, call, calls, fail, hang, recorded, recording, replay, say
from perdure.types.errors import DefinitionError, UnknownName


class Refund(BaseModel):
    amount: int


@dataclass
class Case:
    user: str = "ada"
    answered: bool = False


@tool
async def charge(ctx: Context[Case], amount: int) -> str:
    """Charge."""
    ctx.state.data.answered = True
    return f"charged {amount}"


@tool(effect="pure")
async def look(what: str = "all") -> list[int]:
    """Look."""
    return [20, 20]


async def run_of(definition: Any, *answers: Any, **options: Any) -> Recording:
    """Run something with a scripted model and record it; the model and the tools are not there any more afterwards."""
    model = ScriptedModel(*answers)
    result = await definition.run("Why twice?", model=model, **options)
    return await recording(result)


def differs(run: Recording, definitions: Any, *parts: str, **options: Any) -> Replay:
    """See that a replay says all this."""
    found = replay(run, definitions, **options)
    assert not found.same
    for part in parts:
        assert part in found.text, found.text
    with pytest.raises(AssertionError, match="differs after"):
        found.check()
    return found


# -- the same code ---------------------------------------------------------------------------------------------------


async def test_no_model_is_asked_and_no_tool_is_called():
    called: list[str] = []

    @tool
    async def pay(amount: int) -> str:
        called.append("once")
        return "paid"

    @tool(effect="pure")
    async def read() -> str:
        called.append("pure")
        return "read"

    agent = Agent("A", tools=[pay, read], model=ScriptedModel(calls(call("pay", amount=5), call("read")), say("Done.")))
    run = await recording(await agent.run("x"))
    assert called == ["once", "pure"]
    found = replay(run, agent)
    found.check()
    assert (found.steps, found.open, found.same) == (6, False, True)
    assert called == ["once", "pure"]
    assert agent.model.requests[1:] == agent.model.requests[1:2]  # type: ignore[union-attr]


async def test_nothing_is_written_to_the_store_that_the_run_came_from(tmp_path: Any):
    agent = Agent("A", tools=[look], model=ScriptedModel(call("look"), say("Twice.")))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent], durability="normal") as rt:
        result = await rt.run(agent, "Why?", session_id="s")
        log = rt.container("default").log
        before = await log.read_session("s")
        run = await recording(rt, result.run_id)
        assert replay(run, rt).same
        assert await log.read_session("s") == before
        assert [one.id for one in await rt.runs()] == [result.run_id]
        with pytest.raises(UnknownName, match="no_such"):
            await recording(rt, "no_such")


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_what_was_said_before_in_the_session_belongs_to_the_recording(
    store: str, tmp_path: Any, request: pytest.FixtureRequest
):
    url = request.getfixturevalue("postgres_url") if store == "postgres" else f"sqlite:///{tmp_path}/desk.db"

    def prompt(ctx: Context[Any]) -> str:
        return f"You have heard {len(ctx.messages)} messages of {ctx.user_id} in {ctx.session_id}."

    agent = Agent("A", system=prompt, model=ScriptedModel(say("One."), say("Two.")))
    async with Runtime(url, [agent], durability="normal") as rt:
        await rt.run(agent, "first", session_id="s", user_id="ada")
        second = await rt.run(agent, "second", session_id="s", user_id="ada")
        run = await recording(rt.container("default"), second.run_id)
    assert len(run.run.earlier) == 2
    path = run.save(tmp_path / "run.json")
    assert recorded(path).run == run.run
    replay(path, [agent]).check()


async def test_networks_routing_agents_parallel_agents_state_and_schedules():
    @tool(effect="pure")
    def hand_over(ctx: Context[dict[str, Any]], to: str) -> str:
        ctx.network.schedule(to)
        ctx.state.data.setdefault("over", []).append(to)
        return "ok"

    first = Agent("First", tools=[hand_over], system=lambda ctx: f"{ctx.state.data}")
    second = Agent("Second", system=lambda ctx: f"{ctx.state.data} {len(ctx.messages)}")
    desk = Network("Desk", agents=[first, second])
    run = await run_of(
        desk,
        call("select_agent", name="First"),
        call("hand_over", to="Second"),
        say("over"),
        call("done"),
        say("I am second."),
        call("done"),
    )
    replay(run, desk).check()

    from perdure import parallel

    both = Network(
        "Both", agents=[first, second], router=lambda r: parallel(first, second) if r.call_count == 0 else None
    )
    run = await run_of(both, say("a"), say("b"))
    replay(run, both).check()


async def test_structured_answers_that_are_corrected():
    agent = Agent("A", output_type=Refund)
    run = await run_of(agent, say("{}"), say('{"amount": 5}'))
    replay(run, agent).check()

    from perdure.models.model import Capabilities

    model = ScriptedModel(call("final_answer", amount=5), capabilities=Capabilities())
    result = await agent.run("x", model=model)
    assert result.output == Refund(amount=5)
    replay(await recording(result), agent).check()


async def test_what_hooks_change_is_changed_again_and_only_once():
    def answered(ctx: Any, result: Any) -> Any:
        return structs.replace(result, messages=tuple(one for one in result.messages for _ in range(2)))

    seen: list[Any] = []
    hooks = Hooks(
        on_start=lambda ctx, messages: [*messages[:-1], messages[-1]],
        on_response=answered,
        before_tool=lambda ctx, one: one if one.input.get("what") else type(one)(one.id, one.name, {"what": "new"}),
        after_tool=lambda ctx, one, result: [*result.data, 1],
        on_finish=lambda ctx, result: seen.append(result.text),
    )
    agent = Agent("A", tools=[look], hooks=hooks)
    result = await agent.run("x", model=ScriptedModel(say("Hello"), say("unused")))
    assert result.text == "HelloHello"
    replay(await recording(result), agent).check()
    assert seen == ["HelloHello", "HelloHello"]

    agent = agent.replace(hooks=Hooks(before_tool=hooks.before_tool, after_tool=hooks.after_tool))
    run = await run_of(agent, call("look"), say("Done."))
    replay(run, agent).check()
    changed = agent.replace(hooks=Hooks(before_tool=hooks.before_tool, after_tool=lambda ctx, one, result: [0]))
    differs(run, changed, "agent/0/infer/0/tool/0: the call has another result", "-    20", "+    0")
    changed = agent.replace(hooks=Hooks(before_tool=lambda ctx, one: type(one)(one.id, one.name, {"what": "old"})))
    differs(
        run, changed, "the tool would be called with other arguments", 'look({"what":"new"})', 'look({"what":"old"})'
    )


async def test_runs_that_fail_are_cancelled_or_have_no_budget_left():
    from perdure import Budget
    from perdure.types.errors import RateLimited, RunCancelled, RunFailed

    agent = Agent("A", tools=[look, charge])
    with pytest.raises(RunFailed) as failed:
        await agent.run("x", model=ScriptedModel(call("look"), fail(ValueError("broken"))))
    replay(await recording(failed.value.result), agent).check()

    model = ScriptedModel(fail(RateLimited("slow down", retry_after=0)), say("Done."))
    replay(await recording(await agent.run("x", model=model)), agent).check()

    result = await agent.run("x", model=ScriptedModel(call("look"), say("unused")), budget=Budget(model_calls=1))
    assert result.stop_reason == "budget"
    replay(await recording(result), agent).check()

    asked = asyncio.Event()

    def hear(request: Any) -> Any:
        asked.set()
        return hang()

    run = agent.start("x", model=ScriptedModel(hear))
    await asked.wait()
    await run.cancel()
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    replay(await recording(cancelled.value.result), agent).check()


async def test_an_open_run_is_followed_as_far_as_it_went():
    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        return "paid"

    agent = Agent("A", tools=[pay], model=ScriptedModel(call("pay", amount=5), say("Paid.")))
    waiting = await agent.run("x")
    run = await recording(waiting)
    found = replay(run, agent)
    assert found.same
    assert found.open
    assert "as far as it went" in found.text
    free = agent.replace(tools=[pay.replace(requires_approval=False)])
    differs(
        run, free, "tool/0: the tool would be called at once", 'waits for approval of pay({"amount":5})', "calls pay"
    )

    done = await waiting.resume({waiting.waits[0].id: Approve()})
    run = await recording(done)
    replay(run, agent).check()
    asks = agent.replace(tools=[pay.replace(requires_approval=lambda amount: amount > 100)])
    differs(run, asks, "the tool would be called at once")


# -- tools with inner steps, and child runs --------------------------------------------------------------------------


async def test_a_tool_with_inner_steps_is_entered_again_and_its_steps_are_not():
    done: list[str] = []

    def work(name: str) -> str:
        done.append(name)
        return name.upper()

    @tool(effect="steps", timeout=60)
    async def order(ctx: Context, item: str) -> str:
        first = await ctx.step.run("pick", work, item)
        second = await ctx.step.run("pack", work, first, effect="idempotent")
        return f"{second} {ctx.step.now():%Y} {ctx.step.uuid()}"

    agent = Agent("A", tools=[order])
    run = await run_of(agent, call("order", item="sail"), say("Done."))
    assert done == ["sail", "SAIL"]
    replay(run, agent).check()
    assert done == ["sail", "SAIL"]

    @tool(effect="steps", name="order", description=order.description)
    async def longer(ctx: Context, item: str) -> str:
        await ctx.step.run("pick", work, item)
        await ctx.step.run("wrap", work, item)
        return "x"

    differs(
        run,
        agent.replace(tools=[longer]),
        "tool/0/wrap: the code asks for a step that was not recorded",
        "pack",
        "wrap",
    )

    @tool(effect="steps", name="order", description=order.description)
    async def shorter(ctx: Context, item: str) -> str:
        first = await ctx.step.run("pick", work, item)
        return f"{first.upper()} {ctx.step.now():%Y} {ctx.step.uuid()}"

    differs(run, agent.replace(tools=[shorter]), "pack: the code does not ask for a step any more")

    @tool(effect="steps", name="order", description=order.description)
    async def other(ctx: Context, item: str) -> str:
        await ctx.step.run("pick", work, item + "s")
        return "x"

    differs(run, agent.replace(tools=[other]), "pick' was finished with other arguments")

    @tool(effect="steps", name="order", description=order.description)
    async def without(ctx: Context, item: str) -> str:
        return "x"

    differs(run, agent.replace(tools=[without]), "tool/0: the call has another result")
    assert done == ["sail", "SAIL"]


async def test_child_runs_are_followed_too():
    helper = Agent("Helper", system="Help.", tools=[look])
    asker = Agent("Asker", tools=[helper.as_tool()])
    run = await run_of(asker, call("helper", request="look"), call("look"), say("Twice."), say("I asked."))
    assert [one.definition for one in run.runs] == ["Asker", "Helper"]
    found = replay(run, [asker])
    found.check()
    assert found.steps == 10

    ruder = asker.replace(tools=[helper.replace(system="Do not help.").as_tool()])
    differs(
        run, ruder, f"in its child run {run.runs[1].id}, at agent/0/infer/0", "-system: Help.", "+system: Do not help."
    )

    @tool(effect="steps", name="helper", description=asker.tools[0].description)  # type: ignore[union-attr]
    async def asks_otherwise(ctx: Context, request: str) -> str:
        """Ask.

        Args:
            request: what it shall do, with everything it must know
        """
        return (await ctx.run(helper, request + " again")).text

    differs(run, asker.replace(tools=[asks_otherwise]), "the code runs a child that was not recorded", "look again")


async def test_a_child_that_waits_for_a_person():
    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        return "paid"

    payer = Agent("Payer", tools=[pay])
    asker = Agent("Asker", tools=[payer.as_tool()])
    model = ScriptedModel(call("payer", request="pay"), call("pay", amount=5), say("Paid."), say("It is paid."))
    waiting = await asker.run("x", model=model)
    replay(await recording(waiting), asker).check()
    done = await waiting.resume({waiting.waits[0].id: Approve()})
    replay(await recording(done), asker).check()


async def test_a_step_that_failed_and_left_no_record():
    async def broken() -> None:
        raise ModelRetry("not now")

    @tool(effect="steps")
    async def order(ctx: Context) -> str:
        await ctx.step.run("pick", broken, effect="pure")
        return "never"

    agent = Agent("A", tools=[order])
    run = await run_of(agent, call("order"), say("Sorry."))
    replay(run, agent).check()


# -- every kind of difference ----------------------------------------------------------------------------------------


def system(text: Any) -> Callable[[Agent[Any, Any]], Agent[Any, Any]]:
    return lambda agent: agent.replace(system=text)


def broken_prompt(ctx: Any) -> str:
    raise ValueError("no user")


@tool(name="look", effect="pure")
async def look_at(what: int) -> list[int]:
    """Look."""
    return []


CHANGES: dict[str, tuple[Callable[[Agent[Any, Any]], Agent[Any, Any]], tuple[str, ...]]] = {
    "prompt": (system("Be kind.\nBe long."), ("infer/0: the model is asked something else", "-Be brief.", "+Be long.")),
    "prompt_fails": (
        system(broken_prompt),
        (
            "agent/0/infer/0: the step ends otherwise",
            "recorded: A calls look",
            "now:      fails with ValueError: no user",
        ),
    ),
    "tool_gone": (
        lambda agent: agent.replace(tools=[charge]),
        ("infer/0: other tools are offered to the model", "recorded: look, charge", "now:      charge"),
    ),
    "tool_described": (
        lambda agent: agent.replace(tools=[look.replace(description="Look well."), charge]),
        ("something else about the tool 'look'", '-  "description": "Look.",', '+  "description": "Look well.",'),
    ),
    "start_hook": (
        lambda agent: agent.replace(hooks=Hooks(on_start=lambda ctx, messages: messages[:-1])),
        ("infer/0: the model is asked something else", "-user: Why twice?"),
    ),
    "stop_hook": (
        lambda agent: agent.replace(hooks=Hooks(on_start=lambda ctx, messages: Stop("enough"))),
        ("infer/0: the turn ends otherwise", "+"),
    ),
    "response_hook": (
        lambda agent: agent.replace(hooks=Hooks(on_response=lambda ctx, result: structs.replace(result, messages=()))),
        ("infer/0: a hook makes something else of the answer", '-        "name": "look",'),
    ),
    "veto": (
        lambda agent: agent.replace(hooks=Hooks(before_tool=lambda ctx, one: {"none": True})),
        ("tool/0: it is another one that answers the call",),
    ),
    "finish_hook": (
        lambda agent: agent.replace(hooks=Hooks(on_finish=lambda ctx, result: structs.replace(result, messages=()))),
        ("agent/0: a hook makes something else of the turn",),
    ),
    "max_iter": (
        lambda agent: agent.replace(max_iter=1),
        (
            "agent/0/infer/1: the run does not come here",
            "recorded: A answers",
            "now:      agent/0: A's turn ends: max_iter",
        ),
    ),
    "stop_when": (
        lambda agent: agent.replace(stop_when="look"),
        ("agent/0/infer/1: the run does not come here", "A's turn ends: stop_when"),
    ),
    "output": (
        lambda agent: agent.replace(output_type=Refund),
        ("infer/1: the model is told something else about its answer",),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_each_change_is_said_where_it_begins(change: str):
    agent = Agent("A", system="Be kind.\nBe brief.", tools=[look, charge])
    run = await run_of(agent, call("look"), say("Twice."))
    replay(run, agent).check()
    make, parts = CHANGES[change]
    differs(run, make(agent), *parts)


async def test_arguments_that_are_not_valid_any_more():
    agent = Agent("A", tools=[toolset(look).prepared(lambda ctx, one: one)])
    run = await run_of(agent, call("look", what="all"), say("Twice."))
    replay(run, agent).check()

    async def strict(ctx: Any, one: Any) -> None:
        if one.input["what"] == "all":
            raise ModelRetry("not all of it")

    refuses = agent.replace(hooks=Hooks(before_tool=strict))
    differs(run, refuses, "tool/0: the call ends otherwise", "recorded: ok", "now:      denied")
    stricter = agent.replace(tools=[look_at.replace(parameters=look.parameters)])
    replay(run, stricter).check()  # a JSON schema of one's own says what is valid

    class Known(BaseModel):
        what: str = "all"

    before = agent.replace(tools=[tool(look.fn, effect="pure", parameters=Known)])
    run = await run_of(before, call("look", what="all"), say("Twice."))
    replay(run, before).check()

    @tool(effect="pure", name="look", description=look.description)
    async def pickier(what: str = "all") -> list[int]:
        return []

    run = await run_of(Agent("A", tools=[look]), call("look", what=7), say("Sorry."))
    replay(run, Agent("A", tools=[look])).check()


async def test_routers_that_decide_otherwise():
    biller, writer = Agent("Billing"), Agent("Writer")

    def route(r: RouterArgs[Any]) -> Agent[Any, Any] | None:
        return (biller, writer, None)[r.call_count]  # type: ignore[return-value]

    desk = Network("Desk", agents=[biller, writer], router=route)
    run = await run_of(desk, say("a"), say("b"))
    replay(run, desk).check()
    other = desk.replace(router=lambda r: (biller, biller)[r.call_count] if r.call_count < 2 else None)
    differs(run, other, "route/1: the router decides otherwise", "recorded: Writer", "now:      Billing")
    differs(run, desk.replace(router=lambda r: None), "route/0: ", "recorded: Billing", "nobody: the run ends")
    differs(run, desk.replace(max_iter=1), "route/1", "the run does not come here", "max_iter")
    differs(run, desk.replace(hooks=Hooks(on_route=lambda ctx, names: ["Writer"])), "route/0", "now:      Writer")
    alone = desk.replace(agents=[biller], router=lambda r: biller if r.call_count == 0 else "Writer")
    differs(run, alone, "route/1: the step ends otherwise", "fails with UnknownName")
    more = desk.replace(router=lambda r: (biller, writer, writer)[r.call_count])
    differs(run, more, "route/2: the router decides otherwise", "nobody: the run ends", "now:      Writer")
    stops = desk.replace(stop_when=lambda r: r.call_count == 1)
    differs(run, stops, "route/1: the router decides otherwise", "nobody: stop_when")


async def test_a_state_that_is_changed_otherwise():
    def start(ctx: Context[Case], messages: Any) -> None:
        ctx.state.data.user = "bob"

    agent = Agent("A", tools=[charge], hooks=Hooks(on_start=start))
    desk = Network("Desk", agents=[agent], router=lambda r: agent if r.call_count == 0 else None, state=Case)
    run = await run_of(desk, call("charge", amount=5), say("Done."))
    replay(run, desk).check()
    quiet = agent.replace(hooks=())
    other = desk.replace(agents=[quiet], router=lambda r: quiet if r.call_count == 0 else None)
    differs(run, other, "agent/0/infer/0: the state is changed otherwise", '-    "value": "bob"')


async def test_a_model_that_had_failed_is_not_asked_before_the_code_is_well():
    agent = Agent("A", system=broken_prompt)
    from perdure.types.errors import RunFailed

    with pytest.raises(RunFailed) as failed:
        await agent.run("x", model=ScriptedModel())
    run = await recording(failed.value.result)
    replay(run, agent).check()
    differs(run, agent.replace(system="Well."), "agent/0/infer/0: the model is asked", "fails with ValueError: no user")


# -- tools that live elsewhere ---------------------------------------------------------------------------------------


class Far(Toolset[Any]):
    """A server of tools that is not there when a run is replayed."""

    name = "far"

    def __init__(self) -> None:
        self.there = True

    async def acquire(self) -> None:
        assert self.there

    async def list_tools(self, ctx: Any) -> Any:
        assert self.there
        return [look]


async def test_tools_that_live_elsewhere_are_those_that_were_recorded():
    far = Far()
    agent = Agent("A", tools=[charge, far.prefixed("far_").approved(lambda what: what == "all")])
    waiting = await agent.run(
        "x", model=ScriptedModel(call("far_look", what="all"), call("far_look", what="x"), say("ok"))
    )
    done = await waiting.resume({waiting.waits[0].id: Approve()})
    run = await recording(done)
    far.there = False
    replay(run, agent).check()
    fewer = agent.replace(tools=agent.tools[1:])
    replay(run, fewer).check()  # what it has itself and what it had there cannot be told apart
    differs(run, agent.replace(tools=[charge]), "other tools are offered to the model", "charge, far_look")


# -- what cannot be replayed -----------------------------------------------------------------------------------------


async def test_code_that_is_gone_or_of_another_kind():
    agent = Agent("A")
    run = await run_of(agent, say("x"))
    with pytest.raises(DefinitionError, match=r"is of 'A', which is not among the given definitions.*'B'"):
        replay(run, [Agent("B")])
    with pytest.raises(DefinitionError, match="'A' was an agent and is a network now"):
        replay(run, [Network("A", agents=[agent], router=lambda r: None)])
    with pytest.raises(DefinitionError, match="replayed with agents, networks and functions"):
        replay(run, ["A"])  # type: ignore[list-item]


async def test_code_that_does_not_come_to_an_end_is_said():
    agent = Agent("A")
    run = await run_of(agent, say("x"))
    never = threading.Event()

    async def hangs(ctx: Any) -> str:
        await asyncio.get_running_loop().create_future()
        return str(never)

    found = replay(run, agent.replace(system=hangs), patience=0.01)
    assert "has not come to an end within 0.01 s" in found.text


def test_it_is_called_from_sync_code_too():
    agent = Agent("A")
    run = asyncio.run(run_of(agent, say("x")))
    replay(run, agent).check()
