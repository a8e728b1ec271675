"""Bad input: each is a clear error or a defined result, and nothing hangs."""

import asyncio
import threading
from typing import Any

import pytest

from perdure import (
    Agent,
    BadResponse,
    DefinitionError,
    Hooks,
    InvalidId,
    NeedsRuntime,
    Network,
    RoutingAgent,
    RunFailed,
    State,
    Unserialisable,
    tool,
)
from perdure.durable.kernel import SystemClock
from perdure.models.model import Capabilities, ModelSettings
from perdure.testing import FunctionModel, ScriptedModel, call, calls, hang, raw
from perdure.types.chunks import Finished, TextChunk, ToolCallChunk
from tests.agents.watching import check_transcript, watch

pytestmark = pytest.mark.usefixtures("nothing_left")
MB = 1_000_000


@tool(effect="pure")
async def echo(text: str) -> str:
    """Echo."""
    return text


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let back-off take no time."""

    async def sleep(self: Any, seconds: float) -> None: ...

    monkeypatch.setattr(SystemClock, "sleep", sleep)


# -- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "a name is 1 to 200 characters"),
        ({"name": "  "}, "a name is 1 to 200 characters"),
        ({"name": 5}, r"Agent\(name=5\)"),
        ({"name": None}, r"Agent\(name=None\)"),
        ({"name": "a/b"}, "without '/'"),
        ({"name": "x" * 201}, "1 to 200"),
        ({"system": 5}, r"Agent\('A'\): system= takes text or a function of the context, not 5"),
        ({"system": ["S"]}, "system= takes"),
        ({"model": 5}, r'model= takes a model or "provider:name", not 5'),
        ({"model": "gpt-5"}, "names no provider"),
        ({"model": ScriptedModel}, "model= takes a model"),
        ({"tools": echo}, "tools= takes a list"),
        ({"tools": "echo"}, "tools= takes a list"),
        ({"tools": [5]}, "tools= holds 5; give tools made by @tool"),
        ({"tools": [lambda: 1]}, "decorate the function with @tool"),
        ({"tools": [echo, echo]}, "two tools are named 'echo'"),
        ({"tools": None}, "tools= takes a list"),
        ({"tool_choice": "search"}, "tool_choice='search' is none of its tools"),
        ({"tool_choice": 5}, "tool_choice=5"),
        ({"hooks": 5}, "hooks= takes a Hooks value"),
        ({"hooks": [5]}, "hooks= takes a Hooks value"),
        ({"hooks": lambda: 1}, "hooks= takes a Hooks value"),
        ({"settings": {"temperature": 1}}, "settings= takes ModelSettings"),
        ({"max_iter": -1}, "max_iter=-1 must be a whole number"),
        ({"max_iter": 2.5}, "max_iter=2.5"),
        ({"max_iter": "3"}, "max_iter='3'"),
        ({"max_iter": True}, "max_iter=True"),
        ({"description": 5}, "description=5"),
        ({"prefill": 5}, "prefill=5"),
        ({"enabled": "yes"}, "enabled='yes'"),
        ({"parallel_tools": "yes"}, "parallel_tools='yes'"),
        ({"strict": 1}, "strict=1"),
        ({"stop_when": 5}, "stop_when=5"),
        ({"stop_when": ["search"]}, "stop_when= names 'search', which is none of its tools"),
        ({"output_retries": -1}, "output_retries=-1"),
    ],
)
def test_wrong_agents_are_refused_when_they_are_made(options: dict[str, Any], message: str):
    with pytest.raises(DefinitionError, match=message):
        Agent(**{"name": "A", **options})


def test_an_option_that_an_agent_does_not_have():
    with pytest.raises(DefinitionError, match="no argument temperature="):
        Agent("A", temperature=1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": []}, "at least one agent"),
        ({"agents": Agent("A")}, "takes a list of at least one agent"),
        ({"agents": None}, "at least one agent"),
        ({"agents": [5]}, "agents= holds 5, which is no agent"),
        ({"agents": ["A"]}, "holds 'A', which is no agent"),
        ({"agents": [Agent("A"), Agent("A")]}, "two agents are named 'A'"),
        ({"agents": [RoutingAgent("R", on_route=lambda *_: None)]}, "which is no agent"),
        ({"router": 5}, "router= takes a function or a RoutingAgent"),
        ({"router": echo}, "router= takes a function"),
        ({"router": Agent("A")}, "router= takes a function"),
        ({"state": {"a": 1}}, "state= takes a class or a function"),
        ({"state": int}, "cannot be kept"),
        ({"max_iter": -1}, "max_iter=-1"),
        ({"resolve": 5}, "resolve= takes a function"),
        ({"stop_when": "x"}, "stop_when= takes a function"),
        ({"model": "gpt-5"}, "names no provider"),
        ({"hooks": 5}, "hooks= takes"),
    ],
)
def test_wrong_networks_are_refused_when_they_are_made(options: dict[str, Any], message: str):
    with pytest.raises(DefinitionError, match=message):
        Network(**{"name": "N", "agents": [Agent("A")], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_route": None}, "on_route= takes a function"),
        ({"name": ""}, "a name is"),
        ({"tools": [5]}, "tools= holds 5"),
    ],
)
def test_wrong_routing_agents_are_refused_when_they_are_made(options: dict[str, Any], message: str):
    with pytest.raises(DefinitionError, match=message):
        RoutingAgent(**{"name": "R", "on_route": lambda *_: None, **options})


@pytest.mark.parametrize("name", ["on_start", "on_route"])
def test_a_hook_is_a_function(name: str):
    with pytest.raises(DefinitionError, match=rf"Hooks\({name}=…\) is a int; give a function"):
        Hooks(**{name: 5})


# -- options of a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 1}, r"no run option 'temperature'\. There are: budget, deadline"),
        ({"deadline": 0}, "deadline=0 must be a number of seconds"),
        ({"deadline": "5"}, "deadline='5'"),
        ({"deadline": True}, "deadline=True"),
        ({"deadline": float("nan")}, "deadline=nan"),
        ({"budget": 5}, "budget=5 must be a Budget"),
        ({"budget": {"tokens": 5}}, "must be a Budget"),
        ({"on_busy": "wait"}, "on_busy='wait' is unknown"),
        ({"model": 5}, "model= takes a model"),
        ({"model": "gpt"}, "names no provider"),
        ({"max_iter": -1}, "max_iter=-1"),
        ({"tool_choice": 5}, "tool_choice=5"),
        ({"messages": "hi"}, "messages="),
        ({"messages": ["hi"]}, "messages= holds a str"),
        ({"messages": [{"role": "user"}]}, "messages= holds a dict"),
        ({"settings": {"temperature": 1}}, "settings= takes ModelSettings"),
        ({"resources": 5}, "resources= takes a list"),
        ({"router": 5}, "router= takes a function"),
        ({"state": 5}, "cannot be kept"),
        ({"state": object()}, "cannot be kept"),
        ({"user_id": 5}, "user_id 5 is not allowed"),
        ({"user_id": "a b"}, "user_id 'a b' is not allowed"),
        ({"run_id": ""}, "run_id '' is not allowed"),
    ],
)
@pytest.mark.parametrize("door", ["run", "start", "stream", "run_sync"])
async def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], message: str, door: str):
    model = ScriptedModel("never")
    agent = Agent("A", model=model)
    with pytest.raises((DefinitionError, InvalidId), match=message):
        if door == "run":
            await agent.run("x", **options)
        else:
            getattr(agent, door)("x", **options)
    assert model.requests == []


async def test_a_session_needs_a_place_to_last():
    with pytest.raises(NeedsRuntime, match=r"open a Runtime, or pass messages=previous\.messages"):
        await Agent("A").run("x", session_id="s", model=ScriptedModel())


async def test_a_run_id_may_be_used_again_without_a_place_to_last():
    agent = Agent("A")
    for _ in range(2):
        assert (await agent.run("x", run_id="job-7", model=ScriptedModel("ok"))).run_id == "job-7"


# -- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [5, 2.5, b"bytes", {"role": "user"}, object(), [5], [None], ["x", {"a": 1}], True])
async def test_input_of_another_type_is_refused(wrong: Any):
    with pytest.raises(DefinitionError, match="The input"):
        await Agent("A").run(wrong, model=ScriptedModel())


@pytest.mark.parametrize("large", ["x" * 11 * MB, ["x" * 6 * MB, "y" * 6 * MB]])
async def test_input_that_is_too_large_is_refused(large: Any):
    with pytest.raises(DefinitionError, match=r"MB and at most 10\.5 MB are accepted"):
        await Agent("A").run(large, model=ScriptedModel())


async def test_input_just_below_the_limit_is_accepted():
    assert (await Agent("A").run("x" * 10 * MB, model=ScriptedModel("ok"))).output == "ok"


# -- models -----------------------------------------------------------------------------------------------------------


class Bare:
    """A model whose stream is whatever is given."""

    name = "bare"
    provider = "test"
    capabilities = Capabilities()

    def __init__(self, stream: Any) -> None:
        self.made = stream
        self.asked = 0

    def stream(self, request: Any) -> Any:
        self.asked += 1
        return self.made(request)


async def _coroutine(request: Any) -> str:
    return "text"


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (lambda request: "text", "str"),
        (lambda request: None, "NoneType"),
        (lambda request: [TextChunk("x")], "list"),
        (_coroutine, "coroutine"),
    ],
)
async def test_a_model_that_gives_no_iterator_ends_the_run_without_being_asked_again(stream: Any, what: str):
    model = Bare(stream)
    watched = await watch(Agent("A", model=model))
    assert isinstance(watched.error, RunFailed)
    assert f"stream() returned {what}, not an async iterator" in str(watched.error)
    assert model.asked == 1


@pytest.mark.parametrize("piece", ["text", None, 5, {"text": "x"}, object()])
async def test_a_model_that_streams_something_else_ends_the_run_and_says_what(piece: Any):
    model = ScriptedModel(raw(TextChunk("a"), piece, Finished()))
    watched = await watch(Agent("A", model=model))
    assert isinstance(watched.error, RunFailed)
    assert f"streamed a {type(piece).__name__}" in str(watched.error)


async def test_a_model_that_streams_nothing_is_asked_again_and_then_ends_the_run(at_once: None):
    model = ScriptedModel(raw(), repeat=True)
    watched = await watch(Agent("A", model=model))
    assert isinstance(watched.error.__cause__, BadResponse)
    assert "broke off before its end" in str(watched.error)
    assert len(model.requests) == 4


async def test_how_often_is_a_setting(at_once: None):
    model = ScriptedModel(raw(), repeat=True)
    await watch(Agent("A", settings=ModelSettings(retries=0), model=model))
    assert len(model.requests) == 1


async def test_a_piece_with_a_text_that_is_none(at_once: None):
    watched = await watch(Agent("A", model=ScriptedModel(raw(TextChunk(5), Finished()), repeat=True)))  # type: ignore[arg-type]
    assert isinstance(watched.error, RunFailed)


@pytest.mark.parametrize("arguments", ['{"text": ', "[1]", '"x"', "text=x", "null"])
async def test_arguments_that_are_no_json_object_are_told_to_the_model(arguments: str):
    pieces = raw(ToolCallChunk(0, "1", "echo", arguments), Finished("tool"))
    watched = await watch(Agent("A", tools=[echo], model=ScriptedModel(pieces, "ok")))
    error = watched.result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "ArgumentsInvalid"
    assert "not a JSON object" in error["message"]
    assert watched.result.output == "ok"
    check_transcript(watched.result.messages)


async def test_a_call_without_a_name_is_told_to_the_model():
    pieces = raw(ToolCallChunk(0, "1", "", "{}"), Finished("tool"))
    watched = await watch(Agent("A", tools=[echo], model=ScriptedModel(pieces, "ok")))
    assert watched.result.results[0].tool_calls[0].content["error"]["name"] == "UnknownTool"


async def test_a_model_that_raises_something_else_ends_the_run_with_it():
    def broken(request: Any) -> Any:
        raise KeyError("in the model")

    watched = await watch(Agent("A", model=FunctionModel(broken)))
    assert isinstance(watched.error.__cause__, KeyError)


async def test_a_model_s_own_time_out_is_not_taken_for_ours(at_once: None):
    def broken(request: Any) -> Any:
        raise TimeoutError("the socket")

    watched = await watch(Agent("A", model=FunctionModel(broken)))
    assert "the socket" in str(watched.error)
    assert "600" not in str(watched.error)


async def test_a_model_that_cancels_itself_ends_the_run():
    def broken(request: Any) -> Any:
        raise asyncio.CancelledError

    watched = await watch(Agent("A", model=FunctionModel(broken)))
    assert isinstance(watched.error, RunFailed)
    assert "CancelledError" in str(watched.error)


async def test_a_model_that_hangs_is_given_up(at_once: None):
    model = ScriptedModel(hang(), repeat=True)
    settings = ModelSettings(timeout=0.02, retries=1)
    watched = await watch(Agent("A", model=model, settings=settings))
    assert "no whole answer within 0.02 s" in str(watched.error)
    assert len(model.requests) == 2


async def test_a_huge_answer_is_an_answer():
    result = await Agent("A", model=ScriptedModel("x" * 20 * MB)).run("x")
    assert len(result.output) == 20 * MB


# -- tools ------------------------------------------------------------------------------------------------------------


class Abort(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [SystemExit(3), Abort("stop"), BaseExceptionGroup("both", [Abort("stop")])])
@pytest.mark.parametrize("kind", ["async", "sync", "several"])
async def test_a_tool_that_raises_no_exception_but_worse_ends_the_run_and_not_the_process(
    error: BaseException, kind: str
):
    @tool
    async def slow() -> None:
        raise error

    @tool
    def quick() -> None:
        raise error

    made = {"async": call("slow"), "sync": call("quick"), "several": calls(call("slow"), call("quick"))}[kind]
    watched = await watch(Agent("A", tools=[slow, quick], model=ScriptedModel(made, "never")))
    assert isinstance(watched.error, RunFailed)
    assert watched.error.__cause__ is error
    assert type(error).__name__ in str(watched.error)
    check_transcript(watched.error.result.messages)


@pytest.mark.parametrize("error", [StopIteration("x"), StopAsyncIteration("x"), GeneratorExit("x")])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_tool_that_raises_what_ends_iterations(error: BaseException, kind: str):
    @tool
    async def slow() -> None:
        raise error

    @tool
    def quick() -> None:
        raise error

    one = slow if kind == "async" else quick
    watched = await watch(Agent("A", tools=[one], model=ScriptedModel(call(one.name), "ok")))
    result = watched.result or watched.error.result  # type: ignore[union-attr]
    assert result.results[0].tool_calls[0].is_error
    check_transcript(result.messages)


@pytest.mark.parametrize("several", [False, True])
async def test_a_tool_that_cancels_itself_is_an_error_result(several: bool):
    @tool
    async def gives_up() -> None:
        raise asyncio.CancelledError

    made = calls(call("gives_up"), call("gives_up")) if several else call("gives_up")
    watched = await watch(Agent("A", tools=[gives_up], model=ScriptedModel(made, "ok")))
    errors = [one.content["error"]["name"] for one in watched.result.results[0].tool_calls]
    assert errors == ["CancelledError"] * (1 + several)
    assert watched.result.output == "ok"


async def test_a_tool_whose_own_task_was_cancelled_is_an_error_result():
    @tool
    async def awaits_a_cancelled_task() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        task.cancel()
        await task

    watched = await watch(
        Agent("A", tools=[awaits_a_cancelled_task], model=ScriptedModel(call("awaits_a_cancelled_task"), "ok"))
    )
    assert watched.result.results[0].tool_calls[0].content["error"]["name"] == "CancelledError"


@pytest.mark.parametrize(
    "value", [object(), {1, object()}, lambda: 1, {"a": [object()]}, threading.Lock(), b"\xff".decode("latin-1").encode]
)
async def test_a_result_that_is_no_json_is_an_error_that_says_where(value: Any):
    @tool
    async def give() -> Any:
        return value

    watched = await watch(Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")))
    error = watched.result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "Unserialisable"
    assert "result of the tool 'give'" in error["message"]


async def test_a_result_that_refers_to_itself():
    endless: list[Any] = []
    endless.append(endless)

    @tool
    async def give() -> Any:
        return endless

    result = await Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")).run("x")
    assert result.results[0].tool_calls[0].content["error"]["name"] == "Unserialisable"


async def test_a_result_with_half_a_surrogate_pair():
    @tool
    async def give() -> str:
        return "half \ud83d of a pair"

    result = await Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")).run("x")
    assert result.output == "ok"
    assert result.results[0].tool_calls[0].content is not None


async def test_a_result_of_nan_is_null_or_an_error():
    @tool
    async def give() -> float:
        return float("nan")

    result = await Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")).run("x")
    assert result.output == "ok"


@pytest.mark.parametrize("value", ["x" * 100 * MB, ["x" * 100] * MB])
async def test_a_result_of_100_mb_is_an_error_that_says_how_much_is_accepted(value: Any):
    @tool
    async def give() -> Any:
        return value

    watched = await watch(Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")))
    error = watched.result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "TooLarge"
    assert "at most 10.5 MB are accepted" in error["message"]


async def test_an_argument_of_10_mb_reaches_the_tool():
    seen: list[int] = []

    @tool
    async def take(text: str) -> None:
        seen.append(len(text))

    result = await Agent("A", tools=[take], model=ScriptedModel(call("take", text="x" * 10 * MB), "ok")).run("x")
    assert result.output == "ok"
    assert seen == [10 * MB]


async def test_a_10_mb_argument_that_does_not_fit_is_told_in_few_words():
    @tool
    async def take(n: int) -> None: ...

    model = ScriptedModel(call("take", n="x" * 10 * MB), "ok")
    result = await Agent("A", tools=[take], model=model).run("x")
    error = result.results[0].tool_calls[0].content["error"]
    assert error["name"] == "ArgumentsInvalid"
    assert len(error["message"]) < 2000


async def test_a_tool_that_blocks_the_loop_is_not_ours_but_one_that_hangs_can_be_limited():
    @tool(timeout=0.02)
    async def hangs() -> None:
        await asyncio.Event().wait()

    @tool(timeout=0.02)
    def hangs_in_a_thread() -> None:
        release.wait(30)

    release = threading.Event()
    model = ScriptedModel(calls(call("hangs"), call("hangs_in_a_thread")), "ok")
    result = await Agent("A", tools=[hangs, hangs_in_a_thread], model=model).run("x")
    release.set()
    assert [one.content["error"]["name"] for one in result.results[0].tool_calls] == ["timeout", "timeout"]


async def test_a_tool_that_returns_an_awaitable_from_a_thread_is_awaited():
    async def later() -> str:
        return "later"

    @tool
    def give() -> Any:
        return later()

    result = await Agent("A", tools=[give], model=ScriptedModel(call("give"), "ok")).run("x")
    assert result.results[0].tool_calls[0].data == "later"


async def test_a_predicate_hook_prompt_and_router_that_return_rubbish():
    for definition, message in (
        (Agent("A", system=lambda ctx: 5), "system prompt function of agent 'A' returned int"),
        (Network("N", agents=[Agent("A")], router=lambda r: 5), "return an agent"),
    ):
        watched = await watch(definition, model=ScriptedModel())
        assert message in str(watched.error)


async def test_an_agent_without_a_name_in_a_state_s_results():
    with pytest.raises(DefinitionError, match=r"State\(results=…\) holds a str"):
        State(results=["x"])  # type: ignore[list-item]
    with pytest.raises(DefinitionError, match=r"State\(messages=…\) holds a str"):
        State(messages=["x"])  # type: ignore[list-item]


async def test_a_state_that_cannot_be_kept_is_refused_before_the_run():
    with pytest.raises(Unserialisable):
        await Agent("A").run("x", state={"a": object()}, model=ScriptedModel())


async def test_a_router_has_no_agent_of_its_own():
    network = Network("N", agents=[Agent("A")], router=lambda r: str(r.ctx.agent))
    watched = await watch(network, model=ScriptedModel())
    assert "this is a router" in str(watched.error)


@pytest.mark.parametrize("make", [lambda **o: Agent("A", **o), lambda **o: Network("A", **o)], ids=["agent", "network"])
def test_an_argument_that_does_not_exist_is_refused_with_the_one_that_was_meant(make: Any):
    with pytest.raises(DefinitionError, match=r"\('A'\) has no argument modle=; did you mean model=\."):
        make(modle="openai:x")
    with pytest.raises(DefinitionError, match=r"has no argument zzz=; there are .*description, "):
        make(zzz=1)
