"""Environments that crash, hang or die: behaviours 31, 32, 39 and 40, and one live agent over all processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import perdure.runtime.environment as environment
from perdure import RunFailed, Runtime
from perdure.log.owners import Timing
from perdure.testing.environment import ScriptedEnvironment, ScriptedEnvironments
from tests.runtime.desk import until as till
from tests.runtime.test_environment import image, opened, until, watch

CALM = Timing(sweep=0.1)
"""Nobody is taken for dead because the machine is busy; who is killed is seen by its lock file."""

pytestmark = pytest.mark.usefixtures("silent")


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is logged here is meant."""
    caplog.set_level("CRITICAL", logger="perdure")
    yield


class Faulty(ScriptedEnvironments):
    """Makes environments one part of which does something else; the others are as the script says."""

    def __init__(self, *turns: Any, **parts: Any) -> None:
        super().__init__(*turns)
        self.parts = parts

    def create(self, config: Any, /) -> ScriptedEnvironment:
        made = super().create(config)
        for name, part in self.parts.items():
            setattr(made, name, part)
        return made


async def hanging(*_: Any) -> None:
    await asyncio.Event().wait()


over: list[asyncio.Event] = []


async def deaf(*_: Any) -> None:
    """Hang, and do not heed that it is cancelled, until the test is over."""
    end = over[-1]
    while not end.is_set():
        with suppress(asyncio.CancelledError):
            await end.wait()


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[None]:
    """Has what is deaf end with its test."""
    over.append(asyncio.Event())
    yield
    over.pop().set()


class Broken:
    def connect(self, way: Any, /) -> None:
        raise OSError("no wire")


@pytest.mark.parametrize("part", ["receptor", "effector"])
async def test_x32_an_environment_that_cannot_be_connected_is_an_error_and_is_let_go_of(url: str, part: str):
    factory = Faulty("Never.", **{part: Broken()})
    async with opened(url, factory) as runtime:
        id = await image(runtime)
        response = await runtime.request("image_run_request", {"image_id": id})
        assert "no wire" in response.data.get("error", "")
        assert factory.created[0].disposed == 1 and not runtime.images.live
        assert not (await runtime.images.list())[0]["online"]
        factory.parts.clear()
        assert (await runtime.ask(id, "x")).output == "Never."


async def test_x32_an_async_effector_that_raises_ends_the_turn(url: str):
    class Raising:
        def connect(self, way: Any, /) -> None:
            way.on("user_message", self.told)

        async def told(self, event: Any) -> None:
            await asyncio.sleep(0)
            raise OSError("no hands")

    async with opened(url, Faulty(effector=Raising())) as runtime:
        seen = watch(runtime)
        id = await image(runtime)
        with pytest.raises(RunFailed, match="no hands"):
            await runtime.ask(id, "x")
        await until(runtime, seen, "turn_response")
        (told,) = (one for one in seen if one.type == "error_occurred")
        assert told.data["recoverable"] and "no hands" in told.data["message"]


async def test_x32_a_receptor_that_says_nonsense_ends_the_turn_and_the_next_is_answered(url: str):
    nonsense = [("message_start", {}), ("tool_use_content_block_start", {"id": None}), ("message_delta", {"usage": 5})]
    wrong = ("message_delta", {"usage": {"input_tokens": "many"}})
    async with opened(url, ScriptedEnvironments([*nonsense, wrong], "Fine.")) as runtime:
        id = await image(runtime)
        with pytest.raises(RunFailed):
            await runtime.ask(id, "x")
        assert (await runtime.ask(id, "again")).output == "Fine."


@pytest.mark.parametrize("warmup", [hanging, deaf, "crash"])
async def test_x39_a_warmup_that_hangs_or_crashes_is_harmless(url: str, warmup: Any, ends: None):
    def crash() -> None:
        raise OSError("too cold")

    factory = Faulty("Warm enough.", warmup=crash if warmup == "crash" else warmup)
    async with opened(url, factory) as runtime:
        id = await image(runtime)
        assert (await runtime.ask(id, "x")).output == "Warm enough."
        async with asyncio.timeout(20):
            await runtime.images.stop(id)
        assert factory.created[0].disposed == 1


