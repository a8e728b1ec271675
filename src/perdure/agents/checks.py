"""The checks that agents and networks share: wrong definitions are refused when they are made."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard, cast, get_args, get_type_hints

from typing_extensions import is_protocol, is_typeddict

from perdure.agents.hints import innermost
from perdure.agents.runnable import ToolSource
from perdure.agents.tool import Tool
from perdure.agents.toolsets import Offered, Toolset
from perdure.models.model import ModelSettings
from perdure.types.errors import DefinitionError


def check_arguments(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse an argument that does not exist, and say which one may have been meant."""
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}=" if near else f"there are {', '.join(known)}"
            raise DefinitionError(f"{where} has no argument {name}=; {hint}.")


def check_name(name: object, what: str) -> None:
    """Refuse a name that is no text, is empty, or is longer than 200 characters."""
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or "/" in name:
        raise DefinitionError(f"{what}(name={name!r}): a name is 1 to 200 characters of text without '/'.")


def refusing(fits: Callable[[Any], bool], said: str) -> Callable[[Any, str], Any]:
    """Make the check that refuses a value which does not fit; what is said then has a place for it."""

    def check(value: Any, where: str) -> Any:
        if fits(value):
            return value
        raise DefinitionError(f"{where}: {said.format(value)}")

    return check


def of_kind(kind: type, option: str) -> Callable[[Any, str], Any]:
    """Make the check of an option that refuses values of other types."""
    return refusing(lambda value: isinstance(value, kind), f"{option}={{!r}} must be of type {kind.__name__}.")


def of_function(option: str) -> Callable[[Any, str], Any]:
    """Make the check of an option that refuses what is no function, unless it is None."""
    return refusing(lambda value: value is None or callable(value), f"{option}= takes a function, not {{!r}}.")


check_prompt = refusing(
    lambda value: value is None or isinstance(value, str) or callable(value),
    "system= takes text or a function of the context, not {!r}.",
)
check_settings = refusing(
    lambda value: value is None or isinstance(value, ModelSettings), "settings= takes ModelSettings, not {!r}."
)
check_prefill = refusing(lambda value: value is None or isinstance(value, str), "prefill={!r} must be of type str.")
check_enabled = refusing(
    lambda value: isinstance(value, bool) or callable(value),
    "enabled={!r} must be True, False or a function of the context.",
)
check_limit = refusing(
    lambda value: value is None or (type(value) is int and value >= 0),
    "max_iter={!r} must be a whole number from 0, or None for no limit.",
)
check_retries = refusing(
    lambda value: type(value) is int and value >= 0, "output_retries={!r} must be a whole number from 0."
)


def check_model(model: Any, where: str) -> Any:
    """Refuse what is neither a model nor `"provider:name"`."""
    if model is None or (not isinstance(model, (str, type)) and hasattr(model, "stream")):
        return model
    if isinstance(model, str):
        if ":" in model or model == "offline":
            return model
        raise DefinitionError(f'{where}: model={model!r} names no provider; write "provider:name", such as "openai:…".')
    raise DefinitionError(f'{where}: model= takes a model or "provider:name", not {model!r}.')


def check_tools(tools: Any, where: str) -> tuple[Offered[Any], ...]:
    """Refuse what is no tool, and two tools of one name."""
    if isinstance(tools, (str, Tool, Toolset)) or not isinstance(tools, Sequence):
        raise DefinitionError(f"{where}: tools= takes a list of tools, not {tools!r}.")
    names: set[str] = set()
    given: list[Any] = list(tools)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    given = [one.as_tool() if isinstance(one, ToolSource) else one for one in given]
    for one in given:
        if isinstance(one, Tool):
            if one.name in names:
                raise DefinitionError(f"{where}: two tools are named {one.name!r}; rename one with tool(name=…).")
            names.add(one.name)
        elif not isinstance(one, Toolset):
            hint = "give tools made by @tool, or toolsets"
            if hasattr(one, "as_tool"):
                hint = "make it a tool with .as_tool()"
            elif callable(one):
                hint = "decorate the function with @tool"
            raise DefinitionError(f"{where}: tools= holds {one!r}; {hint}.")
    return tuple(given)


