"""The bus: behaviours 1 to 9, and readers and handlers that are too slow."""

import asyncio
import inspect
import logging
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import DefinitionError
from perdure.runtime.bus import Bus, BusClosed
from perdure.runtime.requests import RequestTimeout
from perdure.types.envelope import EventContext, SystemEvent, is_command_request, is_command_response


def event(type: str = "text_delta", session: str | None = None, seq: int | None = None, **data: Any) -> SystemEvent:
    return SystemEvent(type, data, "agent", "stream", context=EventContext(session_id=session), seq=seq)


def test_x01_handlers_are_called_by_priority_then_in_the_order_they_came():
    bus, seen = Bus(), []
    bus.on("a", lambda _: seen.append("second"), priority=5)
    bus.on_any(lambda _: seen.append("third"), priority=5)
    bus.on("a", lambda _: seen.append("first"), priority=9)
    bus.on("a", lambda _: seen.append("last"), priority=-1)
    bus.on("*", lambda _: seen.append("fourth"))
    bus.emit(event("a"))
    assert seen == ["first", "second", "third", "fourth", "last"]


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(["a", "b", "*"]), st.booleans()), max_size=12))
def test_x01_the_order_is_that_of_a_stable_sort(wishes: list[tuple[int, str, bool]]):
    bus, seen = Bus(), []
    for n, (priority, types, once) in enumerate(wishes):
        bus.on(types, lambda _, n=n: seen.append(n), priority=priority, once=once)
    ranked = sorted(range(len(wishes)), key=lambda n: -wishes[n][0])
    for type in ("a", "b", "a"):
        bus.emit(event(type))
    used: set[int] = set()
    wanted: list[int] = []
    for type in ("a", "b", "a"):
        for n in ranked:
            if wishes[n][1] in (type, "*") and n not in used:
                wanted.append(n)
                used |= {n} if wishes[n][2] else set()
    assert seen == wanted


def test_x02_a_filter_that_says_no_does_not_use_up_once():
    bus, seen = Bus(), []
    bus.on(["a", "b"], lambda e: seen.append(e.data["n"]), filter=lambda e: e.data["n"] > 1, once=True)
    for n in range(4):
        bus.emit(event("ab"[n % 2], n=n))
    assert seen == [2] and bus.subscriptions == 0


def test_x03_once_is_once_though_the_handler_emits_the_same():
    bus, seen = Bus(), []

    def again(_: SystemEvent) -> None:
        seen.append(1)
        bus.emit(event("a"))

    bus.once("a", again)
    bus.emit(event("a"))
    assert seen == [1]


async def test_x04_what_raises_keeps_nobody_from_being_called(caplog: pytest.LogCaptureFixture):
    bus, seen = Bus(), []

    async def fails(_: SystemEvent) -> None:
        raise ValueError("async")

    def raises(_: SystemEvent) -> bool:
        raise ValueError("sync")

    bus.on("a", raises)
    bus.on("a", lambda _: None, filter=raises)
    bus.on("a", fails)
    bus.on("a", lambda e: fails(e))
    bus.on("a", lambda _: seen.append(1))
    with caplog.at_level(logging.ERROR, "perdure"):
        bus.emit_batch([event("a"), event("a")])
        await bus.idle()
    assert seen == [1, 1] and len([one for one in caplog.records if one.exc_info]) == 8


def test_x05_a_batch_keeps_its_order_and_ending_a_subscription_counts_at_once():
    bus, seen = Bus(), []
    later = bus.on("a", lambda _: seen.append("later"), priority=-1)

    def first(e: SystemEvent) -> None:
        seen.append(e.data["n"])
        if e.data["n"] == 1:
            later()
            later.stop()
            bus.on("a", lambda _: seen.append("new"))

    bus.on("a", first)
    bus.emit_batch(event("a", n=n) for n in range(3))
    assert seen == [0, "later", 1, 2, "new"]


def test_what_a_handler_emits_comes_after_the_event_it_was_called_for():
    bus, seen = Bus(), []
    bus.on("question", lambda _: bus.emit(event("answer")), priority=10)
    bus.on_any(lambda e: seen.append(e.type))
    bus.emit(event("question"))
    assert seen == ["question", "answer"]


async def test_x06_the_halves_have_only_their_own_and_are_always_the_same():
    bus = Bus()
    consumer, producer = bus.as_consumer(), bus.as_producer()
    assert consumer is bus.as_consumer() and producer is bus.as_producer()
    assert not hasattr(consumer, "emit") and not hasattr(producer, "on") and not hasattr(producer, "request")
    seen: list[str] = []
    consumer.on_any(lambda e: seen.append(e.type))
    consumer.on_command("ask_request", lambda e: producer.emit_command("ask_response", dict(e.data)))
    producer.emit(event("a"))
    assert (await consumer.request("ask_request", {})).type == "ask_response" and len(seen) == 3


