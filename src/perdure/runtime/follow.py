"""Following a session: its records from the log, and what its open steps say from this process or another one's table.

A reader pulls, and waits until something may have changed; it has no task of its own and nothing is kept for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from perdure.db.database import StoreError
from perdure.durable.patience import patiently
from perdure.durable.tail import Tail
from perdure.log.log import RunRow
from perdure.types.errors import Conflict, InvalidId
from perdure.types.events import AnyEvent
from perdure.types.live import Cursor, Part
from perdure.types.records import Record, RunStarted

if TYPE_CHECKING:
    from perdure.runtime.container import Container

PAGE = 500
"""How many records are read at once."""


class Follower:
    """One reader of a session.

    Args:
        container: whose session it is.
        tail: what was shown, and what follows from it.
        notes: what is shown beside a record that does not show it by itself.
    """

    def __init__(
        self, container: Container, tail: Tail, notes: Callable[[Record], Sequence[AnyEvent]] = lambda _: ()
    ) -> None:
        self._container = container
        self._tail = tail
        self._notes = notes
        self._changed = asyncio.Event()
        self.behind = True

    @contextmanager
    def watching(self, *, all: bool = False) -> Generator[None]:
        """Be told of changes as long as this is open; of `all` in the store, or of what is new in the session."""
        session, worker = self._tail.session_id, self._container.runtime.worker
        mine = (self._container.name, session)
        seen = worker.watched(self._look) if all else worker.following(mine, lambda: self._tail.seq, self._look)
        with self._container.live_here.reading(session, self._wake), seen:
            yield

    def _wake(self, log: bool) -> None:
        self.behind = self.behind or log
        self._changed.set()

    def _look(self) -> None:
        self._wake(True)

    async def wait(self) -> None:
        """Wait until something may have changed since the last pull."""
        if not self.behind:
            await self._changed.wait()

    async def pull(self) -> list[AnyEvent]:
        """Take what there is now; at most a page of records, and `behind` says whether there may be more.

        Raises:
            StoreError: the store cannot be read; nothing is lost by asking again.
        """
        self._changed.clear()
        tail, log = self._tail, self._container.log
        session, feeds = tail.session_id, self._container.live_here.feeds
        records: Sequence[Record] = ()
        parts: Sequence[Part] = ()
        here = feeds.get(session)
        if self.behind or (here is not None and tail.lacks(here.token.run_id)):
            self.behind = False
            try:
                if here is None:  # read before the records, so that these are not older
                    parts = await log.live.read(self._container.name, session, tail.places())
                records = await log.read_session(session, tail.seq, tail.seq + PAGE + 1)
                runs = {one.run_id for one in (*records, *parts)}
                if here is not None:
                    runs.add(here.token.run_id)
                began = {one.run_id for one in records if isinstance(one.payload, RunStarted)}
                for run_id in sorted(one for one in runs - began if tail.lacks(one)):
                    tail.recall(run_id, await log.read_run(run_id))
            except BaseException:
                self.behind = True
                raise
        out = [event for record in records for event in (*tail.record(record), *self._notes(record))]
        if len(records) == PAGE:
            self.behind = True
            return out
        here = feeds.get(session)
        if here is not None:
            parts = here.parts(tail.places())
        return out + [event for part in parts for event in tail.live(part)]


async def follow(container: Container, session_id: str, after: Cursor) -> AsyncIterator[AnyEvent]:
    """Show a session's events behind a cursor, and then what happens, until the runtime is closed.

    Raises:
        InvalidId: the session has never been so far.
    """
    runtime = container.runtime
    if after.seq > await container.log.head(session_id):
        raise InvalidId(
            f"after={str(after)[:80]!r} is behind the end of the session {session_id!r}: it is a cursor of another "
            "session, or of another store. Read from the beginning, with after=None."
        )
    follower = Follower(container, Tail(session_id, after))
    with follower.watching():
        while not runtime.closing:
            try:
                events = await patiently(runtime.clock, follower.pull, lambda: runtime.closing)
            except StoreError:
                if runtime.closing:
                    return
                raise
            for event in events:
                yield event
            await follower.wait()


def check_same(run: RunRow, options: Mapping[str, Any]) -> None:
    """Refuse a repetition that names another session or user: what was said in one is not for the other.

    Raises:
        Conflict: it does.
    """
    for name, own in (("session_id", run.session_id), ("user_id", run.user_id)):
        if options.get(name) not in (None, own):
            raise Conflict(
                f"The run id {run.id!r} was used with another {name}; the same id is the same run, so give another id."
            )
