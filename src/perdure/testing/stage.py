"""What the code of a run that is replayed is given instead of models, tools, steps, answers and time."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import msgspec

from perdure.agents.agent_loop import AgentLoop, Infer
from perdure.agents.context import Context
from perdure.agents.output import ANSWER_TOOL
from perdure.agents.tool import Tool
from perdure.agents.toolsets import Toolset
from perdure.durable.endings import Left
from perdure.durable.function import BODY
from perdure.durable.kernel import Kernel
from perdure.durable.program import Action, Do, Finish, Keep, Waiting
from perdure.durable.step import TURNS
from perdure.log.memory import MemoryLog
from perdure.models.model import Capabilities, ModelRequest, ToolSpec
from perdure.testing.compare import Difference, shown, waited
from perdure.testing.recordings import Recording
from perdure.types.chunks import Finished, ModelEvent, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.messages import (
    ReasoningMessage,
    TextMessage,
    ToolCallMessage,
    result_text,
)
from perdure.types.records import (
    AgentDone,
    AttemptFailed,
    ChildDone,
    ErrorInfo,
    InferenceDone,
    Payload,
    Record,
    RouteDone,
    RunFinished,
    StepDone,
    StepFailed,
    ToolDone,
    WaitOpened,
)
from perdure.types.sent_event import SentEvent

if TYPE_CHECKING:
    from perdure.testing.retrace import Retrace

DECISIONS = (InferenceDone, ToolDone, RouteDone, AgentDone, WaitOpened, StepFailed, RunFinished)
BEFORE = frozenset(("ArgumentsInvalid", "UnknownTool", "budget"))
"""Errors by which a call is closed before its tool is reached."""

LEFT_THERE = frozenset(("not_carried_over",))
"""Errors by which a call is closed where its run was forked."""

CUT_OFF = frozenset(("interrupted", "timeout", "undone", "CancelledError"))
"""Errors by which a call is closed from outside, whatever its tool was about to do."""


class Differs(Left):
    """Ends a step's code where it goes another way; no `Exception`, so that no handler takes it for a failure."""


class Step:
    """A step that is under way.

    Args:
        owner: what follows the run that it belongs to.
        do: what the program wants.
        closing: the record that closes it, or lets it wait.
        since: where the record was that came next when it began.

    Attributes:
        asked: the places of the inner steps that its code has asked for.
        left: those that were recorded meanwhile, in order.
    """

    def __init__(self, owner: Retrace, do: Do, closing: Record, since: int) -> None:
        self.owner = owner
        self.do = do
        self.closing = closing
        self.since = since
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.asked: set[str] = set()
        self.left: deque[Record] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.unknown: Difference | None = None
        self.difference: Difference | None = None
        self.task: asyncio.Task[Payload | Keep] | None = None

    def give(self, key: str) -> None:
        """Note that its code has asked for an inner step."""
        self.asked.add(key)
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
        self._waiting.clear()

    @property
    def next(self) -> Record | None:
        """The first of the inner steps that were recorded meanwhile and that its code has not asked for yet."""
        left = self.left
        while left and left[0].key in self.asked:
            left.popleft()
        return left[0] if left else None

    async def more(self, patience: float) -> bool:
        """Wait until its code has asked for another inner step; False if nobody is left who could."""
        task = asyncio.current_task()
        assert task is not None
        at_work = crew.get()
        if not asyncio.all_tasks() - at_work.held - {task} - (at_work.ours - {self.task}):
            return False
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        at_work.held.add(task)
        try:
            await asyncio.wait((future,), timeout=patience)
        finally:
            at_work.held.discard(task)
        for _ in range(TURNS):  # what goes on behind that one goes on first
            await asyncio.sleep(0)
        return future.done()


class Crew:
    """Who is at work in a replay.

    Attributes:
        ours: the tasks that follow runs and perform steps; what else runs was begun by the code of a step.
        held: the tasks that wait until the code of a step has asked for another inner step.
    """

    def __init__(self) -> None:
        self.ours: set[asyncio.Task[Any] | None] = {asyncio.current_task()}
        self.held: set[asyncio.Task[Any]] = set()


crew: ContextVar[Crew] = ContextVar("perdure_replaying")


