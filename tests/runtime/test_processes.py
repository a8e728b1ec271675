"""Several processes on one store: stopped ones, healthy ones, cancels from outside, queues, poison."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import RunCancelled, RunFailed
from perdure.log.owners import Owners, Timing
from perdure.types import records as rec
from perdure.types.messages import TextMessage
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import DESK, effects, runtime, until


async def said(rt: Any, session: str = "s") -> list[str]:
    return [one.text async for one in rt.session(session).messages() if isinstance(one, TextMessage)]


async def result_of(rt: Any, input: str, run_id: str, session: str = "s") -> Any:
    async with asyncio.timeout(60):
        return await rt.run(DESK, input, session_id=session, run_id=run_id)


async def test_d10_a_stopped_process_that_wakes_after_a_takeover_writes_and_does_nothing(
    url: str, processes: Processes, tmp_path: Path
):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    worker.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    async with runtime(url) as rt:
        result = await result_of(rt, "slow", "job")
        assert result.output == "done: slow"
        before = await rt.session("s").records()
        worker.send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
        assert await rt.session("s").records() == before
    assert effects().count("charge") == 1
    assert [effects().count(f"model desk {n}") for n in range(3)] == [1, 1, 1]
    assert "output done: slow" in effects(), "its caller gets the result that the successor has reached"
    assert [one.payload.died for one in before if isinstance(one.payload, rec.Claimed)] == [True]


async def test_d10_a_stopped_process_that_wakes_beside_its_successor_is_refused(
    url: str, processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    worker.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(desk, "gate", "go here")
    async with runtime(url) as rt:
        result = asyncio.create_task(result_of(rt, "slow", "job"))
        await until(lambda: effects().count("slow") == 2)
        before = await rt.session("s").records()
        (tmp_path / "go").touch()
        worker.send_signal(signal.SIGCONT)
        await until(lambda: "refused" in effects())
        assert await rt.session("s").records() == before
        (tmp_path / "go here").touch()
        assert (await result).output == "done: slow"
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
    assert "output done: slow" in effects()
    assert effects().count("charge") == 1
    assert [effects().count(f"model desk {n}") for n in range(3)] == [1, 1, 1]


async def test_d11_a_second_healthy_process_repeats_nothing(url: str, processes: Processes, tmp_path: Path):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    async with runtime(url) as rt:
        for _ in range(5):
            await rt.worker.sweep()
            assert not rt.busy()
        follower = asyncio.create_task(result_of(rt, "slow", "job"))
        (tmp_path / "go").touch()
        assert (await follower).output == "done: slow"
        assert not [one for one in await rt.session("s").records() if one.kind == "claim"]
    async with asyncio.timeout(60):
        assert await worker.wait() == 0
    assert (effects().count("slow"), effects().count("charge"), effects().count("model desk 0")) == (1, 1, 1)


async def test_d12_many_claim_at_once_and_one_gets_it(url: str, processes: Processes, tmp_path: Path):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    worker.kill()
    await worker.wait()
    (tmp_path / "go").touch()
    others = [await processes.start("serve") for _ in range(3)]
    async with runtime(url) as rt:
        assert (await result_of(rt, "slow", "job")).output == "done: slow"
        claims = [one for one in await rt.session("s").records() if one.kind == "claim"]
    (tmp_path / "stop").touch()
    for one in others:
        async with asyncio.timeout(60):
            assert await one.wait() == 0
    assert len(claims) == 1
    assert effects().count("charge") == 1
    assert effects().count("slow") == 2


async def test_d17_a_run_is_cancelled_from_another_process(url: str, processes: Processes):
    worker = await processes.start("cancelled", "slow", "job")
    await until(lambda: "slow" in effects())
    async with runtime(url) as rt:
        await rt.cancel("job")
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
        assert "status cancelled" in effects()
        with pytest.raises(RunCancelled):
            await result_of(rt, "slow", "job")
        records = await rt.session("s").records()
        ends = [one.payload.status for one in records if isinstance(one.payload, rec.RunFinished)]
        assert ends == ["cancelled"]
        await rt.cancel("job")
        assert await rt.session("s").records() == records, "a run that is over stays as it is"


async def test_d17_a_cancel_wins_when_the_process_is_dead(url: str, processes: Processes):
    worker = await processes.start("run", "slow", "job")
    await until(lambda: "slow" in effects())
    worker.kill()
    await worker.wait()
    async with desk.Runtime(url, [DESK], workers=False, timing=desk.QUICK) as rt:
        await rt.cancel("job")
    async with runtime(url) as rt:
        with pytest.raises(RunCancelled):
            await result_of(rt, "slow", "job")
    assert effects().count("slow") == 1, "what was open is closed, not tried again"


async def test_d27_a_message_that_a_dead_process_had_queued_is_still_run(
    url: str, processes: Processes, tmp_path: Path
):
    worker = await processes.start("queue", "slow", "second")
    await until(lambda: "slow" in effects() and "queued" in effects())
    worker.kill()
    await worker.wait()
    (tmp_path / "go").touch()
    async with runtime(url) as rt:
        await until(lambda: desk.nothing_open(rt))
        assert await said(rt) == ["slow", "done: slow", "second", "answer to second"]


@pytest.mark.parametrize("number", [1, 4])
async def test_d27_ten_turns_at_once_are_kept_in_order_and_none_interleaved(
    number: int, url: str, processes: Processes
):
    texts = [f"turn{n}" for n in range(10)]
    workers = [await processes.start("turns", *texts[n::number]) for n in range(number)]
    for worker in workers:
        async with asyncio.timeout(60):
            assert await worker.wait() == 0
    async with runtime(url) as rt:
        kept = await said(rt)
        records = await rt.session("s").records()
    order = [one.payload.messages[0].text for one in records if isinstance(one.payload, rec.RunStarted)]
    assert sorted(order) == texts
    assert kept == [line for text in order for line in (text, f"answer to {text}")]
    assert effects().count("model desk 0") == 10
    done = [one.run_id for one in records if not isinstance(one.payload, rec.RunStarted)]
    assert [one for n, one in enumerate(done) if n == 0 or done[n - 1] != one] == [f"run_{text}" for text in order]


async def test_d21_a_run_that_kills_its_process_is_parked_and_others_go_on(
    url: str, processes: Processes, tmp_path: Path
):
    (tmp_path / "poison").touch()
    assert await processes.run("queue", "boom", "after") == -signal.SIGKILL
    for _ in range(2):
        assert await processes.run("serve") == -signal.SIGKILL
    assert effects().count("boom") == 3
    async with runtime(url) as rt:
        with pytest.raises(RunFailed, match="parked"):
            await result_of(rt, "boom", "run_0")
        assert (await result_of(rt, "after", "run_1")).output == "answer to after"
        assert (await result_of(rt, "hello", "other", "elsewhere")).output == "answer to hello"
    assert effects().count("boom") == 3


async def test_d21_an_innocent_run_beside_it_is_not_parked(url: str, processes: Processes, tmp_path: Path):
    (tmp_path / "poison").touch()
    assert await processes.run("both") == -signal.SIGKILL
    async with desk.Runtime(url, [DESK], workers=False) as rt:
        owners = rt.worker.owners
        left = await owners.left(await owners.dead(lambda: 0.0), ())
        assert [(one.held, one.deaths) for one in left] == [(2, 1)] * 2
    assert await processes.run("drain") == -signal.SIGKILL, "both are taken over together"
    (tmp_path / "go").touch()
    deaths = 2
    while await processes.run("drain") != 0:
        deaths += 1
        assert deaths <= 5, "two deaths in company, then three alone"
    assert deaths >= 3
    assert effects().count("boom") == deaths
    async with runtime(url) as rt:
        assert (await result_of(rt, "slow", "innocent")).output == "done: slow"
        with pytest.raises(RunFailed, match="parked"):
            await result_of(rt, "boom", "poison", "elsewhere")
        records = await rt.session("elsewhere").records()
    alone = [one.payload.alone for one in records if isinstance(one.payload, rec.Claimed)]
    assert (alone[0], sum(alone)) == (False, 3), "it was not alone when it died first"


async def test_d13_no_wall_clock_decides_who_is_alive(url: str):
    async with desk.Runtime(url, [DESK], workers=False) as rt:
        one, other = Owners(rt.db, Timing(death=10)), Owners(rt.db, Timing(death=10))
        await one.beat()
        for now in (1000.0, 1004.5, 1009.0):  # it looks again and again: a gap would begin anew
            assert one.id not in await other.dead(lambda now=now: now), "seen for nine seconds at most: alive"
        await one.beat()
        for now in (1011.0, 1016.0, 1020.0):
            assert one.id not in await other.dead(lambda now=now: now), "it has beaten since"
        assert one.id in await other.dead(lambda: 1021.0), "ten seconds without a beat"
        await one.close()
        await other.close()


async def test_an_owner_that_was_forgotten_is_known_again_when_it_beats(url: str):
    async with runtime(url) as rt:
        one = Owners(rt.db, Timing(death=10))
        await one.beat()
        await rt.worker.owners.forget([one.id])
        await one.beat()
        assert await one.forget([one.id])
        await one.close()
