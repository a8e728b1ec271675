"""What is finished and could not be written: it is held, counted, and nothing new is taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from perdure.db.database import StoreBusy
from perdure.log.log import Entry
from perdure.types.records import encode_payload

MOST = 64 * 1024 * 1024
"""Above this many held bytes no step begins until the store takes some of them."""


class Held:
    """The finished results that a process holds because the store could not take them.

    Args:
        most: how many bytes are held before no further step begins.
    """

    __slots__ = ("_bytes", "_count", "_most", "_room")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._bytes = 0
        self._count = 0
        self._room: asyncio.Event | None = None

    def take(self, entries: Sequence[Entry]) -> int:
        """Count records that could not be written, and say how many bytes they have."""
        size = sum(len(encode_payload(one.payload)) for one in entries)
        self._bytes += size
        self._count += 1
        if self._room is None and self._bytes > self._most:
            self._room = asyncio.Event()
        return size

    def let_go(self, size: int) -> None:
        """Count no more what was taken: it is written, or refused."""
        self._bytes -= size
        self._count -= 1
        if self._room is not None and self._bytes <= self._most:
            self._room.set()
            self._room = None

    def check(self) -> None:
        """Refuse new work while anything is held.

        Raises:
            StoreBusy: something is.
        """
        if self._count:
            raise StoreBusy(
                f"The store could not take what {self._count} runs have finished ({self._bytes:,} bytes are held until "
                "it can); nothing new is taken in before. Try again later.",
                retryable=True,
            )

    async def room(self) -> None:
        """Wait until a step may begin."""
        while self._room is not None:
            await self._room.wait()
