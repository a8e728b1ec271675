"""Performs one inference, whole: prompt, start hooks, model with retries, response hooks, validation."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from msgspec import structs

from perdure.agents.agent_loop import AgentLoop
from perdure.agents.budget import UNLIMITED
from perdure.agents.context import Context
from perdure.agents.definition import AgentDefinition
from perdure.agents.env import Env, Plan
from perdure.agents.hooks import Stop, read_messages, read_result, settle
from perdure.agents.lost import estimate
from perdure.agents.output import ANSWER_TOOL
from perdure.agents.prompt import prompt_ref
from perdure.agents.result import AgentResult, final_text
from perdure.agents.toolbox import Toolbox
from perdure.durable.endings import Left
from perdure.durable.limit import TimeLimit
from perdure.durable.retry import MODEL_BACKOFF
from perdure.durable.run_io import RunIO
from perdure.models.model import Model, ModelRequest, prices_of
from perdure.types import events as ev
from perdure.types.assemble import Assembler
from perdure.types.base import Json
from perdure.types.chunks import ModelEvent, ReasoningChunk, Restarted, TextChunk, ToolCallChunk
from perdure.types.errors import (
    BadResponse,
    DefinitionError,
    ModelError,
    ModelRetry,
    ModelTimeout,
    OutputInvalid,
    OverBudget,
)
from perdure.types.messages import Message, TextMessage, ToolCallMessage, ToolResultMessage
from perdure.types.records import AttemptFailed, AttemptLost, ErrorInfo, InferenceDone
from perdure.types.usage import Usage


async def infer(env: Env, loop: AgentLoop, key: str, io: RunIO) -> InferenceDone:
    """Perform one inference of an agent's turn.

    Returns:
        The record that closes it; cut off, it holds the text so far.

    Raises:
        ModelError: the model failed for good.
        OutputInvalid: the answer did not fit the output type, also after retries.
        Exception: whatever a prompt function or a hook raised.
    """
    plan = env.plan(loop)
    agent = plan.agent
    over = env.ledger.exceeded()
    if over is not None:
        return InferenceDone(agent.name, stop="budget", stop_detail=over)
    ctx: Context[Any] = Context(env, io, key, loop, loop.doc)
    toolbox = await env.toolbox(plan, ctx) if plan.dynamic else plan.toolbox
    system = plan.system if plan.fixed_prompt else await _system(env, plan, ctx)
    messages: tuple[Message, ...] = (*loop.transcript, *loop.said)
    prompt = messages if system is None else (system, *messages)
    changed = False
    for hook in plan.chain.on_start:
        answer = await settle(hook(ctx, list(prompt)))
        if isinstance(answer, Stop):
            return InferenceDone(
                agent.name,
                stop="hook",
                stop_detail=answer.reason,
                patch=ctx.patch(),
                scheduled=ctx.take_scheduled(),
            )
        if answer is not None:
            prompt = read_messages(answer, prompt, "on_start")
            changed = True

    request = _request(env, plan, toolbox, loop, prompt)
    answer = Answer(env, io, key, agent.name, plan.model)
    io.reached[key] = None
    ledger = env.ledger
    if ledger is not UNLIMITED:
        ledger.begin(1)
    try:
        await answer.collect(request)
    except asyncio.CancelledError:
        try:
            if not io.interrupted():
                raise
        except Left:
            if answer.asked:
                io.hold(None, AttemptLost(key, answer.lost(prompt)))
            raise
        return _cut_off(env, answer, prompt, ctx)
    except OverBudget as spent:
        return InferenceDone(agent.name, stop="budget", stop_detail=str(spent))
    except Exception:
        answer.failed()
        raise
    finally:
        if ledger is not UNLIMITED:
            ledger.begin(-1)
    said = answered = answer.assembler.messages()
    finished = answer.assembler.finished
    assert finished is not None  # collect() raises without it
    usage = counted(finished.usage, plan.model, env)
    env.ledger.charge(usage)
    if plan.chain.on_response:
        result = AgentResult(agent.name, said, f"{env.run_id}/{key}", io.kernel.clock.now(), usage=usage)
        try:
            for hook in plan.chain.on_response:
                result = read_result(await settle(hook(ctx, result)), result, "on_response")
        except Exception:
            answer.failed()
            answer.count(usage)
            raise
        said = result.messages
    done = InferenceDone(
        agent.name,
        said,
        answer.assembler.finish,
        finished.model or plan.model.name,
        finished.provider or plan.model.provider,
        usage,
        *prompt_ref(env.texts_kept(), prompt, messages, changed, toolbox),
        ctx.patch() if ctx._state is not None else None,  # pyright: ignore[reportPrivateUsage]
        ctx.take_scheduled() if ctx._scheduled else (),  # pyright: ignore[reportPrivateUsage]
    )
    if said is not answered and said != answered:
        done = structs.replace(done, said=answered)
    if plan.output is None:
        return done
    try:
        return _structured(plan, loop, done)
    except OutputInvalid:
        answer.count(usage)
        raise


async def _system(env: Env, plan: Plan, ctx: Context[Any]) -> TextMessage | None:
    """Make the system message: the agent's prompt, then what the user's message asks for this turn."""
    system = plan.agent.system
    text = system if isinstance(system, str) or system is None else await settle(system(ctx))
    if text is not None and not isinstance(text, str):
        raise DefinitionError(
            f"The system prompt function of agent {plan.agent.name!r} returned {type(text).__name__}; return text."
        )
    pieces = [piece for piece in (text, env.turn_prompt) if piece]
    return TextMessage("system", "\n\n".join(pieces)) if pieces else None


def _request(env: Env, plan: Plan, toolbox: Toolbox, loop: AgentLoop, prompt: tuple[Message, ...]) -> ModelRequest:
    agent = plan.agent
    choice = _choice(env, agent, toolbox, loop) if env.options or agent.tool_choice != "auto" else "auto"
    if loop.inferences > 0 and choice != "none":
        choice = "auto"  # a forced choice holds for the first inference, or the turn would never end
    if plan.via_tool and choice == "auto":
        choice = "any"
    return ModelRequest(
        prompt,
        toolbox.specs,
        choice if toolbox.specs else "auto",
        plan.output.spec if plan.output is not None and not plan.via_tool else None,
        agent.prefill,
        plan.settings,
    )


def _choice(env: Env, agent: AgentDefinition, toolbox: Toolbox, loop: AgentLoop) -> str:
    """Which tool must be called: as the run says, else as the agent says; who routes is not meant by the run.

    Raises:
        DefinitionError: it is a tool that the agent does not have now.
    """
    wanted: str | None = env.options.get("tool_choice") if not loop.prefix.startswith("route/") else None
    if wanted is not None and env.network is not None and wanted not in (*_CHOICES, *toolbox.tools):
        wanted = None  # it is meant for another agent of the network
    choice = wanted or agent.tool_choice
    if choice not in _CHOICES and choice not in toolbox.tools:
        raise DefinitionError(
            f"Agent {agent.name!r}: tool_choice={choice!r} is none of its tools "
            f"({', '.join(toolbox.tools) or 'it has none'}), nor 'auto', 'any' or 'none'."
        )
    return choice


_CHOICES = ("auto", "any", "none")


class Answer:
    """One answer as it comes in: collected, shown, and asked for again after a failure that may pass."""

    __slots__ = ("agent", "asked", "assembler", "at", "env", "io", "key", "model", "names", "shown", "streamed")

    def __init__(self, env: Env, io: RunIO, key: str, agent: str, model: Model, *, shown: bool = True) -> None:
        self.shown = shown and io.projector is not None
        self.env = env
        self.io = io
        self.key = key
        self.agent = agent
        self.model = model
        self.assembler = Assembler()
        self.asked = False
        self.streamed = False
        self.names: dict[int, tuple[str, str]] = {}
        self.at: dict[str, Any] = {}

    async def collect(self, request: ModelRequest) -> None:
        """Ask until there is an answer.

        Raises:
            ModelError: it failed for good.
            OverBudget: it failed, and has used what was left to ask again.
        """
        settings = request.settings
        tried = self.io.tried
        attempt, model = 0, self.model
        if tried:
            from perdure.models.fallback import behind

            attempt = await tried.before(self.key, self.io.kernel.clock)
            model = behind(model, tried.failed_models(self.key))
        while True:
            attempt += 1
            try:
                self.asked = True
                return await self._attempt(request, attempt, model)
            except ModelError as error:
                self.asked, model = False, self.model
                self.spent()
                if not error.retryable or attempt > settings.retries:
                    error.add_note(f"attempt {attempt} of {settings.retries + 1}")
                    raise
                self.reset(str(error))
                over = self._over()
                if over is not None:
                    raise OverBudget(f"{over}, so attempt {attempt + 1} was not made") from error
                wait = MODEL_BACKOFF.wait(attempt, error.retry_after)
                await self.io.attempt_failed(self.key, attempt, error, wait)

    async def _attempt(self, request: ModelRequest, attempt: int, model: Model) -> None:
        io = self.io
        if io.kernel.witness is not None:
            model = io.kernel.witness.model(io.token.run_id, self.key, model)
        add = self.assembler.add
        if self.shown and io.projector is not None:
            io.emit(io.projector.begin_message(self.key, self.agent))
            self.at = {
                "run_id": io.token.run_id,
                "session_id": io.token.session_id,
                "agent": self.agent,
                "step": self.key,
                "message_id": io.projector.message_id(self.key),
            }
        begun = request.prefill if request.prefill and model.capabilities.prefill else None
        prefill = begun
        limit = TimeLimit(request.settings.timeout)
        stream = model.stream(request)
        if not hasattr(stream, "__aiter__"):
            raise _no_stream(model, stream)
        try:
            with limit:
                async for piece in stream:
                    if begun is not None:
                        if type(piece) is Restarted:
                            prefill = begun
                        elif prefill is not None and type(piece) is TextChunk:
                            piece = TextChunk(prefill + piece.text, piece.block, piece.opaque)
                            prefill = None
                    if type(piece) is Restarted:
                        self.spent()
                        await self._restarted(piece, attempt)
                    add(piece)
                    if self.shown:
                        self.show(piece)
        except TimeoutError as error:
            why = f"no whole answer within {limit.seconds:g} s" if limit.expired else str(error) or "timed out"
            raise ModelTimeout(why, provider=model.provider, model=model.name) from error
        finally:
            if self.assembler.finished is None:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        if self.assembler.finished is None:
            raise BadResponse("the answer broke off before its end", provider=model.provider, model=model.name)

    async def _restarted(self, piece: Restarted, attempt: int) -> None:
        """Keep that a model of a chain failed and the next one is asked, without counting it as a whole attempt."""
        model = piece.failed or f"{self.model.provider}:{self.model.name}"
        await self.io.keep(None, AttemptFailed(self.key, attempt, ErrorInfo("Restarted", piece.reason), 0.0, model))

    def spent(self) -> None:
        """Count what was used for an answer that is not kept, as far as the provider has said it."""
        used = self.assembler.used
        if used is not None and used.total_tokens:
            usage = counted(used, self.model, self.env)
            self.env.ledger.charge(usage)
            self.count(usage)

    def count(self, usage: Usage) -> None:
        """Keep what was used for an answer that is not kept."""
        self.io.note(None, AttemptLost(self.key, usage, told=True))

    def lost(self, prompt: tuple[Message, ...]) -> Usage:
        """Say what an answer has used that was cut off: what the provider has said, or what it is taken to be."""
        guess, told = estimate(prompt, self.assembler.text), self.assembler.used
        if told is None:
            return guess
        most = max(told.output_tokens, guess.output_tokens)
        return counted(structs.replace(told, output_tokens=most), self.model, self.env)

    def _over(self) -> str | None:
        """Say which limit is used up; the call that has just failed is in flight no more."""
        ledger = self.env.ledger
        if ledger is UNLIMITED:
            return None
        ledger.begin(-1)
        over = ledger.exceeded()
        ledger.begin(1)
        return over

    def reset(self, reason: str) -> None:
        """Void what was streamed."""
        if self.streamed and self.io.sink is not None and not self.key.startswith("route/"):
            self.io.emit([ev.MessageReset(reason=reason, **self.at)])
        self.assembler = Assembler()
        self.streamed = False
        self.names = {}

    def failed(self) -> None:
        """Keep what was said by now, with the failure of its step; calls that were not complete are dropped."""
        said = () if self.key.startswith("route/") else self.assembler.without_calls()
        if said:
            self.io.reached[self.key] = InferenceDone(self.agent, said, interrupted=True)

    def show(self, piece: ModelEvent) -> None:
        """Show a piece to whoever listens; a routing agent's are not part of the conversation."""
        if self.key.startswith("route/"):
            return
        emit, at = self.io.emit, self.at
        if isinstance(piece, TextChunk):
            if piece.text:
                self.streamed = True
                emit([ev.TextDelta(text=piece.text, **at)])
        elif isinstance(piece, ReasoningChunk):
            if piece.text:
                self.streamed = True
                emit([ev.ReasoningDelta(text=piece.text, **at)])
        elif isinstance(piece, ToolCallChunk):
            self.streamed = True
            if piece.block not in self.names and piece.name:
                self.names[piece.block] = (piece.name, self.assembler.call_id(piece.block))
                name, call_id = self.names[piece.block]
                emit([ev.ToolCallStarted(tool=name, call_id=call_id, **at)])
            if piece.arguments and piece.block in self.names:
                emit([ev.ToolArgsDelta(text=piece.arguments, call_id=self.names[piece.block][1], **at)])
        elif isinstance(piece, Restarted):
            if self.streamed:
                emit([ev.MessageReset(reason=piece.reason, **at)])
            self.streamed = False
            self.names = {}


