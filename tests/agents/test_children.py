"""Child runs: an agent or a network run by a tool."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Agent,
    Context,
    Network,
    RunCancelled,
    RunFailed,
    parallel,
    sequence,
    tool,
)
from perdure.testing import FunctionModel, ScriptedModel, call, calls, fail, hang
from tests.agents.watching import check_transcript, records_of, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


def helper(**options: Any) -> Agent[Any, Any]:
    return Agent("Helper", system="Help.", description="Helps.", **options)


async def test_an_agent_as_a_tool_answers_with_its_output():
    agent = Agent("A", tools=[helper().as_tool()])
    model = ScriptedModel(call("helper", request="please"), "helped", "ok")
    watched = await watch(agent, model=model)
    assert watched.result.results[0].tool_calls[0].data == "helped"
    spec = model.requests[0].tools[0]
    assert (spec.name, spec.description, list(spec.parameters["properties"])) == ("helper", "Helps.", ["request"])
    assert [one.text for one in model.requests[1].messages] == ["Help.", "please"]
    assert [one.text for one in watched.result.messages if hasattr(one, "text")] == ["go", "ok"], (
        "only its result enters"
    )
    assert watched.result.usage.model_calls == 3


async def test_a_tool_may_be_named_and_described():
    one = helper().as_tool(name="ask_helper", description="Asks.")
    assert (one.name, one.description, one.effect) == ("ask_helper", "Asks.", "steps")
    assert Agent("Çok güzel!", model=ScriptedModel()).as_tool().name == "_ok_g_zel_"


async def test_a_child_has_a_session_and_an_id_of_its_own_that_follow_from_its_place():
    seen: list[Any] = []

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> str:
        result = await ctx.run(helper(), "x")
        seen.append((result.run_id, result.session_id))
        return result.output

    agent = Agent("A", tools=[ask])
    watched = await watch(agent, model=ScriptedModel(call("ask"), "helped", "ok"), run_id="run_1")
    again = await watch(agent, model=ScriptedModel(call("ask"), "helped", "ok"), run_id="run_1")
    other = await watch(agent, model=ScriptedModel(call("ask"), "helped", "ok"), run_id="run_2")
    del again, other
    assert seen[0][0] == seen[1][0] != seen[2][0]
    assert seen[0][1] != watched.result.session_id
    child = [one for one in await watched.records() if one.kind == "child"]
    assert [(one.payload.run_id, one.payload.status) for one in child] == [(seen[0][0], "completed")]
    assert child[0].key.startswith("agent/0/infer/0/tool/0/")


@pytest.mark.parametrize("option", ["session_id", "run_id"])
async def test_a_child_takes_no_session_of_others(option: str):
    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> None:
        await ctx.run(helper(), "x", **{option: "mine"})

    result = await Agent("A", tools=[ask]).run("x", model=ScriptedModel(call("ask"), "ok"))
    error = result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "DefinitionError"
    assert f"takes no {option}" in error["message"]


@pytest.mark.parametrize("effect", ["once", "idempotent"])
async def test_a_child_run_wants_the_effect_steps(effect: Any):
    @tool(effect=effect)
    async def ask(ctx: Context[Any]) -> None:
        await ctx.run(helper(), "x")

    result = await Agent("A", tools=[ask]).run("x", model=ScriptedModel(call("ask"), "ok"))
    error = result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "StepOutsideSteps"
    assert '@tool(effect="steps")' in error["message"]


async def test_a_network_may_be_a_child_and_has_a_state_of_its_own():
    @tool
    async def note(ctx: Context[Any], text: str) -> None:
        ctx.state.data["note"] = text

    inner = Agent("Inner", tools=[note])
    network = Network("Team", agents=[inner], router=sequence(inner))
    states: list[Any] = []

    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> str:
        result = await ctx.run(network, "x", state={"given": 1})
        states.append(result.state.data)
        ctx.state.data["outer"] = True
        return result.output

    model = ScriptedModel(call("ask"), call("note", text="a"), "noted", "ok")
    result = await Agent("A", tools=[ask]).run("x", model=model)
    assert states == [{"given": 1, "note": "a"}]
    assert result.state.data == {"outer": True}


async def test_a_child_inherits_user_resources_settings_and_model():
    seen: list[Any] = []

    class Pool:
        pass

    @tool
    async def look(ctx: Context[Any]) -> None:
        seen.append((ctx.user_id, type(ctx.use(Pool))))

    agent = Agent("A", tools=[helper(tools=[look]).as_tool()])
    model = ScriptedModel(call("helper", request="x"), call("look"), "helped", "ok")
    await agent.run("x", model=model, user_id="ada", resources=[Pool()])
    assert seen == [("ada", Pool)]


async def test_a_child_without_a_model_takes_its_parent_agent_s_and_with_one_its_own():
    own = ScriptedModel("by my own")
    parents = ScriptedModel(calls(call("one", request="x")), "by the parent's", call("two", request="x"), "ok")
    tools = [Agent("One").as_tool(), Agent("Two", model=own).as_tool()]
    result = await Agent("A", tools=tools, model=parents).run("x")
    assert [one.data for one in result.results[0].tool_calls] == ["by the parent's", "by my own"]


async def test_a_failed_child_is_an_error_that_the_model_can_read():
    child = helper(model=ScriptedModel(fail(ValueError("broken"))))
    result = await Agent("A", tools=[child.as_tool()], model=ScriptedModel(call("helper", request="x"), "ok")).run("x")
    error = result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "RunFailed"
    assert "'Helper' failed" in error["message"]
    assert "broken" in error["message"]


async def test_a_strict_parent_fails_with_its_child():
    child = helper(model=ScriptedModel(fail(ValueError("broken"))))
    agent = Agent("A", tools=[child.as_tool()], strict=True, model=ScriptedModel(call("helper", request="x")))
    with pytest.raises(RunFailed) as failed:
        await agent.run("x")
    assert isinstance(failed.value.__cause__, RunFailed)
    assert isinstance(failed.value.__cause__.__cause__, ValueError)


async def test_cancelling_a_run_cancels_its_children():
    entered = asyncio.Event()
    children: list[Any] = []

    async def never(request: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    @tool(effect="steps")
    async def ask(ctx: Context[Any], n: int) -> None:
        try:
            await ctx.run(helper(), f"x{n}")
        except RunCancelled as cancelled:
            children.append(cancelled.result.status)
            raise

    agent = Agent("A", tools=[ask])
    model = ScriptedModel(calls(call("ask", n=1), call("ask", n=2)), never, hang())
    run = agent.start("go", model=model)
    await entered.wait()
    await run.cancel()
    with pytest.raises(RunCancelled) as cancelled:
        await run.result()
    check_transcript(cancelled.value.result.messages)
    env = run._running.env
    ends = [(await records_of(child))[-1].payload.status for child in env.children.values() if child.io is not None]
    assert ends == ["cancelled"] * 2


async def test_children_run_at_once_and_two_equal_ones_are_two():
    both = asyncio.Barrier(2)
    ids: list[str] = []

    @tool
    async def meet(ctx: Context[Any]) -> None:
        ids.append(ctx.run_id)
        await both.wait()

    child = helper(tools=[meet])

    def answer(request: Any) -> Any:
        asked = request.messages[0].text if request.messages[0].role == "system" else ""
        if asked == "Help.":
            return call("meet") if len(request.messages) == 2 else "met"
        return (
            calls(call("helper", request="same"), call("helper", request="same"))
            if len(request.messages) == 1
            else "ok"
        )

    result = await Agent("A", tools=[child.as_tool()], model=FunctionModel(answer)).run("x")
    assert [one.data for one in result.results[0].tool_calls] == ["met", "met"]
    assert len(set(ids)) == 2


async def test_a_child_of_a_child_is_paid_for_by_all_above():
    grandchild = Agent("Grandchild")
    child = Agent("Child", tools=[grandchild.as_tool()])
    agent = Agent("A", tools=[child.as_tool()])
    model = ScriptedModel(call("child", request="x"), call("grandchild", request="y"), "deep", "middle", "top")
    result = await agent.run("x", model=model)
    assert (result.output, result.usage.model_calls, result.usage.tool_calls) == ("top", 5, 2)


async def test_something_else_than_a_definition_is_refused():
    @tool(effect="steps")
    async def ask(ctx: Context[Any]) -> None:
        await ctx.run("Helper", "x")  # type: ignore[arg-type]

    result = await Agent("A", tools=[ask]).run("x", model=ScriptedModel(call("ask"), "ok"))
    assert (
        "takes an agent, a network or a function, not 'Helper'"
        in result.results[0].tool_calls[0].content["error"]["message"]
    )


async def test_a_plain_run_inside_a_tool_is_independent():
    inner = Agent("Inner", model=ScriptedModel("inner"))

    @tool
    async def ask() -> str:
        return (await inner.run("x")).output

    result = await Agent("A", tools=[ask]).run("x", model=ScriptedModel(call("ask"), "ok"))
    assert result.results[0].tool_calls[0].data == "inner"
    assert result.usage.model_calls == 2, "it is not paid for here"


async def test_a_child_in_a_group_of_agents():
    child = helper()
    one, two = Agent("One", tools=[child.as_tool()]), Agent("Two")
    network = Network("N", agents=[one, two], router=sequence(parallel(one, two)))

    def answer(request: Any) -> Any:
        if request.messages[0].text == "Help.":
            return "helped"
        if request.tools and len(request.messages) == 1:
            return call("helper", request="x")
        return "ok"

    watched = await watch(network, model=FunctionModel(answer))
    assert watched.result.results[0].tool_calls[0].data == "helped"
