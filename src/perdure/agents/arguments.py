"""The three places that arguments can be described in: a function's signature, one type, or a JSON schema.

Each makes a schema for the model, compiles a check from JSON bytes to what the function is called with, and calls it.
pydantic is imported and its validators are built at first use only: defining a tool must stay cheap.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NotRequired, Required, Unpack, cast, get_args, get_origin

from typing_extensions import TypedDict, get_type_hints, is_typeddict
from typing_extensions import Unpack as LaterUnpack

from perdure.agents.adapters import adapter_of, schema_of, with_structs
from perdure.agents.hints import EMPTY, NEEDED, Asked, has_text, name_of, names_around, resolve
from perdure.agents.json_schema import Mismatch, Problem, check_json, find_ref
from perdure.types.base import decode_json, plain
from perdure.types.errors import DefinitionError, Unserialisable

Schema = dict[str, Any]
Check = Callable[[bytes], Any]
_UNPACK: tuple[Any, ...] = (Unpack, LaterUnpack)


class Arguments(ABC):
    """A place that arguments are described in."""

    def defaults(self) -> Mapping[str, Any]:
        """What the function itself takes for arguments that are left out."""
        return {}

    @abstractmethod
    def schema(self) -> Schema:
        """Describe the arguments; the top level is an object."""

    @abstractmethod
    def check(self) -> Check:
        """Make the function that reads arguments from JSON; it raises ValueErrors."""

    @abstractmethod
    def call(self, fn: Callable[..., Any], before: tuple[Any, ...], bound: Any) -> Any:
        """Call the function with checked arguments after those in `before`."""


class FromSignature(Arguments):
    """Arguments as the function itself declares them.

    What a model leaves out is not filled in: the function's own default applies when it is called.
    """

    def __init__(self, fn: Callable[..., Any], asked: Asked) -> None:
        self._fn = fn
        self._asked = asked
        self._around: dict[str, Any] = {}
        self._is_resolved = not has_text(asked.parameters)
        if not self._is_resolved:
            self._around = names_around(self._fn)
            try:
                self._resolve()
            except DefinitionError:
                # a class below the function in its module is there at first use; if not, that is when it is raised
                self._is_resolved = False
        kinds = {parameter.kind for parameter in asked.parameters}
        self._by_position = bool(kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL})

    def _resolve(self) -> list[inspect.Parameter]:
        if not self._is_resolved:
            parameters = resolve(self._fn, self._asked.parameters, self._around)
            self._asked = self._asked._replace(parameters=parameters)
            self._is_resolved = True
            self._around = {}
        return self._asked.parameters

    @functools.cached_property
    def _fields(self) -> dict[str, tuple[Any, bool, Any]]:
        """Type, whether it is required, and default of each argument."""
        fields: dict[str, tuple[Any, bool, Any]] = {}
        for one in self._resolve():
            hint = Any if one.annotation is EMPTY else one.annotation
            if one.kind is inspect.Parameter.VAR_POSITIONAL:
                fields[one.name] = (list[hint], False, EMPTY)
            elif one.kind is inspect.Parameter.VAR_KEYWORD:
                if get_origin(hint) in _UNPACK:
                    fields.update(_unpacked(get_args(hint)[0]))
            elif _is_field_info(one.default):
                fields[one.name] = (Annotated[hint, one.default], one.default.is_required(), EMPTY)
            else:
                fields[one.name] = (hint, one.default is EMPTY, one.default)
        return fields

    def defaults(self) -> Mapping[str, Any]:
        """What the function itself takes for arguments that are left out."""
        return {name: default for name, (_, _, default) in self._fields.items() if default is not EMPTY}

    @functools.cached_property
    def _extra(self) -> Any:
        """The type of other keyword arguments; EMPTY if there may be none."""
        others = next((one for one in self._resolve() if one.kind is inspect.Parameter.VAR_KEYWORD), None)
        if others is None or get_origin(others.annotation) in _UNPACK:
            return EMPTY
        return Any if others.annotation is EMPTY else others.annotation

    @functools.cached_property
    def _adapter(self) -> Any:
        from pydantic import ConfigDict

        fields = {
            name: Required[with_structs(hint)] if required else NotRequired[with_structs(hint)]
            for name, (hint, required, _) in self._fields.items()
        }
        shape: Any = TypedDict("arguments", fields)  # type: ignore[misc]  # the fields are known at run time only
        shape.__pydantic_config__ = ConfigDict(extra="forbid" if self._extra is EMPTY else "allow")
        try:
            return adapter_of(shape, name_of(self._fn))
        except DefinitionError:
            # alone, the parameter that is to blame names itself
            for name, (hint, _, _) in self._fields.items():
                adapter_of(hint, f"Parameter {name!r} of {name_of(self._fn)}")
            raise

    def schema(self) -> Schema:
        """Describe the arguments; a description given with Annotated stands over the docstring's."""
        schema = schema_of(self._adapter, name_of(self._fn))
        schema.setdefault("properties", {})
        for name, (hint, _, default) in self._fields.items():
            rules = schema["properties"].get(name)
            if rules is None:
                continue
            said = _described(hint)
            if said is not None:
                rules["description"] = said
            if default is not EMPTY and default is not None and "default" not in rules:
                try:
                    rules["default"] = plain(default)
                except Unserialisable:
                    # such a default is the function's own affair
                    continue
        if self._extra is not EMPTY:
            extra = schema_of(adapter_of(dict[str, self._extra], name_of(self._fn)), name_of(self._fn))
            schema["additionalProperties"] = extra.get("additionalProperties", True)
            if "$defs" in extra:
                schema.setdefault("$defs", {}).update(extra["$defs"])
        return schema

    def check(self) -> Check:
        """Make the check; keyword arguments that others fill in are as unknown as any."""
        read: Check = self._adapter.validator.validate_json
        if self._extra is EMPTY:
            return read
        known = self._fields.keys()
        hidden = self._asked.hidden
        others = None
        if self._extra is not Any:
            others = adapter_of(dict[str, self._extra], name_of(self._fn)).validator.validate_python

        def read_with_others(raw: bytes) -> Any:
            bound = read(raw)
            taken = [name for name in bound if name in hidden]
            if taken:
                raise Mismatch([Problem((name,), "is not known here", shown=False) for name in taken])
            if others is not None:
                bound.update(others({name: value for name, value in bound.items() if name not in known}))
            return bound

        return read_with_others

    def call(self, fn: Callable[..., Any], before: tuple[Any, ...], bound: Any) -> Any:
        """Call the function, by name where its signature allows it."""
        if not self._by_position:
            return fn(*before, **bound)
        named: dict[str, Any] = dict(bound)
        placed: list[Any] = []
        many = next((one for one in self._asked.parameters if one.kind is inspect.Parameter.VAR_POSITIONAL), None)
        extra = named.pop(many.name, ()) if many is not None else ()
        for one in self._asked.parameters:
            if one.kind is inspect.Parameter.POSITIONAL_ONLY or (
                extra and one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            ):
                placed.append(named.pop(one.name, one.default))  # noqa: PERF401  # it takes names away as it goes
        return fn(*before, *placed, *extra, **named)


