"""Reading a stream of Gemini's generateContent. Pure.

A piece has parts; neighbouring parts of one kind are one text, one thought or one call. A part of another kind (an
image, code that ran at the provider) is kept whole, as an empty text that only this provider reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from perdure.models.decoder import Decoder, part
from perdure.models.failures import classify
from perdure.types.base import encode_json
from perdure.types.chunks import Finished, FinishReason, ModelEvent, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.types.errors import BadRequest, BadResponse, ContentRefused, ModelUnreachable
from perdure.types.messages import Opaque
from perdure.types.usage import Usage

PROVIDER = "gemini"

_CUT = frozenset({"MAX_TOKENS", "CONTINUATION", "TOO_MANY_TOOL_CALLS"})
_REFUSED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    }
)
_BROKEN = frozenset({"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"})
_EMPTY = frozenset({"OTHER", "FINISH_REASON_UNSPECIFIED", "NO_IMAGE", "IMAGE_OTHER"})


class GeminiDecoder(Decoder):
    """Reads one answer; `calls` counts those of the conversation, so that a call without an id gets one of its own."""

    def __init__(self, model: str, names: Mapping[str, str] | None = None, *, calls: int = 0) -> None:
        super().__init__(PROVIDER, model, names)
        self._calls = calls
        self._called = False
        self._block = -1
        self._kind: type[TextChunk] | type[ReasoningChunk] | None = None
        self._usage: dict[str, Any] = {}
        self._version = model
        self._response = ""
        self._reason: str | None = None
        self._message = ""

    def feed(self, chunk: Any) -> Iterator[ModelEvent]:
        piece = _plain(chunk)
        error = part(piece, "error")
        if error:
            said = str(error.get("message") or error)
            code: Any = error.get("code")
            status = code if isinstance(code, int) else None
            raise classify(said, provider=PROVIDER, model=self._model, status=status, codes=[error.get("status")])
        self._version = piece.get("modelVersion") or self._version
        self._response = piece.get("responseId") or self._response
        self._usage |= part(piece, "usageMetadata")
        candidates: list[dict[str, Any]] = piece.get("candidates") or []
        blocked = part(piece, "promptFeedback").get("blockReason")
        if blocked and not candidates:
            why = part(piece, "promptFeedback").get("blockReasonMessage") or "change the prompt"
            raise self._wrong(ContentRefused, f"the prompt was blocked ({blocked}): {why}")
        for candidate in candidates[:1]:
            parts: list[dict[str, Any]] = part(candidate, "content").get("parts") or []
            for one in parts:
                yield from self._read(one)
            self._reason = candidate.get("finishReason") or self._reason
            self._message = candidate.get("finishMessage") or self._message

    def end(self) -> Iterator[ModelEvent]:
        reason, said = self._reason, self._block >= 0
        if reason is None:
            raise self._wrong(ModelUnreachable, "the answer broke off before its end")
        wrong = (
            BadResponse
            if reason in _BROKEN or (reason in _EMPTY and not said)
            else ContentRefused
            if reason in _REFUSED and not said
            else BadRequest
            if reason == "MISSING_THOUGHT_SIGNATURE"
            else None
        )
        if wrong is not None:
            why = f"the answer ended with {reason}" + (f": {self._message}" if self._message else "")
            raise self._wrong(wrong, why)
        whole: FinishReason = "tool" if self._called else "stop"
        ended: FinishReason = "max_tokens" if reason in _CUT else "refused" if reason in _REFUSED else whole
        yield Finished(
            reason=ended,
            usage=self._counted(),
            model=self._version,
            provider=PROVIDER,
            response_id=self._response,
        )

    def used(self) -> Usage:
        return self._counted()

    def _read(self, given: dict[str, Any]) -> Iterator[ModelEvent]:
        signature = given.get("thoughtSignature")
        opaque = Opaque(PROVIDER, {"thoughtSignature": signature}) if signature else None
        text = given.get("text")
        call = part(given, "functionCall")
        if call:
            self._begin(None)
            name = call.get("name") or ""
            yield ToolCallChunk(
                block=self._block,
                id=call.get("id") or f"call_{self._calls}",
                name=self._names.get(name, name),
                arguments=encode_json(call.get("args") or {}).decode(),
                opaque=opaque,
            )
            self._calls += 1
            self._called = True
        elif not isinstance(text, str):
            self._begin(None)
            yield TextChunk("", block=self._block, opaque=Opaque(PROVIDER, {"part": given}))
        elif text or opaque is not None:
            kind = ReasoningChunk if given.get("thought") else TextChunk
            if kind is not self._kind:
                self._begin(kind)
            yield kind(text, block=self._block, opaque=opaque)

    def _begin(self, kind: type[TextChunk] | type[ReasoningChunk] | None) -> None:
        self._block += 1
        self._kind = kind

    def _counted(self) -> Usage:
        def count(key: str) -> int:
            return int(self._usage.get(key) or 0)

        thoughts = count("thoughtsTokenCount")
        return Usage(
            input_tokens=count("promptTokenCount") + count("toolUsePromptTokenCount"),
            output_tokens=count("candidatesTokenCount") + thoughts,
            cache_read_tokens=count("cachedContentTokenCount"),
            reasoning_tokens=thoughts,
        )


def _plain(chunk: Any) -> dict[str, Any]:
    if isinstance(chunk, dict):
        return cast("dict[str, Any]", chunk)
    unread = {"sdk_http_response", "parsed", "automatic_function_calling_history"}
    return chunk.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=unread)
