"""Hooks: when they are called, in which order, what they may change, and what they may not return."""

from collections.abc import Callable
from typing import Any

import pytest

from perdure import (
    Agent,
    AgentResult,
    Context,
    Hooks,
    ModelRetry,
    Network,
    RunFailed,
    Stop,
    ToolCall,
    ToolResultMessage,
    sequence,
    tool,
)
from perdure.agents.hooks import settle
from perdure.testing import ScriptedModel, call, calls, say
from perdure.types.messages import TextMessage, user
from tests.agents.watching import check_transcript, watch

pytestmark = pytest.mark.usefixtures("nothing_left")
NAMES = ("on_start", "on_response", "on_finish", "before_tool", "after_tool", "on_error", "on_route")


@tool(effect="pure")
async def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


@tool(effect="pure")
async def broken() -> str:
    """Fail."""
    raise ValueError("no")


def noting(seen: list[str], prefix: str = "", slow: bool = False) -> Hooks:
    """Hooks that note each call and return nothing."""

    def note(name: str) -> Callable[..., Any]:
        def plain(ctx: Context[Any], *args: Any) -> None:
            seen.append(f"{prefix}{name}")

        async def later(ctx: Context[Any], *args: Any) -> None:
            plain(ctx)

        return later if slow else plain

    return Hooks(**{name: note(name) for name in NAMES})


# -- when -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
async def test_b08_the_order_is_start_response_tools_and_finish_once(slow: bool):
    seen: list[str] = []
    model = ScriptedModel(call("weather", city="Oslo"), say("Rain."))
    await Agent("A", tools=[weather], hooks=noting(seen, slow=slow), model=model).run("x")
    assert seen == ["on_start", "on_response", "before_tool", "after_tool", "on_start", "on_response", "on_finish"]


async def test_b08_hooks_go_in_from_network_to_agent_and_come_out_reversed():
    seen: list[str] = []
    agent = Agent("A", tools=[weather], hooks=[noting(seen, "a1 "), noting(seen, "a2 ")])
    network = Network("N", agents=[agent], router=sequence(agent), hooks=noting(seen, "n "))
    await network.run("x", model=ScriptedModel(call("weather", city="Oslo"), "ok"))

    def order(name: str) -> list[str]:
        return [one.split()[0] for one in seen if one.endswith(" " + name)]

    assert order("on_start") == ["n", "a1", "a2"] * 2
    assert order("before_tool") == ["n", "a1", "a2"]
    assert order("on_response") == ["a2", "a1", "n"] * 2
    assert order("after_tool") == ["a2", "a1", "n"]
    assert order("on_finish") == ["a2", "a1", "n"]
    assert order("on_route") == ["n", "n"], "routing is the network's"


async def test_b08_a_turn_that_is_cut_off_calls_no_finish_hook():
    seen: list[str] = []
    with pytest.raises(RunFailed):
        await Agent("A", hooks=noting(seen), model=ScriptedModel()).run("x")
    assert seen == ["on_start", "on_error"]


# -- b09: stop from the start hook ------------------------------------------------------------------------------------


async def test_b09_stop_prevents_the_inference_and_gives_an_empty_result():
    model = ScriptedModel()
    watched = await watch(Agent("A", hooks=Hooks(on_start=lambda ctx, messages: Stop("closed today")), model=model))
    assert model.requests == []
    assert watched.result.output == ""
    assert (watched.result.stop_reason, watched.result.stop_detail) == ("hook", "closed today")
    assert watched.result.results[0].messages == ()
    assert watched.names == ["RunStarted", "AgentStarted", "AgentFinished", "RunCompleted"]


async def test_b09_stop_calls_the_finish_hooks_and_a_network_goes_on():
    seen: list[str] = []
    one = Agent("One", hooks=[Hooks(on_start=lambda ctx, messages: Stop()), noting(seen)])
    two = Agent("Two")
    watched = await watch(Network("N", agents=[one, two], router=sequence(one, two)), model=ScriptedModel("hi"))
    assert [(turn.agent_name, turn.text, turn.stop_reason) for turn in watched.result.results] == [
        ("One", "", "hook"),
        ("Two", "hi", "answer"),
    ]
    assert seen == ["on_finish"]


async def test_b09_stop_after_some_rounds_keeps_what_was_reached():
    def enough(ctx: Context[Any], messages: list[Any]) -> Stop | None:
        return Stop() if any(isinstance(one, ToolResultMessage) for one in messages) else None

    agent = Agent("A", tools=[weather], hooks=Hooks(on_start=enough))
    result = await agent.run("x", model=ScriptedModel(calls(call("weather", city="Oslo"), text="Let me see.")))
    assert result.stop_reason == "hook"
    assert result.text == "Let me see."
    check_transcript(result.messages)


# -- b10: what a hook may return --------------------------------------------------------------------------------------


