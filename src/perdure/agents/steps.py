"""The step API of a tool or a function, with what needs definitions and models: `invoke` and `infer`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

from perdure.agents.runnable import Runnable
from perdure.durable.step import Body, Step
from perdure.models.model import Model, ModelSettings
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from perdure.agents.options import FunctionOptions

Out = TypeVar("Out")
T = TypeVar("T")


class Invocation(NamedTuple):
    """A run that a step asks for."""

    id: str
    definition: Any
    data: Any
    timeout: float | None
    options: Mapping[str, Any]


class Question(NamedTuple):
    """What a step asks a model."""

    id: str
    model: Model | str | None
    messages: Any
    system: str | None
    settings: ModelSettings | None
    output_type: Any


class Doing(NamedTuple):
    """What a run does for its steps that needs definitions and models; each is given the run's live side first."""

    launch: Callable[[Any, Any, Any, Mapping[str, Any], tuple[Any, str, str], Model | None], Any]
    """Makes a child run: of a definition, with its input, its options, its place, and its model if it names none."""

    run_child: Callable[[Any, Any, Any, Any, Mapping[str, Any]], Awaitable[Any]]
    """Runs a definition as a child: given the context, the definition, its input and its options."""

    invoke: Callable[[Any, Any, Body, Invocation], Awaitable[Any]]
    """Has a definition run as a run of its own, and gives what it returns."""

    infer: Callable[[Any, Any, Body, Question], Awaitable[Any]]
    """Asks a model as a step, and gives its answer."""


class Doer(Protocol):
    """The run whose body the steps belong to."""

    doing: Doing


class ContextStep(Step):
    """The step API of one body, as `ctx.step`."""

    __slots__ = ("_ctx", "_env")

    def __init__(self, body: Body, ctx: Any, env: Doer) -> None:
        super().__init__(body)
        self._ctx = ctx
        self._env = env

    def scope(self, name: str) -> ContextStep:
        """Make a step API with a place of its own, so that branches which run at once may use the same ids.

        Raises:
            AmbiguousStep: the name could be mistaken for a place.
        """
        return ContextStep(self._body.scope(name), self._ctx, self._env)

    async def invoke(
        self,
        id: str,
        definition: Runnable[Out],
        data: Any = None,
        *,
        timeout: float | timedelta | None = None,
        **options: Unpack[FunctionOptions],
    ) -> Out:
        """Have a function, agent or network run as a run of its own, and wait for what it returns.

        In a runtime any process may drive it, and this run waits without a task. It has a session of its own, exactly
        one run comes of the step however often it is entered, and it is cancelled with this run.

        Args:
            id: the step's name, unique among the steps of this body that run at the same time.
            definition: what is to run; registered with the runtime, if there is one.
            data: what a function is given, or what an agent is asked.
            timeout: seconds after which it is cancelled.
            options: as for `run`, without `session_id` and `run_id`, which follow from this run and the step.

        Raises:
            InvokeError: the run failed or was cancelled.
            InvokeTimeout: it did not end in time.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and not seconds > 0:
            raise DefinitionError(f"ctx.step.invoke({id!r}, timeout={timeout!r}): give seconds above 0.")
        what = Invocation(id, definition, data, seconds, options)
        return await self._env.doing.invoke(self._env, self._ctx, self._body, what)

    @overload
    async def infer(
        self,
        id: str,
        model: Model | str | None,
        messages: Any,
        *,
        system: str | None = None,
        settings: ModelSettings | None = None,
    ) -> str: ...
    @overload
    async def infer(
        self,
        id: str,
        model: Model | str | None,
        messages: Any,
        *,
        output_type: type[T],
        system: str | None = None,
        settings: ModelSettings | None = None,
    ) -> T: ...
    async def infer(
        self,
        id: str,
        model: Model | str | None,
        messages: Any,
        *,
        system: str | None = None,
        settings: ModelSettings | None = None,
        output_type: Any = str,
    ) -> Any:
        """Ask a model once, as a step: entered again, its answer is returned and it is not asked.

        Args:
            id: the step's name.
            model: a model or `"provider:name"`; None for that of the agent whose turn it is, or the runtime's.
            messages: a text, or messages.
            system: the system prompt.
            settings: parameters of inference.
            output_type: a type that the answer must have; text unless given.

        Raises:
            ModelError: the model failed for good, also when asked again.
            OutputInvalid: its answer does not fit `output_type`.
            OverBudget: the run has used its budget.
        """
        what = Question(id, model, messages, system, settings, output_type)
        return await self._env.doing.infer(self._env, self._ctx, self._body, what)
