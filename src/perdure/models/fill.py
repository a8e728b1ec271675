"""Values for a JSON schema, read from plain text as well as can be without understanding it. Pure.

A value that stands beside its name in the text (`currency: EUR`, `total = 12`) is taken; else what has the right
shape: the enum member that the text mentions, a number, a date, a quotation, a proper name. What the schema requires
and the text does not tell gets the schema's default, else the least value: an empty text, the smallest number, the
first enum member.
"""

from __future__ import annotations

import re
from typing import Any, cast

from perdure.models.ranking import key_words, terms
from perdure.types.base import Json

_QUERY = (
    "query q question search search_query search_term search_terms term terms keyword keywords topic pattern phrase"
)
QUERY_NAMES = frozenset(_QUERY.split())
"""Names of parameters that searches take the words to search for in."""


_FORMATS = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "date-time": r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?",
    "time": r"\d{2}:\d{2}(?::\d{2})?",
    "email": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "uri": r"[a-z][a-z0-9+.-]*://[^\s<>\"')]+",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[ ,]\d{3})*(?:\.\d+)?(?!\w)")
_NAMED = re.compile(r"(?:(?<=\bin )|(?<=\bfor )|(?<=\bat )|(?<=\bof )|(?<=\bto )|(?<=\bfrom )|(?<=\bam ))[A-Z][\w'-]*")
_PROPER = re.compile(r"(?<=[\w,] )[A-Z][\w'-]*(?: [A-Z][\w'-]*)*")
_QUOTED = re.compile(r"[\"“`]([^\"”`]{1,200})[\"”`]")
_FEW = "name city country place person author user title company currency code unit language id"
_FEW_WORDS = frozenset(_FEW.split())


def fill(schema: dict[str, Any], text: str, query: str | None = None) -> dict[str, Any]:
    """Fill an object's schema from a text.

    Returns:
        Every required property, and of the others those that the text names.
    """
    value = _Filler(schema, text, query).value(schema, "", 0)
    return value if isinstance(value, dict) else {}


