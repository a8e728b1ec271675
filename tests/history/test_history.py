"""Runs with a history adapter: which thread, what is loaded, what is stored, and when."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest

from perdure import (
    Agent,
    AgentResult,
    Asked,
    Context,
    DefinitionError,
    HistoryAdapter,
    HistoryContext,
    HistoryError,
    HistoryUnavailable,
    Network,
    RouterArgs,
    RunCancelled,
    RunFailed,
    RunResult,
    State,
    TextMessage,
    UserMessage,
    events,
    sequence,
    tool,
)
from perdure.testing import EventRecorder, ScriptedModel, call, fail, hang, say
from tests.history.keeping import Creating, Halting, OnlySaving, Threads, texts


def network(history: HistoryAdapter | None, model: Any, *names: str) -> Network[dict[str, Any], str]:
    agents = [Agent(name, model=model) for name in names or ("Ada",)]
    return Network("Net", agents=agents, router=sequence(*agents), history=history)


KINDS = pytest.mark.parametrize("alone", [True, False], ids=["agent", "network"])


def made(alone: bool, history: HistoryAdapter | None, model: Any) -> Any:
    return Agent("Ada", model=model, history=history) if alone else network(history, model)


# -- which thread ----------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("how", ["state", "option"])
async def test_b36_a_thread_id_that_is_given_comes_first(alone: bool, how: str):
    history = Creating()
    given: dict[str, Any] = {"session_id": "mine"} if how == "option" else {"state": State({}, thread_id="mine")}
    result: RunResult[str, Any] = await made(alone, history, ScriptedModel(say("Hello."))).run("hi", **given)
    assert history.calls == ["get mine", "user mine: hi", "save mine: Hello."]
    assert (result.session_id, result.state.thread_id) == ("mine", "mine")


@KINDS
async def test_b36_else_the_adapter_creates_one(alone: bool):
    history = Creating()
    result = await made(alone, history, ScriptedModel(say("Hello."))).run("hi", user_id="ada")
    assert history.calls == ["create for ada: hi", "user t-1: hi", "save t-1: Hello."]
    assert (result.session_id, result.state.thread_id) == ("t-1", "t-1")


@KINDS
async def test_b36_else_it_is_a_uuid_if_there_is_a_get(alone: bool):
    history = Threads()
    results = [await made(alone, history, ScriptedModel(say("Hello."))).run("hi") for _ in range(2)]
    ids = [str(UUID(one.session_id)) for one in results]
    assert len(set(ids)) == 2
    assert list(history.threads) == ids


async def test_b36_without_create_and_get_the_thread_is_the_run_s_own_session():
    history = OnlySaving()
    result = await Agent("Ada", model=ScriptedModel(say("Hello.")), history=history).run("hi")
    assert [thread for thread, _, _ in history.saved] == [result.session_id]


async def test_two_words_for_one_id_may_not_differ():
    with pytest.raises(DefinitionError, match="two words for one id"):
        await Agent("Ada", history=Threads()).run("hi", session_id="a", state=State({}, thread_id="b"))


async def test_a_thread_that_was_not_created_by_the_adapter_is_ensured():
    class Ensuring(Threads):
        async def ensure_thread(self, ctx: HistoryContext) -> None:
            self.note("ensure", ctx)

    class Both(Ensuring, Creating): ...

    history = Ensuring()
    await Agent("Ada", model=ScriptedModel(say("A")), history=history).run("hi", session_id="t")
    assert history.calls == ["ensure t", "get t", "user t: hi", "save t: A"]
    history = Both()
    await Agent("Ada", model=ScriptedModel(say("A")), history=history).run("hi")
    assert history.calls == ["create for None: hi", "user t-1: hi", "save t-1: A"]


# -- what is loaded --------------------------------------------------------------------------------------------------


@KINDS
async def test_b37_server_authoritative_the_conversation_is_loaded(alone: bool):
    history, model = Creating(), ScriptedModel(say("One."), say("Two."))
    definition = made(alone, history, model)
    first = await definition.run("first")
    second = await definition.run("second", session_id=first.session_id)
    assert texts(model.requests[1]) == ["first", "One.", "second"]
    assert [one.text for one in second.state.results] == ["One.", "Two."]
    assert [one.text for one in second.results] == ["Two."]
    assert [cast("TextMessage", one).text for one in second.new_messages] == ["second", "Two."]


@KINDS
@pytest.mark.parametrize("given", ["messages", "results", "option"])
async def test_b37_client_authoritative_nothing_is_loaded(alone: bool, given: str):
    history, model = Threads({"t": [TextMessage("user", "what the server has")]}), ScriptedModel(say("New."))
    before = (TextMessage("user", "old"), TextMessage("assistant", "Old."))
    options: dict[str, dict[str, Any]] = {
        "messages": {"state": State({}, thread_id="t", messages=before)},
        "results": {"state": State({}, thread_id="t", results=[AgentResult("Ada", before[1:])])},
        "option": {"session_id": "t", "messages": before},
    }
    await made(alone, history, model).run("new", **options[given])
    assert history.calls == ["user t: new", "save t: New."]
    assert texts(model.requests[0])[-2:] == ["Old.", "new"]


async def test_b37_hybrid_what_a_run_gave_is_sent_with_the_next_and_nothing_is_loaded():
    history, model = Creating(), ScriptedModel(say("One."), say("Two."))
    agent = Agent("Ada", model=model, history=history)
    first = await agent.run("first")
    history.calls.clear()
    second = await agent.run("second", state=first.state)
    assert history.calls == ["user t-1: second", "save t-1: Two."]
    assert texts(model.requests[1]) == ["first", "One.", "second"]
    assert second.session_id == first.session_id
    assert history.said("t-1") == ["first", "One.", "second", "Two."]


async def test_b37_the_last_result_that_a_router_sees_may_be_a_loaded_one():
    seen: list[Any] = []
    history = Threads({"t": [AgentResult("Old", (TextMessage("assistant", "before"),), "r/0", 5.0)]})

    def route(r: RouterArgs[Any]) -> Agent | None:
        seen.append((r.last_result, r.call_count))
        return None

    ada = Agent("Ada", model=ScriptedModel())
    await Network("Net", agents=[ada], router=route, history=history).run("hi", session_id="t")
    ((last, count),) = seen
    assert (last.agent_name, last.text, last.id, last.created_at, count) == ("Old", "before", "r/0", 5.0, 0)


# -- what the user says ----------------------------------------------------------------------------------------------


@KINDS
async def test_b38_the_user_s_message_is_stored_before_the_run_also_if_the_model_fails(alone: bool):
    history = Threads()
    with pytest.raises(RunFailed):
        await made(alone, history, ScriptedModel(fail(ValueError("no")))).run("hi", session_id="t")
    assert history.said("t") == ["hi"]


async def test_b38_the_model_never_sees_it_twice_also_if_the_adapter_gives_it_back():
    # an application stores the message itself, under the id that the browser gave it, before the run
    model = ScriptedModel(say("Hello."))
    history = Threads({"t": [Asked("m-1", (TextMessage("user", "hi"),), 1.0)]})
    await Agent("Ada", model=model, history=history).run(UserMessage("hi", id="m-1"), session_id="t")
    assert texts(model.requests[0]) == ["hi"]


async def test_b38_the_message_has_its_own_id_or_one_that_a_repetition_has_too():
    history = Threads()
    agent = Agent("Ada", model=ScriptedModel(*(say(f"{n}") for n in range(4))), history=history)
    await agent.run(UserMessage("hi", id="m-1"), session_id="t")
    await agent.run("one", session_id="t", run_id="r")
    await agent.run("one", session_id="t", run_id="r")
    await agent.run("two", session_id="t", run_id="r")
    ids = [one.id for one in history.threads["t"] if isinstance(one, Asked)]
    assert ids[0] == "m-1"
    assert ids[1] == ids[2] != ids[3]


async def test_an_adapter_without_append_user_message_gets_it_with_the_first_results():
    history, model = OnlySaving(), ScriptedModel(say("One."), say("Two."))
    await network(history, model, "A", "B").run("hi", session_id="t")
    (_, asked, first), (_, none, second) = history.saved
    assert (asked and asked.content, first, none, second) == ("hi", ["One."], None, ["Two."])


async def test_nothing_said_is_not_stored():
    history = Threads()
    await Agent("Ada", system="Speak.", model=ScriptedModel(say("Hello."))).replace(history=history).run(session_id="t")
    assert history.calls == ["get t", "save t: Hello."]


# -- what agents do --------------------------------------------------------------------------------------------------


async def test_b39_each_agent_s_result_is_stored_before_the_next_begins():
    history = Threads()
    seen: list[list[str]] = []

    def look(ctx: Context[Any]) -> str:
        seen.append(history.said("t"))
        return "Answer."

    model = ScriptedModel(say("One."), say("Two."), say("Three."))
    agents = [Agent(name, system=look, model=model) for name in "ABC"]
    await Network("Net", agents=agents, router=sequence(*agents), history=history).run("hi", session_id="t")
    assert seen == [["hi"], ["hi", "One."], ["hi", "One.", "Two."]]
    assert history.calls[2:] == ["save t: One.", "save t: Two.", "save t: Three."]


async def test_b39_what_was_done_is_stored_also_when_a_later_agent_fails():
    history = Threads({"t": [AgentResult("Old", (TextMessage("assistant", "Old."),), "r/0")]})
    model = ScriptedModel(say("One."), say("Two."), fail(ValueError("no")))
    with pytest.raises(RunFailed):
        await network(history, model, "A", "B", "C").run("hi", session_id="t")
    assert history.said("t") == ["Old.", "hi", "One.", "Two."]


async def test_b39_what_an_agent_had_done_before_it_failed_is_stored_and_can_be_continued():
    @tool(effect="pure")
    def look() -> str:
        """Look."""
        return "seen"

    history = Threads()
    model = ScriptedModel(call("look"), fail(ValueError("no")), say("Again."))
    agent = Agent("Ada", tools=[look], model=model, history=history)
    with pytest.raises(RunFailed):
        await agent.run("hi", session_id="t")
    (_, done) = history.threads["t"]
    assert (done.stop_reason, [type(one).__name__ for one in done.messages]) == (
        "error",
        ["ToolCallMessage", "ToolResultMessage"],
    )
    assert (await agent.run("again", session_id="t")).text == "Again."


async def test_b39_a_cancelled_run_keeps_what_was_done():
    history = Threads()
    model = ScriptedModel(say("One."), hang())
    run = network(history, model, "A", "B").start("hi", session_id="t")
    async for event in run.events():
        if isinstance(event, events.MessageStarted) and event.agent == "B":
            await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result()
    assert history.said("t") == ["hi", "One."]


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_b39_what_was_said_before_a_run_was_stopped_is_stored(how: str):
    history = Threads()
    agents = [Agent("A", model=ScriptedModel(say("One."))), Agent("B", model=Halting())]
    net = Network("Net", agents=agents, router=sequence(*agents), history=history)
    run = net.start("hi", session_id="t", **({"deadline": 0.2} if how == "deadline" else {}))
    async for event in run.events():
        if how == "cancelled" and isinstance(event, events.TextDelta) and event.text == "Tw":
            await run.cancel()
    with pytest.raises(RunCancelled):
        await run.result()
    assert history.said("t") == ["hi", "One.", "Tw"]


async def test_b39_agents_at_once_are_stored_together_in_the_order_of_the_router():
    from perdure import parallel

    history = Threads()
    agents = [Agent(name, model=ScriptedModel(say(f"{name}."))) for name in "ABC"]
    net = Network("Net", agents=agents, router=lambda r: None if r.call_count else parallel(*agents), history=history)
    await net.run("hi", session_id="t")
    assert history.calls[2:] == ["save t: A., B., C."]


async def test_a_network_that_ends_without_an_agent_is_stored_all_the_same():
    ada = Agent("Ada", model=ScriptedModel())
    for history in (Threads(), OnlySaving()):
        net = Network("Net", agents=[ada], router=lambda r: None, history=history)
        result = await net.run("hi", session_id="t")
        assert (result.stop_reason, result.results) == ("router", ())
        if isinstance(history, OnlySaving):
            assert [(thread, asked and asked.content, done) for thread, asked, done in history.saved] == [
                ("t", "hi", [])
            ]
        else:
            assert history.said("t") == ["hi"]


async def test_b40_an_agent_alone_keeps_its_result_in_its_state_and_its_history():
    history = Threads()
    result = await Agent("Ada", model=ScriptedModel(say("Hello.")), history=history).run("hi", session_id="t")
    assert list(result.state.results) == history.threads["t"][1:]
    assert [one.agent_name for one in result.state.results] == ["Ada"]


async def test_b41_ids_and_checksums_tell_a_repetition_from_something_new():
    history = Threads()
    agent = Agent("Ada", model=ScriptedModel(say("Same."), say("Same.")), history=history)
    for _ in range(2):
        await agent.run("hi", session_id="t")
    first, second = (one for one in history.threads["t"] if isinstance(one, AgentResult))
    assert first.id != second.id
    assert first.checksum != second.checksum
    assert first.export()["checksum"] == AgentResult("Ada", first.messages, "", first.created_at).checksum


async def test_b42_a_custom_formatter_of_a_history_is_its_get():
    class Short(Threads):
        async def get(self, ctx: HistoryContext) -> list[Any]:
            return [TextMessage("system", f"So far: {' / '.join(self.said(ctx.thread_id))}")]

    history, model = Short(), ScriptedModel(say("One."), say("Two."))
    agent = Agent("Ada", model=model, history=history)
    await agent.run("first", session_id="t")
    await agent.run("second", session_id="t")
    assert texts(model.requests[1]) == ["So far: first / One.", "second"]


async def test_b43_the_state_survives_a_round_trip_with_its_thread():
    @dataclass
    class Desk:
        topic: str = ""

    history = Creating()
    agent = Agent("Ada", model=ScriptedModel(say("One."), say("Two.")), history=history)
    first = await agent.run("first", state=Desk("tea"))
    stored = json.loads(json.dumps(first.state.to_json()))
    state = State.from_json(stored, Desk)
    assert (state.thread_id, state.data, state.messages) == ("t-1", Desk("tea"), first.messages)
    assert state.results == first.state.results and state.results[0].checksum == first.results[0].checksum
    second = await agent.run("second", state=state)
    assert history.said("t-1") == ["first", "One.", "second", "Two."]
    assert second.state.clone().results == second.state.results


# -- what an adapter is told -----------------------------------------------------------------------------------------


async def test_an_adapter_is_told_what_it_may_need_and_changes_nothing_by_it():
    told: list[HistoryContext] = []

    class Looking(Threads):
        async def append_results(self, ctx: HistoryContext) -> None:
            ctx.state.data["mine"] = True
            told.append(ctx)

    ada = Agent("Ada", model=ScriptedModel(say("Hello.")))
    net = Network("Net", agents=[ada], router=sequence(ada), history=Looking())
    result = await net.run("hi", session_id="t", user_id="u", run_id="r", state={"tea": 1})
    (ctx,) = told
    assert (ctx.definition, ctx.thread_id, ctx.run_id, ctx.user_id, ctx.input) == ("Net", "t", "r", "u", "hi")
    assert ([one.text for one in ctx.new_results], ctx.state.thread_id) == (["Hello."], "t")
    assert ([one.text for one in ctx.state.results], len(ctx.state.messages)) == (["Hello."], 2)
    assert result.state.data == {"tea": 1}


async def test_a_sync_adapter_never_blocks_the_loop():
    class Sync(HistoryAdapter):
        where: list[int] = []

        def get(self, ctx: HistoryContext) -> list[Any]:
            self.where.append(threading.get_ident())
            return []

    await Agent("Ada", model=ScriptedModel(say("A")), history=Sync()).run("hi", session_id="t")
    assert Sync.where and threading.get_ident() not in Sync.where


async def test_child_runs_and_agents_of_a_network_ask_no_history_of_their_own():
    inner = Threads()
    helper = Agent("Helper", description="Helps.", model=ScriptedModel(say("Helped.")), history=inner)
    outer = Threads()
    ada = Agent("Ada", tools=[helper.as_tool()], model=ScriptedModel(call("helper", request="x"), say("Done.")))
    result = await ada.replace(history=outer).run("hi", session_id="t")
    assert [one.data for one in result.results[0].tool_calls] == ["Helped."]
    assert inner.calls == []
    assert outer.calls == ["get t", "user t: hi", "save t: Done."]
    agent = Agent("Ada", model=ScriptedModel(say("Done.")), history=inner)
    await Network("Net", agents=[agent], router=sequence(agent), history=outer).run("hi", session_id="u")
    assert inner.calls == []
    assert outer.calls[3:] == ["get u", "user u: hi", "save u: Done."]


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "user", "save"])
async def test_an_adapter_that_fails_fails_the_run_and_says_where(method: str):
    history, model = Threads(), ScriptedModel(say("Hello."))
    history.fails[method] = OSError("the disk is gone")
    with pytest.raises(RunFailed) as caught:
        await Agent("Ada", model=model, history=history).run("hi", session_id="t")
    cause = caught.value.__cause__
    assert isinstance(cause, HistoryError)
    assert "Threads of 'Ada' failed in" in str(cause)
    assert "thread 't': OSError: the disk is gone" in str(cause)
    assert len(model.requests) == (method == "save")
    assert caught.value.result.text == ("Hello." if method == "save" else ""), "what was paid for is there"
    assert caught.value.result.status == "failed"


async def test_an_adapter_that_hangs_is_given_up():
    class Hanging(Threads):
        timeout = 0.05

        async def get(self, ctx: HistoryContext) -> list[Any]:
            await asyncio.Event().wait()
            return []

    class Blocking(Threads):
        timeout = 0.05
        free = threading.Event()

        def get(self, ctx: HistoryContext) -> Any:
            self.free.wait(20)
            return []

    for history in (Hanging(), Blocking()):
        with pytest.raises(RunFailed) as caught:
            await Agent("Ada", model=ScriptedModel(), history=history).run("hi", session_id="t")
        assert isinstance(caught.value.__cause__, HistoryUnavailable)
        assert "no answer within 0.05 s" in str(caught.value.__cause__)
    Blocking.free.set()


async def test_a_thread_that_cannot_be_created_fails_before_the_run_and_ends_a_stream():
    history = Creating()
    history.fails["create"] = OSError("full")
    agent = Agent("Ada", model=ScriptedModel(), history=history)
    with pytest.raises(HistoryError, match="failed in create_thread"):
        await agent.run("hi")
    recorder = EventRecorder()
    run = await recorder.watch(agent.stream("hi"))
    assert [type(one) for one in recorder.events] == [events.RunFailed]
    with pytest.raises(HistoryError):
        await run.result()


@pytest.mark.parametrize("given", [None, 5, "", "../x", "a" * 201, {"id": "x"}])
async def test_a_thread_id_that_is_none_is_refused(given: Any):
    class Odd(HistoryAdapter):
        async def create_thread(self, ctx: HistoryContext) -> Any:
            return given

    with pytest.raises(HistoryError, match=r"Odd\.create_thread\(\) gave no thread id"):
        await Agent("Ada", model=ScriptedModel(), history=Odd()).run("hi")


async def test_the_source_s_shape_of_a_created_thread_is_understood():
    class Shaped(HistoryAdapter):
        async def create_thread(self, ctx: HistoryContext) -> Any:
            return {"thread_id": "t-9"}

    assert (await Agent("A", model=ScriptedModel(say("x")), history=Shaped()).run("hi")).session_id == "t-9"


@pytest.mark.parametrize("given", ["text", 5, [{"role": "user"}], [None]])
async def test_a_history_that_is_none_is_refused(given: Any):
    class Odd(HistoryAdapter):
        async def get(self, ctx: HistoryContext) -> Any:
            return given

    with pytest.raises(RunFailed, match=r"Odd\.get\(\) gave"):
        await Agent("Ada", model=ScriptedModel(), history=Odd()).run("hi", session_id="t")


def test_what_is_no_adapter_is_refused_when_it_is_given():
    class Nothing(HistoryAdapter): ...

    class Slow(Threads):
        timeout = 0

    refused = {
        "takes a HistoryAdapter": object(),
        "give an instance": Threads,
        "overrides none": Nothing(),
        "timeout": Slow(),
    }
    for why, wrong in refused.items():
        with pytest.raises(DefinitionError, match=why):
            Agent("Ada", history=cast("Any", wrong))
        with pytest.raises(DefinitionError, match=why):
            Network("Net", agents=[Agent("Ada")], history=cast("Any", wrong))


def test_a_copy_of_a_definition_keeps_its_history():
    history = Threads()
    assert Agent("Ada", history=history).with_model("offline").history is history
    net = network(history, None)
    assert net.replace(name="Other").history is history
