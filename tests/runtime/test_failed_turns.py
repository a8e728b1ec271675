"""What was said before a turn failed: behaviour 31, the same for who looks on, who comes later, and other processes."""

import asyncio
from typing import Any

import pytest

from perdure import Agent, Budget, Hooks, Network, RateLimited, RunFailed, Runtime, Usage, events
from perdure.agents.agent import Agent as AnyAgent
from perdure.models import TextChunk, Used
from perdure.testing import FunctionModel, ScriptedModel, fail, say
from perdure.testing.environment import ScriptedEnvironments
from perdure.types.messages import TextMessage
from perdure.types.records import StepFailed
from tests.runtime.desk import QUICK

HALF = fail(ValueError("the line is cut"), after="Half of it")


def texts(messages: Any) -> list[str]:
    return [one.text for one in messages if isinstance(one, TextMessage) and one.role == "assistant"]


async def collect(runtime: Runtime, session_id: str) -> list[Any]:
    seen: list[Any] = []
    async for event in runtime.events(session_id):
        seen.append(event)
        if isinstance(event, events.TERMINAL):
            return seen
    raise AssertionError("the runtime was closed")


async def test_x31_what_was_said_before_a_failure_is_kept_once_and_marked(url: str):
    agent = Agent("A", model=ScriptedModel(HALF, say("Whole.")))
    async with Runtime(url, [agent], timing=QUICK, durability="normal") as one:
        async with Runtime(url, timing=QUICK, durability="normal", workers=False) as other:
            beside = asyncio.create_task(collect(one, "s"))
            elsewhere = asyncio.create_task(collect(other, "s"))
            with pytest.raises(RunFailed, match="the line is cut") as failed:
                await one.run(agent, "x", session_id="s")
            assert failed.value.result is not None and texts(failed.value.result.messages) == ["Half of it"]
            for told in (await beside, await elsewhere, await collect(other, "s")):
                said = [each.text for each in told if isinstance(each, events.TextDelta)]
                assert "".join(said) == "Half of it"
                (end,) = (each for each in told if isinstance(each, events.MessageFinished))
                assert end.interrupted and texts(end.messages) == ["Half of it"]
        assert texts([each async for each in one.session("s").messages()]) == ["Half of it"]
        result = await one.run(agent, "go on", session_id="s")
        assert texts(result.messages) == ["Half of it", "Whole."]
    async with Runtime(url, timing=QUICK, durability="normal") as later:  # folded from the records
        assert texts([each async for each in later.session("s").messages()]) == ["Half of it", "Whole."]


async def broken(request: Any) -> Any:
    yield Used(Usage(60, 1))
    yield TextChunk("Half of it")
    raise RateLimited("slow down", retry_after=0.001)


async def test_d20_what_a_failed_attempt_has_used_is_counted_once_in_whatever_process(url: str):
    def agent(*answers: Any) -> AnyAgent[str, Any]:
        return Agent("A", model=ScriptedModel(*answers))

    whole, limit = say("Whole.", usage=Usage(10, 2)), Budget(tokens=140)
    first = agent(broken, whole)
    async with Runtime(url, [first], timing=QUICK, durability="normal") as runtime:
        result = await runtime.run(first, "x", session_id="s", run_id="r", session_budget=limit)
        assert (result.text, result.usage) == ("Whole.", Usage(70, 3, model_calls=2))
    second = agent(broken, whole, "never")
    async with Runtime(url, [second], timing=QUICK, durability="normal") as later:
        again = await later.run(second, "x", session_id="s", run_id="r", session_budget=limit)
        assert again.usage == result.usage
        last = await later.run(second, "y", session_id="s", session_budget=limit)
        assert (last.text, last.usage) == ("Whole.", Usage(70, 3, model_calls=2))
        over = await later.run(second, "z", session_id="s", session_budget=limit)
        assert (over.stop_reason, over.stop_detail) == ("budget", "146 of 140 tokens are used")


async def test_x31_a_hook_that_fails_keeps_what_the_model_has_said():
    def refuse(ctx: Any, result: Any) -> None:
        raise ValueError("not this")

    with pytest.raises(RunFailed, match="not this") as failed:
        await Agent("A", model=ScriptedModel(say("All of it.")), hooks=Hooks(on_response=refuse)).run("x")
    assert failed.value.result is not None and texts(failed.value.result.messages) == ["All of it."]


async def test_x31_only_the_agent_that_has_failed_has_said_it():
    first: AnyAgent[str, Any] = Agent("First", model=ScriptedModel(say("One.")))
    second: AnyAgent[str, Any] = Agent("Second", model=ScriptedModel(HALF))

    def route(r: Any) -> Any:
        return [first, second][r.call_count] if r.call_count < 2 else None

    with pytest.raises(RunFailed) as failed:
        await Network("N", agents=[first, second], router=route).run("x")
    assert failed.value.result is not None
    assert texts(failed.value.result.messages) == ["One.", "Half of it"]


async def test_x31_nothing_is_kept_of_an_attempt_that_is_made_again_or_said_nothing(url: str):
    agent = Agent("A", model=ScriptedModel(fail(ValueError("at once"))))
    async with Runtime(url, [agent], timing=QUICK, durability="normal") as runtime:
        with pytest.raises(RunFailed):
            await runtime.run(agent, "x", session_id="s", run_id="r")
        (failure,) = (
            one.payload
            for one in await runtime.container("default").log.read_run("r")
            if isinstance(one.payload, StepFailed)
        )
        assert failure.cut is None and failure.reached


async def test_x31_x34_an_image_keeps_the_partial_text_of_a_turn_that_failed(url: str):
    def halting(request: Any) -> Any:
        return HALF if request.messages[-1].text == "x" else say(f"{len(request.messages)} messages")

    async with Runtime(url, model=FunctionModel(halting), timing=QUICK, durability="normal") as runtime:
        seen: list[Any] = []
        runtime.on_any(seen.append)
        id = (await runtime.images.create("acme"))["image_id"]
        ended = runtime.bus.stream("turn_response")
        with pytest.raises(RunFailed):
            await runtime.ask(id, "x")
        async with asyncio.timeout(20), ended:
            await anext(ended)
        said = [one.data for one in seen if one.type == "assistant_message"]
        assert [(one["content"][0]["text"], one["interrupted"]) for one in said] == [("Half of it", True)]
        messages = await runtime.images.messages(id)
        assert [one["role"] for one in messages] == ["user", "assistant", "error"] and messages[1]["interrupted"]
        agent = await runtime.images.serving(id)
        assert agent.state == "idle"
        assert (await runtime.ask(id, "y")).output == "3 messages"


async def test_x31_x32_an_environment_that_fails_keeps_what_it_has_said(url: str):
    turn = [("message_start", {}), ("text_delta", {"text": "Half of it", "index": 0}), ValueError("cut")]
    factory = ScriptedEnvironments(turn, "Fine.")
    async with Runtime(url, environment_factory=factory, timing=QUICK, durability="normal") as runtime:
        id = (await runtime.images.create("acme"))["image_id"]
        with pytest.raises(RunFailed, match="cut"):
            await runtime.ask(id, "x")
        messages = await runtime.images.messages(id)
        assert [one["role"] for one in messages] == ["user", "assistant", "error"]
        assert messages[1]["content"][0]["text"] == "Half of it" and messages[1]["interrupted"]
