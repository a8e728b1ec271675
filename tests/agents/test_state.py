"""State: where a run starts from, who sees what, and what is left."""

import dataclasses
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from perdure import (
    Agent,
    AgentResult,
    Context,
    DefinitionError,
    NeedsRuntime,
    Network,
    RouterArgs,
    RunFailed,
    State,
    Unserialisable,
    sequence,
    tool,
)
from perdure.testing import ScriptedModel, call
from perdure.types.messages import user
from tests.agents.watching import replayed, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclasses.dataclass
class Support:
    user: str = ""
    tags: list[str] = dataclasses.field(default_factory=list)


class Model(BaseModel):
    user: str = ""
    tags: list[str] = []


class Struct(msgspec.Struct):
    user: str = ""
    tags: list[str] = msgspec.field(default_factory=list)


class Typed(TypedDict, total=False):
    user: str
    tags: list[str]


# -- where it comes from ----------------------------------------------------------------------------------------------


async def test_b03_the_run_s_state_wins_then_the_network_s_then_a_new_one():
    agent = Agent("A")
    model = ScriptedModel("ok", repeat=True)
    network = Network("N", agents=[agent], router=sequence(agent), state=lambda: Support("network"), model=model)
    assert (await network.run("x", state=Support("run"))).state.data == Support("run")
    assert (await network.run("x")).state.data == Support("network")
    assert (await Network("N", agents=[agent], router=sequence(agent), model=model).run("x")).state.data == {}
    assert (await agent.run("x", model=model)).state.data == {}


async def test_b03_an_agent_alone_takes_any_state():
    model = ScriptedModel("ok", repeat=True)
    for data in (Support("a"), Model(user="a"), Struct("a"), {"user": "a"}):
        result = await Agent("A", model=model).run("x", state=data)
        assert result.state.data == data
        assert result.state.data is not data


@pytest.mark.parametrize("kind", [Support, Model, Struct, Typed, dict])
async def test_every_kind_of_state_is_changed_by_tools_and_read_by_routers(kind: Any):
    @tool
    async def note(ctx: Context[Any], tag: str) -> None:
        data = ctx.state.data
        if isinstance(data, dict):
            data.setdefault("tags", []).append(tag)
        else:
            data.tags.append(tag)

    def route(r: RouterArgs[Any]) -> Any:
        data = r.state.data
        return agent if not (data.get("tags") if isinstance(data, dict) else data.tags) else None

    agent = Agent("A", tools=[note])
    result = await Network("N", agents=[agent], router=route, state=kind).run(
        "x", model=ScriptedModel(call("note", tag="a"), call("note", tag="b"), "ok")
    )
    data = result.state.data
    assert type(data) is (dict if kind is Typed else kind)
    assert (data["tags"] if isinstance(data, dict) else data.tags) == ["a", "b"]


async def test_b03_a_state_of_another_type_than_the_network_s_is_refused():
    agent = Agent("A")
    network = Network("N", agents=[agent], router=sequence(agent), state=Support)
    with pytest.raises(DefinitionError, match=r"The state is 'dict', but 'Support' was declared"):
        await network.run("x", state={"user": "a"}, model=ScriptedModel())


async def test_a_state_that_json_would_change_is_refused_with_the_path():
    with pytest.raises(Unserialisable, match=r"\.tags"):
        await Agent("A").run("x", state={"tags": {1, 2}}, model=ScriptedModel())


async def test_a_whole_state_brings_data_messages_and_results():
    agent = Agent("A", system="S")
    first = await agent.run("one", state={"n": 1}, model=ScriptedModel("first"))
    model = ScriptedModel("second")
    second = await agent.run("two", state=first.state, model=model)
    assert [one.text for one in model.requests[0].messages] == ["S", "one", "first", "two"]
    assert second.state.data == {"n": 1}
    assert [one.text for one in second.state.results] == ["first", "second"]
    assert [one.text for one in second.results] == ["second"]


async def test_results_without_messages_are_what_was_said():
    given = State({}, results=[AgentResult("A", (user("one"),))])
    model = ScriptedModel("ok")
    await Agent("A").run("two", state=given, model=model)
    assert [one.text for one in model.requests[0].messages] == ["one", "two"]


