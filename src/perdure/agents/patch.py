"""RFC 6902 patches over plain JSON: what a step changed, and how the changes of one round are merged.

Objects are compared key by key; a changed list is one path and is replaced whole, because positions mean nothing once
two have changed them. All patches of a round are made against the same document. Where two touch one path, or one
touches what is inside the other's, a reducer merges both, or the later call wins and the pair is an `Overlap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias, cast

from perdure.types.base import Json, plain

Patch: TypeAlias = list[dict[str, Any]]
"""Operations in order: `{"op": "add" | "replace" | "remove", "path": "/a/b", "value": …}`."""

Reducer: TypeAlias = Callable[[Any, Any, Any], Any]
"""Merges two writes to one path: `(before, mine, theirs) -> merged`; `theirs` is of the later call."""

Reducers: TypeAlias = Mapping[str, Reducer]
"""Which reducer merges which path, such as `/count` or `/by/*/n` with `*` for any key."""

Place: TypeAlias = tuple[str, ...]


class Overlap(NamedTuple):
    """Two calls of a round wrote to one path and nothing merges it: the winner's write stands."""

    path: str
    winner: int
    loser: int


MISSING: Any = object()
"""Stands for a value that is not there."""


def same(one: Json, other: Json) -> bool:
    """Say whether two plain values are the same JSON text: 1, 1.0 and true are three values."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is dict:
        mine, theirs = cast("dict[str, Json]", one), cast("dict[str, Json]", other)
        if len(mine) != len(theirs):
            return False
        return all(key in theirs and same(value, theirs[key]) for key, value in mine.items())
    if kind is list:
        these, those = cast("list[Json]", one), cast("list[Json]", other)
        return len(these) == len(those) and all(map(same, these, those))
    # repr, so that 0.0 and -0.0 differ
    return one == other and (kind is not float or repr(one) == repr(other))


def diff(before: Json, after: Json) -> Patch:
    """Say how one document becomes another; an empty patch means that they are equal."""
    patch: Patch = []
    _diff(before, after, "", patch)
    return patch


def _diff(before: Json, after: Json, path: str, patch: Patch) -> None:
    if before is after:
        return
    if not isinstance(before, dict) or not isinstance(after, dict):
        if not same(before, after):
            patch.append({"op": "replace", "path": path, "value": after})
        return
    for key, value in before.items():
        if key not in after:
            patch.append({"op": "remove", "path": f"{path}/{_escape(key)}"})
        elif value is not after[key]:
            _diff(value, after[key], f"{path}/{_escape(key)}", patch)
    patch.extend(
        {"op": "add", "path": f"{path}/{_escape(key)}", "value": value}
        for key, value in after.items()
        if key not in before
    )


def apply(doc: Json, patch: Patch) -> Json:
    """Apply a patch to a document, which is left as it was; unchanged parts are shared."""
    for op in patch:
        doc = _put(doc, split(op["path"]), MISSING if op["op"] == "remove" else op["value"], op["path"])
    return doc


def _put(doc: Json, place: Place, value: Any, path: str) -> Json:
    if not place:
        if value is MISSING:
            raise ValueError("A patch cannot remove the whole document.")
        return value
    if not isinstance(doc, dict):
        what = f"{path!r} goes through a {type(doc).__name__}, which has no keys"
        raise ValueError(f"The patch does not fit: {what}.")  # noqa: TRY004  # no caller passed a wrong type
    key = place[0]
    if key not in doc and (len(place) > 1 or value is MISSING):
        raise ValueError(f"The patch does not fit: there is nothing at {path!r}.")
    copy = dict(doc)
    if len(place) > 1:
        copy[key] = _put(doc[key], place[1:], value, path)
    elif value is MISSING:
        del copy[key]
    else:
        copy[key] = value
    return copy


def merge(doc: Json, patches: Sequence[Patch | None], reducers: Reducers) -> tuple[Json, list[Overlap]]:
    """Apply the patches of one round in call order.

    Returns:
        the new document, and the pairs of calls of which the later's write stands. Calls are counted by their place in
        `patches`.
    """
    written = [(call, patch) for call, patch in enumerate(patches) if patch]
    if len(written) == 1:
        return apply(doc, written[0][1]), []
    merged = _Merge(doc, reducers)
    for call, patch in written:
        merged.lay(call, patch)
    return merged.doc, merged.overlaps


class _Merge:
    """A document while the patches of a round are laid over it, one call after the other."""

    def __init__(self, doc: Json, reducers: Reducers) -> None:
        self.before = doc
        self.doc = doc
        self.overlaps: list[Overlap] = []
        # the highest place first: what is merged as a whole is not merged again inside
        self._reducers = sorted(
            ((split(path), reducer) for path, reducer in reducers.items()), key=lambda one: len(one[0])
        )
        # the calls whose write to a place still stands, and every place above one
        self._writers: dict[Place, list[int]] = {}
        self._above: set[Place] = set()

    def lay(self, call: int, patch: Patch) -> None:
        """Lay what one call did over the document."""
        after = apply(self.before, patch)
        places = dict.fromkeys(split(op["path"]) for op in patch)
        for place in list(places):
            if any(place[:size] in places for size in range(len(place))):
                # what is above it has this write in it
                del places[place]
        for place in dict.fromkeys(self._reduced_or_same(place) for place in places):
            value = get(after, place)
            rivals = self._rivals(place)
            if not rivals:
                self.doc = _put_over(self.doc, place, value, after)
            else:
                self._settle(call, place, value, after, rivals)
            self._writers.setdefault(place, []).append(call)
            self._above.update(place[:size] for size in range(len(place)))

    def _settle(self, call: int, place: Place, value: Any, after: Json, rivals: list[Place]) -> None:
        """Write where others have written."""
        mine = get(self.doc, place)
        wanted = self.doc
        merged: set[Place] = set()
        if mine is not MISSING and value is not MISSING:
            for pattern, reducer in self._reducers:
                if len(pattern) < len(place) or not all(map(_fits, pattern, place)):
                    continue
                for inside in _matches(pattern[len(place) :], mine, value):
                    if any(inside[:size] in merged for size in range(len(inside) + 1)):
                        continue
                    merged.add(inside)
                    both = self._reduced(reducer, place + inside, get(mine, inside), get(value, inside))
                    value = _put_over(value, inside, both, None)
                    wanted = _put_over(wanted, place + inside, both, None)
        kept = [(rival, get(wanted, rival)) for rival in rivals]
        self.doc = _put_over(self.doc, place, value, after)
        for rival, was in kept:
            if not _same_or_missing(get(self.doc, rival), was):
                self.overlaps += [Overlap(join(rival), call, loser) for loser in self._writers.pop(rival)]

    def _reduced(self, reducer: Reducer, place: Place, mine: Json, theirs: Json) -> Json:
        before = get(self.before, place)
        before = None if before is MISSING else before
        if reducer in _OWN:
            return reducer(before, mine, theirs)
        try:
            # a user's function gets copies, because it may change what it is given
            return plain(
                reducer(*cast("list[Json]", plain([before, mine, theirs]))), f"merged state at {join(place)!r}"
            )
        except Exception as error:
            error.add_note(f"while the writes of two calls to {join(place)!r} of the state were merged by {reducer!r}")
            raise

    def _reduced_or_same(self, place: Place) -> Place:
        """Find the place that is merged as a whole, if this one is in such a place."""
        for size in range(len(place)):
            if any(len(pattern) == size and all(map(_fits, pattern, place)) for pattern, _ in self._reducers):
                return place[:size]
        return place

    def _rivals(self, place: Place) -> list[Place]:
        """Find where earlier calls wrote: here, above or below."""
        found = [place[:size] for size in range(len(place) + 1) if place[:size] in self._writers]
        if place in self._above:
            found += [other for other in self._writers if len(other) > len(place) and other[: len(place)] == place]
        return found


def _fits(pattern: str, key: str) -> bool:
    return pattern == "*" or pattern == key


def _matches(pattern: Place, one: Json, other: Json) -> list[Place]:
    """Find the places that fit a pattern and are in both values."""
    if not pattern:
        return [()]
    if not isinstance(one, dict) or not isinstance(other, dict):
        return []
    keys = [key for key in one if key in other] if pattern[0] == "*" else [pattern[0]]
    return [
        (key, *rest)
        for key in keys
        if key in one and key in other
        for rest in _matches(pattern[1:], one[key], other[key])
    ]


def get(doc: Json, place: Place) -> Any:
    """Read the value at a place; `MISSING` if there is none."""
    for key in place:
        if not isinstance(doc, dict) or key not in doc:
            return MISSING
        doc = doc[key]
    return doc


def _put_over(doc: Json, place: Place, value: Any, after: Json) -> Json:
    """Put a value at a place; where the way there is gone, it is taken from `after`, which has the value in it."""
    if not place:
        return None if value is MISSING else value
    if not isinstance(doc, dict):
        return after
    key = place[0]
    copy = dict(doc)
    if len(place) > 1:
        inner = after.get(key) if isinstance(after, dict) else None
        if key in doc or value is not MISSING:
            copy[key] = _put_over(doc.get(key), place[1:], value, inner)
    elif value is MISSING:
        copy.pop(key, None)
    else:
        copy[key] = value
    return copy


def _same_or_missing(one: Any, other: Any) -> bool:
    if one is MISSING or other is MISSING:
        return one is other
    return same(one, other)


# -- paths ----------------------------------------------------------------------------------------------------------


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


def join(place: Place) -> str:
    """Write keys as a JSON pointer."""
    return "".join(f"/{_escape(key)}" for key in place)


def split(path: str) -> Place:
    """Read a JSON pointer as keys."""
    if not path:
        return ()
    if path[0] != "/":
        raise ValueError(f"The path {path!r} must be empty or begin with '/'.")
    keys = path[1:].split("/")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in keys) if "~" in path else tuple(keys)


# -- reducers -------------------------------------------------------------------------------------------------------


def add(before: Any, mine: Any, theirs: Any) -> Any:
    """Merge two changes of a number by adding both: `Annotated[int, perdure.add]`; nothing counts as 0."""
    if isinstance(before, str) or isinstance(mine, str) or isinstance(theirs, str):
        # decimals are texts in JSON
        return str(Decimal(mine or 0) + Decimal(theirs or 0) - Decimal(before or 0))
    return (mine or 0) + (theirs or 0) - (before or 0)


def extend(before: Any, mine: Any, theirs: Any) -> Any:
    """Merge two changes of a list by appending what both appended: `Annotated[list[str], perdure.extend]`.

    The common beginning is kept; where a call changed it, what differs counts as appended. Nothing counts as empty.
    """
    before, mine, theirs = before or [], mine or [], theirs or []
    common = 0
    for was, one, other in zip(before, mine, theirs, strict=False):
        if not (same(was, one) and same(was, other)):
            break
        common += 1
    return [*mine, *theirs[common:]]


_OWN: frozenset[Reducer] = frozenset((add, extend))
