"""The vocabulary of the bus: a pure view of a session's events, as stream, state, message and turn events.

It is a fold: given the same events in the same order it gives the same, so a reader who comes back, and the list of an
image's messages, are this view of the log too. Every event comes once. What was opened is closed: a turn has one
`turn_request` and one `turn_response`, a message one start and one stop, however it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

from perdure.runtime import messages as m
from perdure.types import events as ev
from perdure.types.base import encode_json
from perdure.types.envelope import Category, EventContext, Intent, SystemEvent
from perdure.types.messages import TextMessage, ToolCallMessage
from perdure.types.status import StopReason
from perdure.types.usage import NOTHING, Usage

AgentState: TypeAlias = Literal["idle", "thinking", "responding", "planning_tool", "awaiting_tool_result"]
_STATES: dict[str, AgentState] = {
    "conversation_start": "thinking",
    "conversation_thinking": "thinking",
    "conversation_responding": "responding",
    "tool_planned": "planning_tool",
    "tool_executing": "awaiting_tool_result",
    "tool_completed": "responding",
    "tool_failed": "responding",
    "conversation_interrupted": "idle",
    "conversation_end": "idle",
    "error_occurred": "idle",
}
_WHY: dict[str, str] = {"cancelled": "user_interrupt", "interrupted": "user_interrupt", "deadline": "timeout"}
_STOPS: dict[str, str] = {"max_tokens": "max_tokens", "error": "error"}
_SHOWN: dict[type[ev.AnyEvent], tuple[Category, Intent]] = {
    ev.AgentStarted: ("lifecycle", "notification"),
    ev.AgentFinished: ("lifecycle", "notification"),
    ev.RouteDecided: ("action", "notification"),
    ev.StepRetrying: ("action", "notification"),
    ev.WaitOpened: ("action", "request"),
    ev.WaitResolved: ("action", "result"),
    ev.ToolProgress: ("action", "notification"),
    ev.StateChanged: ("state", "notification"),
    ev.BudgetExceeded: ("error", "notification"),
    ev.EventPosted: ("action", "notification"),
    ev.SessionChanged: ("lifecycle", "notification"),
    ev.SessionRewound: ("lifecycle", "notification"),
}


class _Message:
    """A message that is being said: its content blocks, by the number in which they began."""

    __slots__ = ("blocks", "open_text", "pieces")

    def __init__(self) -> None:
        self.blocks: dict[str, int] = {}
        self.pieces: set[str] = set()
        self.open_text: int | None = None

    def block(self, call_id: str) -> tuple[int, bool]:
        """Say which block a tool call has, and whether it is new."""
        known = self.blocks.get(call_id)
        if known is not None:
            return known, False
        number = self.blocks[call_id] = len(self.blocks)
        return number, True


class _Turn:
    """A user's message on its way to the end of its answer."""

    __slots__ = ("began", "message_id", "stop_reason", "usage", "user")

    def __init__(self, user: dict[str, Any], message_id: str) -> None:
        self.user = user
        self.message_id = message_id
        self.began: int | None = None
        self.usage: Usage = NOTHING
        self.stop_reason = "end_turn"