@pytest.mark.parametrize("dispose", [hanging, deaf, "crash"])
async def test_x40_the_end_takes_less_than_two_seconds_whatever_environments_do(url: str, dispose: Any, ends: None):
    assert environment.PARTING * 3 < 2  # for what warms up, what lets go, and what does not heed that: of all at once

    def crash() -> None:
        raise OSError("will not go")

    never = asyncio.Event()
    factory = Faulty(*[[("message_start", {}), ("text_delta", {"text": "Half"}), never]] * 5)
    factory.parts = {"dispose": crash if dispose == "crash" else dispose, "_interrupted": hanging}
    runtime = opened(url, factory)
    await runtime.open()
    seen = watch(runtime)
    for _ in range(5):
        await runtime.send(await image(runtime), "x")
    await until(runtime, seen, "text_delta", 5)
    async with asyncio.timeout(20):
        await runtime.dispose()
    await runtime.dispose()
    told = [one.type for one in seen if one.type.endswith(("destroyed", "unregistered"))]
    assert sorted(told[:-1]) == ["agent_unregistered"] * 5 + ["session_destroyed"] * 5
    assert told[:2] == ["session_destroyed", "agent_unregistered"] and told[-1] == "container_destroyed"
    async with opened(url, ScriptedEnvironments(*["Whole."] * 5)) as runtime:  # the turns were left, not ended
        seen = watch(runtime)
        while len(await runtime.container("acme").runs(status="completed")) < 5:
            await runtime.worker.until(runtime.worker.listen())


async def test_x17_an_image_that_is_stopped_in_a_turn_of_an_environment_says_so(url: str):
    never = asyncio.Event()
    factory = ScriptedEnvironments([("message_start", {}), ("text_delta", {"text": "Half"}), never], "Fine.")
    async with opened(url, factory) as runtime:
        seen = watch(runtime)
        id = await image(runtime)
        run = await runtime.send(id, "x")
        await until(runtime, seen, "text_delta")
        await runtime.images.stop(id)
        with pytest.raises(RunFailed, match="destroyed in the middle"):
            await run.result()
        assert (await runtime.ask(id, "again")).output == "Fine." and len(factory.created) == 2


async def test_x32_an_environment_that_does_not_stop_is_replaced(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "GRACE", 0.05)
    factory = Faulty([asyncio.Event()], "From the next one.", _interrupted=lambda _: None)
    async with opened(url, factory, environment_timeout=0.05) as runtime:
        id = await image(runtime)
        agent_id, _ = await runtime.images.run(id)
        with pytest.raises(RunFailed, match="Request timeout"):
            await runtime.ask(id, "x")
        factory.parts.clear()
        assert (await runtime.ask(id, "again")).output == "From the next one."
        assert [one.disposed for one in factory.created] == [1, 0]
        assert (await runtime.images.run(id)) == (agent_id, True)


async def test_what_comes_too_late_of_a_turn_is_not_taken_for_the_next(url: str):
    hold = asyncio.Event()
    factory = ScriptedEnvironments("One.", [hold, "Two."])
    async with opened(url, factory) as runtime:
        id = await image(runtime)
        await runtime.ask(id, "x")
        run = await runtime.send(id, "y")
        async with asyncio.timeout(20):
            while len(factory.asked) < 2:
                await runtime.worker.until(runtime.worker.listen())
        first = factory.asked[0].data["request_id"]
        factory.created[0].say("text_delta", {"text": "Of the first.", "request_id": first})
        hold.set()
        assert (await run.result()).output == "Two."


async def test_x16_x32_a_process_with_an_environment_that_is_killed_is_taken_over(url: str, tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, url, env=env, stdout=pipe, stdin=pipe)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            id = (await process.stdout.readline()).decode().strip()
        factory = ScriptedEnvironments("Asked anew.", "Then this.", "And this.")
        async with Runtime(url, environment_factory=factory, timing=CALM, durability="normal") as runtime:
            queued = await runtime.send(id, "second")
            assert not factory.created  # the other process lives
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(30):
                assert (await queued.result()).output == "Then this."
                assert (await runtime.ask(id, "third")).output == "And this."
            assert len(factory.created) == 1 and len(await runtime.images.agents("acme")) == 1
            messages = [one for one in await runtime.images.messages(id) if one["role"] in ("user", "assistant")]
            assert [one["role"] for one in messages] == ["user", "assistant"] * 3
            assert messages[1]["content"][0]["text"] == "Asked anew."
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def main(url: str) -> None:
    """Serve an image whose environment never answers, until somebody kills this process."""
    factory = ScriptedEnvironments([asyncio.Event()])
    async with Runtime(url, environment_factory=factory, timing=CALM, durability="normal") as runtime:
        id = await image(runtime)
        await runtime.send(id, "first")
        await till(lambda: factory.asked)
        print(id, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
