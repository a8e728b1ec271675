"""Drives a recorded run again, offline: what the models and tools gave comes from the recording, what the code decides
is derived again and compared.

    result = replay(recorded("tests/run_1.json"), [desk])
    result.check()

Derived again are system prompts, tool schemas, what hooks change, the checks of arguments and answers, routes, endings,
and which steps and child runs a tool with `effect="steps"` asks for. Nothing is written to the store that the run came
from, no model is asked, and no handler of another tool is called.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from perdure.agents.changed import judge_definition
from perdure.agents.definition import AgentDefinition, NetworkDefinition
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.hooks import Hooks, HooksLike, read_hooks
from perdure.agents.run_options import read_kept
from perdure.agents.running import Running
from perdure.durable.kernel import Kernel
from perdure.runtime.runtime import Runtime
from perdure.testing.compare import Difference
from perdure.testing.recordings import RecordedRun, Recording, recorded
from perdure.testing.retrace import Retrace
from perdure.testing.stage import Crew, crew, kernel_for
from perdure.types.base import Base
from perdure.types.errors import DefinitionError, UnknownName

T = TypeVar("T")
Definition: TypeAlias = AgentDefinition | NetworkDefinition | FunctionDefinition
Definitions: TypeAlias = Definition | Sequence[Definition] | Runtime


class Replay(Base):
    """What became of a replay: whether the code still does what was recorded, and the first difference if not.

    `steps` counts the decisions that were compared; `open` says that the run had not ended when it was recorded, so it
    was followed as far as it went.
    """

    run_id: str
    definition: str
    steps: int
    open: bool = False
    difference: Difference | None = None

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self.difference is None

    @property
    def text(self) -> str:
        """What there is to say, as text."""
        so_far = ", as far as it went" if self.open else ""
        if self.difference is None:
            return f"Run {self.run_id} of {self.definition!r} is the same in all {self.steps} decisions{so_far}."
        inside = f" in its child run {self.difference.run_id}" if self.difference.run_id != self.run_id else ""
        return (
            f"Run {self.run_id} of {self.definition!r} differs after {self.steps} decisions{inside}, at "
            f"{self.difference.text}"
        )

    def print(self) -> None:
        """Show it in the terminal."""
        sys.stdout.write(self.text + "\n")

    def check(self) -> None:
        """See that nothing differs, in a test.

        Raises:
            AssertionError: something does; it says what.
        """
        if self.difference is not None:
            raise AssertionError(self.text)


def replay(
    run: Recording | str | Path,
    definitions: Definitions,
    *,
    hooks: HooksLike = (),
    resources: Sequence[Any] = (),
    patience: float = 60.0,
) -> Replay:
    """Drive a recorded run again, and say where the code would go another way now.

    Args:
        run: the recording, or its file.
        definitions: the agents, networks and functions by which the run's and its child runs' names are found; or the
            runtime that has them, with its hooks and resources.
        hooks: those that the runtime has, if it is not given.
        resources: live objects for prompts, hooks and routers that use them.
        patience: seconds that a step's own code may take.

    Raises:
        DefinitionError: the run's definition is not among them.
        RecordingError: the file cannot be read.
    """
    whole = recorded(run) if isinstance(run, (str, Path)) else run
    known = Known(definitions, hooks, resources)
    definition = known.find(whole.run)
    return sync(lambda: _replay(whole, definition, known, patience))


async def _replay(whole: Recording, definition: Definition, known: Known, patience: float) -> Replay:
    run = whole.run
    crew.set(Crew())
    running = revive(run, definition, known, kernel_for(whole), model=None, budget=None, session_budget=None)
    retrace = Retrace(whole, run, running, patience)
    try:
        difference = await retrace.to_the_end()
    finally:
        await retrace.close()
    return Replay(run.id, run.definition, retrace.steps, running.loop.finished is None, difference)


class Known:
    """The code that a run is driven again with.

    Args:
        definitions: agents, networks and functions, or the runtime that has them.
        hooks: those that apply besides.
        resources: live objects.
    """

    def __init__(self, definitions: Definitions, hooks: HooksLike, resources: Sequence[Any]) -> None:
        self.hooks: tuple[Hooks, ...] = read_hooks(hooks, "replay")
        self.resources = tuple(resources)
        self.model: Any = None
        self._find: Callable[[str], Definition]
        if isinstance(definitions, Runtime):
            self.hooks = (*definitions.hooks, *self.hooks)
            self.resources = (*definitions.resources, *self.resources)
            self.model = definitions.model
            self._find = definitions.registry.get
            return
        several: list[Any] = list(definitions) if isinstance(definitions, (list, tuple)) else [definitions]
        for one in several:
            if not isinstance(one, (AgentDefinition, NetworkDefinition, FunctionDefinition)):
                raise DefinitionError(
                    f"A run is replayed with agents, networks and functions, or with a Runtime, not with {one!r}."
                )
        by_name = {one.name: one for one in several}

        def find(name: str) -> Definition:
            if name not in by_name:
                raise UnknownName("definition", name, list(by_name))
            return by_name[name]

        self._find = find

    def find(self, run: RecordedRun) -> Definition:
        """The definition of a run.

        Raises:
            DefinitionError: its code is not there any more, or is of another kind.
        """
        try:
            found = self._find(run.definition)
        except UnknownName as error:
            raise DefinitionError(
                f"The run {run.id!r} is of {run.definition!r}, which is not among the given definitions: {error} "
                "Give the agent, network or function that made it, or register it under that name."
            ) from None
        other = judge_definition(found, run.started)
        if other:
            raise DefinitionError(f"The run {run.id!r} cannot be begun again with this code: {other}.")
        return found


def revive(run: RecordedRun, definition: Definition, known: Known, kernel: Kernel, **more: Any) -> Running:
    """Make the live side of a recorded run again.

    Args:
        run: the run.
        definition: its definition.
        known: the code and what it needs.
        kernel: where it is to live.
        more: options that replace its own.

    Raises:
        DefinitionError: what was kept of its options does not fit the code any more.
    """
    try:
        options = {**read_kept(run.started), **more, "run_id": run.id, "session_id": run.session_id}
        options |= {"user_id": run.user_id, "resources": known.resources}
        running = Running(definition, run.started.input, options, kernel=kernel, hooks=known.hooks)
    except Exception as error:  # a class that is gone, or does not take what was kept
        raise DefinitionError(
            f"The run {run.id!r} cannot be begun again with this code ({type(error).__name__}: {error})."
        ) from error
    running.started = run.started
    running.env.turn_prompt = run.started.system_prompt
    running.env.fallback = known.model
    running.loop.earlier = run.earlier
    return running


def sync(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run async work from sync code; where an event loop runs already, in a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, "perdure-replay") as thread:
        return thread.submit(context.run, lambda: asyncio.run(work())).result()
