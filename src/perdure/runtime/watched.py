"""Who follows a session here: told when there is something new in it, and left alone when others write elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from perdure.db.database import Database
from perdure.log.heads import read_heads


class Reader:
    """One who follows a session.

    Args:
        session: its container and its id.
        seen: says up to which record it has read.
        wake: has it look.
    """

    __slots__ = ("said", "seen", "session", "wake")

    def __init__(self, session: tuple[str, str], seen: Callable[[], int], wake: Callable[[], None]) -> None:
        self.session = session
        self.seen = seen
        self.wake = wake
        self.said: tuple[int, int] | None = None


class Watched:
    """All who follow sessions in this process: one look at the store does for all of them.

    Args:
        db: the opened database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._readers: dict[Reader, None] = {}

    def __bool__(self) -> bool:
        return bool(self._readers)

    @contextmanager
    def reading(self, session: tuple[str, str], seen: Callable[[], int], wake: Callable[[], None]) -> Generator[None]:
        """Have somebody told of what is new in a session, as long as this is open."""
        reader = Reader(session, seen, wake)
        self._readers[reader] = None
        try:
            yield
        finally:
            del self._readers[reader]

    def wake(self) -> None:
        """Have everybody look, whether there is anything or not."""
        for one in list(self._readers):
            one.wake()

    async def look(self) -> None:
        """Wake those in whose sessions there is something that they have not seen.

        Raises:
            StoreError: the store cannot be read.
        """
        if not self._readers:
            return
        wanted: dict[str, set[str]] = {}
        for one in self._readers:
            wanted.setdefault(one.session[0], set()).add(one.session[1])
        last, said = await read_heads(self._db, wanted)
        for one in list(self._readers):
            now = said.get(one.session)
            if last.get(one.session, 0) > one.seen() or (now is not None and now != one.said):
                one.wake()
            one.said = now
