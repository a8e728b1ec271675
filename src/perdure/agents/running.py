"""Puts a definition on a kernel: a run begins, is driven, and gives its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import structs

from perdure.agents.beginning import first_record, program_of, read_beginning
from perdure.agents.budget import UNLIMITED, Budget, Ledger
from perdure.agents.changed import judge, judge_definition
from perdure.agents.children import run_child
from perdure.agents.definition import Definition, NetworkDefinition
from perdure.agents.env import Env
from perdure.agents.hooks import Hooks
from perdure.agents.infer_step import infer_step
from perdure.agents.invoke import invoke
from perdure.agents.loading import loader
from perdure.agents.lost import lost_attempts, usage_of
from perdure.agents.outcome import RunResult
from perdure.agents.result import AgentResult
from perdure.agents.run_options import BOUNDED, check_options, check_prices
from perdure.agents.steps import Doing
from perdure.durable.drive import drive
from perdure.durable.endings import Parked
from perdure.durable.fingerprint import Verdict, has_changed
from perdure.durable.kernel import Kernel
from perdure.durable.patience import patiently
from perdure.durable.program import Program, Waiting
from perdure.durable.run_io import RunIO
from perdure.log.log import NewRun, RunRow, Token
from perdure.models.model import Model
from perdure.types.errors import DefinitionError
from perdure.types.events import AnyEvent, RunResumed, Sink
from perdure.types.ids import new_id
from perdure.types.messages import Message
from perdure.types.project import Projector
from perdure.types.records import Answered, Claimed, Forked, Record, RunStarted, RunStatus
from perdure.types.waits import Elapsed, WaitAnswer, late

if TYPE_CHECKING:
    from perdure.agents.env import RunLoop
    from perdure.agents.thread import Thread

Door: TypeAlias = Callable[[str, Mapping[str, WaitAnswer]], Awaitable[RunResult[Any, Any]]]
"""How waits of a run are answered where others may drive it."""

_NO_NOTES: Mapping[int, Sequence[AnyEvent]] = {}


class Running:
    """One run, from its beginning to its result.

    Attributes:
        thread: where its conversation is kept elsewhere, if it is.
        accepts: whether it goes on with changed code, because the run that has started it was accepted.
        count: counts what others have consumed under the same budgets, if there may be any.
        ends_at: when it has used its time, by the store's clock, as soon as that is known.
        gaps: how often this process had been silent before it asked for the run.

    Raises:
        DefinitionError: an option or the input is wrong.
        NeedsRuntime: something was asked for that needs a place to last.
    """

    __slots__ = (
        "accepts",
        "began",
        "count",
        "definition",
        "door",
        "ends_at",
        "env",
        "gaps",
        "io",
        "loop",
        "notes",
        "program",
        "resumed",
        "session_ledger",
        "sink",
        "started",
        "thread",
        "waiting",
    )

    def __init__(
        self,
        definition: Definition,
        input: Any,
        options: Mapping[str, Any],
        *,
        kernel: Kernel | None = None,
        hooks: tuple[Hooks, ...] = (),
        parent: tuple[Ledger, str, str] | None = None,
        sink: Sink | None = None,
        fallback: Model | None = None,
    ) -> None:
        history = definition.history if parent is None else None
        if options:
            check_options(options, kernel, history)
        network = definition if isinstance(definition, NetworkDefinition) else None
        lasts = history is not None or (kernel is not None and kernel.durable)
        beginning = read_beginning(definition, input, options, lasts=lasts)
        results, thread_id = beginning.results, beginning.thread_id
        run_id: str | None = None
        session_id: str | None = None
        budget: Budget | None = None
        if options:
            run_id, session_id, budget = options.get("run_id"), options.get("session_id"), options.get("budget")
        if run_id is None:
            run_id = new_id("run")
        # a session of the run's own follows from the run, so that the same run is in the same session
        session_id = session_id or thread_id or f"session_{run_id.removeprefix('run_')}"
        of_session: Budget | None = options.get("session_budget") if options else None
        above = parent[0] if parent is not None else UNLIMITED
        self.session_ledger = Ledger(of_session) if of_session is not None else None
        env = Env(
            kernel=kernel or Kernel(),
            definition=definition,
            kind=beginning.kind,
            hooks=(*hooks, *network.hooks) if network is not None else hooks,
            ledger=_ledger(budget, self.session_ledger or above),
            run_id=run_id,
            session_id=session_id,
            options={**options, "results": results} if results else options,
            doing=DOING,
        )
        env.fallback = fallback
        env.thread_id = thread_id
        env.turn_prompt = beginning.turn_prompt
        if options and env.ledger.counts_cost:
            check_prices(env)
        self.definition = definition
        self.env = env
        self.sink = sink
        self.program: Program[Any] = program_of(definition, env, beginning)
        self.loop: RunLoop = self.program.start()
        env.loop = self.loop
        self.io: RunIO | None = None
        self.began = 0.0
        self.ends_at: float | None = None
        self.count: Callable[[], Awaitable[None]] | None = None
        self.gaps = kernel.lease.gaps if kernel is not None and kernel.lease is not None else 0
        self.waiting: Waiting | None = None
        self.resumed: asyncio.Future[None] | None = None
        self.door: Door | None = None
        self.notes: Mapping[int, Sequence[AnyEvent]] = _NO_NOTES
        self.started = first_record(definition, env, beginning, parent, kernel)
        self.accepts = False
        self.thread: Thread | None = None
        if history is not None:
            from perdure.agents.thread import Thread

            self.thread = Thread(history, named=bool(thread_id or options.get("session_id")))
            env.thread_id = env.session_id

    def bounded(self) -> None:
        """Note that budgets of runs above it bound this one, also when another process drives it."""
        self.started = structs.replace(self.started, options={**self.started.options, BOUNDED: True})

    async def drive(self) -> RunResult[Any, Any]:
        """Drive the run until it is finished or waits, and give what it has reached; failures are in the status.

        Raises:
            asyncio.CancelledError: the calling task was cancelled; the run is closed before.
        """
        kernel = self.env.kernel
        if self.thread is not None:
            await self.thread.name(self)
        if kernel.durable:
            accepted = await patiently(kernel.clock, lambda: kernel.log.accept(self.new_run(), self.started))
        else:
            accepted = await kernel.log.accept(self.new_run(), self.started)  # memory is always there
        if accepted.token is not None:
            return await self.begin(accepted.token, accepted.head)
        return await self._again(accepted.run)

    async def _again(self, run: RunRow) -> RunResult[Any, Any]:
        """Go on with a child that the log knows from before a crash: whoever has its parent has it too."""
        log, clock = self.env.kernel.log, self.env.kernel.clock

        async def claim() -> tuple[Token, int] | None:
            owner = (await log.run(run.id)).owner  # perhaps this process's, by a claim whose outcome was unknown
            return await log.claim(run.id, dead=[owner] if owner is not None else [])

        claimed = await patiently(clock, claim)
        records = await patiently(clock, lambda: log.read_run(run.id))
        self.recall(records)
        if claimed is None:
            return self.result()  # it has ended
        token, head = claimed
        why = judge_definition(self.definition, self.started)
        verdict = await judge(self.env, self.loop, records, accepts=self.accepts) if not why else Verdict(needed=(why,))
        if verdict.needed:
            raise Parked(has_changed(*verdict.needed))
        self.ends_at = run.ends_at
        note = Claimed(token.epoch, run.status == "running", False, "", verdict.differences, verdict.prints)
        return await self.take_up(token, head, records, note)

    def new_run(self, input_hash: str = "") -> NewRun:
        """The run as a log takes it in."""
        env, started = self.env, self.started
        return NewRun(
            env.run_id,
            env.session_id,
            self.definition.name,
            input_hash,
            env.user_id,
            started.parent,
            started.parent_key,
        )

    def begin(
        self, token: Token, head: int, earlier: Sequence[Message] = ()
    ) -> Coroutine[Any, Any, RunResult[Any, Any]]:
        """Drive a run that was accepted and whose turn it is."""
        io = self.io = RunIO(self.env.kernel, token, self.sink, head, self.gaps)
        io.count = self.count
        io.below = self.started.parent is not None
        if self.env.options:
            self.began = io.kernel.clock.now()
            self._limit(io)
        self.loop.earlier = earlier
        record = io.record(None, self.started)
        self.loop.fold(record)
        if io.projector is not None:
            io.emit(io.projector.record(record))
        return self._go_on(io)

    def recall(self, records: Sequence[Record], earlier: Sequence[Message] = ()) -> None:
        """Fold what the log has of this run, without driving it; records of others are passed over."""
        if self.loop.started is not None:  # what was folded before another owner went on does not count
            self.loop = self.env.loop = self.program.start()
        self.loop.earlier = earlier
        told: dict[int, Sequence[AnyEvent]] = {}
        self.notes = told
        for record in records:
            if record.run_id == self.env.run_id:
                if isinstance(record.payload, RunStarted):
                    self.started = record.payload
                notes = self.loop.fold(record)
                if notes:
                    told[record.seq] = notes
                used = usage_of(record.payload)
                if used is not None:
                    self.env.ledger.charge(used)

    def shown(self, record: Record, projector: Projector) -> list[AnyEvent]:
        """Show a recalled record as it was shown when it was made."""
        return [*projector.record(record), *self.notes.get(record.seq, ())]

    async def take_up(
        self, token: Token, head: int, records: Sequence[Record], claimed: Claimed | None = None
    ) -> RunResult[Any, Any]:
        """Drive a recalled run on; `claimed` is the note of a new owner, if somebody had it before."""
        io = self.io = RunIO(self.env.kernel, token, self.sink, head, self.gaps)
        io.count = self.count
        io.below = self.started.parent is not None
        io.tried.recall(records, accepts=self.accepts)
        if io.waits is not None:
            io.waits.recall(records)
        self.began = max(
            (one.created_at for one in records if type(one.payload) is Forked), default=records[0].created_at
        )
        self._limit(io)
        if io.projector is not None:
            for record in records:
                io.emit(self.shown(record, io.projector))
        if claimed is not None:
            self.loop.fold(io.hold(None, claimed))
            if claimed.died:
                io.died = True
                for lost in lost_attempts(self.env, self.loop, io):
                    self.loop.fold(io.hold(None, lost))
                    self.env.ledger.charge(lost.usage)
        return await self._go_on(io)

    def leave(self) -> None:
        """Stop driving without ending: the log stays as it is, also that of child runs."""
        for child in self.env.children.values():
            child.leave()
        if self.io is not None:
            self.io.leave()

    async def resume(self, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]:
        """Answer waits and drive on; raises as `run` does."""
        from perdure.agents.outcome import raise_for

        if self.door is not None:
            return await self.door(self.env.run_id, answers)
        result = await self.answer({**answers, **self._elapsed(answers)})
        raise_for(result, self.definition.name, self.cause, self.loop.error)
        return result

    def _elapsed(self, answers: Mapping[str, WaitAnswer]) -> dict[str, WaitAnswer]:
        """End the waits whose time has come: in memory nobody else does.

        Raises:
            Conflict: one of these was answered too late.
        """
        now = self.env.kernel.clock.now()
        waits = self.waiting.waits if self.waiting is not None else ()
        over = {wait.id: wait for wait in waits if wait.expires is not None and wait.expires <= now}
        for id in answers:
            if id in over:
                raise late(id, Elapsed(), over[id].expires or now)
        return {id: Elapsed() for id in over}

    async def answer(self, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]:
        """Post answers and drive on."""
        io = self.io
        if io is None or self.waiting is None:
            raise DefinitionError(f"Run {self.env.run_id} does not wait.")
        self.waiting = None
        over = self.resumed = asyncio.get_running_loop().create_future()
        try:
            for id, answer in answers.items():
                record = io.hold(None, Answered(id, answer))
                self.loop.fold(record)
                if io.projector is not None:
                    io.emit(io.projector.record(record))
            await io.flush("running")
            if self.env.options:
                self._limit(io)
            io.emit([RunResumed(run_id=io.token.run_id, session_id=io.token.session_id, seq=io.seq)])
            return await self._go_on(io)
        finally:
            self.resumed = None
            over.set_result(None)

    async def cancel(self) -> None:
        """Close a run that waits, or that was answered and goes on; returns when it is closed."""
        io = self.io
        if io is None:
            return
        for child in self.env.children.values():
            if child.waiting is not None:
                await child.cancel()
        io.ask_stop("cancelled")
        if self.resumed is not None:
            await asyncio.wait([self.resumed])
        elif self.waiting is not None:
            await self.answer({})

    @property
    def status(self) -> RunStatus:
        """Where the run is, when it has been driven until it ended or waited."""
        finished = self.loop.finished
        return finished.status if finished is not None else "waiting" if self.waiting is not None else "running"

    @property
    def given(self) -> int:
        """How many messages of the conversation were there before this run."""
        imported = getattr(self.loop, "imported", ())
        return len(self.loop.earlier) + len(self.started.history) + len(imported)

    @property
    def earlier_results(self) -> tuple[AgentResult, ...]:
        """What agents had done before, as it was given with the state."""
        return tuple(self.env.earlier_results())

    @property
    def thread_id(self) -> str | None:
        """The thread that the state named."""
        return self.env.thread_id

    @property
    def cause(self) -> BaseException | None:
        """The exception that ended the run, if one did."""
        return self.io.cause if self.io is not None else None

    async def _go_on(self, io: RunIO) -> RunResult[Any, Any]:
        try:
            end = await drive(self.program, self.loop, io)
        finally:
            if self.env.acquired:
                await self.env.release()
        self.waiting = end if isinstance(end, Waiting) else None
        return self.result()

    def _limit(self, io: RunIO) -> None:
        options = self.env.options
        deadline: float | None = options.get("deadline")
        budget: Budget | None = options.get("budget")
        seconds = budget.seconds if budget is not None else None
        if deadline is None and seconds is None:
            return
        if seconds is not None and (deadline is None or seconds <= deadline):
            most, reason, detail = seconds, "budget", f"{seconds:g} of {seconds:g} seconds are used"
        else:
            most, reason, detail = deadline or 0.0, "deadline", f"after {deadline:g} s"
        now = io.kernel.store_now()
        if self.ends_at is None:  # what went by before a wait or a crash counts
            self.ends_at = now + most - max(0.0, io.kernel.clock.now() - self.began)
        io.ends_at = self.ends_at
        if self.ends_at <= now:
            io.ask_stop(reason, detail)
        else:
            io.stop_at(asyncio.get_running_loop().time() + self.ends_at - now, reason, detail)

    def result(self) -> RunResult[Any, Any]:
        """What the run has reached; made anew each time, so that run and result do not hold each other."""
        env, loop = self.env, self.loop
        said: tuple[Message, ...] = tuple(loop.transcript)
        for turn in loop.current:
            said = (*said, *turn.said)
        finished, waiting = loop.finished, self.waiting
        return RunResult(
            status=finished.status if finished is not None else "waiting",
            stop_reason=finished.stop_reason if finished is not None else None,
            stop_detail=loop.stop_detail or (loop.agent.detail if loop.agent is not None else ""),
            output=finished.output if finished is not None else None,
            load=loader(self.definition, finished.has_output, finished.stop_reason) if finished is not None else None,
            messages=said,
            results=loop.results,
            data=partial(env.kind.load, loop.doc),
            usage=finished.usage if finished is not None else loop.total_usage,
            waits=waiting.waits if waiting is not None else (),
            run_id=env.run_id,
            session_id=env.session_id,
            user_id=env.user_id,
            running=self,
        )


def _ledger(budget: Budget | None, above: Ledger) -> Ledger:
    return above if budget is None else Ledger(budget, above)


def _launch(
    env: Env,
    definition: Any,
    input: Any,
    options: Mapping[str, Any],
    place: tuple[Ledger, str, str],
    fallback: Model | None,
) -> Running:
    """Make a child run on the same kernel, with the hooks of the runtime; a network's are for its own agents."""
    hooks = env.hooks if env.network is None else env.hooks[: len(env.hooks) - len(env.network.hooks)]
    return Running(definition, input, options, kernel=env.kernel, hooks=hooks, parent=place, fallback=fallback)


DOING = Doing(_launch, run_child, invoke, infer_step)
