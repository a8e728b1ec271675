"""Follows one recorded run record by record: each decision is made again by the run's own code, and compared.

The state is always the fold of the recorded records, so what differs is found where it begins. Steps are begun when the
state allows them, as they were, and end when the recording comes to the record that closes them: what a model or a tool
gave is handed out then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, cast

from perdure.agents.agent_loop import AgentLoop, Doubt
from perdure.agents.budget import UNLIMITED, Ledger
from perdure.agents.context import Context, Saved
from perdure.agents.definition import AgentDefinition
from perdure.agents.env import Env
from perdure.agents.history_loop import ASKING
from perdure.agents.invoke import invoke
from perdure.agents.outcome import RunResult
from perdure.agents.output import ANSWER_TOOL
from perdure.agents.rebuild import prompt_of
from perdure.agents.running import Running
from perdure.agents.steps import Invocation
from perdure.agents.tool import Tool
from perdure.agents.toolsets import Toolset
from perdure.durable.endings import Parked, describe
from perdure.durable.program import Action, Do, Finish, Keep, Waiting
from perdure.durable.run_io import RunIO
from perdure.durable.step import Body
from perdure.log.log import Token
from perdure.models.model import Model, ModelRequest, ToolSpec
from perdure.testing.compare import Difference, alike, compare, compare_prompt, shown
from perdure.testing.inside import EntryIO, Failed, Inside, invoking
from perdure.testing.recordings import RecordedRun, Recording
from perdure.testing.stage import (
    BEFORE,
    CUT_OFF,
    Answers,
    Differs,
    Listed,
    RecordedModel,
    Step,
    Steps,
    Then,
    Waits,
    crew,
    current,
    decides,
    differ,
    end_step,
    error_of,
    failure,
    inner_name,
    kernel_for,
    limited,
    pieces,
    place_of,
    refused,
    specs,
    told,
)
from perdure.types.base import plain
from perdure.types.chunks import ModelEvent
from perdure.types.messages import (
    TextMessage,
    ToolCall,
    ToolResultMessage,
    result_text,
)
from perdure.types.records import (
    Answered,
    AttemptFailed,
    CancelAsked,
    Claimed,
    Forked,
    InferenceDone,
    Payload,
    Record,
    RouteDone,
    RunFinished,
    StepFailed,
    ToolDone,
)
from perdure.types.waits import WaitAnswer


class Retrace:
    """Follows one run, and stands in for its models and tools.

    Args:
        whole: the recording.
        run: the run's part of it.
        running: the run's live side, on a kernel in memory.
        patience: seconds that a step's own code may take.
    """

    def __init__(self, whole: Recording, run: RecordedRun, running: Running, patience: float) -> None:
        self.whole = whole
        self.run = run
        self.running = running
        self.patience = patience
        self.steps = 0
        self.waiting: Waiting | None = None
        self._at = 0
        self._io: RunIO | None = None
        self._token: Token | None = None
        self._open: dict[str, Step | None] = {}
        inferences = [one.payload for one in run.records if isinstance(one.payload, InferenceDone)]
        self._texts = {hash: text for one in inferences for hash, text in one.texts.items()}
        self._children: dict[str, Retraced] = {}
        env = running.env
        self.inside = env.kernel.witness = Inside(whole, run, env, patience, self._invoked)
        if whole.durable:
            env.kernel.peers = self.inside
        env.instead = self
        env.doing = env.doing._replace(launch=self._launch, invoke=self._invoke)
        if any(isinstance(one.payload, RouteDone) and one.payload.ask is not None for one in run.records):
            env.model = RecordedModel(self, by_tool=False)  # who routes by default is asked only where there is a model
        env.kernel.clock = then = Then(self)
        env.kernel.store_now = then.now
        loop = cast("Any", running.loop)  # whatever the program, these are what its bodies ask
        loop.steps = Steps(self)
        loop.answers = Answers(self)
        loop.waits = Waits(self)

    @property
    def now(self) -> float:
        """When the last record was made that was followed."""
        return self.run.records[max(0, self._at - 1)].created_at

    # -- following ---------------------------------------------------------------------------------------------------

    async def to_the_end(self) -> Difference | None:
        """Follow the run as far as it was recorded, whatever it waited for in between, and the runs it has invoked."""
        difference = None
        while difference is None and self._at < len(self.run.records):
            difference = await self.go_on()
        for child in self._children.values() if difference is None else ():
            retrace = child.retrace
            difference = difference or await retrace.to_the_end()
            self.steps += retrace.steps
            retrace.steps = 0
        return difference

    async def go_on(self, answered: Collection[str] | None = None) -> Difference | None:
        """Follow the run until it waits or ends.

        Args:
            answered: which of its waits are answered now; all that the recording has next, unless given.

        Returns:
            The first difference, if there is one.
        """
        records = self.run.records
        if self._io is None:
            await self._begin()
        elif self.waiting is not None:
            await self._wake(answered)
        while self._at < len(records):
            record = records[self._at]
            if decides(record) and not self._cut_off(record):
                difference = await self._decide(record)
                if difference is not None:
                    return difference
                self.steps += 1
            elif self._waits():
                return None
            elif isinstance(record.payload, CancelAsked):
                await self._offer()  # whoever asked did so while these were under way
            try:
                await self._take(record)
            except Exception as error:  # whatever it is, the code as it is now has no place for what was recorded
                what = f"what was recorded has no place any more ({type(error).__name__}: {error})."
                return Difference(self.run.id, record.key or "", what, shown(record.payload))
        self._waits()
        return None

    async def _wake(self, answered: Collection[str] | None) -> None:
        """Take what came while the run waited, until it goes on."""
        records = self.run.records
        while self._at < len(records) and self._waits():
            payload = records[self._at].payload
            early = isinstance(payload, Answered) and answered is not None and payload.wait_id not in answered
            if early or decides(records[self._at]):
                return
            await self._take(records[self._at])

    def _waits(self) -> bool:
        loop = self.running.loop
        action = loop.next() if loop.started is not None and loop.finished is None else None
        self.waiting = action if isinstance(action, Waiting) else None
        return self.waiting is not None

    async def _begin(self) -> None:
        """Begin the run, or the one that it goes on from, whose id its steps had been given."""
        kernel, running, env = self.running.env.kernel, self.running, self.running.env
        forks = [one.payload for one in self.run.records[self._at :] if isinstance(one.payload, Forked)]
        env.run_id, env.session_id = (forks[0].origin, forks[0].base) if forks else (self.run.id, self.run.session_id)
        if self._token is None or self._token.run_id != env.run_id:
            self._token = (await kernel.log.accept(running.new_run(), running.started)).token
        assert self._token is not None
        self._io = self.inside.io = EntryIO(kernel, self._token)
        if self._at:
            self._io.tried.recall(self.run.records[: self._at])

    async def _take(self, record: Record) -> None:
        """Fold a record, and let whoever goes on begin anew."""
        self._at += 1
        if not self._overtaken(record):
            self.running.loop.fold(record)
        if isinstance(record.payload, (Claimed, Forked)):
            await self._drop()
            await self._begin()

    def _overtaken(self, record: Record) -> bool:
        """Whether a cancel was posted to an owner that was alive: it takes note of it by a record of its own."""
        if not isinstance(record.payload, CancelAsked):
            return False
        for later in self.run.records[self._at :]:
            if isinstance(later.payload, (CancelAsked, Claimed)):
                return isinstance(later.payload, CancelAsked)
        return False

    def _cut_off(self, record: Record) -> bool:
        """Whether a record is the end of a run that was cut off where its session was forked."""
        for before in reversed(self.run.records[: self._at]):
            if isinstance(before.payload, Forked):
                return isinstance(record.payload, RunFinished)
            if decides(before) or isinstance(before.payload, Claimed):
                return False
        return False

    async def close(self) -> None:
        """End what is still under way."""
        await self._drop()
        for child in self._children.values():
            await child.retrace.close()

    async def _drop(self) -> None:
        tasks = [one.task for one in self._open.values() if one is not None and one.task is not None]
        self._open.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # nobody asks for it any more

    # -- deciding ----------------------------------------------------------------------------------------------------

    async def _offer(self) -> Action:
        """Ask what is next, and begin the steps that may be begun."""
        loop = self.running.loop
        action = loop.next()
        fresh: list[Step] = []
        dos = [action] if isinstance(action, Do) else action if isinstance(action, Sequence) else ()
        for do in dos:
            if do.key not in self._open:
                closing = self._closing(do.key)
                since = self._since()
                step = self._open[do.key] = Step(self, do, closing, since) if closing is not None else None
                if step is not None and not isinstance(do.what, (Doubt, *ASKING)) and not refused(step.closing.payload):
                    step.task = asyncio.create_task(self._perform(step), name=do.key)
                    crew.get().ours.add(step.task)
                    fresh.append(step)
        for step in fresh:  # each asks what it asks before any of them has an end
            await self._reach(step)
        return action

    def _since(self) -> int:
        """Where what begins now can have begun: behind the last decision, or what else lets a run go on."""
        for record in reversed(self.run.records[: self._at]):
            if decides(record) or isinstance(record.payload, (Claimed, Forked, Answered)):
                return record.seq
        return 0

    async def _reach(self, step: Step) -> None:
        """Wait until a step has come to its model or tool, or has ended."""
        assert step.task is not None
        reached = asyncio.create_task(step.reached.wait())
        crew.get().ours.add(reached)
        await asyncio.wait((step.task, reached), timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()

    def _closing(self, key: str) -> Record | None:
        """The record that closes a step which begins now; None if its owner did not come to its end."""
        for record in self.run.records[self._at :]:
            if isinstance(record.payload, (Claimed, Forked)):
                return None
            if decides(record) and place_of(record) == key:
                return record
        return None

    async def _perform(self, step: Step) -> Payload | Keep:
        current.set(step)
        return await self.running.program.perform(self.running.loop, step.do, cast("RunIO", self._io))

    async def _decide(self, record: Record) -> Difference | None:
        payload, key, run_id = record.payload, record.key or "", self.run.id
        action = await self._offer()
        if isinstance(payload, RunFinished):
            if isinstance(action, Finish):
                return compare(run_id, "", payload, action.payload)
            return Difference(run_id, "", "the run goes on.", shown(payload), told(action))
        kept = action.payload if isinstance(action, Keep) and action.key == key else None
        difference = compare(run_id, key, payload, kept) if kept is not None else None
        if kept is not None and difference is None:
            step = self._open.pop(key, None)
            await end_step(step)
            return None
        step = self._open.pop(place_of(record), None)
        if step is not None:
            return await self._resolve(step, record)
        if difference is not None:
            return difference
        return Difference(run_id, place_of(record), "the run does not come here.", shown(payload), told(action))

    async def _resolve(self, step: Step, record: Record) -> Difference | None:
        """Let a step come to its end, and compare that with how it had ended."""
        payload, key = record.payload, record.key or step.do.key
        task = step.task
        if task is None:  # it was in doubt, or a budget was spent: what was recorded of it is what is known
            return None
        if isinstance(payload, ToolDone) and error_of(payload) in CUT_OFF:
            await end_step(step)
            return step.difference
        if isinstance(payload, InferenceDone) and payload.interrupted:
            await end_step(step)
            if step.difference is None and not step.reached.is_set():
                return Difference(self.run.id, key, "the model is not asked any more.", shown(payload))
            return step.difference
        step.go.set()
        await asyncio.wait((task,), timeout=self.patience)
        if not task.done():
            await end_step(step)
            what = f"the step's own code has not come to an end within {self.patience:g} s."
            return Difference(self.run.id, key, what, shown(payload))
        return self._ended(step, record, task)

    def _ended(self, step: Step, record: Record, task: asyncio.Task[Payload | Keep]) -> Difference | None:
        payload, place = record.payload, step.do.key
        error = task.exception() if not task.cancelled() else asyncio.CancelledError()
        if step.difference is not None:
            return step.difference
        if isinstance(error, Parked):
            return Difference(self.run.id, record.key or place, "the code has changed.", shown(payload), str(error))
        if isinstance(error, Failed):
            now: Payload = error.payload
        elif error is not None:
            now = StepFailed(place, describe(error, place))
        else:
            result = task.result()
            now = result.payload if isinstance(result, Keep) else result
        difference = compare(self.run.id, record.key or place, payload, now)
        if difference is not None:
            failed = [shown(one).partition(" with ")[2] for one in (payload, now) if hasattr(one, "error")]
            otherwise = len(failed) == 2 and failed[0] == failed[1]  # it is what comes of the failure that differs
            return difference if otherwise else step.unknown or difference
        passed = step.asked | cast("RunIO", self._io).tried.accepted
        left = [one for one in self.inside.below(place, record.seq) if one.key not in passed]
        if left and self._entered(payload, step):
            known = left[0]
            what = "the code does not ask for a step any more that it had asked for."
            return Difference(self.run.id, known.key or place, what, inner_name(known.payload), "nothing")
        return None

    def _entered(self, payload: Payload, step: Step) -> bool:
        """Whether a step's own code was entered again, so that it had to ask for its inner steps."""
        return not isinstance(payload, (StepFailed, AttemptFailed)) and (
            not isinstance(payload, ToolDone) or bool(step.asked)
        )

    # -- standing in for models --------------------------------------------------------------------------------------

    def agent(self, agent: AgentDefinition) -> AgentDefinition:
        """The agent with tools that need nothing from outside."""
        held = any(isinstance(one, Toolset) and not one.local for one in agent.tools)
        if not held and not any(isinstance(one, Tool) and limited(one) for one in agent.tools):
            return agent
        return agent.replace(tools=[self._here(one) for one in agent.tools])

    def _here(self, one: Any) -> Any:
        if isinstance(one, Toolset):
            return cast("Any", one) if one.local else Listed(self)
        return one.replace(timeout=None, retries=0) if limited(one) else one

    def model(self, agent: AgentDefinition) -> Model:
        """The model that gives what was recorded."""
        return RecordedModel(self, by_tool=self._answers_by_tool(agent.name))

    def _answers_by_tool(self, name: str) -> bool:
        """Whether an agent gave its structured answers through a tool, for want of a better way."""
        for record in self.run.records:
            done = record.payload
            if isinstance(done, InferenceDone) and done.agent == name and done.prompt.tools is not None:
                return any(one.name == ANSWER_TOOL for one in specs(self._texts.get(done.prompt.tools)))
        return False

    def offered(self, key: str) -> list[ToolSpec]:
        """The tools that were offered to a model, at an inference or at one of its calls."""
        record = next((one for one in self.run.records if one.key == key.partition("/tool/")[0]), None)
        done = record.payload if record is not None else None
        if not isinstance(done, InferenceDone) or done.prompt.tools is None:
            return []
        return specs(self._texts.get(done.prompt.tools))

    async def asked(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Compare what a model is asked, and give what it had answered."""
        step = current.get()
        payload, key = step.closing.payload, step.do.key
        if isinstance(payload, StepFailed) and payload.reached:
            step.reached.set()
            await step.go.wait()
            raise failure(payload.error)
        if not isinstance(payload, InferenceDone) or payload.stop is not None:
            raise differ(step, Difference(self.run.id, key, "the model is asked.", shown(payload), "asks the model"))
        loop = cast("AgentLoop", step.do.what.loop)
        prompt = prompt_of(self.run.id, key, payload, (*loop.transcript, *loop.said), self._texts)
        if not payload.interrupted:  # of one that was cut off the prompt was not kept
            system = () if prompt.system is None else (TextMessage("system", prompt.system),)
            difference = compare_prompt(self.run.id, key, (*system, *prompt.messages), prompt.tools, request)
            if difference is not None and prompt.doubts:
                what = f"what the model was asked cannot be rebuilt: {'; '.join(prompt.doubts)}."
                difference = Difference(self.run.id, key, what)
            if difference is not None:
                raise differ(step, difference)
        step.reached.set()
        await step.go.wait()
        for piece in pieces(payload):
            yield piece

    # -- standing in for tools ---------------------------------------------------------------------------------------

    async def tool(
        self, key: str, tool: Tool[..., Any, Any], call: ToolCall, args: dict[str, Any], ctx: Context[Any]
    ) -> ToolDone | None:
        """Give what a tool had given; one whose effects are all in its steps is entered again."""
        step = current.get()
        payload = step.closing.payload
        by_hook = isinstance(payload, ToolDone) and payload.by_hook
        cut_off = isinstance(payload, ToolDone) and error_of(payload) in CUT_OFF
        step.reached.set()
        if tool.effect == "steps" and not by_hook and not cut_off:
            return None
        await step.go.wait()
        if isinstance(payload, StepFailed) and payload.reached:
            raise failure(payload.error)
        now = f"calls {tool.name}({result_text(args)})"
        if not isinstance(payload, ToolDone):
            what = "the tool would be called at once."
            raise differ(step, Difference(self.run.id, key, what, shown(payload), now))
        if payload.by_hook or payload.outcome in ("denied", "not_run") or error_of(payload) in BEFORE:
            what = "the tool would be called."
            raise differ(step, Difference(self.run.id, key, what, shown(payload), now))
        before = payload.args if payload.args is not None else call.input
        if not alike(plain(before), plain(args)):
            what = "the tool would be called with other arguments."
            recorded = f"calls {tool.name}({result_text(before)})"
            raise differ(step, Difference(self.run.id, key, what, recorded, now))
        handled = payload.handled
        content = payload.result.content if handled is None else handled.content
        outcome = payload.outcome if handled is None else handled.outcome
        patch = payload.patch if handled is None else handled.patch
        ctx.restore(Saved(patch, payload.scheduled))
        result = ToolResultMessage(call, content)
        return ToolDone(payload.agent, result, outcome, patch, payload.scheduled, payload.usage)

    # -- child runs --------------------------------------------------------------------------------------------------

    def _launch(
        self,
        env: Env,
        definition: Any,
        input: Any,
        options: Mapping[str, Any],
        place: tuple[Ledger, str, str],
        fallback: Model | None,
    ) -> Running:
        step = current.get()
        key = place[2]
        run_id = options["run_id"]
        found = self.inside.child(key, run_id)
        if found is None:
            there = [f"{one.definition!r}" for one in self.whole.runs if one.parent == self.run.id]
            what = "the code runs a child that was not recorded."
            now = f"{definition.name!r} with {result_text(plain(input)) if isinstance(input, str) else 'its input'}"
            raise differ(step, Difference(self.run.id, key, what, ", ".join(there) or "no child run", now))
        own = {name: value for name, value in options.items() if name != "budget"}
        own |= {"run_id": found.id}
        return self._follow(found, key, definition, input, own)

    def _follow(
        self, found: RecordedRun, key: str, definition: Any, input: Any, options: Mapping[str, Any]
    ) -> Retraced:
        """Make the live side of a child run that was recorded, to be followed."""
        env = self.running.env
        hooks = env.hooks if env.network is None else env.hooks[: len(env.hooks) - len(env.network.hooks)]
        kernel, parent = kernel_for(self.whole), (UNLIMITED, env.run_id, key)
        child = Retraced(definition, input, options, kernel=kernel, hooks=hooks, parent=parent)
        child.follow(Retrace(self.whole, found, child, self.patience), self)
        self._children[found.id] = child
        difference = _begun(found, child, key)
        if difference is not None:
            raise differ(current.get(), difference)
        child.started = found.started
        return child

    async def _invoke(self, env: Env, ctx: Context[Any], body: Body, what: Invocation) -> Any:
        invoking.set(what)
        return await invoke(env, ctx, body, what)

    def _invoked(self, key: str, what: Invocation, found: RecordedRun) -> None:
        """Begin to follow a run that a step has invoked."""
        if found.id not in self._children:
            env = self.running.env
            given = {"resources": env.resources, "model": env.model, "settings": env.settings, "user_id": env.user_id}
            options = {name: value for name, value in {**given, **what.options}.items() if value is not None}
            self._follow(found, key, what.definition, what.data, {**options, "run_id": found.id})

    def child_differs(self, step: Step, difference: Difference) -> Differs:
        """End a step because a child run of it goes another way."""
        return differ(step, difference)


def _begun(found: RecordedRun, child: Running, key: str) -> Difference | None:
    before, now = found.started, child.started
    if not alike(plain(before.input), plain(now.input)):
        what = "the child run is given something else."
        return Difference(found.id, key, what, result_text(plain(before.input)), result_text(plain(now.input)))
    if not alike(plain(before.messages), plain(now.messages)) or before.definition != now.definition:
        what = "the child run is begun with something else."
        told = [f"{one.definition!r}: {result_text(plain(one.messages))}" for one in (before, now)]
        return Difference(found.id, key, what, *told)
    if not alike(plain(before.state), plain(now.state)):
        what = "the child run begins with another state."
        return Difference(found.id, key, what, result_text(plain(before.state)), result_text(plain(now.state)))
    return None


class Retraced(Running):
    """A child run that is followed instead of driven."""

    __slots__ = ("_above", "retrace")

    def follow(self, retrace: Retrace, above: Retrace) -> None:
        """Say what it is followed by."""
        self.retrace = retrace
        self._above = above

    async def drive(self) -> RunResult[Any, Any]:
        """Follow it until it waits or has ended."""
        return await self._follow(())

    async def answer(self, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]:
        """Follow it on; how it was answered is in its records."""
        return await self._follow(answers) if answers else self.result()

    async def _follow(self, answered: Collection[str]) -> RunResult[Any, Any]:
        difference = await self.retrace.go_on(answered)
        if difference is not None:
            raise self._above.child_differs(current.get(), difference)
        self._above.steps += self.retrace.steps
        self.retrace.steps = 0
        self.waiting = self.retrace.waiting
        return self.result()
