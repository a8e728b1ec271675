"""Rule 18: a fork is a reference, a rewind is a record, and erasing a base erases its forks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from perdure import (
    Agent,
    Approve,
    Budget,
    Conflict,
    Context,
    InvalidId,
    Network,
    RunFailed,
    Runtime,
    SessionForked,
    SessionRewound,
    UnknownName,
    sequence,
    tool,
)
from perdure.db.database import Sql
from perdure.log.transfer import ImportRefused
from perdure.models.turns import Arranged
from perdure.runtime.conversations import Conversations
from perdure.testing import FunctionModel, call, calls, say
from perdure.types import records as rec
from perdure.types.messages import Message, TextMessage, ToolResultMessage
from tests.runtime.desk import QUICK, nothing_open, until

done: list[str] = []
asked: list[str] = []
gate: dict[str, asyncio.Event] = {}


@tool(effect="once")
async def charge(ctx: Context[Any], n: int) -> str:
    """Charge somebody."""
    done.append(f"charge {n} {ctx.idempotency_key}")
    return f"charged {n}"


@tool(effect="pure")
async def hold(ctx: Context[Any], n: int) -> str:
    """Wait until the gate is open."""
    done.append(f"hold {n} {ctx.idempotency_key}")
    await gate["open"].wait()
    return f"held {n}"


@tool(effect="once", requires_approval=True)
async def refund(n: int) -> str:
    """Pay back, if a person allows it."""
    done.append(f"refund {n}")
    return f"paid back {n}"


def answer(request: Any) -> Any:
    last = request.messages[-1]
    asked.append(last.text if isinstance(last, TextMessage) else "(results)")
    if isinstance(last, TextMessage) and last.role == "user":
        match last.text.split():
            case ["pay", *more]:
                return call("charge", n=len(more))
            case ["both", *_]:
                return calls(call("charge", n=1), call("hold", n=2))
            case ["hold", *_]:
                return call("hold", n=1)
            case ["refund", *_]:
                return call("refund", n=1)
            case ["break", *_]:
                if not gate["open"].is_set():
                    raise ConnectionError("no line")
            case _:
                pass
    return say(f"saw {len(request.messages)}")


clerk = Agent("Clerk", tools=[charge, hold, refund], model=FunctionModel(answer))
writer = Agent("Writer", model=FunctionModel(answer))
desk = Network("Desk", agents=[clerk, writer], router=sequence(clerk, writer))


@pytest.fixture(autouse=True)
def fresh() -> None:
    done.clear()
    asked.clear()
    gate["open"] = asyncio.Event()


def opened(url: str, **options: Any) -> Runtime:
    return Runtime(url, [clerk, desk], timing=QUICK, durability="normal", **options)


@pytest_asyncio.fixture
async def rt(url: str) -> AsyncIterator[Runtime]:
    async with opened(url) as runtime:
        yield runtime


async def said(rt: Runtime, session: str) -> list[str]:
    """What was said, in short; and it is what a process that knows nothing reads."""
    messages = [one async for one in rt.session(session).messages()]
    cold = await Conversations(rt.container("default").log).of(session)
    assert cold.messages == messages, "cached = uncached"
    assert Arranged(tuple(messages)).whole, "every call has a result, so it can be sent to every provider"
    return [short(one) for one in messages]


def short(message: Message) -> str:
    if isinstance(message, TextMessage):
        return message.text
    if isinstance(message, ToolResultMessage):
        content: Any = message.content
        return content.get("data") or content["error"]["name"]
    return "(calls)"


async def turn(rt: Runtime, session: str, text: str, **options: Any) -> int:
    """Have a turn, and give the number of its last record."""
    await rt.run(clerk, text, session_id=session, **options)
    return await rt.container("default").log.head(session)


async def begun(rt: Runtime, session: str, text: str, where: str, **options: Any) -> Any:
    """Start a run and wait until it is at work in a tool."""
    run = await rt.start(clerk, text, session_id=session, **options)
    await until(lambda: any(one.startswith(where) for one in done))
    return run


def count(rt: Runtime, session: str) -> Any:
    def script() -> Any:
        return (yield Sql("SELECT COUNT(*) FROM records WHERE session = ?", (session,)))

    return rt.db.read(script)


# -- forks of sessions -----------------------------------------------------------------------------------------------


async def test_r18_a_fork_reads_its_bases_visible_prefix_then_its_own_records(rt: Runtime):
    # a naive build reads all of the base, what came later and what was hidden before included
    first = await turn(rt, "s", "one")
    second = await turn(rt, "s", "two")
    hidden = await rt.session("s").fork(second, id="before")
    await rt.session("s").rewind(first)
    await turn(rt, "s", "three")
    fork = await rt.session("s").fork(id="fork")
    await turn(rt, "s", "only in the base")
    await turn(rt, "fork", "only in the fork")
    await rt.session("s").rewind(first)
    assert await said(rt, "fork") == ["one", "saw 1", "three", "saw 3", "only in the fork", "saw 5"]
    assert await said(rt, "s") == ["one", "saw 1"]
    assert await said(rt, hidden.id) == ["one", "saw 1", "two", "saw 3"], "a rewind of the base comes too late for it"
    records = await fork.records()
    assert [one.seq for one in records] == list(range(1, len(records) + 1))
    own = next(one for one in records if isinstance(one.payload, rec.Forked)).seq
    assert (await count(rt, "fork"))[0][0] == len(records) - own + 1, "nothing is copied"
    assert await rt.check(deep=True) == []


async def test_r18_forks_of_forks_read_through_all_of_them(rt: Runtime):
    first = await turn(rt, "s", "one")
    await turn(rt, "s", "two")
    await rt.session("s").fork(first, id="a")
    in_a = await turn(rt, "a", "a")
    await turn(rt, "a", "a too")
    await rt.session("a").fork(in_a, id="b")
    await turn(rt, "b", "b")
    shallow = await rt.session("b").fork(first, id="c")
    assert await said(rt, "b") == ["one", "saw 1", "a", "saw 3", "b", "saw 5"]
    assert await said(rt, "c") == ["one", "saw 1"]
    rows = {one.id: (one.base, one.base_seq) for one in await rt.sessions()}
    assert rows == {"s": (None, 0), "a": ("s", first), "b": ("a", in_a), "c": ("s", first)}
    await rt.session("b").compact()
    await turn(rt, "b", "b too")
    await rt.session("b").fork(id="d")
    assert await said(rt, "d") == ["one", "saw 1", "a", "saw 3", "b", "saw 5", "b too", "saw 7"]
    assert (await shallow.run(clerk, "c")).text == "saw 3"


async def test_r18_calls_that_are_open_at_the_cut_are_closed_as_not_carried_over(rt: Runtime):
    # a naive build leaves a call without a result, which every provider refuses
    run = await begun(rt, "s", "both", "hold")
    await until(lambda: settled(rt, "s"))
    fork = await rt.session("s").fork(id="fork")
    gate["open"].set()
    await run.result()
    assert await said(rt, "s") == ["both", "(calls)", "charged 1", "held 2", "saw 4"]
    assert await said(rt, "fork") == ["both", "(calls)", "charged 1", "not_carried_over"]
    assert (await fork.run(clerk, "and?")).text == "saw 5"
    (cut,) = [one for one in await rt.runs(session_id="fork") if one.status == "cancelled"]
    assert [
        one.payload.outcome
        for one in await rt.container("default").log.read_run(cut.id)
        if isinstance(one.payload, rec.ToolDone)
    ] == ["ok", "not_run"]
    assert len(done) == 2, "and nothing was called in the fork"


async def settled(rt: Runtime, session: str) -> bool:
    return any(isinstance(one.payload, rec.ToolDone) for one in await rt.session(session).records())


async def test_r18_waits_queued_messages_and_cancels_are_not_inherited(rt: Runtime):
    # a naive build answers the base's approval in both, or says a queued message twice
    waiting = await rt.run(clerk, "refund", session_id="s", run_id="asks")
    queued = await rt.start(clerk, "later", session_id="s", run_id="queued")
    fork = await rt.session("s").fork(id="fork")
    assert await said(rt, "fork") == ["refund", "(calls)", "not_carried_over"]
    assert {one.status for one in await rt.runs(session_id="fork")} == {"cancelled"}
    assert (await fork.run(clerk, "now")).text == "saw 4"
    await rt.container("default").log.answer(waiting.waits[0].id, Approve())
    await queued.result()
    assert await said(rt, "s") == ["refund", "(calls)", "paid back 1", "saw 3", "later", "saw 5"]
    assert await said(rt, "fork") == ["refund", "(calls)", "not_carried_over", "now", "saw 4"]
    assert done == ["refund 1"]
    run = await begun(rt, "t", "hold", "hold", run_id="ends")
    await run.cancel()
    went_on = await rt.fork("ends", "agent/0/infer/0")
    assert (await went_on.result()).text == "saw 3", "what was cancelled goes on elsewhere"
    after = await rt.fork("ends")
    assert (await after.result()).status == "completed"


# -- forks of runs ---------------------------------------------------------------------------------------------------


async def test_r18_a_fork_inside_a_turn_is_a_new_run_that_begins_with_the_old_ones_records(rt: Runtime):
    # a naive build copies records under their keys (which are taken), or calls what had been done again
    await turn(rt, "s", "hello")
    old = await rt.run(desk, "pay a b", session_id="s", run_id="old", user_id="ada")
    run = await rt.fork("old", "agent/0/infer/0/tool/0", id="new", title="What if?")
    new = await run.result()
    assert (run.id, run.session_id) == ("new", "session_new")
    assert [one.agent_name for one in new.results] == ["Clerk", "Writer"]
    assert new.text == old.text and new.messages == old.messages
    assert len(done) == 1, "inherited steps are never called"
    assert asked == ["hello", "pay a b", "(results)", "saw 5", "(results)", "saw 5"]
    row = await rt.container("default").log.run("new")
    assert (row.status, row.user_id) == ("completed", "ada")
    assert {one.run_id for one in await rt.session("s").records()} >= {"old"}
    assert "new" not in {one.run_id for one in await rt.session("s").records()}, "the base is as it was"
    assert await said(rt, "session_new") == await said(rt, "s")
    again = await rt.fork("old", "agent/0/infer/0/tool/0", id="new", title="What if?")
    assert (await again.result()).messages == new.messages, "the same place under the same id is the same run"
    with pytest.raises(Conflict, match="is not this fork"):
        await rt.fork("old", "agent/0/infer/1", id="new")
    deeper = await rt.fork("new", "agent/0", id="newer")
    assert (await deeper.result()).messages == new.messages
    assert await said(rt, "session_newer") == await said(rt, "s")


async def test_r18_new_steps_of_a_fork_have_idempotency_keys_of_their_own(rt: Runtime):
    gate["open"].set()
    await rt.run(clerk, "hold on", session_id="s", run_id="old")
    for id in ("new", "newer"):
        await (await rt.fork("old", (await rt.session("s").records())[0].seq, id=id)).result()
    assert len(done) == 3 and len({one.rsplit(" ", 1)[1] for one in done}) == 3
    assert await said(rt, "session_new") == await said(rt, "s")


async def test_r18_what_stopped_a_run_does_not_stop_its_fork(rt: Runtime):
    with pytest.raises(RunFailed, match="no line"):
        await rt.run(clerk, "break", session_id="s", run_id="failed")
    gate["open"].set()
    failed = next(one.seq for one in await rt.session("s").records() if isinstance(one.payload, rec.StepFailed))
    for at in (None, failed):
        result = await (await rt.fork("failed", at)).result()
        assert (result.status, result.text) == ("completed", "saw 1")
    gate["open"].clear()
    run = await begun(rt, "t", "hold", "hold", run_id="cancelled")
    await run.cancel()
    last = (await rt.session("t").records())[-1]
    assert isinstance(last.payload, rec.RunFinished)
    went_on = await rt.fork("cancelled")
    assert (await went_on.result()).text == "saw 3"
    assert await said(rt, went_on.session_id) == ["hold", "(calls)", "not_carried_over", "saw 3"]


async def test_r18_a_fork_that_its_process_left_is_driven_on_by_the_next(url: str):
    async with opened(url) as rt:
        run = await begun(rt, "s", "both", "hold", run_id="old")
        await until(lambda: settled(rt, "s"))
        fork = await rt.fork("old", "agent/0/infer/0/tool/0", id="new")
        assert (await fork.result()).text == "saw 4"
        held = await rt.fork("old", 1, id="held")
        await until(lambda: len(done) == 4)
        assert run.status == held.status == "running"
    gate["open"].set()
    async with opened(url) as rt:
        await until(lambda: nothing_open(rt))
        assert {one.id: one.status for one in await rt.runs()} == dict.fromkeys(("old", "new", "held"), "completed")
        assert await said(rt, "session_held") == ["both", "(calls)", "charged 1", "held 2", "saw 4"]
        assert await said(rt, "session_new") == ["both", "(calls)", "charged 1", "not_carried_over", "saw 4"]
        assert len([one for one in done if one.startswith("charge")]) == 2, "once in the base, once in its fork"


async def test_r18_a_budget_counts_what_was_inherited(rt: Runtime):
    await rt.run(clerk, "pay a", session_id="s", run_id="old", budget=Budget(model_calls=2))
    run = await rt.fork("old", "agent/0/infer/0/tool/0")
    result = await run.result()
    assert (result.usage.model_calls, result.usage.tool_calls) == (2, 1)
    await rt.session("s").fork(id="fork")
    for text, status in (("x", "completed"), ("y", "completed"), ("z", "completed")):
        result = await rt.run(clerk, text, session_id="fork", session_budget=Budget(model_calls=4))
        assert result.status == status
    assert result.stop_reason == "budget", "two of the base's, two of its own"


# -- rewinds ---------------------------------------------------------------------------------------------------------


async def test_r18_a_rewind_appends_a_record_and_views_skip_the_range(rt: Runtime):
    # a naive build deletes records: the sequence falls back, cursors of readers dangle, and the money is forgotten
    first = await turn(rt, "s", "one")
    last = await turn(rt, "s", "two")
    session = rt.session("s")
    assert await session.rewind(first) == last + 1
    records = await session.records()
    assert [one.seq for one in records] == list(range(1, last + 2)), "seq never falls, and nothing is gone"
    assert records[-1].payload == rec.Rewound(first)
    assert await said(rt, "s") == ["one", "saw 1"]
    result = await session.run(clerk, "three", session_budget=Budget(model_calls=3))
    assert result.text == "saw 3", "the next turn is given what counts"
    spent = await session.run(clerk, "four", session_budget=Budget(model_calls=3))
    assert spent.stop_reason == "budget", "what is hidden was paid for"


async def test_r18_followers_are_told_of_forks_and_rewinds(rt: Runtime):
    first = await turn(rt, "s", "one")
    seen: list[Any] = []

    async def read() -> None:
        async for event in rt.events("s"):
            seen.append(event)
            if isinstance(event, SessionRewound):
                return

    following = asyncio.create_task(read())
    last = await turn(rt, "s", "two")
    await rt.session("s").rewind(first)
    await following
    assert (seen[-1].to, seen[-1].seq, seen[-1].cursor) == (first, last + 1, str(last + 1))
    later = [one async for one in ended(rt.events("s"), SessionRewound)]
    assert [type(one) for one in later] == [type(one) for one in seen], "who reads later is told the same"
    await rt.session("s").fork(first, id="fork")
    await turn(rt, "fork", "three")
    told = [one async for one in ended(rt.events("fork", str(first)), SessionForked)]
    assert [(one.base, one.base_seq, one.session_id, one.cursor) for one in told] == [
        ("s", first, "fork", str(first + 1))
    ]
    behind = [one async for one in ended(rt.events("fork", first + 1), type(later[-2]))]
    assert {one.session_id for one in behind} == {"fork"}


async def ended(events: AsyncIterator[Any], last: type[Any]) -> AsyncIterator[Any]:
    async for event in events:
        yield event
        if isinstance(event, last):
            return


async def test_r18_rewinds_behind_each_other_behind_compactions_and_into_a_base(rt: Runtime):
    session = rt.session("s")
    ends = [await turn(rt, "s", text) for text in ("one", "two")]
    point = await session.compact([TextMessage("user", "summary")])
    ends.append(await turn(rt, "s", "three"))
    everything = await said(rt, "s")
    assert everything == ["summary", "three", "saw 2"]
    back = await session.rewind(ends[0])
    assert await said(rt, "s") == ["one", "saw 1"], "behind the compacted record is what it stands for"
    await session.rewind(back - 1)
    assert await said(rt, "s") == everything, "a rewind is taken back by one to just before it"
    await session.rewind(point)
    assert await said(rt, "s") == ["summary"]
    await session.rewind(point - 1)
    assert await said(rt, "s") == ["one", "saw 1", "two", "saw 3"]
    await turn(rt, "s", "four")
    await session.compact()
    assert await said(rt, "s") == ["one", "saw 1", "two", "saw 3", "four", "saw 5"]
    await session.rewind(0)
    assert await said(rt, "s") == []
    fork = await session.fork(ends[1], id="fork")
    await turn(rt, "fork", "five")
    await fork.rewind(ends[0])
    assert await said(rt, "fork") == ["one", "saw 1"]
    await turn(rt, "fork", "six")
    assert await said(rt, "fork") == ["one", "saw 1", "six", "saw 3"]
    await (await fork.fork(id="again")).run(clerk, "seven")
    assert await said(rt, "again") == ["one", "saw 1", "six", "saw 3", "seven", "saw 5"]


async def test_r18_a_rewind_is_seen_by_a_process_that_knew_more(url: str):
    async with opened(url) as one, opened(url) as other:
        first = await turn(one, "s", "one")
        await turn(other, "s", "two")
        assert await said(one, "s") == await said(other, "s") == ["one", "saw 1", "two", "saw 3"]
        await one.session("s").rewind(first)
        assert await said(other, "s") == ["one", "saw 1"]
        await turn(one, "s", "three")
        await other.session("s").rewind(first)
        assert (await one.session("s").run(clerk, "four")).text == "saw 3"


async def test_r18_a_rewind_needs_that_no_turn_is_open_or_cancels_it(rt: Runtime):
    # a naive build rewinds below a run that is at work, whose end then comes out of nothing
    first = await turn(rt, "s", "one")
    session = rt.session("s")
    run = await begun(rt, "s", "hold", "hold", run_id="holds")
    queued = await rt.start(clerk, "later", session_id="s", run_id="queued")
    with pytest.raises(Conflict, match="'holds' is running"):
        await session.rewind(first)
    with pytest.raises(Conflict, match=r"inside the turn of the run 'holds'.*here to 4 or to its end"):
        await session.rewind(first + 1)
    await session.rewind(first, cancel=True)
    assert await said(rt, "s") == ["one", "saw 1"]
    assert {one.status for one in await rt.runs() if one.id in (run.id, queued.id)} == {"cancelled"}
    waiting = await rt.run(clerk, "refund", session_id="s", run_id="waits")
    assert waiting.status == "waiting"
    await session.rewind(first, cancel=True)
    assert await said(rt, "s") == ["one", "saw 1"]
    assert done == [one for one in done if one.startswith("hold")]


# -- what is refused -------------------------------------------------------------------------------------------------


async def test_r18_what_cannot_be_forked_or_rewound_says_why(rt: Runtime):
    last = await turn(rt, "s", "pay a", run_id="r")
    session = rt.session("s")
    for at in (0, -1, last + 1):
        with pytest.raises(InvalidId, match=f"records 1 to {last}, and no record {at}"):
            await session.fork(at)
    for to in (-1, last + 1):
        with pytest.raises(InvalidId, match=f"no record {to}"):
            await session.rewind(to)
    wrong: Any = "agent/0"
    for doing in (session.fork(wrong), session.rewind(wrong), session.fork(True)):
        with pytest.raises(InvalidId, match="is no record: give its sequence number"):
            await doing
    with pytest.raises(InvalidId, match="nothing to rewind"):
        await session.rewind(last)
    for place in (2, last - 1):
        with pytest.raises(Conflict, match=f"inside the turn of the run 'r'.* here to 0 or to {last}"):
            await session.rewind(place)
    acme = rt.container("acme")
    for elsewhere in (rt.session("nobody"), acme.session("s")):
        with pytest.raises(UnknownName, match="no session"):
            await elsewhere.fork()
        with pytest.raises(UnknownName, match="no session"):
            await elsewhere.rewind(0)
    with pytest.raises(UnknownName, match="no run"):
        await acme.fork("r", 1)
    with pytest.raises(UnknownName, match=r"no finished step named 'agent/7'.*'agent/0/infer/0'"):
        await rt.fork("r", "agent/7")
    with pytest.raises(Conflict, match=r"was not stopped, so say behind which.*agent/0/infer/0/tool/0"):
        await rt.fork("r")
    with pytest.raises(Conflict, match=f"had ended by record {last}"):
        await rt.fork("r", last)
    with pytest.raises(InvalidId, match=f"its records are 1 to {last}"):
        await rt.fork("r", last + 1)
    with pytest.raises(InvalidId, match="is no record"):
        await rt.fork("r", 1.5)  # type: ignore[arg-type]
    await session.fork(id="fork")
    for id, at in (("s", None), ("fork", 1)):
        with pytest.raises(Conflict, match="is not this fork"):
            await session.fork(at, id=id)
    with pytest.raises(InvalidId):
        await session.fork(id="../x")
    assert {one.id for one in await rt.sessions()} == {"s", "fork"}
    run = await begun(rt, "s", "hold", "hold")
    await rt.start(clerk, "later", session_id="s", run_id="queued")
    with pytest.raises(Conflict, match="was queued at record"):
        await rt.fork("queued")
    gate["open"].set()
    await run.result()


# -- erasing, copying ------------------------------------------------------------------------------------------------


async def test_r18_erasing_a_base_erases_its_forks(rt: Runtime):
    # a naive build leaves the fork with half a conversation, or with all of it
    first = await turn(rt, "s", "one")
    await rt.session("s").fork(id="a")
    in_a = await turn(rt, "a", "two")
    await rt.session("a").fork(id="b")
    await turn(rt, "b", "three")
    await rt.session("a").fork(first, id="c")
    run = await begun(rt, "b", "hold", "hold", run_id="holds")
    with pytest.raises(Conflict, match="holds"):
        await rt.session("a").erase()
    erased = await rt.session("a").erase(cancel=True)
    assert set(erased.sessions) == {"a", "b"}
    assert (await rt.container("default").log.run(run.id)).status == "cancelled"
    assert await said(rt, "a") == await said(rt, "b") == []
    assert await said(rt, "s") == await said(rt, "c") == ["one", "saw 1"], "what they go on from is not theirs"
    assert not any(
        isinstance(one.payload, (rec.InferenceDone, rec.ToolDone)) for one in (await rt.session("b").records())[first:]
    )
    for at in (None, in_a, first + 1):
        with pytest.raises(Conflict, match="was erased"):
            await rt.session("a").fork(at)
    with pytest.raises(Conflict, match="was erased"):
        await rt.fork("holds", 1)
    assert set((await rt.session("s").erase()).sessions) == {"s", "a", "b", "c"}
    assert await said(rt, "c") == []
    assert await rt.check(deep=True) == []


async def test_r18_a_fork_is_exported_with_what_it_goes_on_from(rt: Runtime, tmp_path: Path):
    first = await turn(rt, "s", "one")
    await rt.session("s").fork(first, id="a")
    await turn(rt, "s", "only in the base")
    run = await rt.run(clerk, "pay a", session_id="a", run_id="old")
    await rt.fork("old", "agent/0/infer/0", id="new", session_id="b")
    await until(lambda: nothing_open(rt))
    await turn(rt, "b", "more")
    await rt.session("b").rewind(first)
    await turn(rt, "b", "and more")
    files = {id: tmp_path / f"{id}.jsonl" for id in ("s", "a", "b")}
    for id, file in files.items():
        await rt.session(id).export(file)
    there, alone = rt.container("there"), rt.container("alone")
    await alone.import_session(files["b"])
    for id in ("s", "a", "b"):
        await there.import_session(files[id])
    for container, sessions in ((alone, "sab"), (there, "sab")):
        for id in sessions:
            mine, theirs = await rt.session(id).records(), await container.session(id).records()
            assert mine == theirs
        assert [m async for m in container.session("b").messages()] == [m async for m in rt.session("b").messages()]
    with pytest.raises(Conflict, match="session 's' is in container 'alone' already"):
        await alone.import_session(files["s"])
    other = rt.container("other")
    await other.run(clerk, "another", session_id="s")
    with pytest.raises(Conflict, match="session 's' is in container 'other' already"):
        await other.import_session(files["a"])
    assert [one.id for one in await other.sessions()] == ["s"]
    assert (await there.session("b").run(clerk, "on")).status == run.status
    broken = tmp_path / "broken.jsonl"
    lines = files["a"].read_bytes().splitlines(keepends=True)
    broken.write_bytes(b"".join(one for one in lines if b'"id":"s"' not in one and b'"session":"s"' not in one))
    with pytest.raises(ImportRefused):
        await other.import_session(broken)
    assert await rt.check(deep=True) == []


async def test_r18_a_copy_has_its_forks_and_the_doctor_sees_a_lost_base(rt: Runtime, tmp_path: Path):
    await turn(rt, "s", "one")
    await rt.session("s").fork(id="fork")
    await turn(rt, "fork", "two")
    await rt.backup(tmp_path / "copy.db")
    async with opened(f"sqlite:///{tmp_path}/copy.db") as copy:
        assert await said(copy, "fork") == ["one", "saw 1", "two", "saw 3"]

        def lose() -> Any:
            yield Sql("DELETE FROM records WHERE session = 's' AND seq >= 3")

        await copy.db.write(lose)
        assert [(one.what.split(":")[0], one.where) for one in await copy.check()][:1] == [
            ("a fork has lost what it goes on from", "default/fork, of s #4")
        ]
