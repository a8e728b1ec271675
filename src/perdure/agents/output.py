"""Structured output: a type becomes a JSON schema, and a model's answer becomes a value of the type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Union, cast

import msgspec

from perdure.agents.adapters import schema_of, with_structs
from perdure.models.model import OutputSpec, ToolSpec
from perdure.types.base import Json, decode_json, encode_json
from perdure.types.errors import DefinitionError, ModelRetry

ANSWER_TOOL = "final_answer"
"""The tool by which a model without native structured output gives its answer."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Output:
    """How answers of one output type are asked for, checked, kept and read back.

    Raises:
        DefinitionError: there is no JSON schema for the type.
    """

    __slots__ = ("_adapter", "_struct", "_wrapped", "name", "spec", "tool")

    def __init__(self, kind: Any) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        several = isinstance(kind, tuple)
        one: Any = Union[cast("Any", kind)] if several else kind  # noqa: UP007  # made from a tuple at run time
        try:
            self._adapter: TypeAdapter[Any] | None = None
            self._struct: Callable[[bytes], Any] | None = None
            if isinstance(one, type) and issubclass(one, msgspec.Struct):
                schema = _inline_root(msgspec.json.schema(one))
                self._struct = msgspec.json.Decoder(one).decode
            else:
                self._adapter = TypeAdapter(with_structs(one))
                schema = _inline_root(schema_of(self._adapter, f"output_type={kind!r}"))
        except (PydanticUserError, TypeError, ValueError) as error:
            # what pydantic says after this is about its own settings
            said = str(error).partition("\n")[0].partition(" Set `")[0].rstrip(".")
            raise DefinitionError(
                f"output_type={kind!r} has no JSON schema: {said}. Use a pydantic model, dataclass, TypedDict, "
                "msgspec struct, or plain types."
            ) from error
        self._wrapped = schema.get("type") != "object"
        if self._wrapped:
            definitions = schema.pop("$defs", None)
            schema = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
            if definitions:
                schema["$defs"] = definitions
        self.name = re.sub(r"\W+", "_", getattr(kind, "__name__", "answer"))[:60] or "answer"
        self.spec = OutputSpec(self.name, schema, str(schema.get("description", "")))
        self.tool = ToolSpec(ANSWER_TOOL, "Give the final answer. Call this exactly once, when you are done.", schema)

    def check_text(self, text: str) -> Json:
        """Read an answer that is JSON text.

        Raises:
            ModelRetry: it does not fit; the message tells the model what is wrong.
        """
        fenced = _FENCE.match(text)
        try:
            value = decode_json(fenced.group(1) if fenced else text)
        except msgspec.DecodeError as error:
            raise ModelRetry(f"The answer is not valid JSON ({error}). Answer with the JSON object alone.") from error
        return self.check(value)

    def check(self, value: Any) -> Json:
        """Check an answer that is plain JSON; return what is kept."""
        kept = cast("Json", value)
        bare = False
        if self._wrapped:
            bare = not isinstance(kept, dict) or "result" not in kept
            kept = kept["result"] if isinstance(kept, dict) and not bare else kept
        try:
            self.load(kept)
        except ModelRetry:
            raise
        except (ValueError, msgspec.ValidationError) as error:
            if bare:  # a value that fits is taken without its wrapping; one that does not is told of the wrapping first
                raise ModelRetry('The answer must be a JSON object with the key "result".') from error
            raise ModelRetry(f"The answer does not fit: {readable(error)}. Correct it and answer again.") from error
        return kept

    def load(self, value: Json) -> Any:
        """Make the typed object from what was kept."""
        data = encode_json(value)
        if self._struct is not None:
            return self._struct(data)
        assert self._adapter is not None
        return self._adapter.validate_json(data)

    def partial(self, text: str) -> Any | None:
        """Read the beginning of an answer as far as it goes; None if there is nothing yet."""
        from pydantic import ValidationError
        from pydantic_core import from_json

        try:
            value = from_json(text, allow_partial="trailing-strings")
            if self._wrapped:
                value = cast("dict[str, Any]", value).get("result") if isinstance(value, dict) else None
            if value is None:
                return None
            if self._adapter is None:
                return self.load(value)
            return self._adapter.validate_python(value, experimental_allow_partial="trailing-strings")
        except (ValidationError, ValueError, msgspec.ValidationError):
            return None


def _inline_root(schema: dict[str, Any]) -> dict[str, Any]:
    """Put a root that is only a reference in place, since providers want an object at the top."""
    reference = schema.get("$ref", "")
    definitions = schema.get("$defs", {})
    name = reference.rpartition("/")[2]
    if not reference or name not in definitions:
        return dict(schema)
    root = dict(definitions[name])
    used = b"/" + name.encode() + b'"'
    rest = {key: value for key, value in definitions.items() if key != name or used in encode_json(definitions)}
    return {**root, "$defs": rest} if rest else root


def readable(error: Exception) -> str:
    """Say in one line what does not fit."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    lines = [
        f"{'.'.join(str(part) for part in one['loc']) or 'the value'}: {one['msg']}"
        for one in details(include_url=False, include_input=False)
    ]
    return "; ".join(lines[:10])
