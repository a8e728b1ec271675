"""JSON schemas in each provider's dialect, and tool names that every provider takes. Pure.

`object_schema` makes any schema (one of pydantic, or of an MCP server in an older draft) a clean one of draft 2020-12
whose top level is a plain object. A dialect then keeps what its provider takes. A constraint that the provider does
not take is written into the description, so that the model still knows it; whoever asked validates the answer anyway.
A strict dialect returns None where it could not keep the meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from perdure.models.object_schema import (
    Schema,
    as_object,
    cyclic_defs,
    object_schema,
    target,
    types_of,
    used_defs,
    words,
)
from perdure.types.base import Base, encode_json

MAX_NAME = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def safe_name(name: str) -> str:
    """Make a tool's name one that every provider takes.

    Returns:
        The name itself if it is a letter or `_`, then letters, digits, `_` and `-`, at most 64; else the nearest one,
        with a short hash of the original name, so that two names never become one.
    """
    if _NAME.match(name):
        return name
    near = _NO_NAME.sub("_", name).strip("_-") or "tool"
    near = near if near[0].isalpha() else f"_{near}"
    return f"{near[: MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _described(node: Schema, unsaid: Mapping[str, Any]) -> Schema:
    """Add constraints that a dialect lacks to the description."""
    if unsaid:
        told = ", ".join(f"{key}: {encode_json(value).decode()}" for key, value in unsaid.items())
        before = node.get("description")
        node["description"] = f"{before} ({told})" if before else told
    return node


# -- strict dialects ------------------------------------------------------------------------------------------------

_CONSTRAINTS = words(
    "minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems"
    " uniqueItems contains minContains maxContains minProperties maxProperties not if then else propertyNames"
    " dependentRequired dependentSchemas contentEncoding contentMediaType"
)
_KEPT = frozenset({"type", "enum", "const", "title", "description"})
_FORMATS = words("date-time time date duration email hostname ipv4 ipv6 uuid")


class _Inexpressible(Exception):
    """The dialect cannot say this schema."""


class _Dialect(Base):
    """What a provider's strict mode takes.

    `constraints` says whether a constraint can be said natively; `optional` whether a property may be left out.
    """

    constraints: Callable[[str, Any], bool]
    optional: bool
    recursive: bool
    most_optional: int | None = None
    most_unions: int | None = None


_OPENAI = words("pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems")
_OPENAI_STRICT = _Dialect(
    constraints=lambda key, value: key in _OPENAI or (key == "format" and value in _FORMATS),
    optional=False,
    recursive=True,
)
_ANTHROPIC_STRICT = _Dialect(
    constraints=lambda key, value: (
        (key == "format" and (value in _FORMATS or value == "uri")) or (key == "minItems" and value in (0, 1))
    ),
    optional=True,
    recursive=False,
    most_optional=24,
    most_unions=16,
)


def openai_strict(schema: Mapping[str, Any]) -> Schema | None:
    """Write a schema for OpenAI's strict mode, where every property is required and no other is allowed.

    Returns:
        None if the schema cannot be strict: a property may be left out and may not be null instead, an object takes
        any property, a value has any type, an array is a tuple.
    """
    return _strict(schema, _OPENAI_STRICT)


def anthropic_strict(schema: Mapping[str, Any]) -> Schema | None:
    """Write a schema for Anthropic's structured outputs and strict tools.

    Returns:
        None if the schema cannot be strict: it is recursive, an object takes any property, a value has any type, or
        there are more optional properties or unions than the API compiles.
    """
    return _strict(schema, _ANTHROPIC_STRICT)


def anthropic_schema(schema: Mapping[str, Any]) -> Schema:
    """Write the input schema of a tool for Anthropic: JSON schema, with nothing combined at the top."""
    return object_schema(schema)


def _strict(schema: Mapping[str, Any], dialect: _Dialect) -> Schema | None:
    clean = object_schema(schema)
    if clean.get("additionalProperties") not in (None, False):
        return None
    writer = _StrictWriter(clean.pop("$defs", {}), dialect)
    try:
        top = writer.write(clean, ())
        writer.count()
    except _Inexpressible:
        return None
    if writer.defs:
        top["$defs"] = writer.defs
    return top


class _StrictWriter:
    def __init__(self, source: dict[str, Schema], dialect: _Dialect) -> None:
        self._source = source
        self._dialect = dialect
        self._optional = 0
        self._unions = 0
        self.defs: dict[str, Schema] = {}

    def write(self, node: Schema, inside: tuple[str, ...]) -> Schema:
        """Write one schema; `inside` names the definitions it is a part of."""
        if "$ref" in node:
            return self._reference(node, inside)
        if "allOf" in node:
            return self.write(self._merged(node), inside)
        kept: Schema = {key: value for key, value in node.items() if key in _KEPT}
        choices = node.get("anyOf") or node.get("oneOf")
        if choices is not None:
            if "properties" in node or "items" in node:
                raise _Inexpressible
            kept.pop("type", None)
            kept["anyOf"] = [self.write(one, inside) for one in choices]
            self._unions += 1
            return kept
        if "enum" in node or "const" in node:
            values: list[Any] = node["enum"] if "enum" in node else [node["const"]]
            if any(isinstance(value, (dict, list)) for value in values):
                raise _Inexpressible
            kept.setdefault("type", _type_of(values))
        types = types_of(kept)
        if not types:
            raise _Inexpressible
        if len(types) > 1:
            self._unions += 1
        if "object" in types:
            self._object(node, kept, inside)
        if "array" in types:
            items = node.get("items")
            if not items or items is True or "prefixItems" in node:
                raise _Inexpressible
            kept["items"] = self.write(items, inside)
        said = {key: value for key, value in node.items() if key in _CONSTRAINTS}
        native = {key: value for key, value in said.items() if self._dialect.constraints(key, value)}
        return _described(kept | native, {key: value for key, value in said.items() if key not in native})

    def _merged(self, node: Schema) -> Schema:
        if len(node["allOf"]) == 1:
            return {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
        followed = set[str]()
        plain = as_object(node, self._source, (), followed)
        if plain is None or "properties" not in plain or followed & cyclic_defs(self._source):
            raise _Inexpressible
        return {"type": "object", **plain}

    def _reference(self, node: Schema, inside: tuple[str, ...]) -> Schema:
        name = target(node)
        recursive = name in inside
        if recursive and not self._dialect.recursive:
            raise _Inexpressible
        told = {key: value for key, value in node.items() if key != "$ref" and key in (_KEPT | _CONSTRAINTS)}
        if told and not recursive:  # neither provider takes anything beside a reference
            return self.write({**self._source[name], **told}, (*inside, name))
        if name not in self.defs:
            self.defs[name] = {}
            self.defs[name] = self.write(self._source[name], (*inside, name))
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, node: Schema, kept: Schema, inside: tuple[str, ...]) -> None:
        if node.get("additionalProperties") not in (None, False) or "patternProperties" in node:
            raise _Inexpressible
        if "properties" not in node:
            raise _Inexpressible  # an object of anything
        properties: dict[str, Schema] = node["properties"]
        required: list[str] = [name for name in node.get("required", ()) if name in properties]
        for name, one in properties.items():
            if name in required:
                continue
            self._optional += 1
            # To leave a property out and to say null must be the same for whoever reads it.
            if not self._dialect.optional and (one.get("default") is not None or not self._nullable(one)):
                raise _Inexpressible
        kept["properties"] = {name: self.write(one, inside) for name, one in properties.items()}
        kept["required"] = required if self._dialect.optional else list(properties)
        kept["additionalProperties"] = False

    def _nullable(self, node: Schema, seen: tuple[str, ...] = ()) -> bool:
        if "$ref" in node:
            name = target(node)
            return name not in seen and self._nullable(self._source[name], (*seen, name))
        choices = node.get("anyOf") or node.get("oneOf") or ()
        values = node.get("enum", [node["const"]] if "const" in node else None)
        if values is not None and None not in values:
            return False
        return "null" in types_of(node) or any(self._nullable(one, seen) for one in choices)

    def count(self) -> None:
        """Refuse more than the provider compiles."""
        for number, most in (
            (self._optional, self._dialect.most_optional),
            (self._unions, self._dialect.most_unions),
        ):
            if most is not None and number > most:
                raise _Inexpressible


_JSON_TYPES: dict[type[object], str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
}


def _type_of(values: list[Any]) -> Any:
    found = list(dict.fromkeys(_JSON_TYPES.get(cast("type[object]", type(value)), "string") for value in values))
    return found[0] if len(found) == 1 else found


# -- Gemini ---------------------------------------------------------------------------------------------------------

_GEMINI = words("title description items prefixItems minItems maxItems minimum maximum required type")
_GEMINI_FORMATS = frozenset({"date-time", "date", "time"})


def gemini_schema(schema: Mapping[str, Any]) -> Schema:
    """Write a schema for Gemini's `parametersJsonSchema` and `responseJsonSchema`, which take a part of JSON schema."""
    clean = object_schema(schema)
    defs: dict[str, Schema] = clean.pop("$defs", {})
    cyclic = cyclic_defs(defs)
    written = _gemini(clean, defs, cyclic, ())
    needed = used_defs(written, {name: _gemini(one, defs, cyclic, (name,)) for name, one in defs.items()})
    if needed:
        written["$defs"] = needed
    return written


