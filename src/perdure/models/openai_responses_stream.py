"""Reading a Responses stream: pure, from plain JSON values to the pieces of an answer.

An answer is a list of items (thoughts, messages, calls), each a block of its own. An item that is done is compared
with what its pieces said, so an answer is complete also where a server sends no pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from perdure.models.decoder import Decoder, part
from perdure.models.failures import classify
from perdure.types.chunks import Finished, FinishReason, ModelEvent, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import BadResponse, ContentRefused, ModelError, ModelUnreachable
from perdure.types.messages import Opaque
from perdure.types.usage import Usage


class ResponsesDecoder(Decoder):
    """Reads one answer; events of unknown kinds are passed over."""

    def __init__(self, model: str, names: Mapping[str, str] | None = None, provider: str = "openai") -> None:
        super().__init__(provider, model, names)
        self._sent: dict[int, str] = {}  # what the pieces of each block said so far
        self._parts: dict[int, Any] = {}  # the part of a thought that is being written
        self._called = False
        self._refused = False
        self._thought = False
        self._events = 0
        self._finished: Finished | None = None
        self._usage = Usage()

    def feed(self, chunk: Any) -> Iterable[ModelEvent]:
        event = self._object(chunk)
        self._events += 1
        usage = part(event, "response").get("usage")
        if usage:
            self._usage = read_usage(usage)
        match event.get("type"):
            case "response.output_text.delta":
                return self._more(event, TextChunk)
            case "response.refusal.delta":
                self._refused = True
                return self._more(event, TextChunk)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._thinking(event)
            case "response.function_call_arguments.delta":
                return self._more(event, _arguments)
            case "response.function_call_arguments.done":
                return self._rest(_block(event), str(event.get("arguments") or ""), _arguments)
            case "response.output_item.added":
                return self._added(event)
            case "response.output_item.done":
                return self._done(event)
            case "response.completed" | "response.incomplete":
                return self._complete(event)
            case "response.failed":
                raise self._error(part(event, "response"))
            case "error":
                raise self._error(event)
            case None if event.get("error"):
                raise self._error(event)
            case _:
                return ()

    # -- items ------------------------------------------------------------------------------------------------------

    def _added(self, event: dict[str, Any]) -> list[ModelEvent]:
        item, block = _item(event)
        if item.get("type") == "reasoning":
            self._thought = True
        return self._begin_call(item, block) if item.get("type") == "function_call" else []

    def _begin_call(self, item: dict[str, Any], block: int) -> list[ModelEvent]:
        if block in self._sent:
            return []
        name = item.get("name")
        if not isinstance(name, str) or not name:
            raise self._wrong(BadResponse, "a tool call has no name")
        self._called = True
        self._sent[block] = ""
        id = str(item.get("call_id") or item.get("id") or "")
        return [ToolCallChunk(block, id, self._names.get(name, name), opaque=self._kept(item, "id"))]

    def _kept(self, item: dict[str, Any], *fields: str) -> Opaque | None:
        """What an item is to be called when it is given back; OpenAI wants it only beside thoughts of its own."""
        kept = {name: item[name] for name in fields if item.get(name)}
        return Opaque(self._provider, kept) if kept and (self._thought or "phase" in kept) else None

    def _done(self, event: dict[str, Any]) -> list[ModelEvent]:
        item, block = _item(event)
        kind = item.get("type")
        if kind == "function_call":
            events = self._begin_call(item, block)
            return events + self._rest(block, str(item.get("arguments") or ""), _arguments)
        if kind == "message":
            events = self._rest(block, self._message_text(item), TextChunk)
            kept = self._kept(item, "id", "phase")
            return [*events, TextChunk("", block, kept)] if kept and self._sent.get(block) else events
        if kind == "reasoning":
            self._thought = True
            texts = cast("list[dict[str, Any]]", item.get("summary") or item.get("content") or [])
            events = self._rest(block, "\n\n".join(str(one.get("text") or "") for one in texts), _thought)
            given_back = {key: value for key, value in item.items() if key != "status" and value is not None}
            return [*events, ReasoningChunk(block=block, opaque=Opaque(self._provider, given_back))]
        return []

    def _message_text(self, item: dict[str, Any]) -> str:
        text = ""
        for one in cast("list[dict[str, Any]]", item.get("content") or []):
            if one.get("type") == "refusal":
                self._refused = True
            text += str(one.get("text") or one.get("refusal") or "")
        return text

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _thinking(self, event: dict[str, Any]) -> list[ModelEvent]:
        block = _block(event)
        place = event.get("summary_index", event.get("content_index"))
        gap = "\n\n" if block in self._parts and self._parts[block] != place else ""
        self._parts[block] = place
        return self._more(event, _thought, gap)

    def _more(
        self, event: dict[str, Any], make: Callable[[str, int], ModelEvent], before: str = ""
    ) -> list[ModelEvent]:
        text = event.get("delta")
        if not isinstance(text, str) or not text:
            return []
        block = _block(event)
        self._sent[block] = self._sent.get(block, "") + before + text
        return [make(before + text, block)]

    def _rest(self, block: int, whole: str, make: Callable[[str, int], ModelEvent]) -> list[ModelEvent]:
        """What a finished item says beyond its pieces."""
        sent = self._sent.get(block, "")
        if len(whole) <= len(sent) or not whole.startswith(sent):
            return []
        self._sent[block] = whole
        return [make(whole[len(sent) :], block)]

    # -- endings ----------------------------------------------------------------------------------------------------

    def _complete(self, event: dict[str, Any]) -> list[ModelEvent]:
        response = part(event, "response")
        events: list[ModelEvent] = []
        if not self._sent:  # a server that sent no items as it went
            for number, item in enumerate(cast("list[dict[str, Any]]", response.get("output") or [])):
                events += self._done({"item": item, "output_index": number})
        cause = part(response, "incomplete_details").get("reason")
        reason: FinishReason = "tool" if self._called else "stop"
        if self._refused or cause == "content_filter":
            reason = "refused"
            if not any(self._sent.values()):
                raise self._wrong(ContentRefused, "the answer was withheld by a filter")
        elif cause is not None or response.get("status") == "incomplete":
            reason = "max_tokens"
        self._finished = Finished(
            reason,
            self._usage,
            str(response.get("model") or self._model),
            self._provider,
            str(response.get("id") or ""),
        )
        return events

    def _error(self, where: dict[str, Any]) -> ModelError:
        inner = where.get("error")
        said = cast("dict[str, Any]", inner) if isinstance(inner, dict) else where
        codes = [str(one) for one in (said.get("code"), said.get("type")) if one]
        message = str(said.get("message") or "the provider gave no reason for its failure")
        return classify(message, provider=self._provider, model=self._model, codes=codes)

    def end(self) -> Iterable[ModelEvent]:
        if self._events == 0:
            raise self._wrong(BadResponse, "the server's answer holds no stream of events; is the base_url right?")
        if self._finished is None:
            raise self._wrong(ModelUnreachable, "the stream ended before the answer was complete")
        return [self._finished]

    def used(self) -> Usage:
        return self._usage  # it is said at the end, also if that is an error


def _arguments(text: str, block: int) -> ToolCallChunk:
    return ToolCallChunk(block, arguments=text)


def _thought(text: str, block: int) -> ReasoningChunk:
    return ReasoningChunk(text, block)


def _block(event: dict[str, Any]) -> int:
    number = event.get("output_index")
    return number if isinstance(number, int) else 0


def _item(event: dict[str, Any]) -> tuple[dict[str, Any], int]:
    return part(event, "item"), _block(event)


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """Read what an answer consumed."""
    read = part(usage, "input_tokens_details")
    wrote = part(usage, "output_tokens_details")
    return Usage(
        input_tokens=int(usage.get("input_tokens") or 0),
        output_tokens=int(usage.get("output_tokens") or 0),
        cache_read_tokens=int(read.get("cached_tokens") or 0),
        cache_write_tokens=int(read.get("cache_write_tokens") or 0),
        reasoning_tokens=int(wrote.get("reasoning_tokens") or 0),
    )
