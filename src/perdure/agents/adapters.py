"""pydantic's adapters for any type that a user may name, msgspec structs included.

pydantic is imported when the first adapter is made, not before.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec

from perdure.agents.json_schema import without_titles
from perdure.types.base import decode_json, encode_json
from perdure.types.errors import DefinitionError

_STRUCT = "x-perdure-struct"


def adapter_of(hint: Any, where: str) -> Any:
    """Make pydantic's adapter for a type.

    Raises:
        DefinitionError: pydantic cannot read such a type.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(with_structs(hint))
    except (PydanticUserError, TypeError, NameError, AttributeError) as error:
        # what pydantic says after this is about its own settings
        said = str(error).partition("\n")[0].partition(" Set `")[0].rstrip(".")
        raise DefinitionError(
            f"{where} has a type that cannot be read from JSON: {said}. Use plain types, dataclasses, pydantic models, "
            "TypedDicts or msgspec structs; live objects are fetched in the function by ctx.use(...)."
        ) from error


def schema_of(adapter: Any, where: str) -> dict[str, Any]:
    """Describe what an adapter reads as a JSON schema, without titles.

    Raises:
        DefinitionError: part of the type has no JSON schema.
    """
    from pydantic.errors import PydanticUserError

    try:
        schema = without_titles(adapter.json_schema())
    except PydanticUserError as error:
        said = str(error).partition("\n")[0]
        raise DefinitionError(
            f"{where} has a type without a JSON schema: {said}. Use plain types or models."
        ) from error
    components: dict[str, Any] = {}
    schema = _place_structs(schema, components)
    if components:
        defs = schema.setdefault("$defs", {})
        for name, part in components.items():
            if defs.setdefault(name, part) != part:
                raise DefinitionError(f"{where} uses two types named {name!r}. Rename one of them.")
    return schema


class _StructHook:
    """Teaches pydantic one msgspec struct."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> Any:
            try:
                return msgspec.convert(value, self.kind, strict=False)
            except msgspec.ValidationError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        described, components = msgspec.json.schema_components([self.kind], ref_template="#/$defs/{name}")
        # as text, because pydantic would follow the references in it
        return {_STRUCT: encode_json([described[0], components]).decode()}


def _place_structs(schema: Any, components: dict[str, Any]) -> Any:
    """Put msgspec's own schemas where pydantic's would be."""
    if isinstance(schema, list):
        return [_place_structs(one, components) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    rules = cast("dict[str, Any]", schema)
    if _STRUCT in rules:
        described, found = decode_json(rules[_STRUCT])
        components.update({name: without_titles(part) for name, part in found.items()})
        return {**without_titles(described), **{key: part for key, part in rules.items() if key != _STRUCT}}
    return {key: _place_structs(part, components) for key, part in rules.items()}


def with_structs(hint: Any) -> Any:
    """Mark the msgspec structs in a type, so that pydantic can read them."""
    kind: Any = hint
    origin: Any = get_origin(kind)
    if origin is None:
        is_struct = isinstance(hint, type) and issubclass(hint, msgspec.Struct)
        return Annotated[kind, _StructHook(kind)] if is_struct else kind
    if origin is Literal:
        return kind
    if origin is Annotated:
        inner = with_structs(kind.__origin__)
        return kind if inner is kind.__origin__ else Annotated[(inner, *kind.__metadata__)]  # type: ignore[return-value]
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return Annotated[kind, _StructHook(kind)]
    args: tuple[Any, ...] = get_args(kind)
    marked: list[Any] = [one if isinstance(one, list) else with_structs(one) for one in args]
    if all(one is other for one, other in zip(args, marked, strict=True)):
        return kind
    return cast("Any", Union if origin is UnionType else origin)[tuple(marked)]
