"""The four doors: from async and sync code, in a loop and beside one, and what they give."""

import asyncio
import contextvars
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from pydantic import BaseModel

import perdure
from perdure import (
    Agent,
    Approve,
    Budget,
    Context,
    DefinitionError,
    Deny,
    InvalidId,
    ModelSettings,
    NeedsRuntime,
    Network,
    Run,
    RunCancelled,
    RunFailed,
    RunOptions,
    RunResult,
    RunWaiting,
    State,
    events,
    tool,
)
from perdure.testing import ScriptedModel, call, delay, fail, hang, raw, say
from perdure.types.chunks import Finished, TextChunk
from tests.agents.watching import check_stream, check_transcript


@tool(effect="pure")
def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


@tool(requires_approval=True)
def refund(amount: int) -> str:
    """Pay back."""
    return f"paid {amount}"


def agent(*answers: Any) -> Agent[str, Any]:
    return Agent("Teller", model=ScriptedModel(*answers), tools=[weather, refund])


def network(*answers: Any) -> Network[Any, str]:
    teller = Agent("Teller", tools=[weather, refund])
    return Network(
        "Desk", agents=[teller], router=lambda r: None if r.call_count else teller, model=ScriptedModel(*answers)
    )


BOTH = pytest.mark.parametrize("make", [agent, network])


# -- the same result through every door -------------------------------------------------------------------------------


def check(result: Any, reason: str) -> None:
    assert isinstance(result, RunResult)
    assert (result.status, result.stop_reason, result.stop_detail) == ("completed", reason, "")
    assert (result.output, result.text) == ("Rain.", "Rain.")
    assert [type(one).__name__ for one in result.messages] == [
        "TextMessage",
        "ToolCallMessage",
        "ToolResultMessage",
        "TextMessage",
    ]
    assert result.new_messages == result.messages
    assert [one.agent_name for one in result.results] == ["Teller"]
    assert (result.usage.model_calls, result.usage.tool_calls) == (2, 1)
    assert result.state.data == {}
    assert result.waits == ()
    check_transcript(result.messages)


async def by_start(definition: Any) -> Any:
    return await definition.start("Weather?").result()


async def by_stream(definition: Any) -> Any:
    async with definition.stream("Weather?") as stream:
        return await stream.result()


@BOTH
def test_every_door_gives_the_same_result(make: Any):
    answers = call("weather", city="Oslo"), say("Rain.")
    reason = "answer" if make is agent else "router"
    check(asyncio.run(make(*answers).run("Weather?")), reason)
    check(asyncio.run(by_start(make(*answers))), reason)
    check(asyncio.run(by_stream(make(*answers))), reason)
    check(make(*answers).run_sync("Weather?"), reason)


@BOTH
@pytest.mark.parametrize("door", ["run", "start", "stream", "run_sync"])
async def test_every_door_takes_the_same_options_and_refuses_others(make: Any, door: str):
    with pytest.raises(DefinitionError, match=r"no run option 'colour'.*budget.*user_id"):
        await _maybe(getattr(make(), door)("x", colour="red"))
    with pytest.raises(DefinitionError, match="deadline=-1"):
        await _maybe(getattr(make(), door)("x", deadline=-1))
    with pytest.raises(DefinitionError, match="The input is a float"):
        await _maybe(getattr(make(), door)(1.5))
    with pytest.raises(InvalidId, match="user_id"):
        await _maybe(getattr(make(), door)("x", user_id="../x"))
    with pytest.raises(NeedsRuntime, match=r"open a Runtime, or pass messages=previous\.messages"):
        await _maybe(getattr(make(), door)("x", session_id="s1"))


