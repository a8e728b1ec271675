"""Goes on with a recorded run from one of its steps with another model, prompt or tools, and shows what that changes.

    again = await rerun(recorded("run.json"), [desk], from_step=2, model="openai:gpt-5", prompt="Be brief.")
    again.print()

It is a run of its own in memory: the records before the step are folded, what comes then is driven for real, and
nothing is written to the store that the run came from. Tools that have effects are answered from the recording where
call and arguments are the same; what is to be called for real is named.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from perdure.agents.agent_loop import AgentLoop
from perdure.agents.budget import Ledger
from perdure.agents.context import Context, Saved
from perdure.agents.definition import AgentDefinition
from perdure.agents.env import Env, resolve
from perdure.agents.hooks import HooksLike
from perdure.agents.outcome import RunResult
from perdure.agents.rebuild import inferences
from perdure.agents.running import Running
from perdure.agents.tool import Tool
from perdure.durable.function import BODY
from perdure.models.model import Model
from perdure.testing.compare import short, shown
from perdure.testing.recordings import Recording, recorded
from perdure.testing.replays import Definitions, Known, revive
from perdure.testing.stage import kernel_for
from perdure.types.base import Base, encode_json, plain
from perdure.types.errors import NonRetriable, PerdureError, UnknownName
from perdure.types.messages import TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, result_text
from perdure.types.records import (
    Answered,
    CancelAsked,
    ChildDone,
    InferDone,
    InferenceDone,
    Record,
    RouteDone,
    RunFinished,
    RunStatus,
    StepDone,
    ToolDone,
    TransactionDone,
)
from perdure.types.usage import NOTHING, Usage
from perdure.types.waits import Elapsed, Timer, WaitAnswer


class NotForReal(PerdureError):
    """A rerun came to a call with effects that the recording does not answer, and that nobody has allowed."""


class Change(Base):
    """One step of a rerun beside the recorded one: what each said or did, and what it used; None where it was not.

    `same` says that both did the same, whatever it cost.
    """

    step: str
    recorded: str | None
    now: str | None
    recorded_usage: Usage = NOTHING
    now_usage: Usage = NOTHING

    @property
    def same(self) -> bool:
        """Whether both did the same."""
        return self.recorded == self.now


class Rerun(Base):
    """What a rerun has come to, beside what was recorded.

    `changes` has each step from the first one on, `recorded_usage` and `now_usage` what these have used, `waits` how
    many answers it still waits for.
    """

    run_id: str
    definition: str
    from_step: str
    changes: tuple[Change, ...]
    recorded_status: RunStatus
    status: RunStatus
    recorded_output: Any
    output: Any
    recorded_usage: Usage
    now_usage: Usage
    waits: int = 0

    @property
    def same(self) -> bool:
        """Whether every answer and call is the same."""
        return all(one.same for one in self.changes)

    @property
    def text(self) -> str:
        """Both beside each other, as text."""
        lines = [f"Run {self.run_id} of {self.definition!r}, again from {self.from_step}:"]
        for one in self.changes:
            spent = _spent(one.recorded_usage, one.now_usage)
            if one.same:
                lines.append(f"  {one.step}: {one.recorded}{spent}")
                continue
            lines.append(f"  {one.step}:{spent}")
            lines += [f"    - {one.recorded or '(nothing)'}", f"    + {one.now or '(nothing)'}"]
        still = f", it waits for {self.waits} answers" if self.waits else ""
        lines.append(f"  {self.recorded_status} → {self.status}{still}{_spent(self.recorded_usage, self.now_usage)}")
        return "\n".join(lines)

    def print(self) -> None:
        """Show it in the terminal."""
        sys.stdout.write(self.text + "\n")


def _spent(before: Usage, now: Usage) -> str:
    parts: list[str] = []
    was, then = before.total_tokens, now.total_tokens
    if was or then:
        parts.append(f"{was:,} → {then:,} tokens ({then - was:+,})")
    if before.cost is not None or now.cost is not None:
        parts.append(f"${before.cost or 0:.4f} → ${now.cost or 0:.4f}")
    return f"  [{', '.join(parts)}]" if parts else ""


async def rerun(
    run: Recording | str | Path,
    definitions: Definitions,
    *,
    from_step: str | int | None = None,
    model: Model | str | None = None,
    prompt: str | Mapping[str, str] | None = None,
    tools: Sequence[str | Tool[..., Any, Any]] = (),
    hooks: HooksLike = (),
    resources: Sequence[Any] = (),
) -> Rerun:
    """Go on with a recorded run from one of its steps, and compare what comes of it.

    Args:
        run: the recording, or its file.
        definitions: the agents, networks and functions of the run, or the runtime that has them.
        from_step: the place of the step that is done again first, or the number of an inference, from 0; from the
            beginning unless given.
        model: the model that answers from there on; those of the agents unless given.
        prompt: another system prompt: for the agent whose turn it is then, or by the names of agents.
        tools: what is called for real: names of tools and of steps of functions, and tools that take the place of those
            of their name, or come to those of the agent whose turn it is. All others that have effects are answered
            from the recording, if the same call was made with the same arguments.
        hooks: those that the runtime has, if it is not given.
        resources: live objects for tools, prompts, hooks and routers.

    Raises:
        UnknownName: the run has no such step.
        NotForReal: a tool with effects would be called otherwise than recorded, and is not among `tools`.
        DefinitionError: the run's definition is not there, or an argument makes no sense.
        RecordingError: the file cannot be read.
    """
    whole = recorded(run) if isinstance(run, (str, Path)) else run
    known = Known(definitions, hooks, resources)
    found = whole.run
    definition = known.find(found)
    key, at = _place(found.records, found.id, from_step)
    before = [one for one in found.records[:at] if not isinstance(one.payload, CancelAsked)]
    kernel = kernel_for(whole)
    # how long the recorded run was allowed to take has nothing to do with this one
    running = revive(found, definition, known, kernel, deadline=None, **({} if model is None else {"model": model}))
    turn = key.partition("/infer/")[0] if "/infer/" in key else None
    running.recall(before, found.earlier)
    name = next((one.rules.agent for one in _turns(running) if one.prefix == turn), None) or _first(found.records, at)
    changes = _Changes(whole, prompt, tools, name, resolve(model))
    changes.stand_in(running)
    kernel.witness = _Guard(whole, before, changes)
    accepted = await kernel.log.accept(running.new_run(), running.started)
    assert accepted.token is not None
    try:
        result = await running.take_up(accepted.token, accepted.head, before)
        while result.status == "waiting" and (answers := _answers(whole, result)):
            result = await running.answer(answers)
    finally:
        for child in running.env.children.values():
            child.leave()
    if changes.refused is not None:
        raise changes.refused
    was, now = _steps(found.records[at:]), _steps(await kernel.log.read_run(found.id, 1))
    rows = [Change(one, *_pair(was.get(one), now.get(one))) for one in _order(list(was), list(now))]
    last, finished = found.records[-1].payload, running.loop.finished
    return Rerun(
        found.id,
        found.definition,
        key or "the beginning",
        tuple(rows),
        found.status,
        result.status,
        last.output if isinstance(last, RunFinished) else None,
        finished.output if finished is not None else None,
        sum((one.recorded_usage for one in rows), NOTHING),
        sum((one.now_usage for one in rows), NOTHING),
        len(result.waits),
    )


def _place(records: Sequence[Record], run_id: str, which: str | int | None) -> tuple[str, int]:
    """Find the step that is done again first, and how many records are kept."""
    if which is None:
        return "", 1
    keys = [one.key for one in records if isinstance(one.payload, _STEPS)]
    if isinstance(which, int) or which.isdecimal():
        said = inferences(records, run_id)
        keys = [f"{n}: {one.key}" for n, one in enumerate(said)]
        which = said[int(which)].key or "" if 0 <= int(which) < len(said) else str(which)
    for number, record in enumerate(records):
        if record.key == which and isinstance(record.payload, _STEPS):
            return which, number
    raise UnknownName("step", which, [one for one in keys if one is not None])


def _turns(running: Running) -> list[AgentLoop]:
    asking: AgentLoop | None = getattr(running.loop, "asking", None)  # a function asks nobody
    return [*running.loop.current, *([asking] if asking is not None else [])]


def _first(records: Sequence[Record], at: int) -> str | None:
    """The agent that said something first from there on."""
    return next((one.payload.agent for one in records[at:] if isinstance(one.payload, InferenceDone)), None)


def _answers(whole: Recording, result: RunResult[Any, Any]) -> dict[str, WaitAnswer]:
    """What people had said to the same questions, and which events had come; moments come at once."""
    wanted = {wait.id for wait in result.waits}
    said = [one.payload for run in whole.runs for one in run.records if isinstance(one.payload, Answered)]
    over: dict[str, WaitAnswer] = {wait.id: Elapsed() for wait in result.waits if isinstance(wait, Timer)}
    return {**over, **{one.wait_id: one.answer for one in reversed(said) if one.wait_id in wanted}}


def _steps(records: Sequence[Record]) -> dict[str, tuple[str, Usage]]:
    """What steps said and did."""
    found: dict[str, tuple[str, Usage]] = {}
    for record in records:
        payload, key = record.payload, record.key
        if key is None:
            continue
        if isinstance(payload, InferenceDone):
            found[key] = (_said(payload), payload.usage)
        elif isinstance(payload, ToolDone):
            call = payload.result.tool
            made = f"{call.name}({short(result_text(call.input))}) → {short(result_text(payload.result.content))}"
            found[key] = (made, payload.usage)
        elif isinstance(payload, RouteDone):
            found[key] = (shown(payload), payload.usage)
        elif key.startswith(f"{BODY}/") and isinstance(payload, (StepDone, ChildDone)):
            usage = payload.usage if isinstance(payload, (InferDone, ChildDone)) else NOTHING
            found[key] = (_gave(payload), usage)
    return found


def _gave(done: StepDone | ChildDone) -> str:
    if done.error is not None:
        return f"fails with {done.error.type}: {done.error.message}"
    return short(result_text(done.output if isinstance(done, ChildDone) else done.result))


def _order(was: list[str], now: list[str]) -> list[str]:
    """All places: in the order of now, and those that were there only before where they were."""
    order = list(now)
    for number, key in enumerate(was):
        if key not in now:
            order.insert(order.index(was[number - 1]) + 1 if number else 0, key)
    return order


def _said(done: InferenceDone) -> str:
    if done.stop is not None:
        return shown(done)
    parts = [one.text for one in done.messages if isinstance(one, TextMessage) and one.text]
    calls = [call for one in done.messages if isinstance(one, ToolCallMessage) for call in one.tools]
    parts += [f"{call.name}({short(result_text(call.input))})" for call in calls]
    return f"{done.agent}: {short(' '.join(parts), 400)}"


def _pair(was: tuple[str, Usage] | None, now: tuple[str, Usage] | None) -> tuple[str | None, str | None, Usage, Usage]:
    return (was[0] if was else None, now[0] if now else None, was[1] if was else NOTHING, now[1] if now else NOTHING)


_STEPS = (InferenceDone, ToolDone, RouteDone, StepDone, ChildDone)


class _Refused(NotForReal, NonRetriable):
    """Said to a function, which is not tried again then."""


class _Changes:
    """Stands in for what is another one now, and for tools that are not called for real."""

    def __init__(
        self,
        whole: Recording,
        prompt: str | Mapping[str, str] | None,
        tools: Sequence[str | Tool[..., Any, Any]],
        name: str | None,
        model: Model | None,
    ) -> None:
        self.refused: NotForReal | None = None
        self._model = model
        self._prompts = {name or "": prompt} if isinstance(prompt, str) else dict(prompt or {})
        self.real = {one if isinstance(one, str) else one.name for one in tools}
        self._new = {one.name: one for one in tools if isinstance(one, Tool)}
        self._turn = name
        self._done: dict[tuple[str, bytes], list[ToolDone]] = {}
        for run in whole.runs:
            for record in run.records:
                done = record.payload
                if isinstance(done, ToolDone) and done.outcome in ("ok", "error"):
                    call = done.result.tool
                    args = done.args if done.args is not None else call.input
                    self._done.setdefault((call.name, encode_json(plain(args))), []).append(done)

    def stand_in(self, running: Running) -> None:
        """Stand in for a run and the child runs that it begins."""
        running.env.instead = self
        running.env.doing = running.env.doing._replace(launch=self._launch)

    def _launch(
        self,
        env: Env,
        definition: Any,
        input: Any,
        options: Mapping[str, Any],
        place: tuple[Ledger, str, str],
        fallback: Model | None,
    ) -> Running:
        child = Running(definition, input, options, kernel=env.kernel, parent=place, fallback=fallback)
        self.stand_in(child)
        return child

    def agent(self, agent: AgentDefinition) -> AgentDefinition:
        """The agent with its other prompt and tools."""
        changed: dict[str, Any] = {}
        if agent.name in self._prompts:
            changed["system"] = self._prompts[agent.name]
        mine = {one.name for one in agent.tools if isinstance(one, Tool)}
        fresh = [one for name, one in self._new.items() if name not in mine and agent.name == self._turn]
        if fresh or mine & self._new.keys():
            changed["tools"] = [
                *(self._new.get(one.name, one) if isinstance(one, Tool) else one for one in agent.tools),
                *fresh,
            ]
        return agent.replace(**changed) if changed else agent

    def model(self, agent: AgentDefinition) -> Model | None:
        """The other model, if there is one."""
        return self._model

    async def tool(
        self, key: str, tool: Tool[..., Any, Any], call: ToolCall, args: dict[str, Any], ctx: Context[Any]
    ) -> ToolDone | None:
        """Answer a call from the recording, or let it be made."""
        if tool.name in self.real:
            return None
        done = self._done.get((tool.name, encode_json(plain(args))))
        if done:
            known = done.pop(0) if len(done) > 1 else done[0]
            handled = known.handled
            content = known.result.content if handled is None else handled.content
            outcome = known.outcome if handled is None else handled.outcome
            patch = known.patch if handled is None else handled.patch
            ctx.restore(Saved(patch, known.scheduled))
            result = ToolResultMessage(call, content)
            return ToolDone(ctx.agent.name, result, outcome, patch, known.scheduled, NOTHING)
        if tool.effect == "pure":
            return None
        self.refused = self.refused or NotForReal(
            f"At {key} the tool {tool.name!r} ({tool.effect}) would be called with {result_text(args)}, which was not "
            f"recorded. A call that has effects is made only if that is asked for: tools=[{tool.name!r}]; or give a "
            "tool of that name which has none."
        )
        raise self.refused


class _Guard:
    """Stands in for the steps of functions.

    Args:
        whole: the recording.
        before: the records that the run goes on behind.
        changes: what is called for real.
    """

    def __init__(self, whole: Recording, before: Sequence[Record], changes: _Changes) -> None:
        self._changes = changes
        self._kept = {(one.run_id, one.key) for one in before}
        self._inner = {(one.run_id, one.key): one.payload for run in whole.runs for one in run.records}

    async def asked(self, io: Any, key: str, closing: Any) -> None:
        """Answer a step of a function from the recording, if it was asked for with the same arguments."""
        place, done = (io.token.run_id, key), self._inner.get((io.token.run_id, key))
        if not key.startswith(f"{BODY}/") or place in self._kept or closing.name in self._changes.real:
            return
        same = isinstance(done, StepDone) and type(done) is type(closing) and done.arguments == closing.arguments
        if same and not isinstance(done, InferDone):  # models are asked
            self._kept.add(place)
            await io.keep(key, done)
        elif isinstance(closing, TransactionDone):
            self._refuse(key, closing.name, "transaction")

    async def entering(self, run_id: str, key: str, name: str, effect: str, mark: str) -> None:
        """Let a step of a function be called for real only if it does nothing, or that was asked for."""
        if key.startswith(f"{BODY}/") and effect != "pure" and name not in self._changes.real:
            self._refuse(key, name, effect)

    async def left(self, run_id: str, key: str) -> None:
        """Nothing is noted."""

    def model(self, run_id: str, key: str, model: Any) -> Any:
        """Whoever is asked answers."""
        return model

    def _refuse(self, key: str, name: str, effect: str) -> NoReturn:
        refused = self._changes.refused = self._changes.refused or _Refused(
            f"At {key} the step {name!r} ({effect}) would be done with other arguments than were recorded, or was not "
            f"recorded. A step that has effects is done only if that is asked for: tools=[{name!r}]."
        )
        raise refused
