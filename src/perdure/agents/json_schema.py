"""A modest check of plain JSON values against a JSON schema, for tools that bring a schema and no Python types.

It knows `type, enum, const, properties, required, additionalProperties, items, prefixItems, anyOf, oneOf, allOf, not,
$ref` inside the schema, and the limits of numbers, texts and lists. What it does not know (formats, patterns,
conditions) it lets pass: the tool has the last word.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from perdure.types.errors import DefinitionError

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
    "integer": (int,),
    "number": (int, float),
}
_LIMITS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", operator.lt, "must be at least"),
    ("maximum", operator.gt, "must be at most"),
    ("exclusiveMinimum", operator.le, "must be more than"),
    ("exclusiveMaximum", operator.ge, "must be less than"),
)
_DEEPEST = 100


class Problem(NamedTuple):
    """What is wrong with a value, and where in the whole the value is."""

    path: tuple[str | int, ...]
    what: str
    value: Any = None
    shown: bool = True


class Mismatch(ValueError):
    """A value does not fit its schema."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = problems


def check_json(value: Any, schema: Mapping[str, Any]) -> list[Problem]:
    """Say what of a value does not fit a schema; an empty list means that it fits."""
    return list(_problems(value, schema, schema, (), 0))


def _problems(
    value: Any, schema: Any, root: Mapping[str, Any], path: tuple[str | int, ...], depth: int
) -> Iterator[Problem]:
    if schema is True or (isinstance(schema, dict) and not schema):
        return
    if schema is False:
        yield Problem(path, "nothing is allowed here", value)
        return
    if not isinstance(schema, Mapping):
        return
    if depth > _DEEPEST:
        yield Problem(path, "is nested too deeply", shown=False)
        return
    rules = cast("Mapping[str, Any]", schema)
    if "$ref" in rules:
        yield from _problems(value, find_ref(root, rules["$ref"]), root, path, depth + 1)
    wanted = rules.get("type")
    if wanted is not None and not _is_a(value, wanted):
        names = " or ".join(cast("list[str]", wanted)) if isinstance(wanted, list) else str(wanted)
        yield Problem(path, f"must be of type {names}", value)
        return
    if "enum" in rules and not any(same_json(value, one) for one in rules["enum"]):
        yield Problem(path, f"must be one of {rules['enum']!r}", value)
    if "const" in rules and not same_json(value, rules["const"]):
        yield Problem(path, f"must be {rules['const']!r}", value)
    yield from _limits(value, rules, path)
    if isinstance(value, dict):
        yield from _object(cast("dict[str, Any]", value), rules, root, path, depth)
    elif isinstance(value, list):
        first = rules.get("prefixItems", ())
        for number, item in enumerate(cast("list[Any]", value)):
            rule = first[number] if number < len(first) else rules.get("items", True)
            yield from _problems(item, rule, root, (*path, number), depth + 1)
    yield from _combined(value, rules, root, path, depth)


def _object(
    value: dict[str, Any], rules: Mapping[str, Any], root: Mapping[str, Any], path: tuple[str | int, ...], depth: int
) -> Iterator[Problem]:
    for name in rules.get("required", ()):
        if name not in value:
            yield Problem((*path, name), "is missing", shown=False)
    properties = rules.get("properties", {})
    others = rules.get("additionalProperties", True)
    for name, part in value.items():
        if name in properties:
            yield from _problems(part, properties[name], root, (*path, name), depth + 1)
        elif others is False:
            if "patternProperties" not in rules:
                yield Problem((*path, name), "is not known here", shown=False)
        else:
            yield from _problems(part, others, root, (*path, name), depth + 1)


def _combined(
    value: Any, rules: Mapping[str, Any], root: Mapping[str, Any], path: tuple[str | int, ...], depth: int
) -> Iterator[Problem]:
    for rule in rules.get("allOf", ()):
        yield from _problems(value, rule, root, path, depth + 1)
    for choice in ("anyOf", "oneOf"):
        if choice not in rules:
            continue
        nearest: list[Problem] | None = None
        for rule in rules[choice]:
            found = list(_problems(value, rule, root, path, depth + 1))
            if not found:
                break
            # the alternative that was wrong furthest inside is most likely the one that was meant
            if nearest is None or len(found[0].path) > len(nearest[0].path):
                nearest = found
        else:
            if nearest is not None and len(nearest[0].path) > len(path):
                yield from nearest
            else:
                yield Problem(path, f"fits none of the {len(rules[choice])} allowed forms", value)
    if "not" in rules and not any(True for _ in _problems(value, rules["not"], root, path, depth + 1)):
        yield Problem(path, "has a form that is not allowed", value)


def _limits(value: Any, rules: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # an exclusive limit that is not a number is the boolean of old drafts; it is let pass
        for name, is_out, what in _LIMITS:
            limit = rules.get(name)
            if type(limit) in (int, float) and is_out(value, limit):
                yield Problem(path, f"{what} {limit}", value)
    elif isinstance(value, (str, list)):
        least, most = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
        size = len(cast("str | list[Any]", value))
        unit = "characters" if isinstance(value, str) else "items"
        if size < rules.get(least, 0):
            yield Problem(path, f"must have at least {rules[least]} {unit}", value)
        if size > rules.get(most, size):
            yield Problem(path, f"must have at most {rules[most]} {unit}", value)


def _is_a(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_is_a(value, one) for one in cast("list[Any]", wanted))
    kinds = _TYPES.get(wanted)
    if kinds is None:
        return True
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kinds)


def same_json(one: Any, other: Any) -> bool:
    """Say whether two plain values are the same JSON value; true is not 1, while 1.0 is 1 in a schema."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def find_ref(root: Mapping[str, Any], ref: str) -> Any:
    """Follow a `$ref` that points into the same schema.

    Raises:
        DefinitionError: it points elsewhere, or to nothing.
    """
    found: Any = root
    if ref.startswith("#"):
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = cast("Mapping[str, Any]", found).get(name) if isinstance(found, Mapping) else None
            if found is None:
                break
        else:
            return found
    raise DefinitionError(f"The schema refers to {ref!r}, which is not in it. Put the definition under its '$defs'.")


def without_titles(schema: Any) -> Any:
    """Copy a schema without the titles that pydantic makes from names; a property named `title` stays."""
    if isinstance(schema, list):
        return [without_titles(one) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    rules = cast("dict[str, Any]", schema)
    copy: dict[str, Any] = {}
    for name, rule in rules.items():
        if name in ("properties", "$defs", "patternProperties") and isinstance(rule, dict):
            copy[name] = {key: without_titles(part) for key, part in cast("dict[str, Any]", rule).items()}
        elif name in ("default", "examples", "enum", "const", "required"):
            copy[name] = rule
        elif name != "title":
            copy[name] = without_titles(rule)
    return copy
