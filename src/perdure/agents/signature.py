"""From a function's signature and docstring to what a model is told, and back to a call.

Reading a function is cheap and imports no pydantic; the JSON schema and the validator are made at first use and kept.
Arguments are read from JSON, in pydantic's lax way (`"2024-05-01"` is a date, `"3"` an int), so what a function gets is
its own copy; what does not fit is an `ArgumentsInvalid` whose message a model can act on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from perdure.agents.arguments import Arguments, Check, FromSchema, FromSignature, FromType
from perdure.agents.docstring import Docstring, read_docstring
from perdure.agents.hints import EMPTY, NEEDED, asked_by, innermost, is_async, name_of
from perdure.agents.json_schema import Mismatch, Problem
from perdure.types.base import encode_json, plain
from perdure.types.errors import DefinitionError, PerdureError, Unserialisable

_MOST_SHOWN = 200
_MOST_PROBLEMS = 20


class ArgumentsInvalid(PerdureError, ValueError):
    """A model called a tool with arguments that do not fit; the message tells it which and why."""


class Signature:
    """What a function takes, for a model.

    Attributes:
        takes_context: whether the first parameter is the context, which a model never sees.
        is_async: whether calling the function gives a coroutine.
    """

    __slots__ = ("_arguments", "_check", "_docstring", "_fn", "_parameters", "is_async", "takes_context")

    def __init__(self, fn: Callable[..., Any], arguments: Arguments, takes_context: bool) -> None:
        self._fn = fn
        self._arguments = arguments
        self._check: Check | None = None
        self._docstring: Docstring | None = None
        self._parameters: dict[str, Any] | None = None
        self.takes_context = takes_context
        self.is_async = is_async(fn)

    def __repr__(self) -> str:
        return f"Signature({name_of(self._fn)})"

    def _documented(self) -> Docstring:
        if self._docstring is None:
            own = innermost(self._fn)
            text = getattr(own, "__doc__", None)
            if not text and own is getattr(type(self._fn), "__call__", None):  # noqa: B004
                text = type(self._fn).__doc__
            self._docstring = read_docstring(text)
        return self._docstring

    @property
    def description(self) -> str:
        """The docstring without its sections on arguments, results and errors."""
        return self._documented().description

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the arguments; its top level is an object."""
        if self._parameters is None:
            schema = self._arguments.schema()
            properties = dict(cast("Mapping[str, Any]", schema["properties"]))
            for name, said in self._documented().arguments.items():
                rules = properties.get(name)
                if isinstance(rules, dict) and "description" not in rules:
                    properties[name] = {**cast("dict[str, Any]", rules), "description": said}
            self._parameters = {**schema, "properties": properties}
        return self._parameters

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What the function takes for arguments that a model leaves out."""
        return self._arguments.defaults()

    def bind(self, input: Mapping[str, Any] | str) -> dict[str, Any] | tuple[Any, ...]:
        """Check a model's arguments.

        Args:
            input: the arguments, or the raw text if they were not a JSON object.

        Returns:
            what `call` wants: keyword arguments, or a tuple with the one argument.

        Raises:
            ArgumentsInvalid: they do not fit.
            DefinitionError: the function's parameters cannot be checked; raised at the first call, if not before.
        """
        check = self._check
        if check is None:
            check = self._check = self._arguments.check()
        try:
            return check(encode_json(input))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._explain(input, error) from error

    def whole(self, input: Mapping[str, Any], bound: dict[str, Any] | tuple[Any, ...]) -> dict[str, Any]:
        """Write down what a call will be made with, so that it stays the same when the code's defaults change.

        Returns:
            Plain JSON: the validated arguments with the defaults, if they can be read again; else as they came, with
            the defaults that have a JSON form.
        """
        named = isinstance(bound, dict)
        full: Any = {**bound, **{k: v for k, v in self.defaults.items() if k not in bound}} if named else bound[0]
        try:
            args = plain(full)
            again = self.bind(cast("Any", args))
            if again == (full if named else bound):
                return cast("dict[str, Any]", args)
        except (PerdureError, ValueError, TypeError):  # it has no JSON form that would be read as the same
            import logging

            logging.getLogger("perdure").debug("The arguments of %r are kept as they came.", self, exc_info=True)
        args = dict(input)
        for name, default in self.defaults.items():
            if name not in args:
                with suppress(Unserialisable):
                    args[name] = plain(default)
        return args

    def call(self, fn: Callable[..., Any], ctx: Any, bound: dict[str, Any] | tuple[Any, ...]) -> Any:
        """Call a function with bound arguments, and with the context first if it takes one."""
        return self._arguments.call(fn, (ctx,) if self.takes_context else (), bound)

    def _explain(self, input: Any, error: Exception) -> Exception:
        if isinstance(input, str):
            names = ", ".join(self.parameters["properties"]) or "no arguments"
            return ArgumentsInvalid(
                f"The arguments are not a JSON object: {_shortened(input)}. Send one with: {names}."
            )
        if isinstance(error, Mismatch):
            problems = error.problems
        else:
            from pydantic import ValidationError

            if not isinstance(error, ValidationError):
                # a validator of the user's that broke, or arguments that are not JSON
                return error
            problems = [_problem(one) for one in error.errors(include_url=False, include_context=False)]
        lines = [_line(problem) for problem in problems[:_MOST_PROBLEMS]]
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more")
        if any(problem.what == _UNKNOWN for problem in problems):
            lines.append(f"known arguments: {', '.join(self.parameters['properties']) or 'none'}")
        return ArgumentsInvalid("The arguments do not fit:\n" + "\n".join(f"- {line}" for line in lines))


_UNKNOWN = "is not known here"


def read_signature(
    fn: Callable[..., Any], *, parameters: type | Mapping[str, Any] | None = None, context_type: type
) -> Signature:
    """Read what a function takes.

    Args:
        fn: a function, method, partial or callable object, sync or async.
        parameters: a pydantic model or the like, of which the function gets one instance; or a JSON schema, whose
            values it gets by name if it has such parameters, else as one dict. None reads the function's own.
        context_type: the class that marks the first parameter as the context.

    Raises:
        DefinitionError: the signature cannot be read, or does not fit `parameters`.
    """
    if not callable(fn):
        raise DefinitionError(f"A tool is made of a function; {fn!r} cannot be called.")
    asked = asked_by(fn, context_type)
    arguments: Arguments
    if parameters is None:
        arguments = FromSignature(fn, asked)
    elif isinstance(parameters, Mapping):
        arguments = FromSchema(fn, asked, parameters)
    elif isinstance(parameters, type) or hasattr(parameters, "__origin__"):  # pyright: ignore[reportUnnecessaryIsInstance]
        places = [one for one in asked.parameters if one.kind < inspect.Parameter.KEYWORD_ONLY]
        if not places or sum(one.default is EMPTY and one.kind in NEEDED for one in asked.parameters) > 1:
            raise DefinitionError(
                f"{name_of(fn)} must have exactly one parameter (besides the context) for its {parameters!r}."
            )
        arguments = FromType(fn, parameters)
    else:
        raise DefinitionError(
            f"parameters= of {name_of(fn)} is a {type(parameters).__name__}: pass a pydantic model or a JSON schema."
        )
    return Signature(fn, arguments, asked.takes_context)


def _problem(error: Mapping[str, Any]) -> Problem:
    kind = error["type"]
    path = cast("tuple[str | int, ...]", error["loc"])
    if kind == "extra_forbidden":
        return Problem(path, _UNKNOWN, shown=False)
    if kind == "missing":
        return Problem(path, "is missing", shown=False)
    return Problem(path, error["msg"], error["input"])


def _line(problem: Problem) -> str:
    where = ""
    for part in problem.path:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else part
    what = _cut(problem.what)
    shown = f" (got {_shortened(problem.value)})" if problem.shown else ""
    return f"{where}: {what}{shown}" if where else f"{what}{shown}"


def _shortened(value: Any) -> str:
    # a text is cut before it is quoted: it may be megabytes
    return _cut(repr(value[: _MOST_SHOWN * 2] if isinstance(value, str) else value))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
