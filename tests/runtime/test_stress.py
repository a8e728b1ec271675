"""Images under stress: many sends from two processes, many lives of agents, many agents that have nothing to do.

As a program: `test_stress.py URL WHO EACH IMAGE…` sends to each image so many messages, in order, and serves what it
has begun until everybody's is answered.
"""

import asyncio
import gc
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime
from perdure.db.database import Script, Sql
from perdure.log.owners import Timing
from perdure.log.sql import SqlLog
from perdure.runtime.live_agent import LiveAgent
from perdure.testing import FunctionModel, say

CALM = Timing(sweep=0.1)
"""Nobody is taken for dead because the machine is busy."""
ROOT = Path(__file__).parents[2]


class Counting:
    """Says again what it was told, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.model = FunctionModel(self._answer)

    def _answer(self, request: Any) -> Any:
        self.asked += 1
        return say(f"re: {request.messages[-1].text}")


def opened(url: str, model: Counting) -> Runtime:
    return Runtime(url, model=model.model, timing=CALM, durability="normal")


async def send_all(runtime: Runtime, who: str, each: int, images: list[str]) -> None:
    """Send so many messages to each image: to one of them one after the other, to all of them at once."""

    async def one(id: str) -> None:
        for n in range(each):
            sent = await runtime.request("message_send_request", {"image_id": id, "content": f"{who} {n}"}, 60)
            assert "error" not in sent.data, sent.data

    await asyncio.gather(*(one(id) for id in images))


def _ended() -> Script[int]:
    rows = yield Sql("SELECT COUNT(*) FROM runs WHERE status = 'completed'")
    return int(rows[0][0])


async def settle(runtime: Runtime, count: int) -> None:
    """Wait until so many runs are completed, whoever drives them."""
    async with asyncio.timeout(400 if "SOAK" in os.environ else 100):
        while await runtime.db.read(_ended) < count:
            await runtime.worker.until(runtime.worker.listen())


async def two_processes(url: str, images: int, each: int) -> None:
    """Send from here and from another process to the same images; see what came of it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / one) for one in ("src", ""))}
    mine = Counting()
    async with opened(url, mine) as runtime:
        ids = [(await runtime.images.create("acme"))["image_id"] for _ in range(images)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, url, "other", str(each), *ids), env=env, stdout=asyncio.subprocess.PIPE
        )
        try:
            await send_all(runtime, "mine", each, ids)
            await settle(runtime, 2 * each * images)
            async with asyncio.timeout(60):
                out, _ = await process.communicate()
            assert process.returncode == 0
            assert mine.asked + int(out) == 2 * each * images
            serving = await runtime.images.agents("acme")
            assert len({one.image for one in serving}) == len(serving) <= images
            for id in ids:
                check(await runtime.images.messages(id), each)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def check(messages: list[dict[str, Any]], each: int) -> None:
    """Nothing is lost, nothing is doubled, each sender's order is kept, each answer follows its question."""
    assert [one["role"] for one in messages] == ["user", "assistant"] * (2 * each)
    assert len({one["id"] for one in messages}) == 4 * each
    asked = [one["content"] for one in messages[::2]]
    assert [f"re: {one}" for one in asked] == [one["content"][0]["text"] for one in messages[1::2]]
    for who in ("mine", "other"):
        assert [one for one in asked if one.startswith(who)] == [f"{who} {n}" for n in range(each)]


async def test_x33_x35_a_thousand_sends_over_fifty_images_from_two_processes(tmp_path: Path):
    await two_processes(f"sqlite:///{tmp_path}/stress.db", images=50, each=10)


async def test_x33_x35_sends_from_two_processes_on_postgres(postgres_url: str):
    await two_processes(postgres_url, images=20, each=3)


@pytest.mark.soak
async def test_x33_x35_ten_thousand_sends_from_two_processes(url: str):
    await two_processes(url, images=100, each=50)


def held(runtime: Runtime) -> tuple[int, int, int]:
    """Tasks, subscriptions and file handles of this process; a pool of connections has its own."""
    tasks = [one for one in asyncio.all_tasks() if one.get_name().startswith("perdure")]
    handles = len(os.listdir("/proc/self/fd")) if runtime.db.dialect == "sqlite" else 0
    return len(tasks), runtime.bus.subscriptions, handles


async def live_and_die(url: str, cycles: int) -> None:
    """Give images live agents and destroy them, again and again; see that nothing of them is left."""
    async with opened(url, Counting()) as runtime:
        ids = [(await runtime.images.create("acme"))["image_id"] for _ in range(50)]
        told: Counter[str] = Counter()
        runtime.on_any(lambda event: told.update([event.type]))

        async def cycle(id: str, times: int) -> None:
            for _ in range(times):
                await runtime.images.run(id)
                await runtime.images.stop(id)

        await asyncio.gather(*(cycle(id, 1) for id in ids))
        gc.collect()
        before = held(runtime)
        told.clear()
        await asyncio.gather(*(cycle(id, cycles // len(ids)) for id in ids))
        gc.collect()
        assert held(runtime) == before
        assert not runtime.worker.sessions and not runtime.images.live
        assert told["agent_registered"] == told["agent_unregistered"] == told["session_destroyed"] == cycles
        assert not [one for one in gc.get_objects() if isinstance(one, LiveAgent)]
        assert not runtime.images._locks
        assert await runtime.images.agents("acme") == []


async def test_x16_x39_an_image_that_many_run_and_stop_at_once_has_one_agent_and_then_none(url: str):
    async with opened(url, Counting()) as runtime:
        id = (await runtime.images.create("acme"))["image_id"]
        await runtime.images.run(id)
        await runtime.images.stop(id)
        before = held(runtime)
        for n in range(10):
            verbs = (runtime.images.run, runtime.images.run, runtime.images.stop)
            await asyncio.gather(*(verbs[(n + k) % 3](id) for k in range(20)))
            following = [one for one in asyncio.all_tasks() if one.get_name().startswith("perdure-agent_")]
            assert len(following) == len(runtime.images.live) == len(await runtime.images.agents("acme")) <= 1
        await runtime.images.stop(id)
        assert held(runtime) == before


async def test_x39_lives_of_agents_on_postgres(postgres_url: str):
    await live_and_die(postgres_url, 100)


async def test_x39_ten_thousand_lives_of_agents(tmp_path: Path):
    await live_and_die(f"sqlite:///{tmp_path}/stress.db", 10_000)


async def test_an_agent_reads_only_what_concerns_it(url: str, monkeypatch: pytest.MonkeyPatch):
    read: Counter[str] = Counter()
    original = SqlLog.read_session

    async def counted(self: SqlLog, session_id: str, *more: Any) -> Any:
        read[session_id] += 1
        return await original(self, session_id, *more)

    monkeypatch.setattr(SqlLog, "read_session", counted)
    async with opened(url, Counting()) as runtime, opened(url, Counting()) as other:
        records = [await runtime.images.create("acme") for _ in range(30)]
        await asyncio.gather(*(runtime.images.run(one["image_id"]) for one in records))
        for n in range(3):
            await other.ask(records[0]["image_id"], f"warm {n}")
        read.clear()
        for n in range(10):
            await other.ask(records[0]["image_id"], f"x{n}")
        assert set(read) <= {records[0]["session_id"]}


async def main(url: str, who: str, each: int, images: list[str]) -> None:
    """Send, and serve until everything is answered; say how often the model was asked."""
    mine = Counting()
    async with opened(url, mine) as runtime:
        await send_all(runtime, who, each, images)
        await settle(runtime, 2 * each * len(images))
    print(mine.asked)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
