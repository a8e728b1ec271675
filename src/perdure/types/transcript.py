"""Pure fold: the records of a session become its conversation.

A turn enters the conversation when its run has ended, as what was asked and then what each agent said, in the order of
agent, inference and call, whatever the order of commitment was. A message that was posted as an event enters it behind
the turns that were open when it came: so a turn sees what was said before it was asked, and never half of what comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from perdure.types.messages import Message, TextMessage, ToolCallMessage, ToolResultMessage
from perdure.types.records import (
    AgentDone,
    Answered,
    CancelAsked,
    Claimed,
    Compacted,
    Erased,
    Imported,
    InferenceDone,
    Payload,
    Record,
    RunFinished,
    RunStarted,
    SessionEvent,
    StepFailed,
    ToolDone,
    Unparked,
)
from perdure.types.visible import visible

HISTORY = "history/open"
"""The place of the step in which a run asks a history adapter what was said before."""

HISTORY_USER = "history/user"
"""The place of the step in which it has the adapter store what the user says."""

_ROLES: dict[str, Literal["user", "assistant"]] = {"user_message": "user", "agent_message": "assistant"}
"""Which events say something in the conversation, and as whom."""


class _Turn:
    """One agent's turn while its records come in."""

    __slots__ = ("done", "inferences", "tools")

    def __init__(self) -> None:
        self.inferences: dict[int, InferenceDone] = {}
        self.tools: dict[str, ToolDone] = {}
        self.done: AgentDone | None = None

    def messages(self, prefix: str) -> list[Message]:
        """What was said, called and answered, in order."""
        if self.done is not None and self.done.messages is not None:
            return list(self.done.messages)
        said: list[Message] = []
        for number in sorted(self.inferences):
            inference = self.inferences[number]
            said += inference.messages
            answered: dict[str, ToolResultMessage] = {one.tool.id: one for one in inference.answered}
            calls = [call for one in inference.messages if isinstance(one, ToolCallMessage) for call in one.tools]
            for place, call in enumerate(calls):
                result = self.tools.get(f"{prefix}/infer/{number}/tool/{place}")
                if result is not None:
                    said.append(result.result)
                elif call.id in answered:
                    said.append(answered[call.id])
            said += inference.feedback
        return said


class _Run:
    __slots__ = ("asked", "started", "turns")

    def __init__(self, started: RunStarted) -> None:
        self.started = started
        self.asked: list[Message] = [*started.history, *started.messages]
        self.turns: dict[str, _Turn] = {}

    def turn(self, prefix: str) -> _Turn:
        found = self.turns.get(prefix)
        if found is None:
            found = self.turns[prefix] = _Turn()
        return found

    def add(self, key: str, payload: Payload) -> None:
        prefix, _, rest = key.partition("/infer/")
        if isinstance(payload, InferenceDone):
            self.turn(prefix).inferences[int(rest)] = payload
        elif isinstance(payload, ToolDone):
            self.turn(prefix).tools[key] = payload
        elif isinstance(payload, AgentDone):
            self.turn(prefix).done = payload

    def opened(self, payload: Payload) -> None:
        """Take what a history gave before anything was said, or what a step that failed leaves of what was said."""
        if isinstance(payload, Imported):
            self.asked = [*payload.messages, *self.started.messages]
        elif isinstance(payload, StepFailed) and payload.step in (HISTORY, HISTORY_USER):
            # it was never said: neither a model nor the history has it
            self.asked = self.asked[: len(self.asked) - len(self.started.messages)]
        elif isinstance(payload, StepFailed) and payload.cut is not None:
            self.add(payload.step, payload.cut)

    def messages(self) -> list[Message]:
        said = list(self.asked)
        for prefix in sorted(self.turns, key=_place):
            said += self.turns[prefix].messages(prefix)
        return said