class Face:
    """A session's events, one after the other, in the words of the bus.

    Args:
        context: whom they belong to.
        model: the name that `message_start` tells, if one is known.

    Attributes:
        state: what the agent is doing.
    """

    def __init__(self, context: EventContext, model: str = "") -> None:
        self.context = context
        self.model = model
        self.state: AgentState = "idle"
        self._turns: dict[str, _Turn] = {}
        self._messages: dict[str, _Message] = {}
        self._calls: dict[str, str] = {}

    def show(self, event: ev.AnyEvent, now: int) -> list[SystemEvent]:
        """Show one event.

        Args:
            event: the next of the session.
            now: milliseconds since the epoch, for the envelopes.
        """
        shown = _Shown(self.context, now, event.seq)
        if type(event) is not ev.RunStarted:
            self._begin(event.run_id, shown)
        match event:
            case ev.RunStarted():
                self._asked(event, shown)
            case ev.MessageStarted():
                self._messages[event.message_id] = _Message()
                shown.stream("message_start", {"message": {"id": event.message_id, "model": self.model}})
                shown.state("conversation_start", {"message_id": event.message_id})
            case ev.ReasoningDelta():
                shown.stream("reasoning_delta", {"text": event.text})
                if self.state != "thinking":
                    shown.state("conversation_thinking", {})
            case ev.TextDelta():
                self._text(event, shown)
            case ev.ToolCallStarted():
                self._call(event.message_id, event.call_id, event.tool, shown)
            case ev.ToolArgsDelta():
                message = self._of(event.message_id)
                index, _ = message.block(event.call_id)
                message.pieces.add(event.call_id)
                shown.stream("input_json_delta", {"partial_json": event.text, "index": index, "id": event.call_id})
            case ev.ToolCallReady():
                self._call(event.message_id, event.call_id, event.tool, shown)
                message = self._of(event.message_id)
                index, _ = message.block(event.call_id)
                if event.call_id not in message.pieces:  # told from a record: the arguments come in one piece
                    whole = event.args if isinstance(event.args, str) else encode_json(event.args).decode()
                    shown.stream("input_json_delta", {"partial_json": whole, "index": index, "id": event.call_id})
                shown.stream("tool_use_content_block_stop", {"index": index, "id": event.call_id})
                shown.stream("tool_call", {"id": event.call_id, "name": event.tool, "input": _input(event.args)})
            case ev.MessageFinished():
                self._said(event, shown)
            case ev.MessageReset():
                self._messages[event.message_id] = _Message()
                shown.stream("message_reset", {"message_id": event.message_id, "reason": event.reason})
            case ev.ToolStarted():
                self._calls[event.call_id] = event.tool
                tool = {"tool_id": event.call_id, "tool_name": event.tool, "input": _input(event.args)}
                shown.state("tool_executing", tool)
            case ev.ToolFinished():
                self._result(event, shown)
            case ev.UsageUpdated():
                turn = self._turns.get(event.run_id)
                if turn is not None:
                    turn.usage += event.usage
                shown.stream("message_delta", {"usage": m.usage(event.usage)})
            case ev.RunCompleted() | ev.RunFailed() | ev.RunCancelled():
                self._end(event, shown)
            case ev.EventPosted(event_type="user_message"):
                said = m.user_message(event.event_id, [TextMessage("user", event.content)], shown.now)
                shown.add("user_message", said, "message")
            case ev.EventPosted(event_type="agent_message"):
                agent = event.metadata.get("from_agent")
                said = m.assistant_message(event.event_id, event.content, shown.now, agent, interrupted=False)
                shown.add("assistant_message", said, "message")
            case _:
                self._other(event, shown)
        for one in shown.events:
            self.state = _STATES.get(one.type, self.state)
        return shown.events

    # -- turns -------------------------------------------------------------------------------------------------------

    def _asked(self, event: ev.RunStarted, shown: _Shown) -> None:
        busy = bool(self._turns)
        message_id = m.user_id(event.run_id)
        user = m.user_message(message_id, event.input, shown.now)
        self._turns[event.run_id] = _Turn(user, message_id)
        saved = {"session_id": event.session_id, "message_id": message_id, "saved_at": shown.now}
        shown.add("message_persisted", saved, "persist", "result", "session")
        shown.add("user_message", user, "message")
        if busy:
            shown.state("conversation_queued", {"message_id": message_id})

    def _begin(self, run_id: str, shown: _Shown) -> None:
        """Open the turn with the first thing that happens in it: until then it was queued."""
        turn = self._turns.get(run_id)
        if turn is None or turn.began is not None:
            return
        turn.began = shown.now
        asked = {"turn_id": run_id, "message_id": turn.message_id, "content": turn.user["content"]}
        shown.add("turn_request", {**asked, "timestamp": shown.now}, "turn", context=self._within(run_id))

    def _end(self, event: ev.RunCompleted | ev.RunFailed | ev.RunCancelled, shown: _Shown) -> None:
        run_id = event.run_id
        reason = "completed"
        if isinstance(event, ev.RunFailed):
            reason = "error"
            self._failed(event, shown)
        elif isinstance(event, ev.RunCancelled):
            reason = "interrupted"
            why = _WHY.get(event.stop_reason, "system")
            shown.stream("interrupted", {"reason": why})
            shown.state("conversation_interrupted", {"reason": why})
        shown.state("conversation_end", {"reason": reason})
        turn = self._turns.pop(run_id, None)
        if turn is not None and turn.began is not None:
            stop = turn.stop_reason if reason == "completed" else reason
            if isinstance(event, ev.RunCompleted):
                stop = _stop(event.stop_reason, stop)
            answered: dict[str, Any] = {
                "turn_id": run_id,
                "message_id": turn.message_id,
                "duration": shown.now - turn.began,
                "usage": m.usage(turn.usage),
                "model": self.model,
                "stop_reason": stop,
                "timestamp": shown.now,
            }
            shown.add("turn_response", answered, "turn", "result", context=self._within(run_id))
        self._messages.clear()
        self._calls.clear()

    def _failed(self, event: ev.RunFailed, shown: _Shown) -> None:
        error = event.error
        data = {"message": error.message, "error_code": error.type}
        shown.stream("error_received", data)
        shown.add("error_message", m.error_message(f"{event.run_id}/error", error, shown.now), "message")
        occurred = {"code": error.type, "message": error.message, "recoverable": True}
        shown.add("error_occurred", occurred, "error")

    def _within(self, run_id: str) -> EventContext:
        context = self.context
        return EventContext(
            context.container_id, context.image_id, context.agent_id, context.session_id, run_id, context.correlation_id
        )

    # -- messages ----------------------------------------------------------------------------------------------------

    def _of(self, message_id: str) -> _Message:
        found = self._messages.get(message_id)
        if found is None:  # the reader came in the middle of it
            found = self._messages[message_id] = _Message()
        return found

    def _text(self, event: ev.TextDelta, shown: _Shown) -> None:
        message = self._of(event.message_id)
        if message.open_text is None:
            message.open_text, _ = message.block(f"text {len(message.blocks)}")
            shown.stream("text_content_block_start", {"index": message.open_text})
        shown.stream("text_delta", {"text": event.text, "index": message.open_text})
        if self.state != "responding":
            shown.state("conversation_responding", {})

    def _close_text(self, message: _Message, shown: _Shown) -> None:
        if message.open_text is not None:
            shown.stream("text_content_block_stop", {"index": message.open_text})
            message.open_text = None

    def _call(self, message_id: str, call_id: str, tool: str, shown: _Shown) -> None:
        message = self._of(message_id)
        index, new = message.block(call_id)
        if new:
            self._close_text(message, shown)
            shown.stream("tool_use_content_block_start", {"id": call_id, "name": tool, "index": index})
            shown.state("tool_planned", {"tool_id": call_id, "tool_name": tool})

    def _said(self, event: ev.MessageFinished, shown: _Shown) -> None:
        self._close_text(self._of(event.message_id), shown)
        self._messages.pop(event.message_id, None)
        calls = [call for one in event.messages if isinstance(one, ToolCallMessage) for call in one.tools]
        stop = event.finish or ("tool_use" if calls else "end_turn")
        if event.interrupted:
            stop = "interrupted"
        shown.stream("message_stop", {"stop_reason": stop, "message_id": event.message_id})
        turn = self._turns.get(event.run_id)
        if turn is not None:
            turn.stop_reason = stop
        text = "".join(one.text for one in event.messages if isinstance(one, TextMessage))
        if text.strip():  # first, so that in the order of the messages a call follows the text that leads to it
            said = m.assistant_message(event.message_id, text, shown.now, event.agent, interrupted=event.interrupted)
            shown.add("assistant_message", said, "message")
        for call in calls:
            self._calls[call.id] = call.name
            called = m.tool_call_message(event.message_id, call.id, call.name, _input(call.input), shown.now)
            shown.add("tool_call_message", called, "message")

    def _result(self, event: ev.ToolFinished, shown: _Shown) -> None:
        name = self._calls.pop(event.call_id, None) or event.tool or "unknown"
        result: dict[str, Any] = {"tool_use_id": event.call_id, "result": event.result, "is_error": event.is_error}
        shown.stream("tool_result", result)
        id = f"{event.run_id}/{event.step or event.call_id}"
        shown.add("tool_result_message", m.tool_result_message(id, event, name, shown.now), "message")
        tool: dict[str, Any] = {"tool_id": event.call_id, "tool_name": name}
        if event.is_error:
            shown.state("tool_failed", {**tool, "error": event.result, "outcome": event.outcome})
        else:
            shown.state("tool_completed", {**tool, "result": event.result})

    def _other(self, event: ev.AnyEvent, shown: _Shown) -> None:
        found = _SHOWN.get(type(event))
        if found is not None:
            category, intent = found
            told = ev.envelope(event, seq=0, timestamp=0.0)
            data: dict[str, Any] = {**told["data"], **({"agent": event.agent} if event.agent else {})}
            shown.add(told["type"], data, category, intent)


