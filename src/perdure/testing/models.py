"""Models for tests: they answer what is scripted, and keep what they were asked with.

An answer says what a model streams for one request. Texts and calls are turned into pieces once, when the model is
made, so that what a benchmark measures is not this file. Ids of calls are `call_1`, `call_2`, … in the order in which a
model makes them. Without `usage=`, tokens are estimated: a quarter of the characters of the answer, and of the last
message it answers.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

from perdure.models.model import Capabilities, ModelRequest
from perdure.types.base import encode_json, plain
from perdure.types.chunks import Finished, ModelEvent, ReasoningChunk, Restarted, TextChunk, ToolCallChunk, Used
from perdure.types.errors import DefinitionError, PerdureError
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCallMessage
from perdure.types.usage import Prices, Usage

_CAPABILITIES = Capabilities(structured_output="yes")
_PIECES = (TextChunk, ReasoningChunk, ToolCallChunk, Restarted, Used, Finished)


class ScriptExhausted(PerdureError):
    """A `ScriptedModel` was asked more often than it has answers."""


class _Call(NamedTuple):
    tool: str
    arguments: str


class Answer:
    """What a model streams for one request; made by `say`, `call`, `calls`, `fail`, `delay`, `hang` and `raw`."""

    __slots__ = ()


class _Said(Answer):
    """Thoughts, a text and tool calls, in this order."""

    __slots__ = ("calls", "reasoning", "text", "usage")

    def __init__(self, text: str, calls: tuple[_Call, ...], usage: Usage | None, reasoning: str | None) -> None:
        self.text = text
        self.calls = calls
        self.usage = usage
        self.reasoning = reasoning


class _Failure(Answer):
    __slots__ = ("after", "error")

    def __init__(self, error: Exception, after: str) -> None:
        self.error = error
        self.after = after


class _Delay(Answer):
    __slots__ = ("answer", "until")

    def __init__(self, until: float | asyncio.Event, answer: AnswerLike) -> None:
        self.until = until
        self.answer = answer


class _Hang(Answer):
    __slots__ = ()


class _Raw(Answer):
    __slots__ = ("pieces",)

    def __init__(self, pieces: Iterable[Any]) -> None:
        self.pieces = pieces


AnswerLike: TypeAlias = "Answer | str | Callable[[ModelRequest], Any]"
"""An answer, a text, or a function from the request to one of these or to `ModelEvent`s; it may be async."""


def say(text: str, *, usage: Usage | None = None, reasoning: str | None = None) -> Answer:
    """Answer with a text.

    Args:
        text: what the model says.
        usage: what it costs; estimated unless given.
        reasoning: what the model thinks before.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"say(…) takes a text, not {text!r}.")
    return _Said(text, (), usage, reasoning)


def call(tool: str, /, **arguments: Any) -> Answer:
    """Answer with one tool call.

    Args:
        tool: the tool's name.
        arguments: its arguments.

    Raises:
        Unserialisable: an argument has no JSON form, so no model could send it.
    """
    return _Said("", (_Call(tool, encode_json(plain(arguments, f"call of {tool}")).decode()),), None, None)


def calls(*made: Answer, text: str = "", usage: Usage | None = None, reasoning: str | None = None) -> Answer:
    """Answer with several tool calls at once.

    Args:
        made: each made by `call`.
        text: what the model says before them.
        usage: what it costs; estimated unless given.
        reasoning: what the model thinks before.

    Raises:
        DefinitionError: something else than calls was given.
    """
    joined: list[_Call] = []
    for one in made:
        if not isinstance(one, _Said) or not one.calls:
            raise DefinitionError(f"calls(…) takes what call(…) gives, not {one!r}.")
        joined += one.calls
    return _Said(text, tuple(joined), usage, reasoning)


def fail(error: Exception, *, after: str = "") -> Answer:
    """Fail instead of answering.

    Args:
        error: what is raised, such as `RateLimited("slow down", retry_after=1)`.
        after: what is streamed before.
    """
    if not isinstance(error, Exception):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"fail(…) takes an exception that was made, not {error!r}.")
    return _Failure(error, after)


def delay(until: float | asyncio.Event, answer: AnswerLike) -> Answer:
    """Wait before answering.

    Args:
        until: seconds, or an event, with which a test needs no sleeping.
        answer: what comes then.
    """
    return _Delay(until, _checked(answer, "delay(…)"))


