"""Tools: typed functions that a model may call, and that stay callable as what they were."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, overload

from typing_extensions import TypedDict, TypeVar, Unpack

from perdure.agents.context import Context
from perdure.agents.signature import Signature, read_signature
from perdure.durable.people import check_in_doubt, check_timeout
from perdure.models.model import ToolSpec
from perdure.types.errors import DefinitionError

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True, default=Any)
S_contra = TypeVar("S_contra", contravariant=True, default=Any)
R = TypeVar("R")
S = TypeVar("S")
Effect: TypeAlias = Literal["pure", "idempotent", "once", "steps"]
Predicate: TypeAlias = Callable[..., "bool | str | Awaitable[bool | str]"]
InDoubt: TypeAlias = Literal["tell", "ask"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class ToolOptions(TypedDict, total=False):
    """What may be said of a tool; each means what it means in `tool`."""

    name: str | None
    description: str | None
    effect: Effect
    requires_approval: bool | Predicate
    approval_timeout: float | timedelta | None
    timeout: float | None
    retries: int
    parameters: type | dict[str, Any] | None
    strict: bool
    undo: Callable[..., Any] | None
    in_doubt: InDoubt


class Tool(Generic[P, R_co, S_contra]):
    """A function with a name, a description and a schema; made by `tool` and called like the function.

    `effect` says what a repetition would do, and so what may happen after a crash or an error: `pure` has no effect,
    `idempotent` may be repeated with the same key, `steps` has all its effects in its own inner steps, `once` must not
    be repeated.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        effect: Effect = "once",
        requires_approval: bool | Predicate = False,
        approval_timeout: float | timedelta | None = None,
        timeout: float | None = None,
        retries: int = 0,
        parameters: type | dict[str, Any] | None = None,
        strict: bool = False,
        undo: Callable[..., Any] | None = None,
        in_doubt: InDoubt = "tell",
        signature: Signature | None = None,
    ) -> None:
        if not callable(fn):
            raise DefinitionError(f"tool(…) takes a function, not {fn!r}.")
        self.name = name or getattr(fn, "__name__", "")
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise DefinitionError(
                f"The tool name {self.name!r} is not allowed: 1 to 64 letters, digits, _ or -. Pass tool(name=…)."
            )
        if effect not in ("pure", "idempotent", "once", "steps"):
            raise DefinitionError(
                f"Tool {self.name!r}: effect={effect!r} is unknown; it is 'pure', 'idempotent', 'once' or 'steps'."
            )
        if timeout is not None and not (_is_number(timeout) and timeout > 0):
            raise DefinitionError(f"Tool {self.name!r}: timeout={timeout!r} must be a number of seconds above 0.")
        if type(retries) is not int or retries < 0:
            raise DefinitionError(f"Tool {self.name!r}: retries={retries!r} must be a whole number from 0.")
        if not isinstance(requires_approval, bool) and not callable(requires_approval):
            raise DefinitionError(
                f"Tool {self.name!r}: requires_approval={requires_approval!r} must be True, False or a function of the "
                "arguments."
            )
        if undo is not None and (effect != "once" or not callable(undo)):
            raise DefinitionError(
                f"Tool {self.name!r}: undo={undo!r} must be a function with the tool's own parameters, and the effect "
                f"'once'; a tool whose effect is {effect!r} is never in doubt."
            )
        check_in_doubt(f"Tool {self.name!r}", in_doubt, effect, undo)
        self.approval_timeout = check_timeout(f"Tool {self.name!r}, approval_timeout", approval_timeout)
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DefinitionError(
                f"Tool {self.name!r} is a generator; return its values as a list, and report progress by ctx.emit(…)."
            )
        self.fn = fn
        self.__wrapped__ = fn
        self.__name__ = self.name
        self.__doc__ = fn.__doc__
        self.description_given = description
        self.effect: Effect = effect
        self.requires_approval = requires_approval
        self.timeout = timeout
        self.retries = retries
        self.strict = strict
        self.undo = undo
        self.in_doubt: InDoubt = in_doubt
        self._parameters = parameters
        # read at once: names that are local to a function can be found only while that function runs
        self.signature = signature or read_signature(fn, parameters=parameters, context_type=Context)
        self.undo_signature = self.signature
        if undo is not None:
            self.undo_signature = read_signature(undo, parameters=parameters, context_type=Context)
        self._spec: ToolSpec | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, exactly as it was written."""
        return self.fn(*args, **kwargs)

    @property
    def description(self) -> str:
        """What a model is told that the tool does."""
        return self.description_given if self.description_given is not None else self.signature.description

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self.signature.parameters

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        if self._spec is None:
            self._spec = ToolSpec(self.name, self.description, self.parameters, self.strict)
        return self._spec

    def replace(self, **changes: Any) -> Tool[P, R_co, S_contra]:
        """Make a copy with some options changed.

        Args:
            changes: the options of `tool`.
        """
        options: dict[str, Any] = {name: getattr(self, name) for name in ToolOptions.__annotations__}
        options |= {"description": self.description_given, "parameters": self._parameters}
        fn = changes.pop("fn", self.fn)
        known = self.signature if fn is self.fn and "parameters" not in changes else None
        return Tool(fn, signature=known, **{**options, **changes})

    def __repr__(self) -> str:
        return f"Tool({self.name!r}, effect={self.effect!r})"


def tool_name(name: str) -> str:
    """Make a name that is allowed for a tool of any name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name.lower())[:64]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@overload
def tool(
    fn: Callable[Concatenate[Context[S], P], R], **options: Unpack[ToolOptions]
) -> Tool[Concatenate[Context[S], P], R, S]: ...
@overload
def tool(fn: Callable[P, R], **options: Unpack[ToolOptions]) -> Tool[P, R, object]: ...
@overload
def tool(fn: None = None, **options: Unpack[ToolOptions]) -> _Decorator: ...
def tool(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a tool of a function; used as `@tool`, `@tool(...)` or `tool(fn, ...)`.

    Args:
        fn: a sync or async function; `Context` is its first parameter if it wants one. Sync ones run in a thread.
        name: the name that a model sees; the function's own unless given.
        description: what it does; the docstring's beginning unless given.
        effect: what a repetition would do: `"pure"`, `"idempotent"`, `"once"` (unless said otherwise) or `"steps"`.
        requires_approval: whether a person must allow each call; a predicate gets the arguments by name, and may return
            a text, which tells the person why.
        approval_timeout: seconds, or a timedelta, after which a call that nobody has allowed is closed as denied.
        timeout: seconds for one attempt; none unless given.
        retries: how often a failed call is tried again; for `once` only after `NotDone`.
        parameters: a pydantic model or a JSON schema instead of the signature.
        strict: whether the model is held to the schema where its provider can do that.
        undo: takes back what a `once` call may have done that a crash has left in doubt; it has the tool's own
            parameters, gets the same arguments and `ctx.idempotency_key`, and accepts that nothing had happened.
        in_doubt: `"ask"` lets a person say of a `once` call that a crash has left in doubt: it happened, do it again
            (with the same arguments and idempotency key), or give up; `"tell"` tells the model that it is unknown.

    Raises:
        DefinitionError: an option has a wrong value.
    """
    if fn is None:
        return partial(Tool[..., Any, Any], **options)
    return Tool(fn, **options)


class _Decorator(Protocol):
    """The type of `@tool(...)`: infers like `@tool`."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Context[S], P], R]) -> Tool[Concatenate[Context[S], P], R, S]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Tool[P, R, object]: ...