def _no_stream(model: Model, stream: object) -> DefinitionError:
    """The error for a model whose own code is wrong; asking again would not help."""
    if inspect.iscoroutine(stream):
        stream.close()
    return DefinitionError(
        f"The model {model.provider}:{model.name} is wrong: stream() returned {type(stream).__name__}, not an async "
        "iterator; write it as `async def stream(self, request)` with yield."
    )


def _cut_off(env: Env, answer: Answer, prompt: tuple[Message, ...], ctx: Context[Any]) -> InferenceDone:
    """Keep what was said before the stop; calls that were not complete are dropped."""
    model = answer.model
    usage = answer.lost(prompt)
    env.ledger.charge(usage)
    return InferenceDone(
        answer.agent,
        answer.assembler.without_calls(),
        "stop",
        model.name,
        model.provider,
        usage,
        interrupted=True,
        scheduled=ctx.take_scheduled(),
    )


def counted(usage: Usage, model: Model, env: Env) -> Usage:
    """Count one call, and price it where a price is known."""
    cost = usage.cost
    if cost is None:
        prices = prices_of(model)
        if prices is not None:
            cost = prices.cost(usage)
        elif env.ledger.counts_cost:
            from perdure.models.call import price_of

            cost = price_of(model, usage)
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        1,
        0,
        cost,
    )