class FromType(Arguments):
    """Arguments as one type declares them: the function gets one instance of it."""

    def __init__(self, fn: Callable[..., Any], kind: type) -> None:
        self._fn = fn
        self._kind = kind

    @functools.cached_property
    def _adapter(self) -> Any:
        return adapter_of(self._kind, f"parameters= of {name_of(self._fn)}")

    def schema(self) -> Schema:
        schema = schema_of(self._adapter, f"parameters= of {name_of(self._fn)}")
        if "$ref" in schema:
            # a model that refers to itself is only referred to at the top
            schema = {**cast("Schema", find_ref(schema, schema["$ref"])), "$defs": schema["$defs"]}
        if schema.get("type") != "object":
            raise DefinitionError(
                f"parameters={self._kind!r} of {name_of(self._fn)} is not an object in JSON. "
                "Use a pydantic model, a dataclass or a TypedDict."
            )
        schema.setdefault("properties", {})
        return schema

    def check(self) -> Check:
        """Make the check; whether unknown keys are allowed is the type's own affair."""
        read: Check = self._adapter.validator.validate_json
        return lambda raw: (read(raw),)

    def call(self, fn: Callable[..., Any], before: tuple[Any, ...], bound: Any) -> Any:
        return fn(*before, *bound)


class FromSchema(Arguments):
    """Arguments as a JSON schema describes them: keyword arguments where the function has them, else one dict."""

    def __init__(self, fn: Callable[..., Any], asked: Asked, schema: Mapping[str, Any]) -> None:
        self._schema: Schema = {"properties": {}, **schema, "type": schema.get("type", "object")}
        where = f"The JSON schema of {name_of(fn)}"
        if self._schema["type"] != "object":
            raise DefinitionError(f"{where} describes {self._schema['type']!r}. Its top level must be an object.")
        if not isinstance(self._schema["properties"], Mapping):
            raise DefinitionError(f"{where} has 'properties' that are not a mapping from names to schemas.")
        names = set(cast("Mapping[str, Any]", self._schema["properties"]))
        keywords = {
            one.name: one
            for one in asked.parameters
            if one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        }
        self._takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in asked.parameters)
        self._hidden = asked.hidden
        self._known = keywords.keys()
        self._by_name = self._takes_any or not asked.parameters or (bool(names) and names <= keywords.keys())
        if not self._by_name and sum(one.default is EMPTY and one.kind in NEEDED for one in asked.parameters) > 1:
            missing = ", ".join(sorted(names - keywords.keys())) or "none"
            raise DefinitionError(
                f"{where} and its parameters do not fit: it has no parameter for {missing}. "
                "Give it the schema's names as parameters, **arguments, or one parameter for the whole dict."
            )
        self._needed = [name for name, one in keywords.items() if one.default is EMPTY] if self._by_name else []

    def schema(self) -> Schema:
        return self._schema

    def check(self) -> Check:
        def read(raw: bytes) -> Any:
            value: Any = decode_json(raw)
            problems = check_json(value, self._schema)
            if isinstance(value, dict) and self._by_name:
                given = cast("dict[str, Any]", value)
                wrong = {problem.path[0] for problem in problems if problem.path}
                for name in self._needed:
                    if name not in given and name not in wrong:
                        problems.append(Problem((name,), "is missing", shown=False))
                for name in given:
                    if (name not in self._known and not self._takes_any) or name in self._hidden:
                        problems.append(Problem((name,), "is not known here", shown=False))
            if problems:
                raise Mismatch(problems)
            return cast("Any", value) if self._by_name else (value,)

        return read

    def call(self, fn: Callable[..., Any], before: tuple[Any, ...], bound: Any) -> Any:
        return fn(*before, *bound) if isinstance(bound, tuple) else fn(*before, **bound)


def _is_field_info(default: Any) -> bool:
    # by name, because looking at a default must not import pydantic
    return type(default).__name__ == "FieldInfo" and type(default).__module__.startswith("pydantic")


def _described(hint: Any) -> str | None:
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, str):
            return note
        said = getattr(note, "documentation", None)
        if isinstance(said, str):
            return said
    return None


def _unpacked(kind: Any) -> dict[str, tuple[Any, bool, Any]]:
    """Take apart `**options: Unpack[SomeTypedDict]`."""
    if not is_typeddict(kind):
        return {}
    required: frozenset[str] = kind.__required_keys__
    fields: dict[str, tuple[Any, bool, Any]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        while get_origin(hint) in (Required, NotRequired):
            hint = get_args(hint)[0]
        fields[name] = (hint, name in required, EMPTY)
    return fields
