"""Approvals in memory: a run waits for a person, with exactly the arguments that will be used."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Agent,
    Answer,
    Approval,
    Approve,
    Budget,
    Context,
    DefinitionError,
    Deny,
    Hooks,
    Network,
    RunCancelled,
    RunWaiting,
    ToolCall,
    parallel,
    sequence,
    tool,
    toolset,
)
from perdure import events as ev
from perdure.testing import FunctionModel, ScriptedModel, call, calls, hang
from tests.agents.watching import check_transcript, projected, records_of, replayed, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


def payer(paid: list[Any], **options: Any) -> Any:
    """A tool that pays."""

    @tool(**{"requires_approval": True, **options})
    async def pay(amount: int, to: str = "ada") -> str:
        """Pay."""
        paid.append((amount, to))
        return f"paid {amount}"

    return pay


async def test_a_run_waits_and_says_for_what():
    paid: list[Any] = []
    result = await Agent("A", tools=[payer(paid)], model=ScriptedModel(call("pay", amount=5), "ok")).run("x")
    assert result.status == "waiting"
    assert result.stop_reason is None
    assert paid == []
    (wait,) = result.waits
    assert isinstance(wait, Approval)
    assert (wait.tool, wait.args, wait.agent, wait.call_id) == (
        "pay",
        {"amount": 5, "to": "ada"},
        "A",
        "call_1",
    )
    assert wait.run_id == result.run_id
    with pytest.raises(RunWaiting, match=rf"waits for an answer: pay \({wait.id}\)") as waiting:
        _ = result.output
    assert waiting.value.result is result


async def test_approved_the_tool_runs_and_the_run_goes_on():
    paid: list[Any] = []
    model = ScriptedModel(call("pay", amount=5), "ok")
    waiting = await Agent("A", tools=[payer(paid)], model=model).run("x")
    result = await waiting.resume({waiting.waits[0].id: Approve(by="bob")})
    assert (result.status, result.output) == ("completed", "ok")
    assert paid == [(5, "ada")]
    assert result.run_id == waiting.run_id
    check_transcript(result.messages)
    assert len(model.requests) == 2
    assert result.usage.tool_calls == 1


async def test_denied_the_model_is_told_why():
    paid: list[Any] = []
    model = ScriptedModel(call("pay", amount=5), "ok")
    waiting = await Agent("A", tools=[payer(paid)], model=model).run("x")
    result = await waiting.resume({waiting.waits[0].id: Deny("too much")})
    assert paid == []
    assert result.output == "ok"
    assert model.requests[1].messages[-1].content == {"error": {"name": "denied", "message": "too much"}}
    assert result.usage.tool_calls == 0


async def test_denied_without_a_reason():
    waiting = await Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=5), "ok")).run("x")
    result = await waiting.resume({waiting.waits[0].id: Deny()})
    assert "did not allow" in result.results[0].tool_calls[0].content["error"]["message"]


@pytest.mark.parametrize("slow", [False, True])
async def test_a_predicate_of_the_arguments_decides(slow: bool):
    def large(amount: int, **_: Any) -> bool:
        return amount > 100

    async def large_later(amount: int, **_: Any) -> bool:
        return large(amount)

    paid: list[Any] = []
    model = ScriptedModel(calls(call("pay", amount=5), call("pay", amount=500)), "ok")
    agent = Agent("A", tools=[payer(paid, requires_approval=large_later if slow else large)], model=model)
    waiting = await agent.run("x")
    assert [wait.args for wait in waiting.waits] == [{"amount": 500, "to": "ada"}]
    assert paid == [(5, "ada")]
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert [one.data for one in result.results[0].tool_calls] == ["paid 5", "paid 500"]


async def test_a_predicate_sees_validated_arguments_with_their_defaults():
    seen: list[Any] = []

    def note(amount: int, to: str) -> bool:
        seen.append((amount, to))
        return False

    agent = Agent("A", tools=[payer([], requires_approval=note)], model=ScriptedModel(call("pay", amount="5"), "ok"))
    assert (await agent.run("x")).status == "completed"
    assert seen == [(5, "ada")]


async def test_a_predicate_that_raises_ends_the_run_or_is_told():
    def broken(**_: Any) -> bool:
        raise ZeroDivisionError("in the predicate")

    paid: list[Any] = []
    agent = Agent("A", tools=[payer(paid, requires_approval=broken)], model=ScriptedModel(call("pay", amount=5), "ok"))
    watched = await watch(agent)
    assert "ZeroDivisionError: in the predicate" in str(watched.error)
    assert paid == []


async def test_invalid_arguments_are_not_asked_for():
    agent = Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount="much"), "ok"))
    assert (await agent.run("x")).results[0].tool_calls[0].content["error"]["name"] == "ArgumentsInvalid"


async def test_exactly_the_arguments_after_the_hooks_are_asked_for_and_used_and_hooks_run_once():
    paid: list[Any] = []
    asked: list[Any] = []

    def halve(ctx: Context[Any], one: ToolCall) -> ToolCall:
        asked.append(one.input)
        return ToolCall(one.id, one.name, {"amount": one.input["amount"] // 2, "to": "bob"})

    model = ScriptedModel(call("pay", amount=10), "ok")
    waiting = await Agent("A", tools=[payer(paid)], hooks=Hooks(before_tool=halve), model=model).run("x")
    assert waiting.waits[0].args == {"amount": 5, "to": "bob"}
    await waiting.resume({waiting.waits[0].id: Approve()})
    assert paid == [(5, "bob")]
    assert asked == [{"amount": 10}]


async def test_what_before_tool_did_to_the_state_is_kept_over_the_wait():
    def note(ctx: Context[Any], one: ToolCall) -> None:
        ctx.state.data["asked"] = True

    model = ScriptedModel(call("pay", amount=10), "ok")
    waiting = await Agent("A", tools=[payer([])], hooks=Hooks(before_tool=note), model=model).run("x")
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.state.data == {"asked": True}


async def test_a_hook_that_answers_needs_no_approval():
    agent = Agent("A", tools=[payer([])], hooks=Hooks(before_tool=lambda ctx, one: "cached"))
    result = await agent.run("x", model=ScriptedModel(call("pay", amount=10), "ok"))
    assert result.results[0].tool_calls[0].data == "cached"


async def test_two_approvals_at_once_and_one_answered_first():
    paid: list[Any] = []
    model = ScriptedModel(calls(call("pay", amount=1), call("pay", amount=2)), "ok")
    waiting = await Agent("A", tools=[payer(paid)], model=model).run("x")
    first, second = waiting.waits
    assert [first.args["amount"], second.args["amount"]] == [1, 2]
    half = await waiting.resume({second.id: Approve()})
    assert half.status == "waiting"
    assert half.waits == (first,)
    assert paid == [(2, "ada")]
    result = await half.resume({first.id: Deny("no")})
    assert result.output == "ok"
    assert [one.is_error for one in result.results[0].tool_calls] == [True, False]
    check_transcript(result.messages)


async def test_both_answered_at_once():
    paid: list[Any] = []
    model = ScriptedModel(calls(call("pay", amount=1), call("pay", amount=2)), "ok")
    waiting = await Agent("A", tools=[payer(paid)], model=model).run("x")
    result = await waiting.resume({wait.id: Approve() for wait in waiting.waits})
    assert result.output == "ok"
    assert sorted(paid) == [(1, "ada"), (2, "ada")]


async def test_one_after_another_if_tools_are_not_parallel():
    paid: list[Any] = []
    model = ScriptedModel(calls(call("pay", amount=1), call("pay", amount=2)), "ok")
    waiting = await Agent("A", tools=[payer(paid)], parallel_tools=False, model=model).run("x")
    assert [wait.args["amount"] for wait in waiting.waits] == [1]
    waiting = await waiting.resume({waiting.waits[0].id: Approve()})
    assert [wait.args["amount"] for wait in waiting.waits] == [2]
    assert paid == [(1, "ada")]
    assert (await waiting.resume({waiting.waits[0].id: Approve()})).output == "ok"


async def test_a_sibling_that_runs_is_finished_before_the_run_waits():
    @tool
    async def quick() -> str:
        return "done"

    model = ScriptedModel(calls(call("pay", amount=1), call("quick")), "ok")
    waiting = await Agent("A", tools=[payer([]), quick], model=model).run("x")
    assert waiting.status == "waiting"
    records = await records_of(waiting._running)
    assert [one.key for one in records if one.kind == "tool"] == ["agent/0/infer/0/tool/1"]


async def test_answers_that_are_none_are_refused():
    waiting = await Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), "ok")).run("x")
    with pytest.raises(DefinitionError, match="not for 'nobody'"):
        await waiting.resume({"nobody": Approve()})
    with pytest.raises(DefinitionError, match=r"give Approve\(\) or Deny"):
        await waiting.resume({waiting.waits[0].id: Answer("yes")})
    with pytest.raises(DefinitionError, match=r"give Approve\(\) or Deny"):
        await waiting.resume({waiting.waits[0].id: True})  # type: ignore[dict-item]
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    with pytest.raises(DefinitionError, match="does not wait"):
        await result.resume({})
    with pytest.raises(DefinitionError, match="does not wait"):
        await waiting.resume({waiting.waits[0].id: Approve()})


async def test_no_answer_keeps_waiting():
    waiting = await Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), "ok")).run("x")
    again = await waiting.resume()
    assert again.status == "waiting"
    assert again.waits == waiting.waits
    assert (await again.resume({again.waits[0].id: Approve()})).output == "ok"


async def test_a_toolset_may_want_approval_for_all_its_tools():
    paid: list[Any] = []
    agent = Agent("A", tools=[toolset(payer(paid, requires_approval=False)).approved()])
    waiting = await agent.run("x", model=ScriptedModel(call("pay", amount=1), "ok"))
    assert (await waiting.resume({waiting.waits[0].id: Approve()})).output == "ok"
    assert paid == [(1, "ada")]


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_ends_with_waiting_and_gives_the_result():
    agent = Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), "ok"))
    watched = await watch(agent)
    assert isinstance(watched.events[-1], ev.RunWaiting)
    assert watched.events[-1].waits == watched.result.waits
    assert [one.wait for one in watched.of(ev.WaitOpened)] == list(watched.result.waits)
    assert (await watched.result.resume({watched.result.waits[0].id: Approve()})).output == "ok"


async def test_the_log_of_a_resumed_run_shows_a_well_formed_whole():
    agent = Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), "ok"))
    watched = await watch(agent)
    result = await watched.result.resume({watched.result.waits[0].id: Approve()})
    records = await watched.records()
    assert [one.key for one in records if one.kind == "wait"] == ["agent/0/infer/0/tool/0/wait/0"]
    shown = [type(one).__name__ for one in projected(watched.running, records)]
    assert shown.count("WaitOpened") == shown.count("WaitResolved") == shown.count("RunCompleted") == 1
    assert tuple(replayed(watched.running, records).transcript) == result.messages


async def test_a_waiting_run_is_cancelled_by_dropping_it():
    async with Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1))).stream("x") as stream:
        result = await stream.result()
    assert result.status == "waiting"


# -- the handle of a run that waits -----------------------------------------------------------------------------------


async def test_a_handle_follows_what_the_answer_brings():
    began, gate = asyncio.Event(), asyncio.Event()

    @tool(requires_approval=True)
    async def slow() -> str:
        """Take its time."""
        began.set()
        await gate.wait()
        return "done"

    run = Agent("A", tools=[slow], model=ScriptedModel(call("slow"), "ok")).start("x")
    waiting = await run.result()
    assert (run.status, (await run.result()).status) == ("waiting", "waiting")
    assert type([one async for one in run.events()][-1]) is ev.RunWaiting
    resuming = asyncio.create_task(waiting.resume({waiting.waits[0].id: Approve()}))
    await began.wait()
    reading = asyncio.create_task(_read(run))
    ending = asyncio.create_task(run.result())
    await asyncio.sleep(0)
    assert run.status == "running"
    gate.set()
    assert (await ending).output == (await resuming).output == (await run.result()).output == "ok"
    assert run.status == "completed"
    names = [type(one).__name__ for one in await reading]
    assert names[names.index("RunWaiting") : names.index("RunWaiting") + 3] == [
        "RunWaiting",
        "WaitResolved",
        "RunResumed",
    ]
    assert names[-1] == "RunCompleted"
    assert [type(one).__name__ for one in await _read(run)] == names


async def _read(run: Any) -> list[Any]:
    return [one async for one in run.events()]


@pytest.mark.parametrize("in_child", [False, True])
async def test_a_run_that_waits_is_cancelled_by_its_handle(in_child: bool):
    paid: list[Any] = []
    payer_agent = Agent("Payer", tools=[payer(paid)], model=ScriptedModel(call("pay", amount=5)))
    asker = Agent("Asker", tools=[payer_agent.as_tool()], model=ScriptedModel(call("payer", request="pay")))
    run = (asker if in_child else payer_agent).start("x")
    waiting = await run.result()
    assert waiting.status == "waiting"
    await run.cancel()
    await run.cancel()
    assert run.status == "cancelled"
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    check_transcript(cancelled.value.result.messages)
    assert [type(one).__name__ for one in await _read(run)][-1] == "RunCancelled"
    with pytest.raises(DefinitionError, match="does not wait"):
        await waiting.resume({waiting.waits[0].id: Approve()})
    children = list(run._running.env.children.values())
    assert [child.result().status for child in children] == ["cancelled"] * in_child
    assert paid == []


async def test_a_run_that_was_answered_is_cancelled_by_its_handle():
    began = asyncio.Event()

    @tool(requires_approval=True)
    async def endless() -> None:
        """Never end."""
        began.set()
        await asyncio.Event().wait()

    run = Agent("A", tools=[endless], model=ScriptedModel(call("endless"))).start("x")
    waiting = await run.result()
    resuming = asyncio.create_task(waiting.resume({waiting.waits[0].id: Approve()}))
    await began.wait()
    await run.cancel()
    assert run.status == "cancelled"
    with pytest.raises(RunCancelled):
        await resuming


@pytest.mark.parametrize("several", [False, True])
async def test_a_deadline_holds_after_a_wait_too(several: bool):
    made = calls(call("pay", amount=1), call("pay", amount=2)) if several else call("pay", amount=1)
    agent = Agent("A", tools=[payer([])], model=ScriptedModel(made, hang()))
    waiting = await agent.run("x", deadline=0.2)
    with pytest.raises(RunCancelled, match="deadline passed"):
        await waiting.resume({wait.id: Approve() for wait in waiting.waits})


async def test_the_time_of_a_wait_counts_towards_a_deadline():
    waiting = await Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), hang())).run(
        "x", deadline=3600
    )
    waiting._running.ends_at -= 4000  # as if this had gone by
    with pytest.raises(RunCancelled, match="deadline passed"):
        await waiting.resume({waiting.waits[0].id: Approve()})


async def test_a_budget_of_seconds_holds_after_a_wait_too():
    agent = Agent("A", tools=[payer([])], model=ScriptedModel(call("pay", amount=1), hang()))
    waiting = await agent.run("x", budget=Budget(seconds=0.2))
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.stop_reason == "budget"


# -- within child runs and networks -----------------------------------------------------------------------------------


async def test_an_approval_inside_a_child_bubbles_up_and_resumes_the_child():
    paid: list[Any] = []
    helper = Agent("Helper", tools=[payer(paid)])
    agent = Agent("A", tools=[helper.as_tool()])
    model = ScriptedModel(call("helper", request="pay"), call("pay", amount=5), "helped", "ok")
    waiting = await agent.run("x", model=model)
    (wait,) = waiting.waits
    assert (wait.tool, wait.agent) == ("pay", "Helper")
    assert wait.run_id != waiting.run_id
    result = await waiting.resume({wait.id: Approve()})
    assert result.output == "ok"
    assert paid == [(5, "ada")]
    assert result.results[0].tool_calls[0].data == "helped"
    assert len(model.requests) == 4, "nothing was asked twice"
    assert result.usage.model_calls == 4
    check_transcript(result.messages)


async def test_steps_around_a_child_that_waits_are_done_once():
    done: list[str] = []
    helper = Agent("Helper", tools=[payer([])])

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> str:
        await ctx.step.run("before", done.append, "before")
        result = await ctx.run(helper, "pay")
        await ctx.step.run("after", done.append, "after")
        return result.output

    model = ScriptedModel(call("ask"), call("pay", amount=5), "helped", "ok")
    waiting = await Agent("A", tools=[ask]).run("x", model=model)
    assert done == ["before"]
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.output == "ok"
    assert done == ["before", "after"]


async def test_two_children_that_wait_at_once_in_one_tool():
    paid: list[Any] = []
    helper = Agent("Helper", tools=[payer(paid)])

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> list[str]:
        results = await asyncio.gather(ctx.run(helper, "one"), ctx.run(helper, "two"))
        return [one.output for one in results]

    def answer(request: Any) -> Any:
        said = request.messages
        if request.tools[0].name == "ask":
            return call("ask") if len(said) == 1 else "ok"
        return call("pay", amount={"one": 1, "two": 2}[said[0].text]) if len(said) == 1 else f"helped {said[0].text}"

    waiting = await Agent("A", tools=[ask], model=FunctionModel(answer)).run("x")
    assert sorted(wait.args["amount"] for wait in waiting.waits) == [1, 2]
    half = await waiting.resume({waiting.waits[0].id: Approve()})
    assert half.status == "waiting"
    assert len(half.waits) == 1
    result = await half.resume({half.waits[0].id: Approve()})
    assert result.results[0].tool_calls[0].data == ["helped one", "helped two"]
    assert sorted(paid) == [(1, "ada"), (2, "ada")]


async def test_an_approved_tool_whose_child_waits_is_approved_once():
    paid: list[Any] = []
    asked: list[Any] = []
    helper = Agent("Helper", tools=[payer(paid)])

    @tool(effect="steps", requires_approval=True)
    async def ask(ctx: Context[Any], who: str) -> str:
        return (await ctx.run(helper, who)).output

    def note(ctx: Context[Any], one: ToolCall) -> ToolCall:
        asked.append(one.name)
        ctx.state.data["asked"] = True
        return ToolCall(one.id, one.name, {"who": "bob"})

    model = ScriptedModel(call("ask", who="ada"), call("pay", amount=1), "helped", "ok")
    result = await Agent("A", tools=[ask], hooks=Hooks(before_tool=note), model=model).run("x")
    assert [(wait.tool, wait.args) for wait in result.waits] == [("ask", {"who": "bob"})]
    result = await result.resume({result.waits[0].id: Approve()})
    assert [(wait.tool, wait.args) for wait in result.waits] == [("pay", {"amount": 1, "to": "ada"})]
    result = await result.resume({result.waits[0].id: Approve()})
    assert result.output == "ok"
    assert asked == ["ask"]
    assert model.requests[1].messages[0].text == "bob"
    assert result.state.data == {"asked": True}
    assert result.usage.tool_calls == 2


async def test_a_call_that_waited_counts_once_against_the_budget():
    agent = Agent("A", tools=[payer([])])
    model = ScriptedModel(call("pay", amount=1), call("pay", amount=2), "ok")
    result = await agent.run("x", model=model, budget=Budget(tool_calls=2))
    while result.status == "waiting":
        result = await result.resume({result.waits[0].id: Approve()})
    assert (result.output, result.usage.tool_calls) == ("ok", 2)


async def test_a_child_that_waits_twice():
    paid: list[Any] = []
    helper = Agent("Helper", tools=[payer(paid)])
    agent = Agent("A", tools=[helper.as_tool()])
    model = ScriptedModel(call("helper", request="pay"), call("pay", amount=1), call("pay", amount=2), "helped", "ok")
    result = await agent.run("x", model=model)
    for _ in range(2):
        result = await result.resume({result.waits[0].id: Approve()})
    assert result.output == "ok"
    assert paid == [(1, "ada"), (2, "ada")]


async def test_a_body_that_swallows_exceptions_cannot_swallow_the_wait():
    helper = Agent("Helper", tools=[payer([])])

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> str:
        try:
            return (await ctx.run(helper, "pay")).output
        except Exception:
            return "swallowed"

    model = ScriptedModel(call("ask"), call("pay", amount=5), "helped", "ok")
    waiting = await Agent("A", tools=[ask]).run("x", model=model)
    assert waiting.status == "waiting"
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.results[0].tool_calls[0].data == "helped"


async def test_agents_of_a_group_wait_together():
    paid: list[Any] = []
    one, two = (Agent(name, system=name, tools=[payer(paid)]) for name in ("One", "Two"))
    network = Network("N", agents=[one, two], router=sequence(parallel(one, two)))
    model = FunctionModel(lambda request: call("pay", amount=1) if len(request.messages) == 2 else "ok")
    waiting = await network.run("x", model=model)
    assert [wait.agent for wait in waiting.waits] == ["One", "Two"]
    result = await waiting.resume({wait.id: Approve() for wait in waiting.waits})
    assert [one.text for one in result.results] == ["ok", "ok"]
    assert len(paid) == 2