def differ(step: Step, difference: Difference) -> Differs:
    """Note the first difference of a step, and make what ends its code."""
    step.difference = step.difference or difference
    return Differs(difference.what)


current: ContextVar[Step] = ContextVar("perdure_replayed_step")


# -- what the code of a run is given instead -------------------------------------------------------------------------


class Then:
    """The clock of a run that is driven again: it is when the last record was made, and nothing is waited for."""

    def __init__(self, retrace: Retrace) -> None:
        self._retrace = retrace

    def now(self) -> float:
        """When the last record was made."""
        return self._retrace.now

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        """Go on at once."""


class Steps(dict[str, Any]):
    """Inner steps, as they were recorded; what is asked for is noted."""

    def __init__(self, retrace: Retrace) -> None:
        super().__init__()
        self._retrace = retrace

    def get(self, key: str, default: Any = None) -> Any:
        return self._retrace.inside.done(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())  # which were left out is seen by whoever follows the run


class Answers(dict[str, Any]):
    """How waits were answered: to a step's code, as it was by the time that the step came to its end."""

    def __init__(self, retrace: Retrace) -> None:
        super().__init__()
        self._retrace = retrace

    def get(self, key: str, default: Any = None) -> Any:
        step = current.get(None)
        if step is None or step.owner is not self._retrace:  # the fold, which goes record by record
            return super().get(key, default)
        return self._retrace.inside.answer(step, key)

    def __contains__(self, key: object) -> bool:
        return self.get(str(key)) is not None

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


class Waits(dict[str, Any]):
    """What was waited for, where that depends on the time."""

    def __init__(self, retrace: Retrace) -> None:
        super().__init__()
        self._retrace = retrace

    def get(self, key: str, default: Any = None) -> Any:
        return self._retrace.inside.wait(key)


class AnyHash(str):
    """A hash that fits every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


class RecordedModel:
    """The model that gives what was recorded."""

    name = "recorded"
    provider = "recorded"

    def __init__(self, retrace: Retrace, *, by_tool: bool) -> None:
        self._retrace = retrace
        self.capabilities = Capabilities(structured_output="no" if by_tool else "yes")

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Give the answer of the current step."""
        return self._retrace.asked(request)


class Listed(Toolset[Any]):
    """Tools that live elsewhere, such as those of an MCP server: as they were offered when the run was recorded."""

    name = "recorded"
    local = True

    def __init__(self, retrace: Retrace) -> None:
        self._retrace = retrace

    async def list_tools(self, ctx: Context[Any]) -> Sequence[Tool[..., Any, Any]]:
        """Say which tools there were, but those that the agent has here."""
        step = current.get()
        loop = cast("AgentLoop", step.do.what.loop)
        plan = self._retrace.running.env.plan(loop)
        mine: set[str] = {ANSWER_TOOL}
        for one in plan.agent.tools:
            if isinstance(one, Tool):
                mine.add(one.name)
            elif not isinstance(one, Listed):
                mine |= {tool.name for tool in await one.list_tools(ctx)}
        if next(one for one in plan.agent.tools if isinstance(one, Listed)) is not self:
            return []
        return [elsewhere(one) for one in self._retrace.offered(step.do.key) if one.name not in mine]


def elsewhere(spec: ToolSpec) -> Tool[..., Any, Any]:
    """Make the tool that stands for one which lives elsewhere; a person was asked if the recording says so."""

    async def call(**_: Any) -> None:
        raise AssertionError("a replay calls no tool")

    def asked(**_: Any) -> bool:
        return isinstance(current.get().closing.payload, WaitOpened)

    return Tool(
        call,
        name=spec.name,
        description=spec.description,
        parameters=spec.parameters,
        strict=spec.strict,
        requires_approval=asked,
        effect="pure",
    )


# -- small things ----------------------------------------------------------------------------------------------------


def decides(record: Record) -> bool:
    """Whether a record is what a run's code has decided."""
    payload, key = record.payload, record.key or ""
    if isinstance(payload, (StepDone, AttemptFailed)):  # the end of a function's body, or of an attempt of it
        return BODY in (key, getattr(payload, "step", ""))
    if isinstance(payload, WaitOpened):
        return not key.startswith(f"{BODY}#retry/")
    return isinstance(payload, DECISIONS) and not (isinstance(payload, ToolDone) and error_of(payload) in LEFT_THERE)


