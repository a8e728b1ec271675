"""State and streams when tools, or agents, run at once."""

import asyncio
import dataclasses
from typing import Annotated, Any

import pytest

from perdure import Agent, Context, Network, RunFailed, StateConflict, add, extend, parallel, sequence, tool
from perdure.testing import FunctionModel, ScriptedModel, call, calls
from tests.agents.watching import check_transcript, keys_of, replayed, watch

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclasses.dataclass
class Board:
    count: Annotated[int, add] = 0
    notes: Annotated[list[str], extend] = dataclasses.field(default_factory=list)
    owner: str = ""
    left: str = ""
    right: str = ""


@tool
async def count(ctx: Context[Board], by: int = 1) -> int:
    """Count."""
    ctx.state.data.count += by
    return ctx.state.data.count


@tool
async def note(ctx: Context[Board], text: str) -> None:
    """Note."""
    ctx.state.data.notes.append(text)


@tool
async def own(ctx: Context[Board], who: str) -> None:
    """Own."""
    ctx.state.data.owner = who


@tool
async def put(ctx: Context[Board], side: str, text: str) -> None:
    """Put."""
    setattr(ctx.state.data, side, text)


def board(*tools: Any, **options: Any) -> Network[Board, str]:
    agent = Agent("A", tools=tools, **options)
    return Network("N", agents=[agent], router=sequence(agent), state=Board)


# -- tools ------------------------------------------------------------------------------------------------------------


async def test_r12_reducers_merge_what_parallel_tools_wrote():
    round_ = calls(call("count"), call("count", by=2), call("note", text="a"), call("note", text="b"))
    watched = await watch(board(count, note), model=ScriptedModel(round_, "ok"), state=Board(10, ["start"]))
    assert watched.result.state.data == Board(13, ["start", "a", "b"])
    assert not watched.of(StateConflict)
    told = [one.content["data"] for one in watched.result.results[0].tool_calls]
    assert told[:2] == [11, 12], "each saw the state as it was when the round began"


async def test_writes_to_different_paths_are_both_kept():
    round_ = calls(call("put", side="left", text="l"), call("put", side="right", text="r"))
    watched = await watch(board(put), model=ScriptedModel(round_, "ok"))
    assert (watched.result.state.data.left, watched.result.state.data.right) == ("l", "r")
    assert not watched.of(StateConflict)


async def test_r12_without_a_reducer_the_later_call_wins_and_says_so():
    round_ = calls(call("own", who="ada"), call("own", who="bob"))
    watched = await watch(board(own), model=ScriptedModel(round_, "ok"))
    assert watched.result.state.data.owner == "bob"
    (conflict,) = watched.of(StateConflict)
    assert (conflict.path, conflict.winner, conflict.loser) == (
        "/owner",
        "agent/0/infer/0/tool/1",
        "agent/0/infer/0/tool/0",
    )


async def test_the_later_call_wins_however_the_calls_end():
    bob_is_done = asyncio.Event()

    @tool
    async def own_in_turn(ctx: Context[Board], who: str) -> None:
        if who == "ada":
            await bob_is_done.wait()
        ctx.state.data.owner = who
        bob_is_done.set()

    round_ = calls(call("own_in_turn", who="ada"), call("own_in_turn", who="bob"))
    watched = await watch(board(own_in_turn), model=ScriptedModel(round_, "ok"))
    assert watched.result.state.data.owner == "bob"


async def test_a_failed_call_changes_nothing_beside_others_that_do():
    @tool
    async def bad(ctx: Context[Board]) -> None:
        ctx.state.data.count += 100
        ctx.state.data.owner = "nobody"
        raise ValueError("no")

    round_ = calls(call("count"), call("bad"), call("count"))
    watched = await watch(board(count, bad), model=ScriptedModel(round_, "ok"))
    assert watched.result.state.data == Board(2)


async def test_sequential_tools_see_each_other():
    round_ = calls(call("count"), call("count"))
    result = await board(count, parallel_tools=False).run("x", model=ScriptedModel(round_, "ok"))
    assert [one.data for one in result.results[0].tool_calls] == [1, 2]
    assert result.state.data.count == 2


async def test_the_next_round_sees_what_the_round_before_left():
    model = ScriptedModel(calls(call("count"), call("count")), call("count"), "ok")
    result = await board(count).run("x", model=model)
    assert [one.data for one in result.results[0].tool_calls] == [1, 1, 3]


async def test_a_failing_hook_beside_a_running_tool_lets_it_finish_and_keeps_it():
    from perdure import Hooks

    failing = asyncio.Event()

    @tool
    async def slow(ctx: Context[Board]) -> str:
        await failing.wait()
        ctx.state.data.owner = "slow"
        return "done"

    @tool
    async def quick() -> str:
        return "never"

    def refuse(ctx: Context[Board], one: Any) -> None:
        if one.name == "quick":
            failing.set()
            raise ZeroDivisionError("in the hook")

    model = ScriptedModel(calls(call("slow"), call("quick")))
    watched = await watch(board(slow, quick, hooks=Hooks(before_tool=refuse)), model=model)
    assert isinstance(watched.error, RunFailed)
    result = watched.error.result
    check_transcript(result.messages)
    first, second = result.results[0].tool_calls
    assert first.content == {"data": "done"}
    assert second.content == {"error": {"name": "ZeroDivisionError", "message": "in the hook"}}
    assert result.state.data.owner == "slow"


