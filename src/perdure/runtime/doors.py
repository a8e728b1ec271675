"""The four verbs of runtime and container, declared once: for agents and networks, and for functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure.agents.in_sync import Loop
from perdure.types.waits import ChildRun

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Unpack

    from perdure.agents.agent import Agent
    from perdure.agents.function import Function, Given, Nothing
    from perdure.agents.handle import Run
    from perdure.agents.network import Network
    from perdure.agents.options import FunctionOptions, RunOptions
    from perdure.agents.outcome import RunResult
    from perdure.agents.running import Running
    from perdure.agents.stream import RunStream
    from perdure.types.messages import Input

Out = TypeVar("Out")
S = TypeVar("S")


class Doors(ABC):
    """What registered definitions are run by."""

    @abstractmethod
    def prepare(self, definition: Any, input: Any, options: dict[str, Any]) -> Running:
        """Make the live side of a run."""

    @abstractmethod
    def launch(self, running: Running, taken: asyncio.Future[None] | None = None) -> Run[Any, Any]:
        """Let a run begin in the background; `taken` is set when the log has it."""

    @abstractmethod
    async def left(self, run: Run[Any, Any]) -> None:
        """Whoever waited for a run was cancelled: so is the run, if it is driven here for them."""

    @abstractmethod
    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""

    @overload
    async def run(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunResult[Out, S]: ...
    @overload
    async def run(
        self, definition: Function[..., Out], input: Given = None, **options: Unpack[FunctionOptions]
    ) -> RunResult[Out, Nothing]: ...
    async def run(self, definition: Any, input: Any = None, **options: Any) -> RunResult[Any, Any]:
        """Run a registered definition to its end, or until it waits for somebody outside.

        Args:
            definition: the agent, network or function.
            input: what the user said, or what the function is given.
            options: `session_id` continues a conversation; `run_id` makes a repetition the same run.

        Raises:
            RunFailed: the run failed, or was parked.
            RunCancelled: the run was cancelled or passed its deadline.
            Conflict: the run id belongs to another input.
        """
        from asyncio import CancelledError

        run = await self.start(definition, input, **options)
        try:
            result = await run.reached()
            while result.status == "waiting" and all(isinstance(wait, ChildRun) for wait in result.waits):
                result = await run.result()  # what it has invoked itself is nobody outside
            return result
        except CancelledError:
            await self.left(run)
            raise

    @overload
    async def start(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> Run[Out, S]: ...
    @overload
    async def start(
        self, definition: Function[..., Out], input: Given = None, **options: Unpack[FunctionOptions]
    ) -> Run[Out, Nothing]: ...
    async def start(self, definition: Any, input: Any = None, **options: Any) -> Run[Any, Any]:
        """Start a run in the background and return its handle as soon as the log has taken it in.

        Raises:
            Conflict: the run id belongs to another input.
        """
        from asyncio import get_running_loop

        taken: asyncio.Future[None] = get_running_loop().create_future()
        run = self.launch(self.prepare(definition, input, options), taken)
        await taken
        return run

    @overload
    def stream(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunStream[Out, S]: ...
    @overload
    def stream(
        self, definition: Function[..., Out], input: Given = None, **options: Unpack[FunctionOptions]
    ) -> RunStream[Out, Nothing]: ...
    def stream(self, definition: Any, input: Any = None, **options: Any) -> RunStream[Any, Any]:
        """Run a registered definition and stream its events."""
        from perdure.agents.stream import RunStream

        return RunStream(self.prepare(definition, input, options), self.launch, self.loop_thread)

    @overload
    def run_sync(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> RunResult[Out, S]: ...
    @overload
    def run_sync(
        self, definition: Function[..., Out], input: Given = None, **options: Unpack[FunctionOptions]
    ) -> RunResult[Out, Nothing]: ...
    def run_sync(self, definition: Any, input: Any = None, **options: Any) -> RunResult[Any, Any]:
        """Run a registered definition from sync code; a runtime that is not open is opened for this one run.

        Raises:
            DefinitionError: it is called in the event loop that the runtime is open in, which it would block for ever.
        """
        return self.loop_thread().run(lambda: self.run(definition, input, **options), "run")

    @overload
    def start_sync(
        self, definition: Agent[Out, S] | Network[S, Out], input: Input = None, **options: Unpack[RunOptions[S]]
    ) -> Run[Out, S]: ...
    @overload
    def start_sync(
        self, definition: Function[..., Out], input: Given = None, **options: Unpack[FunctionOptions]
    ) -> Run[Out, Nothing]: ...
    def start_sync(self, definition: Any, input: Any = None, **options: Any) -> Run[Any, Any]:
        """Start a run in the background from sync code; the runtime must be open, and the run goes on while it is."""
        return self.loop_thread().run(lambda: self.start(definition, input, **options), "start")
