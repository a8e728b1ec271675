"""What is forgotten: a user, what is too old; and what a container has no room for."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    Context,
    DefinitionError,
    Erasure,
    Policy,
    Quota,
    QuotaExceeded,
    RunCancelled,
    Runtime,
    SentEvent,
    function,
    tool,
)
from perdure.db.database import Sql
from perdure.durable.kernel import SYSTEM_CLOCK
from perdure.log.policy import read_policies
from perdure.runtime import upkeep
from perdure.runtime import worker as working
from perdure.testing import FunctionModel, ScriptedModel, call, say
from tests.runtime.desk import QUICK, until

MARK = "quetzalcoatl"
echo = Agent("Echo", model=FunctionModel(lambda request: say(f"You said: {request.messages[-1].text}")))


def opened(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(url, definitions or [echo], timing=QUICK, **options)


@tool(effect="pure")
async def recite() -> str:
    """Recite at length."""
    return f"{MARK} " * 10_000


@tool(effect="steps")
async def consult(ctx: Context[Any]) -> str:
    """Ask somebody else."""
    await ctx.step.send_event("tell", "app/asked", {"what": MARK})
    return (await ctx.run(Agent("Other", model=ScriptedModel(say(f"{MARK} says the other"))), MARK)).output


@tool(requires_approval=True)
async def pay() -> str:
    """Pay."""
    return "paid"


@function(event="app/asked", name="Booked")
async def booked(event: SentEvent) -> str:
    """Note what was asked."""
    return f"{event.user_id} asked {event.data['what']}"


@function(event="app/counted", name="Counted")
async def counted() -> None:
    """Count."""


@function(cron="0 0 1 1 *", name="Yearly")
async def yearly() -> None:
    """Look back."""


async def everything(rt: Runtime) -> str:
    """All that all tables hold, as text, whatever tables there are."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'search_words%'"
    if rt.db.dialect == "postgres":
        names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"

    def script() -> Any:
        found: list[str] = []
        for (table,) in (yield Sql(names)):
            for row in (yield Sql(f"SELECT * FROM {table}")):
                parts = [part for part in row if isinstance(part, (str, bytes, memoryview))]
                found += [part if isinstance(part, str) else bytes(part).decode("utf-8", "replace") for part in parts]
        return "\n".join(found)

    return await rt.db.read(script)


async def rows(rt: Runtime, text: str, *, write: bool = False) -> list[tuple[Any, ...]]:
    def script() -> Any:
        return [tuple(row) for row in (yield Sql(text))]

    return await (rt.db.write(script) if write else rt.db.read(script))


def in_files(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.is_file() and MARK.encode() in one.read_bytes()]


async def test_r18_a_user_is_erased_from_every_table_and_others_stay(url: str, tmp_path: Path):
    poet = Agent(
        "Poet",
        system=f"Speak of {MARK}.",
        tools=[recite, consult],
        model=ScriptedModel(call("recite"), call("consult"), say(f"The {MARK}.")),
    )
    payer = Agent("Payer", tools=[pay], model=ScriptedModel(call("pay"), say("done")))
    async with opened(url, poet, payer, echo, booked) as rt:
        await rt.send_event("app/asked", {"what": MARK}, id="outside", user_id="ada-id")
        await rt.send_event("app/unheard", {"what": MARK}, user_id="ada-id")
        await rt.send_event("app/unheard", {"what": "Bob's event"}, user_id="bob-id")
        await rt.run(poet, f"Of the {MARK}?", session_id="s1", user_id="ada-id", state={"of": MARK})
        assert (await rt.run(payer, MARK, session_id="s2", run_id="open", user_id="ada-id")).status == "waiting"
        await rt.run(echo, MARK, session_id="shared", user_id="ada-id")
        await rt.run(echo, "Bob here", session_id="shared", user_id="bob-id")
        await rt.run(echo, "Bob alone", session_id="s3", user_id="bob-id")
        await rt.container("acme").run(echo, "Ada elsewhere", session_id="s1", user_id="ada-id")
        assert await rt.search(MARK)
        receipt = await rt.erase(user_id="ada-id")
        assert set(receipt.sessions) >= {"s1", "s2", "shared"}
        assert len(receipt.sessions) == 6, "with those of the child run and of what events have started"
        assert (receipt.runs, receipt.blobs, receipt.waits, receipt.events) == (8, 1, 1, 3)
        assert receipt.containers == ("default", "acme")
        assert receipt.records > 15
        assert receipt.texts >= 6
        assert receipt.complete == (rt.db.dialect == "sqlite")
        assert MARK not in repr(receipt)
        assert (await rt.runs(session_id="s2"))[0].status == "cancelled"
        left = await everything(rt)
        assert MARK not in left
        assert "Bob here" not in left, "a session in which the user was goes whole"
        assert "Bob alone" in left
        assert "Bob's event" in left
        kept = await rt.container("default").log.event("outside")
        assert kept is not None
        assert (kept.data, kept.user_id) == ({}, None)
        assert "ada-id" not in left
        assert "Ada elsewhere" not in left
        if rt.db.dialect == "sqlite":
            assert in_files(tmp_path) == []
        assert await rt.check(deep=True) == []
        again = await rt.erase(user_id="ada-id")
        assert again == Erasure((), 0, receipt.complete, containers=receipt.containers, at=again.at), (
            "nothing is left to be erased"
        )
        assert (await rt.run(echo, "back", session_id="s1", user_id="ada-id")).output == "You said: back"


