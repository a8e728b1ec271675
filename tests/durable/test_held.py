"""What could not be written is counted, and stops new work."""

import asyncio

import pytest

from perdure.db.database import StoreBusy
from perdure.durable.held import Held
from perdure.log.log import Entry
from perdure.types import records as rec


async def test_d24_above_a_number_of_held_bytes_no_step_begins():
    held = Held(most=10)
    small, large = ([Entry(None, rec.Started("x" * n))] for n in (1, 10))
    held.check()
    await held.room()
    sizes = [held.take(one) for one in (large, small)]
    with pytest.raises(StoreBusy, match="2 runs"):
        held.check()
    waiting = asyncio.create_task(held.room())
    await asyncio.sleep(0)
    held.let_go(sizes[1])
    await asyncio.sleep(0)
    assert not waiting.done()
    held.let_go(sizes[0])
    await waiting
    held.check()
