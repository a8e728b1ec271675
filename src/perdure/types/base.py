"""The frozen base of every value that is kept or sent, and its JSON codec."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, cast

import msgspec
from typing_extensions import dataclass_transform

from perdure.types.errors import Unserialisable

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
T = TypeVar("T")
ABSENT: Any = object()
"""Stands for an attribute that a value does not have."""


if TYPE_CHECKING:
    # Type checkers see the base as frozen here; at run time it is a plain msgspec struct.
    @dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
    class _Frozen(msgspec.Struct):
        __struct_fields__: ClassVar[tuple[str, ...]]
else:
    _Frozen = msgspec.Struct


class Base(_Frozen, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """A frozen value with a lossless JSON form."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let a pydantic model have fields of our types."""
        from pydantic_core import core_schema

        def validate(value: Any) -> Any:
            return value if isinstance(value, cls) else msgspec.convert(value, source)

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins)
        )


def _foreign(value: Any) -> Any:
    """Encode what msgspec does not know: pydantic models, mappings, sequences and iterables of fixed content."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return list(cast("Sequence[Any]", value))
    raise NotImplementedError(f"Objects of type {type(value).__qualname__} are not JSON")


_encoder = msgspec.json.Encoder(enc_hook=_foreign)
_decoder = msgspec.json.Decoder()
encode_json = _encoder.encode
decode_json = _decoder.decode


def plain(value: Any, what: str = "value") -> Json:
    """Turn any JSON-serialisable Python value into plain JSON values.

    Args:
        value: dataclasses, pydantic models, msgspec structs, dates, decimals, sets and plain values are accepted.
        what: what the value is, for the error.

    Returns:
        dicts, lists, strings, numbers, booleans and None; just what reading the stored bytes would give.

    Raises:
        Unserialisable: something in the value has no JSON form; the message has the path to it.
    """
    if value is None or value is True or value is False or type(value) is int:
        return value
    try:
        return decode_json(encode_json(value))
    except (TypeError, ValueError, NotImplementedError, RecursionError, OverflowError, msgspec.MsgspecError) as error:
        raise Unserialisable(what, find_unserialisable(value) or type(value).__qualname__) from error


def find_unserialisable(
    value: Any, encode: Callable[[Any], bytes] = encode_json, path: str = "", depth: int = 0
) -> str | None:
    """Say where in a value the part is that has no JSON form, as `path: type`; None if there is none."""
    if depth > 200:
        return f"{path[:60] or '.'}…: nested too deeply, or refers to itself"
    inside = parts(value)
    for key, part in (inside or {}).items():
        found = None if part is ABSENT else find_unserialisable(part, encode, below(path, value, key), depth + 1)
        if found is not None:
            return found
    try:
        encode(value)
    except Exception as error:
        # whatever it is, it is what makes the value foreign
        what = f"{path or '.'}: {type(value).__qualname__}"
        return what if inside is None else f"{what}: {error}"
    return None


def parts(value: Any) -> Mapping[Any, Any] | None:
    """Take a value apart by key, position or field name; None if it has no parts."""
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return dict(enumerate(cast("Sequence[Any]", value)))
    kind = cast("type[Any]", type(value))
    names = field_names(kind)
    if names is None:
        return None
    extra: Mapping[str, Any] = (value.model_extra or {}) if is_model(kind) else {}
    return {name: getattr(value, name, ABSENT) for name in (*names, *extra)}


def below(path: str, value: Any, key: Any) -> str:
    """Name the place of a part of a value."""
    return f"{path}[{key}]" if isinstance(value, (list, tuple, set, frozenset)) else f"{path}.{key}"


def is_model(kind: Any) -> bool:
    """Say whether a class is a pydantic model, without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields")


@functools.lru_cache(maxsize=4096)
def field_names(kind: type[Any]) -> tuple[str, ...] | None:
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


def sound(text: str) -> str:
    """Make a text that can be kept: join surrogate pairs that were cut apart, and replace halves without the other."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def convert(value: Any, kind: type[T]) -> T:
    """Read plain JSON values as one of our types."""
    return msgspec.convert(value, kind)
