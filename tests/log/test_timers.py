"""How waits end whose time comes, seen from the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.log.log import Entry
from perdure.testing.conformance import owned
from perdure.types.records import Answered, WaitOpened
from perdure.types.waits import Elapsed, Timer, wait_id
from tests.log.stores import log_of, opened


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_r16_r17_a_timer_that_is_recorded_again_when_it_is_over_fires_once(
    store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As when a tool waits for two things, and goes on to wait when one of them has ended."""
    url = request.getfixturevalue("postgres_url") if store == "postgres" else f"sqlite:///{tmp_path}/log.db"
    timer = Timer(wait_id("run_1", "nap"), "run_1", 5.0)
    async with opened(url) as db:
        log = log_of(db)
        token = await owned(log)
        monkeypatch.setattr(db, "clock", "1.0")
        await log.append(token, [Entry("a/wait/0", WaitOpened("A", (timer,)))])
        assert [one.id for one in await log.waits()] == [timer.id]
        monkeypatch.setattr(db, "clock", "6.0")
        await log.append(token, [Entry("a/wait/1", WaitOpened("A", (timer,)))])
        assert await log.waits() == []
        assert await log.due() == 0
        ends = [one.payload for one in await log.read_run("run_1") if isinstance(one.payload, Answered)]
    assert ends == [Answered(timer.id, Elapsed())]
