"""Watching runs: collect what a stream shows, check that it is well-formed, and read the log back."""

from __future__ import annotations

from typing import Any, NamedTuple

from perdure import Agent
from perdure import events as ev
from perdure.agents.network_loop import NetworkLoop
from perdure.agents.outcome import RunResult
from perdure.agents.running import Running
from perdure.testing import ScriptedModel, call, say
from perdure.types.messages import ToolCallMessage, ToolResultMessage
from perdure.types.project import Projector
from perdure.types.records import Record


class Watched(NamedTuple):
    """What a run showed, and what it gave or raised."""

    events: list[ev.AnyEvent]
    result: RunResult[Any, Any] | None
    error: BaseException | None
    running: Running

    def of(self, *kinds: type[Any]) -> list[Any]:
        """The events of these classes."""
        return [one for one in self.events if isinstance(one, kinds)]

    @property
    def names(self) -> list[str]:
        """The events' class names, in order."""
        return [type(one).__name__ for one in self.events]

    async def records(self) -> list[Record]:
        """What the log has of the run."""
        return await records_of(self.running)


async def watch(definition: Any, input: Any = "go", **options: Any) -> Watched:
    """Stream a run to its end, check the stream, and give what it showed."""
    stream = definition.stream(input, **options)
    seen: list[ev.AnyEvent] = []
    result, error = None, None
    async with stream:
        seen.extend([event async for event in stream])
        try:
            result = await stream.result()
        except Exception as raised:
            error = raised
    check_stream(seen)
    return Watched(seen, result, error, stream._running)


async def records_of(running: Running) -> list[Record]:
    """What the log has of a run."""
    return await running.env.kernel.log.read_run(running.env.run_id)


async def keys_of(result: RunResult[Any, Any]) -> list[str]:
    """The places that a run's records closed, in the order of commitment."""
    return [one.key for one in await records_of(result._running) if one.key is not None]


def replayed(running: Running, records: list[Record]) -> NetworkLoop:
    """Fold records into a new state."""
    state = running.program.start()
    for one in records:
        running.program.fold(state, one)
    return state


def projected(running: Running, records: list[Record]) -> list[ev.AnyEvent]:
    """The events that a later reader of the log sees."""
    projector = Projector(running.env.run_id, running.env.session_id)
    late = Running(running.definition, None, {**running.env.options, "run_id": running.env.run_id})
    late.recall(records)
    return [event for one in records for event in late.shown(one, projector)]


def check_stream(seen: list[ev.AnyEvent]) -> None:
    """Check that a stream has one terminal event, its last, and closes whatever it opens, once."""
    assert isinstance(seen[0], ev.RunStarted), seen[0]
    assert [one for one in seen if isinstance(one, ev.TERMINAL)] == [seen[-1]], seen[-3:]
    agents: dict[str, str] = {}
    messages: set[str] = set()
    tools: dict[str, str] = {}
    closed: set[str] = set()
    for one in seen[1:]:
        step = one.step or ""
        match one:
            case ev.AgentStarted():
                assert step.split("/infer/")[0] not in agents
                agents[step.split("/infer/")[0]] = one.agent or ""
            case ev.AgentFinished():
                assert agents.pop(step) == one.agent
                assert not any(open.startswith(step + "/") for open in [*messages, *tools]), "closed around open parts"
            case ev.MessageStarted():
                assert one.message_id not in messages | closed
                messages.add(one.message_id)
            case ev.MessageFinished():
                messages.remove(one.message_id)
                closed.add(one.message_id)
            case ev.TextDelta() | ev.ReasoningDelta() | ev.ToolCallStarted() | ev.ToolArgsDelta() | ev.ToolCallReady():
                assert one.message_id in messages, one
            case ev.MessageReset():
                assert one.message_id in messages, one
            case ev.ToolStarted():
                assert step not in tools and step not in closed, one
                tools[step] = one.call_id
            case ev.ToolProgress():
                assert tools[step] == one.call_id
            case ev.ToolFinished():
                assert tools.pop(step) == one.call_id
                closed.add(step)
            case _:
                pass
    assert not messages, f"still open: {messages}"
    if not isinstance(seen[-1], ev.RunWaiting):
        assert not agents and not tools, f"still open: {agents} {tools}"


def check_transcript(messages: Any) -> None:
    """Check that each tool call is followed by its result, so that every provider accepts the conversation."""
    expected: list[str] = []
    for one in messages:
        if isinstance(one, ToolResultMessage):
            assert expected and one.tool.id == expected.pop(0), "a result without its call, or out of order"
            continue
        assert not expected, f"calls without a result: {expected}"
        if isinstance(one, ToolCallMessage):
            expected = [call.id for call in one.tools]
    assert not expected, f"calls without a result: {expected}"


async def told(one: Any, *made: Any, **options: Any) -> list[Any]:
    """What the model is told after calling a tool."""
    model = ScriptedModel(*(made or (call(one.name),)), say("ok"))
    result = await Agent("A", tools=[one], model=model, **options).run("go")
    return [answer.content for answer in result.results[0].tool_calls]
