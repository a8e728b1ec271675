"""A live agent: serves one image, and tells the bus what happens in its session, as long as it lives.

It owns one task, which follows the session's log, so it does not matter which process drives a turn. It ends by itself
when nothing has happened for a while and nothing goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from perdure.agents.handle import Run
from perdure.log.images import AgentRow, ImageRow
from perdure.runtime.content import read_content
from perdure.runtime.environment import Hosted
from perdure.runtime.face import Face
from perdure.runtime.messages import user_id as _message_id
from perdure.types import events as ev
from perdure.types.envelope import EventContext, SystemEvent
from perdure.types.errors import Conflict
from perdure.types.ids import new_id
from perdure.types.live import Cursor
from perdure.types.records import RunStarted

if TYPE_CHECKING:
    from perdure.runtime.container import Container

Lifecycle: TypeAlias = Literal["running", "stopped", "destroyed"]
_log = logging.getLogger("perdure")


class LiveAgent:
    """The instance that serves an image in this process.

    Args:
        row: its row.
        image: the image, as it was when it was activated.
        container: the container's handle.
        emit: how it tells the bus.
        definition: gives what the image runs now; it is read anew unless it is given.
        end: destroys it; or lets it go, because nothing is left to do for it here.
        idle: after how many seconds without anything to do it ends by itself; None for never.
        hosted: where its answers come from, if not from an agent of ours.
        owned: whether this process has it; else it is a view of another one's.
        elsewhere: whether only the process that has it can answer, because an environment of its own does.
    """

    def __init__(
        self,
        row: AgentRow,
        image: ImageRow,
        container: Container,
        emit: Callable[[SystemEvent], None],
        definition: Callable[[ImageRow | None], Awaitable[tuple[Any, ImageRow]]],
        end: Callable[[LiveAgent, bool], Awaitable[object]],
        idle: float | None,
        hosted: Hosted | None = None,
        *,
        owned: bool = True,
        elsewhere: bool = False,
    ) -> None:
        self.hosted = hosted
        self.owned = owned
        self._elsewhere = elsewhere
        self.row = row
        self.image = image
        self.id = row.id
        self.image_id = image.id
        self.session_id = image.session
        self.name = image.name
        self.created_at = row.created_at
        self.lifecycle: Lifecycle = "running"
        self.context = EventContext(row.container, image.id, row.id, image.session)
        self._container = container
        self._emit = emit
        self._definition = definition
        self._end = end
        self._idle = idle
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[object] | None = None
        self._open: dict[str, None] = {}
        self._sending = 0
        self._clear = asyncio.Event()
        self._clear.set()
        self._ready = asyncio.Event()
        self._face = Face(self.context, image.model or "")
        self._task = asyncio.create_task(self._follow(), name=f"perdure-{row.id}")

    @property
    def container_id(self) -> str:
        """Its container."""
        return self._container.name

    @property
    def state(self) -> str:
        """What it is doing: `idle`, `thinking`, `responding`, `planning_tool` or `awaiting_tool_result`."""
        return self._face.state

    # -- the verbs ---------------------------------------------------------------------------------------------------

    async def receive(
        self,
        content: Any,
        *,
        told: Callable[[str, bool], object] | None = None,
        user_id: str | None = None,
        image: ImageRow | None = None,
    ) -> Run[Any, Any]:
        """Take a message: it is stored when this returns, and answered when its turn comes.

        Args:
            content: a text, or parts as plain JSON; see `read_content`.
            told: called with the message's id, and whether it waits for its turn, before anything of the answer is
                told.
            user_id: who says it.
            image: the image, if it was read just now.

        Raises:
            Conflict: the agent is stopped or destroyed.
            DefinitionError: the content is none.
        """
        if self.lifecycle != "running":
            raise Conflict(f"The agent {self.id} is {self.lifecycle}; a message needs one that runs.")
        run_id = new_id("run")
        message = read_content(content, _message_id(run_id))
        definition, image = await self._definition(image)
        await self._ready.wait()
        self._sending += 1
        self._clear.clear()
        try:
            options: dict[str, Any] = {"session_id": self.session_id, "run_id": run_id, "user_id": user_id}
            if image.definition is not None and image.model is not None:
                options["model"] = image.model
            give = self._container.hand_over if self._elsewhere else self._container.start
            run = await give(definition, message, **options)
            queued = bool(self._open)
            self._open[run_id] = None
            self._rest()
            if told is not None:
                told(_message_id(run_id), queued)
        finally:
            self._sending -= 1
            if not self._sending:
                self._clear.set()
        return run

    async def interrupt(self) -> bool:
        """Stop the turn that goes on, if one does; what is queued behind it follows. Says whether there was one."""
        return await interrupt(self._container, self.session_id)

    async def stop(self) -> None:
        """Take no more messages until `resume`; what goes on is finished, and the session stays."""
        self._living()
        self.lifecycle = "stopped"

    async def resume(self) -> None:
        """Take messages again."""
        self._living()
        if self.lifecycle == "stopped":
            self.lifecycle = "running"
            data = {"session_id": self.session_id, "agent_id": self.id, "container_id": self.container_id}
            self._emit(SystemEvent("session_resumed", data, "session", "lifecycle", context=self.context))

    async def destroy(self) -> None:
        """End it, whichever process has it; the image and its session stay."""
        await self._end(self, False)

    def _living(self) -> None:
        if self.lifecycle == "destroyed":
            raise Conflict(f"The agent {self.id} is destroyed; run its image again.")

    # -- its end -----------------------------------------------------------------------------------------------------

    async def close(self, why: str | None = None) -> bool:
        """Let go of everything; says whether it was alive.

        Args:
            why: ends a turn that an environment is in the middle of, as an error.
        """
        if self.lifecycle == "destroyed":
            return False
        self.lifecycle = "destroyed"
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])
        if self.hosted is not None:
            await self.hosted.close(why)
        return True

    def _rest(self) -> None:
        """Begin to count the time in which nothing happens anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle is not None and not self._open and self.lifecycle != "destroyed":
            self._timer = asyncio.get_running_loop().call_later(self._idle, self._go)

    def _go(self) -> None:
        if not self._open and not self._sending and self.lifecycle != "destroyed":
            self._ending = asyncio.create_task(self._gone(), name=f"perdure-{self.id}-ends")

    async def _gone(self) -> None:
        try:
            await self._end(self, True)
        except Exception:
            _log.exception("The agent %s could not be ended; it is tried again.", self.id)
            self._rest()

    # -- following ---------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        try:
            head = await self._container.log.head(self.session_id)
            for status in ("running", "queued"):
                for run in await self._container.log.runs(session_id=self.session_id, status=status):
                    self._open[run.id] = None
            self._rest()
            self._drive_next()
            self._ready.set()
            known: set[str] = set()
            async for event in self._container.events(self.session_id, Cursor(head)):
                await self._clear.wait()  # whoever sends is answered before anything of the answer is told
                if event.run_id and event.run_id not in known and not isinstance(event, ev.RunStarted):
                    await self._prime(event.run_id)
                known.add(event.run_id)
                if isinstance(event, ev.RunStarted):
                    self._open[event.run_id] = None
                    self._drive_next()
                elif isinstance(event, ev.TERMINAL) and not isinstance(event, ev.RunWaiting):
                    self._open.pop(event.run_id, None)
                    known.discard(event.run_id)
                    self._drive_next()
                for one in self._face.show(event, time.time_ns() // 1_000_000):
                    self._emit(one)
                self._rest()
        except Exception as error:
            _log.exception("The agent %s cannot follow its session any more.", self.id)
            data = {"message": f"The session cannot be followed any more: {error}", "error_code": type(error).__name__}
            self._emit(SystemEvent("error_received", data, "agent", "stream", context=self.context))
        finally:
            self._ready.set()

    def _drive_next(self) -> None:
        """Drive what another process has given to this one's environment, when its turn may have come."""
        if self.hosted is not None and not self._elsewhere:
            first = next(iter(self._open), None)
            if first is not None and first not in self._container.live:
                self._container.runtime.worker.drive_on(self.container_id, first)

    async def _prime(self, run_id: str) -> None:
        """Let the view know of a turn that began before it looked, without telling it again."""
        first = (await self._container.log.read_run(run_id))[0]
        if isinstance(first.payload, RunStarted):
            asked = ev.RunStarted(definition=first.payload.definition, input=first.payload.messages, run_id=run_id)
            self._face.show(asked, int(first.created_at * 1000))

    def __repr__(self) -> str:
        return f"LiveAgent({self.id!r}, image={self.image_id!r}, {self.lifecycle})"


async def interrupt(container: Container, session_id: str) -> bool:
    """Stop the turn that goes on in a session, whoever drives it; says whether there was one."""
    found = False
    for status in ("running", "waiting"):
        for run in await container.log.runs(session_id=session_id, status=status):
            found = True
            await container.cancel(run.id, reason="interrupted")
    return found
