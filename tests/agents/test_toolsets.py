"""Toolsets: wrappers, names, who holds them and for how long, and what is listed when."""

import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

import pytest

from perdure import (
    Agent,
    Approve,
    Context,
    DefinitionError,
    Network,
    RunFailed,
    Tool,
    Toolset,
    parallel,
    tool,
    toolset,
)
from perdure.testing import ScriptedModel, call, calls, fail, hang, say
from tests.agents.watching import check_transcript, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@tool(effect="pure")
def weather(city: str) -> str:
    """Say the weather.

    Args:
        city: where
    """
    return f"rain in {city}"


@tool(effect="idempotent", timeout=5, retries=2)
async def refund(amount: int) -> str:
    """Pay back."""
    return f"paid {amount}"


def offered(model: ScriptedModel, request: int = 0) -> list[str]:
    """The names of the tools that a model was offered."""
    return [one.name for one in model.requests[request].tools]


def result_of(result: Any, place: int = 0) -> Any:
    """What the model was told that a call gave."""
    return [one for one in result.messages if type(one).__name__ == "ToolResultMessage"][place].content


class Books(Toolset[Any]):
    """A toolset that counts who holds it, and lists what it is told."""

    def __init__(self, *tools: Tool[..., Any, Any]) -> None:
        self.tools: Sequence[Any] = tools or (weather,)
        self.held = 0
        self.acquired = 0
        self.listed = 0
        self.seen_held: list[int] = []
        self.was_listed = asyncio.Event()

    async def acquire(self) -> None:
        await asyncio.sleep(0)  # another agent may come in between
        self.held += 1
        self.acquired += 1

    async def release(self) -> None:
        await asyncio.sleep(0)
        self.held -= 1

    async def list_tools(self, ctx: Context[Any]) -> Sequence[Any]:
        self.listed += 1
        self.seen_held.append(self.held)
        self.was_listed.set()
        return self.tools


# -- wrappers ---------------------------------------------------------------------------------------------------------


async def test_a_prefix_is_part_of_the_name_that_the_model_sees_and_calls():
    model = ScriptedModel(call("met_weather", city="Oslo"), say("Rain."))
    agent = Agent("A", tools=[toolset(weather, refund).prefixed("met_")], model=model)
    result = await agent.run("x")
    assert offered(model) == ["met_weather", "met_refund"]
    assert result_of(result) == {"data": "rain in Oslo"}
    assert result.output == "Rain."


async def test_a_wrapped_tool_keeps_all_else():
    (kept,) = await toolset(refund).prefixed("x_").list_tools(None)  # type: ignore[arg-type]
    assert (kept.name, kept.effect, kept.timeout, kept.retries) == ("x_refund", "idempotent", 5, 2)
    assert kept.spec.description == "Pay back."
    assert kept.spec.parameters == refund.spec.parameters
    assert refund.name == "refund", "the tool itself is not changed"


