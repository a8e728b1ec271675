"""Runs of this process that wait for their session's turn: each is woken when it may have it, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    """Who waits, by container and session, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], dict[str, asyncio.Event]] = {}

    @contextmanager
    def wanted(self, container: str, session: str, run_id: str) -> Generator[asyncio.Event]:
        """Give the event that is set when a run may have its session's turn; ask for it before looking."""
        waiting = self._waiting.setdefault((container, session), {})
        turn = waiting[run_id] = asyncio.Event()
        try:
            yield turn
        finally:
            del waiting[run_id]
            if not waiting:
                del self._waiting[container, session]

    def hand_over(self, container: str, session: str) -> None:
        """Wake the first that waits in a session whose turn may be free now."""
        for turn in self._waiting.get((container, session), {}).values():
            turn.set()
            return

    def all(self) -> dict[str, list[str]]:
        """The runs that wait, by container."""
        found: dict[str, list[str]] = {}
        for (container, _), waiting in self._waiting.items():
            found.setdefault(container, []).extend(waiting)
        return found

    def wake(self, container: str, run_ids: set[str]) -> None:
        """Wake these runs of a container."""
        for (name, _), waiting in self._waiting.items():
            if name == container:
                for run_id in run_ids & waiting.keys():
                    waiting[run_id].set()
