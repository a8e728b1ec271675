"""Pure fold: the records of a session become its conversation.

A turn enters the conversation when its run has ended, as what was asked and then what each agent said, in the order of
agent, inference and call, whatever the order of commitment was.
"""

from __future__ import annotations

from perdure.types.messages import Message, ToolCallMessage, ToolResultMessage
from perdure.types.records import AgentDone, InferenceDone, Record, RunFinished, RunStarted, ToolDone


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
    __slots__ = ("started", "turns")

    def __init__(self, started: RunStarted) -> None:
        self.started = started
        self.turns: dict[str, _Turn] = {}

    def turn(self, prefix: str) -> _Turn:
        found = self.turns.get(prefix)
        if found is None:
            found = self.turns[prefix] = _Turn()
        return found

    def messages(self) -> list[Message]:
        said: list[Message] = [*self.started.history, *self.started.messages]
        for prefix in sorted(self.turns, key=_place):
            said += self.turns[prefix].messages(prefix)
        return said


class Transcript:
    """A session's conversation, kept up to date record by record."""

    __slots__ = ("_open", "messages", "seq")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.seq = 0
        self._open: dict[str, _Run] = {}

    def add(self, record: Record) -> None:
        """Take the session's next record."""
        self.seq = record.seq
        payload = record.payload
        if isinstance(payload, RunStarted):
            self._open[record.run_id] = _Run(payload)
            return
        run = self._open.get(record.run_id)
        if run is None:
            return
        key = record.key or ""
        if isinstance(payload, RunFinished):
            if run.started.history:
                self.messages.clear()  # its caller knew better what was said
            self.messages += run.messages()
            del self._open[record.run_id]
        elif key.startswith("agent/"):
            prefix, _, rest = key.partition("/infer/")
            if isinstance(payload, InferenceDone):
                run.turn(prefix).inferences[int(rest)] = payload
            elif isinstance(payload, ToolDone):
                run.turn(prefix).tools[key] = payload
            elif isinstance(payload, AgentDone):
                run.turn(prefix).done = payload


def _place(prefix: str) -> tuple[int, ...]:
    return tuple(int(part) for part in prefix.split("/")[1:])