async def test_what_is_read_from_a_function_is_read_once_for_all_copies(monkeypatch: pytest.MonkeyPatch):
    tool_file = importlib.import_module("perdure.agents.tool")
    read: list[Any] = []
    real = tool_file.read_signature

    def counted(fn: Any, **options: Any) -> Any:
        read.append(fn)
        return real(fn, **options)

    monkeypatch.setattr(tool_file, "read_signature", counted)
    fresh = tool(weather.fn, name="fresh")
    group = toolset(fresh).prefixed("a_").prefixed("b_").approved()
    for _ in range(3):
        (one,) = await group.list_tools(None)  # type: ignore[arg-type]
        assert one.spec.parameters["required"] == ["city"]
    assert len(read) == 1
    assert fresh.replace(parameters={"type": "object", "properties": {}}).spec.parameters["properties"] == {}


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_filter_sees_context_and_tool(is_async: bool):
    seen: list[tuple[str, str]] = []

    def keep(ctx: Context[Any], one: Tool[..., Any, Any]) -> bool:
        seen.append((ctx.agent.name, one.name))
        return one.effect == "pure"

    async def later(ctx: Context[Any], one: Tool[..., Any, Any]) -> bool:
        return keep(ctx, one)

    model = ScriptedModel(call("refund", amount=5), say("no"))
    agent = Agent("A", tools=[toolset(weather, refund).filtered(later if is_async else keep)], model=model)
    result = await agent.run("x")
    assert offered(model) == ["weather"]
    assert seen[:2] == [("A", "weather"), ("A", "refund")]
    assert result_of(result)["error"]["name"] == "UnknownTool"
    assert "weather" in result_of(result)["error"]["message"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_prepared_changes_tools_and_leaves_some_out(is_async: bool):
    def prepare(ctx: Context[Any], one: Tool[..., Any, Any]) -> Tool[..., Any, Any] | None:
        return one.replace(description=f"For {ctx.user_id}.") if one.name == "weather" else None

    async def later(ctx: Context[Any], one: Tool[..., Any, Any]) -> Tool[..., Any, Any] | None:
        return prepare(ctx, one)

    model = ScriptedModel(say("hi"))
    agent = Agent("A", tools=[toolset(weather, refund).prepared(later if is_async else prepare)], model=model)
    await agent.run("x", user_id="ada")
    assert [(one.name, one.description) for one in model.requests[0].tools] == [("weather", "For ada.")]


async def test_approved_asks_for_each_call():
    model = ScriptedModel(call("refund", amount=5), say("Done."))
    agent = Agent("A", tools=[toolset(refund).approved()], model=model)
    waiting = await agent.run("x")
    assert waiting.status == "waiting"
    assert (waiting.waits[0].tool, waiting.waits[0].args) == ("refund", {"amount": 5})
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result_of(result) == {"data": "paid 5"}


async def test_approved_asks_where_a_predicate_says_so():
    model = ScriptedModel(calls(call("refund", amount=5), call("refund", amount=500)), say("Done."))
    agent = Agent("A", tools=[toolset(refund).approved(lambda amount: amount > 100)], model=model)
    waiting = await agent.run("x")
    assert [one.args for one in waiting.waits] == [{"amount": 500}]


async def test_wrappers_nest_in_any_order():
    model = ScriptedModel(call("b_a_weather", city="Oslo"), say("Rain."))
    group = (
        toolset(weather, refund)
        .prefixed("a_")
        .filtered(lambda _ctx, one: one.name.startswith("a_"))
        .prepared(lambda _ctx, one: None if one.name == "a_refund" else one)
        .prefixed("b_")
        .approved(False)
    )
    result = await Agent("A", tools=[group], model=model).run("x")
    assert offered(model) == ["b_a_weather"]
    assert result_of(result) == {"data": "rain in Oslo"}


async def test_one_toolset_may_be_used_under_several_prefixes():
    books = Books()
    model = ScriptedModel(calls(call("x_weather", city="A"), call("y_weather", city="B")), say("ok"))
    agent = Agent("A", tools=[books.prefixed("x_"), books.prefixed("y_"), refund], model=model)
    result = await agent.run("x")
    assert offered(model) == ["x_weather", "y_weather", "refund"]
    assert [result_of(result, n) for n in (0, 1)] == [{"data": "rain in A"}, {"data": "rain in B"}]
    assert (books.acquired, books.held) == (2, 0)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tools",
    [
        [weather, toolset(weather)],
        [toolset(weather), toolset(weather)],
        [toolset(weather).prefixed("x_"), toolset(tool(weather.fn, name="x_weather"))],
        [toolset(weather, weather)],
    ],
)
async def test_two_tools_of_one_name_are_refused_when_they_are_listed(tools: list[Any]):
    with pytest.raises(RunFailed, match=r"two tools are named '(x_)?weather'.*prefixed") as failed:
        await Agent("A", tools=tools, model=ScriptedModel(say("never"))).run("x")
    assert isinstance(failed.value.__cause__, DefinitionError)


async def test_a_prefix_that_makes_a_wrong_name_is_refused():
    with pytest.raises(RunFailed, match="tool name 'my tools weather' is not allowed"):
        await Agent("A", tools=[toolset(weather).prefixed("my tools ")], model=ScriptedModel(say("never"))).run("x")


@pytest.mark.parametrize("wrong", [print, "weather", None, Agent("B")])
def test_a_toolset_takes_tools_only(wrong: Any):
    with pytest.raises(DefinitionError, match="takes tools, not"):
        toolset(weather, wrong)


@pytest.mark.parametrize("wrong", [print, "weather"])
async def test_a_toolset_that_lists_something_else_is_refused(wrong: Any):
    books = Books()
    books.tools = [wrong]
    with pytest.raises(RunFailed, match="which is no tool"):
        await Agent("A", tools=[books], model=ScriptedModel(say("never"))).run("x")
    assert books.held == 0


def test_a_toolset_without_a_list_says_what_it_lacks():
    class Empty(Toolset[Any]):
        pass

    with pytest.raises(TypeError, match=r"Empty.*list_tools"):
        Empty()  # pyright: ignore[reportAbstractUsage]


# -- holding ----------------------------------------------------------------------------------------------------------


async def test_a_run_holds_a_toolset_once_however_often_it_lists():
    books = Books()
    model = ScriptedModel(call("weather", city="A"), call("weather", city="B"), say("ok"))
    await Agent("A", tools=[books], model=model).run("x")
    assert (books.acquired, books.held, books.listed) == (1, 0, 3)
    assert books.seen_held == [1, 1, 1]