async def test_r18_runs_in_flight_of_an_erased_user_are_cancelled_first(url: str):
    never = asyncio.Event()

    async def wait_for_ever(_: Any) -> Any:
        await never.wait()

    stuck = Agent("Stuck", model=FunctionModel(wait_for_ever))
    async with opened(url, stuck) as rt, opened(url, stuck, workers=False) as other:
        run = await rt.start(stuck, MARK, session_id="s", user_id="ada")
        behind = await rt.start(stuck, MARK, session_id="s", user_id="ada")
        receipt = await other.erase(user_id="ada")
        assert (receipt.sessions, receipt.runs) == (("s",), 2)
        for one in (run, behind):
            with pytest.raises((RunCancelled, Exception)):
                await one.result()
        assert {one.status for one in await rt.runs()} == {"cancelled"}
        assert MARK not in await everything(rt)


@pytest.mark.parametrize("after", [1, 3])
async def test_r18_an_erase_that_was_killed_is_finished_by_the_next_one(url: str, tmp_path: Path, after: int):
    async with opened(url) as rt:
        for n in range(3):
            await rt.run(echo, f"{MARK} {n}", session_id=f"s{n}", user_id="ada")
        await rt.run(echo, "of somebody else", session_id="other", user_id="bob")
        await rt.search(MARK)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", "")),
    }
    script = str(Path(__file__).with_name("forgetting.py"))
    process = await asyncio.create_subprocess_exec(sys.executable, script, url, "ada", str(after), env=environment)
    async with asyncio.timeout(60):
        assert await process.wait() == -signal.SIGKILL
    async with opened(url) as rt:
        receipt = await rt.erase(user_id="ada")
        assert len(receipt.sessions) == 3 - after
        assert MARK not in await everything(rt)
        assert len(await rt.search("somebody")) == 2
        assert await rt.search(MARK) == []
        if rt.db.dialect == "sqlite":
            assert in_files(tmp_path) == []
        assert await rt.check(deep=True) == []


async def test_an_erase_takes_a_session_or_a_user(url: str):
    async with opened(url) as rt:
        here: Any = rt.container("default")
        for given in ({}, {"session_id": "s", "user_id": "ada"}):
            with pytest.raises(DefinitionError, match="session's id, or user_id"):
                await here.erase(**given)
        assert (await rt.erase(user_id="nobody")).sessions == ()


# -- retention -------------------------------------------------------------------------------------------------------


class Days:
    """A clock whose wall time goes on by days when it is told to."""

    def __init__(self, rt: Runtime) -> None:
        self.days = 0.0
        self.sleep = SYSTEM_CLOCK.sleep
        self.monotonic = SYSTEM_CLOCK.monotonic
        rt.clock = self

    def now(self) -> float:
        return SYSTEM_CLOCK.now() + self.days * 86400


