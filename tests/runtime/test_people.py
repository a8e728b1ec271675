"""Runs that wait for people: across restarts and kills, answered once, by whoever may, on both databases."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    Answer,
    Approval,
    Approve,
    Conflict,
    DefinitionError,
    Deny,
    InvalidId,
    Question,
    RunFailed,
    Runtime,
    UnknownName,
    human_tool,
    tool,
)
from perdure import events as ev
from perdure.db.database import Row, Script, Sql
from perdure.testing import call
from perdure.types import records as rec
from perdure.types.messages import MAX_MESSAGE_BYTES
from perdure.types.waits import wait_id
from tests.runtime import desk, payers
from tests.runtime.conftest import Processes
from tests.runtime.desk import effects
from tests.runtime.payers import (
    BOSS,
    CURIOUS,
    OFFICE,
    ORDERER,
    PAYER,
    PAYERS,
    ROUTED,
    TRAVELLER,
    TWO,
    UNCLE,
    WIRER,
    once,
)

Dies = Callable[..., Any]
DOUBTS = pytest.mark.parametrize(
    ("url", "answer"),
    [("sqlite", "it happened"), ("sqlite", "do it again"), ("sqlite", "give up"), ("postgres", "do it again")],
    indirect=["url"],
)
SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "place", tmp_path)


def opened(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(url, definitions or PAYERS, timing=desk.QUICK, durability="normal", **options)


async def asked(rt: Runtime, definition: Any, run_id: str = "job", session_id: str = "s") -> Any:
    """Run until it waits."""
    async with asyncio.timeout(30):
        result = await rt.run(definition, "go", session_id=session_id, run_id=run_id)
    assert result.status == "waiting"
    return result


async def within(work: Any) -> Any:
    async with asyncio.timeout(60):
        return await work


def done(what: str) -> list[str]:
    return [one for one in effects() if one.startswith(what)]


# -- the doors -------------------------------------------------------------------------------------------------------


async def test_b49_a_run_waits_for_people_and_goes_on_with_what_they_say(url: str):
    async with opened(url) as rt:
        result = await asked(rt, TRAVELLER)
        (question,) = result.waits
        assert isinstance(question, Question)
        result = await within(rt.answer(question.id, "Oslo", by="ada"))
        (wait,) = result.waits
        assert isinstance(wait, Approval)
        assert (wait.reason, wait.args) == ("Book Oslo?", {"to": "Oslo"})
        result = await within(rt.approve(wait.id, by="bo"))
        assert (result.status, result.output) == ("completed", "{'data': 'book Oslo for bo'}")
        records = await rt.session("s").records()
    answered = [one for one in records if isinstance(one.payload, rec.Answered)]
    assert [one.payload.answer for one in answered] == [Answer("Oslo", "ada"), Approve("bo")]
    assert len(done("book")) == 1


async def test_what_is_denied_is_told_to_the_model(url: str):
    async with opened(url) as rt:
        result = await asked(rt, PAYER)
        result = await within(rt.deny(result.waits[0].id, "too much", by="ada"))
        assert "too much" in result.output
    assert not done("pay ")


async def test_a_result_is_resumed_through_the_same_door(url: str):
    async with opened(url) as rt, opened(url) as other:
        result = await asked(rt, TWO)
        first, second = result.waits
        await within(other.approve(first.id))
        with pytest.raises(Conflict, match="it was allowed, at 20"):
            await within(result.resume({first.id: Deny("no"), second.id: Approve()}))
        with pytest.raises(DefinitionError, match=r"give Approve\(\) or Deny"):
            await result.resume({second.id: Answer("yes")})
        result = await within(result.resume({second.id: Approve("ada")}))
        assert result.status == "completed"
    assert len(done("pay ")) == 2


async def test_who_answered_and_when_is_told_to_whoever_follows(url: str):
    async with opened(url) as rt:
        run = await rt.start(PAYER, "go", session_id="s", run_id="job")
        result = await within(run.reached())
        await within(rt.approve(result.waits[0].id, by="ada"))
        assert (await within(run.result())).status == "completed"
        shown = [one async for one in run.events()]
        (resolved,) = [one for one in shown if isinstance(one, ev.WaitResolved)]
        (record,) = [one for one in await rt.session("s").records() if isinstance(one.payload, rec.Answered)]
    assert (resolved.answer, resolved.at) == (Approve("ada"), record.created_at)


async def test_open_waits_are_listed_page_by_page(url: str):
    async with opened(url) as rt:
        await asked(rt, TWO, "job-1")
        await rt.run(TRAVELLER, "go", session_id="t", run_id="job-2")
        found = await rt.waits()
        assert [one.run_id for one in found] == ["job-1", "job-1", "job-2"]
        assert sorted(one.wait.id for one in found) == [one.wait.id for one in found]
        assert {one.session_id for one in found} == {"s", "t"}
        assert all(one.since > 1_700_000_000 for one in found)
        first = await rt.waits(limit=2)
        assert first + await rt.waits(limit=2, after=first[-1].wait.id) == found
        assert [type(one.wait) for one in await rt.waits(kind="question")] == [Question]
        assert await rt.waits(kind="person") == found
        assert await rt.waits(kind="timer") == []
        assert await rt.waits(session_id="t") == found[2:]
        assert await rt.waits(run_id="job-1") == found[:2]
        assert await rt.container("other").waits() == []
        with pytest.raises(DefinitionError, match="no kind of wait 'people'"):
            await rt.waits(kind="people")  # type: ignore[arg-type]
        await within(rt.approve(found[0].wait.id))
        await within(rt.approve(found[1].wait.id))
        assert await rt.waits() == found[2:]


async def test_a_runtime_without_workers_goes_on_too_and_one_without_the_definition_only_records(url: str):
    async with opened(url, workers=False) as rt:
        result = await asked(rt, TWO)
        first, second = result.waits
        async with opened(url, CURIOUS) as other:
            with pytest.raises(DefinitionError, match="does not have 'Two', so it cannot go on with run job"):
                await other.approve(first.id)
            response = await other.respond(first.id, Approve("ada"))
            run = response.run
            assert response.outcome == "accepted" and run.id == "job" and run.status in ("queued", "running", "waiting")
        result = await within(rt.approve(second.id, by="bo"))
        while result.status == "waiting":
            result = await within(rt.run(TWO, "go", session_id="s", run_id="job"))
        assert result.status == "completed"
    assert len(done("pay ")) == 2


async def test_a_call_that_is_given_up_leaves_the_run_to_go_on(url: str):
    may, entered = asyncio.Event(), asyncio.Event()

    @tool(requires_approval=True)
    async def slow() -> str:
        entered.set()
        await may.wait()
        return "slow"

    agent = Agent("Slow", tools=[slow], model=once(call("slow")))
    async with opened(url, agent) as rt:
        result = await asked(rt, agent)
        approving = asyncio.create_task(rt.approve(result.waits[0].id))
        await within(entered.wait())
        approving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await approving
        may.set()
        run = await rt.start(agent, "go", session_id="s", run_id="job")
        assert (await within(run.result())).output == "{'data': 'slow'}"


@SQLITE
async def test_the_runtime_is_closed_while_somebody_waits_for_what_comes_of_an_answer(url: str):
    entered = asyncio.Event()

    @tool(effect="pure", requires_approval=True)
    async def slow() -> str:
        entered.set()
        await asyncio.Event().wait()
        return "never"

    agent = Agent("Slow", tools=[slow], model=once(call("slow")))
    async with opened(url, agent) as rt:
        result = await asked(rt, agent)
        approving = asyncio.create_task(rt.approve(result.waits[0].id))
        await within(entered.wait())
    with pytest.raises(Exception, match="left when its runtime was closed"):
        await within(approving)


async def test_a_run_that_fails_behind_an_answer_raises(url: str):
    @tool(requires_approval=True)
    async def breaks() -> None:
        raise ZeroDivisionError("broken")

    agent = Agent("Breaks", tools=[breaks], model=once(call("breaks")), strict=True)
    async with opened(url, agent) as rt:
        result = await asked(rt, agent)
        with pytest.raises(RunFailed, match="ZeroDivisionError: broken"):
            await within(rt.approve(result.waits[0].id))


# -- what is no answer -----------------------------------------------------------------------------------------------


async def test_d15_what_cannot_be_an_answer_is_refused_and_says_why(url: str):
    async with opened(url) as rt:
        result = await asked(rt, PAYER)
        (wait,) = result.waits
        (question,) = (await rt.run(CURIOUS, "go", session_id="t", run_id="job-2")).waits
        for work, kind, says in (
            (rt.approve("nonsense"), InvalidId, "is not the id of a wait"),
            (rt.approve(wait.id[:-1]), InvalidId, "is not the id of a wait"),
            (rt.approve(wait_id("gone", "a")), UnknownName, "no run in the container 'default' named 'gone'"),
            (rt.container("acme").approve(wait.id), UnknownName, "no run in the container 'acme' named 'job'"),
            (rt.answer(wait.id, "yes"), DefinitionError, r"give Approve\(\) or Deny"),
            (rt.approve(question.id), DefinitionError, r"give Answer\(text\)"),
            (rt.answer(question.id, "x" * (MAX_MESSAGE_BYTES + 1)), DefinitionError, "at most 10,485,760"),
            (rt.deny(wait.id, "x" * (MAX_MESSAGE_BYTES + 1)), DefinitionError, "at most 10,485,760"),
            (rt.approve(wait.id, by="x" * 201), DefinitionError, "at most 200"),
            (rt.respond(wait.id, True), DefinitionError, "True is no answer"),  # type: ignore[arg-type]
        ):
            with pytest.raises(kind, match=says):
                await work
        assert len(await rt.waits()) == 2
        assert (await within(rt.answer(question.id, "because"))).output == "{'data': 'because'}"


async def test_d15_only_people_are_answered_by_people(url: str):
    @tool(effect="steps")
    async def rest(ctx: payers.Ctx) -> str:
        await ctx.step.sleep("rest", 3600)
        return "rested"

    agent = Agent("Rests", tools=[rest], model=once(call("rest")))
    async with opened(url, agent) as rt:
        result = await asked(rt, agent)
        with pytest.raises(DefinitionError, match="is for timer; nobody can answer it"):
            await rt.approve(result.waits[0].id)
        await rt.cancel("job")
        with pytest.raises(Conflict, match="is over: its run is cancelled"):
            await rt.approve(result.waits[0].id)


async def test_d15_duplicate_answers_count_once_and_another_one_is_told_who_was_first(url: str):
    async with opened(url) as rt, opened(url) as other:
        result = await asked(rt, PAYER)
        (wait,) = result.waits
        both = await within(asyncio.gather(rt.approve(wait.id, by="ada"), other.approve(wait.id, by="ada")))
        assert {one.status for one in both} == {"completed"}
        with pytest.raises(Conflict, match=r"it was allowed by ada, at 20.*This answer changes nothing"):
            await rt.deny(wait.id, "too late", by="bo")
        again = await within(rt.approve(wait.id, by="ada"))
        assert again.status == "completed"
        records = await rt.session("s").records()
    assert [one.kind for one in records].count("answer") == 1
    assert len(done("pay ")) == 1


async def test_d15_an_answer_that_comes_before_the_wait_is_kept(url: str):
    may, entered = asyncio.Event(), asyncio.Event()

    async def slow_hook(ctx: payers.Ctx, one: Any) -> None:
        entered.set()
        await may.wait()

    agent = Agent(
        "Late", tools=[payers.pay], model=once(call("pay", amount=500)), hooks=payers.Hooks(before_tool=slow_hook)
    )
    async with opened(url, agent) as rt, opened(url, CURIOUS) as other:
        run = await rt.start(agent, "go", session_id="s", run_id="job")
        await within(entered.wait())
        response = await other.respond(wait_id("job", "agent/0/infer/0/tool/0"), Approve("ada"))
        assert (response.outcome, response.run.id) == ("early", "job")
        assert await rt.waits() == []
        may.set()
        assert (await within(run.result())).status == "completed"
        kinds = [one.kind for one in await rt.session("s").records()]
    assert kinds.index("wait") < kinds.index("answer")
    assert len(done("pay ")) == 1


async def test_d15_an_answer_to_what_is_never_asked_is_said_to_be_early_and_goes_with_the_run(url: str):
    def kept() -> Script[list[Row]]:
        return (yield Sql("SELECT wait FROM answers"))

    nowhere = wait_id("job", "agent/7/infer/0/tool/0")
    agent = Agent("Once", tools=[payers.pay], model=once(call("pay", amount=500)))
    async with opened(url, agent) as rt:
        result = await asked(rt, agent)
        early = await within(rt.approve(nowhere, by="bo"))
        assert (early.status, early.answered, early.waits) == ("waiting", "early", result.waits)
        assert (await rt.respond(nowhere, Approve("bo"))).outcome == "early", "the same once more"
        result = await within(rt.approve(result.waits[0].id, by="ada"))
        assert (result.status, result.answered) == ("completed", "accepted")
        assert await rt.db.read(kept) == []
        with pytest.raises(Conflict, match="is over: its run is completed"):
            await rt.approve(nowhere, by="bo")


async def test_d15_a_late_answer_is_reported_and_changes_nothing(url: str):
    asks = human_tool(timeout=0.2)
    expiring = payers.pay.replace(approval_timeout=0.2)
    curious = Agent("Impatient", tools=[asks], model=once(call("ask_human", question="Why?")))
    payer = Agent("Brief", tools=[expiring], model=once(call("pay", amount=500)))
    async with opened(url, curious, payer) as rt:
        run, other = await rt.start(curious, "go", run_id="a"), await rt.start(payer, "go", run_id="b")
        call_of = "agent/0/infer/0/tool/0"
        assert "Nobody answered in time" in (await within(run.result())).output
        assert "nobody answered in time" in (await within(other.result())).output
        for work in (rt.answer(wait_id("a", f"{call_of}/ask"), "because"), rt.approve(wait_id("b", call_of))):
            with pytest.raises(Conflict, match=r"it was over by itself, at 20"):
                await work
    assert not done("pay ")


async def test_r14_a_turn_that_waits_for_a_person_keeps_its_place_and_an_interrupt_ends_it(url: str):
    async with opened(url) as rt:
        (wait,) = (await asked(rt, PAYER)).waits
        second = await rt.start(CURIOUS, "go", session_id="s", run_id="second")
        assert [one.status for one in await rt.runs(session_id="s")] == ["queued", "waiting"]
        assert (await within(rt.approve(wait.id))).status == "completed"
        (question,) = (await within(second.reached())).waits
        third = await rt.start(TRAVELLER, "go", session_id="s", run_id="third", on_busy="interrupt")
        (other,) = (await within(third.reached())).waits
        assert [one.wait.id for one in await rt.waits()] == [other.id]
        with pytest.raises(Conflict, match="is over: its run is cancelled"):
            await rt.answer(question.id, "because")
        run = [one.payload for one in await rt.session("s").records() if one.run_id == "second"]
    (closed,) = [one for one in run if isinstance(one, rec.ToolDone)]
    assert closed.outcome == "interrupted"


# -- restarts --------------------------------------------------------------------------------------------------------


async def test_r65_exactly_what_a_person_saw_is_used_after_a_restart_of_all_with_other_defaults(
    url: str, processes: Processes
):
    async with opened(url) as rt:
        (wait,) = (await asked(rt, PAYER)).waits
        assert (wait.args, wait.reason) == ({"amount": 500, "currency": "NOK"}, "500 is above 100")
    assert effects() == ["hook", "predicate"]
    assert await processes.run("approve", wait.id, CURRENCY="USD") == 0
    assert [one.split()[:3] for one in done("pay ")] == [["pay", "500", "NOK"]]
    assert effects()[:2] == ["hook", "predicate"] and len(effects()) == 3, "neither was run again"


async def test_approvals_of_children_and_beside_them_outlast_a_restart(url: str):
    async with opened(url) as rt:
        waits = (await asked(rt, UNCLE)).waits
    async with opened(url) as rt:
        (own,) = [one for one in waits if one.run_id == "job"]
        children = [one for one in waits if one is not own]
        assert len(children) == 2
        assert {one.agent for one in children} == {"Payer"}
        result = await within(rt.approve(children[0].id, by="ada"))
        assert result.run_id == "job" and result.status == "waiting"
        result = await within(rt.deny(children[1].id, "no", by="ada"))
        result = await within(rt.approve(own.id))
        assert result.status == "completed"
    assert sorted(one.split()[1] for one in done("pay ")) == ["200", "500"]


async def test_an_approval_inside_a_child_is_answered_through_its_parent(url: str):
    async with opened(url) as rt:
        result = await asked(rt, BOSS)
        (wait,) = result.waits
        assert wait.run_id != "job" and wait.agent == "Payer"
        (row,) = await rt.waits(run_id=wait.run_id)
        assert row.run_id == "job"
        result = await within(rt.approve(wait.id))
        assert result.run_id == "job" and result.status == "completed"
    assert len(done("pay ")) == 1


async def test_an_approval_inside_a_network_goes_on_after_a_restart(url: str):
    async with opened(url) as rt:
        wait = (await asked(rt, OFFICE)).waits[0]
    async with opened(url) as rt:
        result = await within(rt.approve(wait.id))
        result = await within(rt.answer(result.waits[0].id, "Oslo"))
        result = await within(rt.deny(result.waits[0].id, "rain"))
        assert (result.status, result.output) == (
            "completed",
            "{'data': 'pay'} {'data': 'not booked: rain'}",
        )
        assert [one.agent_name for one in result.results] == ["Payer", "Traveller"]


async def test_two_approvals_of_one_round_are_answered_by_two_processes_at_the_same_time(url: str):
    async with opened(url) as rt, opened(url) as other:
        for n in range(3):
            result = await asked(rt, TWO, f"job-{n}", f"s-{n}")
            first, second = result.waits
            await within(asyncio.gather(rt.approve(first.id, by="ada"), other.approve(second.id, by="bo")))
            run = await rt.start(TWO, "go", session_id=f"s-{n}", run_id=f"job-{n}")
            assert (await within(run.result())).status == "completed"
            assert len(done("pay ")) == 2 * (n + 1)


# -- kills -----------------------------------------------------------------------------------------------------------


async def reaches(url: str, definition: Any) -> Any:
    """Let the run go on in a new process until it has ended or waits."""
    async with opened(url) as rt:
        run = await rt.start(definition, "go", session_id="s", run_id="job")
        return await within(run.reached())


@pytest.mark.parametrize(
    ("url", "kill"),
    [("sqlite", "1:after"), ("sqlite", "2:after"), ("sqlite", "3:before"), ("postgres", "1:after")],
    indirect=["url"],
)
async def test_d01_a_process_that_is_killed_behind_an_answer_loses_nothing(url: str, processes: Processes, kill: str):
    """Behind the answer, behind the claim of the one who goes on, before the start of the call is recorded."""
    async with opened(url) as rt:
        (wait,) = (await asked(rt, PAYER)).waits
    assert await processes.run("approve", wait.id, kill=kill) == -signal.SIGKILL
    assert not done("pay ")
    result = await reaches(url, PAYER)
    while result.status == "waiting":
        result = await reaches(url, PAYER)
    assert result.status == "completed"
    assert len(done("pay ")) == 1
    assert done("hook") == ["hook"] and done("predicate") == ["predicate"], "nobody is asked again"


async def test_d02_a_call_that_was_allowed_and_is_killed_is_in_doubt_and_not_asked_for_again(
    url: str, processes: Processes
):
    async with opened(url) as rt:
        (wait,) = (await asked(rt, PAYER)).waits
    assert await processes.run("approve", wait.id, DIE="pay") == -signal.SIGKILL
    result = await reaches(url, PAYER)
    assert result.status == "completed" and "outcome" not in result.output
    assert "whether it took effect is unknown" in result.output
    assert len(done("pay ")) == 1


async def test_d02_a_call_of_a_routing_agent_that_is_killed_is_in_doubt_too(url: str, processes: Processes):
    assert await processes.run("ask", "Routed", DIE="choose") == -signal.SIGKILL
    assert (await reaches(url, ROUTED)).status == "completed"
    assert done("choose") == ["choose x"]


@DOUBTS
async def test_r08_a_person_decides_about_a_call_in_doubt(url: str, processes: Processes, answer: str):
    assert await processes.run("ask", "Wirer", DIE="wire") == -signal.SIGKILL
    result = await reaches(url, WIRER)
    (wait,) = result.waits
    assert isinstance(wait, Question)
    assert wait.choices == ("it happened", "do it again", "give up")
    assert "The process died while wire ran with" in wait.text
    async with opened(url) as rt:
        with pytest.raises(DefinitionError, match="its choices are"):
            await rt.answer(wait.id, "yes")
        result = await within(rt.answer(wait.id, answer, by="ada"))
    keys = [one.split()[-1] for one in done("wire ")]
    if answer == "do it again":
        assert result.output == "{'data': 'wire'}"
        assert len(keys) == 2 and len(set(keys)) == 1, "the same idempotency key"
    else:
        assert len(keys) == 1
        said = "ada says that it took effect" if answer == "it happened" else "whether it took effect is unknown"
        assert said in result.output


async def test_r08_a_repeated_call_that_dies_again_is_another_question(url: str, processes: Processes):
    assert await processes.run("ask", "Wirer", DIE="wire") == -signal.SIGKILL
    (first,) = (await reaches(url, WIRER)).waits
    assert (await reaches(url, WIRER)).waits == (first,), "it is asked once"
    assert await processes.run("answer", first.id, "do it again", kill="1:after") == -signal.SIGKILL
    assert await processes.run("drain", DIE="wire") == -signal.SIGKILL
    (second,) = (await reaches(url, WIRER)).waits
    assert second.id != first.id
    assert await processes.run("answer", second.id, "do it again") == 0
    assert len(done("wire ")) == 3 and len({one.split()[-1] for one in done("wire ")}) == 1
    assert (await reaches(url, WIRER)).output == "{'data': 'wire'}"


@DOUBTS
async def test_r08_a_person_decides_about_a_step_in_doubt(url: str, processes: Processes, answer: str):
    assert await processes.run("ask", "Orderer", DIE="order") == -signal.SIGKILL
    result = await reaches(url, ORDERER)
    (wait,) = result.waits
    assert isinstance(wait, Question)
    assert "the step 'order' of 'order' ran" in wait.text
    async with opened(url) as rt:
        result = await within(rt.answer(wait.id, answer, by="ada"))
    assert len(done("order")) == (2 if answer == "do it again" else 1)
    assert {"it happened": "ordered None", "do it again": "ordered order"}.get(answer, "StepInDoubt") in result.output


async def test_r08_a_repeated_step_that_dies_again_is_another_question(url: str, processes: Processes):
    assert await processes.run("ask", "Orderer", DIE="order") == -signal.SIGKILL
    (first,) = (await reaches(url, ORDERER)).waits
    assert await processes.run("answer", first.id, "do it again", DIE="order") == -signal.SIGKILL
    (second,) = (await reaches(url, ORDERER)).waits
    assert second.id != first.id
    async with opened(url) as rt:
        assert (await within(rt.answer(second.id, "it happened"))).output == "{'data': 'ordered None'}"
    assert len(done("order")) == 2
