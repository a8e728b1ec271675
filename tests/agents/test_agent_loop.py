"""One agent alone: what is sent, how often, in which order, and what comes back."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Agent,
    AgentResult,
    Context,
    Network,
    NoModel,
    RunFailed,
    ToolCallMessage,
    ToolFinished,
    ToolResultMessage,
    UserMessage,
    sequence,
    tool,
)
from perdure.models.anthropic import encode as encode_for_anthropic
from perdure.models.gemini import encode as encode_for_gemini
from perdure.models.openai_chat import Dialect, encode_messages
from perdure.testing import ScriptedModel, call, calls, say
from perdure.types.messages import TextMessage, system, user
from tests.agents.watching import check_transcript, keys_of

pytestmark = pytest.mark.usefixtures("nothing_left")


@tool(effect="pure")
async def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


@tool(effect="pure")
def clock(city: str) -> str:
    """Say the time."""
    return f"noon in {city}"


# -- what is sent -----------------------------------------------------------------------------------------------------


async def test_b01_a_request_is_system_then_history_then_the_new_message():
    model = ScriptedModel(say("Hi Ada."), say("You are Ada."))
    agent = Agent("Greeter", system="Be kind.", model=model)
    first = await agent.run("I am Ada")
    second = await agent.run("Who am I?", messages=first.messages)

    sent = model.requests[1].messages
    assert [one.text for one in sent] == ["Be kind.", "I am Ada", "Hi Ada.", "Who am I?"]
    assert [one.role for one in sent] == ["system", "user", "assistant", "user"]
    assert [one.text for one in second.new_messages] == ["Who am I?", "You are Ada."]
    assert [one.text for one in second.messages] == ["I am Ada", "Hi Ada.", "Who am I?", "You are Ada."]


@pytest.mark.parametrize("nothing", ["", None, [], UserMessage("")])
async def test_b01_an_empty_input_adds_no_message(nothing: Any):
    model = ScriptedModel(say("Once upon a time"))
    result = await Agent("Teller", system="Tell.", model=model).run(nothing)
    assert [one.role for one in model.requests[0].messages] == ["system"]
    assert result.output == "Once upon a time"


async def test_b01_a_prefill_is_sent_and_is_part_of_the_answer():
    from perdure.models.model import Capabilities

    model = ScriptedModel(say("2 pigs}"), capabilities=Capabilities(prefill=True))
    result = await Agent("Json", model=model, prefill="{").run("Count the pigs")
    assert model.requests[0].prefill == "{"
    assert result.output == "{2 pigs}"


async def test_b02_the_run_s_model_wins_then_the_agent_s_then_the_network_s():
    of_run, of_agent, of_network = ScriptedModel("run"), ScriptedModel("agent"), ScriptedModel("network")

    def once(r: Any) -> Agent | None:
        return chosen if r.call_count == 0 else None

    chosen = Agent("A", model=of_agent)
    network = Network("N", agents=[chosen], router=once, model=of_network)
    assert (await network.run("x", model=of_run)).output == "run"
    assert (await network.run("x")).output == "agent"
    chosen = Agent("A")
    assert (await Network("N", agents=[chosen], router=once, model=of_network).run("x")).output == "network"


async def test_b02_no_model_is_an_error_that_says_where_to_give_one():
    with pytest.raises(RunFailed, match="has no model") as failed:
        await Agent("A").run("x")
    assert isinstance(failed.value.__cause__, NoModel)
    assert "network" in str(failed.value)


@pytest.mark.parametrize("limit", [0, 1])
async def test_b04_a_limit_of_0_and_of_1_both_mean_one_inference(limit: int):
    model = ScriptedModel(call("weather", city="Oslo"), say("never asked"))
    result = await Agent("W", tools=[weather], model=model, max_iter=limit).run("x")
    assert len(model.requests) == 1
    assert result.stop_reason == "max_iter"
    assert result.status == "completed"
    check_transcript(result.messages)
    assert result.messages[-1].content == {"data": "rain in Oslo"}


@pytest.mark.parametrize("limit", [2, 3, 7])
async def test_b04_a_limit_of_n_gives_at_most_n_inferences(limit: int):
    model = ScriptedModel(call("weather", city="Oslo"), repeat=True)
    result = await Agent("W", tools=[weather], model=model, max_iter=limit).run("x")
    assert len(model.requests) == limit
    assert result.stop_reason == "max_iter"
    assert result.output == ""


async def test_b04_no_limit_and_the_run_s_own_limit():
    answers = [call("weather", city=str(n)) for n in range(40)]
    agent = Agent("W", tools=[weather], max_iter=None)
    assert (await agent.run("x", model=ScriptedModel(*answers, say("done")))).output == "done"
    short = ScriptedModel(*answers)
    assert (await agent.run("x", model=short, max_iter=3)).stop_reason == "max_iter"
    assert len(short.requests) == 3


async def test_b05_each_inference_sees_every_call_with_its_result():
    model = ScriptedModel(
        calls(call("weather", city="Oslo"), call("clock", city="Oslo"), text="Let me look."),
        call("clock", city="Bergen"),
        say("Rain at noon."),
    )
    result = await Agent("W", system="S", tools=[weather, clock], model=model).run("Oslo?")

    for request in model.requests:
        check_transcript(request.messages)
    second = model.requests[1].messages
    assert [type(one).__name__ for one in second] == [
        "TextMessage",
        "TextMessage",
        "TextMessage",
        "ToolCallMessage",
        "ToolResultMessage",
        "ToolResultMessage",
    ]
    assert second[2].text == "Let me look."
    assert [one.content for one in second[4:]] == [{"data": "rain in Oslo"}, {"data": "noon in Oslo"}]
    assert len(model.requests[2].messages) == 8
    assert model.requests[2].messages[:6] == second, "what was sent once stays as it is, so that it can be cached"
    assert result.messages == (*model.requests[2].messages[1:], TextMessage("assistant", "Rain at noon.", "stop"))


async def test_b05_the_transcript_of_a_tool_loop_can_be_said_to_every_provider():
    model = ScriptedModel(calls(call("weather", city="Oslo"), call("clock", city="Oslo")), say("Rain."))
    await Agent("W", system="S", tools=[weather, clock], model=model).run("Oslo?")
    request = model.requests[1]

    chat = encode_messages(request, Dialect(), "openai", "gpt-5-mini")
    assert [one["role"] for one in chat[1:]] == ["user", "assistant", "tool", "tool"]
    assert [one["id"] for one in chat[2]["tool_calls"]] == [one["tool_call_id"] for one in chat[3:]]

    claude = encode_for_anthropic("claude-sonnet-4-5", request)["messages"]
    assert [one["role"] for one in claude] == ["user", "assistant", "user"]
    asked = [block["id"] for block in claude[1]["content"] if block["type"] == "tool_use"]
    assert asked == [block["tool_use_id"] for block in claude[2]["content"]]

    contents = encode_for_gemini("gemini-2.5-flash", request)["contents"]
    assert [one["role"] for one in contents] == ["user", "model", "user"]
    assert len(contents[1]["parts"]) == len(contents[2]["parts"]) == 2


# -- what comes back --------------------------------------------------------------------------------------------------


async def test_b06_the_result_holds_what_was_said_and_answered_in_all_inferences():
    model = ScriptedModel(
        calls(call("weather", city="Oslo"), text="First the weather."),
        calls(call("clock", city="Oslo"), text="Then the time."),
        say("Rain at noon."),
    )
    result = await Agent("W", tools=[weather, clock], model=model).run("x")
    (turn,) = result.results
    assert [one.text for one in turn.output if isinstance(one, TextMessage)] == [
        "First the weather.",
        "Then the time.",
        "Rain at noon.",
    ]
    assert [one.data for one in turn.tool_calls] == ["rain in Oslo", "noon in Oslo"]
    assert result.output == result.text == turn.text == "Rain at noon."
    assert result.usage.model_calls == 3
    assert result.usage.tool_calls == 2
    assert turn.usage == result.usage
    assert turn.agent_name == "W"


async def test_b07_an_answer_of_text_alone_ends_the_turn():
    model = ScriptedModel(say("Hello."), say("never asked"))
    result = await Agent("W", tools=[weather], model=model).run("x")
    assert result.output == "Hello."
    assert result.stop_reason == "answer"
    assert len(model.requests) == 1


async def test_b07_an_empty_answer_ends_the_turn_too():
    result = await Agent("W", tools=[weather], model=ScriptedModel(say(""))).run("x")
    assert (result.output, result.stop_reason) == ("", "answer")


async def test_an_answer_that_was_cut_short_says_so():
    from perdure.testing import raw
    from perdure.types.chunks import Finished, TextChunk

    model = ScriptedModel(raw(TextChunk("Once upon"), Finished("max_tokens")))
    result = await Agent("W", model=model).run("x")
    assert (result.output, result.stop_reason) == ("Once upon", "max_tokens")


async def test_b40_what_an_agent_alone_did_is_in_its_state():
    result = await Agent("W", tools=[weather], model=ScriptedModel(call("weather", city="Oslo"), "Rain.")).run("x")
    assert result.state.results == result.results
    assert result.state.messages == result.messages


async def test_b41_a_result_s_checksum_depends_on_content_and_time_only():
    one = AgentResult("A", (user("x"),), created_at=1_700_000_000.123456)
    assert one.checksum == AgentResult("B", (user("x"),), id="other", created_at=1_700_000_000.123456).checksum
    assert one.checksum != AgentResult("A", (user("x"),), created_at=1_700_000_000.123457).checksum
    assert one.checksum != AgentResult("A", (user("y"),), created_at=1_700_000_000.123456).checksum
    assert one.export() == {
        "agent_name": "A",
        "output": [{"type": "text", "role": "user", "content": "x"}],
        "tool_calls": [],
        "created_at": "2023-11-14T22:13:20.123456+00:00",
        "checksum": one.checksum,
    }


# -- the prompt -------------------------------------------------------------------------------------------------------


async def test_b11_the_system_prompt_may_be_left_out():
    model = ScriptedModel(say("ok"))
    await Agent("A", model=model).run("x")
    assert [one.role for one in model.requests[0].messages] == ["user"]


async def test_b11_the_system_prompt_is_text_or_a_function_sync_or_async_of_the_context():
    def plain(ctx: Context[Any]) -> str:
        return f"in {ctx.network.name}: {ctx.state.data['mood']}"

    async def slow(ctx: Context[Any]) -> str:
        return plain(ctx)

    for prompt in (plain, slow):
        model = ScriptedModel(say("ok"))
        agent = Agent("A", system=prompt)
        network = Network("Desk", agents=[agent], router=sequence(agent), model=model)
        await network.run("x", state={"mood": "calm"})
        assert model.requests[0].messages[0] == system("in Desk: calm")


async def test_b11_a_prompt_function_that_returns_nothing_adds_no_system_message():
    model = ScriptedModel(say("ok"))
    await Agent("A", system=lambda ctx: None, model=model).run("x")
    assert [one.role for one in model.requests[0].messages] == ["user"]


async def test_b11_the_prompt_function_is_asked_before_each_inference():
    model = ScriptedModel(call("weather", city="Oslo"), say("ok"))
    await Agent("A", system=lambda ctx: f"{len(ctx.messages)} messages", tools=[weather], model=model).run("x")
    assert [one.messages[0].text for one in model.requests] == ["1 messages", "3 messages"]


async def test_b12_a_user_message_may_bring_a_system_prompt_for_its_turn():
    model = ScriptedModel(say("1"), say("2"))
    agent = Agent("A", system="Be brief.", model=model)
    result = await agent.run(UserMessage("x", system_prompt="Answer in Norwegian."))
    await agent.run("y", messages=result.messages)
    assert model.requests[0].messages[0] == system("Be brief.\n\nAnswer in Norwegian.")
    assert model.requests[1].messages[0] == system("Be brief."), "it was for one turn"


async def test_b12_it_holds_for_every_agent_of_a_network_and_without_a_prompt_of_their_own():
    model = ScriptedModel(say("1"), say("2"))
    one, two = Agent("One"), Agent("Two", system="Be brief.")
    network = Network("N", agents=[one, two], router=lambda r: [one, two][r.call_count] if r.call_count < 2 else None)
    await network.run(UserMessage("x", system_prompt="In verse."), model=model)
    assert [one.messages[0].text for one in model.requests] == ["In verse.", "Be brief.\n\nIn verse."]


async def test_b13_with_model_keeps_everything_else():
    agent = Agent(
        "A",
        system="S",
        description="D",
        model=ScriptedModel(),
        tools=[weather],
        tool_choice="weather",
        prefill="P",
        max_iter=3,
        parallel_tools=False,
        strict=True,
        stop_when="weather",
    )
    other = ScriptedModel(say("ok"))
    copy = agent.with_model(other)
    assert copy.model is other
    assert type(copy) is Agent
    for name in type(agent).__mro__[1].__slots__:
        if name not in ("model", "_caches"):
            assert getattr(copy, name) == getattr(agent, name), name


async def test_an_agent_cannot_be_changed_but_copied():
    agent = Agent("A", system="S", tools=[weather])
    with pytest.raises(AttributeError, match=r"replace\(system="):
        agent.system = "other"
    copy = agent.replace(system="other", tools=[])
    assert (copy.system, copy.tools, agent.system, agent.tools) == ("other", (), "S", (weather,))


# -- places -----------------------------------------------------------------------------------------------------------


async def test_b52_keys_are_places_whatever_names_and_ids_a_model_gives():
    twins = calls(call("weather", city="Oslo"), call("weather", city="Oslo"))
    model = ScriptedModel(twins, call("clock", city="Oslo"), say("ok"))
    result = await Agent("W", tools=[weather, clock], model=model).run("x")
    assert await keys_of(result) == [
        "agent/0/infer/0",
        "agent/0/infer/0/tool/0",
        "agent/0/infer/0/tool/1",
        "agent/0/infer/1",
        "agent/0/infer/1/tool/0",
        "agent/0/infer/2",
        "agent/0",
    ]


async def test_b52_calls_with_the_same_id_or_none_stay_two_calls():
    from perdure.testing import raw
    from perdure.types.chunks import Finished, ToolCallChunk

    same = [ToolCallChunk(n, "1", "weather", f'{{"city": "{city}"}}') for n, city in enumerate(("Oslo", "Rome"))]
    none = [ToolCallChunk(n, "", "weather", f'{{"city": "{city}"}}') for n, city in enumerate(("Oslo", "Rome"))]
    model = ScriptedModel(raw(*same, Finished("tool")), raw(*none, Finished("tool")), say("ok"))
    result = await Agent("W", tools=[weather], model=model).run("x")
    check_transcript(result.messages)
    asked = [one for one in result.messages if isinstance(one, ToolCallMessage)]
    assert all(len({call.id for call in one.tools}) == 2 for one in asked)
    assert [one.data for one in result.results[0].tool_calls] == ["rain in Oslo", "rain in Rome"] * 2


async def test_results_keep_the_order_of_the_calls_however_they_end():
    fast_is_kept = asyncio.Event()

    @tool
    async def slow() -> str:
        await fast_is_kept.wait()
        return "slow"

    @tool
    async def fast() -> str:
        return "fast"

    agent = Agent("A", tools=[slow, fast], model=ScriptedModel(calls(call("slow"), call("fast")), "ok"))
    async with agent.stream("go") as stream:
        async for event in stream:
            if isinstance(event, ToolFinished) and event.tool == "fast":
                fast_is_kept.set()
        result = await stream.result()
    assert [one.data for one in result.results[0].tool_calls] == ["slow", "fast"]
    assert [one for one in result.messages if isinstance(one, ToolResultMessage)] == result.results[0].tool_calls
    assert [key for key in await keys_of(result) if "tool" in key] == [
        "agent/0/infer/0/tool/1",
        "agent/0/infer/0/tool/0",
    ]