async def test_what_is_too_old_goes_and_its_numbers_are_not_given_again(url: str):
    talker = Agent("Talker", tools=[recite, consult], model=FunctionModel(_talk))
    rt = opened(url, talker, echo, retention=timedelta(days=30))
    clock = Days(rt)
    async with rt, opened(url, talker, echo) as other:
        await rt.run(talker, MARK, session_id="old", user_id="ada")
        head = len(await rt.session("old").records())
        assert [one async for one in other.session("old").messages()]
        clock.days = 20
        await rt.run(echo, "hello", session_id="young")
        await rt.search(MARK)
        assert await rt.tidy() == []
        clock.days = 31
        gone = await rt.tidy()
        assert gone[0] == "old"
        assert len(gone) == 2, "with the session of the child run"
        assert MARK not in await everything(rt)
        assert [one.session_id for one in await rt.runs()] == ["young"]
        assert await rt.search(MARK) == []
        assert [one.seq for one in await rt.session("old").records()] == [head + 1]
        assert [one async for one in other.session("old").messages()] == [], "who had read it sees that it is void"
        assert await rt.check(deep=True) == []
        assert await rt.tidy() == []
        result = await rt.run(echo, "again", session_id="old")
        assert result.output == "You said: again"
        assert [one.seq for one in await rt.session("old").records()][:2] == [head + 1, head + 2]
        assert len(await rt.search("again")) == 2


def _talk(request: Any) -> Any:
    said = len([one for one in request.messages if one.role == "tool_result"])
    return (call("recite"), call("consult"), say(f"The {MARK}."))[said]


async def test_r18_open_runs_and_what_a_fork_goes_on_from_are_not_touched(url: str):
    payer = Agent("Payer", tools=[pay], model=FunctionModel(_pays))
    rt = opened(url, payer, echo)
    clock = Days(rt)
    async with rt:
        await rt.container("default").configure(retention=timedelta(days=1))
        await rt.run(payer, "pay", session_id="waits")
        await rt.run(echo, "the base", session_id="base")
        fork = await rt.session("base").fork()
        clock.days = 2
        await rt.run(echo, "goes on", session_id=fork.id)
        assert await rt.tidy() == []
        assert len([one async for one in fork.messages()]) == 4
        clock.days = 4
        assert await rt.tidy() == [fork.id, "base"], "first what goes on from it"
        [wait] = await rt.waits()
        await rt.approve(wait.wait.id)
        clock.days = 6
        assert await rt.tidy() == ["waits"]
        assert await rt.check(deep=True) == []


def _pays(request: Any) -> Any:
    return say("done") if request.messages[-1].role == "tool_result" else call("pay")


