"""A copy of a store that was taken in the middle of a run: it holds the run, and goes on with it when told to."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from perdure import RunFailed, Runtime
from perdure.db.database import StoreError
from perdure.log.log import Entry, NewRun
from perdure.types.records import RunFinished, RunStarted
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, QUICK, effects, runtime, until


def opened(url: str, **options: Any) -> Runtime:
    return Runtime(url, [DESK], timing=QUICK, durability="normal", **options)


async def copy_in_the_middle(url: str, processes: Processes, target: Path) -> str:
    """Copy a store while another process is inside the second step of a run and a further one queues behind it."""
    await processes.start("queue", "slow", "look")
    await until(lambda: "slow" in effects() and "queued" in effects())
    async with Runtime(url, workers=False) as rt:
        assert await rt.backup(target) > 0
    return f"sqlite:///{target}"


async def test_d29_r04_a_copy_goes_on_without_repeating_what_is_finished(
    url: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = await copy_in_the_middle(url, processes, tmp_path / "copy.db")
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(desk, "place", tmp_path / "there")
    async with Runtime(url, workers=False) as original, opened(copy) as rt:
        assert rt.store_id != original.store_id
        store = rt.store_id
        assert [(one.status, one.held) for one in await rt.runs()] == [("parked", "queued"), ("parked", "queued")]
        assert {one.status for one in await original.runs()} == {"running", "queued"}
        await rt.worker.sweep()
        assert not rt.busy(), "nothing runs"
        with pytest.raises(RunFailed, match="its store is a copy"):
            await rt.run(DESK, "slow", session_id="s", run_id="run_0")
    assert effects() == []
    (tmp_path / "there" / "go").touch()
    async with opened(copy, take_over=True) as rt:
        assert rt.store_id == store, "a copy is new only once"
        first = await rt.run(DESK, "slow", session_id="s", run_id="run_0")
        second = await rt.run(DESK, "look", session_id="s", run_id="run_1")
    assert (first.output, second.output) == ("done: slow", "done: look")
    done = effects()
    assert "model desk 0" not in done[: done.index("charge")], "the first inference is in the log"
    assert done.count("slow") == 1, "the step that was open is idempotent: it is entered again"
    assert done.count("charge") == 1


async def test_r04_a_waiting_and_a_poisoned_run_are_as_they_were_when_the_copy_is_taken_over(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/desk.db"
    async with opened(url, workers=False) as rt:
        log = rt.container("default").log
        for n, status in enumerate(("waiting", "parked", "completed")):
            accepted = await log.accept(desk_run(f"run_{n}"), started())
            assert accepted.token is not None
            if status == "completed":
                await log.append(accepted.token, [desk_end()])
            else:
                await log.append(accepted.token, [], status)
        await rt.backup(tmp_path / "copy.db")
    async with opened(f"sqlite:///{tmp_path}/copy.db", workers=False) as rt:
        assert await states(rt) == [
            ("run_0", "parked", "waiting"),
            ("run_1", "parked", None),
            ("run_2", "completed", None),
        ]
    async with opened(f"sqlite:///{tmp_path}/copy.db", workers=False, take_over=True) as rt:
        assert await states(rt) == [("run_0", "waiting", None), ("run_1", "parked", None), ("run_2", "completed", None)]


async def test_r04_a_copied_file_is_seen_by_its_place_and_one_that_was_moved_or_overwritten_is_the_same(
    tmp_path: Path,
):
    url = f"sqlite:///{tmp_path}/desk.db"
    async with opened(url, workers=False) as rt:
        await rt.container("default").log.accept(desk_run("run_0"), started())
        store = rt.store_id
    (tmp_path / "desk.db").rename(tmp_path / "moved.db")
    async with opened(f"sqlite:///{tmp_path}/moved.db", workers=False) as rt:
        assert (rt.store_id, await states(rt)) == (store, [("run_0", "running", None)])
    shutil.copy(tmp_path / "moved.db", tmp_path / "copied.db")
    async with opened(f"sqlite:///{tmp_path}/copied.db", workers=False) as rt:
        assert rt.store_id != store
        assert await states(rt) == [("run_0", "parked", "queued")]
    (tmp_path / "moved.db").write_bytes((tmp_path / "moved.db").read_bytes())  # a copy of itself, in its place
    async with opened(f"sqlite:///{tmp_path}/moved.db", workers=False) as rt:
        assert (rt.store_id, await states(rt)) == (store, [("run_0", "running", None)])


async def test_r04_a_copied_database_is_seen_by_its_place(postgres: Any):
    url = postgres.database()
    async with opened(url, workers=False) as rt:
        await rt.container("default").log.accept(desk_run("run_0"), started())
        store = rt.store_id
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    async with opened(url.replace(name, f"{name}_copy"), workers=False) as rt:
        assert rt.store_id != store
        assert await states(rt) == [("run_0", "parked", "queued")]
    async with opened(url, workers=False) as rt:
        assert (rt.store_id, await states(rt)) == (store, [("run_0", "running", None)])


async def test_r04_whoever_wrote_to_a_store_that_is_found_elsewhere_has_no_token_any_more(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/desk.db", workers=False) as rt:
        accepted = await rt.container("default").log.accept(desk_run("run_0"), started())
        await rt.backup(tmp_path / "copy.db")
    async with opened(f"sqlite:///{tmp_path}/copy.db", workers=False, take_over=True) as rt:
        assert accepted.token is not None
        with pytest.raises(desk.Conflict):
            await rt.container("default").log.append(accepted.token, [desk_end()])


async def test_a_backup_never_takes_the_place_of_a_file(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/desk.db") as rt:
        with pytest.raises(StoreError, match="is there already"):
            await rt.backup(tmp_path / "desk.db")
        with pytest.raises(StoreError, match="no folder"):
            await rt.backup(tmp_path / "nowhere" / "copy.db")
    assert [one.name for one in tmp_path.iterdir()] == ["desk.db"]


async def test_a_held_run_can_go_on_alone_and_be_cancelled_alone(
    url: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = await copy_in_the_middle(url, processes, tmp_path / "copy.db")
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(desk, "place", tmp_path / "there")
    (tmp_path / "there" / "go").touch()
    async with runtime(copy) as rt:
        await rt.cancel("run_0")
        await rt.resume("run_1")
        await until(lambda: desk.nothing_open(rt))
        assert await states(rt) == [("run_0", "cancelled", None), ("run_1", "completed", None)]
    assert "slow" not in effects()


def desk_run(id: str) -> Any:
    return NewRun(id, f"s_{id}", "Desk")


def started() -> Any:
    return RunStarted("Desk", "agent", ())


def desk_end() -> Any:
    return Entry(None, RunFinished("completed", "answer"))


async def states(rt: Runtime) -> list[Any]:
    return sorted((one.id, one.status, one.held) for one in await rt.runs())
