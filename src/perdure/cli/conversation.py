"""The demo network in a session of a store: it is asked, goes on after a restart, and forgets what was stopped."""

from __future__ import annotations

import shlex
import time
from contextlib import AsyncExitStack
from typing import NamedTuple

from perdure.agents.outcome import RunResult
from perdure.cli.choose import Chosen
from perdure.cli.demo import Findings, library_desk
from perdure.cli.library import Library
from perdure.cli.paint import Painter, shorten, shown_call, shown_result
from perdure.log.log import RunRow
from perdure.log.owners import Left
from perdure.runtime.runtime import Runtime
from perdure.types.events import RunCancelled, RunCompleted, RunFailed
from perdure.types.ids import check_id, new_id
from perdure.types.live import Cursor
from perdure.types.messages import Message, TextMessage, ToolCallMessage, ToolResultMessage
from perdure.types.records import RunStarted

SHOWN = 20
"""How many earlier messages are shown."""
_LONG = 2_000


class Turn(NamedTuple):
    """A question that was answered."""

    result: RunResult[str, Findings]
    seconds: float

    @property
    def agents(self) -> list[str]:
        """The agents that ran, in order."""
        return [one.agent_name for one in self.result.results]


class Conversation:
    """One session.

    Args:
        library: the files that are asked about.
        chosen: the model.
        store: the address of the store; one that is gone afterwards unless given.
        session: the session's id; a new one unless given.

    Raises:
        InvalidId: the id has a shape that is not allowed.
    """

    def __init__(self, library: Library, chosen: Chosen, store: str | None = None, session: str | None = None) -> None:
        self._library = library
        self._chosen = chosen
        self.store = store
        self.session = new_id("session") if session is None else check_id(session, "session_id")
        self._stack = AsyncExitStack()
        self._runtime: Runtime | None = None
        self.asked = False

    async def open(self) -> None:
        """Open the store.

        Raises:
            StoreError: it cannot be opened.
        """
        made = Runtime(
            self.store or "memory:",
            [library_desk],
            model=self._chosen.model,
            resources=[self._library],
            workers=False,  # what others have left may be about other files
        )
        self._runtime = await self._stack.enter_async_context(made)

    async def close(self) -> None:
        """Close the store."""
        await self._stack.aclose()

    @property
    def _open(self) -> Runtime:
        assert self._runtime is not None, "open() comes first"
        return self._runtime

    def begin_anew(self) -> None:
        """Go on in another session."""
        self.session = new_id("session")

    async def ask(self, question: str, painter: Painter | None) -> Turn:
        """Run the network for one question and show what happens; what fails or is stopped does not count afterwards.

        Raises:
            RunFailed: the run failed.
        """
        began = time.perf_counter()
        container = self._open.container("default")
        before = await container.log.head(self.session)
        self.asked = True
        try:
            async with container.stream(library_desk, question, session_id=self.session) as stream:
                async for event in stream:
                    if painter is not None:
                        painter.event(event)
                result = await stream.result()
        except BaseException:
            if await container.log.head(self.session) > before:
                await container.session(self.session).rewind(before, cancel=True)
            raise
        return Turn(result, time.perf_counter() - began)

    async def recall(self, painter: Painter) -> None:
        """Show what was said in the session, and let an answer go on that was under way when its process died."""
        container = self._open.container("default")
        said = [one async for one in container.session(self.session).messages()]
        if len(said) > SHOWN:
            painter.line(f"({len(said) - SHOWN} messages before these)", "dim")
        for one in said[-SHOWN:]:
            _show(painter, one)
        for run in reversed(await container.runs(session_id=self.session)):
            if run.status in ("queued", "running"):
                await self._go_on(run, painter)

    async def _go_on(self, run: RunRow, painter: Painter) -> None:
        container = self._open.container("default")
        started = (await container.log.read_run(run.id))[0].payload
        if isinstance(started, RunStarted):
            for one in started.messages:
                _show(painter, one)
        owner = run.owner if run.status == "running" else None
        dead = await self._open.worker.dead()
        if owner is not None and owner not in dead:
            painter.line("(another process answers this right now)", "yellow")
            return
        painter.line("(its process died; the answer goes on)", "dim")
        await container.take_over(Left(container.name, run.id, owner, 0, run.deaths), dead)
        async for event in container.events(self.session, Cursor(run.position - 1)):
            painter.event(event)
            if isinstance(event, (RunCompleted, RunFailed, RunCancelled)) and event.run_id == run.id:
                break
        painter.end()

    def again(self, path: str | None) -> str:
        """The command that goes on with this session."""
        where = [] if path is None else [path]
        return shlex.join(["perdure", "chat", *where, "--session", self.session, "--store", str(self.store)])


def _show(painter: Painter, message: Message) -> None:
    match message:
        case TextMessage(role="user"):
            painter.line()
            painter.line(f"> {shorten(message.text, _LONG)}", "bold")
        case TextMessage(role="assistant"):
            painter.line()
            for line in message.text.split("\n"):
                painter.line(line)
        case ToolCallMessage():
            for call in message.tools:
                painter.short(f"  → {shown_call(call.name, call.input)}", "dim")
        case ToolResultMessage():
            painter.short(f"  ← {shown_result(message.content)}", "red" if message.is_error else "dim")
        case _:
            pass