class Transcript:
    """A session's conversation, kept up to date record by record; those that are `visible` are what it takes.

    `grown` is the record with which something was said last.
    """

    __slots__ = ("_driven", "_later", "_open", "_parked", "grown", "messages", "seq")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seq = 0
        self.grown = 0
        self._open: dict[str, _Run] = {}
        self._driven: dict[str, tuple[Message, ...]] = {}
        self._parked: set[str] = set()
        self._later: list[tuple[set[str], Message]] = []

    def add(self, record: Record) -> None:
        """Take the session's next record."""
        self.seq = record.seq
        payload = record.payload
        if isinstance(payload, Erased):
            if not payload.was:
                self.messages.clear()
                self._open.clear()
                self._driven.clear()
                self._later.clear()
            return
        if isinstance(payload, SessionEvent):
            self._posted(payload)
            return
        if isinstance(payload, RunStarted):
            self._open[record.run_id] = _Run(payload)
            return
        if isinstance(payload, Compacted):
            if tuple(self.messages) != payload.messages:
                self.messages = list(payload.messages)
            return
        run = self._open.get(record.run_id)
        if run is None:
            return
        key = record.key or ""
        if isinstance(payload, Claimed):
            (self._parked.add if payload.parked else self._parked.discard)(record.run_id)
            self._let_in()
        elif isinstance(payload, RunFinished):
            self._end(record.run_id, run.messages())
        elif key.startswith("agent/"):
            run.add(key, payload)
        else:
            run.opened(payload)

    def driven(self, run_id: str, said: tuple[Message, ...], seq: int | None) -> None:
        """Take what was said in a run that ended here, whose last record is `seq`: its very objects, not equal ones."""
        if seq is not None and run_id in self._open:
            self.seq = seq
            self._end(run_id, said)
        elif run_id in self._open:
            self._driven[run_id] = said

    def _end(self, run_id: str, said: Sequence[Message]) -> None:
        mine = self._driven.pop(run_id, None)
        self._parked.discard(run_id)
        if self._open.pop(run_id).started.history:
            self.messages.clear()  # its caller knew better what was said
        self.messages += said if mine is None or mine != tuple(said) else mine
        self.grown = self.seq
        self._let_in()

    def _posted(self, event: SessionEvent) -> None:
        """Take what somebody has said, behind the turns that are open; one that is parked holds nothing up."""
        for one in self.said(event):
            self._later.append((self._open.keys() - self._parked, one))
        self._let_in()

    def said(self, event: SessionEvent) -> Sequence[Message]:
        """What an event says in the conversation."""
        role = _ROLES.get(event.event_type)
        return (TextMessage(role, event.content, id=event.event_id),) if role is not None and event.content else ()

    def _let_in(self) -> None:
        """Let in what was posted, in order, as far as the turns that it waits for are over."""
        later = self._later
        while later and later[0][0].isdisjoint(self._open.keys() - self._parked):
            self.messages.append(later.pop(0)[1])
            self.grown = self.seq


def begins(record: Record, run_id: str) -> bool:
    """Whether a record shows that a run was driven: what others have said since it began comes behind it."""
    return record.run_id == run_id and not isinstance(record.payload, _OF_OTHERS)


_OF_OTHERS = (RunStarted, CancelAsked, Answered, Unparked)
"""What a run may have before somebody drives it."""


def said_before(records: Sequence[Record], run_id: str, key: str) -> list[Message]:
    """The conversation as it stood before an inference: ended turns, what was asked, what agents have said since."""
    conversation = Transcript()
    run: _Run | None = None
    begun = False
    for record in visible(records):
        begun = begun or begins(record, run_id)
        if not begun:
            conversation.add(record)
        payload = record.payload
        if record.run_id != run_id:
            continue
        if isinstance(payload, RunStarted):
            run = _Run(payload)
        elif run is not None and record.key is not None:
            run.opened(payload)
            run.add(record.key, payload)
    if run is None:
        return []
    own = key.partition("/infer/")[0]
    own_group = own.split("/")[:2]
    said = [] if run.started.history else [*conversation.messages]
    said += run.asked
    over = [
        prefix
        for prefix, turn in run.turns.items()
        if prefix.startswith("agent/") and prefix.split("/")[:2] != own_group and turn.done is not None
    ]
    for prefix in [*sorted(over, key=_place), own]:
        said += run.turn(prefix).messages(prefix)
    return said


def _place(prefix: str) -> tuple[int, ...]:
    return tuple(int(part) for part in prefix.split("/")[1:])
