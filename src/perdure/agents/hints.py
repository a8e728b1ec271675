"""What a function asks for: its parameters with real types, whether the context comes first, and its names.

Annotations written as text are resolved in the function's module, in its closure and, as far as that is there while the
function is being decorated, in the function around it. A name that is not there yet is looked up again at first use.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import CellType, SimpleNamespace
from typing import Any, ForwardRef, NamedTuple, cast, get_origin, get_type_hints

from perdure.types.errors import DefinitionError

EMPTY: Any = inspect.Parameter.empty
NEEDED = frozenset(
    (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
)
"""The kinds of parameters that must be given when they have no default."""


class Asked(NamedTuple):
    """The parameters that a model fills in, in order; `hidden` are names that others fill in."""

    parameters: list[inspect.Parameter]
    takes_context: bool
    hidden: frozenset[str]


def name_of(fn: Callable[..., Any]) -> str:
    """Name a function for an error."""
    inner = innermost(fn)
    return f"{getattr(inner, '__qualname__', type(inner).__qualname__)}()"


def innermost(fn: Callable[..., Any]) -> Any:
    """Take off partials, wrappers and bound methods, and find `__call__` of an object."""
    found: Any = fn
    while True:
        if isinstance(found, functools.partial):
            found = cast("functools.partial[Any]", found).func
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        elif inspect.ismethod(found):
            found = found.__func__
        elif not inspect.isroutine(found) and not inspect.isclass(found) and callable(found):
            found = cast("Any", type(found)).__call__
        else:
            return found


def is_async(fn: Callable[..., Any]) -> bool:
    """Say whether calling it gives a coroutine: also for partials, and objects with an async `__call__`."""
    while isinstance(fn, functools.partial):
        fn = cast("functools.partial[Any]", fn).func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def asked_by(fn: Callable[..., Any], context_type: type) -> Asked:
    """Read a function's parameters.

    Raises:
        DefinitionError: it has no readable signature, or takes its context elsewhere than first.
    """
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            signature = inspect.signature(fn, annotation_format=Format.FORWARDREF)
        else:
            signature = inspect.signature(fn)
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            f"The parameters of {name_of(fn)} cannot be read ({error}). Wrap it in a function of your own."
        ) from error
    parameters = list(signature.parameters.values())
    hidden = set[str]()
    inner: Any = fn
    while isinstance(inner, functools.partial):
        # what a developer has filled in is not the model's business, and may be secret
        hidden.update(cast("functools.partial[Any]", inner).keywords)
        inner = cast("functools.partial[Any]", inner).func
    parameters = [parameter for parameter in parameters if parameter.name not in hidden]
    namespace = _module_of(fn)
    takes_context = bool(parameters) and _is_context(parameters[0].annotation, context_type, namespace)
    if takes_context:
        if parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise DefinitionError(f"{name_of(fn)} takes its context by name. Make it the first positional parameter.")
        if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            hidden.add(parameters[0].name)
            parameters = parameters[1:]
    for parameter in parameters:
        if _is_context(parameter.annotation, context_type, namespace):
            raise DefinitionError(
                f"{name_of(fn)} takes its context as {parameter.name!r}. Make it the first parameter."
            )
    return Asked(parameters, takes_context, frozenset(hidden))


def _module_of(fn: Callable[..., Any]) -> dict[str, Any]:
    return getattr(innermost(fn), "__globals__", {})


def _is_context(annotation: Any, context_type: type, namespace: Mapping[str, Any]) -> bool:
    if annotation is EMPTY:
        return False
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        # only the part before the brackets is looked up: the state's type may be known to type checkers alone
        head, _, inside = (part.strip() for part in annotation.strip().strip("'\"").partition("["))
        if head.rpartition(".")[2] == "Annotated":
            head = inside.partition("[")[0].partition(",")[0].strip()
        found: Any = namespace.get(head.partition(".")[0])
        for part in head.split(".")[1:]:
            found = getattr(found, part, None)
        if found is None:
            return head.rpartition(".")[2] == context_type.__name__
        annotation = found
    annotation = getattr(annotation, "__value__", annotation)
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, context_type)


def names_around(fn: Callable[..., Any]) -> dict[str, Any]:
    """Copy the names of the functions and classes in which a function is being defined, as far as they still run."""
    inner = innermost(fn)
    place = getattr(inner, "__qualname__", "")
    found: dict[str, Any] = {}
    if "." not in place:
        return found
    module = _module_of(fn)
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if frame.f_globals is module and place.startswith((f"{code.co_qualname}.", f"{code.co_qualname}.<locals>.")):
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found


def has_text(parameters: list[inspect.Parameter]) -> bool:
    """Say whether some annotation is still text."""
    return any(_is_text(parameter.annotation) for parameter in parameters)


def _is_text(annotation: Any) -> bool:
    if isinstance(annotation, (str, ForwardRef)):
        return True
    return any(_is_text(part) for part in getattr(annotation, "__args__", ()))


def resolve(
    fn: Callable[..., Any], parameters: list[inspect.Parameter], around: Mapping[str, Any]
) -> list[inspect.Parameter]:
    """Turn annotations written as text into types.

    Raises:
        DefinitionError: a name in an annotation is not known; the message says which and what to do.
    """
    inner = innermost(fn)
    names: tuple[str, ...] = getattr(getattr(inner, "__code__", None), "co_freevars", ())
    cells: tuple[CellType, ...] = getattr(inner, "__closure__", None) or ()
    closed = {name: cell.cell_contents for name, cell in zip(names, cells, strict=False) if _is_filled(cell)}
    local: dict[str, Any] = {**around, **closed}
    local.update({kind.__name__: kind for kind in getattr(inner, "__type_params__", ())})
    resolved: list[inspect.Parameter] = []
    for parameter in parameters:
        if _is_text(parameter.annotation):
            holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
            try:
                # typing types the argument as a class or function; any object with annotations will do
                hint = get_type_hints(cast("Any", holder), _module_of(fn), local, include_extras=True)[parameter.name]
            except Exception as error:
                written = parameter.annotation if isinstance(parameter.annotation, str) else repr(parameter.annotation)
                raise DefinitionError(
                    f"The annotation {written!r} of parameter {parameter.name!r} of {name_of(fn)} cannot be resolved: "
                    f"{error}. Import the name at run time (not only under TYPE_CHECKING), define it at module level, "
                    "or pass parameters=... with a pydantic model or a JSON schema."
                ) from error
            parameter = parameter.replace(annotation=hint)
        resolved.append(parameter)
    return resolved


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
