"""The snippets of the AgentX runtime document, in Python: quick start, bus, commands, environments, events, guards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import pytest_asyncio

from perdure import Agent, ModelRequest, Runtime, TextMessage, tool
from perdure.models import anthropic
from perdure.runtime.bus import Bus
from perdure.runtime.environment import Environment, EnvironmentConfig
from perdure.runtime.images import Images
from perdure.runtime.live_agent import Lifecycle, LiveAgent
from perdure.testing import Answer, FunctionModel, ScriptedEnvironments, call, fail, hang, say
from perdure.types.envelope import (
    Category,
    EventContext,
    Intent,
    Source,
    SystemEvent,
    has_intent,
    is_command_event,
    is_command_request,
    is_command_response,
    is_from_source,
    is_notification,
    is_request,
    is_result,
)


def model() -> FunctionModel:
    def answer(request: ModelRequest) -> Answer:
        asked = request.messages[-1]
        return say(f"You said {asked.text if isinstance(asked, TextMessage) else ''}")

    return FunctionModel(answer)


def answered(runtime: Runtime) -> Awaitable[SystemEvent]:
    """Watch for the end of the next turn from now on; to be awaited."""
    stream = runtime.bus.stream("turn_response")

    async def wait() -> SystemEvent:
        async with asyncio.timeout(20), stream:
            return await anext(stream)

    return wait()


@pytest_asyncio.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    default = {"name": "Assistant", "system_prompt": "You are a helpful AI assistant."}
    url = f"sqlite:///{tmp_path}/agentx.db"
    async with Runtime(url, model=model(), base_path=tmp_path, default_agent=default, durability="normal") as found:
        yield found


async def test_quick_start(tmp_path: Path):
    runtime = await Runtime(f"sqlite:///{tmp_path}/agentx.db", model=model(), base_path=tmp_path).open()
    container = await runtime.request("container_create_request", {"container_id": "my-container"})
    assert container.data["container_id"] == "my-container"
    config: Any = {"name": "My Assistant", "system_prompt": "You are a helpful assistant."}
    created = await runtime.request("image_create_request", {"container_id": "my-container", "config": config})
    record = created.data["record"]
    assert record is not None

    written: list[str] = []
    runtime.on("text_delta", lambda event: written.append(event.data["text"]))
    ended = answered(runtime)
    await runtime.request("message_send_request", {"image_id": record["image_id"], "content": "Hello!"})
    await ended
    assert "".join(written) == "You said Hello!"
    await runtime.dispose()


async def test_emit_subscribe_filter_once_and_unsubscribe(runtime: Runtime):
    seen: list[str] = []
    runtime.on("custom_event", lambda event: seen.append(event.data["message"]))
    runtime.emit(SystemEvent("custom_event", {"message": "Hello"}, "agent", "state", "notification"))
    assert seen == ["Hello"]

    def delta(text: str, agent: str) -> SystemEvent:
        return SystemEvent("text_delta", {"text": text}, "agent", "stream", context=EventContext(agent_id=agent))

    unsubscribe = runtime.on("text_delta", lambda event: seen.append(event.data["text"]))
    runtime.on(["message_start", "message_stop"], lambda event: seen.append(event.type))
    runtime.on(
        "text_delta",
        lambda event: seen.append(f"agent-1: {event.data['text']}"),
        filter=lambda event: event.context.agent_id == "agent-1",
        priority=10,
        once=True,
    )
    runtime.on_any(lambda event: seen.append(f"[{event.source}] {event.type}"))
    runtime.once("message_stop", lambda event: seen.append(event.data["stop_reason"]))
    seen.clear()
    runtime.emit_batch([delta("a", "agent-2"), delta("b", "agent-1"), delta("c", "agent-1")])
    assert [one for one in seen if not one.startswith("[")] == ["a", "agent-1: b", "b", "c"]
    unsubscribe()
    seen.clear()
    for _ in range(2):
        runtime.emit(SystemEvent("message_stop", {"stop_reason": "end_turn"}, "agent", "stream"))
    assert seen == ["message_stop", "[agent] message_stop", "end_turn", "message_stop", "[agent] message_stop"]


async def test_commands_as_events_and_as_requests(runtime: Runtime):
    asked: list[str] = []
    runtime.on_command("container_create_request", lambda event: asked.append(event.data["container_id"]))
    runtime.emit_command("container_create_request", {"request_id": "r", "container_id": "by-hand"})
    response = await runtime.request("container_create_request", {"container_id": "user-123"})
    assert response.data["container_id"] == "user-123" and asked == ["by-hand", "user-123"]
    got = await runtime.request("container_get_request", {"container_id": "user-123"})
    assert got.data["exists"]
    assert "user-123" in (await runtime.request("container_list_request", {})).data["container_ids"]


async def test_the_halves_of_the_bus(runtime: Runtime):
    seen: list[str] = []
    runtime.as_consumer().on("custom", lambda event: seen.append(event.type))
    runtime.as_producer().emit(SystemEvent("custom"))
    assert seen == ["custom"]


async def test_a_message_with_parts_and_a_longer_time_limit(runtime: Runtime):
    image_id = (await runtime.images.create("default"))["image_id"]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content: Any = [{"type": "text", "text": "What's in this image?"}, {"type": "image", "source": source}]
    ended = answered(runtime)
    sent = await runtime.request("message_send_request", {"image_id": image_id, "content": content}, 60)
    assert "error" not in sent.data
    await ended


async def test_agents_are_found_listed_interrupted_and_destroyed(runtime: Runtime):
    image_id = (await runtime.images.create("my-container"))["image_id"]
    ran = await runtime.request("image_run_request", {"image_id": image_id})
    assert not ran.data["reused"]
    agent_id = ran.data["agent_id"]
    assert (await runtime.request("agent_get_request", {"agent_id": agent_id})).data["exists"]
    listed = await runtime.request("agent_list_request", {"container_id": "my-container"})
    assert [(one["agent_id"], one["image_id"]) for one in listed.data["agents"]] == [(agent_id, image_id)]
    assert "error" not in (await runtime.request("agent_interrupt_request", {"image_id": image_id})).data
    assert (await runtime.request("agent_destroy_request", {"agent_id": agent_id})).data["success"]


async def test_images_are_created_changed_listed_read_stopped_and_deleted(runtime: Runtime):
    prompt = "You are a research assistant. Be thorough and cite sources."
    config: Any = {"name": "Research Assistant", "description": "Helps with research tasks", "system_prompt": prompt}
    made = await runtime.request("image_create_request", {"container_id": "my-container", "config": config})
    record = made.data["record"]
    assert record is not None and record["session_id"]
    image_id = record["image_id"]
    await runtime.request("image_run_request", {"image_id": image_id})
    updates: Any = {"name": "Updated Name", "description": "New description"}
    await runtime.request("image_update_request", {"image_id": image_id, "updates": updates})
    listed = await runtime.request("image_list_request", {"container_id": "my-container"})
    shown = [f"{one['name']} ({'online' if one['online'] else 'offline'})" for one in listed.data["records"]]
    assert shown == ["Updated Name (online)"]
    await runtime.request("image_stop_request", {"image_id": image_id})
    got = (await runtime.request("image_get_request", {"image_id": image_id})).data["record"]
    assert got is not None and not got["online"]
    await runtime.ask(image_id, "Hi")
    history = await runtime.request("image_messages_request", {"image_id": image_id})
    assert [f"[{one['role']}]" for one in history.data["messages"]] == ["[user]", "[assistant]"]
    await runtime.request("image_delete_request", {"image_id": image_id})
    assert (await runtime.request("image_get_request", {"image_id": image_id})).data["record"] is None


async def test_a_factory_of_environments_for_testing(tmp_path: Path):
    factory = ScriptedEnvironments("From the script.")
    url = f"sqlite:///{tmp_path}/agentx.db"
    async with Runtime(url, environment_factory=factory, base_path=tmp_path) as runtime:
        image_id = (await runtime.images.create("default"))["image_id"]
        assert (await runtime.ask(image_id, "Hi")).output == "From the script."
    assert factory.created[0].config.cwd == tmp_path / "containers" / "default" / "workdirs" / image_id


async def test_create_runtime_with_a_provider_and_a_default_agent(tmp_path: Path):
    """`createRuntime`, `RuntimeConfig`, `LLMProvider` and `ClaudeLLMConfig`: the address is the persistence, the model
    object is the provider with its key, address and name."""
    claude = anthropic("claude-sonnet-4-20250514", api_key="sk-ant", base_url="https://api.anthropic.com")
    default = {"name": "Assistant", "system_prompt": "You are a helpful AI assistant."}
    async with Runtime(
        f"sqlite:///{tmp_path}/agentx.db", model=claude, base_path=tmp_path, default_agent=default
    ) as runtime:
        record = await runtime.images.create("default")
        assert (record["name"], record["system_prompt"]) == ("Assistant", "You are a helpful AI assistant.")
        assert runtime.model is claude and (claude.provider, claude.name) == ("anthropic", "claude-sonnet-4-20250514")


def test_the_interfaces():
    """What the document declares as types: the same names, in the spelling of Python."""
    assert set(get_args(Source)) == {"environment", "agent", "session", "container", "sandbox", "command"}
    assert set(get_args(Category)) == {
        *("stream", "connection", "state", "message", "turn", "error", "lifecycle", "persist", "action", "workdir"),
        *("mcp", "request", "response"),
    }
    assert set(get_args(Intent)) == {"request", "result", "notification"}
    assert set(SystemEvent.__struct_fields__) >= {
        "type",
        "timestamp",
        "data",
        "source",
        "category",
        "intent",
        "context",
    }
    ids = {"container_id", "image_id", "agent_id", "session_id", "turn_id", "correlation_id"}
    assert set(EventContext.__struct_fields__) == ids
    assert {"filter", "priority", "once"} <= set(inspect.signature(Bus.on).parameters)
    bus = ("emit", "emit_batch", "on", "on_any", "once", "on_command", "emit_command", "request", "as_consumer")
    assert all(hasattr(Runtime, one) and callable(getattr(Bus, one)) for one in (*bus, "as_producer"))
    assert callable(Bus.destroy) and callable(Runtime.dispose)
    # a container's verbs are those of its images: run_image, stop_image, get_agent, list_agents, destroy_agent, …
    assert all(callable(getattr(Images, one)) for one in ("run", "stop", "agent", "agents", "destroy", "destroy_all"))
    assert set(get_args(Lifecycle)) == {"running", "stopped", "destroyed"}
    agent = ("receive", "interrupt", "stop", "resume", "destroy")
    assert all(inspect.iscoroutinefunction(getattr(LiveAgent, one)) for one in agent)
    config = ("agent_id", "model", "system_prompt", "cwd", "resume_session_id", "mcp_servers", "on_session_id_captured")
    assert set(EnvironmentConfig.__struct_fields__) == set(config)


async def test_an_environment_is_connected_to_a_bus_by_hand():
    """`ClaudeEnvironment`, `Environment`, `Receptor` and `Effector`: any object with these parts."""
    bus, seen = Bus(), []
    bus.on("text_delta", lambda event: seen.append(event.data["text"]))
    factory = ScriptedEnvironments("From outside.")
    files = {"command": "npx", "args": ["-y", "@anthropic-ai/mcp-server-filesystem", "/path/to/dir"]}
    env = factory.create(
        EnvironmentConfig(
            "agent-1", system_prompt="You are helpful.", cwd=Path("/path/to/workdir"), mcp_servers={"filesystem": files}
        )
    )
    assert isinstance(env, Environment)
    # Connect to bus
    env.receptor.connect(bus.as_producer())
    env.effector.connect(bus.as_consumer())
    # Optional: warmup to reduce first message latency
    await env.warmup()
    stop = bus.stream("message_stop")
    bus.emit(SystemEvent("user_message", {"content": "Hi"}, "agent", "message", "request"))
    async with asyncio.timeout(20), stop:
        await anext(stop)
    # Cleanup when done
    await env.dispose()
    assert seen == ["From outside."]


HANDLERS: dict[str, Callable[[Any], str]] = {
    # stream events
    "text_delta": lambda data: data["text"],
    "message_start": lambda data: f"Message ID: {data['message']['id']}, model: {data['message']['model']}",
    "message_stop": lambda data: f"Stop reason: {data['stop_reason']}",
    "tool_use_content_block_start": lambda data: f"Tool: {data['name']}, tool ID: {data['id']}",
    "input_json_delta": lambda data: f"Partial JSON: {data['partial_json']}",
    "tool_result": lambda data: f"Tool ID: {data['tool_use_id']}, result: {data['result']}, error: {data['is_error']}",
    "interrupted": lambda data: f"Reason: {data['reason']}",
    # message events
    "user_message": lambda data: f"User: {data['content']}",
    "assistant_message": lambda data: f"Assistant: {data['content']}",
    "tool_call_message": lambda data: f"Tool calls: {data['content']}",
    "error_message": lambda data: f"Error: {data['content']}",
    # lifecycle events
    "container_created": lambda data: f"Container created: {data['container_id']}",
    "container_destroyed": lambda data: f"Container destroyed: {data['container_id']}, agents: {data['agent_count']}",
    "agent_registered": lambda data: f"Agent registered: {data['agent_id']}, container: {data['container_id']}",
    "agent_unregistered": lambda data: f"Agent unregistered: {data['agent_id']}",
    "session_resumed": lambda data: f"Session resumed: {data['session_id']}",
    "session_destroyed": lambda data: f"Session destroyed: {data['session_id']}",
}


async def test_every_event_that_is_documented_happens_with_what_its_handler_reads(tmp_path: Path):
    @tool(effect="pure")
    def look(query: str) -> str:
        return f"found {query}"

    def answer(request: ModelRequest) -> Answer:
        asked = request.messages[-1]
        if not isinstance(asked, TextMessage):
            return say("Here it is.")
        return {"look": call("look", query="x"), "fail": fail(ValueError("no"))}.get(asked.text, hang())

    looker = Agent("Looker", model=FunctionModel(answer, chunk=4), tools=[look])
    runtime = await Runtime(f"sqlite:///{tmp_path}/agentx.db", [looker], durability="normal").open()
    printed: dict[str, list[str]] = {}
    for type, shown in HANDLERS.items():
        runtime.on(type, lambda event, shown=shown: printed.setdefault(event.type, []).append(shown(event.data)))
    image_id = (await runtime.images.create("fresh", definition="Looker"))["image_id"]
    for asked in ("look", "fail", "long"):
        ended = answered(runtime)
        said = runtime.bus.stream("message_start")
        await runtime.send(image_id, asked)
        if asked == "long":
            async with asyncio.timeout(20), said:
                await anext(said)
            await runtime.request("agent_interrupt_request", {"image_id": image_id})
        await ended
    agent = await runtime.images.serving(image_id)
    await agent.stop()
    await agent.resume()
    await runtime.dispose()
    assert set(printed) == set(HANDLERS)
    assert printed["message_stop"] == [f"Stop reason: {one}" for one in ("tool_use", "end_turn", "interrupted")]
    assert printed["interrupted"] == ["Reason: user_interrupt"]
    assert "found x" in printed["tool_result"][0] and printed["tool_result"][0].endswith("error: False")
    assert printed["user_message"] == ["User: look", "User: fail", "User: long"]
    assert "no" in printed["error_message"][0] and "'query': 'x'" in printed["tool_call_message"][0]
    assert printed["container_destroyed"] == ["Container destroyed: fresh, agents: 1"]


async def test_type_guards(runtime: Runtime):
    seen: list[SystemEvent] = []
    runtime.on_any(seen.append)
    await runtime.request("container_create_request", {"container_id": "new"})
    asked, created, response = seen
    assert is_command_request(asked) and is_request(asked) and is_from_source(asked, "command")
    assert is_notification(created) and has_intent(created, "notification") and not is_command_event(created)
    assert is_command_response(response) and is_result(response)


async def test_the_complete_example(runtime: Runtime):
    await runtime.request("container_create_request", {"container_id": "default"})
    made = await runtime.request("image_create_request", {"container_id": "default", "config": {"name": "My Chat"}})
    record = made.data["record"]
    assert record is not None and record["system_prompt"] == "You are a helpful AI assistant."
    printed: list[str] = []
    runtime.on("text_delta", lambda event: printed.append(event.data["text"]))
    runtime.on("message_stop", lambda event: printed.append("\n--- Message complete ---"))
    runtime.on("error_message", lambda event: printed.append(f"Error: {event.data}"))
    for line in ("one", "two"):
        ended = answered(runtime)
        await runtime.request("message_send_request", {"image_id": record["image_id"], "content": line})
        await ended
    assert "".join(printed) == ("You said one\n--- Message complete ---You said two\n--- Message complete ---")
