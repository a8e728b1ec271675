"""Reading the stream of Anthropic's Messages API. Pure.

Every block is a text, a thought or a tool call. A block of another kind (a tool that runs at the provider, or something
newer than this file) is kept whole, as an empty text that only this provider reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from perdure.models.decoder import Decoder, part
from perdure.models.failures import classify
from perdure.types.base import encode_json
from perdure.types.chunks import Finished, FinishReason, ModelEvent, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import ModelUnreachable
from perdure.types.messages import Opaque, parse_arguments
from perdure.types.usage import Usage

PROVIDER = "anthropic"

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refused",
    # A tool that runs at the provider took too long: the answer is not complete, the next turn continues it.
    "pause_turn": "max_tokens",
}


class AnthropicDecoder(Decoder):
    """Reads one answer; `after` marks the prompt, so that a thought goes back only after the same one."""

    def __init__(
        self, model: str, names: Mapping[str, str] | None = None, *, after: Callable[[], str] | None = None
    ) -> None:
        super().__init__(PROVIDER, model, names)
        self._after = after
        self._blocks: dict[int, dict[str, Any]] = {}
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._response: dict[str, Any] = {}
        self._reason: str | None = None

    def feed(self, chunk: Any) -> Iterator[ModelEvent]:
        event = self._object(chunk)
        match event.get("type"):
            case "message_start":
                self._response = part(event, "message")
                self._count(self._response.get("usage"))
            case "content_block_start":
                yield from self._start(event.get("index", 0), part(event, "content_block"))
            case "content_block_delta":
                yield from self._delta(event.get("index", 0), part(event, "delta"))
            case "content_block_stop":
                yield from self._stop(event.get("index", 0))
            case "message_delta":
                self._reason = part(event, "delta").get("stop_reason") or self._reason
                self._count(event.get("usage"))
            case "error":
                error = part(event, "error")
                said = str(error.get("message") or error or "the provider reported an error")
                raise classify(said, provider=PROVIDER, model=self._model, codes=[error.get("type")])
            case _:
                return  # pings, and what is newer than this file

    def end(self) -> Iterator[ModelEvent]:
        if self._reason is None:
            raise self._wrong(ModelUnreachable, "the answer broke off before its end")
        for number in list(self._blocks):
            yield from self._stop(number)
        yield Finished(
            reason=_REASONS.get(self._reason, "stop"),
            usage=self._counted(),
            model=self._response.get("model") or self._model,
            provider=PROVIDER,
            response_id=self._response.get("id") or "",
        )

    def used(self) -> Usage:
        """Say what the answer has used so far: the prompt is counted at its beginning."""
        return self._counted()

    def _start(self, number: int, block: dict[str, Any]) -> Iterator[ModelEvent]:
        self._blocks[number] = dict(block)
        match block.get("type"):
            case "text":
                if block.get("text"):
                    yield TextChunk(block["text"], block=number)
            case "thinking":
                if block.get("thinking"):
                    yield ReasoningChunk(block["thinking"], block=number)
            case "tool_use":
                name = block.get("name") or ""
                yield ToolCallChunk(block=number, id=block.get("id") or "", name=self._names.get(name, name))
            case _:
                return

    def _delta(self, number: int, delta: dict[str, Any]) -> Iterator[ModelEvent]:
        block = self._blocks.setdefault(number, {"type": "text"})
        match delta.get("type"):
            case "text_delta":
                yield TextChunk(delta.get("text") or "", block=number)
            case "thinking_delta":
                text = delta.get("thinking") or ""
                block["thinking"] = (block.get("thinking") or "") + text
                yield ReasoningChunk(text, block=number)
            case "signature_delta":
                block["signature"] = (block.get("signature") or "") + (delta.get("signature") or "")
            case "input_json_delta":
                text = delta.get("partial_json") or ""
                self._json.setdefault(number, []).append(text)
                if block.get("type") == "tool_use" and text:
                    yield ToolCallChunk(block=number, arguments=text)
            case _:
                return

    def _stop(self, number: int) -> Iterator[ModelEvent]:
        block = self._blocks.pop(number, {})
        written = "".join(self._json.pop(number, []))
        match block.get("type"):
            case None | "text":
                return
            case "tool_use":
                # Some servers give the arguments at once, at the start.
                if not written and block.get("input"):
                    yield ToolCallChunk(block=number, arguments=encode_json(block["input"]).decode())
            case "thinking" | "redacted_thinking":
                kept: dict[str, Any] = {"block": block}
                if self._after is not None:
                    kept["after"] = self._after()
                yield ReasoningChunk(block=number, opaque=Opaque(PROVIDER, kept))
            case _:
                if written:
                    block["input"] = parse_arguments(written)
                yield TextChunk("", block=number, opaque=Opaque(PROVIDER, {"block": block}))

    def _count(self, usage: dict[str, Any] | None) -> None:
        """Take the latest count of each kind: they are of the whole answer so far."""
        self._usage |= {key: value for key, value in (usage or {}).items() if value is not None}

    def _counted(self) -> Usage:
        read = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        return Usage(
            # The provider counts what came from the cache apart from the rest of the prompt.
            input_tokens=self._usage.get("input_tokens", 0) + read + written,
            output_tokens=self._usage.get("output_tokens", 0),
            cache_read_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=part(self._usage, "output_tokens_details").get("thinking_tokens", 0),
        )
