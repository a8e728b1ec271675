"""What of a value would be lost if it were kept as JSON, because it comes back changed."""

from __future__ import annotations

import math
from typing import Any, cast

from perdure.types.base import ABSENT, Json, below, encode_json, parts

_SIMPLE = frozenset((str, int, bool, type(None)))


def find_not_finite(value: Any, path: str = "") -> str | None:
    """Say where the first NaN or infinity is; JSON has none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path or '.'}: {value!r} is not a number in JSON"
    for key, part in (parts(value) or {}).items():
        if type(part) not in _SIMPLE:
            found = find_not_finite(part, below(path, value, key))
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
        other = theirs.get(key, ABSENT)
        if type(part) in _SIMPLE and type(part) is type(other) and part == other:
            continue
        if part is ABSENT and other is ABSENT:
            continue
        if isinstance(value, dict) and other is ABSENT and not isinstance(key, str):
            return f"{path or '.'}: the key {_short(key)} would come back as text"
        if part is ABSENT or other is ABSENT:
            return f"{below(path, value, key)}: would {'not ' if other is ABSENT else ''}come back"
        found = find_loss(part, other, below(path, value, key))
        if found is not None:
            return found
    extra = [key for key in theirs if key not in mine]
    return f"{below(path, value, extra[0])}: would be added" if extra else None


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
