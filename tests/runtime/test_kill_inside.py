"""A process is killed in the middle of a commit, and around the end of a run."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest

from perdure.testing.conformance import gapless
from perdure.types import records as rec
from perdure.types.events import TERMINAL, RunCompleted
from tests.db.proxy import CommitProxy
from tests.runtime import desk
from tests.runtime.canon import closings
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, effects, runtime
from tests.servers import PostgresServer

STEPS = ("model desk 0", "model desk 1", "charge", "step a", "step b")
PLACES = ("agent/0/infer/0", "agent/0/infer/1", "agent/0/infer/0/tool/2")
PLACES += ("agent/0/infer/0/tool/3/a", "agent/0/infer/0/tool/3/b")


async def goes_on(url: str) -> None:
    """See what the log has, let the next process finish the run, and see that nothing of it was done again."""
    async with desk.Runtime(url, [], workers=False) as rt:
        records = await rt.session("s").records()
        closed = {one.key for one in records}
        before = effects()
    async with runtime(url) as rt:
        assert (await rt.run(DESK, "go", session_id="s", run_id="job")).output == "done: go"
        after = await rt.session("s").records()
    assert gapless([one.seq for one in after])
    assert after[: len(records)] == records
    closings(after)
    for effect, place in zip(STEPS, PLACES, strict=True):
        assert effects().count(effect) <= (1 if effect == "charge" else 2)
        if place in closed:
            assert effects().count(effect) == before.count(effect), f"{effect} was done again after its record"
    assert len({one for one in effects() if one.startswith("fetch")}) == 1
    assert sum(isinstance(one.payload, rec.RunFinished) for one in after) == 1


# -- inside the commit -------------------------------------------------------------------------------------------------


async def sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How large the write-ahead log is before and after an undisturbed run."""
    (folder / "calm").mkdir()
    wal = folder / "calm/desk.db-wal"
    with monkeypatch.context() as patch:
        patch.setattr(desk, "place", folder / "calm")
        async with runtime(f"sqlite:///{folder}/calm/desk.db") as rt:
            begin = wal.stat().st_size
            await rt.run(DESK, "go", session_id="s", run_id="job")
            return begin, wal.stat().st_size


@pytest.mark.parametrize("part", range(1, 7))
async def test_d03_killed_while_the_file_is_written(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(desk, "place", tmp_path)
    url = f"sqlite:///{tmp_path}/desk.db"
    begin, end = await sizes(tmp_path, monkeypatch)
    limit = begin + (end - begin) * part // 8 + 137 * part  # in the middle of a page, a header, a commit
    assert await Processes(url, tmp_path).run("run", "go", "job", LIMIT=str(limit)) == -signal.SIGXFSZ
    assert (tmp_path / "desk.db-wal").stat().st_size == limit, "it was cut off there"
    with closing(sqlite3.connect(tmp_path / "desk.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    await goes_on(url)


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("skip", [1, 4, 6])
async def test_d03_killed_while_the_server_commits(
    skip: int,
    cut: Literal["before", "after"],
    postgres: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(desk, "place", tmp_path)
    async with desk.Runtime(postgres_url, []):
        pass  # the tables are there
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    with CommitProxy(f"{postgres.folder}/.s.PGSQL.5432") as proxy:
        address = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable"
        processes = Processes(address, tmp_path)
        worker = await processes.start("waits", "go", "job")
        await desk.until(lambda: "waiting" in effects())
        proxy.on_cut = lambda: os.kill(worker.pid, signal.SIGKILL)
        proxy.skip, proxy.cut = skip, cut
        (tmp_path / "go").touch()
        assert await worker.wait() == -signal.SIGKILL
        assert proxy.cuts == 1
    await goes_on(postgres_url)


# -- around the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
async def test_d07_killed_around_the_end_there_is_one_end(when: str, url: str, processes: Processes):
    assert await processes.run("run", "go", "job", kill=f"finish:{when}") == -signal.SIGKILL
    before = effects()
    assert before.count("model desk 1") == 1
    async with runtime(url) as rt:
        seen: list[Any] = []
        for _ in range(2):
            async with rt.stream(DESK, "go", session_id="s", run_id="job") as stream:
                seen += [one async for one in stream if isinstance(one, TERMINAL) and one.run_id == "job"]
                assert (await stream.result()).output == "done: go"
        records = await rt.session("s").records()
    assert [type(one) for one in seen] == [RunCompleted] * 2, "one for each reader"
    ends = [one.payload for one in records if isinstance(one.payload, rec.RunFinished)]
    assert [(one.status, one.output) for one in ends] == [("completed", "done: go")]
    assert effects().count("charge") == 1
    assert effects().count("model desk 1") == (2 if when == "before" else 1), "its answer is in the commit of the end"