async def test_b10_every_hook_may_return_nothing():
    seen: list[str] = []
    agent = Agent("A", tools=[weather], hooks=noting(seen))
    network = Network("N", agents=[agent], router=sequence(agent), hooks=noting(seen))
    result = await network.run("x", model=ScriptedModel(call("weather", city="Oslo"), "Rain."))
    assert result.output == "Rain."
    assert result.results[0].tool_calls[0].data == "rain in Oslo"


async def test_b10_other_messages_reach_the_model_and_leave_the_transcript_alone():
    def remember(ctx: Context[Any], messages: list[Any]) -> list[Any]:
        return [*messages[:-1], user("(Ada likes tea.)"), messages[-1]]

    model = ScriptedModel("Tea?")
    result = await Agent("A", system="S", hooks=Hooks(on_start=remember), model=model).run("Hi")
    assert [one.text for one in model.requests[0].messages] == ["S", "(Ada likes tea.)", "Hi"]
    assert [one.text for one in result.messages] == ["Hi", "Tea?"]


async def test_b10_what_hooks_inserted_is_in_the_record():
    def remember(ctx: Context[Any], messages: list[Any]) -> list[Any]:
        return [*messages, user("(tea)")]

    watched = await watch(Agent("A", hooks=Hooks(on_start=remember), model=ScriptedModel("ok")), "Hi")
    prompt = next(one.payload for one in await watched.records() if one.kind == "inference").prompt
    from perdure.types.records import PromptRange

    assert prompt.pieces == (PromptRange(0, 1), user("(tea)"))


async def test_b10_editing_the_given_list_changes_nothing():
    def edit(ctx: Context[Any], messages: list[Any]) -> None:
        messages.clear()

    model = ScriptedModel("ok")
    result = await Agent("A", hooks=Hooks(on_start=edit), model=model).run("Hi")
    assert [one.text for one in model.requests[0].messages] == ["Hi"]
    assert [one.text for one in result.messages] == ["Hi", "ok"]


@pytest.mark.parametrize("name", ["on_response", "on_finish"])
async def test_b10_another_result_stands_in_state_transcript_and_record(name: str):
    import msgspec

    async def shout(ctx: Context[Any], result: AgentResult) -> AgentResult:
        louder = tuple(
            msgspec.structs.replace(one, content=one.text.upper()) if isinstance(one, TextMessage) else one
            for one in result.messages
        )
        return msgspec.structs.replace(result, messages=louder)

    result = await Agent("A", hooks=Hooks(**{name: shout}), model=ScriptedModel("quiet")).run("Hi")
    assert result.output == result.text == result.messages[-1].text == result.state.messages[-1].text == "QUIET"


async def test_b21_before_tool_may_change_the_arguments():
    def to_rome(ctx: Context[Any], asked: ToolCall) -> ToolCall:
        return ToolCall(asked.id, asked.name, {"city": "Rome"})

    agent = Agent("A", tools=[weather], hooks=Hooks(before_tool=to_rome))
    result = await agent.run("x", model=ScriptedModel(call("weather", city="Oslo"), "ok"))
    assert result.results[0].tool_calls[0].data == "rain in Rome"
    check_transcript(result.messages)


async def test_b21_changed_arguments_are_validated_too():
    agent = Agent("A", tools=[weather], hooks=Hooks(before_tool=lambda ctx, one: ToolCall(one.id, one.name, {})))
    result = await agent.run("x", model=ScriptedModel(call("weather", city="Oslo"), "ok"))
    assert result.results[0].tool_calls[0].content["error"]["name"] == "ArgumentsInvalid"


@pytest.mark.parametrize("answer", ["cached", {"rain": True}, 0])
async def test_b21_before_tool_may_answer_instead_of_the_tool(answer: Any):
    entered: list[int] = []

    @tool
    async def pay() -> None:
        entered.append(1)

    agent = Agent("A", tools=[pay], hooks=Hooks(before_tool=lambda ctx, one: answer))
    result = await agent.run("x", model=ScriptedModel(call("pay"), "ok"))
    assert result.results[0].tool_calls[0].content == {"data": answer}
    assert entered == []


async def test_b21_before_tool_may_refuse_with_a_reason():
    def refuse(ctx: Context[Any], one: ToolCall) -> None:
        raise ModelRetry("not on a Sunday")

    watched = await watch(
        Agent(
            "A", tools=[weather], hooks=Hooks(before_tool=refuse), model=ScriptedModel(call("weather", city="x"), "ok")
        )
    )
    (finished,) = [one for one in watched.events if type(one).__name__ == "ToolFinished"]
    assert finished.outcome == "denied"
    assert finished.result == {"error": {"name": "denied", "message": "not on a Sunday"}}
    assert watched.result.output == "ok"


