"""What of a value would be lost if it were kept as JSON: what has no form there, and what comes back changed."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from perdure.agents.state_shape import is_model
from perdure.types.base import Json, encode_json

_DEEPEST = 200
_ABSENT: Any = object()
_SIMPLE = frozenset((str, int, bool, type(None)))


def parts(value: Any) -> Mapping[Any, Any] | None:
    """Take a value apart by key, position or field name; None if it has no parts."""
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value)
    if isinstance(value, (list, tuple)):
        return dict(enumerate(cast("list[Any]", value)))
    kind = cast("type[Any]", type(value))
    names = _names(kind)
    if names is None:
        return None
    extra: Mapping[str, Any] = (value.model_extra or {}) if is_model(kind) else {}
    return {name: getattr(value, name, _ABSENT) for name in (*names, *extra)}


@functools.lru_cache(maxsize=4096)
def _names(kind: type[Any]) -> tuple[str, ...] | None:
    """The attributes that are a class's data; None if it has no such."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    if is_model(kind):
        # private attributes are not part of the data, and cached properties are not fields
        return tuple(cast("Any", kind).model_fields)
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(one.name for one in cast("Any", kind).__attrs_attrs__)
    return None


def _below(path: str, value: Any, key: Any) -> str:
    return f"{path}[{key}]" if isinstance(value, (list, tuple)) else f"{path}.{key}"


def find_foreign(value: Any, encode: Callable[[Any], bytes], path: str = "", depth: int = 0) -> str | None:
    """Say where the first part is that has no JSON form, as `path: what`; None if all have one."""
    if depth > _DEEPEST:
        return f"{path[:60]}…: nested too deeply, or refers to itself"
    for key, part in (parts(value) or {}).items():
        found = None if part is _ABSENT else find_foreign(part, encode, _below(path, value, key), depth + 1)
        if found is not None:
            return found
    try:
        encode(value)
    except Exception as error:
        # whatever it is, it is what makes the value foreign
        what = type(value).__qualname__
        return f"{path or '.'}: {what}" if parts(value) is None else f"{path or '.'}: {what}: {error}"
    return None


def find_not_finite(value: Any, path: str = "") -> str | None:
    """Say where the first NaN or infinity is; JSON has none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path or '.'}: {value!r} is not a number in JSON"
    for key, part in (parts(value) or {}).items():
        if type(part) not in _SIMPLE:
            found = find_not_finite(part, _below(path, value, key))
            if found is not None:
                return found
    return None


def find_loss(value: Any, back: Any, path: str = "") -> str | None:
    """Say where a value and what came back of it differ first; None if nothing was lost.

    An int may come back as an equal float, and the other way round.
    """
    kind, other_kind = cast("type[Any]", type(value)), cast("type[Any]", type(back))
    if kind is not other_kind:
        if {kind, other_kind} == {int, float} and value == back:
            return None
        return f"{path or '.'}: {_a(kind)} would come back as {_a(other_kind)}"
    mine = parts(value)
    if mine is None:
        same = value == back or encode_or_none(value) == encode_or_none(back) is not None
        return None if same else f"{path or '.'}: {_short(value)} would come back as {_short(back)}"
    theirs = parts(back) or {}
    for key, part in mine.items():
        other = theirs.get(key, _ABSENT)
        if type(part) in _SIMPLE and type(part) is type(other) and part == other:
            continue
        if part is _ABSENT and other is _ABSENT:
            continue
        if isinstance(value, dict) and other is _ABSENT and not isinstance(key, str):
            return f"{path or '.'}: the key {_short(key)} would come back as text"
        if part is _ABSENT or other is _ABSENT:
            return f"{_below(path, value, key)}: would {'not ' if other is _ABSENT else ''}come back"
        found = find_loss(part, other, _below(path, value, key))
        if found is not None:
            return found
    extra = [key for key in theirs if key not in mine]
    return f"{_below(path, value, extra[0])}: would be added" if extra else None


def encode_or_none(value: Any) -> bytes | None:
    """Encode a value, if it can be."""
    try:
        return encode_json(value)
    except (TypeError, ValueError, NotImplementedError):
        return None


def sort_sets(value: Any, doc: Json) -> Json:
    """Give the sets in a value one order in its JSON form, whatever order they are iterated in."""
    if isinstance(value, (set, frozenset)):
        return sorted(doc, key=encode_json) if isinstance(doc, list) else doc
    inside = parts(value)
    if inside is None:
        return doc
    if isinstance(doc, list):
        return [sort_sets(one, part) for one, part in zip(inside.values(), doc, strict=True)]
    if isinstance(doc, dict) and len(doc) == len(inside):
        return {name: sort_sets(one, part) for one, (name, part) in zip(inside.values(), doc.items(), strict=True)}
    return doc


def _a(kind: type) -> str:
    name = "None" if kind is type(None) else kind.__qualname__
    return name if name == "None" else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