async def test_x07_a_request_gets_the_response_of_its_own_id_and_type():
    bus = Bus()
    late: list[SystemEvent] = []

    def answer(e: SystemEvent) -> None:
        assert is_command_request(e)
        id = e.data["request_id"]
        bus.emit_command("other_response", {"request_id": id})
        bus.emit_command("ask_response", {"request_id": "another"})
        bus.emit_command("ask_response", {"request_id": id, "said": e.data["text"]})

    bus.on_command("ask_request", answer)
    bus.on_command("ask_response", late.append)
    got = await asyncio.gather(*(bus.request("ask_request", {"text": str(n)}) for n in range(20)))
    assert [one.data["said"] for one in got] == [str(n) for n in range(20)] and is_command_response(got[0])
    with pytest.raises(RequestTimeout, match="Request timeout: silent_request"):
        await bus.request("silent_request", {"request_id": "mine"}, 0.001)
    bus.emit_command("silent_response", {"request_id": "mine"})  # late: nobody waits any more
    assert inspect.signature(bus.request).parameters["timeout"].default == 30
    with pytest.raises(DefinitionError, match="_request"):
        await bus.request("ask", {})


async def test_x08_behind_its_end_a_bus_does_nothing_and_says_so_to_whoever_asks():
    bus, seen = Bus(), []
    bus.on_any(lambda e: seen.append(e))
    stream = bus.stream("a")
    waiting = asyncio.create_task(bus.request("ask_request", {}))
    await asyncio.sleep(0)
    seen.clear()
    bus.destroy()
    bus.destroy()
    bus.emit(event("a"))
    assert not bus.on("a", seen.append).active and seen == []
    assert [one async for one in stream] == [one async for one in bus.stream("a")] == []
    for asked in (waiting, bus.request("ask_request", {})):
        with pytest.raises(BusClosed):
            await asked
    assert bus.subscriptions == 0


async def test_an_async_handler_is_called_one_event_after_the_other():
    bus, seen = Bus(), []

    async def slow(e: SystemEvent) -> None:
        seen.append(("begin", e.data["n"]))
        await asyncio.sleep(0)
        seen.append(("end", e.data["n"]))

    bus.on("a", slow)
    bus.emit_batch(event("a", n=n) for n in range(3))
    assert seen == []
    await bus.idle()
    assert seen == [(what, n) for n in range(3) for what in ("begin", "end")]


async def test_a_slow_reader_keeps_nobody_waiting_and_is_told_what_it_missed():
    bus = Bus()
    async with bus.stream("a", buffer=3) as stream:
        bus.emit_batch(event("a", "s", seq) for seq in range(1, 8))
        bus.emit(event("a", "other", 5))
        got = [await anext(stream) for _ in range(4)]
        assert [one.seq for one in got[:3]] == [1, 2, 3]
        assert got[3].type == "events_missed" and got[3].data == {"count": 5, "after": {"s": 3, "other": 4}}
        bus.emit(event("a", "s", 8))
        assert (await anext(stream)).seq == 8
    assert bus.subscriptions == 0


async def test_a_hundred_thousand_events_with_slow_and_raising_handlers_take_bounded_memory():
    bus = Bus()
    logging.getLogger("perdure").disabled = True
    never = asyncio.Event()

    async def stuck(_: SystemEvent) -> None:
        await never.wait()

    def raises(_: SystemEvent) -> None:
        raise ValueError

    held = bus.on("a", stuck, buffer=100)
    bus.on("a", raises)
    stream = bus.stream("a", buffer=100)
    count = 0

    def counts(_: SystemEvent) -> None:
        nonlocal count
        count += 1

    bus.on("a", counts)
    tracemalloc.start()
    try:
        for n in range(100_000):
            bus.emit(event("a", "s", n + 1, text="x" * 50))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        logging.getLogger("perdure").disabled = False
    assert count == 100_000 and size < 2_000_000
    assert held.missed == 100_000 - 100
    stream.close()
    bus.destroy()
    await bus.idle()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("types", ["", [], [""], [1]])
def test_types_that_are_none_are_refused(types: Any):
    with pytest.raises(DefinitionError, match="give the type"):
        Bus().on(types, print)


def test_an_async_handler_outside_an_event_loop_is_said(caplog: pytest.LogCaptureFixture):
    async def later(_: SystemEvent) -> None: ...

    bus = Bus()
    bus.on("a", later)
    bus.emit(event("a"))
    assert "outside an event loop" in caplog.text
