"""Writes what open steps say into the table for other processes, some times a second, if there are any.

Nothing waits for it. On PostgreSQL it also tells other processes that there are new records, so that no append has to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from perdure.db.database import Database, Script, StoreError
from perdure.durable.kernel import Clock
from perdure.durable.live import Feed, Live
from perdure.log.live import LiveTable
from perdure.log.owners import Owners
from perdure.types.live import Part

EVERY = 0.05
"""Seconds between two writes."""
ALONE = 1.0
"""Seconds between two looks at whether there are other processes."""

_log = logging.getLogger("perdure")


class Publisher:
    """The one task of a process that writes the table.

    Args:
        db: the opened database.
        table: the table.
        owners: this process among others.
        clock: the machine's clock.
        lives: gives what is live here, by container.
    """

    def __init__(
        self,
        db: Database,
        table: LiveTable,
        owners: Owners,
        clock: Clock,
        lives: Callable[[], Iterable[tuple[str, Live]]],
    ) -> None:
        self._db = db
        self._table = table
        self._owners = owners
        self._clock = clock
        self._lives = lives
        self._more = asyncio.Event()
        self._alone = True
        self._looked = -ALONE
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what there is."""
        self._task = asyncio.create_task(self._work(), name="perdure-live")

    async def stop(self) -> None:
        """Stop writing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def notice(self) -> None:
        """There is something to be written."""
        self._more.set()

    async def _work(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            await self._clock.sleep(EVERY)
            try:
                if not await self._is_alone():
                    await self._write()
                    continue
            except StoreError as error:
                _log.warning("What is being said could not be written for other processes: %s", error)
            if self._forget():
                self._more.set()  # somebody may come
                await self._clock.sleep(ALONE)

    async def _is_alone(self) -> bool:
        """Whether no other process is at this store; looked at only so often."""
        now = self._clock.monotonic()
        if now - self._looked >= ALONE:
            self._alone = await self._owners.alone()
            self._looked = now
        return self._alone

    async def _write(self) -> None:
        said: list[tuple[str, Live, Feed, list[Part]]] = []
        for container, live in self._lives():
            feeds, live.unsent = live.unsent, {}
            said += [(container, live, feed, feed.unsent()) for feed in feeds]
        rows = [(container, feed.token, part) for container, _, feed, parts in said for part in parts]
        if rows:
            try:
                await self._table.write(rows)
            except StoreError:
                for _, live, feed, _ in said:
                    live.unsent[feed] = None
                raise
            except (TypeError, ValueError) as error:  # such as half a sign in a tool's arguments; the record will tell
                _log.warning("What is being said has no JSON form, so other processes are not shown it: %s", error)
            for _, _, feed, parts in said:
                feed.sent(parts)
        elif said and self._db.dialect == "postgres":
            await self._db.write(_nothing, notify=True)

    def _forget(self) -> bool:
        """Forget feeds that have nothing to say; whether some have."""
        left = False
        for _, live in self._lives():
            live.unsent = {feed: None for feed in live.unsent if feed.unsent()}
            left = left or bool(live.unsent)
        return left


def _nothing() -> Script[None]:
    yield from ()
