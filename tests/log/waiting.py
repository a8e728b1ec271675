"""A process that waits for events and sends them, beside others that do the same; a test starts several.

    python waiting.py ADDRESS NAME COUNT

Each of its COUNT runs waits for two events and for a moment, one after the other. Every event is sent by all processes,
under one id, in batches of several names in any order. It ends when its runs have.
"""

from __future__ import annotations

import asyncio
import random
import sys

from perdure.log.log import Entry, NewRun
from perdure.log.sql import SqlLog
from perdure.types import records as rec
from perdure.types.sent_event import SentEvent
from perdure.types.waits import Elapsed, EventWait, Received, Timer, Wait
from tests.log.stores import log_of, opened
from tests.runtime.desk import until

NAMES = ("x", "y", "z")


async def live(log: SqlLog, run: str) -> None:
    """Drive a run that waits three times."""
    accepted = await log.accept(NewRun(run, f"s_{run}", "A"), rec.RunStarted("A", "agent", ()))
    token, head = accepted.token, accepted.head
    assert token is not None
    now = log.now()
    waits: list[Wait] = [
        EventWait(f"{run}~wait_a", "x", run),
        EventWait(f"{run}~wait_b", "y", run, {"n": 0}),
        Timer(f"{run}~wait_c", run, now + 0.05),
    ]
    for n, wait in enumerate(waits):
        opened = Entry(f"k/wait/{n}", rec.WaitOpened("A", (wait,)))
        last = await log.append(token, [opened], "waiting", seen=head)
        if last == head + 1:
            await until(lambda: queued(log, run))
            claimed = await log.claim(run)
            assert claimed is not None
            token, last = claimed
        head = last
    await log.append(token, [Entry(None, rec.RunFinished("completed", "answer"))])
    answers = [one.payload for one in await log.read_run(run) if isinstance(one.payload, rec.Answered)]
    assert [one.wait_id for one in answers] == [wait.id for wait in waits]
    kinds = [type(one.answer) for one in answers]
    assert kinds == [Received, Received, Elapsed]


async def queued(log: SqlLog, run: str) -> bool:
    return (await log.run(run)).status == "queued"


async def tell(log: SqlLog, sent: int, over: asyncio.Event) -> None:
    """Send what all send, and end what is due, until all runs here are over."""
    while not over.is_set():
        names = random.sample(NAMES, len(NAMES))
        await log.send([SentEvent(name, {"n": sent % 3}, f"{name}_{sent}") for name in names])
        await log.due(10)
        sent += 1


async def main(address: str, name: str, count: int) -> None:
    async with opened(address, "normal") as db:
        log = log_of(db, name)
        over = asyncio.Event()
        telling = [asyncio.create_task(tell(log, 1000 * n, over)) for n in range(2)]
        await asyncio.gather(*(live(log, f"{name}_{n}") for n in range(count)))
        over.set()
        await asyncio.gather(*telling)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
