"""What the live side of a run knows of its pure state, whichever program it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Protocol

from perdure.agents.agent_loop import AgentLoop
from perdure.agents.result import AgentResult
from perdure.durable.program import Action
from perdure.types.base import Json
from perdure.types.events import AnyEvent
from perdure.types.messages import Message
from perdure.types.records import ChildDone, ErrorInfo, Record, RunFinished, RunStarted, StepDone
from perdure.types.usage import Usage
from perdure.types.waits import Wait, WaitAnswer


class RunLoop(Protocol):
    """The state of one run: of agents and networks, or of a function, which says nothing and has no agents."""

    earlier: Sequence[Message]
    """The conversation before this turn."""

    @property
    def started(self) -> RunStarted | None:
        """Its first record, if that was folded."""
        ...

    @property
    def transcript(self) -> Sequence[Message]:
        """The conversation, without the turns that are going on."""
        ...

    @property
    def doc(self) -> Json:
        """The state's data."""
        ...

    @property
    def current(self) -> Sequence[AgentLoop]:
        """The turns that are going on."""
        ...

    @property
    def agent(self) -> AgentLoop | None:
        """The last turn that has ended."""
        ...

    @property
    def results(self) -> tuple[AgentResult, ...]:
        """What agents have done."""
        ...

    @property
    def texts(self) -> Set[str]:
        """The hashes of the texts that are kept already."""
        ...

    @property
    def steps(self) -> Mapping[str, StepDone | ChildDone]:
        """The steps that a user wrote and that are finished."""
        ...

    @property
    def answers(self) -> Mapping[str, WaitAnswer]:
        """How waits were answered."""
        ...

    @property
    def waits(self) -> Mapping[str, Wait]:
        """What was waited for."""
        ...

    @property
    def stop_detail(self) -> str:
        """More about why it was stopped."""
        ...

    @property
    def error(self) -> ErrorInfo | None:
        """What it failed with."""
        ...

    @property
    def finished(self) -> RunFinished | None:
        """Its last record."""
        ...

    @property
    def total_usage(self) -> Usage:
        """What it has consumed, child runs included."""
        ...

    def next(self) -> Action:
        """Say what the run wants now."""
        ...

    def fold(self, record: Record, /) -> Sequence[AnyEvent]:
        """Take one record."""
        ...
