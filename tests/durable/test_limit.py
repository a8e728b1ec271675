"""A time limit ends its block, tells its own end from others, and leaves nothing behind."""

import asyncio
import gc
import weakref

import pytest

from perdure.durable.limit import TimeLimit


async def never() -> None:
    await asyncio.Event().wait()


async def test_what_ends_in_time_is_left_alone() -> None:
    with TimeLimit(60) as limit:
        await asyncio.sleep(0)
    assert not limit.expired


async def test_what_takes_longer_is_cancelled_and_raises_a_timeout_error() -> None:
    with pytest.raises(TimeoutError, match=r"not done within 0\.01 s"):  # noqa: SIM117
        with TimeLimit(0.01) as limit:
            await never()
    assert limit.expired
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_timeout_error_of_the_block_is_its_own() -> None:
    limit = TimeLimit(60)
    with pytest.raises(TimeoutError, match="mine"), limit:
        raise TimeoutError("mine")
    assert not limit.expired


async def test_an_error_on_the_way_out_wins_over_the_limit() -> None:
    with pytest.raises(ValueError, match="on the way out"), TimeLimit(0):
        try:
            await never()
        finally:
            raise ValueError("on the way out")


async def test_a_cancellation_from_outside_stays_one() -> None:
    started = asyncio.Event()

    async def work() -> None:
        with TimeLimit(60):
            started.set()
            await never()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_from_outside_and_expired_stays_cancelled() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        with TimeLimit(0):
            asyncio.get_running_loop().call_soon(task.cancel)
            await never()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_the_inner_of_two_limits_ends_first_and_the_outer_goes_on() -> None:
    with TimeLimit(60) as outer:
        with pytest.raises(TimeoutError), TimeLimit(0.01):
            await never()
        await asyncio.sleep(0)
    assert not outer.expired


async def test_limits_of_one_length_end_each_at_its_own_time() -> None:
    ended: list[int] = []
    begun = asyncio.Event()

    async def work(number: int) -> None:
        with pytest.raises(TimeoutError), TimeLimit(0.02):
            begun.set()
            await never()
        ended.append(number)

    first = asyncio.create_task(work(1))
    await begun.wait()
    with TimeLimit(0.02):  # between the two, and over before either: it must not take their timer with it
        await asyncio.sleep(0)
    second = asyncio.create_task(work(2))
    await asyncio.gather(first, second)
    assert ended == [1, 2]


async def test_a_limit_begun_when_the_others_are_over_is_watched_again() -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError), TimeLimit(0.005):
            await never()


def test_a_loop_is_not_kept_alive() -> None:
    async def work() -> weakref.ref[asyncio.AbstractEventLoop]:
        with TimeLimit(60):
            await asyncio.sleep(0)
        return weakref.ref(asyncio.get_running_loop())

    gone = asyncio.run(work())
    gc.collect()
    assert gone() is None


def test_it_needs_a_task() -> None:
    loop = asyncio.new_event_loop()
    problems: list[BaseException] = []

    def outside() -> None:
        try:
            with TimeLimit(1):
                pass
        except RuntimeError as error:
            problems.append(error)
        loop.stop()

    loop.call_soon(outside)
    loop.run_forever()
    loop.close()
    assert "needs a task" in str(problems[0])
