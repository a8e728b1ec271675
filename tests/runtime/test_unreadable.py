"""Records that cannot be read, or that an older version wrote."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime
from perdure.db.database import Script, Sql, StoreCorrupt
from perdure.log.sql import SqlLog
from perdure.types import records as rec
from perdure.types import upcast
from tests.runtime import desk
from tests.runtime.desk import DESK, QUICK, effects, until


async def put(rt: Runtime, run_id: str, kind: str, payload: bytes, version: int = rec.SCHEMA_VERSION) -> None:
    """Put other bytes in the place of a record."""

    def script() -> Script[None]:
        text = "UPDATE records SET payload = ?, version = ? WHERE run = ? AND kind = ?"
        yield Sql(text, (payload, version, run_id, kind))

    await rt.db.write(script)


async def test_r13_d22_a_run_with_a_record_that_cannot_be_read_is_parked_and_can_be_ended(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk, "place", tmp_path)
    async with Runtime(url, [DESK], timing=QUICK) as rt:
        container, gone = rt.container("default"), SqlLog(rt.db, rt.clock.now, "gone")

        async def left(run_id: str) -> None:
            running = container.prepare(DESK, "look", {"session_id": f"s-{run_id}", "run_id": run_id})
            async with rt.worker._sweeping:  # nobody takes it over before it is damaged
                await gone.accept(container.new_run(running), running.started)
                await put(rt, run_id, "run_started", b'{"type": "dream"}')

        async def status(run_id: str) -> str:
            return (await container.log.run(run_id)).status

        async def parked(run_id: str) -> bool:
            return await status(run_id) == "parked"

        for id in ("job1", "job2"):
            await left(id)
            await until(lambda id=id: parked(id))
        for _ in range(3):
            await rt.sweep()
        row = await container.log.run("job1")
        assert (row.status, row.epoch, row.owner) == ("parked", 2, None), "it is not taken up again and again"
        with pytest.raises(StoreCorrupt, match=r"The record 1 \(run_started, version 1\).*cannot be read.*newer"):
            await container.log.read_run("job1")
        await rt.cancel("job1")
        assert await status("job1") == "cancelled"
        assert (await rt.session("s-job2").erase(cancel=True)).sessions == ("s-job2",)
        await left("job3")
        await rt.cancel("job3")  # before anybody has seen what it is
        async with asyncio.timeout(20):
            await rt.session("s-job3").erase(cancel=True)
        assert await status("job3") == "cancelled"
        assert await rt.check(deep=True) != [], "job1 is still there"
    assert effects() == []


async def test_r13_d22_a_record_of_an_older_version_is_read_as_the_current_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk, "place", tmp_path)

    def renamed(fields: dict[str, Any]) -> dict[str, Any]:
        return {**{name: value for name, value in fields.items() if name != "why"}, "stop_reason": fields["why"]}

    async with Runtime(url, [DESK], timing=QUICK) as rt:
        await rt.run(DESK, "hello", session_id="s", run_id="job")
        before = (await rt.session("s").records())[-1].payload
        old = rec.encode_payload(before).replace(b'"stop_reason"', b'"why"')
        assert old != rec.encode_payload(before)
        await put(rt, "job", "run_finished", old, 0)
        with pytest.raises(StoreCorrupt, match=r"run_finished, version 0"):
            await rt.session("s").records()
        assert len(await rt.check(deep=True)) == 1
        monkeypatch.setattr(upcast, "UPCASTERS", {("run_finished", 0): renamed})
        assert (await rt.session("s").records())[-1].payload == before
        assert await rt.check(deep=True) == []
        assert (await rt.run(DESK, "hello", session_id="s", run_id="job")).output == "answer to hello"
    assert effects() == ["model desk 0"]