def place_of(record: Record) -> str:
    """The place of the step that a record closes, or lets wait."""
    payload = record.payload
    if isinstance(payload, (StepFailed, AttemptFailed)):
        return payload.step
    key = record.key or ""
    if isinstance(payload, WaitOpened):
        return re.split("[/#]wait/", key)[0]
    return key.removesuffix("/ask") if isinstance(payload, RouteDone) and payload.ask is not None else key


def told(action: Action) -> str:
    """Say in a few words what a run would do next."""
    if isinstance(action, Do):
        return f"the model is asked at {action.key}" if isinstance(action.what, Infer) else f"goes on at {action.key}"
    if isinstance(action, Keep):
        return f"{action.key}: {shown(action.payload)}"
    if isinstance(action, Finish):
        return f"the run ends: {shown(action.payload)}"
    if isinstance(action, Waiting):
        return "the run waits for " + (", ".join(waited(one) for one in action.waits) or "nothing")
    return "goes on at " + ", ".join(one.key for one in action)


def inner_name(payload: Payload) -> str:
    """Name an inner step."""
    if isinstance(payload, StepDone):
        return payload.name
    return f"the child run {payload.run_id}" if isinstance(payload, ChildDone) else shown(payload)


def error_info(payload: ToolDone) -> ErrorInfo:
    """The error that a call was closed with; an empty one if it was none."""
    content: Any = payload.result.content if payload.handled is None else payload.handled.content
    error: Any = cast("dict[str, Any]", content).get("error") if isinstance(content, dict) else None
    return ErrorInfo(str(error["name"]), str(error["message"])) if error else ErrorInfo("", "")


def error_of(payload: ToolDone) -> str:
    """The name of that error."""
    return error_info(payload).type


def failure(error: ErrorInfo, kind: type[Exception] = Exception) -> Exception:
    """An exception that is kept as the recorded one was."""
    return cast("Exception", type(error.type or "Exception", (kind,), {})(error.message))


def refused(payload: Payload) -> bool:
    """Whether a budget did not allow a step: what was spent by then is not the code's to decide."""
    if isinstance(payload, InferenceDone):
        return payload.stop == "budget"
    return isinstance(payload, ToolDone) and payload.outcome == "not_run" and error_of(payload) == "budget"


async def end_step(step: Step | None) -> None:
    """Cut off a step that is under way."""
    if step is None or step.task is None:
        return
    step.task.cancel()
    await asyncio.wait((step.task,))
    if not step.task.cancelled():
        step.task.exception()  # nobody asks for it any more


def pieces(done: InferenceDone) -> list[ModelEvent]:
    """The pieces of an answer, as a model would stream them."""
    pieces: list[ModelEvent] = []
    for one in done.messages if done.said is None else done.said:
        block = len(pieces)
        if isinstance(one, TextMessage):
            pieces.append(TextChunk(one.text, block, one.opaque))
        elif isinstance(one, ReasoningMessage):
            pieces.append(ReasoningChunk(one.content, block, one.opaque))
        elif isinstance(one, ToolCallMessage):
            for call in one.tools:
                arguments = call.input if isinstance(call.input, str) else result_text(call.input)
                pieces.append(ToolCallChunk(len(pieces), call.id, call.name, arguments, call.opaque))
    pieces.append(Finished(done.finish, done.usage, done.model, done.provider))
    return pieces


def specs(text: str | None) -> list[ToolSpec]:
    """Read the tools that were offered."""
    return msgspec.json.decode(text, type=list[ToolSpec]) if text else []


def limited(tool: Tool[..., Any, Any]) -> bool:
    """Whether a tool that is entered again might be cut off, or tried again."""
    return tool.effect == "steps" and (tool.timeout is not None or tool.retries > 0)


def kernel_for(whole: Recording) -> Kernel:
    """A kernel in memory, where definitions are found as they were when the run was recorded."""
    return Kernel(_Nowhere()) if whole.durable else Kernel()


class _Nowhere(MemoryLog):
    """A log that stands for a store; what was sent is recorded, and nothing more is sent."""

    async def send(self, events: Sequence[SentEvent], run_id: str | None = None) -> list[SentEvent]:
        """Take nothing in."""
        return []

    async def event(self, id: str) -> SentEvent | None:
        """Know of no event."""
