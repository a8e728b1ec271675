"""Environments: behaviours 32, 34, 36 and 39, and what goes wrong in one."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, RunFailed, Runtime
from perdure.cli.doctor import Finding, examine
from perdure.log.owners import Left, Timing
from perdure.testing import ScriptedModel, say
from perdure.testing.environment import ScriptedEnvironments
from perdure.types.envelope import SystemEvent
from tests.runtime.desk import QUICK

CALLS = [
    ("message_start", {"message": {"id": "m1", "model": "x"}}),
    ("text_delta", {"text": "Let me look.", "index": 0}),
    ("tool_use_content_block_start", {"id": "t1", "name": "read", "index": 1}),
    ("tool_use_content_block_start", {"id": "t2", "name": "grep", "index": 2}),
    ("input_json_delta", {"partial_json": '{"path":', "index": 1}),
    ("input_json_delta", {"partial_json": '{"word": "x"}', "index": 2}),
    ("input_json_delta", {"partial_json": ' "a"}', "index": 1}),
    ("message_stop", {"stop_reason": "tool_use"}),
    ("tool_result", {"tool_use_id": "t2", "result": "no such word", "is_error": True}),
    ("tool_result", {"tool_use_id": "t1", "result": {"lines": 3}, "is_error": False}),
]


def opened(url: str, factory: Any, **options: Any) -> Runtime:
    return Runtime(url, environment_factory=factory, timing=QUICK, durability="normal", **options)


def watch(runtime: Runtime) -> list[SystemEvent]:
    seen: list[SystemEvent] = []
    runtime.on_any(seen.append)
    return seen


async def until(runtime: Runtime, seen: list[SystemEvent], type: str, count: int = 1) -> None:
    async with asyncio.timeout(20), runtime.bus.stream() as stream:
        while sum(one.type == type for one in seen) < count:
            await anext(stream)


async def again(runtime: Runtime, run_id: str) -> Any:
    container = runtime.container("acme")
    run = await container.log.run(run_id)
    while not runtime.registry.has(run.definition):
        await runtime.worker.until(runtime.worker.listen())
    return container.revived(run, await container.log.read_run(run_id)), run


async def image(runtime: Runtime, **config: Any) -> str:
    return (await runtime.images.create("acme", **config))["image_id"]


async def test_x39_an_environment_is_made_with_what_is_documented_and_disposed_of_once(url: str, tmp_path: Path):
    factory = ScriptedEnvironments("Hello.")
    async with opened(url, factory, base_path=tmp_path) as runtime:
        seen = watch(runtime)
        id = await image(runtime, system_prompt="Be kind.", mcp_servers={"files": {"command": "none"}})
        assert (await runtime.ask(id, "Hi")).output == "Hello."
        await until(runtime, seen, "turn_response")
        (made,) = factory.created
        config = made.config
        assert config.agent_id == (await runtime.images.run(id))[0] and config.system_prompt == "Be kind."
        assert config.mcp_servers == {"files": {"command": "none"}} and config.cwd is not None and config.cwd.is_dir()
        assert made.warmed == 1 and made.disposed == 0
        assert [one.source for one in seen if one.type == "text_delta"] == ["agent"]
        answered = next(one for one in seen if one.type == "turn_response")
        assert answered.data["usage"]["output_tokens"] == 5
        await runtime.images.stop(id)
        await runtime.images.stop(id)
        assert made.disposed == 1
        assert asyncio.all_tasks() & {made._playing} == set()


async def test_the_tools_of_an_environment_are_observed_and_kept(url: str):
    factory = ScriptedEnvironments([*CALLS, "Three lines."])
    async with opened(url, factory) as runtime:
        seen = watch(runtime)
        id = await image(runtime)
        assert (await runtime.ask(id, "How long?")).output == "Three lines."
        await until(runtime, seen, "turn_response")
        messages = await runtime.images.messages(id)
        assert [one["subtype"] for one in messages][:4] == ["user", "assistant", "tool-call", "tool-call"]
        inputs = [one["tool_call"]["input"] for one in messages if one["subtype"] == "tool-call"]
        assert inputs == [{"path": "a"}, {"word": "x"}]
        outputs = {one["tool_call_id"]: one["tool_result"]["output"] for one in messages if one["role"] == "tool"}
        assert outputs["t1"] == {"type": "json", "value": {"lines": 3}}
        assert outputs["t2"] == {"type": "error-text", "value": "no such word"}


@pytest.mark.parametrize("turn", [[RuntimeError("broken")], [("message_start", {}), ValueError("later")]])
async def test_x32_an_environment_that_crashes_is_an_error_and_the_next_message_is_answered(url: str, turn: Any):
    logging.getLogger("perdure").disabled = True
    try:
        factory = ScriptedEnvironments(turn, "Fine.")
        async with opened(url, factory) as runtime:
            seen = watch(runtime)
            id = await image(runtime)
            with pytest.raises(RunFailed, match=r"broken|later"):
                await runtime.ask(id, "x")
            await until(runtime, seen, "turn_response")
            assert [one.type for one in seen if one.category in ("error", "turn")][1:] == [
                "error_occurred",
                "turn_response",
            ]
            assert any(one["role"] == "error" for one in await runtime.images.messages(id))
            assert (await runtime.ask(id, "again")).output == "Fine."
    finally:
        logging.getLogger("perdure").disabled = False


async def test_x32_an_environment_that_hangs_is_told_to_stop(url: str):
    never = asyncio.Event()
    factory = ScriptedEnvironments([never], "Fine.")
    assert Runtime().environment_timeout == 600
    async with opened(url, factory, environment_timeout=0.05) as runtime:
        id = await image(runtime)
        with pytest.raises(RunFailed, match="Request timeout"):
            await runtime.ask(id, "x")
        assert [one.type for one in factory.asked] == ["user_message", "interrupt"]
        assert (await runtime.ask(id, "again")).output == "Fine."


async def test_x34_an_interrupt_reaches_the_environment_and_keeps_what_was_said(url: str):
    never = asyncio.Event()
    factory = ScriptedEnvironments([("message_start", {}), ("text_delta", {"text": "Half"}), never], "Fine.")
    async with opened(url, factory) as runtime:
        seen = watch(runtime)
        id = await image(runtime)
        await runtime.send(id, "x")
        await until(runtime, seen, "text_delta")
        await runtime.request("agent_interrupt_request", {"image_id": id})
        await until(runtime, seen, "turn_response")
        assert [one.type for one in factory.asked] == ["user_message", "interrupt"]
        said = [one for one in await runtime.images.messages(id) if one["role"] == "assistant"]
        assert [one["content"][0]["text"] for one in said] == ["Half"] and said[0]["interrupted"]
        assert (await runtime.ask(id, "again")).output == "Fine."


async def test_x39_events_of_another_agent_are_ignored(url: str):
    hold = asyncio.Event()
    factory = ScriptedEnvironments([hold, "Mine."])
    async with opened(url, factory) as runtime:
        id = await image(runtime)
        run = await runtime.send(id, "x")
        await runtime.images.serving(id)
        while not factory.asked:
            await runtime.worker.until(runtime.worker.listen())
        factory.created[0].say("text_delta", {"text": "Not mine."}, agent_id="agent_other")
        hold.set()
        assert (await run.result()).output == "Mine."


async def test_x36_what_an_environment_gives_for_its_next_start_survives_a_restart(url: str):
    factory = ScriptedEnvironments("One.", "Two.")
    async with opened(url, factory) as runtime:
        id = await image(runtime)
        await runtime.ask(id, "x")
        captured = factory.created[0].config.on_session_id_captured
        assert captured is not None
        captured("own-7")
    async with opened(url, factory) as runtime:
        await runtime.ask(id, "y")
    assert [one.config.resume_session_id for one in factory.created] == [None, "own-7"]
    assert [one.disposed for one in factory.created] == [1, 1]


async def test_a_factory_that_fails_is_an_error_and_no_agent_is_left(url: str):
    async with opened(url, ScriptedEnvironments(error=OSError("no world"))) as runtime:
        id = await image(runtime)
        response = await runtime.request("image_run_request", {"image_id": id})
        assert "no world" in response.data["error"]
        assert not (await runtime.images.list())[0]["online"] and not runtime.images.live


async def test_what_is_sent_by_another_process_is_answered_by_the_one_that_has_the_environment(url: str):
    factory, other = ScriptedEnvironments("First.", "Second.", "Third."), ScriptedEnvironments("Mine.")
    async with opened(url, factory) as one, opened(url, other) as two:
        seen = watch(two)
        id = await image(one)
        await one.images.run(id)
        runs = [await two.send(id, "x"), await one.send(id, "y"), await two.send(id, "z")]
        assert [(await run.result()).output for run in runs] == ["First.", "Second.", "Third."]
        await until(two, seen, "turn_response", 3)  # told here too
        assert len(factory.created) == 1 and not other.created
        said = [one["content"] for one in await two.images.messages(id) if one["role"] == "user"]
        assert said == ["x", "y", "z"]
        assert (await one.images.run(id))[0] == (await two.images.run(id))[0]


async def test_what_another_process_sends_is_driven_at_once_and_by_no_other(url: str):
    rare = Timing(sweep=60.0)  # it is not found by looking for what is left
    factory = ScriptedEnvironments("First.", "Second.")
    one = Runtime(url, environment_factory=factory, timing=rare, durability="normal")
    two = Runtime(url, environment_factory=factory, timing=rare, durability="normal")
    async with one, two:
        id = await image(one)
        await one.images.run(id)
        assert await one.knows_definition(f"environment:{id}")
        assert not await two.knows_definition(f"environment:{id}")
        async with asyncio.timeout(30):
            runs = [await two.send(id, text) for text in ("x", "y")]
            assert [(await run.result()).output for run in runs] == ["First.", "Second."]
        assert len(factory.created) == 1


async def test_x39_a_process_without_a_factory_leaves_the_runs_of_environments_alone(url: str):
    hold = asyncio.Event()
    factory = ScriptedEnvironments([hold], "From outside.", "Once more.")
    async with opened(url, factory) as one:
        id = await image(one)
        runs = [(await one.send(id, text)).id for text in ("x", "y")]
        while not factory.asked:
            await one.worker.until(one.worker.listen())
    ours = Agent("Ours", model=ScriptedModel(say("From inside.")))
    async with opened(url, None, default_agent=ours) as two:
        for _ in range(2):
            await two.sweep()
            await asyncio.gather(*two.worker._taken.values())
        log = two.container("acme").log
        assert [(await log.run(run)).epoch for run in runs] == [1, 0] and not two.worker._queued
        waits = (
            f"acme: 1 of 'environment:{id}' waits for a process that has it, by its Runtime(…, environment_factory=…)"
        )
        assert Finding("runs", "look", waits) in await examine(two)
        assert (await two.ask(await image(two), "z")).output == "From inside."
    async with opened(url, factory) as three:
        assert not await three.knows_definition(f"image:{id}"), "what a process has begun by its agent is left to such"
        answers = [(await three.container("acme")._follow(*await again(three, run))).output for run in runs]
        assert answers == ["From outside.", "Once more."]


async def test_x16_an_agent_that_another_process_destroys_is_let_go_of_by_the_one_that_has_it(url: str):
    factory, other = ScriptedEnvironments("One."), ScriptedEnvironments("Two.")
    async with opened(url, factory) as one, opened(url, other) as two:
        seen = watch(one)
        id = await image(one)
        assert (await one.ask(id, "x")).output == "One."
        await two.images.stop(id)
        await until(one, seen, "agent_unregistered")
        assert factory.created[0].disposed == 1 and not one.images.live
        assert (await two.ask(id, "y")).output == "Two."
        assert len(factory.created) == len(other.created) == 1


async def test_x16_a_turn_that_is_over_activates_nothing(url: str):
    async with opened(url, ScriptedEnvironments("One.")) as one, opened(url, ScriptedEnvironments()) as two:
        seen = watch(one)
        id = await image(one)
        over = await one.ask(id, "x")
        await two.images.stop(id)
        await until(one, seen, "agent_unregistered")
        late = Left("acme", over.run_id, None, 0, 0, True)  # somebody had looked before it was over
        assert not await one.container("acme").take_over(late, {})
        assert not one.images.live


async def test_x16_a_view_of_another_processs_agent_goes_alone_when_it_is_idle(url: str):
    factory = ScriptedEnvironments("One.", "Two.")
    async with opened(url, factory) as one, opened(url, factory, idle=0.01) as two:
        seen = watch(two)
        id = await image(one)
        agent_id, _ = await one.images.run(id)
        assert (await two.ask(id, "x")).output == "One."
        async with asyncio.timeout(20):
            while two.images.live:
                await two.worker.until(two.worker.listen())
        assert (await one.images.run(id)) == (agent_id, True)
        assert not [each for each in seen if each.type == "agent_unregistered"]
        assert (await two.ask(id, "y")).output == "Two." and len(factory.created) == 1
