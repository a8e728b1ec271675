"""Pure fold: records become the events that a reader sees.

A live reader is told of openings and deltas as they happen and of the rest by the record; a later reader gets all of it
from the record. Both see the same order. Whatever was opened is closed by the terminal record at the latest. A routing
agent's answers are not part of the conversation: of them only the decision and the usage are shown.
"""

from __future__ import annotations

from typing import Any

from perdure.types import events as ev
from perdure.types import records as rec
from perdure.types.messages import ReasoningMessage, TextMessage, ToolCallMessage


class Projector:
    """The events of one run."""

    __slots__ = ("_agents", "_messages", "_opened", "_tools", "run_id", "session_id")

    def __init__(self, run_id: str, session_id: str) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self._agents: dict[str, str] = {}
        self._opened: set[str] = set()
        self._messages: dict[str, str] = {}
        self._tools: dict[str, tuple[str, str, str]] = {}

    def message_id(self, step: str) -> str:
        """Say which id the message of an inference has."""
        return f"{self.run_id}/{step}"

    def has_open(self, step: str) -> bool:
        """Whether the message or the tool call of a step is open."""
        return step in self._messages or step in self._tools

    @property
    def open_steps(self) -> list[str]:
        """The messages and tool calls that are open."""
        return [*self._messages, *self._tools]

    def begin_agent(self, step: str, agent: str) -> list[ev.AnyEvent]:
        """Open the agent that a step belongs to, if it is not open."""
        prefix = _agent_of(step)
        if prefix in self._opened:
            return []
        self._opened.add(prefix)
        self._agents[prefix] = agent
        return [ev.AgentStarted(**self._at(prefix, agent))]

    def begin_message(self, step: str, agent: str) -> list[ev.AnyEvent]:
        """Open the message of an inference, unless it is a routing agent's."""
        if step.startswith("route/") or step in self._messages:
            return []
        opened = self.begin_agent(step, agent)
        self._messages[step] = agent
        opened.append(ev.MessageStarted(message_id=self.message_id(step), **self._at(step, agent)))
        return opened

    def begin_tool(self, step: str, agent: str, tool: str, call_id: str, args: Any) -> list[ev.AnyEvent]:
        """Open a tool call, unless it is a routing agent's."""
        if step.startswith("route/") or step in self._tools:
            return []
        opened = self.begin_agent(step, agent)
        self._tools[step] = (agent, tool, call_id)
        opened.append(ev.ToolStarted(tool=tool, call_id=call_id, args=args, **self._at(step, agent)))
        return opened

    def record(self, record: rec.Record) -> list[ev.AnyEvent]:
        """Show one record."""
        payload = record.payload
        step = record.key or ""
        seq = record.seq
        match payload:
            case rec.InferenceDone():
                return self._inference(payload, step, seq)
            case rec.ToolDone():
                return self._tool(payload, step, seq)
            case rec.RouteDone():
                return self._route(payload, step, seq)
            case rec.AgentDone():
                prefix = _agent_of(step)
                if prefix.startswith("route/"):
                    return []
                out = self.begin_agent(step, payload.agent)
                self._agents.pop(prefix, None)
                out += self._changed(payload.patch, step, payload.agent, seq)
                if payload.stop_reason == "budget":
                    out.append(ev.BudgetExceeded(detail=payload.detail, **self._at(step, payload.agent, seq)))
                out.append(ev.AgentFinished(stop_reason=payload.stop_reason, **self._at(step, payload.agent, seq)))
                return out
            case rec.RunStarted():
                at = self._at(None, None, seq)
                return [
                    ev.RunStarted(definition=payload.definition, input=payload.messages, parent=payload.parent, **at)
                ]
            case rec.RunFinished():
                return [*self.close("error" if payload.error else payload.stop_reason), self._end(payload, seq)]
            case rec.AttemptFailed():
                at = self._at(payload.step, None, seq)
                return [ev.StepRetrying(attempt=payload.attempt, wait=payload.wait, error=payload.error, **at)]
            case rec.WaitOpened():
                return [ev.WaitOpened(wait=wait, **self._at(step, payload.agent, seq)) for wait in payload.waits]
            case rec.Answered():
                at = self._at(None, None, seq)
                when = record.created_at
                return [ev.WaitResolved(wait_id=payload.wait_id, answer=payload.answer, at=when, **at)]
            case rec.InferDone():
                at = self._at(step, None, seq)
                return [ev.StepFinished(name=payload.name, **at), ev.UsageUpdated(usage=payload.usage, **at)]
            case rec.StepDone():
                return [ev.StepFinished(name=payload.name, **self._at(step, None, seq))]
            case rec.StepFailed():
                if payload.cut is not None:
                    return self._inference(payload.cut, payload.step, seq)
                return self._close_message(payload.step)
            case (
                rec.ChildDone()
                | rec.CancelAsked()
                | rec.Started()
                | rec.Claimed()
                | rec.Compacted()
                | rec.AttemptLost()
            ):
                return []
            case rec.Forked():
                return [ev.SessionForked(base=payload.base, base_seq=payload.seq, **self._at(None, None, seq))]
            case rec.Rewound():
                return [ev.SessionRewound(to=payload.to, **self._at(None, None, seq))]
            case rec.SessionEvent():
                said = {name: getattr(payload, name) for name in payload.__struct_fields__}
                return [ev.EventPosted(**said, **self._at(None, None, seq))]
            case rec.StateSet():
                return [ev.SessionChanged(state=payload.state, **self._at(None, None, seq))]
            case rec.Unparked() | rec.Erased():
                return []

    def close(self, reason: rec.StopReason) -> list[ev.AnyEvent]:
        """Close whatever is open, in an order that does not depend on when it was opened."""
        out: list[ev.AnyEvent] = []
        for step in sorted(self._messages):
            out += self._close_message(step)
        for step in sorted(self._tools):
            out += self._close_tool(step)
        for prefix, agent in sorted(self._agents.items()):
            out.append(ev.AgentFinished(stop_reason=reason, **self._at(prefix, agent)))
        self._agents.clear()
        return out

    def _close_message(self, step: str) -> list[ev.AnyEvent]:
        agent = self._messages.pop(step, None)
        if agent is None:
            return []
        message_id = self.message_id(step)
        return [ev.MessageFinished(message_id=message_id, interrupted=True, **self._at(step, agent))]

    def _close_tool(self, step: str) -> list[ev.AnyEvent]:
        opened = self._tools.pop(step, None)
        if opened is not None:
            name, tool, call_id = opened
            at = self._at(step, name)
            return [ev.ToolFinished(tool=tool, call_id=call_id, result=None, outcome="interrupted", **at)]
        return []

    def _inference(self, done: rec.InferenceDone, step: str, seq: int) -> list[ev.AnyEvent]:
        at = self._at(step, done.agent, seq)
        out: list[ev.AnyEvent] = []
        if not step.startswith("route/"):
            message_id = self.message_id(step)
            live = step in self._messages
            if not live and (done.messages or not done.stop):
                out += self.begin_message(step, done.agent)
                out += self.pieces(done, step, seq)
            for message in done.messages:
                if isinstance(message, ToolCallMessage):
                    out += [
                        ev.ToolCallReady(tool=c.name, call_id=c.id, args=c.input, message_id=message_id, **at)
                        for c in message.tools
                    ]
            if self._messages.pop(step, None) is not None:
                cut, short = done.interrupted, done.finish if done.finish in ("max_tokens", "refused") else None
                out.append(
                    ev.MessageFinished(
                        message_id=message_id, messages=done.messages, interrupted=cut, finish=short, **at
                    )
                )
        if done.usage.model_calls:
            out.append(ev.UsageUpdated(usage=done.usage, **at))
        return out + self._changed(done.patch, step, done.agent, seq)

    def pieces(self, done: rec.InferenceDone, step: str, seq: int) -> list[ev.AnyEvent]:
        """Show the message of an inference as if it were streamed: each text and thought in one piece."""
        at: dict[str, Any] = {**self._at(step, done.agent, seq), "message_id": self.message_id(step)}
        out: list[ev.AnyEvent] = []
        for message in done.messages:
            if isinstance(message, TextMessage):
                out.append(ev.TextDelta(text=message.text, **at))
            elif isinstance(message, ReasoningMessage):
                out.append(ev.ReasoningDelta(text=message.content, **at))
            elif isinstance(message, ToolCallMessage):
                out += [ev.ToolCallStarted(tool=call.name, call_id=call.id, **at) for call in message.tools]
        return out

    def _tool(self, done: rec.ToolDone, step: str, seq: int) -> list[ev.AnyEvent]:
        if step.startswith("route/"):
            return []
        call = done.result.tool
        out = self.begin_tool(step, done.agent, call.name, call.id, call.input)
        self._tools.pop(step, None)
        at = self._at(step, done.agent, seq)
        out.append(
            ev.ToolFinished(tool=call.name, call_id=call.id, result=done.result.content, outcome=done.outcome, **at)
        )
        return out + self._changed(done.patch, step, done.agent, seq)

    def _route(self, done: rec.RouteDone, step: str, seq: int) -> list[ev.AnyEvent]:
        out = self._changed(done.patch, step, None, seq)
        if done.ask is None:
            names = tuple(name for pick in done.picks for name in pick.agents)
            out.append(ev.RouteDecided(agents=names, by=done.by, **self._at(step, None, seq)))
        return out

    def _end(self, done: rec.RunFinished, seq: int) -> ev.AnyEvent:
        at = self._at(None, None, seq)
        if done.status == "failed":
            return ev.RunFailed(error=done.error or rec.ErrorInfo("Error", "unknown"), usage=done.usage, **at)
        if done.status == "cancelled":
            return ev.RunCancelled(stop_reason=done.stop_reason, usage=done.usage, **at)
        return ev.RunCompleted(stop_reason=done.stop_reason, output=done.output, usage=done.usage, **at)

    def _changed(self, patch: rec.JsonPatch | None, step: str, agent: str | None, seq: int) -> list[ev.AnyEvent]:
        return [ev.StateChanged(patch=patch, **self._at(step, agent, seq))] if patch else []

    def _at(self, step: str | None, agent: str | None, seq: int | None = None) -> dict[str, Any]:
        return {"run_id": self.run_id, "session_id": self.session_id, "agent": agent, "step": step, "seq": seq}


def _agent_of(step: str) -> str:
    return step.split("/infer/", 1)[0]