def _structured(plan: Plan, loop: AgentLoop, done: InferenceDone) -> InferenceDone:
    """Check a structured answer, or say what the model must correct."""
    output = plan.output
    assert output is not None
    if plan.via_tool:
        return _by_tool(plan, loop, done)
    if any(isinstance(one, ToolCallMessage) for one in done.messages) or done.stop:
        return done
    try:
        value = output.check_text(final_text(done.messages))
    except ModelRetry as problem:
        _give_up(plan, loop, problem, done)
        feedback = TextMessage("user", str(problem))
        return structs.replace(done, feedback=(feedback,))
    return structs.replace(done, has_output=True, output=value)


def _by_tool(plan: Plan, loop: AgentLoop, done: InferenceDone) -> InferenceDone:
    output = plan.output
    assert output is not None
    calls = [call for one in done.messages if isinstance(one, ToolCallMessage) for call in one.tools]
    answers = [call for call in calls if call.name == ANSWER_TOOL]
    if not calls:
        problem = ModelRetry(f"Give the final answer by calling the tool {ANSWER_TOOL!r}.")
        _give_up(plan, loop, problem, done)
        return structs.replace(done, feedback=(TextMessage("user", str(problem)),))
    found: Json = None
    has_output = False
    answered: list[ToolResultMessage] = []
    for call in answers:
        content: dict[str, Any] = {"data": "accepted"}
        try:
            if has_output:
                raise ModelRetry("The final answer was given already.")
            found = output.check(call.input)
            has_output = True
        except ModelRetry as problem:
            if not has_output:
                _give_up(plan, loop, problem, done)
            content = {"error": {"name": "ModelRetry", "message": str(problem)}}
        answered.append(ToolResultMessage(call, content))
    return structs.replace(done, has_output=has_output, output=found, answered=tuple(answered))


def _give_up(plan: Plan, loop: AgentLoop, problem: ModelRetry, done: InferenceDone) -> None:
    if loop.feedbacks >= plan.agent.output_retries:
        raise OutputInvalid(
            f"Agent {plan.agent.name!r}: {done.provider}:{done.model} gave no valid answer in "
            f"{loop.feedbacks + 1} attempts; the last problem: {problem}"
        )