async def test_each_run_holds_for_itself():
    books = Books()
    agent = Agent("A", tools=[books.prefixed("x_")])
    model = ScriptedModel(say("ok"), repeat=True)
    await asyncio.gather(*(agent.run("x", model=model) for _ in range(5)))
    assert (books.acquired, books.held) == (5, 0)
    assert max(books.seen_held) > 1, "they went on at the same time"


async def test_agents_of_one_network_share_a_hold():
    books = Books()
    first, second = (Agent(name, tools=[books]) for name in "AB")
    in_turn = Network("N", agents=[first, second], router=lambda r: [first, second][r.call_count : r.call_count + 1])
    await in_turn.run("x", model=ScriptedModel(say("a"), say("b")))
    assert (books.acquired, books.held) == (1, 0)

    at_once = Network("N", agents=[first, second], router=lambda r: None if r.call_count else parallel(first, second))
    await at_once.run("x", model=ScriptedModel(say("a"), say("b")))
    assert (books.acquired, books.held) == (2, 0), "once more, though both wanted it at once"


@pytest.mark.parametrize(
    "script",
    [
        [fail(ValueError("no"))],
        [call("weather", city="A"), fail(ValueError("no"))],
        [call("weather", city="A")],
    ],
    ids=["model", "later", "script over"],
)
async def test_a_failure_lets_go(script: list[Any]):
    books = Books()
    watched = await watch(Agent("A", tools=[books], model=ScriptedModel(*script)))
    assert isinstance(watched.error, RunFailed)
    assert (books.acquired, books.held) == (1, 0)


async def test_a_cancel_lets_go():
    books = Books()
    run = Agent("A", tools=[books], model=ScriptedModel(hang())).start("x")
    async for event in run.events():
        if type(event).__name__ == "MessageStarted":
            await run.cancel()
    assert run.status == "cancelled"
    assert (books.acquired, books.held) == (1, 0)


async def test_a_cancel_from_outside_lets_go():
    books = Books()
    task = asyncio.create_task(Agent("A", tools=[books], model=ScriptedModel(hang())).run("x"))
    await books.was_listed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (books.acquired, books.held) == (1, 0)


async def test_a_toolset_that_cannot_be_acquired_fails_the_run_and_lets_the_others_go():
    class Broken(Books):
        async def acquire(self) -> None:
            raise ConnectionError("nobody there")

    books, broken = Books(), Broken(refund)
    with pytest.raises(RunFailed, match="nobody there") as failed:
        await Agent("A", tools=[books, broken], model=ScriptedModel(say("never"))).run("x")
    assert isinstance(failed.value.__cause__, ConnectionError)
    assert (books.acquired, books.held) == (1, 0)
    assert broken.held == 0, "what was not acquired is not released"


async def test_every_toolset_is_let_go_also_if_one_cannot():
    class Sticky(Books):
        async def release(self) -> None:
            await super().release()
            raise ConnectionError("broke off")

    first, sticky, last = Books(weather), Sticky(refund), Books(tool(weather.fn, name="again"))
    with pytest.raises(ConnectionError, match="broke off"):
        await Agent("A", tools=[first, sticky, last], model=ScriptedModel(say("ok"))).run("x")
    assert (first.held, sticky.held, last.held) == (0, 0, 0)


async def test_a_run_that_waits_lets_go_and_holds_again_when_it_goes_on():
    held: list[int] = []

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        held.append(books.held)
        return f"paid {amount}"

    books = Books(pay)
    model = ScriptedModel(call("pay", amount=5), say("Done."))
    waiting = await Agent("A", tools=[books.approved()], model=model).run("x")
    assert (waiting.status, books.held) == ("waiting", 0), "a wait may last for weeks"
    result = await waiting.resume({waiting.waits[0].id: Approve()})
    assert result.output == "Done."
    assert held == [1]
    assert books.held == 0
    check_transcript(result.messages)


# -- listing ----------------------------------------------------------------------------------------------------------


async def test_tools_are_listed_before_each_inference():
    books = Books(weather)

    @tool(effect="pure")
    async def unlock() -> str:
        """Make more tools."""
        books.tools = (refund,)
        return "unlocked"

    model = ScriptedModel(call("unlock"), calls(call("refund", amount=5), call("weather", city="A")), say("ok"))
    result = await Agent("A", tools=[unlock, books], model=model).run("x")
    assert [offered(model, n) for n in range(3)] == [
        ["unlock", "weather"],
        ["unlock", "refund"],
        ["unlock", "refund"],
    ]
    assert result_of(result, 1) == {"data": "paid 5"}
    assert result_of(result, 2)["error"]["name"] == "UnknownTool"
    check_transcript(result.messages)


