"""Any JSON schema as a clean one of draft 2020-12 whose top level is a plain object. Pure.

Schemas come from pydantic and from MCP servers, in any draft: without a type, with `$schema`, with alternatives at the
top, with references to anywhere in themselves. Here they get one shape, from which each dialect is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

Schema: TypeAlias = "dict[str, Any]"


def words(text: str) -> frozenset[str]:
    """Read a set of keywords from a line of text."""
    return frozenset(text.split())


TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_MAPS = words("properties patternProperties dependentSchemas")
_LISTS = words("prefixItems anyOf oneOf allOf")
_SINGLE = words(
    "items additionalProperties unevaluatedProperties unevaluatedItems contains propertyNames not if then else"
)
_DROPPED = words("$schema $id $anchor $comment $vocabulary $dynamicRef $dynamicAnchor $defs definitions")
_COMBINED = words("$ref allOf anyOf oneOf")
_NOT_ON_TOP = _COMBINED | words("not if then else enum const type nullable")


def object_schema(schema: Mapping[str, Any]) -> Schema:
    """Make any schema a clean one of draft 2020-12 whose top level is a plain object.

    References inside the schema are kept as `#/$defs/…`; what combines alternatives at the top is merged into one
    object, which takes everything that one of them takes.
    """
    reader = _Reader(schema)
    top = reader.clean(schema)
    plain = as_object(top, reader.defs) or {"properties": {}}
    clean: Schema = {"type": "object", "properties": plain.pop("properties", {})}
    clean |= {key: value for key, value in plain.items() if key not in _NOT_ON_TOP}
    needed = used_defs(clean, reader.defs)
    if needed:
        clean["$defs"] = needed
    return clean


class _Reader:
    """Reads a schema of any draft; what `$ref`s point to is collected in `defs` under unique names."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._names: dict[str, str | None] = {}
        self.defs: dict[str, Schema] = {}

    def clean(self, node: Any) -> Schema:
        if not isinstance(node, Mapping):
            return {"not": {}} if node is False else {}
        source = cast("Mapping[str, Any]", node)
        clean: Schema = {}
        for key, value in source.items():
            if key == "$ref":
                name = self._definition(value)
                if name is not None:
                    clean["$ref"] = f"#/$defs/{name}"
            elif key in _DROPPED or key == "additionalItems":
                continue
            elif key in _MAPS:
                if isinstance(value, Mapping):
                    items = cast("Mapping[str, Any]", value).items()
                    clean[key] = {name: self.clean(one) for name, one in items}
            elif key == "items" and isinstance(value, list):  # a tuple, before draft 2020
                if value:
                    clean["prefixItems"] = [self.clean(one) for one in cast("list[Any]", value)]
                rest = source.get("additionalItems")
                if rest is not None:
                    clean["items"] = self._single(rest)
            elif key in _LISTS:
                if isinstance(value, list) and value:
                    clean[key] = [self.clean(one) for one in cast("list[Any]", value)]
            elif key in _SINGLE:
                clean[key] = self._single(value)
            else:
                _keep(clean, key, value, source)
        if source.get("nullable") is True and "type" in clean and "null" not in types_of(clean):
            clean["type"] = [*types_of(clean), "null"]
            if "enum" in clean and None not in clean["enum"]:
                clean["enum"] = [*clean["enum"], None]
        return clean

    def _single(self, value: Any) -> Any:
        return value if isinstance(value, bool) else self.clean(value)

    def _definition(self, pointer: Any) -> str | None:
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            return None
        if pointer not in self._names:
            found = self._find(pointer)
            if found is None:
                self._names[pointer] = None
                return None
            wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", pointer.rsplit("/", 1)[-1].strip("#")) or "Root"
            name, number = wanted, 1
            while name in self.defs:
                number += 1
                name = f"{wanted}{number}"
            self._names[pointer] = name
            self.defs[name] = {}  # taken before it is read, because it may refer to itself
            self.defs[name] = self.clean(found)
        return self._names[pointer]

    def _find(self, pointer: str) -> Any:
        found: Any = self._root
        for token in pointer[1:].split("/")[1:]:
            token = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping):
                found = cast("Mapping[str, Any]", found).get(token)
            elif isinstance(found, list) and token.isdigit() and int(token) < len(cast("list[Any]", found)):
                found = cast("list[Any]", found)[int(token)]
            else:
                return None
        return found