async def test_a_worker_removes_what_is_too_old_in_the_containers_that_say_so(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(working, "TIDY", 0.0)
    rt = opened(url)
    clock = Days(rt)
    async with rt:
        for name in ("short", "long"):
            await rt.container(name).run(echo, "hello", session_id="s")
        await rt.container("short").configure(retention=86400.0)
        clock.days = 3

        async def gone() -> bool:
            return await rt.container("short").runs() == []

        await until(gone)
        assert len(await rt.container("long").runs()) == 1


@pytest.mark.parametrize("given", [0, -1.0, True, timedelta(0), float("nan"), 30, "30d"])
def test_a_retention_that_makes_no_sense_is_refused(given: Any, tmp_path: Path):
    with pytest.raises(DefinitionError, match="retention"):
        Runtime(f"sqlite:///{tmp_path}/desk.db", retention=given)


# -- quotas ----------------------------------------------------------------------------------------------------------


async def test_a_quota_of_sessions_and_open_runs_is_exact_and_refuses_before_anything_is_paid(url: str):
    asked = 0

    def count(_: Any) -> Any:
        nonlocal asked
        asked += 1
        return call("pay") if asked <= 2 else say("done")

    payer = Agent("Payer", tools=[pay], model=FunctionModel(count))
    async with opened(url, payer, workers=False) as rt, opened(url, payer, workers=False) as other:
        here = rt.container("acme")
        await here.configure(quota=Quota(open_runs=2))
        assert await other.container("acme").policy() == Policy(None, Quota(open_runs=2))
        results = await asyncio.gather(
            *(
                one.container("acme").run(payer, "go", run_id=f"r{n}")
                for n in range(3)
                for one in (rt, other)[n % 2 :][:1]
            ),
            return_exceptions=True,
        )
        refused = [one for one in results if isinstance(one, QuotaExceeded)]
        assert len(refused) == 1
        assert str(refused[0]).startswith(
            "The container 'acme' has 2 of at most 2 open runs, so nothing new is taken in."
        )
        assert asked == 2, "nothing was paid for the one that was refused"
        known = next(one for one in results if not isinstance(one, BaseException))
        assert (await here.run(payer, "go", run_id=known.run_id)).status == "waiting", "a repetition is let in"
        await here.configure(quota=Quota(sessions=2))
        with pytest.raises(QuotaExceeded, match="2 of at most 2 sessions"):
            await here.run(payer, "another")
        await here.configure(quota=None)
        assert (await here.run(payer, "another")).output == "done"
        assert (await rt.run(payer, "in another container")).output == "done"


async def test_a_quota_that_is_set_while_the_worker_reads_what_holds_is_not_undone(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    async with opened(url, workers=False) as rt:
        here = rt.container("acme")
        await rt.worker.stop()

        async def read_slowly(db: Any) -> Any:
            found = await read_policies(db)
            if here.log.quota is None:
                await here.configure(quota=Quota(open_runs=0))
            return found

        monkeypatch.setattr(working, "read_policies", read_slowly)
        rt.worker._changed = -1.0
        await rt.worker.end_due()
        assert here.log.quota == Quota(open_runs=0)
        await rt.worker.end_due()
        assert here.log.quota == Quota(open_runs=0)


async def test_a_quota_holds_for_what_events_and_schedules_start_too(url: str):
    async with opened(url, echo, counted, yearly, workers=False) as rt:
        here, log = rt.container("acme"), rt.container("default").log
        await here.configure(quota=Quota(open_runs=1))
        first = await here.send_event("app/counted", id="first")
        with pytest.raises(QuotaExceeded, match="1 of at most 1 open runs"):
            await here.send_event("app/counted", id="second")
        assert await here.log.event("second") is None, "nothing of it is taken in"
        assert await here.send_event("app/counted", id="first") == first
        await here.send_event("app/unheard")
        with pytest.raises(QuotaExceeded, match="1 of at most 1 open runs"):
            await here.run(echo, "go")
        assert [run.definition for run in await here.runs()] == ["Counted"]
        await here.configure(quota=Quota(records=1))
        with pytest.raises(QuotaExceeded, match="1 of at most 1 records"):
            await here.send_event("app/unheard")

        await rt.container("default").configure(quota=Quota(sessions=0))
        await rows(rt, "UPDATE functions SET next_at = 1 WHERE name = 'Yearly' RETURNING 1", write=True)
        again = await log.start_due({"Yearly"}, lambda name: rt.container(name).log)
        assert again is not None
        assert again < SYSTEM_CLOCK.now() + 60, "it is looked again soon"
        assert await rt.runs() == []
        await rt.container("default").configure(quota=None)
        await log.start_due({"Yearly"}, lambda name: rt.container(name).log)
        assert [run.definition for run in await rt.runs()] == ["Yearly"]


async def test_children_of_a_run_that_was_let_in_are_let_in(url: str):
    asker = Agent("Asker", tools=[consult], model=ScriptedModel(call("consult"), say("done")))
    async with opened(url, asker) as rt:
        await rt.container("acme").configure(quota=Quota(sessions=1, open_runs=1))
        assert (await rt.container("acme").run(asker, "go")).output == "done"
        assert (await rt.container("acme").usage()).sessions == 1


@pytest.mark.parametrize("what", ["records", "bytes"])
async def test_a_quota_of_what_is_stored_refuses_until_something_is_erased(
    url: str, what: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upkeep, "_MEASURED", 0)  # measured before each run
    async with opened(url) as rt:
        here = rt.container("acme")
        await here.run(echo, "x" * 1000, session_id="first")
        first = await here.usage()
        stored = await rows(rt, "SELECT COUNT(*), SUM(LENGTH(payload)) FROM records")
        assert (first.sessions, first.open_runs, first.records, first.bytes) == (1, 0, *map(int, stored[0]))
        await here.configure(quota=Quota(**{what: getattr(first, what) * 3}))
        taken = 1
        with pytest.raises(QuotaExceeded, match=f"of at most .* {what}"):
            for _ in range(20):
                await here.run(echo, "x" * 1000, session_id=f"s{taken}")
                taken += 1
        assert taken >= 3
        for one in await here.sessions():
            await here.erase(one.id)
        if what == "bytes":
            assert (await here.usage()).bytes < first.bytes * 3
            await here.run(echo, "y", session_id="next")
        else:  # envelopes stay: what is pruned makes room for them
            await here.configure(retention=timedelta(milliseconds=1))
            await until(_tidied(here))
            await here.run(echo, "y", session_id="next")


def _tidied(here: Any) -> Callable[[], Any]:
    async def gone() -> bool:
        await here.tidy()
        return (await here.usage()).records == len(await here.sessions(limit=1000))

    return gone


async def test_a_quota_of_sessions_holds_at_every_door_and_is_free_again(url: str, tmp_path: Path):
    async with opened(url) as rt:
        here = rt.container("acme")
        await here.run(echo, "x", session_id="first")
        await here.session("first").export(tmp_path / "first.jsonl")
        await here.configure(quota=Quota(sessions=1))
        doors: list[Callable[[], Any]] = [
            lambda: here.run(echo, "y", session_id="second"),
            lambda: here.session("second").open(),
            lambda: here.session("first").fork(id="second"),
            lambda: rt.images.create("acme"),
        ]
        for door in doors:
            with pytest.raises(QuotaExceeded, match="1 of at most 1 sessions"):
                await door()
        await here.session("first").open()
        await here.run(echo, "again", session_id="first")
        assert [one.id for one in await here.sessions()] == ["first"]
        await here.erase("first")
        assert (await here.usage()).sessions == 0
        await here.run(echo, "y", session_id="second")
        with pytest.raises(QuotaExceeded):
            await here.run(echo, "x", session_id="first")
        await here.configure(retention=timedelta(milliseconds=1))
        await until(_tidied(here))
        assert (await here.usage()).sessions == 0
        await here.run(echo, "x", session_id="second")
        assert (await here.usage()).sessions == 1
        with pytest.raises(QuotaExceeded):
            await here.run(echo, "x", session_id="third")
        await rt.container("other").configure(quota=Quota(sessions=0))
        with pytest.raises(QuotaExceeded):
            await rt.container("other").import_session(tmp_path / "first.jsonl")


async def test_a_quota_of_bytes_holds_for_events_and_lets_repetitions_in(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upkeep, "_MEASURED", 0)
    async with opened(url) as rt:
        here = rt.container("acme")
        said = here.session("s")
        await said.open()
        first = await said.event("note", "x" * 1000, event_id="e1")
        await here.configure(quota=Quota(bytes=1000))
        with pytest.raises(QuotaExceeded, match="of at most 1,000 bytes"):
            await said.event("note", "more")
        assert await said.event("note", "x" * 1000, event_id="e1") == first
        await said.open()
        for refused in (here.session("t").open(), said.fork(), rt.images.create("acme"), here.run(echo, "x")):
            with pytest.raises(QuotaExceeded, match="of at most 1,000 bytes"):
                await refused
        assert [one.event_id for one in await said.replay()] == ["e1"]


async def test_a_user_is_erased_in_every_container_with_images_and_their_folders(url: str, tmp_path: Path):
    async with opened(url, base_path=tmp_path / "files", default_agent=echo) as rt:
        kept = await rt.images.create("acme", name="kept")
        await rt.images.ask(kept["image_id"], "hello", user_id="bob")
        folders = {}
        for container in ("default", "acme"):
            image = await rt.images.create(container, name=MARK, system_prompt=MARK, metadata={"of": MARK})
            await rt.images.ask(image["image_id"], MARK, user_id="ada")
            folder = tmp_path / "files/containers" / container / "workdirs" / image["image_id"]
            (folder / "notes.txt").write_text(MARK)
            folders[image["image_id"]] = folder
        gone = await rt.erase(user_id="ada")
        assert gone.containers == ("default", "acme")
        assert (gone.images, len(gone.sessions)) == (2, 2)
        assert [one["image_id"] for one in await rt.images.list()] == [kept["image_id"]]
        assert not any(folder.exists() for folder in folders.values())
        assert (await rt.images.ask(kept["image_id"], "again", user_id="bob")).status == "completed"
        for odd in ("", "x" * 201):
            with pytest.raises(DefinitionError, match="user_id"):
                await rt.erase(user_id=odd)
        rows_left = await rows(rt, "SELECT name, system_prompt, metadata FROM images")
        assert MARK not in str(rows_left)


async def test_an_image_that_is_deleted_takes_its_folder_with_it_and_not_what_a_link_leads_to(url: str, tmp_path: Path):
    async with opened(url, base_path=tmp_path / "files", default_agent=echo) as rt:
        image = (await rt.images.create())["image_id"]
        await rt.images.ask(image, "hello")
        folder = tmp_path / "files/containers/default/workdirs" / image
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept.txt").write_text("kept")
        (folder / "link").symlink_to(outside)
        await rt.images.delete(image)
        assert not folder.exists()
        assert (outside / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("quota", [Quota(sessions=-1), Quota(bytes=True), Quota(records="many")])  # type: ignore[arg-type]
async def test_a_quota_that_makes_no_sense_is_refused(quota: Quota, tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/desk.db") as rt:
        with pytest.raises(DefinitionError, match="Quota"):
            await rt.container("acme").configure(quota=quota)
