"""A tool alone in a context, and the recorder that says whether a run's events are well formed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from perdure import (
    Agent,
    Context,
    Network,
    RunFailed,
    State,
    StepOutsideSteps,
    TextMessage,
    ToolCall,
    UnknownName,
    Unserialisable,
    events,
    tool,
)
from perdure.testing import EventRecorder, ScriptedModel, call, context, fail, say


@dataclass
class Support:
    user: str = ""
    seen: list[str] = field(default_factory=list)


class Pool:
    def fetch(self, city: str) -> str:
        return f"cold in {city}"


@tool
async def weather(ctx: Context[Support], city: str) -> str:
    """Current weather."""
    ctx.state.data.seen.append(city)
    ctx.emit({"city": city})
    return ctx.use(Pool).fetch(city)


async def test_a_tool_runs_alone() -> None:
    given = Support(user="ada")
    ctx = context(given, resources=[Pool()], user_id="ada")
    assert await weather(ctx, "Oslo") == "cold in Oslo"
    assert ctx.state.data == Support("ada", ["Oslo"])
    assert ctx.patch() == [{"op": "replace", "path": "/seen", "value": ["Oslo"]}]
    assert given == Support("ada"), "as in a run, a tool works on a copy"
    assert ctx.emitted == [{"city": "Oslo"}]
    assert (ctx.user_id, ctx.run_id, ctx.session_id) == ("ada", "test-run", "test-session")
    assert ctx.idempotency_key == context(given).idempotency_key


async def test_a_context_without_a_state_has_an_empty_dict() -> None:
    @tool
    async def note(ctx: Context[dict[str, int]], n: int) -> None:
        ctx.state.data["n"] = n

    ctx = context()
    await note(ctx, 3)
    assert ctx.state.data == {"n": 3}


def test_a_whole_state_gives_messages_and_thread() -> None:
    said = TextMessage("user", "hi")
    ctx = context(State(Support("ada"), messages=[said], thread_id="t-1"))
    assert ctx.messages == (said,)
    assert ctx.state.messages == (said,)
    assert ctx.state.thread_id == "t-1"
    assert ctx.state.data.user == "ada"


def test_a_state_that_cannot_be_kept_is_refused_as_in_a_run() -> None:
    with pytest.raises(Unserialisable, match=r"pool"):
        context({"pool": Pool()})


def test_what_a_tool_reports_must_be_json() -> None:
    with pytest.raises(Unserialisable):
        context().emit(Pool())


def test_a_missing_resource_is_named() -> None:
    with pytest.raises(UnknownName, match="Pool"):
        context().use(Pool)


async def test_steps_and_child_runs_say_what_to_do_instead() -> None:
    ctx = context()
    with pytest.raises(StepOutsideSteps, match="Let an agent call the tool"):
        _ = ctx.step
    with pytest.raises(StepOutsideSteps, match="Let an agent call the tool"):
        await ctx.run(Agent("Other"), "hi")


async def test_agents_networks_and_calls_can_be_given() -> None:
    writer = Agent("Writer", enabled=lambda ctx: ctx.state.data == {})
    editor = Agent("Editor", enabled=False)
    desk = Network("desk", agents=[writer, editor])
    ctx = context(agent=writer, network=desk, call=ToolCall("c-7", "note", {"n": 1}))
    assert ctx.agent is writer
    assert ctx.network.name == "desk"
    assert [one.name for one in await ctx.available_agents()] == ["Writer"]
    ctx.network.schedule("Editor")
    assert ctx.take_scheduled() == ("Editor",)
    assert ctx.call is not None and ctx.call.id == "c-7"
    assert context().agent.name == "Test"


# -- the recorder ------------------------------------------------------------------------------------------------------


async def record(*script: object, **options: object) -> EventRecorder:
    recorder = EventRecorder()
    agent = Agent("Clerk", tools=[weather])
    model = ScriptedModel(*script)  # type: ignore[arg-type]
    await recorder.watch(agent.stream("hi", model=model, state=Support(), resources=[Pool()]))
    return recorder


async def test_a_stream_is_recorded_and_its_handle_given_back() -> None:
    recorder = EventRecorder()
    run = await recorder.watch(Agent("Greeter").stream("hi", model=ScriptedModel(say("Hello, Ada."))))
    recorder.assert_well_formed()
    assert (await run.result()).output == recorder.text == "Hello, Ada."
    types = recorder.types()
    assert types[:3] == [events.RunStarted, events.AgentStarted, events.MessageStarted]
    assert types[-2:] == [events.AgentFinished, events.RunCompleted]
    assert len(recorder.of(events.MessageFinished)) == 1


async def test_tools_are_recorded() -> None:
    recorder = await record(call("weather", city="Oslo"), say("Cold."))
    recorder.assert_well_formed()
    assert [one.args for one in recorder.of(events.ToolStarted)] == [{"city": "Oslo"}]
    assert [one.data for one in recorder.of(events.ToolProgress)] == [{"city": "Oslo"}]
    assert [one.result for one in recorder.of(events.ToolFinished)] == [{"data": "cold in Oslo"}]


async def test_a_failing_run_is_recorded_and_raises_only_from_its_handle() -> None:
    recorder = EventRecorder()
    run = await recorder.watch(Agent("Greeter").start("hi", model=ScriptedModel(fail(ValueError("broken")))))
    recorder.assert_well_formed()
    assert recorder.types()[-1] is events.RunFailed
    with pytest.raises(RunFailed, match="broken"):
        await run.result()


async def test_several_runs_in_one_recorder() -> None:
    recorder = await record(say("one"))
    await recorder.watch(Agent("Greeter").stream("hi", model=ScriptedModel(say("two"))))
    recorder.assert_well_formed()
    assert recorder.text == "onetwo"


def test_what_was_reset_is_not_text() -> None:
    recorder = EventRecorder()
    recorder.add(events.TextDelta(text="wro", run_id="r", message_id="m"))
    recorder.add(events.MessageReset(reason="connection lost", run_id="r", message_id="m"))
    recorder.add(events.TextDelta(text="right", run_id="r", message_id="m"))
    assert recorder.text == "right"


# -- each flaw is found ------------------------------------------------------------------------------------------------


def flawed(recorder: EventRecorder) -> str:
    with pytest.raises(AssertionError) as caught:
        recorder.assert_well_formed()
    return str(caught.value)


async def test_nothing_recorded() -> None:
    assert "Nothing was recorded" in flawed(EventRecorder())


async def test_each_event_that_is_missing_is_noticed() -> None:
    whole = await record(call("weather", city="Oslo"), say("Cold."))
    needed = (
        events.RunStarted,
        events.RunCompleted,
        events.AgentStarted,
        events.AgentFinished,
        events.MessageStarted,
        events.MessageFinished,
        events.ToolStarted,
        events.ToolFinished,
    )
    for n, event in enumerate(whole.events):
        if isinstance(event, needed):
            part = EventRecorder()
            part.events = whole.events[:n] + whole.events[n + 1 :]
            assert flawed(part), f"the loss of {event} was not noticed"


async def test_each_event_that_comes_twice_is_noticed() -> None:
    whole = await record(call("weather", city="Oslo"), say("Cold."))
    for n, event in enumerate(whole.events):
        if type(event).__name__.endswith(("Started", "Finished", "Completed")) and "ToolCall" not in repr(type(event)):
            twice = EventRecorder()
            twice.events = [*whole.events[: n + 1], event, *whole.events[n + 1 :]]
            assert type(event).__name__ in flawed(twice)


async def test_what_was_closed_may_not_be_opened_again() -> None:
    recorder = await record(say("Hello."))
    at = recorder.types().index(events.MessageFinished) + 1
    recorder.events[at:at] = [recorder.of(events.MessageStarted)[0], recorder.of(events.MessageFinished)[0]]
    assert "this message was opened already" in flawed(recorder)


async def test_a_second_terminal_event_is_named() -> None:
    recorder = await record(say("Hello."))
    last = recorder.events[-1]
    recorder.add(events.RunCancelled(stop_reason="cancelled", run_id=last.run_id))
    assert "RunCancelled of run" in flawed(recorder)
    assert "behind the terminal event RunCompleted" in flawed(recorder)


def test_a_run_may_go_on_only_if_it_waited() -> None:
    recorder = EventRecorder()
    recorder.add(events.RunStarted(definition="x", run_id="r"))
    recorder.add(events.ToolStarted(tool="pay", call_id="c", args={}, run_id="r", step="agent/0/infer/0/tool/0"))
    assert "no terminal event" in flawed(recorder)
    recorder.add(events.RunWaiting(waits=(), run_id="r"))
    recorder.assert_well_formed()
    recorder.add(events.RunResumed(run_id="r"))
    end = events.RunCompleted(stop_reason="answer", run_id="r")
    recorder.add(end)
    assert "leaves open: tool agent/0/infer/0/tool/0" in flawed(recorder)
    recorder.events[-1:] = [
        events.ToolFinished(tool="pay", call_id="c", result=None, run_id="r", step="agent/0/infer/0/tool/0"),
        end,
    ]
    recorder.assert_well_formed()
    recorder.add(events.RunResumed(run_id="r"))
    assert "did not wait" in flawed(recorder)