async def test_results_that_go_beyond_the_messages_follow_them():
    """Also one that says the same as another that is among the messages."""
    same = AgentResult("A", (user("one"),))
    model = ScriptedModel("ok")
    await Agent("A").run("two", state=State({}, messages=[user("one")], results=[same, same]), model=model)
    assert [one.text for one in model.requests[0].messages] == ["one", "one", "two"]


async def test_b34_a_state_that_was_stored_as_json_goes_on_with_real_results():
    agent = Agent("A")
    first = await agent.run("one", state=Support("ada"), model=ScriptedModel("first"))
    import json

    text = json.dumps(first.state.to_json())
    again = State.from_json(json.loads(text), Support)
    assert again.data == Support("ada")
    assert again.messages == first.state.messages
    assert again.results == first.state.results
    assert again.results[0].checksum == first.results[0].checksum
    model = ScriptedModel("second")
    second = await agent.run("two", state=again, model=model)
    assert [one.text for one in model.requests[0].messages] == ["one", "first", "two"]
    assert second.state.data == Support("ada")


def test_b34_the_thread_id_survives_json():
    state = State({"n": 1}, thread_id="t-42")
    assert State.from_json(state.to_json(), dict).thread_id == "t-42"


async def test_a_thread_id_is_the_session_and_needs_what_was_said_without_a_runtime():
    result = await Agent("A").run("x", state=State(messages=[user("a")], thread_id="t-42"), model=ScriptedModel("ok"))
    assert result.session_id == result.state.thread_id == "t-42"
    with pytest.raises(NeedsRuntime, match="Continuing a thread"):
        await Agent("A").run("x", state=State(thread_id="t-42"), model=ScriptedModel())


async def test_messages_twice_are_refused():
    with pytest.raises(DefinitionError, match="give one of the two"):
        await Agent("A").run("x", messages=[user("a")], state=State(messages=[user("b")]), model=ScriptedModel())


def test_something_that_is_no_stored_state_is_refused():
    with pytest.raises(DefinitionError, match="not a stored state"):
        State.from_json({"no": "data"}, dict)


def test_a_clone_shares_nothing():
    state = State({"list": [1]}, messages=[user("a")])
    copy = state.clone()
    copy.data["list"].append(2)
    assert state.data == {"list": [1]}
    assert copy.messages == state.messages


# -- who sees what ----------------------------------------------------------------------------------------------------


async def test_r12_a_step_sees_a_private_copy_and_its_changes_count_when_it_succeeds():
    @tool
    async def good(ctx: Context[Any]) -> None:
        ctx.state.data["good"] = True

    @tool
    async def bad(ctx: Context[Any]) -> None:
        ctx.state.data["bad"] = True
        raise ValueError("no")

    model = ScriptedModel(call("good"), call("bad"), "ok")
    start = {"n": 1}
    result = await Agent("A", tools=[good, bad]).run("x", state=start, model=model)
    assert result.state.data == {"n": 1, "good": True}
    assert start == {"n": 1}


async def test_writes_outside_a_step_change_nothing():
    kept: list[Any] = []

    @tool
    async def keep(ctx: Context[Any]) -> None:
        kept.append(ctx.state.data)

    def prompt(ctx: Context[Any]) -> str:
        if kept:
            kept[0]["late"] = True
        return f"{ctx.state.data}"

    model = ScriptedModel(call("keep"), "ok")
    result = await Agent("A", system=prompt, tools=[keep]).run("x", state={"n": 1}, model=model)
    assert [request.messages[0].text for request in model.requests] == ["{'n': 1}", "{'n': 1}"]
    assert result.state.data == {"n": 1}


async def test_a_router_may_change_the_state():
    agent = Agent("A", system=lambda ctx: f"{ctx.state.data}")

    def route(r: RouterArgs[Any]) -> Any:
        r.state.data["routes"] = r.state.data.get("routes", 0) + 1
        return agent if r.call_count == 0 else None

    model = ScriptedModel("ok")
    result = await Network("N", agents=[agent], router=route).run("x", model=model)
    assert model.requests[0].messages[0].text == "{'routes': 1}"
    assert result.state.data == {"routes": 2}


async def test_the_whole_data_may_be_replaced():
    @tool
    async def start_over(ctx: Context[Support]) -> None:
        ctx.state.data = Support("new")

    agent = Agent("A", tools=[start_over])
    network = Network("N", agents=[agent], router=sequence(agent), state=Support)
    result = await network.run("x", state=Support("old", ["a"]), model=ScriptedModel(call("start_over"), "ok"))
    assert result.state.data == Support("new")