async def test_b21_after_tool_may_change_the_result_and_sees_errors_too():
    seen: list[Any] = []

    def polish(ctx: Context[Any], asked: ToolCall, answer: ToolResultMessage) -> Any:
        seen.append((asked.name, answer.content))
        return {"polished": answer.data} if not answer.is_error else None

    model = ScriptedModel(calls(call("weather", city="Oslo"), call("broken")), "ok")
    agent = Agent("A", tools=[weather, broken], parallel_tools=False, hooks=Hooks(after_tool=polish), model=model)
    result = await agent.run("x")
    failure = {"error": {"name": "ValueError", "message": "no"}}
    assert seen == [("weather", {"data": "rain in Oslo"}), ("broken", failure)]
    assert [one.content for one in result.results[0].tool_calls] == [{"data": {"polished": "rain in Oslo"}}, failure]


async def test_hooks_change_the_state_within_their_step():
    def count(name: str) -> Callable[..., None]:
        def add(ctx: Context[Any], *args: Any) -> None:
            ctx.state.data[name] = ctx.state.data.get(name, 0) + 1

        return add

    names = ("on_start", "on_response", "on_finish", "before_tool", "after_tool")
    agent = Agent("A", tools=[weather], hooks=Hooks(**{name: count(name) for name in names}))
    result = await agent.run("x", state={}, model=ScriptedModel(call("weather", city="Oslo"), "ok"))
    assert result.state.data == {"on_start": 2, "on_response": 2, "on_finish": 1, "before_tool": 1, "after_tool": 1}


async def test_on_route_may_choose_another_agent():
    one, two = Agent("One"), Agent("Two")

    async def other(ctx: Context[Any], decision: tuple[str, ...]) -> Any:
        return ["Two"] if decision == ("One",) else None

    network = Network("N", agents=[one, two], router=sequence(one), hooks=Hooks(on_route=other))
    result = await network.run("x", model=ScriptedModel("hi"))
    assert [turn.agent_name for turn in result.results] == ["Two"]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_start", "on_response", "on_finish", "before_tool", "after_tool"])
@pytest.mark.parametrize("slow", [False, True])
async def test_a_hook_that_raises_ends_the_run_with_its_exception(name: str, slow: bool):
    told: list[Exception] = []

    def fail(ctx: Context[Any], *args: Any) -> None:
        raise ZeroDivisionError("in the hook")

    async def fail_later(ctx: Context[Any], *args: Any) -> None:
        fail(ctx)

    hooks = [Hooks(**{name: fail_later if slow else fail}), Hooks(on_error=lambda ctx, error: told.append(error))]
    model = ScriptedModel(call("weather", city="Oslo"), "ok")
    watched = await watch(Agent("A", tools=[weather], hooks=hooks, model=model))
    assert isinstance(watched.error, RunFailed)
    assert "ZeroDivisionError: in the hook" in str(watched.error)
    assert isinstance(watched.error.__cause__, ZeroDivisionError)
    assert told == [watched.error.__cause__]
    check_transcript(watched.error.result.messages)


async def test_an_error_hook_that_raises_does_not_hide_the_error():
    def worse(ctx: Context[Any], error: Exception) -> None:
        raise KeyError("in the error hook")

    watched = await watch(Agent("A", hooks=Hooks(on_error=worse), model=ScriptedModel()))
    assert isinstance(watched.error, RunFailed)
    assert "ScriptExhausted" in str(watched.error)
    assert any("KeyError" in note for note in watched.error.__cause__.__notes__)


@pytest.mark.parametrize(
    ("name", "rubbish", "message"),
    [
        ("on_start", 5, "on_start returned int"),
        ("on_start", "text", "on_start returned str"),
        ("on_start", ["text"], "on_start returned messages with a str"),
        ("on_response", "text", "on_response returned str"),
        ("on_finish", 5, "on_finish returned int"),
        ("on_response", AgentResult("A", ("text",)), "on_response"),  # type: ignore[arg-type]
        ("on_finish", AgentResult("A", (object(),)), "on_finish"),  # type: ignore[arg-type]
    ],
)
async def test_rubbish_from_a_hook_ends_the_run_with_a_clear_error(name: str, rubbish: Any, message: str):
    watched = await watch(Agent("A", hooks=Hooks(**{name: lambda *args: rubbish}), model=ScriptedModel("ok")))
    assert isinstance(watched.error, RunFailed)
    assert message in str(watched.error)


@pytest.mark.parametrize("name", ["before_tool", "after_tool"])
@pytest.mark.parametrize("rubbish", [object(), ToolResultMessage(ToolCall("1", "x"), object())])  # type: ignore[arg-type]
async def test_a_tool_hook_s_answer_that_is_no_json_is_an_error_that_names_it(name: str, rubbish: Any):
    model = ScriptedModel(call("weather", city="Oslo"), "ok")
    watched = await watch(Agent("A", tools=[weather], hooks=Hooks(**{name: lambda *args: rubbish}), model=model))
    assert isinstance(watched.error, RunFailed)
    assert "Unserialisable" in str(watched.error)
    assert name in str(watched.error)


async def test_settle_awaits_what_wants_to_be_awaited():
    async def later() -> int:
        return 3

    assert await settle(later()) == 3
    assert await settle(3) == 3
