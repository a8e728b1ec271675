"""Compares what a run's code decides now with what was recorded, and says the difference so that a person can read it.

Pure. What was redacted in the recording is alike whatever stands there now.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from perdure.models.model import ModelRequest, ToolSpec
from perdure.testing.redact import PLACEHOLDER
from perdure.types.base import Base, plain
from perdure.types.messages import (
    Message,
    ReasoningMessage,
    TextMessage,
    ToolCallMessage,
    result_text,
)
from perdure.types.records import (
    AgentDone,
    AttemptFailed,
    ErrorInfo,
    InferenceDone,
    Payload,
    RouteDone,
    RunFinished,
    StepDone,
    StepFailed,
    ToolDone,
    WaitOpened,
)
from perdure.types.waits import Approval, EventWait, Question, Timer, Wait


class Difference(Base):
    """The first place where a run would go another way: which step, what was recorded, and what comes now."""

    run_id: str
    step: str
    what: str
    recorded: str = ""
    now: str = ""
    diff: str = ""

    @property
    def text(self) -> str:
        """All of it, as it is shown."""
        lines = [f"{self.step or self.run_id}: {self.what}"]
        if self.recorded or self.now:
            lines += [f"  recorded: {_below(self.recorded)}", f"  now:      {_below(self.now)}"]
        if self.diff:
            lines += ["", self.diff]
        return "\n".join(lines)


def _below(text: str) -> str:
    return text.replace("\n", "\n            ") or "(nothing)"


# -- alike -----------------------------------------------------------------------------------------------------------


def alike(recorded: Any, now: Any) -> bool:
    """Whether two values are the same as JSON; a placeholder stands for any text."""
    if isinstance(recorded, str):
        if not isinstance(now, str):
            return False
        if recorded == now:
            return True
        pieces = PLACEHOLDER.split(recorded)
        return len(pieces) > 1 and re.fullmatch(".*?".join(map(re.escape, pieces)), now, re.DOTALL) is not None
    if isinstance(recorded, Mapping):
        mine = cast("Mapping[str, Any]", recorded)
        if not isinstance(now, Mapping):
            return False
        other = cast("Mapping[str, Any]", now)
        return mine.keys() == other.keys() and all(alike(value, other[name]) for name, value in mine.items())
    if isinstance(recorded, (list, tuple)):
        several = cast("Sequence[Any]", recorded)
        if not isinstance(now, (list, tuple)):
            return False
        others = cast("Sequence[Any]", now)
        return len(several) == len(others) and all(alike(*pair) for pair in zip(several, others, strict=True))
    return recorded == now


_MATTERS: dict[type, tuple[tuple[str, str], ...]] = {
    InferenceDone: (
        ("stop", "the turn ends otherwise"),
        ("stop_detail", "the turn ends for another reason"),
        ("messages", "a hook makes something else of the answer"),
        ("feedback", "the model is told something else about its answer"),
        ("answered", "the model is told something else about its answer"),
        ("has_output", "the answer is taken otherwise"),
        ("output", "the answer is read as another value"),
        ("patch", "the state is changed otherwise"),
        ("scheduled", "other agents are scheduled"),
    ),
    ToolDone: (
        ("outcome", "the call ends otherwise"),
        ("args", "the tool would be called with other arguments"),
        ("by_hook", "it is another one that answers the call"),
        ("result", "the call has another result"),
        ("patch", "the state is changed otherwise"),
        ("scheduled", "other agents are scheduled"),
    ),
    RouteDone: (
        ("picks", "the router decides otherwise"),
        ("ask", "the router asks another routing agent"),
        ("reason", "the router decides otherwise"),
        ("patch", "the state is changed otherwise"),
    ),
    AgentDone: (
        ("agent", "it is another agent's turn"),
        ("stop_reason", "the turn ends otherwise"),
        ("detail", "the turn ends for another reason"),
        ("messages", "a hook makes something else of the turn"),
        ("output", "the turn has another output"),
        ("patch", "the state is changed otherwise"),
        ("scheduled", "other agents are scheduled"),
    ),
    WaitOpened: (
        ("waits", "the call waits for something else"),
        ("args", "the call waits with other arguments"),
        ("patch", "the state is changed otherwise"),
        ("scheduled", "other agents are scheduled"),
    ),
    RunFinished: (
        ("status", "the run ends otherwise"),
        ("stop_reason", "the run ends otherwise"),
        ("output", "the run has another output"),
        ("error", "the run fails otherwise"),
    ),
    StepFailed: (("error", "the step fails otherwise"),),
    AttemptFailed: (("error", "the attempt fails otherwise"),),
    StepDone: (("result", "the function returns something else"),),
}


def compare(run_id: str, step: str, recorded: Payload, now: Payload) -> Difference | None:
    """Compare what a step has decided with what it would decide now; what it took and cost does not matter."""
    if type(recorded) is not type(now):
        return Difference(run_id, step, "the step ends otherwise.", shown(recorded), shown(now))
    for name, what in _MATTERS[type(recorded)]:
        before, after = _field(recorded, name), _field(now, name)
        if alike(before, after):
            continue
        if isinstance(recorded, (RouteDone, RunFinished, StepFailed, AttemptFailed, WaitOpened)) and name != "patch":
            return Difference(run_id, step, f"{what}.", shown(recorded), shown(now))
        if isinstance(before, str) and isinstance(after, str) and max(len(before), len(after)) < 200:
            return Difference(run_id, step, f"{what}.", before, after)
        return Difference(run_id, step, f"{what}.", diff=unified(_lines(before), _lines(after)))
    return None


def _field(payload: Any, name: str) -> Any:
    value = getattr(payload, name)
    if isinstance(payload, WaitOpened) and name == "waits":  # when a wait is over depends on when it began
        return [_without(plain(one), "expires", "since") for one in payload.waits]
    if isinstance(payload, ToolDone) and name == "result":
        return plain(payload.result.content)
    if isinstance(value, ErrorInfo):
        return [value.type, value.message]
    return plain(value)


def _without(value: Any, *names: str) -> dict[str, Any]:
    return {name: part for name, part in cast("dict[str, Any]", value).items() if name not in names}


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split("\n")
    return json.dumps(value, ensure_ascii=False, indent=2).split("\n")


def unified(recorded: Sequence[str], now: Sequence[str]) -> str:
    """Show the difference of two texts, line by line."""
    return "\n".join(difflib.unified_diff(list(recorded), list(now), "recorded", "now", lineterm="", n=2))


# -- prompts ---------------------------------------------------------------------------------------------------------


def compare_prompt(
    run_id: str, step: str, messages: Sequence[Message], tools: str | None, request: ModelRequest
) -> Difference | None:
    """Compare what a model was asked with what it would be asked now.

    Args:
        run_id: the run.
        step: the inference's place.
        messages: what was sent, the system message first.
        tools: the tools as they were offered, as JSON; None if there were none.
        request: what is sent now.
    """
    offered = {one.name: one for one in (msgspec.json.decode(tools, type=list[ToolSpec]) if tools else [])}
    now = {one.name: one for one in request.tools}
    gone, fresh = sorted(offered.keys() - now.keys()), sorted(now.keys() - offered.keys())
    if gone or fresh:
        what = "other tools are offered to the model."
        return Difference(run_id, step, what, ", ".join(offered) or "none", ", ".join(now) or "none")
    for name, spec in offered.items():
        if not alike(plain(spec), plain(now[name])):
            diff = unified(_lines(plain(spec)), _lines(plain(now[name])))
            return Difference(run_id, step, f"the model is told something else about the tool {name!r}.", diff=diff)
    if alike(plain(messages), plain(request.messages)):
        return None
    diff = unified(prompt_lines(messages), prompt_lines(request.messages))
    return Difference(run_id, step, "the model is asked something else.", diff=diff or "(parts that are no text)")


def prompt_lines(messages: Sequence[Message]) -> list[str]:
    """Write messages as lines of text."""
    lines: list[str] = []
    for one in messages:
        if isinstance(one, TextMessage):
            lines += f"{one.role}: {_content(one)}".split("\n")
        elif isinstance(one, ReasoningMessage):
            lines += f"thought: {one.content}".split("\n")
        elif isinstance(one, ToolCallMessage):
            lines += [f"call: {call.name}({result_text(call.input)})" for call in one.tools]
        else:
            lines.append(f"result: {one.tool.name} → {result_text(one.content)}")
    return lines


def _content(message: TextMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return " ".join(getattr(part, "text", None) or f"({type(part).__name__})" for part in message.content)


# -- in a few words --------------------------------------------------------------------------------------------------


def shown(payload: Payload | None) -> str:
    """Say in a few words what a record says."""
    match payload:
        case None:
            return "nothing"
        case InferenceDone():
            calls = [call.name for one in payload.messages if isinstance(one, ToolCallMessage) for call in one.tools]
            if payload.stop:
                return f"{payload.agent} is stopped by a {payload.stop}: {payload.stop_detail}"
            said = f"calls {', '.join(calls)}" if calls else "answers"
            return f"{payload.agent} {said}" + (" and is told to correct it" if payload.feedback else "")
        case ToolDone():
            call = payload.result.tool
            return f"{call.name} gives {short(result_text(payload.result.content))}"
        case RouteDone():
            if payload.ask:
                return f"asks {payload.ask}"
            picked = " then ".join(" beside ".join(pick.agents) + _args(pick.args) for pick in payload.picks)
            return picked or ("nobody: stop_when" if payload.reason == "stop_when" else "nobody: the run ends")
        case AgentDone():
            return f"{payload.agent}'s turn ends: {payload.stop_reason}" + (
                f" ({payload.detail})" if payload.detail else ""
            )
        case WaitOpened():
            return "waits for " + ", ".join(waited(one) for one in payload.waits)
        case StepDone():
            return f"{payload.name} returns {short(result_text(payload.result))}"
        case AttemptFailed():
            return f"attempt {payload.attempt} fails with {payload.error.type}: {payload.error.message}"
        case StepFailed():
            return f"fails with {payload.error.type}: {payload.error.message}"
        case RunFinished():
            end = f"{payload.status}: {payload.error.type}: {payload.error.message}" if payload.error else ""
            return end or f"{payload.status} ({payload.stop_reason}): {short(result_text(payload.output))}"
        case _:
            return type(payload).__name__


def waited(wait: Wait) -> str:
    """Say in a few words what is waited for."""
    match wait:
        case Approval():
            return f"approval of {wait.tool}({short(result_text(wait.args))})"
        case Question():
            return f"an answer to {short(wait.text)!r}"
        case EventWait():
            return f"the event {wait.name}" + (f" with {result_text(wait.match)}" if wait.match else "")
        case Timer():
            return "a moment to come"
        case _:
            return f"the run {wait.child}"


def _args(args: Mapping[str, Any] | None) -> str:
    return "" if args is None else f" with {short(result_text(dict(args)))}"


def short(text: str, most: int = 160) -> str:
    """Cut a text that is too long for a line."""
    return text if len(text) <= most else text[: most - 1] + "…"
