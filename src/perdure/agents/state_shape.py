"""What the declaration of a state type says: its reducers, and whether it is plain JSON as it stands.

`Annotated[int, perdure.add]` on a field is a reducer for that field's path; the fields of nested objects and the values
of dicts count too. A list is one path, so nothing inside it has a path of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Required, Union, cast, get_args, get_origin
from typing import Required as LaterRequired

import msgspec
from typing_extensions import ReadOnly, get_type_hints, is_typeddict

from perdure.agents.patch import Reducer, Reducers, join
from perdure.types.base import is_model
from perdure.types.errors import DefinitionError

_WRAPPERS: tuple[Any, ...] = (Required, NotRequired, LaterRequired, ReadOnly)
_PLAIN: frozenset[Any] = frozenset((str, int, float, bool, type(None), None, Any, object, dict, list))
_UNIONS: tuple[Any, ...] = (Union, types.UnionType)


class Found(NamedTuple):
    """A part of a type: where it is, its type without notes, and the notes of `Annotated`."""

    place: tuple[str, ...]
    hint: Any
    notes: tuple[Any, ...]


def reducers_of(kind: Any) -> Reducers:
    """Find the reducers that a type declares."""
    found: dict[str, Reducer] = {}
    for place, _, notes in parts_of(kind):
        for note in notes:
            if _is_reducer(note, place):
                found[join(place)] = note
    return found


def has_sets(kind: Any) -> bool:
    """Say whether a type has sets in it, which have no order of their own."""
    return any((get_origin(hint) or hint) in (set, frozenset) for _, hint, _ in parts_of(kind, into_lists=True))


def is_plain(kind: Any) -> bool:
    """Say whether every value of a type is JSON as it stands: TypedDicts, dicts, lists and simple values."""
    for _, hint, _ in parts_of(kind, into_lists=True):
        origin = get_origin(hint)
        if origin is dict and get_args(hint)[0] not in (str, Any):
            return False
        if origin is Literal:
            if not all(type(one) in _PLAIN for one in get_args(hint)):
                return False
        elif not (hint in _PLAIN or is_typeddict(hint) or origin in (dict, list) or origin in _UNIONS):
            return False
    return True


def parts_of(
    hint: Any, place: tuple[str, ...] = (), above: tuple[Any, ...] = (), *, into_lists: bool = False
) -> Iterator[Found]:
    """Walk through a type; a class inside itself is not entered again."""
    notes: tuple[Any, ...] = ()
    while True:
        origin: Any = get_origin(hint)
        if hasattr(hint, "__metadata__"):
            notes += hint.__metadata__
            hint = hint.__origin__
        elif origin in _WRAPPERS:
            hint = get_args(hint)[0]
        elif hasattr(hint, "__value__"):
            hint = hint.__value__
        else:
            break
    yield Found(place, hint, notes)
    args: tuple[Any, ...] = get_args(hint)
    owner = cast("Any", origin if isinstance(origin, type) and args else hint)
    if origin in _UNIONS:
        for one in args:
            yield from parts_of(one, place, above, into_lists=into_lists)
    elif len(args) == 2 and isinstance(owner, type) and issubclass(cast("type[Any]", owner), Mapping):
        yield from parts_of(args[1], (*place, "*"), above, into_lists=into_lists)
    elif owner in above:
        return
    elif fields := fields_of(owner):
        for name, field in fields.items():
            yield from parts_of(field, (*place, name), (*above, owner), into_lists=into_lists)
    elif into_lists and origin is not None and origin is not Literal:
        for one in args:
            if one is not Ellipsis:
                yield from parts_of(one, (*place, "*"), above, into_lists=True)


def fields_of(kind: Any) -> dict[str, Any]:
    """The fields of a class as they are named in JSON, with their types and notes; none if it has none."""
    if not isinstance(kind, type):
        return {}
    if is_model(cast("Any", kind)):
        fields = cast("Mapping[str, Any]", cast("Any", kind).model_fields)
        return {name: _annotated(one.annotation, tuple(one.metadata)) for name, one in fields.items()}
    if is_typeddict(cast("Any", kind)):
        return _typed(kind, None)
    if dataclasses.is_dataclass(kind):
        return _typed(kind, {field.name: field.name for field in dataclasses.fields(kind)})
    if issubclass(kind, msgspec.Struct):
        return _typed(kind, dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)))
    attributes = getattr(cast("Any", kind), "__attrs_attrs__", ())
    return _typed(kind, {one.name: one.name for one in attributes}) if attributes else {}


def _typed(kind: Any, names: Mapping[str, str] | None) -> dict[str, Any]:
    """Find the types of the fields in `names`, which maps them to their names in JSON; None for all, unchanged."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise DefinitionError(
            f"The annotations of {kind.__qualname__} cannot be resolved: {error}. "
            "Define what they name at module level, and import it at run time."
        ) from error
    if names is None:
        return hints
    return {names[name]: hint for name, hint in hints.items() if name in names}


def _annotated(hint: Any, notes: tuple[Any, ...]) -> Any:
    return Annotated[(hint, *notes)] if notes else hint  # type: ignore[return-value]


def _is_reducer(note: Any, place: tuple[str, ...]) -> bool:
    if not callable(note) or isinstance(note, type):
        return False
    if _takes(note, 3):
        return True
    if isinstance(note, (types.FunctionType, types.BuiltinFunctionType)) and _takes(note, 2):
        raise DefinitionError(
            f"The reducer {note.__qualname__} of the state's {join(place) or 'root'} takes two values. "
            "A reducer takes (before, mine, theirs) and returns what stands, like perdure.add and perdure.extend."
        )
    return False


def _takes(fn: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(fn).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