async def test_state_that_cannot_be_kept_is_a_typed_error_of_the_step_and_not_retried():
    entered: list[int] = []

    @tool(effect="pure", retries=3)
    async def bad(ctx: Context[Any]) -> None:
        entered.append(1)
        ctx.state.data["socket"] = object()

    watched = await watch(Agent("A", tools=[bad], model=ScriptedModel(call("bad"), "ok")), state={"n": 1})
    (answer,) = watched.result.results[0].tool_calls
    assert answer.content["error"]["name"] == "Unserialisable"
    assert ".socket: object" in answer.content["error"]["message"]
    assert watched.result.state.data == {"n": 1}
    assert entered == [1]


class Counted(BaseModel):
    n: int = 0


@dataclasses.dataclass
class Plain:
    n: int = 0


@pytest.mark.parametrize("kind", [Counted, Plain])
async def test_a_value_of_another_type_than_its_field_is_an_error_of_the_step(kind: Any):
    @tool
    async def bad(ctx: Context[Any]) -> None:
        ctx.state.data.n = "three"

    @tool
    async def good(ctx: Context[Any]) -> None:
        ctx.state.data.n += 1

    agent = Agent("A", tools=[bad, good])
    network = Network("N", agents=[agent], router=sequence(agent), state=kind)
    result = await network.run("x", model=ScriptedModel(call("bad"), call("good"), "ok"))
    refused, taken = result.results[0].tool_calls
    assert refused.content["error"]["name"] == "Unserialisable"
    assert "n" in refused.content["error"]["message"]
    assert not taken.is_error
    assert result.state.data == kind(n=1)


async def test_state_of_another_type_is_an_error_of_the_step():
    @tool
    async def bad(ctx: Context[Any]) -> None:
        ctx.state.data = ["not", "support"]

    agent = Agent("A", tools=[bad])
    network = Network("N", agents=[agent], router=sequence(agent), state=Support)
    result = await network.run("x", model=ScriptedModel(call("bad"), "ok"))
    assert result.results[0].tool_calls[0].content["error"]["name"] == "DefinitionError"
    assert result.state.data == Support()


async def test_r12_r13_the_first_record_holds_the_whole_state_and_steps_hold_patches():
    @tool
    async def note(ctx: Context[Support]) -> None:
        ctx.state.data.tags.append("a")

    agent = Agent("A", tools=[note])
    network = Network("N", agents=[agent], router=sequence(agent), state=Support)
    watched = await watch(network, model=ScriptedModel(call("note"), "ok"), state=Support("ada"))
    records = await watched.records()
    assert records[0].payload.state == {"user": "ada", "tags": []}
    patches = {one.key: one.payload.patch for one in records if getattr(one.payload, "patch", None)}
    assert patches == {"agent/0/infer/0/tool/0": [{"op": "replace", "path": "/tags", "value": ["a"]}]}
    assert replayed(watched.running, records).doc == {"user": "ada", "tags": ["a"]}
    assert [one.patch for one in watched.events if type(one).__name__ == "StateChanged"] == list(patches.values())


def test_a_network_refuses_tools_for_another_state():
    @tool
    async def note(ctx: Context[Support]) -> None: ...

    with pytest.raises(DefinitionError, match=r"wants Context\[Support\].*state is Model"):
        Network("N", agents=[Agent("A", tools=[note])], state=Model)
    Network("N", agents=[Agent("A", tools=[note])], state=Support)


async def test_a_state_class_that_needs_arguments_is_refused_where_the_run_begins():
    @dataclasses.dataclass
    class Needs:
        user: str

    agent = Agent("A")
    network = Network("N", agents=[agent], router=sequence(agent), state=Needs)
    with pytest.raises(DefinitionError, match="cannot be made without arguments"):
        await network.run("x", model=ScriptedModel())
    assert (await network.run("x", state=Needs("ada"), model=ScriptedModel("ok"))).state.data == Needs("ada")


async def test_a_prompt_that_breaks_the_state_ends_the_run():
    def prompt(ctx: Context[Any]) -> str:
        ctx.state.data["x"] = object()
        return "S"

    with pytest.raises(RunFailed, match="Unserialisable"):
        await Agent("A", system=prompt).run("x", model=ScriptedModel("ok"))