def hang() -> Answer:
    """Never answer; only a cancellation or a time limit ends it."""
    return _Hang()


def raw(*pieces: ModelEvent | Any) -> Answer:
    """Stream exactly these pieces, also such as no provider would send; no `Finished` is added."""
    return _Raw(pieces)


def _checked(answer: Any, where: str) -> AnswerLike:
    if isinstance(answer, (Answer, str)) or callable(answer):
        return answer
    raise DefinitionError(
        f"{where} holds a {type(answer).__name__}. An answer is a text, a function of the request, or made by say, "
        "call, calls, fail, delay, hang or raw."
    )


class _TestModel(ABC):
    """What the two models share: how an answer is streamed."""

    provider = "test"

    def __init__(self, name: str, chunk: int | None, capabilities: Capabilities | None, prices: Prices | None) -> None:
        if chunk is not None and chunk < 1:
            raise DefinitionError(f"chunk={chunk} must be at least 1.")
        self.name = name
        self.capabilities = _CAPABILITIES if capabilities is None else capabilities
        self.prices = prices
        self.requests: list[ModelRequest] = []
        self._chunk = chunk
        self._calls = 0

    def _cut(self, text: str) -> Iterator[str]:
        size = self._chunk or len(text) or 1
        return (text[at : at + size] for at in range(0, len(text), size))

    def _opening(self, said: _Said) -> tuple[ModelEvent, ...]:
        """The pieces before the calls, which are the same each time."""
        thoughts = [ReasoningChunk(piece) for piece in self._cut(said.reasoning or "")]
        return (*thoughts, *(TextChunk(piece) for piece in self._cut(said.text)))

    def _call_pieces(self, said: _Said) -> Iterator[ModelEvent]:
        for block, one in enumerate(said.calls):
            self._calls += 1
            first, *more = self._cut(one.arguments)
            yield ToolCallChunk(block, f"call_{self._calls}", one.tool, first)
            for piece in more:
                yield ToolCallChunk(block, arguments=piece)

    def _finished(self, said: _Said, request: ModelRequest) -> Finished:
        usage = said.usage
        if usage is None:
            thought = len(said.reasoning or "") // 4
            written = len(said.text) + sum(len(one.arguments) for one in said.calls)
            usage = Usage(
                _tokens(request.messages[-1]) if request.messages else 1,
                max(1, written // 4) + thought,
                reasoning_tokens=thought,
            )
        return Finished("tool" if said.calls else "stop", usage, self.name, self.provider)

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Stream the answer to a request."""
        self.requests.append(request)
        return self._play(request)

    @abstractmethod
    def _next(self, request: ModelRequest, number: int | None) -> tuple[Any, tuple[ModelEvent, ...] | None]:
        """The answer to a request, and its opening if that is known already."""

    async def _play(self, request: ModelRequest, number: int | None = None) -> AsyncIterator[ModelEvent]:
        answer, opening = self._next(request, number)
        if opening is None:
            answer = await self._settle(answer, request)
        if isinstance(answer, _Said):
            for piece in self._opening(answer) if opening is None else opening:
                yield piece
            if answer.calls:
                for piece in self._call_pieces(answer):
                    yield piece
            yield self._finished(answer, request)
        elif isinstance(answer, _Failure):
            for text in self._cut(answer.after):
                yield TextChunk(text)
            # a repeated answer raises the same object: it must not gather the tracks of earlier times
            raise answer.error.with_traceback(None)
        elif isinstance(answer, _Raw):
            for piece in answer.pieces:
                yield piece
        else:
            try:
                async for piece in answer:
                    yield piece
            finally:
                close = getattr(answer, "aclose", None)
                if close is not None:
                    await close()

    async def _settle(self, answer: Any, request: ModelRequest) -> Any:
        """Wait and call functions until there is something to stream."""
        while not isinstance(answer, (_Said, _Failure, _Raw, AsyncIterator)):
            if isinstance(answer, str):
                answer = _Said(answer, (), None, None)
            elif isinstance(answer, _Delay):
                if isinstance(answer.until, asyncio.Event):
                    await answer.until.wait()
                else:
                    await asyncio.sleep(answer.until)
                answer = answer.answer
            elif isinstance(answer, _Hang):
                await asyncio.get_running_loop().create_future()
            elif inspect.isawaitable(answer):
                answer = await answer
            elif isinstance(answer, _PIECES):
                answer = _Raw((answer,))
            elif isinstance(answer, (list, tuple, Iterator)):
                answer = _Raw(cast("Iterable[Any]", answer))
            elif callable(answer):
                answer = answer(request)
            else:
                _checked(answer, f"What {self!r} was given to answer")
        return cast("Any", answer)


class ScriptedModel(_TestModel):
    """A model that gives its answers in order.

    Args:
        answers: what it answers, one for each request.
        name: the model's name.
        chunk: into how many characters texts and arguments are cut; whole unless given.
        repeat: whether it begins anew after the last answer.
        capabilities: what it can do natively; structured output unless said otherwise.
        prices: what its tokens cost.

    Attributes:
        requests: what it was asked with, in order.

    Raises:
        DefinitionError: something that is not an answer was given.
        ScriptExhausted: it was asked, and there is no answer left; raised while streaming.
    """

    def __init__(
        self,
        *answers: AnswerLike,
        name: str = "scripted",
        chunk: int | None = None,
        repeat: bool = False,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
    ) -> None:
        super().__init__(name, chunk, capabilities, prices)
        self._repeat = repeat
        self._answers = [
            say(one) if isinstance(one, str) else _checked(one, f"ScriptedModel: answer {n}")
            for n, one in enumerate(answers, 1)
        ]
        self._openings = [self._opening(one) if isinstance(one, _Said) else None for one in self._answers]
        self._at = 0

    def __repr__(self) -> str:
        return f"ScriptedModel({self.name!r}, {len(self._answers)} answers)"

    def _next(self, request: ModelRequest, number: int | None) -> tuple[Any, tuple[ModelEvent, ...] | None]:
        at = self._at if number is None else number
        if at >= len(self._answers):
            if not self._repeat or not self._answers:
                raise ScriptExhausted(self._exhausted(request))
            at %= len(self._answers)
        self._at = at + 1
        return self._answers[at], self._openings[at]

    def replay(self, number: int, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Stream the answer with a number, from 0, whatever was answered before."""
        self.requests.append(request)
        return self._play(request, number)

    def _exhausted(self, request: ModelRequest) -> str:
        count = len(self._answers)
        has = "no answers" if count == 0 else "only 1 answer" if count == 1 else f"only {count} answers"
        shown = "\n".join(f"  {_shown(one)}" for one in request.messages[-5:])
        tools = ", ".join(one.name for one in request.tools) or "none"
        return (
            f"{self.name}: the model was asked {len(self.requests)} times, but its script has {has}. Add what it shall "
            f"answer here, or see why it was asked again. The last request ended with:\n{shown}\n  tools: {tools}"
        )


class FunctionModel(_TestModel):
    """A model that answers with a function of the request.

    Args:
        fn: gets the `ModelRequest` and gives an answer, a text or `ModelEvent`s; sync, async, or an async generator.
        name: the model's name.
        chunk: into how many characters texts and arguments are cut; whole unless given.
        capabilities: what it can do natively; structured output unless said otherwise.
        prices: what its tokens cost.

    Attributes:
        requests: what it was asked with, in order.

    Raises:
        DefinitionError: no function was given.
    """

    def __init__(
        self,
        fn: Callable[[ModelRequest], Any],
        *,
        name: str = "function",
        chunk: int | None = None,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
    ) -> None:
        super().__init__(name, chunk, capabilities, prices)
        if not callable(fn):
            raise DefinitionError(f"FunctionModel(…) takes a function of the request, not {fn!r}.")
        self._fn = fn

    def __repr__(self) -> str:
        return f"FunctionModel({self.name!r})"

    def _next(self, request: ModelRequest, number: int | None) -> tuple[Any, tuple[ModelEvent, ...] | None]:
        return self._fn, None


def _tokens(message: Message) -> int:
    content: Any = message.content if not isinstance(message, ToolCallMessage) else ""
    return max(1, len(content if isinstance(content, str) else str(content)) // 4)


def _shown(message: Message) -> str:
    if isinstance(message, TextMessage):
        text = f"{message.role}: {message.text}"
    elif isinstance(message, ToolCallMessage):
        text = "calls: " + ", ".join(f"{one.name}({one.input})" for one in message.tools)
    elif isinstance(message, ReasoningMessage):
        text = f"thought: {message.content}"
    else:
        text = f"result of {message.tool.name}: {message.content}"
    return text if len(text) <= 200 else text[:199] + "…"