def _gemini(node: Schema, defs: dict[str, Schema], cyclic: set[str], inside: tuple[str, ...]) -> Schema:
    def write(one: Schema) -> Schema:
        return _gemini(one, defs, cyclic, inside)

    if "$ref" in node:
        name = target(node)
        told = {key: value for key, value in node.items() if key in ("title", "description")}
        # Nothing may stand beside a reference; a definition that refers to itself cannot be written out instead.
        if not told or name in cyclic or name in inside:
            return {"$ref": node["$ref"]}
        return _gemini({**defs[name], **told}, defs, cyclic, (*inside, name))
    if "allOf" in node:
        followed = set[str]()
        plain = as_object(node, defs, inside, followed)
        merged = {**node, **(node["allOf"][0] if plain is None else plain)}
        rest = {key: value for key, value in merged.items() if key != "allOf"}
        return _gemini(rest, defs, cyclic, (*inside, *followed))
    written: Schema = {key: node[key] for key in node if key in _GEMINI and not isinstance(node[key], (dict, bool))}
    if "prefixItems" in node:
        written["prefixItems"] = [write(one) for one in node["prefixItems"]]
    if isinstance(node.get("items"), dict):
        written["items"] = write(node["items"])
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        written["anyOf"] = [write(one) for one in choices]
    if "properties" in node:
        written["properties"] = {name: write(one) for name, one in node["properties"].items()}
    # References to itself are only taken inside properties that may be left out.
    looping = [name for name, one in node.get("properties", {}).items() if cyclic & set(used_defs(one, defs))]
    if "required" in node:
        written["required"] = [
            name for name in node["required"] if name in node.get("properties", {}) and name not in looping
        ]
    others = node.get("additionalProperties")
    if others is not None:
        written["additionalProperties"] = others if isinstance(others, bool) else write(others)
    unsaid = {key: node[key] for key in node if key in _CONSTRAINTS and key not in _GEMINI}
    if unsaid.get("format") in _GEMINI_FORMATS and "string" in types_of(node):
        written["format"] = unsaid.pop("format")
    for key, limit, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if isinstance(unsaid.get(key), int) and types_of(node) == ["integer"]:
            written[limit] = unsaid.pop(key) + step
    _gemini_values(node, written, unsaid)
    return _described(written, unsaid)


def _gemini_values(node: Schema, written: Schema, unsaid: Schema) -> None:
    """Write an enumeration: strings and numbers as such, null as a type, anything else into the description."""
    if "enum" not in node and "const" not in node:
        return
    values: list[Any] = node["enum"] if "enum" in node else [node["const"]]
    plain = [value for value in values if isinstance(value, (str, int, float)) and not isinstance(value, bool)]
    if not plain or any(value is not None and value not in plain for value in values):
        unsaid["one of"] = values
        if "type" not in written and all(not isinstance(value, (dict, list)) for value in values):
            written["type"] = _type_of(values)
    elif len(plain) < len(values):
        written.pop("type", None)
        written["anyOf"] = [{"type": _type_of(plain), "enum": plain}, {"type": "null"}]
    else:
        written["enum"] = plain
        written.setdefault("type", _type_of(plain))
