"""Whoever cancels locks sessions from the top down, whoever sends an event by their ids: where both meet, one loses, is
repeated, and nothing is lost. In PostgreSQL only, as SQLite has one writer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from perdure.db.database import Sql
from perdure.log.log import Entry, NewRun
from perdure.log.sql import SqlLog
from perdure.types import records as rec
from perdure.types.sent_event import SentEvent
from perdure.types.waits import EventWait
from tests.log.stores import opened

ABOVE, BELOW = NewRun("above", "z", "A"), NewRun("below", "a", "A", parent="above", parent_key="k", detached=True)
"""The session of the run that has started the other one comes later in the order of ids."""


class Slow(SqlLog):
    """A log that holds each lock for a while, and counts how often it locks."""

    locked: list[str]

    def _lock(self, session_id: str) -> Sql:
        self.locked.append(session_id)
        mine = (self.container, session_id)
        text = "SELECT 1 FROM sessions WHERE container = ? AND id = ? FOR UPDATE"
        return Sql(f"SELECT pg_sleep(0.2) FROM ({text}) locked", mine, blind=True)


def slow(db: Any, owner: str) -> Slow:
    log = Slow(db, time.time, owner)
    log.locked = []
    return log


async def test_r02_r15_r17_a_cancel_and_an_event_that_lock_in_other_orders_are_both_done(postgres_url: str):
    async with opened(postgres_url, "normal") as db, opened(postgres_url, "normal") as other:
        log = SqlLog(db, time.time, "one")
        for new in (ABOVE, BELOW):
            accepted = await log.accept(new, rec.RunStarted("A", "agent", (), parent=new.parent))
            claimed = await log.claim(new.id) if accepted.token is None else (accepted.token, accepted.head)
            assert claimed is not None
            wait = EventWait(f"{new.id}~wait_1", "e", new.id)
            await log.append(claimed[0], [Entry("k/wait/0", rec.WaitOpened("A", (wait,)))], "waiting", seen=claimed[1])
        cancels, sends = slow(db, "two"), slow(other, "three")
        async with asyncio.timeout(60):  # the server notices after a second
            await asyncio.gather(
                cancels.post("above", rec.CancelAsked()), sends.send([SentEvent("e", {"n": 1}, "event_1")])
            )
        assert len(cancels.locked) + len(sends.locked) > 4, "neither had to be repeated"
        assert await log.event("event_1") is not None
        assert await log.waits() == []
        for new in (ABOVE, BELOW):
            kinds = [one.kind for one in await log.read_run(new.id)]
            assert kinds.count("cancel") == 1 and kinds.count("answer") <= 1
            assert await log.cancelled(new.id)
            assert await log.claim(new.id) is not None, "it can be ended"
