"""Puts a definition on a kernel: a run begins, is driven, and gives its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, cast

import msgspec

from perdure.agents.budget import UNLIMITED, Budget, Ledger
from perdure.agents.checks import check_kind, check_limit, check_model, check_settings
from perdure.agents.children import run_child
from perdure.agents.definition import AgentDefinition, NetworkDefinition, check_router
from perdure.agents.env import Env
from perdure.agents.hooks import Hooks
from perdure.agents.lost import lost_attempts, usage_of
from perdure.agents.network_loop import NetworkLoop, RunRules
from perdure.agents.outcome import RunResult
from perdure.agents.program import AgentsProgram
from perdure.agents.result import AgentResult
from perdure.agents.state import State
from perdure.agents.state_kind import StateKind
from perdure.durable.drive import RunIO, drive
from perdure.durable.kernel import Kernel
from perdure.durable.patience import patiently
from perdure.durable.program import Waiting
from perdure.log.log import NewRun, RunRow, Token
from perdure.models.model import ModelSettings
from perdure.types.base import encode_json, plain
from perdure.types.errors import DefinitionError, NeedsRuntime
from perdure.types.events import AnyEvent, RunResumed, Sink
from perdure.types.ids import check_id, new_id
from perdure.types.messages import Input, Message, read_input
from perdure.types.project import Projector
from perdure.types.records import (
    Answered,
    Claimed,
    Record,
    RunStarted,
    RunStatus,
)
from perdure.types.usage import Usage
from perdure.types.waits import WaitAnswer

OPTIONS = frozenset(
    (
        "state",
        "messages",
        "session_id",
        "user_id",
        "run_id",
        "session_budget",
        "model",
        "settings",
        "resources",
        "budget",
        "deadline",
        "on_busy",
        "max_iter",
        "tool_choice",
        "router",
    )
)
DICT_KIND: StateKind[Any] = StateKind.of(dict)
_NO_NOTES: Mapping[int, Sequence[AnyEvent]] = {}


class Running:
    """One run, from its beginning to its result.

    Args:
        definition: the agent or network.
        input: what the user said.
        options: the run's options, checked here.
        kernel: where it lives; an own one in memory unless given.
        hooks: those of the runtime.
        parent: the run that started this one: its ledger, id and the place in it.

    Raises:
        DefinitionError: an option or the input is wrong.
        NeedsRuntime: something was asked for that needs a place to last.
    """

    __slots__ = (
        "began",
        "definition",
        "env",
        "io",
        "loop",
        "notes",
        "program",
        "resumed",
        "session_ledger",
        "sink",
        "started",
        "waiting",
    )

    def __init__(
        self,
        definition: AgentDefinition | NetworkDefinition,
        input: Input,
        options: Mapping[str, Any],
        *,
        kernel: Kernel | None = None,
        hooks: tuple[Hooks, ...] = (),
        parent: tuple[Ledger, str, str] | None = None,
        sink: Sink | None = None,
    ) -> None:
        if options:
            _check_options(options, kernel)
        network = definition if isinstance(definition, NetworkDefinition) else None
        messages, turn_prompt = read_input(input)
        kind, doc, history, results, thread_id = _read_state(definition, options)
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
            kind=kind,
            hooks=(*hooks, *network.hooks) if network is not None else hooks,
            ledger=_ledger(budget, self.session_ledger or above),
            run_id=run_id,
            session_id=session_id,
            options={**options, "results": results} if results else options,
            launch=_launch,
            run_child=run_child,
        )
        env.thread_id = thread_id
        env.turn_prompt = turn_prompt
        if options and env.ledger.counts_cost:
            _check_prices(env)
        rules = RunRules(
            None if network is not None else definition.name,
            options.get("max_iter", network.max_iter) if network is not None else None,
            env.roster,
            kind.reducers,
        )
        self.definition = definition
        self.env = env
        self.sink = sink
        self.program = AgentsProgram(env, rules)
        self.loop: NetworkLoop = self.program.start()
        env.loop = self.loop
        self.io: RunIO | None = None
        self.began = 0.0
        self.waiting: Waiting | None = None
        self.resumed: asyncio.Future[None] | None = None
        self.notes: Mapping[int, Sequence[AnyEvent]] = _NO_NOTES
        self.started = RunStarted(
            definition.name,
            "agent" if network is None else "network",
            messages,
            history,
            turn_prompt,
            doc,
            _kept(options, kind if network is None else DICT_KIND) if options else {},
            env.user_id,
            parent[1] if parent is not None else None,
            parent[2] if parent is not None else None,
        )

    async def drive(self) -> RunResult[Any, Any]:
        """Drive the run until it is finished or waits, and give what it has reached; failures are in the status.

        Raises:
            asyncio.CancelledError: the calling task was cancelled; the run is closed before.
        """
        kernel = self.env.kernel
        accepted = await patiently(kernel.clock, lambda: kernel.log.accept(self.new_run(), self.started))
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
        return await self.take_up(token, head, records, Claimed(token.epoch, run.status == "running"))

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

    def begin(self, token: Token, head: int, earlier: Sequence[Message] = ()) -> Awaitable[RunResult[Any, Any]]:
        """Drive a run that was accepted and whose turn it is.

        Args:
            token: proof of owning the run.
            head: the sequence number of the session's last record.
            earlier: the session's conversation before this turn.
        """
        io = self.io = RunIO(self.env.kernel, token, self.sink, head)
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
        """Fold what the log has of this run, without driving it.

        Args:
            records: the run's records, in order; others are passed over.
            earlier: the session's conversation before this turn.
        """
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
        """Drive a recalled run on.

        Args:
            token: proof of owning the run.
            head: the sequence number of the session's last record.
            records: what was recalled.
            claimed: the note of a new owner, if somebody had it before.
        """
        io = self.io = RunIO(self.env.kernel, token, self.sink, head)
        io.tried.recall(records)
        self.began = records[0].created_at
        self._limit(io)
        if io.projector is not None:
            for record in records:
                io.emit(self.shown(record, io.projector))
        if claimed is not None:
            self.loop.fold(io.hold(None, claimed))
            if claimed.died:
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

        result = await self.answer(answers)
        raise_for(result, self.definition.name, self.cause, self.loop.error)
        return result

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
        return len(self.loop.earlier) + len(self.started.history)

    @property
    def earlier_results(self) -> tuple[AgentResult, ...]:
        """What agents had done before, as it was given with the state."""
        return self.env.options.get("results", ())

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
        now = asyncio.get_running_loop().time()
        now -= max(0.0, io.kernel.clock.now() - self.began)  # what went by before a wait or a crash counts
        if seconds is not None and (deadline is None or seconds <= deadline):
            io.stop_at(now + seconds, "budget", f"{seconds:g} of {seconds:g} seconds are used")
        elif deadline is not None:
            io.stop_at(now + deadline, "deadline", f"after {deadline:g} s")

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
            load=_loader(self.definition, finished.has_output, finished.stop_reason) if finished is not None else None,
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
    env: Env, definition: Any, input: Any, options: Mapping[str, Any], place: tuple[Ledger, str, str]
) -> Running:
    """Make a child run on the same kernel."""
    return Running(definition, input, options, kernel=env.kernel, parent=place)


def _loader(definition: AgentDefinition | NetworkDefinition, has_output: bool, stop_reason: str) -> Any:
    """How the kept output becomes the object that the user gets; None if it is what is kept."""
    if definition.output_type is str:
        return _as_text if has_output else None
    from perdure.agents.output import Output
    from perdure.types.errors import ModelRetry, OutputInvalid

    def load(value: Any) -> Any:
        try:
            output: Any = definition.cached("output", lambda: Output(definition.output_type))
            if has_output:
                return output.load(value)
            return output.load(output.check_text(value))
        except (ModelRetry, ValueError) as error:
            raise OutputInvalid(
                f"{definition!r} ended ({stop_reason}) without an answer of its output type; .text has what was said."
            ) from error

    return load


def _as_text(value: Any) -> str:
    return encode_json(value).decode()


def _kept(options: Mapping[str, Any], kind: StateKind[Any]) -> dict[str, Any]:
    """What of the options outlasts this process."""
    kept = {name: options[name] for name in ("max_iter", "tool_choice", "deadline") if name in options}
    if isinstance(options.get("model"), str):
        kept["model"] = options["model"]
    for name in ("budget", "session_budget", "settings"):
        if options.get(name) is not None:
            kept[name] = plain(options[name], name)
    if kind is not DICT_KIND and options.get("state") is not None:
        given: Any = options["state"]
        data: Any = given.__class__ if not isinstance(given, State) else cast("State[Any]", given).data.__class__
        kept["state_type"] = f"{data.__module__}:{data.__qualname__}"
    return kept


def read_kept(started: RunStarted) -> dict[str, Any]:
    """Read what was kept of a run's options.

    Raises:
        ImportError: the type of its state is not where it was.
        AttributeError: the same, inside its module.
    """
    options = dict(started.options)
    for name, kind in (("budget", Budget), ("session_budget", Budget), ("settings", ModelSettings)):
        if name in options:
            options[name] = msgspec.convert(options[name], kind, strict=False)
    if "state_type" in options:
        module, _, name = options.pop("state_type").partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        options["state"] = StateKind.of(found).load(started.state)
    return options


def _said_in(state: State[Any]) -> tuple[Message, ...]:
    """What was said according to a state: its messages, then what its results have beyond them.

    A state that a run has left holds what its results say among the messages too.
    """
    messages = state.messages
    beyond: list[Message] = []
    place = 0
    for result in state.results:
        found = place
        for one in result.messages:
            while found < len(messages) and messages[found] != one:
                found += 1
            found += 1
        if found <= len(messages):
            place = found
        else:
            beyond += result.messages
    return (*messages, *beyond)


def _read_state(
    definition: AgentDefinition | NetworkDefinition, options: Mapping[str, Any]
) -> tuple[StateKind[Any], Any, tuple[Message, ...], tuple[Any, ...], str | None]:
    """Work out what a run starts from: type and data of the state, history, earlier results, thread."""
    if not options and isinstance(definition, AgentDefinition):
        return DICT_KIND, {}, (), (), None
    given: Any = options.get("state") if options else None
    history: tuple[Message, ...] = tuple(options["messages"]) if options and options.get("messages") else ()
    results: tuple[Any, ...] = ()
    thread_id: str | None = None
    if isinstance(given, State):
        state = cast("State[Any]", given)
        if history and (state.messages or state.results):
            raise DefinitionError("messages= and a State with messages or results were given; give one of the two.")
        results = state.results
        history = history or _said_in(state)
        thread_id = state.thread_id
        given = state.data
        session_id = options.get("session_id")
        if session_id is not None and thread_id is not None and session_id != thread_id:
            raise DefinitionError(
                f"session_id={session_id!r} and State(thread_id={thread_id!r}) differ; they are two words for one id."
            )
        if thread_id is not None and not history:
            raise NeedsRuntime("Continuing a thread by its id", "give the State the messages or results so far")
    for one in history:
        if not hasattr(one, "role") and type(one).__name__ != "ReasoningMessage":
            raise DefinitionError(f"messages= holds a {type(one).__name__}; give messages, such as previous.messages.")
    if isinstance(definition, NetworkDefinition):
        kind: StateKind[Any] = definition.kind
    else:
        kind = DICT_KIND if given is None or type(given) is dict else StateKind.of(cast("type[Any]", type(given)))
    if given is None and kind is DICT_KIND:
        return kind, {}, history, results, thread_id
    doc = kind.check(kind.new() if given is None else given)
    return kind, doc, history, results, thread_id


def _check_options(options: Mapping[str, Any], kernel: Kernel | None) -> None:
    for name in options:
        if name not in OPTIONS:
            raise DefinitionError(f"There is no run option {name!r}. There are: {', '.join(sorted(OPTIONS))}.")
    durable = kernel is not None and kernel.durable
    if options.get("session_id") is not None and not durable and kernel is None:
        raise NeedsRuntime("session_id", "pass messages=previous.messages")
    for name in ("session_id", "run_id", "user_id"):
        if options.get(name) is not None:
            check_id(options[name], name)
    deadline = options.get("deadline")
    if deadline is not None and (type(deadline) not in (int, float) or not deadline > 0):
        raise DefinitionError(f"deadline={deadline!r} must be a number of seconds from now, above 0.")
    for name in ("budget", "session_budget"):
        if options.get(name) is not None and not isinstance(options[name], Budget):
            raise DefinitionError(f"{name}={options[name]!r} must be a Budget.")
    if options.get("session_budget") is not None:
        if not durable:
            raise NeedsRuntime("session_budget", "give budget= to each run")
        if options["session_budget"].seconds is not None:
            raise DefinitionError("session_budget=Budget(seconds=…): a session has no end; limit each run by budget=.")
    if options.get("on_busy", "queue") not in ("queue", "reject", "interrupt"):
        raise DefinitionError(f"on_busy={options['on_busy']!r} is unknown; it is 'queue', 'reject' or 'interrupt'.")
    if "max_iter" in options:
        check_limit(options["max_iter"], "run")
    if options.get("tool_choice") is not None:
        check_kind(options["tool_choice"], str, "tool_choice", "run")
    if not isinstance(options.get("resources") or (), (list, tuple)):
        raise DefinitionError(f"run: resources= takes a list of objects, not {options['resources']!r}.")
    check_model(options.get("model"), "run")
    check_settings(options.get("settings"), "run")
    check_router(options.get("router"), "run")


def _check_prices(env: Env) -> None:
    """Refuse a budget in dollars where a model's price is not known: it could not be kept to."""
    from perdure.models.call import price_of

    for agent in env.agents.values():
        model = env.model_for(agent)
        if getattr(model, "prices", None) is None and price_of(model, Usage(1000, 1000)) is None:
            raise DefinitionError(
                f"A cost budget needs prices, and none is known for {model.provider}:{model.name}. Give the model "
                "prices=Prices(input=…, output=…), or install 'perdure[prices]'."
            )
