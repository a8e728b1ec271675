"""State: typed data, built up by tools, kept for one run; and results that a client sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict

from perdure import Agent, AgentResult, Context, Network, State, TextMessage, tool
from perdure.testing import ScriptedModel, call, say


async def test_history() -> None:
    """A chronological record of all interactions: prompts, responses, tool calls."""

    @tool
    def look_up(key: str) -> str:
        return key.upper()

    searcher = Agent("Searcher", tools=[look_up])
    network = Network("N", agents=[searcher], router=lambda r: searcher if r.call_count == 0 else None)
    result = await network.run("Look up a.", model=ScriptedModel(call("look_up", key="a"), say("It is A.")))
    assert [type(one).__name__ for one in result.state.messages] == [
        "TextMessage",
        "ToolCallMessage",
        "ToolResultMessage",
        "TextMessage",
    ]
    (first,) = result.state.results
    assert (first.agent_name, first.text, first.tool_calls[0].data) == ("Searcher", "It is A.", "A")


def test_typed_state() -> None:
    class NetworkState(TypedDict, total=False):
        # username is undefined until extracted and set by a tool
        username: str

    # You can construct typed state with optional defaults, eg. from memory.
    state = State[NetworkState]({"username": "default-username"})

    assert state.data.get("username") == "default-username"
    state.data["username"] = "Alice"
    assert state.data["username"] == "Alice"


async def test_typed_state_in_a_network() -> None:
    @dataclass
    class NetworkState:
        username: str | None = None

    @tool
    def save_name(ctx: Context[NetworkState], name: str) -> None:
        ctx.state.data.username = name

    greeter = Agent(
        "Greeter",
        tools=[save_name],
        system=lambda ctx: f"The user is {ctx.state.data.username}.",
    )
    network = Network(
        "N", agents=[greeter], state=NetworkState, router=lambda r: None if r.state.data.username else greeter
    )
    model = ScriptedModel(call("save_name", name="Alice"), say("Hi Alice."))
    result = await network.run("I am Alice", model=model)
    assert result.state.data == NetworkState("Alice")
    assert [one.messages[0].content for one in model.requests] == ["The user is None.", "The user is Alice."]
    assert result.results[0].tool_calls[0].content == {"data": "save_name successfully executed"}

    # The state's data is only retained for a single run.
    again = await network.run("Who am I?", model=ScriptedModel(say("No idea."), repeat=True), max_iter=1)
    assert again.state.data == NetworkState(None)

    # You can implement memory by inspecting a network's state after it has finished running.
    known = await network.run("Who am I?", state=result.state.data, model=ScriptedModel())
    assert (known.state.data.username, known.results) == ("Alice", ())


async def test_using_state_in_tools() -> None:
    @dataclass
    class File:
        filename: str
        content: str

    async def handler(ctx: Context[dict[str, Any]], files: list[File]) -> None:
        # files is the output from the model's response in the format above.
        # Here, we store OpenAI's generated files in the response.
        stored = ctx.network.state.data.get("files") or {}
        for file in files:
            stored[file.filename] = file.content
        ctx.network.state.data["files"] = stored

    write_files = tool(handler, name="write_files", description="Write code with the given filenames")
    coder = Agent("Coder", tools=[write_files])
    network = Network("Coders", agents=[coder], router=lambda r: None if "files" in r.state.data else coder)
    model = ScriptedModel(
        call("write_files", files=[{"filename": "a.ts", "content": "let a"}]),
        call("write_files", files=[{"filename": "b.ts", "content": "let b"}]),
        say("Both are written."),
    )
    result = await network.run("Write a and b.", model=model)
    assert result.state.data == {"files": {"a.ts": "let a", "b.ts": "let b"}}


# -- from the document on history: what needs no adapter ---------------------------------------------------------------


async def test_client_authoritative() -> None:
    """The client sends the whole conversation; only what is new comes back as results of the run."""

    @dataclass
    class Data:
        user_id: str = ""
        notes: list[str] = field(default_factory=list)

    chatter = Agent("chat-agent", system="You are a helpful assistant.")
    chat_network = Network("Chat", agents=[chatter], state=Data, router=lambda r: None if r.call_count else chatter)

    previous = (await chat_network.run("I am Ada.", model=ScriptedModel(say("Hello, Ada.")))).results
    sent = [AgentResult("chat-agent", (TextMessage("user", "I am Ada."), *previous[0].messages))]
    state = State(Data(user_id="user123"), thread_id="thread-id", results=sent)
    model = ScriptedModel(say("You are Ada."))
    result = await chat_network.run("Who am I?", state=state, model=model)
    assert [one.content for one in model.requests[0].messages] == [
        "You are a helpful assistant.",
        "I am Ada.",
        "Hello, Ada.",
        "Who am I?",
    ]
    assert (result.session_id, result.state.thread_id) == ("thread-id", "thread-id")
    assert result.state.data.user_id == "user123"
    assert [one.text for one in result.results] == ["You are Ada."]
    assert [one.text for one in result.state.results] == ["Hello, Ada.", "You are Ada."]


async def test_agents_without_a_system_prompt() -> None:
    """The agents of the document's complete example have none, and run."""
    researcher = Agent("researcher", description="Searches for information", model="openai:gpt-4")
    writer = Agent("writer", description="Writes comprehensive responses", model="openai:gpt-4")
    assistant_network = Network("Research Assistant", agents=[researcher, writer], model="openai:gpt-4")
    model = ScriptedModel(
        call("select_agent", name="researcher"),
        say("Qubits."),
        call("select_agent", name="writer"),
        say("A text."),
        call("done"),
    )
    state = State({"user_id": "user-123"})
    result = await assistant_network.run("Tell me about quantum computing", state=state, model=model)
    assert result.output == "A text."
    assert result.state.data == {"user_id": "user-123"}
