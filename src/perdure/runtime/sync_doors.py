"""The doors of people and events for sync code: what each does is its async twin's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from perdure.log.inbox import WaitKind, WaitRow
from perdure.log.sessions import PAGE

if TYPE_CHECKING:
    from perdure.agents.outcome import RunResult
    from perdure.runtime.container import Container
    from perdure.runtime.loop_thread import LoopThread
    from perdure.types.sent_event import SentEvent


class SyncDoors(ABC):
    """As `run_sync`: a runtime that is not open is opened for this one call.

    Each raises a `DefinitionError` in the event loop that the runtime is open in, which it would block for ever.
    """

    @abstractmethod
    def loop_thread(self) -> LoopThread:
        """Where sync code finds an event loop."""

    @abstractmethod
    def here(self) -> Container:
        """The container that is meant, of an open runtime."""

    def approve_sync(self, wait_id: str, by: str | None = None) -> RunResult[Any, Any]:
        """Allow what a run waits for, and wait for what it reaches next; see `Container.approve`."""
        return self.loop_thread().run(lambda: self.here().approve(wait_id, by), "approve")

    def deny_sync(self, wait_id: str, why: str = "", by: str | None = None) -> RunResult[Any, Any]:
        """Refuse what a run waits for; the model is told why. See `Container.approve`."""
        return self.loop_thread().run(lambda: self.here().deny(wait_id, why, by), "deny")

    def answer_sync(self, wait_id: str, text: str, by: str | None = None) -> RunResult[Any, Any]:
        """Answer a question that a run waits for; see `Container.approve`."""
        return self.loop_thread().run(lambda: self.here().answer(wait_id, text, by), "answer")

    def waits_sync(
        self,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        kind: WaitKind | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[WaitRow]:
        """List what runs wait for, page by page; see `Container.waits`."""
        return self.loop_thread().run(
            lambda: self.here().waits(session_id=session_id, run_id=run_id, kind=kind, after=after, limit=limit),
            "waits",
        )

    def send_event_sync(
        self, name: str, data: Any = None, *, id: str | None = None, user_id: str | None = None
    ) -> SentEvent:
        """Tell of something that has happened; see `Container.send_event`."""
        return self.loop_thread().run(lambda: self.here().send_event(name, data, id=id, user_id=user_id), "send_event")
