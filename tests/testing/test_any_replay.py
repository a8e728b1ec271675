"""Any run of random scripted models replays as the same; so do the demo, the programs, and a run that was killed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Approve, Budget, Deny, RunCancelled, RunFailed, Runtime
from perdure.cli.demo import library_desk
from perdure.cli.library import Library
from perdure.models.offline import OfflineModel
from perdure.testing import ScriptedModel, call, recorded, recording, replay, say
from tests.agents.test_streams import DEFINITIONS, WAITING, Board, asking, at_once, model, moves, texts
from tests.programs import test_03_structured_output as program_3
from tests.programs import test_04_05_two_agents_and_their_stream as program_4
from tests.runtime import desk
from tests.runtime.conftest import Processes

__all__ = ["at_once"]  # a fixture

pytestmark = pytest.mark.usefixtures("at_once")


async def same(result: Any, definition: Any, folder: Path | None = None, **options: Any) -> None:
    run = await recording(result)
    if folder is not None:
        run = recorded(run.save(folder / "run.json", redact=None))
    replay(run, definition, **options).check()


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(DEFINITIONS)),
    st.lists(moves, max_size=8),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(0, 5),
    st.none() | st.integers(1, 3),
)
async def test_any_run(
    name: str, script: list[Any], cancel_at: int | None, model_calls: int | None, max_iter: int | None
):
    definition: Any = DEFINITIONS[name]
    options: dict[str, Any] = {} if model_calls is None else {"budget": Budget(model_calls=model_calls)}
    if max_iter is not None:
        options["max_iter"] = max_iter
    run = definition.start("go", model=model(script), state=Board(), **options)
    cancelling: asyncio.Task[None] | None = None
    number = 0
    async for _ in run.events():
        number += 1
        if number == cancel_at:
            cancelling = asyncio.create_task(run.cancel())
    try:
        result = await run.result()
    except (RunFailed, RunCancelled) as ended:
        result = ended.result
    if cancelling is not None:
        await cancelling
    await same(result, definition)


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(WAITING)),
    st.lists(
        st.tuples(st.just("calls"), texts, st.lists(asking, min_size=1, max_size=3)) | st.tuples(st.just("say"), texts),
        max_size=6,
    ),
    st.lists(st.none() | st.booleans(), min_size=1, max_size=6),
)
async def test_any_run_that_waits(name: str, script: list[Any], answers: list[bool | None]):
    definition: Any = WAITING[name]
    result = await definition.run("go", model=model(script), state=Board())
    left = list(answers)
    while result.status == "waiting":
        await same(result, definition)
        given_now: dict[str, Any] = {}
        for wait in result.waits:
            said = left.pop(0) if left else True
            if said is not None:
                given_now[wait.id] = Approve() if said else Deny("no")
        result = await result.resume(given_now)
    await same(result, definition)


async def test_the_demo(tmp_path: Path):
    (tmp_path / "boats.md").write_text("# Boats\n\nA ketch has two masts.\n", encoding="utf-8")
    library = Library.open(tmp_path)
    result = await library_desk.run("How many masts has a ketch?", model=OfflineModel(), resources=[library])
    assert "two masts" in result.text
    await same(result, library_desk, tmp_path)
    result = await library_desk.run(
        "?", model=ScriptedModel(call("search_files", query="masts"), say("Two.")), resources=[library]
    )
    await same(result, library_desk, tmp_path)


async def test_programs(tmp_path: Path):
    answers = ScriptedModel(call("answer", text="Refund."), say("You will be refunded."))
    await same(await program_4.desk.run("Why twice?", model=answers), program_4.desk, tmp_path)
    answers = ScriptedModel(say("I do not know."), say("We will look into it."))
    await same(await program_4.desk.run("Why twice?", model=answers, max_iter=2), program_4.desk, tmp_path)
    answers = ScriptedModel(say("{}"), say('{"total": "12.50", "currency": "EUR"}'))
    await same(await program_3.extract.run("Read this", model=answers), program_3.extract, tmp_path)


@pytest.mark.parametrize(("store", "kill"), [("sqlite", "4:after"), ("sqlite", "9:before"), ("postgres", "7:after")])
async def test_a_run_that_was_killed_and_went_on(
    store: str, kill: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    url = request.getfixturevalue("postgres_url") if store == "postgres" else f"sqlite:///{tmp_path}/desk.db"
    monkeypatch.setattr(desk, "place", tmp_path)
    processes = Processes(url, tmp_path)
    assert await processes.run("run", "go", "job", kill=kill) != 0
    async with desk.runtime(url) as rt:
        async with asyncio.timeout(60):
            await rt.run(desk.DESK, "go", session_id="s", run_id="job")
        run = await recording(rt, "job")
        before = desk.effects()
        replay(run, rt).check()
        replay(run, [desk.DESK]).check()
    assert desk.effects() == before


async def test_a_store_with_a_budget_for_a_session(tmp_path: Path):
    agent: Any = DEFINITIONS["agent"]
    mine = agent.replace(model=model([("say", "a"), ("say", "b")]))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [mine], durability="normal") as rt:
        for number in range(3):
            result = await rt.run(
                mine, "go", session_id="s", run_id=f"job-{number}", session_budget=Budget(model_calls=2), state=Board()
            )
            replay(await recording(rt, result.run_id), rt).check()
    assert result.stop_reason == "budget"