async def test_the_record_of_an_inference_names_the_tools_it_was_made_with():
    books = Books(weather)

    @tool(effect="pure")
    async def change() -> str:
        """Change the tools."""
        books.tools = (refund,)
        return "changed"

    model = ScriptedModel(call("change"), call("refund", amount=1), say("ok"))
    watched = await watch(Agent("A", tools=[change, books], model=model))
    prompts = [one.payload for one in await watched.records() if one.kind == "inference"]
    digests = [one.prompt.tools for one in prompts]  # type: ignore[union-attr]
    assert digests[0] != digests[1] == digests[2]
    texts = {name: text for one in prompts for name, text in one.texts.items()}  # type: ignore[union-attr]
    assert "weather" in texts[digests[0]] and "refund" not in texts[digests[0]]  # type: ignore[index]
    assert "refund" in texts[digests[1]]  # type: ignore[index]
    assert sum(name == digests[1] for one in prompts for name in one.texts) == 1, "each text is kept once"  # type: ignore[union-attr]


async def test_parallel_agents_see_each_its_own_list():
    async def mine(ctx: Context[Any], one: Tool[..., Any, Any]) -> bool:
        return one.name.endswith(ctx.agent.name.lower())

    group = toolset(*(tool(weather.fn, name=f"ask_{name}") for name in "ab")).filtered(mine)
    first, second = (Agent(name, tools=[group]) for name in "AB")
    network = Network("N", agents=[first, second], router=lambda r: None if r.call_count else parallel(first, second))
    model = ScriptedModel(call("ask_a", city="A"), call("ask_b", city="B"), say("a"), say("b"))
    result = await network.run("x", model=model)
    assert sorted(offered(model, n)[0] for n in (0, 1)) == ["ask_a", "ask_b"]
    assert all(not one.is_error for turn in result.results for one in turn.tool_calls)


async def test_two_agents_may_have_tools_of_one_name_with_other_effects():
    @tool(name="look", effect="once")
    async def plainly() -> str:
        """Look."""
        return "seen"

    @tool(name="look", effect="steps")
    async def in_steps(ctx: Context[Any]) -> str:
        """Look."""
        return await ctx.step.run("inner", lambda: "seen in a step")

    first, second = Agent("A", tools=[plainly]), Agent("B", tools=[in_steps])
    network = Network("N", agents=[first, second], router=lambda r: [first, second][r.call_count : r.call_count + 1])
    model = ScriptedModel(call("look"), say("a"), call("look"), say("b"))
    result = await network.run("x", model=model)
    assert [turn.tool_calls[0].data for turn in result.results] == ["seen", "seen in a step"]


# -- the choice of a tool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["x_weather", "any", "none", "auto"])
async def test_a_choice_may_name_a_tool_of_a_toolset(choice: str):
    model = ScriptedModel(call("x_weather", city="A"), say("ok"))
    await Agent("A", tools=[toolset(weather).prefixed("x_")], tool_choice=choice, model=model).run("x")
    assert model.requests[0].tool_choice == choice
    assert model.requests[1].tool_choice == ("none" if choice == "none" else "auto"), "or it would never end"


@pytest.mark.parametrize("tools", [[toolset(weather)], [toolset(weather).prefixed("x_").filtered(lambda *_: False)]])
async def test_a_choice_that_is_not_listed_is_refused_and_never_sent(tools: list[Any]):
    model = ScriptedModel(say("never"))
    with pytest.raises(RunFailed, match="tool_choice='x_weather' is none of its tools") as failed:
        await Agent("A", tools=tools, tool_choice="x_weather", model=model).run("x")
    assert isinstance(failed.value.__cause__, DefinitionError)
    assert model.requests == []


async def test_a_run_s_choice_of_an_unknown_tool_is_refused():
    with pytest.raises(RunFailed, match="tool_choice='wether' is none of its tools"):
        await Agent("A", tools=[weather], model=ScriptedModel(say("never"))).run("x", tool_choice="wether")


async def test_a_run_s_choice_holds_for_the_agents_that_have_the_tool():
    first, second = Agent("A", tools=[weather]), Agent("B", tools=[refund], tool_choice="any")
    network = Network("N", agents=[first, second], router=lambda r: [first, second][r.call_count : r.call_count + 1])
    model = ScriptedModel(call("weather", city="A"), say("a"), call("refund", amount=1), say("b"))
    await network.run("x", model=model, tool_choice="weather")
    assert [one.tool_choice for one in model.requests] == ["weather", "auto", "any", "auto"]
