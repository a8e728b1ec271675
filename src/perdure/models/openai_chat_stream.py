"""Reading a Chat Completions stream: pure, from plain JSON values to the pieces of an answer.

Servers of this wire differ in small ways (ids left out or used twice, no index, thoughts in fields of their own, a
finish reason that forgets the calls); whatever they do, the pieces that come out are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from perdure.models.decoder import Decoder, part
from perdure.models.failures import classify
from perdure.types.base import decode_json, encode_json
from perdure.types.chunks import Finished, FinishReason, ModelEvent, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import BadResponse, ContentRefused, ModelUnreachable, Overloaded
from perdure.types.ids import derive_id
from perdure.types.messages import Opaque
from perdure.types.usage import Usage


class _Call:
    """A tool call while it grows; it is announced as soon as its name is known."""

    __slots__ = ("arguments", "block", "given", "id", "name")

    def __init__(self, block: int) -> None:
        self.block = block
        self.given = ""  # the id as the server gave it
        self.id = ""
        self.name = ""
        self.arguments = ""


class ChatDecoder(Decoder):
    """Reads one answer; `returns` says that the provider wants its thoughts back."""

    def __init__(
        self, provider: str, model: str, names: Mapping[str, str] | None = None, *, returns: bool = False
    ) -> None:
        super().__init__(provider, model, names)
        self._returns = returns
        self._answered_by = model
        self._response = ""
        self._pieces = 0
        self._blocks = 0
        self._text: int | None = None  # the block that text goes on in
        self._thought: int | None = None
        self._thoughts: list[dict[str, Any]] = []  # OpenRouter's own form of them, to be given back
        self._calls: dict[int, _Call] = {}  # the open call, by the server's index
        self._ids: set[str] = set()
        self._reason: str | None = None
        self._refused = False
        self._said = False
        self._usage = Usage()

    def feed(self, chunk: Any) -> Iterable[ModelEvent]:
        piece = self._object(chunk)
        self._pieces += 1
        self._fail(piece.get("error"))
        self._response = self._response or str(piece.get("id") or "")
        self._answered_by = str(piece.get("model") or self._answered_by)
        usage = piece.get("usage")
        if isinstance(usage, dict):
            self._usage = read_usage(cast("dict[str, Any]", usage))
        events: list[ModelEvent] = []
        for choice in cast("list[dict[str, Any]]", piece.get("choices") or []):
            if choice.get("index") in (None, 0):
                self._fail(choice.get("error"))
                self._read(part(choice, "delta"), events)
                self._reason = choice.get("finish_reason") or self._reason
        return events

    def _read(self, delta: dict[str, Any], events: list[ModelEvent]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        details = delta.get("reasoning_details")
        if isinstance(details, list) and details and self._returns:
            self._thoughts += cast("list[dict[str, Any]]", details)
            if self._thought is None:  # encrypted thoughts have no text, but a place
                self._thought = self._new_block()
                events.append(ReasoningChunk(block=self._thought))
        if isinstance(thought, str) and thought:
            self._think(thought, events)
        content = delta.get("content")
        if isinstance(content, list):  # Mistral's way: a list of parts, thoughts among them
            for one in cast("list[dict[str, Any]]", content):
                inner = one.get("thinking")
                if isinstance(inner, list):
                    thoughts = cast("list[dict[str, Any]]", inner)
                    self._think("".join(str(thought.get("text", "")) for thought in thoughts), events)
                else:
                    self._say(str(one.get("text") or ""), events)
        elif isinstance(content, str):
            self._say(content, events)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._refused = True
            self._say(refusal, events)
        for call in cast("list[dict[str, Any]]", delta.get("tool_calls") or []):
            self._call(call, events)

    def _think(self, text: str, events: list[ModelEvent]) -> None:
        if text:
            if self._thought is None:
                self._thought = self._new_block()
            events.append(ReasoningChunk(text, self._thought))

    def _say(self, text: str, events: list[ModelEvent]) -> None:
        if text:
            if self._text is None:
                self._text = self._new_block()
            self._said = True
            events.append(TextChunk(text, self._text))

    def _call(self, delta: dict[str, Any], events: list[ModelEvent]) -> None:
        function = part(delta, "function")
        name, given, more = str(function.get("name") or ""), str(delta.get("id") or ""), function.get("arguments")
        arguments = more if isinstance(more, str) else "" if more is None else encode_json(more).decode()
        call = self._open(delta.get("index"), name, given)
        call.given = call.given or given
        call.arguments += arguments
        if call.name:
            if arguments:
                events.append(ToolCallChunk(call.block, arguments=arguments))
        elif name:
            call.name = name
            call.id = self._unique(call.given, call.block)
            self._said = True
            events.append(ToolCallChunk(call.block, call.id, self._names.get(name, name), call.arguments))

    def _open(self, index: Any, name: str, given: str) -> _Call:
        """Find the call that a piece belongs to. Some servers leave the index out, or use it for several calls."""
        number = index if isinstance(index, int) else self._number(name, given)
        call = self._calls.get(number)
        if call is not None and call.name and name:
            another = given != call.given if given else _is_object(call.arguments)
            call = None if another else call
        if call is None:
            call = self._calls[number] = _Call(self._new_block())
            self._text = None  # text after a call is another text
        return call

    def _number(self, name: str, given: str) -> int:
        known = next((number for number, call in self._calls.items() if given and call.given == given), None)
        return known if known is not None else len(self._calls) if name else max(self._calls, default=0)

    def _unique(self, id: str, block: int) -> str:
        """Keep the server's id; one that is missing or used twice is made from the response's own."""
        if not id or id in self._ids:
            id = derive_id("call", self._response, str(block))
        self._ids.add(id)
        return id

    def _new_block(self) -> int:
        self._blocks += 1
        return self._blocks - 1

    def end(self) -> Iterable[ModelEvent]:
        if self._pieces == 0:
            raise self._wrong(BadResponse, "the server's answer holds no stream of pieces; is the base_url right?")
        if self._reason is None:
            raise self._wrong(ModelUnreachable, "the stream ended before the answer was complete")
        if any(not call.name for call in self._calls.values()):
            raise self._wrong(BadResponse, "a tool call has no name")
        if self._reason == "content_filter" and not self._said:
            raise self._wrong(ContentRefused, "the answer was withheld by a filter")
        if self._reason in ("insufficient_system_resource", "error"):
            raise self._wrong(Overloaded, f"the answer broke off ({self._reason})")
        if self._thought is not None and self._returns:
            given_back = {"details": _joined(self._thoughts)} if self._thoughts else {"field": "reasoning_content"}
            yield ReasoningChunk(block=self._thought, opaque=Opaque(self._provider, given_back))
        yield Finished(self._finish(), self._usage, self._answered_by, self._provider, self._response)

    def used(self) -> Usage:
        return self._usage  # it is said last

    def _finish(self) -> FinishReason:
        if self._refused or self._reason == "content_filter":
            return "refused"
        if self._reason == "length":
            return "max_tokens"
        # Many servers say "stop" beside tool calls, and OpenAI does so when a tool was forced.
        return "tool" if self._calls else "stop"

    def _fail(self, error: Any) -> None:
        if not error:
            return
        said = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": str(error)}
        codes = [str(one) for one in (said.get("code"), said.get("type")) if one is not None]
        message = str(said.get("message") or said)
        raise classify(message, provider=self._provider, model=self._model, codes=codes)


def _is_object(text: str) -> bool:
    try:
        return isinstance(decode_json(text), dict)
    except ValueError:
        return False


def _joined(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the pieces of each thought: OpenRouter streams them by index."""
    joined: list[dict[str, Any]] = []
    for one in details:
        last = joined[-1] if joined else None
        if last is None or (last.get("index"), last.get("type")) != (one.get("index"), one.get("type")):
            joined.append(dict(one))
            continue
        for key, value in one.items():
            grows = key in ("text", "summary", "data") and isinstance(value, str) and isinstance(last.get(key), str)
            last[key] = last[key] + value if grows else last.get(key) if value is None else value
    return joined


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Read what an answer consumed, as OpenAI and the servers of its wire count it."""
    read = part(usage, "prompt_tokens_details")
    wrote = part(usage, "completion_tokens_details")
    inputs, outputs = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    reasoning = int(wrote.get("reasoning_tokens") or 0)
    # xAI does not count thoughts as output, as its own total shows.
    if reasoning and usage.get("total_tokens") == inputs + outputs + reasoning:
        outputs += reasoning
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cache_read_tokens=int(read.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0),
        cache_write_tokens=int(read.get("cache_write_tokens") or 0),
        reasoning_tokens=reasoning,
    )