async def _maybe(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def test_the_options_that_are_declared_are_those_that_are_taken():
    from perdure.agents.run_options import OPTIONS

    assert set(RunOptions.__annotations__) == set(OPTIONS)


@BOTH
@pytest.mark.parametrize("nothing", [None, ""])
async def test_a_run_needs_no_input(make: Any, nothing: Any):
    assert (await make(say("Hello.")).run(nothing)).output == "Hello."
    assert (await make(say("Hello.")).run()).output == "Hello."


# -- sync code --------------------------------------------------------------------------------------------------------


@BOTH
def test_run_sync_from_plain_code(make: Any):
    assert make(say("Hello.")).run_sync("hi").output == "Hello."
    assert make(say("Hello.")).run_sync("hi", user_id="ada").user_id == "ada"


async def test_run_sync_inside_a_running_loop_as_in_a_notebook():
    result = agent(call("weather", city="Oslo"), say("Rain.")).run_sync("Weather?")
    assert result.output == "Rain."
    assert (await agent(say("And on.")).run("x", messages=result.messages)).output == "And on."


@pytest.mark.parametrize("where", ["plain", "loop"])
def test_run_sync_raises_what_the_run_raised(where: str):
    def go() -> None:
        agent(fail(ValueError("no"))).run_sync("x")

    async def inside() -> None:
        go()

    with pytest.raises(RunFailed, match="ValueError: no") as failed:
        go() if where == "plain" else asyncio.run(inside())
    assert isinstance(failed.value.__cause__, ValueError)
    assert failed.value.result.status == "failed"


def test_run_sync_from_several_threads_at_once():
    shared = Agent("Teller")
    outputs: dict[int, str] = {}

    def work(number: int) -> None:
        outputs[number] = shared.run_sync("x", model=ScriptedModel(say(str(number)))).output

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert outputs == {n: str(n) for n in range(8)}


CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")


@pytest.mark.parametrize("where", ["plain", "loop"])
def test_run_sync_sees_the_caller_s_context(where: str):
    @tool(effect="pure")
    async def who() -> str:
        """Say who."""
        return CURRENT.get()

    def go() -> str:
        CURRENT.set("ada")
        result = Agent("A", tools=[who], model=ScriptedModel(call("who"), say("ok"))).run_sync("x")
        return str(result.results[0].tool_calls[0].data)

    async def inside() -> str:
        return go()

    context = contextvars.copy_context()
    assert context.run(go if where == "plain" else lambda: asyncio.run(inside())) == "ada"


INTERRUPTED = """
    import asyncio, signal, threading
    from perdure import Agent
    from perdure.testing import ScriptedModel, hang

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may have it ignored
    ended = []
    main = threading.main_thread().ident

    class Model(ScriptedModel):
        async def _play(self, request):
            try:
                signal.pthread_kill(main, signal.SIGINT)
                async for piece in super()._play(request):
                    yield piece
            finally:
                ended.append("stopped")

    def go():
        try:
            Agent("A", model=Model(hang())).run_sync("x")
        except KeyboardInterrupt:
            print("interrupted", ended)

    async def notebook():
        go()

    {where}
"""


@pytest.mark.parametrize("where", ["go()", "asyncio.new_event_loop().run_until_complete(notebook())"])
def test_an_interrupt_from_the_keyboard_stops_the_run(where: str):
    code = textwrap.dedent(INTERRUPTED).replace("{where}", where)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted ['stopped']\n", done.stderr


@BOTH
def test_start_outside_a_loop_says_what_to_do(make: Any):
    with pytest.raises(DefinitionError, match=r"start\(\) needs a running event loop; from sync code use run_sync"):
        make(say("never")).start("x")


# -- the handle -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_left")
@BOTH
async def test_a_handle_knows_its_run(make: Any):
    go_on = asyncio.Event()
    run = make(delay(go_on, say("Hello."))).start("x", run_id="r1")
    assert isinstance(run, Run)
    assert (run.id, run.status) == ("r1", "running")
    assert run.session_id.startswith("session_")
    assert "r1" in repr(run) and "running" in repr(run)
    go_on.set()
    first, second = await asyncio.gather(run.result(), run.result())
    assert first.output == second.output == (await run.result()).output == "Hello."
    assert (first.run_id, first.session_id) == (run.id, run.session_id)
    assert run.status == "completed"


@pytest.mark.usefixtures("nothing_left")
async def test_readers_see_all_events_whenever_they_come():
    go_on = asyncio.Event()
    run = agent(delay(go_on, say("Hello."))).start("x")
    early = run.events()
    first = await anext(early)
    assert isinstance(first, events.RunStarted)
    go_on.set()
    middle = [event async for event in run.events()]
    rest = [event async for event in early]
    late = [event async for event in run.events()]
    assert [first, *rest] == middle == late
    check_stream(middle)


@pytest.mark.usefixtures("nothing_left")
async def test_a_reader_that_leaves_disturbs_nobody():
    go_on = asyncio.Event()
    run = agent(delay(go_on, say("Hello."))).start("x")
    async for _ in run.events():
        break
    waiting = asyncio.create_task(_end_of(run))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    assert (await run.result()).output == "Hello."


async def _end_of(run: Any) -> Any:
    return [event async for event in run.events()][-1]


@pytest.mark.usefixtures("nothing_left")
async def test_whoever_waits_for_a_result_may_stop_waiting():
    go_on = asyncio.Event()
    run = agent(delay(go_on, say("Hello."))).start("x")
    waiting = asyncio.create_task(run.result())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert run.status == "running", "the run goes on without who waited"
    go_on.set()
    assert (await run.result()).output == "Hello."


@pytest.mark.usefixtures("nothing_left")
async def test_a_failure_is_in_the_status_the_events_and_the_result():
    run = agent(fail(ValueError("no"))).start("x")
    seen = [event async for event in run.events()]
    assert isinstance(seen[-1], events.RunFailed)
    assert seen[-1].error.type == "ValueError"
    assert run.status == "failed"
    for _ in range(2):
        with pytest.raises(RunFailed, match="ValueError: no") as failed:
            await run.result()
        assert failed.value.result.run_id == run.id


@pytest.mark.usefixtures("nothing_left")
async def test_a_run_is_cancelled_and_says_so():
    run = agent(hang()).start("x")
    async for event in run.events():
        if isinstance(event, events.MessageStarted):
            await run.cancel()
            assert run.status == "cancelled"
    with pytest.raises(RunCancelled, match="it was cancelled") as cancelled:
        await run.result()
    assert cancelled.value.result.stop_reason == "cancelled"


@pytest.mark.usefixtures("nothing_left")
async def test_a_run_that_waits_says_for_what():
    run = agent(call("refund", amount=5), say("Done.")).start("x")
    seen = [event async for event in run.events()]
    assert isinstance(seen[-1], events.RunWaiting)
    assert run.status == "waiting"
    waiting = await run.result()
    with pytest.raises(RunWaiting, match=r"refund \(run_.*~wait_.*result\.resume"):
        _ = waiting.output
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.output == "Done."


# -- the result -------------------------------------------------------------------------------------------------------


async def test_the_messages_of_a_result_continue_the_conversation():
    model = ScriptedModel(call("weather", city="Oslo"), say("Rain."), say("Yes, an umbrella."), say("Bye."))
    teller = Agent("Teller", tools=[weather], model=model, system="Be kind.")
    first = await teller.run("Weather in Oslo?")
    second = await teller.run("Do I need an umbrella?", messages=first.messages)
    assert model.requests[2].messages[1:-1] == first.messages, "all of it, calls and results included"
    assert second.messages == (*first.messages, *second.new_messages)
    assert [one.text for one in second.new_messages] == ["Do I need an umbrella?", "Yes, an umbrella."]  # type: ignore[union-attr]
    third = await network(say("From another.")).run("And you?", messages=second.messages)
    assert third.messages[: len(second.messages)] == second.messages
    assert third.output == "From another."


async def test_a_state_of_a_result_continues_the_conversation():
    first = await agent(say("I am here.")).run("Where?", state={"n": 1})
    model = ScriptedModel(say("Still here."))
    second = await agent().run("And now?", state=first.state, model=model)
    assert [one.text for one in model.requests[0].messages] == ["Where?", "I am here.", "And now?"]  # type: ignore[union-attr]
    assert second.state.data == {"n": 1}
    with pytest.raises(DefinitionError, match="give one of the two"):
        await agent().run("x", state=first.state, messages=first.messages)
    with pytest.raises(NeedsRuntime, match="Continuing a thread by its id"):
        await agent().run("x", state=State({}, thread_id="t1"))


async def test_messages_of_another_type_are_refused():
    with pytest.raises(DefinitionError, match=r"messages= holds a str; give messages, such as previous\.messages"):
        await agent().run("x", messages=["hello"])  # type: ignore[list-item]


async def test_a_transcript_shows_what_was_said_and_what_it_took(capsys: pytest.CaptureFixture[str]):
    result = await agent(call("weather", city="Oslo"), say("Rain.")).run("Weather?", messages=())
    lines = result.transcript().split("\n")
    assert lines[:4] == [
        "user: Weather?",
        'call: weather({"city":"Oslo"})',
        'result: weather → {"data":"rain in Oslo"}',
        "assistant: Rain.",
    ]
    assert lines[4].startswith("— completed (answer): 1 agent, 2 model calls, 1 tool call, ")
    assert len(lines) == 5
    result.print()
    assert capsys.readouterr().out == result.transcript() + "\n"


async def test_a_transcript_shortens_what_is_long_and_leaves_earlier_messages_out():
    @tool(effect="pure")
    def book() -> str:
        """Read a book."""
        return "x" * 5000

    first = await agent(say("Hi.")).run("first")
    reader = Agent("R", tools=[book], model=ScriptedModel(call("book"), say("Read.", reasoning="long")))
    text = (await reader.run("second", messages=first.messages)).transcript()
    assert "first" not in text and "thought: long" in text
    assert max(len(line) for line in text.split("\n")) < 400


async def test_a_transcript_of_a_run_that_waits():
    waiting = await agent(call("refund", amount=5)).run("x")
    assert waiting.transcript().split("\n")[-1].startswith("— waiting: ")
    assert repr(waiting) == f"RunResult({waiting.run_id!r}, status='waiting', stop_reason=None)"


async def test_only_what_waits_is_resumed_and_only_by_its_own_ids():
    done = await agent(say("Hi.")).run("x")
    with pytest.raises(DefinitionError, match="does not wait; its status is 'completed'"):
        await done.resume({})
    waiting = await agent(call("refund", amount=5), say("No.")).run("x")
    wait = waiting.waits[0].id
    with pytest.raises(DefinitionError, match=f"waits for {wait}, not for 'other'"):
        await waiting.resume({"other": Approve()})
    with pytest.raises(DefinitionError, match=r"give Approve\(\) or Deny\(why\)"):
        await waiting.resume({wait: True})  # type: ignore[dict-item]
    result = await waiting.resume({wait: Deny("too much")})
    assert result.results[0].tool_calls[0].is_error
    with pytest.raises(DefinitionError, match="does not wait"):
        await waiting.resume({wait: Approve()})


def test_what_run_sync_gave_may_be_resumed_in_another_loop():
    waiting = agent(call("refund", amount=5), say("Done.")).run_sync("x")
    assert waiting.status == "waiting"
    result = asyncio.run(waiting.resume({waiting.waits[0].id: Approve()}))
    assert result.output == "Done."
    check_transcript(result.messages)


# -- options reach the run --------------------------------------------------------------------------------------------


class Notes(BaseModel):
    lines: list[str] = []


async def test_options_reach_the_run():
    seen: dict[str, Any] = {}

    @tool(effect="pure")
    async def note(ctx: Context[Notes], line: str) -> str:
        """Note a line."""
        seen.update(user=ctx.user_id, run=ctx.run_id, used=ctx.use(dict), data=ctx.state.data)
        ctx.state.data.lines.append(line)
        return "noted"

    model = ScriptedModel(call("note", line="b"), say("ok"))
    result = await Agent("A", tools=[note]).run(
        "x",
        state=Notes(lines=["a"]),
        user_id="ada",
        run_id="r1",
        model=model,
        settings=ModelSettings(temperature=0.5),
        resources=[{"pool": 1}],
        budget=Budget(model_calls=5),
        deadline=600,
        max_iter=3,
        tool_choice="any",
        on_busy="reject",
    )
    assert (seen["user"], seen["run"], seen["used"]) == ("ada", "r1", {"pool": 1})
    assert result.state.data == Notes(lines=["a", "b"])
    assert (result.run_id, result.user_id) == ("r1", "ada")
    assert model.requests[0].settings.temperature == 0.5
    assert model.requests[0].tool_choice == "any"


# -- nothing is lost on odd streams -----------------------------------------------------------------------------------


async def test_a_refused_answer_is_an_answer():
    result = await agent(raw(TextChunk("I cannot."), Finished("refused"))).run("x")
    assert (result.output, result.stop_reason) == ("I cannot.", "answer")


async def test_an_answer_that_was_too_long_says_so():
    result = await agent(raw(TextChunk("and so on and"), Finished("max_tokens"))).run("x")
    assert (result.output, result.stop_reason) == ("and so on and", "max_tokens")


# -- the public names -------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_listed():
    assert len(set(perdure.__all__)) == len(perdure.__all__)
    for name in perdure.__all__:
        assert getattr(perdure, name) is not None
    assert set(perdure.__all__) <= set(dir(perdure))
    with pytest.raises(AttributeError, match="module 'perdure' has no attribute 'Agnet'"):
        _ = perdure.Agnet  # type: ignore[attr-defined]


def test_the_names_of_exceptions_and_events_do_not_mix():
    for name in ("RunFailed", "RunCancelled", "RunWaiting"):
        assert issubclass(getattr(perdure, name), Exception)
        assert issubclass(getattr(events, name), events.Event)
    for name in ("RunStarted", "RunCompleted", "TextDelta", "ToolFinished"):
        assert getattr(perdure, name) is getattr(events, name)


def test_what_checkers_see_is_what_is_loaded():
    from pathlib import Path

    source = Path(perdure.__file__).read_text()
    imported = {
        line.split(" as ")[-1].strip()
        for line in source.split("if TYPE_CHECKING:")[1].split("__version__")[0].splitlines()
        if " as " in line
    }
    assert imported == set(perdure.__all__)


def test_importing_the_package_loads_nothing_but_itself():
    code = (
        "import sys; import perdure; loaded = sorted(name for name in sys.modules if name.startswith('perdure')); "
        "print(loaded); perdure.TextDelta; "
        "print('perdure.agents.agent' in sys.modules, 'pydantic' in sys.modules, 'asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["['perdure']", "False False False"]
