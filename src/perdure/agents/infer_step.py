"""A model call that a user writes as a step: asked once, kept with its usage, corrected if it must have a type."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, cast

from msgspec import structs

from perdure.agents.budget import UNLIMITED
from perdure.agents.context import Context
from perdure.agents.env import Env, resolve
from perdure.agents.infer import Answer, counted
from perdure.agents.lost import estimate
from perdure.agents.output import ANSWER_TOOL, Output
from perdure.agents.result import final_text
from perdure.agents.run_options import check_price
from perdure.agents.steps import Question
from perdure.durable.arguments import arguments_hash
from perdure.durable.step import Body
from perdure.models.model import DEFAULT_SETTINGS, Model, ModelRequest, ModelSettings
from perdure.types.base import Json
from perdure.types.errors import DefinitionError, ModelRetry, NoModel, OutputInvalid, OverBudget
from perdure.types.messages import Message, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, read_input
from perdure.types.records import AttemptLost, InferDone

CORRECTIONS = 2
"""How often an answer that does not fit its type may be corrected."""


async def infer_step(env: Env, ctx: Context[Any], body: Body, what: Question) -> Any:
    """Ask a model as a step of a body; entered again, its answer is returned."""
    messages, _ = read_input(what.messages)
    if not messages:
        raise DefinitionError(f"ctx.step.infer({what.id!r}): messages= is empty; give a text, or messages.")
    if what.system:
        messages = (TextMessage("system", what.system), *messages)
    output = None if what.output_type is str else Output(what.output_type)
    with body.enter(what.id, f"ctx.step.infer({what.id!r})") as key:
        closing = InferDone(what.id, None, arguments_hash([messages, repr(what.output_type)]))
        body.asked.update(one for one in body.done if one.startswith(f"{key}#try/"))
        known = await body.known(key, closing)
        if known is None:
            known = await _Asking(env, ctx, body, key, closing, output, what).ask(messages)
        try:
            return known.result if output is None else output.load(known.result)
        except (ModelRetry, ValueError) as error:
            await body.unfit(key, error)


class _Asking:
    """One step's way to an answer."""

    def __init__(
        self,
        env: Env,
        ctx: Context[Any],
        body: Body,
        key: str,
        closing: InferDone,
        output: Output | None,
        what: Question,
    ) -> None:
        self.env = env
        self.body = body
        self.key = key
        self.closing = closing
        self.output = output
        self.model = _model(env, ctx, what)
        own: ModelSettings = getattr(self.model, "settings", None) or DEFAULT_SETTINGS
        self.settings = own.merged(what.settings).merged(env.settings)
        native = self.model.capabilities.structured_output
        self.by_tool = output is not None and native == "no"

    async def ask(self, messages: tuple[Message, ...]) -> InferDone:
        """Ask until an answer fits; those that did not have records of their own."""
        io, said = self.body.io, messages
        for n in count():
            place = f"{self.key}#try/{n}"
            wrong = self.body.done.get(place)
            if not isinstance(wrong, InferDone):
                done = await self._once(place, said)
                try:
                    result = self._read(done.messages)
                except ModelRetry as problem:
                    wrong = structs.replace(done, result=str(problem))
                    await io.keep(place, wrong)
                    if n >= CORRECTIONS:
                        raise OutputInvalid(
                            f"ctx.step.infer({done.name!r}): {done.provider}:{done.model} gave no valid answer in "
                            f"{n + 1} attempts; the last problem: {problem}"
                        ) from problem
                else:
                    kept = structs.replace(done, result=result, asked=messages)
                    await io.keep(self.key, kept)
                    return kept
            said = (*said, *_feedback(wrong))
        raise AssertionError  # the loop has no end of its own

    async def _once(self, place: str, messages: tuple[Message, ...]) -> InferDone:
        env, io, ledger, model = self.env, self.body.io, self.env.ledger, self.model
        await io.sure()
        over = ledger.exceeded()
        if io.died and over is None and not io.tried.rest(place, io.kernel.clock.now()):
            # it may have been asked by the owner that has died: nobody has heard the answer
            lost = AttemptLost(place, estimate(messages))
            ledger.charge(lost.usage)
            await io.keep(None, lost)
            over = ledger.exceeded()
        if over is not None:
            raise OverBudget(f"ctx.step.infer({self.closing.name!r}) was not asked: {over}")
        if ledger.counts_cost:
            check_price(model)
        answer = Answer(env, io, place, "", model, shown=False)
        if ledger is not UNLIMITED:
            ledger.begin(1)
        try:
            await answer.collect(self._request(messages))
        except asyncio.CancelledError:
            if answer.asked:
                lost = AttemptLost(place, answer.lost(messages))
                ledger.charge(lost.usage)
                io.note(None, lost)
            raise
        finally:
            if ledger is not UNLIMITED:
                ledger.begin(-1)
        finished = answer.assembler.finished
        assert finished is not None  # collect() raises without it
        usage = counted(finished.usage, model, env)
        ledger.charge(usage)
        return structs.replace(
            self.closing,
            messages=answer.assembler.messages(),
            model=finished.model or model.name,
            provider=finished.provider or model.provider,
            usage=usage,
        )

    def _request(self, messages: tuple[Message, ...]) -> ModelRequest:
        output = self.output
        if output is None or self.by_tool:
            tools = (output.tool,) if output is not None else ()
            return ModelRequest(messages, tools, "any" if tools else "auto", settings=self.settings)
        return ModelRequest(messages, output=output.spec, settings=self.settings)

    def _read(self, said: tuple[Message, ...]) -> Json:
        """Read an answer; one that does not fit is a `ModelRetry`."""
        output = self.output
        if output is None:
            return final_text(said)
        if not self.by_tool:
            return output.check_text(final_text(said))
        calls = [call for call in _calls(said) if call.name == ANSWER_TOOL]
        if not calls:
            raise ModelRetry(f"Give the answer by calling the tool {ANSWER_TOOL!r}.")
        return output.check(calls[0].input)


def _feedback(wrong: InferDone) -> tuple[Message, ...]:
    """What a model is told of an answer that did not fit, with the answer before it."""
    why = str(wrong.result)
    results = [
        ToolResultMessage(one, {"error": {"name": "ModelRetry", "message": why}}) for one in _calls(wrong.messages)
    ]
    return (*wrong.messages, *(results or [TextMessage("user", why)]))


def _calls(said: tuple[Message, ...]) -> list[ToolCall]:
    return [call for one in said if isinstance(one, ToolCallMessage) for call in one.tools]


def _model(env: Env, ctx: Context[Any], what: Question) -> Model:
    """The run's model, else the step's, else the agent's whose turn it is, else the runtime's."""
    if env.model is None and what.model is None and ctx.in_turn:
        return env.model_for(cast("Any", ctx.agent))
    model = env.model or resolve(what.model) or env.fallback
    if model is None:
        raise NoModel(
            f'ctx.step.infer({what.id!r}) has no model. Give it one, such as "openai:gpt-5-mini", or give one to the '
            "run or the runtime (model=…)."
        )
    return model