class _Filler:
    def __init__(self, root: dict[str, Any], text: str, query: str | None) -> None:
        self._root = root
        self._text = text
        self._query = query if query is not None else " ".join(key_words(text)) or text
        self._terms = set(terms(text))

    def value(self, schema: dict[str, Any], name: str, depth: int) -> Json:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._member(schema)
        kind = self._kind(schema)
        if depth > 8 or kind == "null":
            return None
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer" | "number":
                return self._number(schema, name, whole=kind == "integer")
            case "boolean":
                default: Json = schema.get("default", False)
                return True if name and set(terms(name)) <= self._terms else default
            case _:
                return self._string(schema, name)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow references and take the most telling of several alternatives."""
        for _ in range(10):
            if isinstance(reference := schema.get("$ref"), str):
                found: Any = self._root
                for part in reference.lstrip("#/").split("/"):
                    found = cast("dict[str, Any]", found).get(part, {}) if isinstance(found, dict) else {}
                schema = {**cast("dict[str, Any]", found), **{k: v for k, v in schema.items() if k != "$ref"}}
            elif choices := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: one for key, one in schema.items() if key not in ("anyOf", "oneOf")}
                telling = [one for one in choices if one.get("type") != "null"] or choices
                schema = {**rest, **max(telling, key=self._fits)}
            elif parts := schema.get("allOf"):
                rest = {key: one for key, one in schema.items() if key != "allOf"}
                schema = rest
                for part in parts:
                    schema = {**schema, **part}
            else:
                break
        return schema

    def _fits(self, schema: dict[str, Any]) -> int:
        """Count how many words of an alternative the text shares; the first of equals is taken."""
        schema = self._resolved(schema) if "$ref" in schema else schema
        named = " ".join(
            [str(schema.get("title", "")), str(schema.get("description", "")), *schema.get("properties", {})]
        )
        return len(set(terms(named)) & self._terms)

    def _kind(self, schema: dict[str, Any]) -> str:
        kind: Any = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in cast("list[str]", kind) if one != "null"), "null")
        if kind is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return cast("str", kind)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        filled: dict[str, Any] = {}
        for key, inner in schema.get("properties", {}).items():
            if key in required or key.lower() in QUERY_NAMES or self._labelled(key, r"\S") is not None:
                filled[key] = self.value(inner, key, depth + 1)
        return filled

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        items: dict[str, Any] = self._resolved(schema.get("items") or {})
        least: int = schema.get("minItems", 0)
        most: int = schema.get("maxItems", 20)
        if "enum" in items:
            found: list[Any] = [one for one in items["enum"] if self._mentions(one)]
        elif self._kind(items) == "string" and name.lower() in QUERY_NAMES:
            found = self._query.split()
        elif self._kind(items) in ("integer", "number"):
            found = [_read(one, whole=self._kind(items) == "integer") for one in _NUMBER.findall(self._text)]
        elif self._kind(items) == "string":
            label = self._labelled(name, r"[^\n.;]+")
            found = [one.strip() for one in label.split(",")] if label else []
        else:
            found = [self.value(items, name, depth + 1)]
        while len(found) < least:
            found.append(self.value(items, name, depth + 1))
        return found[:most]

    def _mentions(self, member: Any) -> bool:
        known = set(terms(str(member)))
        return bool(known) and known <= self._terms

    def _member(self, schema: dict[str, Any]) -> Json:
        members: list[Any] = schema["enum"]
        shared = [len(set(terms(str(one))) & self._terms) for one in members]
        if not any(shared):
            return schema.get("default", members[0])
        return members[shared.index(max(shared))]

    def _number(self, schema: dict[str, Any], name: str, *, whole: bool) -> int | float:
        low: Any = schema.get("minimum")
        above: Any = schema.get("exclusiveMinimum")
        high: Any = schema.get("maximum")
        below: Any = schema.get("exclusiveMaximum")

        def allowed(one: float) -> bool:
            return not (
                (low is not None and one < low)
                or (above is not None and one <= above)
                or (high is not None and one > high)
                or (below is not None and one >= below)
            )

        label = self._labelled(name, _NUMBER.pattern)
        for found in [label] if label else _NUMBER.findall(self._text):
            number = _read(found, whole=whole)
            if allowed(number):
                return number
        if isinstance(default := schema.get("default"), (int, float)):
            return default
        least = low if low is not None else above + 1 if above is not None else 0
        if high is not None and not allowed(least):
            least = high
        return below - 1 if below is not None and not allowed(least) else least

    def _string(self, schema: dict[str, Any], name: str) -> str:
        shape = schema.get("format")
        if shape in _FORMATS:
            found = re.search(_FORMATS[shape], self._text)
            return found[0] if found else str(schema.get("default", ""))
        if pattern := schema.get("pattern"):
            try:
                found = re.search(pattern.removeprefix("^").removesuffix("$"), self._text)
            except re.error:
                found = None
            if found:
                return found[0]
        value = self._words(name)
        most = schema.get("maxLength")
        return value[:most] if isinstance(most, int) else value

    def _words(self, name: str) -> str:
        """Read a string: what searches gets the query, what is named in the text its value, else what looks like it."""
        if name.lower() in QUERY_NAMES:
            return self._query
        few = bool(set(name.lower().split("_")) & _FEW_WORDS)
        label = self._labelled(name, r"[\w.@%-]+" if few else r"[^\n;]+?(?=[.;,\n]|$)")
        if label is not None:
            return label.strip("\"'` ")
        if quoted := _QUOTED.search(self._text):
            return quoted[1]
        if named := _NAMED.search(self._text) or _PROPER.search(self._text):
            return named[0]
        return (self._query if few else self._text).strip()

    def _labelled(self, name: str, shape: str) -> str | None:
        """Find a value that stands beside its name, as in `total: 12`, `the currency is EUR` or `city = Oslo`."""
        if not name:
            return None
        said = r"[\s_-]+".join(re.escape(part) for part in re.split(r"[_\s-]+", name) if part)
        found = re.search(
            rf"(?i:\b{said}\b)[\"'`*]*\s*(?:[:=]|(?i:\bis\b|\bare\b|\bof\b))\s*[\"'`*]*({shape})", self._text
        )
        return found[1] if found else None


def _read(number: str, *, whole: bool) -> int | float:
    value = float(re.sub(r"[ ,]", "", number))
    return int(value) if whole or (value.is_integer() and "." not in number) else value