class _Shown:
    """What one event is shown as."""

    __slots__ = ("context", "events", "now", "seq")

    def __init__(self, context: EventContext, now: int, seq: int | None) -> None:
        self.context = context
        self.now = now
        self.seq = seq
        self.events: list[SystemEvent] = []

    def add(
        self,
        type: str,
        data: dict[str, Any],
        category: Category,
        intent: Intent = "notification",
        source: Literal["agent", "session"] = "agent",
        context: EventContext | None = None,
    ) -> None:
        self.events.append(
            SystemEvent(type, data, source, category, intent, context or self.context, self.now, self.seq)
        )

    def stream(self, type: str, data: dict[str, Any]) -> None:
        self.add(type, data, "stream")

    def state(self, type: str, data: dict[str, Any]) -> None:
        self.add(type, data, "state")


def _input(args: Any) -> Any:
    """Give the arguments of a call; of what is no JSON object, none: the call's error says what they were."""
    return cast("dict[str, Any]", args) if isinstance(args, dict) else {}


def _stop(reason: StopReason, last: str) -> str:
    return _STOPS.get(reason, last if reason in ("answer", "router", "stop_when") else str(reason))


def messages_of(events: Sequence[SystemEvent]) -> list[dict[str, Any]]:
    """Take the messages out of what was shown, in the order in which a model may be given them again."""
    return [one.data for one in events if one.category == "message"]