def check_choice(choice: str, tools: Sequence[Any], where: str) -> None:
    """Refuse a choice of a tool that the agent does not have."""
    named = {one.name for one in tools if isinstance(one, Tool)}
    if choice in ("auto", "any", "none") or choice in named or any(isinstance(one, Toolset) for one in tools):
        return
    raise DefinitionError(
        f"{where}: tool_choice={choice!r} is none of its tools ({', '.join(sorted(named)) or 'it has none'}), "
        "nor 'auto', 'any' or 'none'."
    )


def check_history(history: Any, where: str) -> Any:
    """Refuse what is no adapter for a history."""
    if history is None:
        return None
    from perdure.agents.history import check_adapter

    return check_adapter(history, where)


def read_names(names: Any, where: str) -> frozenset[str]:
    """Read the name of a tool, or several."""
    given = {names} if isinstance(names, str) else names
    if not isinstance(given, Iterable):
        raise DefinitionError(f"{where}: stop_when={names!r} must be the name of a tool, or several.")
    return frozenset(cast("Iterable[str]", given))


def check_stop(wanted: frozenset[str], tools: Sequence[Any], where: str) -> None:
    """Refuse names that none of the tools has."""
    unknown = wanted - {one.name for one in tools if isinstance(one, Tool)}
    if unknown and not any(isinstance(one, Toolset) for one in tools):
        raise DefinitionError(f"{where}: stop_when= names {min(unknown)!r}, which is none of its tools.")


def check_output(kind: Any, where: str) -> Any:
    """Refuse an output type that is neither a type nor a tuple of types; its schema is made when it is used."""
    given = cast("tuple[Any, ...]", kind) if isinstance(kind, tuple) else (kind,)
    marks = ("__origin__", "__args__", "__value__", "__supertype__")
    if given and all(isinstance(one, type) or any(hasattr(one, mark) for mark in marks) for one in given):
        return cast("Any", kind)
    raise DefinitionError(f"{where}: output_type= takes a type or a tuple of types, not {kind!r}.")


def check_state(state: Any, where: str) -> Any:
    """Refuse a state that is a value and not a type or a function."""
    if callable(state):
        return state
    raise DefinitionError(
        f"{where}: state= takes a class or a function that makes the data, not {type(state).__name__}; pass "
        "state=lambda: … to start from a prepared value."
    )


def _context_argument(fn: Any) -> Any:
    """Find X in a first parameter `Context[X]`; None if there is none, or it cannot be resolved yet."""
    inner = innermost(fn)
    names = list(getattr(inner, "__annotations__", {}))
    if not names or "Context" not in str(inner.__annotations__[names[0]]):
        return None
    try:
        hint = get_type_hints(inner)[names[0]]
    except (NameError, TypeError, AttributeError, KeyError):
        return None
    return next(iter(get_args(hint)), None)


def _is_class(kind: Any) -> TypeGuard[type[Any]]:
    """Whether subclasses can be told by it: Any, TypedDicts and protocols say nothing at run time."""
    return isinstance(kind, type) and kind is not Any and not is_typeddict(kind) and not is_protocol(kind)


def check_contexts(agent: str, tools: Sequence[Any], state: Any, where: str) -> None:
    """Refuse tools that were written for another state, where their annotations say so."""
    if not isinstance(state, type):
        return
    for one in tools:
        wanted = _context_argument(one.fn) if isinstance(one, Tool) else None
        if not _is_class(wanted) or not _is_class(state) or wanted is state:
            continue
        if not issubclass(state, wanted):
            raise DefinitionError(
                f"{where}: the tool {one.name!r} of agent {agent!r} wants Context[{wanted.__name__}], and the "
                f"network's state is {state.__name__}."
            )