# -- agents -----------------------------------------------------------------------------------------------------------


def speaker(name: str, *tools: Any) -> Agent[Any, Any]:
    return Agent(name, system=f"I am {name}.", tools=tools)


def by_name(**answers: Any) -> FunctionModel:
    """Each agent has answers of its own."""
    left = {name: list(given) for name, given in answers.items()}

    def answer(request: Any) -> Any:
        return left[request.messages[0].text.removeprefix("I am ").removesuffix(".")].pop(0)

    return FunctionModel(answer)


async def test_agents_of_a_group_run_at_once_each_on_its_own_copy():
    both = asyncio.Barrier(2)

    @tool
    async def meet(ctx: Context[Board], by: int) -> int:
        await both.wait()
        ctx.state.data.count += by
        return ctx.state.data.count

    one, two = speaker("One", meet), speaker("Two", meet)
    network = Network("N", agents=[one, two], router=sequence(parallel(one, two)), state=Board)
    model = by_name(One=[call("meet", by=1), "first"], Two=[call("meet", by=2), "second"])
    watched = await watch(network, model=model, state=Board(10))
    result = watched.result
    assert result.state.data.count == 13
    assert [one.text for one in result.results] == ["first", "second"]
    assert [one.tool_calls[0].data for one in result.results] == [11, 12]
    check_transcript(result.messages)
    assert result.output == "second"
    assert result.usage.model_calls == 4
    keys = await keys_of(result)
    assert [key for key in keys if key.startswith("agent/0/0")] == [
        "agent/0/0/infer/0",
        "agent/0/0/infer/0/tool/0",
        "agent/0/0/infer/1",
        "agent/0/0",
    ]


async def test_agents_of_a_group_do_not_see_each_other_and_the_next_sees_both():
    one, two, three = speaker("One"), speaker("Two"), speaker("Three")
    network = Network("N", agents=[one, two, three], router=sequence(parallel(one, two), three))
    model = by_name(One=["first"], Two=["second"], Three=["third"])
    result = await network.run("x", model=model)
    heard = {request.messages[0].text: [one.text for one in request.messages[1:]] for request in model.requests}
    assert heard == {"I am One.": ["x"], "I am Two.": ["x"], "I am Three.": ["x", "first", "second"]}
    assert [one.id.rpartition("/agent/")[2] for one in result.results] == ["0/0", "0/1", "2"]


async def test_agents_that_write_one_path_conflict_in_their_order():
    one, two = speaker("One", own), speaker("Two", own)
    network = Network("N", agents=[one, two], router=sequence(parallel(one, two)), state=Board)
    model = by_name(One=[call("own", who="ada"), "ok"], Two=[call("own", who="bob"), "ok"])
    watched = await watch(network, model=model)
    assert watched.result.state.data.owner == "bob"
    (conflict,) = watched.of(StateConflict)
    assert (conflict.path, conflict.winner, conflict.loser) == ("/owner", "agent/0/1", "agent/0/0")
    records = await watched.records()
    assert replayed(watched.running, records).doc == watched.running.loop.doc


async def test_one_agent_of_a_group_that_fails_lets_the_other_s_step_finish_and_closes_both():
    started, failed = asyncio.Event(), asyncio.Event()

    @tool
    async def slow() -> str:
        started.set()
        await failed.wait()
        return "kept"

    async def fail(request: Any) -> Any:
        await started.wait()
        failed.set()
        raise ValueError("no")

    one, two = speaker("One", slow), speaker("Two")
    network = Network("N", agents=[one, two], router=sequence(parallel(one, two)))
    watched = await watch(network, model=by_name(One=[call("slow")], Two=[fail]))
    assert isinstance(watched.error.__cause__, ValueError)
    result = watched.error.result
    assert [(one.agent_name, one.stop_reason) for one in result.results] == [("One", "error"), ("Two", "error")]
    assert result.results[0].tool_calls[0].data == "kept"
    check_transcript(result.messages)


async def test_a_group_s_limit_counts_its_agents():
    one, two = speaker("One"), speaker("Two")
    network = Network("N", agents=[one, two], router=lambda r: parallel(one, two), max_iter=3)
    result = await network.run("x", model=FunctionModel(lambda request: "ok"))
    assert len(result.results) <= 4
    assert result.stop_reason == "max_iter"


async def test_scheduling_from_agents_of_a_group_keeps_their_order():
    @tool
    async def hand_over(ctx: Context[Any], to: str) -> None:
        ctx.network.schedule(to)

    one, two, three = speaker("One", hand_over), speaker("Two", hand_over), speaker("Three")
    network = Network("N", agents=[one, two, three], router=sequence(parallel(one, two)))
    model = by_name(One=[call("hand_over", to="Three"), "a", "b"], Two=[call("hand_over", to="One"), "c"], Three=["d"])
    result = await network.run("x", model=model)
    assert [one.agent_name for one in result.results] == ["One", "Two", "Three", "One"]
