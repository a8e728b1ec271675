"""The `Model` protocol: what an agent needs from a language model, and nothing more.

A model is a name, a provider, capabilities and one method, `stream`, which takes a `ModelRequest` (a plain value) and
yields the pieces of the answer; the last is always `Finished`. Failures are raised as `ModelError`s. Everything else
(retries, hooks, budgets, tools, the transcript) is not the model's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import msgspec

from perdure.types.base import Base
from perdure.types.errors import DefinitionError
from perdure.types.messages import Message

if TYPE_CHECKING:
    from perdure.types.chunks import ModelEvent
    from perdure.types.usage import Prices

ToolChoice: TypeAlias = str
"""`"auto"`, `"any"` (call some tool), `"none"` (call none), or the name of the tool that must be called."""


Reasoning: TypeAlias = Literal["none", "low", "medium", "high"] | int
"""How hard to think: by a word, or in tokens."""


class Capabilities(Base):
    """What a model can do natively.

    `structured_output`: an answer can be forced into a JSON schema; `"alone"` means only when no tools are offered.
    `prefill`: an answer can be begun for the model.
    """

    structured_output: Literal["yes", "alone", "no"] = "no"
    prefill: bool = False


class ModelSettings(Base):
    """Parameters of inference; None leaves the provider's default.

    `timeout` is seconds for one whole attempt, `retries` how often a retryable failure is tried again. `reasoning`
    is how hard to think, in the provider's nearest form. `extra` is laid over the request body last, so it can set or
    override anything; a value of None there removes the parameter.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Reasoning | None = None
    parallel_tool_calls: bool | None = None
    cache: bool = True
    timeout: float = 600.0
    retries: int = 3
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            fits, expected = _SETTINGS[name]
            if not fits(value) and (value is not None or name in _NEVER_NONE):
                raise DefinitionError(f"ModelSettings({name}={value!r}): give {expected}.")

    def merged(self, over: ModelSettings | None) -> ModelSettings:
        """Lay another settings value over this one; what it leaves at its default stays as it is here."""
        if over is None or over is self:
            return self
        changed = {
            name: getattr(over, name)
            for name in self.__struct_fields__
            if name != "extra" and getattr(over, name) != getattr(DEFAULT_SETTINGS, name)
        }
        extra = {**self.extra, **over.extra} if over.extra else self.extra
        return msgspec.structs.replace(self, **changed, extra=extra)


def level(reasoning: Reasoning) -> Literal["none", "low", "medium", "high"]:
    """Say in a word how hard to think."""
    if not isinstance(reasoning, int):
        return reasoning
    return "none" if reasoning <= 0 else "low" if reasoning <= 2048 else "medium" if reasoning <= 8192 else "high"


def _number(value: Any, least: float = 0) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda value: _whole(value, 1), "a whole number above 0"),
    "temperature": (_number, "a number from 0"),
    "top_p": (_number, "a number from 0"),
    "stop": (
        lambda value: (
            isinstance(value, (tuple, list)) and all(isinstance(one, str) for one in cast("list[Any]", value))
        ),
        "a sequence of texts",
    ),
    "seed": (lambda value: isinstance(value, int), "a whole number"),
    "reasoning": (
        lambda value: value in ("none", "low", "medium", "high") or _whole(value),
        "'none', 'low', 'medium', 'high' or a number of tokens",
    ),
    "parallel_tool_calls": (lambda value: isinstance(value, bool), "True or False"),
    "cache": (lambda value: isinstance(value, bool), "True or False"),
    "timeout": (lambda value: _number(value) and value > 0, "seconds above 0"),
    "retries": (_whole, "a whole number from 0"),
    "extra": (lambda value: isinstance(value, Mapping), "a mapping"),
}
"""What fits each setting, and how to say so."""
_NEVER_NONE = frozenset({"stop", "cache", "timeout", "retries", "extra"})

DEFAULT_SETTINGS = ModelSettings()


class ToolSpec(Base):
    """A tool as a model sees it; `parameters` is a JSON schema whose top level is an object."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False


class OutputSpec(Base):
    """The JSON schema an answer must have; its top level is an object."""

    name: str
    schema: dict[str, Any]
    description: str = ""


class ModelRequest(Base):
    """All that one inference is asked with: a value that can be printed, compared and kept.

    `messages` begins with the system message if there is one. They need not end with a user's message: a mapping adds
    what its provider insists on. `prefill` is text that the answer shall start with.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = "auto"
    output: OutputSpec | None = None
    prefill: str | None = None
    settings: ModelSettings = DEFAULT_SETTINGS


@runtime_checkable
class Model(Protocol):
    """A language model.

    A model may also have `prices: Prices | None`; without it, prices come from the extra `prices` where known.
    """

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        ...

    @property
    def provider(self) -> str:
        """The provider's name; opaque parts of messages go back only to the provider they came from."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do natively."""
        ...

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer a request, piece by piece.

        Raises:
            ModelError: the call failed; its class says whether trying again can help.
        """
        ...


def prices_of(model: Model) -> Prices | None:
    """Say what a model's tokens cost, if it says so itself."""
    return getattr(model, "prices", None)
