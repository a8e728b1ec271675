"""Tools: what a model is told of each end of a call, how arguments are read, the context, the choice."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from perdure import (
    Agent,
    Context,
    DefinitionError,
    ModelRetry,
    Network,
    RunFailed,
    Toolset,
    UnknownName,
    tool,
    toolset,
)
from perdure.testing import ScriptedModel, call, calls
from tests.agents.watching import told, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


# -- results ----------------------------------------------------------------------------------------------------------


async def test_b14_a_value_is_data():
    @tool
    async def give(what: str) -> Any:
        return {"none": [None], "text": "x", "false": False, "empty": ""}[what]

    names = ["none", "text", "false", "empty"]
    answers = await told(give, calls(*(call("give", what=one) for one in names)))
    assert answers == [{"data": [None]}, {"data": "x"}, {"data": False}, {"data": ""}]


async def test_b14_nothing_is_said_to_be_success():
    @tool
    def save() -> None:
        pass

    assert await told(save) == [{"data": "save successfully executed"}]


async def test_b14_typed_values_become_plain_json():
    class Weather(BaseModel):
        city: str
        degrees: float

    @tool
    def weather() -> Weather:
        return Weather(city="Oslo", degrees=-3.5)

    assert await told(weather) == [{"data": {"city": "Oslo", "degrees": -3.5}}]


async def test_b14_b15_sync_and_async_exceptions_alike_are_errors_without_a_stack():
    @tool
    def sync() -> None:
        raise ValueError("no such city")

    @tool
    async def slow() -> None:
        raise ValueError("no such city")

    expected = [{"error": {"name": "ValueError", "message": "no such city"}}]
    assert await told(sync) == expected
    assert await told(slow) == expected


async def test_b15_an_exception_without_a_message_is_told_by_its_name():
    @tool
    async def bad() -> None:
        raise KeyError

    assert await told(bad) == [{"error": {"name": "KeyError", "message": "KeyError"}}]


async def test_b15_strict_ends_the_run_with_the_exception():
    @tool
    async def bad() -> None:
        raise ValueError("no")

    with pytest.raises(RunFailed, match="ValueError: no") as failed:
        await Agent("A", tools=[bad], model=ScriptedModel(call("bad")), strict=True).run("x")
    cause = failed.value.__cause__
    assert isinstance(cause, ValueError)
    assert any("agent/0/infer/0/tool/0" in note and "'A'" in note and "'bad'" in note for note in cause.__notes__)
    assert cause.__traceback__ is not None
    assert failed.value.result.status == "failed"


async def test_model_retry_reaches_the_model_also_of_a_strict_agent():
    @tool
    async def picky(size: int) -> int:
        if size > 3:
            raise ModelRetry("at most 3")
        return size

    answers = await told(picky, call("picky", size=9), call("picky", size=2), strict=True)
    assert answers == [{"error": {"name": "ModelRetry", "message": "at most 3"}}, {"data": 2}]


# -- arguments --------------------------------------------------------------------------------------------------------


async def test_b16_invalid_arguments_are_an_error_that_the_model_can_read():
    called: list[Any] = []

    @tool
    async def weather(city: str, unit: Literal["C", "F"] = "C") -> str:
        called.append((city, unit))
        return city

    answers = await told(weather, call("weather", town="Oslo", unit="K"), call("weather", city="Oslo"))
    assert answers[0]["error"]["name"] == "ArgumentsInvalid"
    assert "city" in answers[0]["error"]["message"]
    assert "unit" in answers[0]["error"]["message"]
    assert answers[1] == {"data": "Oslo"}
    assert called == [("Oslo", "C")]


async def test_b16_arguments_are_read_as_their_types():
    from datetime import date

    seen: list[Any] = []

    @tool
    def book(day: date, seats: int) -> None:
        seen.extend((day, seats))

    await told(book, call("book", day="2024-05-01", seats="3"))
    assert seen == [date(2024, 5, 1), 3]


async def test_b17_unknown_tool_is_an_error_result():
    @tool
    def weather() -> str:
        return "rain"

    answers = await told(weather, call("wether"))
    assert answers == [
        {"error": {"name": "UnknownTool", "message": "There is no tool named 'wether'. Known: weather."}}
    ]


async def test_b17_strict_ends_the_run_on_an_unknown_tool():
    with pytest.raises(RunFailed, match="no tool named 'wether'") as failed:
        await Agent("A", model=ScriptedModel(call("wether")), strict=True).run("x")
    assert isinstance(failed.value.__cause__, UnknownName)


# -- context ----------------------------------------------------------------------------------------------------------


async def test_b18_a_tool_is_given_agent_network_and_steps_of_this_run():
    seen: dict[str, Any] = {}

    @tool(effect="steps")
    async def look(ctx: Context[Any]) -> None:
        seen["agent"] = ctx.agent
        seen["network"] = ctx.network.name
        seen["agents"] = list(ctx.network.agents)
        seen["step"] = await ctx.step.run("double", lambda x: 2 * x, 21)
        seen["user"] = ctx.user_id
        seen["run"] = ctx.run_id
        seen["messages"] = [type(one).__name__ for one in ctx.messages]

    agent = Agent("A", tools=[look])
    network = Network("N", agents=[agent, Agent("B")], router=lambda r: agent if r.call_count == 0 else None)
    result = await network.run("x", model=ScriptedModel(call("look"), "ok"), user_id="ada")
    assert seen == {
        "agent": agent,
        "network": "N",
        "agents": ["A", "B"],
        "step": 42,
        "user": "ada",
        "run": result.run_id,
        "messages": ["TextMessage", "ToolCallMessage"],
    }


async def test_b18_an_agent_alone_has_steps_and_a_network_of_itself():
    seen: list[Any] = []

    @tool(effect="steps")
    async def look(ctx: Context[Any]) -> None:
        seen.append((ctx.network.name, list(ctx.network.agents), await ctx.step.run("one", lambda: 1)))

    await told(look)
    assert seen == [("A", ["A"], 1)]


@pytest.mark.parametrize("effect", ["steps", "once"])
async def test_b19_schedule_in_a_tool_queues_the_agent(effect: Any):
    @tool(effect=effect)
    def hand_over(ctx: Context[Any], to: str) -> str:
        ctx.network.schedule(to)
        return "done"

    first, second = Agent("First", tools=[hand_over]), Agent("Second")
    network = Network("N", agents=[first, second], router=lambda r: first if r.call_count == 0 else None)
    result = await network.run("x", model=ScriptedModel(call("hand_over", to="Second"), "handed over", "took over"))
    assert [one.agent_name for one in result.results] == ["First", "Second"]
    assert result.output == "took over"


async def test_b19_scheduling_an_unknown_agent_is_an_error_the_model_can_read():
    @tool
    def hand_over(ctx: Context[Any], to: str) -> None:
        ctx.network.schedule(to)

    agent = Agent("A", tools=[hand_over])
    network = Network("N", agents=[agent], router=lambda r: agent if r.call_count == 0 else None)
    result = await network.run("x", model=ScriptedModel(call("hand_over", to="Nobody"), "ok"))
    (answer,) = result.results[0].tool_calls
    assert answer.content == {
        "error": {"name": "UnknownName", "message": "There is no agent named 'Nobody'. Known: 'A'."}
    }
    assert [one.agent_name for one in result.results] == ["A"]


async def test_b19_a_tool_that_failed_has_scheduled_nothing():
    @tool
    def hand_over(ctx: Context[Any]) -> None:
        ctx.network.schedule("B")
        raise ValueError("no")

    agent = Agent("A", tools=[hand_over])
    network = Network("N", agents=[agent, Agent("B")], router=lambda r: agent if r.call_count == 0 else None)
    result = await network.run("x", model=ScriptedModel(call("hand_over"), "ok"))
    assert [one.agent_name for one in result.results] == ["A"]


async def test_resources_are_found_by_class():
    class Pool:
        def size(self) -> int:
            return 5

    @tool
    def look(ctx: Context[Any]) -> int:
        return ctx.use(Pool).size()

    model = ScriptedModel(call("look"), "ok", repeat=True)
    agent = Agent("A", tools=[look], model=model)
    assert (await agent.run("x", resources=[Pool()])).results[0].tool_calls[0].data == 5
    without = (await agent.run("x", resources=[object()])).results[0].tool_calls[0].content
    assert without["error"]["name"] == "UnknownName"
    assert "Pool" in without["error"]["message"]


async def test_progress_is_shown_while_a_tool_runs():
    @tool
    async def work(ctx: Context[Any]) -> str:
        ctx.emit({"done": 1})
        ctx.emit({"done": 2})
        return "ok"

    watched = await watch(Agent("A", tools=[work], model=ScriptedModel(call("work"), "ok")))
    names = watched.names[watched.names.index("ToolStarted") :][:4]
    assert names == ["ToolStarted", "ToolProgress", "ToolProgress", "ToolFinished"]


async def test_progress_that_is_not_json_is_an_error_of_the_tool():
    @tool
    async def work(ctx: Context[Any]) -> str:
        ctx.emit(object())
        return "ok"

    watched = await watch(Agent("A", tools=[work], model=ScriptedModel(call("work"), "ok")))
    assert watched.result.results[0].tool_calls[0].content["error"]["name"] == "Unserialisable"


# -- choice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["auto", "any", "none", "weather"])
async def test_b20_the_choice_is_asked_for_once_and_is_then_free(choice: str):
    @tool(effect="pure")
    def weather() -> str:
        return "rain"

    model = ScriptedModel(call("weather"), "ok")
    await Agent("A", tools=[weather], tool_choice=choice, model=model).run("x")
    assert [one.tool_choice for one in model.requests] == [choice, "none" if choice == "none" else "auto"]


async def test_b20_the_run_s_choice_wins():
    @tool(effect="pure")
    def weather() -> str:
        return "rain"

    model = ScriptedModel("ok")
    await Agent("A", tools=[weather], model=model).run("x", tool_choice="any")
    assert model.requests[0].tool_choice == "any"


# -- other ways to describe parameters --------------------------------------------------------------------------------


async def test_b21_parameters_may_be_a_json_schema():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    @tool(parameters=schema)
    async def square(**args: Any) -> int:
        return args["n"] ** 2

    model = ScriptedModel(call("square", n=4), call("square", n="four"), "ok")
    result = await Agent("A", tools=[square], model=model).run("x")
    assert model.requests[0].tools[0].parameters["properties"] == schema["properties"]
    good, bad = result.results[0].tool_calls
    assert good.data == 16
    assert bad.content["error"]["name"] == "ArgumentsInvalid"


async def test_b21_parameters_may_be_a_model_and_strict_reaches_the_provider():
    class Square(BaseModel):
        n: int

    @tool(parameters=Square, strict=True)
    async def square(args: Square) -> int:
        return args.n**2

    model = ScriptedModel(call("square", n=4), "ok")
    result = await Agent("A", tools=[square], model=model).run("x")
    assert model.requests[0].tools[0].strict
    assert result.results[0].tool_calls[0].data == 16


async def test_b21_calls_of_one_answer_run_at_once_unless_told_otherwise():
    order: list[str] = []
    both = asyncio.Barrier(2)

    @tool
    async def meet(name: str, at_once: bool) -> None:
        order.append(f"+{name}")
        if at_once:
            await both.wait()
        order.append(f"-{name}")

    pair = [calls(*(call("meet", name=one, at_once=flag) for one in "ab")) for flag in (True, False)]
    await Agent("A", tools=[meet], model=ScriptedModel(pair[0], "ok")).run("x")
    assert order[:2] == ["+a", "+b"]
    order.clear()
    await Agent("A", tools=[meet], model=ScriptedModel(pair[1], "ok"), parallel_tools=False).run("x")
    assert order == ["+a", "-a", "+b", "-b"]


async def test_sync_tools_run_in_threads_and_at_once():
    both = threading.Barrier(2, timeout=30)

    @tool
    def meet() -> str:
        both.wait()
        return threading.current_thread().name

    result = await Agent("A", tools=[meet], model=ScriptedModel(calls(call("meet"), call("meet")), "ok")).run("x")
    names = [one.data for one in result.results[0].tool_calls]
    assert threading.main_thread().name not in names


async def test_a_tool_stays_callable_as_what_it_was():
    @tool(effect="pure", timeout=5)
    async def double(n: int) -> int:
        """Double a number."""
        return 2 * n

    @tool
    def triple(n: int) -> int:
        return 3 * n

    assert await double(4) == 8
    assert triple(n=4) == 12
    assert (double.name, double.__name__, double.description) == ("double", "double", "Double a number.")


# -- toolsets ---------------------------------------------------------------------------------------------------------


@tool(effect="pure")
def read(path: str) -> str:
    """Read a file."""
    return f"text of {path}"


@tool
def write(path: str) -> str:
    """Write a file."""
    return f"wrote {path}"


async def test_toolsets_can_be_prefixed_filtered_and_prepared():
    async def only_reading(ctx: Context[Any], one: Any) -> bool:
        return one.effect == "pure"

    files = toolset(read, write)
    agent = Agent(
        "A",
        tools=[
            files.prefixed("a_"),
            files.filtered(only_reading).prefixed("b_"),
            files.prepared(lambda ctx, one: one.replace(name="c") if one.name == "read" else None),
        ],
    )
    model = ScriptedModel(call("b_read", path="x"), call("c", path="y"), "ok")
    result = await agent.run("x", model=model)
    assert [one.name for one in model.requests[0].tools] == ["a_read", "a_write", "b_read", "c"]
    assert [one.data for one in result.results[0].tool_calls] == ["text of x", "text of y"]


async def test_two_tools_of_one_name_from_toolsets_end_the_run_clearly():
    agent = Agent("A", tools=[toolset(read), toolset(read)], model=ScriptedModel("never"))
    with pytest.raises(RunFailed, match=r"two tools are named 'read'.*prefixed"):
        await agent.run("x")


class Opened(Toolset[Any]):
    def __init__(self, fails: bool = False) -> None:
        self.open = 0
        self.times = 0
        self.listed = 0
        self.fails = fails

    async def acquire(self) -> None:
        if self.fails:
            raise OSError("no such server")
        self.open += 1
        self.times += 1

    async def release(self) -> None:
        self.open -= 1

    async def list_tools(self, ctx: Context[Any]) -> list[Any]:
        self.listed += 1
        return [read]


async def test_a_toolset_is_acquired_once_per_run_and_released_however_the_run_ends():
    good = Opened()
    model = ScriptedModel(call("read", path="x"), "ok")
    await Agent("A", tools=[good], model=model).run("x")
    assert (good.times, good.open, good.listed) == (1, 0, 2)

    with pytest.raises(RunFailed):
        await Agent("A", tools=[good], model=ScriptedModel()).run("x")
    assert (good.times, good.open) == (2, 0)


async def test_a_toolset_that_cannot_be_opened_ends_the_run_with_its_error():
    good, bad = Opened(), Opened(fails=True)
    watched = await watch(Agent("A", tools=[good, bad], model=ScriptedModel("never")))
    assert isinstance(watched.error.__cause__, OSError)
    assert (good.open, bad.open) == (0, 0)


async def test_a_toolset_may_list_other_tools_for_each_inference():
    class Growing(Toolset[Any]):
        times = 0

        async def list_tools(self, ctx: Context[Any]) -> list[Any]:
            self.times += 1
            return [read, write][: self.times]

    model = ScriptedModel(call("read", path="x"), "ok")
    await Agent("A", tools=[Growing()], model=model).run("x")
    assert [[one.name for one in request.tools] for request in model.requests] == [["read"], ["read", "write"]]


# -- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "has space"}, "name 'has space' is not allowed"),
        ({"name": "x" * 65}, "is not allowed"),
        ({"effect": "twice"}, "effect='twice' is unknown"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": -1}, "above 0"),
        ({"retries": -1}, "must be a whole number from 0"),
        ({"timeout": "5"}, "timeout='5'"),
        ({"retries": "2"}, "retries='2'"),
        ({"requires_approval": "yes"}, "requires_approval='yes'"),
    ],
)
def test_wrong_options_are_refused_when_a_tool_is_made(options: dict[str, Any], message: str):
    with pytest.raises(DefinitionError, match=message):
        tool(read.fn, **options)


async def test_an_async_generator_is_no_tool():
    async def stream() -> AsyncIterator[str]:
        yield "x"

    with pytest.raises(DefinitionError, match="stream"):
        await told(tool(stream))


def test_a_tool_is_made_of_a_function():
    with pytest.raises(DefinitionError, match=r"takes a function, not 5"):
        tool(5)  # pyright: ignore[reportArgumentType,reportCallIssue]
