"""The store's time in this process: what it said last, and how long ago that was by a clock that never jumps."""

from __future__ import annotations

from perdure.db.database import Database, Row, Script, Sql
from perdure.durable.kernel import Clock


class StoreClock:
    """Tells the store's time; the machine's as long as the store was not asked.

    Args:
        db: the opened database.
        clock: the machine's clock.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._ahead: float | None = None

    async def look(self) -> None:
        """Ask the store.

        Raises:
            StoreError: it cannot be asked.
        """

        def script() -> Script[list[Row]]:
            return (yield Sql(f"SELECT {self._db.clock}"))

        before = self._clock.monotonic()
        said = float((await self._db.read(script))[0][0])
        self._ahead = said - (before + self._clock.monotonic()) / 2

    def now(self) -> float:
        """Seconds since the epoch, as the store sees it."""
        return self._clock.now() if self._ahead is None else self._clock.monotonic() + self._ahead
