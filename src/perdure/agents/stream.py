"""A run as a stream of events, with exactly one terminal event at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from perdure.agents.handle import Run
from perdure.agents.in_sync import EachInSync, InSync, Loop
from perdure.agents.outcome import RunResult
from perdure.agents.output import ANSWER_TOOL, Output
from perdure.types.errors import DefinitionError
from perdure.types.events import AnyEvent, MessageReset, TextDelta, ToolArgsDelta, ToolCallStarted

if TYPE_CHECKING:
    from perdure.agents.running import Running

Out = TypeVar("Out", default=Any)
S = TypeVar("S", default=Any)


class RunStream(Generic[Out, S]):
    """A run that is watched: `async for event in stream`, `stream.text()`, `await stream.result()`.

    Entering starts the run; leaving before its end cancels it and waits until it is closed, so that no task is left
    behind. The iterator never raises because of the run; `result()` does. A runtime's stream also serves sync code:
    `with`, `for event in stream`, `stream.text_sync()`, `stream.result_sync()`.
    """

    def __init__(
        self,
        running: Running,
        launch: Callable[[Running], Run[Any, Any]] = Run,
        loop: Callable[[], Loop] | None = None,
    ) -> None:
        self._running = running
        self._launch = launch
        self._loop = loop
        self._run: Run[Out, S] | None = None

    async def __aenter__(self) -> Self:
        if self._run is not None:
            raise DefinitionError("This stream was entered already; make another one with .stream(…).")
        self._run = self._launch(self._running)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled: asyncio.CancelledError | None = None
        while self.run.status == "running":
            try:
                await self.run.cancel()
            except asyncio.CancelledError as again:
                cancelled = again  # the run is ending already: leave no task behind, then pass it on
        if cancelled is not None:
            raise cancelled

    def __enter__(self) -> Self:
        return self.loop_thread().run(self.__aenter__, "stream", "async with")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop_thread().run(lambda: self.__aexit__(kind, error, trace), "stream", "async with")

    def loop_thread(self) -> Loop:
        """Where sync code finds the event loop of the stream's runtime.

        Raises:
            DefinitionError: it has none.
        """
        if self._loop is None:
            raise DefinitionError(
                "Without a runtime a stream is async: async with definition.stream(…) as stream. For sync code, open a "
                "runtime by `with`, and use its stream."
            )
        return self._loop()

    @property
    def run(self) -> Run[Out, S]:
        """The run's handle.

        Raises:
            DefinitionError: the stream was not entered.
        """
        if self._run is None:
            raise DefinitionError("Use the stream with: async with definition.stream(…) as stream")
        return self._run

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._running.env.run_id

    def __aiter__(self) -> AsyncIterator[AnyEvent]:
        return self.run.events()

    def __iter__(self) -> Iterator[AnyEvent]:
        return self.run.events_sync()

    async def text(self) -> AsyncIterator[str]:
        """Stream the text that the agents say, piece by piece."""
        async for event in self.run.events():
            if isinstance(event, TextDelta) and event.run_id == self.run_id:
                yield event.text

    async def partials(self) -> AsyncIterator[Any]:
        """Stream the structured output as far as it has come; the last one may still be corrected by a retry.

        Raises:
            DefinitionError: the output type is text.
        """
        kind = self._running.definition.output_type
        if kind is str:
            raise DefinitionError("partials() needs an output_type; for text use .text().")
        output = Output(kind)
        answers = _Answers()
        last: Any = None
        async for event in self.run.events():
            collected = answers.take(event)
            value = output.partial(collected) if collected else None
            if value is not None and value != last:
                last = value
                yield value

    async def result(self) -> RunResult[Out, S]:
        """Wait for the run's end.

        Raises:
            RunFailed: the run failed.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await self.run.result()

    text_sync = EachInSync(text)
    partials_sync = EachInSync(partials)
    result_sync = InSync(result)


class _Answers:
    """What agents have written so far of structured answers: texts, and arguments of calls that give the answer."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, str], str] = {}

    def take(self, event: AnyEvent) -> str:
        """Take an event; if it adds to an answer, give that answer so far."""
        if isinstance(event, TextDelta):
            place = (event.message_id, "")
            self._written.setdefault(place, "")
        elif isinstance(event, ToolArgsDelta):
            place = (event.message_id, event.call_id)
        else:
            if isinstance(event, ToolCallStarted) and event.tool == ANSWER_TOOL:
                self._written[event.message_id, event.call_id] = ""
            elif isinstance(event, MessageReset):
                for one in [one for one in self._written if one[0] == event.message_id]:
                    del self._written[one]
            return ""
        if place not in self._written:
            return ""  # the arguments of another tool
        self._written[place] += event.text
        return self._written[place]
