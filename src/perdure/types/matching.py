"""Whether an event's data are what a wait asks for, and marks by which the waits that may fit are found."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

import msgspec

from perdure.types.errors import DefinitionError

PROBES = 1000
"""How many places of an event's data have a mark; of larger data every wait for the name is looked at."""

MISSING: Any = object()
"""Stands for a value that is not there."""

_encode = msgspec.json.Encoder(order="sorted").encode


def check_match(match: object) -> dict[str, Any]:
    """Read what a user gave as `match=`: dotted paths and the JSON values that must stand there."""
    if not isinstance(match, Mapping):
        raise DefinitionError(f"match={match!r} must be a dict of paths and values, such as {{'invoice.id': 'i-7'}}.")
    given = cast("Mapping[Any, Any]", match)
    for path in given:
        if not isinstance(path, str) or not all(path.split(".")):
            raise DefinitionError(f"match={match!r}: {path!r} is no path; write the keys with dots between them.")
    try:
        return {path: msgspec.json.decode(_encode(value)) for path, value in given.items()}
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise DefinitionError(f"match={match!r} holds something that is not JSON: {error}.") from error


def matches(match: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether at each path the value stands that is asked for; equal as JSON, so 1 is 1.0 and is not true."""
    for path, wanted in match.items():
        found = at(path, data)
        if found is MISSING or _mark(found) != _mark(wanted):
            return False
    return True


def probe(match: Mapping[str, Any]) -> str:
    """Give the mark of one thing that is asked for; empty if nothing is."""
    for path in sorted(match):
        return _hash(path, match[path])
    return ""


def probes(data: Mapping[str, Any]) -> list[str] | None:
    """Give the marks of all that somebody may ask for in an event's data; None if there is too much of it."""
    found = [""]
    todo: list[tuple[str, Any]] = [("", data)]
    while todo:
        path, value = todo.pop()
        if path:
            found.append(_hash(path, value))
            if len(found) > PROBES:
                return None
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            todo += [(f"{path}.{key}" if path else key, part) for key, part in inner.items() if key and "." not in key]
    return found


def at(path: str, data: Any) -> Any:
    """Look up what a dotted path leads to; `MISSING` if it leads nowhere."""
    value = data
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = cast("dict[str, Any]", value)[key]
    return value


def _hash(path: str, value: Any) -> str:
    return blake2b(path.encode() + b"\0" + _mark(value), digest_size=8).hexdigest()


def _mark(value: Any) -> bytes:
    return _encode(_plain(value))


def _plain(value: Any) -> Any:
    """Write whole numbers as such: JSON has one kind of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(part) for part in cast("list[Any]", value)]
    return value