def _keep(clean: Schema, key: str, value: Any, node: Mapping[str, Any]) -> None:
    """Take over a keyword that holds no schema, if its value is one of draft 2020-12."""
    if key == "type":
        names = cast("list[Any]", value) if isinstance(value, list) else [value]
        known = [name.lower() for name in names if isinstance(name, str) and name.lower() in TYPES]
        types = list(dict.fromkeys(known))
        if types:
            clean["type"] = types[0] if len(types) == 1 else types
    elif key == "required":
        if isinstance(value, list):
            clean["required"] = list(dict.fromkeys(one for one in cast("list[Any]", value) if isinstance(one, str)))
    elif key in ("exclusiveMinimum", "exclusiveMaximum"):
        limit = key.removeprefix("exclusive").lower()
        if value is True and limit in node:  # draft 4 says only whether the limit itself is allowed
            clean[key] = node[limit]
            clean.pop(limit, None)
        elif not isinstance(value, bool):
            clean[key] = value
    elif key in ("minimum", "maximum"):
        if node.get(f"exclusive{key.capitalize()}") is not True:
            clean[key] = value
    elif key == "enum":
        if isinstance(value, list) and value:
            clean[key] = value
    elif key in ("title", "description", "format", "pattern"):
        if isinstance(value, str):
            clean[key] = value
    elif key not in ("nullable", "id"):
        clean[key] = value


def types_of(node: Mapping[str, Any]) -> list[str]:
    """List the types that a schema names."""
    kind: Any = node.get("type")
    return cast("list[str]", kind) if isinstance(kind, list) else [kind] if kind else []


def target(node: Mapping[str, Any]) -> str:
    """Name the definition that a reference points to."""
    return cast("str", node["$ref"]).removeprefix("#/$defs/")


def as_object(
    node: Schema, defs: dict[str, Schema], seen: tuple[str, ...] = (), followed: set[str] | None = None
) -> Schema | None:
    """Read a schema as one plain object; None if it describes something else.

    Args:
        node: the schema, as `object_schema` writes it.
        defs: its definitions.
        seen: the definitions that it is a part of; they are not followed again.
        followed: takes the names of the definitions that went into the object.
    """
    types = types_of(node)
    if types and "object" not in types:
        return None
    plain = {key: value for key, value in node.items() if key not in _COMBINED}
    if "$ref" in node:
        name = target(node)
        if followed is not None:
            followed.add(name)
        found = None if name in seen else as_object(defs[name], defs, (*seen, name), followed)
        if found is None:
            return None
        plain = _both(found, plain)
    for part in node.get("allOf", ()):
        found = as_object(part, defs, seen, followed)
        if found is not None:
            plain = _both(plain, found)
    for key in ("anyOf", "oneOf"):
        if key in node:
            found = [one for part in node[key] if (one := as_object(part, defs, seen, followed)) is not None]
            if not found:
                return None
            plain = _both(plain, _either(found))
    return plain


def _both(first: Schema, second: Schema) -> Schema:
    joined = {**first, **second}
    if "properties" in first and "properties" in second:
        properties: Schema = dict(first["properties"])
        for name, value in second["properties"].items():
            properties[name] = {**properties[name], **value} if name in properties else value
        joined["properties"] = properties
        # A closed part of an intersection would refuse the properties of the other.
        joined.pop("additionalProperties", None)
    if "required" in first and "required" in second:
        joined["required"] = list(dict.fromkeys([*first["required"], *second["required"]]))
    return joined


def _either(found: list[Schema]) -> Schema:
    properties: dict[str, list[Schema]] = {}
    for one in found:
        for name, value in one.get("properties", {}).items():
            known = properties.setdefault(name, [])
            if value not in known:
                known.append(value)
    joined: Schema = {} if len(found) > 1 else dict(found[0])
    joined["properties"] = {name: all[0] if len(all) == 1 else {"anyOf": all} for name, all in properties.items()}
    required = [name for name in found[0].get("required", ()) if all(name in one.get("required", ()) for one in found)]
    joined.pop("required", None)
    if required:
        joined["required"] = required
    return joined


def cyclic_defs(defs: dict[str, Schema]) -> set[str]:
    """Find the definitions that refer to themselves, also through others."""
    return {name for name in defs if name in used_defs(defs[name], defs)}


def used_defs(node: Any, defs: dict[str, Schema]) -> dict[str, Schema]:
    """Find the definitions that a schema needs, also through one another, in a stable order."""
    found: dict[str, Schema] = {}
    pending = list(_refs(node))
    while pending:
        name = pending.pop(0)
        if name not in found:
            found[name] = defs[name]
            pending += _refs(defs[name])
    return found


def _refs(node: Any) -> Iterable[str]:
    """Name the definitions that a schema refers to directly; values such as defaults are not looked at."""
    for part in _parts(node):
        if isinstance(part.get("$ref"), str):
            yield target(part)


def _parts(node: Any) -> Iterable[Schema]:
    if not isinstance(node, dict):
        return
    schema = cast("Schema", node)
    yield schema
    for key, value in schema.items():
        if key in _MAPS:
            for one in value.values():
                yield from _parts(one)
        elif key in _LISTS:
            for one in value:
                yield from _parts(one)
        elif key in _SINGLE:
            yield from _parts(value)
