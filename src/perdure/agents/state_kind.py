"""How a user's state goes to plain JSON and back: dataclass, pydantic model, TypedDict, msgspec struct, attrs or dict.

What has pydantic's validators is read by pydantic; all else by msgspec, or by pydantic where msgspec cannot tell a
field's types apart. Readers are built at first use. A document that is read gives a value of its own each time.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, NotRequired, TypeVar, cast, get_origin

import msgspec
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from perdure.agents.patch import Reducers
from perdure.agents.round_trip import find_loss, find_not_finite, sort_sets
from perdure.agents.state_shape import fields_of, has_sets, is_plain, reducers_of
from perdure.types.base import Json, decode_json, encode_json, field_names, find_unserialisable, is_model
from perdure.types.errors import DefinitionError, Unserialisable

S = TypeVar("S")
T = TypeVar("T")
_KINDS = "a dataclass, a pydantic model, a TypedDict, a msgspec struct, a dict or a subclass of dict"


class StateKind(Generic[S]):
    """A kind of state: how it is made, kept and read; made by `StateKind.of`."""

    __slots__ = ("_factory", "_name", "_read", "_reducers", "_sorts", "_type")

    def __init__(self, factory: Callable[[], S]) -> None:
        if not callable(factory):
            raise DefinitionError(f"state={factory!r} cannot be called. Give the class, or a function that makes one.")
        self._factory = factory
        self._name = getattr(factory, "__qualname__", repr(factory))
        self._type: Any = None
        self._read: Callable[[bytes], Any] | None = None
        self._reducers: Reducers | None = None
        self._sorts: bool | None = None
        kind = get_origin(factory) or factory
        if isinstance(kind, type):
            self._learn(factory if is_typeddict(factory) else kind)
        else:
            declared = _returned_by(factory)
            if is_typeddict(declared):
                self._type = declared

    @staticmethod
    def of(factory: Callable[[], T]) -> StateKind[T]:
        """Find the kind of what a class or a function makes; kept per factory."""
        try:
            hash(factory)
        except TypeError:
            return StateKind(factory)
        return cast("StateKind[T]", _kind_of(factory))

    def __repr__(self) -> str:
        return f"StateKind({self._name})"

    def new(self) -> S:
        """Make a new state."""
        try:
            value = self._factory()
        except (TypeError, ValueError) as error:
            if not self._lacks_arguments(error):
                raise
            raise DefinitionError(
                f"{self._name} cannot be made without arguments ({_said(error)}). Give its fields defaults, or pass "
                f"state={self._name}(…) to the run."
            ) from error
        self._check_type(value)
        return value

    def dump(self, value: S) -> Json:
        """Turn a state into plain JSON.

        Raises:
            DefinitionError: the value is of another type.
            Unserialisable: part of it has no JSON form; the message has the path.
        """
        self._check_type(value)
        try:
            raw = _encode(value)
        except (TypeError, ValueError, NotImplementedError, RecursionError, OverflowError) as error:
            raise Unserialisable("state", find_unserialisable(value, _encode) or f".: {error}") from error
        if b"null" in raw:
            # JSON has no NaN and no infinity; they are written as null
            found = find_not_finite(value)
            if found is not None:
                raise Unserialisable("state", found)
        doc = decode_json(raw)
        if self._sorts is None:
            self._sorts = has_sets(self._type)
        return sort_sets(value, doc) if self._sorts else doc

    def check(self, value: S) -> Json:
        """Turn a state into plain JSON, and make sure that reading it gives the same state.

        Raises:
            DefinitionError: the value is of another type.
            Unserialisable: something would be lost, such as a set in a plain dict; the message has the path.
        """
        doc = self.dump(value)
        if self._reader() is decode_json:
            lost = find_loss(value, doc)
        else:
            try:
                lost = find_loss(value, self._reader()(encode_json(doc)))
            except (ValueError, TypeError) as error:
                raise Unserialisable("state", _said(error)) from error
        if lost is not None:
            raise Unserialisable("state", lost)
        return doc

    def fits(self, doc: Json) -> None:
        """Make sure that a state which a step has changed can be read again by the next."""
        reader = self._reader()
        if reader is not decode_json:
            try:
                reader(encode_json(doc))
            except (ValueError, TypeError) as error:
                raise Unserialisable("state", _said(error)) from error

    def load(self, doc: Json) -> S:
        """Make a state from plain JSON: a private copy each time."""
        try:
            return self._reader()(encode_json(doc))
        except (ValueError, TypeError) as error:
            raise DefinitionError(
                f"The kept state does not fit {self._name}: {_said(error)}. If the type was changed, give new fields "
                "defaults and let old ones be."
            ) from error

    @property
    def reducers(self) -> Reducers:
        """How writes of parallel tools to one path are merged, by path."""
        if self._reducers is None:
            self._reducers = reducers_of(self._known_type())
        return self._reducers

    def _lacks_arguments(self, error: Exception) -> bool:
        if not isinstance(self._factory, type):
            return False
        if is_model(self._factory):
            problems = getattr(error, "errors", list[Any])()
            return bool(problems) and all(one["type"] == "missing" for one in problems)
        # raised by the call itself, not inside the user's code
        trace = error.__traceback__
        return isinstance(error, TypeError) and trace is not None and trace.tb_next is None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _known_type(self) -> Any:
        if self._type is None:
            self.new()
        return self._type

    def _learn(self, kind: Any) -> None:
        if not _can_be_kept(kind):
            raise DefinitionError(
                f"state={self._name} gives {kind.__qualname__!r}, which cannot be kept. Use {_KINDS}."
            )
        self._type = kind

    def _check_type(self, value: Any) -> None:
        kind = cast("type[Any]", type(value))
        wanted = self._type
        if kind is wanted:
            return
        if inspect.iscoroutine(value):
            value.close()
            raise DefinitionError(f"state={self._name} is async. Use a plain function.")
        if wanted is None:
            self._learn(kind)
        elif kind is not dict or not is_typeddict(wanted):
            raise DefinitionError(
                f"The state is {kind.__qualname__!r}, but {wanted.__qualname__!r} was declared (state={self._name}). "
                "Declare the type that you use, or give a value of the declared one."
            )

    def _reader(self) -> Callable[[bytes], Any]:
        if self._read is None:
            self._read = self._make_reader(self._known_type())
        return self._read

    def _make_reader(self, kind: Any) -> Callable[[bytes], Any]:
        if kind is dict:
            return decode_json
        if is_typeddict(kind):
            # a TypedDict may be incomplete until somebody fills it in
            fields = {name: NotRequired[hint] for name, hint in fields_of(kind).items()}
            return decode_json if is_plain(kind) else self._pydantic_reader(_open_dict(kind.__name__, fields))
        if issubclass(kind, dict):
            return self._dict_reader
        if not is_model(kind) and not hasattr(kind, "__pydantic_validator__"):
            try:
                return msgspec.json.Decoder(kind, dec_hook=_foreign_part).decode
            except (TypeError, NameError):
                # msgspec tells the types of a union apart by their JSON kind only; pydantic tries them
                return self._pydantic_reader(kind)
        return self._pydantic_reader(kind)

    def _dict_reader(self, raw: bytes) -> Any:
        # made by the factory, because a defaultdict or the user's own class may need more than its content
        blank = cast("dict[str, Any]", self._factory())
        blank.clear()
        blank.update(decode_json(raw))
        return blank

    def _pydantic_reader(self, kind: Any) -> Callable[[bytes], Any]:
        from perdure.agents.adapters import adapter_of

        validate = adapter_of(kind, f"The state {self._name}").validate_json
        return lambda raw: validate(raw, by_alias=False, by_name=True)


@functools.lru_cache(maxsize=1024)
def _kind_of(factory: Callable[[], Any]) -> StateKind[Any]:
    return StateKind(factory)


def _can_be_kept(kind: Any) -> bool:
    return is_typeddict(kind) or issubclass(kind, dict) or field_names(kind) is not None


def _returned_by(factory: Any) -> Any:
    try:
        return get_type_hints(factory).get("return")
    except (NameError, TypeError, AttributeError):
        # only a hint: what the function returns decides
        return None


def _open_dict(name: str, fields: dict[str, Any]) -> Any:
    from pydantic import ConfigDict

    shape: Any = TypedDict(name, fields)  # type: ignore[misc]  # the fields are known at run time only
    shape.__pydantic_config__ = ConfigDict(extra="allow")
    return shape


def _encode_foreign(value: Any) -> Any:
    if is_model(type(value)):
        # by field names and without computed fields, so that it can be read back; a wrong type is found by reading
        return value.model_dump(mode="json", round_trip=True, by_alias=False, warnings=False)
    raise NotImplementedError(f"Objects of type {type(value).__qualname__} are not JSON")


_encode = msgspec.json.Encoder(enc_hook=_encode_foreign).encode


def _foreign_part(kind: Any, value: Any) -> Any:
    """Read what msgspec does not know: pydantic models and types inside other objects."""
    return _part_adapter(kind).validate_json(encode_json(value), by_alias=False, by_name=True)


@functools.lru_cache(maxsize=1024)
def _part_adapter(kind: Any) -> Any:
    from perdure.agents.adapters import adapter_of

    return adapter_of(kind, f"The state's {getattr(kind, '__qualname__', kind)}")


def _said(error: Exception) -> str:
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    first = problems(include_url=False, include_context=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{where or '.'}: {first['msg']}"
