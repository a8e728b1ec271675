"""What user code is given while a run goes on: state, identity, resources, steps, child runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, cast, overload

from typing_extensions import TypeVar

from perdure.agents.patch import apply, diff
from perdure.agents.runnable import AgentView, Runnable
from perdure.agents.state import State
from perdure.durable import people
from perdure.types.base import Json, plain
from perdure.types.errors import UnknownName
from perdure.types.ids import derive_id
from perdure.types.messages import Message, ToolCall
from perdure.types.usage import NOTHING, Usage

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from perdure.agents.agent_loop import AgentLoop
    from perdure.agents.options import RunOptions
    from perdure.agents.outcome import RunResult
    from perdure.agents.result import AgentResult
    from perdure.agents.state_kind import StateKind
    from perdure.agents.steps import ContextStep, Doer
    from perdure.db.transaction import AsyncTransaction, Transaction
    from perdure.durable.run_io import RunIO
    from perdure.durable.step import Body
    from perdure.types.records import JsonPatch
    from perdure.types.waits import Answer, Decision, Wait

S = TypeVar("S", default=Any)
T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Out = TypeVar("Out")

if TYPE_CHECKING:

    class Surroundings(Doer, Protocol):
        """What a context needs of the run that it belongs to; see `Env`."""

        run_id: str
        session_id: str
        user_id: str | None
        thread_id: str | None
        resources: Sequence[Any]
        kind: StateKind[Any]

        @property
        def name(self) -> str: ...
        @property
        def is_network(self) -> bool: ...
        @property
        def agents(self) -> Mapping[str, AgentView]: ...
        def agent_of(self, loop: AgentLoop) -> AgentView: ...
        def transcript(self) -> Sequence[Message]: ...
        def results(self) -> Sequence[AgentResult]: ...
        async def available(self, ctx: Context[Any]) -> Sequence[AgentView]: ...
        def body(self, io: RunIO | None, key: str, call: ToolCall | None) -> Body: ...


class NetworkRun(Generic[S]):
    """The network as one of its runs sees it; for a stand-alone agent, a network of just that agent."""

    __slots__ = ("_env", "_scheduled", "state")

    def __init__(self, env: Surroundings, state: State[S], scheduled: list[str]) -> None:
        self._env = env
        self._scheduled = scheduled
        self.state = state

    @property
    def name(self) -> str:
        """The network's name, or the stand-alone agent's."""
        return self._env.name

    @property
    def agents(self) -> Mapping[str, AgentView]:
        """The agents by name."""
        return dict(self._env.agents)

    def schedule(self, name: str) -> None:
        """Put an agent at the end of the queue; it takes effect when this step's round ends.

        Raises:
            UnknownName: the network has no agent of this name.
        """
        if name not in self._env.agents or not self._env.is_network:
            known = list(self._env.agents) if self._env.is_network else []
            raise UnknownName("agent", name, known)
        self._scheduled.append(name)


class Saved(NamedTuple):
    """What a step had changed at some moment."""

    patch: JsonPatch | None
    scheduled: tuple[str, ...]


class Context(Generic[S]):
    """The first parameter of tools, hooks and prompts that want to know where they are.

    Everything read here belongs to one step of one run. `state.data` is the step's own copy; its changes count when
    the step has succeeded.
    """

    __slots__ = (
        "_body",
        "_doc",
        "_env",
        "_io",
        "_kept",
        "_key",
        "_loop",
        "_scheduled",
        "_state",
        "call",
        "children",
    )

    def __init__(
        self,
        env: Surroundings,
        io: RunIO | None,
        key: str,
        loop: AgentLoop | None,
        doc: Json,
        call: ToolCall | None = None,
    ) -> None:
        self._env = env
        self._io = io
        self._key = key
        self._loop = loop
        self._doc = doc
        self._state: State[S] | None = None
        self._scheduled: list[str] = []
        self._body: Body | None = None
        self._kept: JsonPatch | None = None
        self.call = call
        self.children: dict[str, Usage] = {}

    # -- where we are ------------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run."""
        return self._env.run_id

    @property
    def session_id(self) -> str:
        """The session that the run belongs to."""
        return self._env.session_id

    @property
    def user_id(self) -> str | None:
        """The user whom the run serves, if one was given."""
        return self._env.user_id

    @property
    def agent(self) -> AgentView:
        """The agent whose turn it is.

        Raises:
            UnknownName: no agent's turn is on (in a router).
        """
        if self._loop is None:
            raise UnknownName("agent", "(none: this is a router)", list(self._env.agents))
        return self._env.agent_of(self._loop)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far, this turn included."""
        loop = self._loop
        return (*loop.transcript, *loop.said) if loop is not None else tuple(self._env.transcript())

    @property
    def network(self) -> NetworkRun[S]:
        """The network of this run."""
        return NetworkRun(self._env, self.state, self._scheduled)

    @property
    def in_turn(self) -> bool:
        """Whether an agent's turn is on, so that there is an `agent`."""
        return self._loop is not None

    @property
    def durable(self) -> bool:
        """Whether what happens in this session is kept beyond this run."""
        return self._io is not None and self._io.kernel.durable

    async def inferred_before(self, begins: str) -> dict[str, str]:
        """What models have answered in this session to steps of `step.infer` whose names begin so, by their names.

        Without a runtime nothing is kept from one run to the next, and so there is nothing.
        """
        if self._io is None or not self.durable:
            return {}
        log, session = self._io.kernel.log, self.session_id
        from perdure.types.records import InferDone

        records = await log.read_session(session, max(await log.compacted(session) - 1, 0))
        steps = [one.payload for one in records if isinstance(one.payload, InferDone)]
        return {one.name: one.result for one in steps if one.name.startswith(begins) and isinstance(one.result, str)}

    async def available_agents(self) -> Sequence[AgentView]:
        """The agents of the network that are enabled now."""
        return await self._env.available(self)

    @property
    def idempotency_key(self) -> str:
        """A key that is the same for every attempt of this step, for the other side to recognise a repetition."""
        goes_on = self._io is not None and self._io.tried.origins
        return derive_id("key", self.body.drawing if goes_on else self._env.run_id, self._key)

    @property
    def child_usage(self) -> Usage:
        """What the child runs of this step have consumed, each counted once however often the step was entered."""
        return sum(self.children.values(), NOTHING)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State[S]:
        """Data, messages and results of the run."""
        if self._state is None:
            env, doc = self._env, apply(self._doc, self._kept) if self._kept else self._doc
            self._state = cast(
                "State[S]",
                State.lazy(
                    lambda: env.kind.load(doc), lambda: self.messages, lambda: tuple(env.results()), env.thread_id
                ),
            )
        return self._state

    def patch(self) -> JsonPatch | None:
        """What this step changed in the data so far, as a patch; None if nothing.

        Raises:
            Unserialisable: the data hold something that has no JSON form, or that their type does not allow.
        """
        if self._state is None or not self._state.touched:
            return self._kept
        kind = self._env.kind
        doc = kind.dump(self._state.data)
        patch = diff(self._doc, doc) or None
        if patch is not None:
            kind.fits(doc)
        return patch

    def save(self) -> Saved:
        """Remember what this step has changed so far, before an attempt that may fail."""
        return Saved(self.patch(), tuple(self._scheduled))

    def restore(self, saved: Saved) -> None:
        """Undo what a failed attempt has changed, and let its inner steps be entered again."""
        self._state = None
        self._kept = saved.patch
        self._scheduled[:] = saved.scheduled
        self._body = None

    def take_scheduled(self) -> tuple[str, ...]:
        """The agents that this step has put into the queue."""
        return tuple(self._scheduled)

    # -- doing -------------------------------------------------------------------------------------------------------

    def use(self, kind: type[T]) -> T:
        """Get a live object that was given as `resources=` to the run or the runtime.

        Args:
            kind: its class, or one that it inherits from.

        Raises:
            UnknownName: no resource is of this class.
        """
        for one in self._env.resources:
            if isinstance(one, kind):
                return one
        raise UnknownName(
            "resource (pass it as resources=[…])",
            kind.__qualname__,
            [type(one).__qualname__ for one in self._env.resources],
        )

    def emit(self, data: Any) -> None:
        """Report progress of a tool to whoever listens, as a `ToolProgress` event.

        Raises:
            Unserialisable: the data have no JSON form.
        """
        if self._io is None or self._io.sink is None or self.call is None:
            return
        from perdure.types.events import ToolProgress

        event = ToolProgress(
            tool=self.call.name,
            call_id=self.call.id,
            data=plain(data, "progress"),
            run_id=self.run_id,
            session_id=self.session_id,
            agent=self._loop.rules.agent if self._loop is not None else None,
            step=self._key,
        )
        self._io.emit([event])

    @property
    def suspending(self) -> bool:
        """Whether this body has been ended to wait, and will be entered again: for `finally` blocks."""
        return self._body is not None and self._body.suspended is not None

    def check_suspended(self) -> None:
        """Raise what has ended this body, whatever its code has made of it."""
        if self._body is not None and self._body.suspended is not None:
            raise self._body.suspended

    def left_out(self, waited: Sequence[Wait]) -> str:
        """Say which steps of earlier entries this body has not asked for by its end, given what it waited for last."""
        left = self.body.unasked(waited)
        return ", ".join(repr(one.removeprefix(f"{self._key}/")) for one in left)

    @property
    def step(self) -> ContextStep:
        """Steps inside this tool or function, which are done once and kept."""
        from perdure.agents.steps import ContextStep

        return ContextStep(self.body, self, self._env)

    async def approve(
        self,
        reason: str,
        *,
        id: str = "approve",
        args: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
    ) -> Decision:
        """Wait until a person has allowed or refused something; the run takes no more than its rows meanwhile.

        Args:
            reason: what the person is asked to allow, and why.
            id: the step's name, unique among the steps of this body that are open at the same time.
            args: what exactly is to be allowed, as plain JSON; shown to the person.
            timeout: how long to wait, in seconds or as a timedelta; for ever unless given.

        Returns:
            `Approve`, which is true; or `Deny` or, after the timeout, `Elapsed`, which are false and say `why`.

        Raises:
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
        """
        agent, call_id = self._who()
        return await people.approve(self.body, id, reason, args=args, timeout=timeout, agent=agent, call_id=call_id)

    async def ask(
        self,
        text: str,
        *,
        id: str = "ask",
        choices: Sequence[str] = (),
        timeout: float | timedelta | None = None,
    ) -> Answer | None:
        """Ask a person, and wait for the answer; the run takes no more than its rows meanwhile.

        Args:
            text: the question.
            id: the step's name, unique among the steps of this body that are open at the same time.
            choices: the answers that are possible; any text unless given.
            timeout: how long to wait, in seconds or as a timedelta; for ever unless given.

        Returns:
            The answer with its `text` and who gave it; None if nobody has answered in time.

        Raises:
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
        """
        return await people.ask(self.body, id, text, choices=choices, timeout=timeout, agent=self._who()[0])

    def _who(self) -> tuple[str, str]:
        return self._loop.rules.agent if self._loop is not None else "", self.call.id if self.call is not None else ""

    @overload
    async def transaction(
        self, fn: Callable[Concatenate[AsyncTransaction, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    async def transaction(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function that writes to the runtime's database, exactly once; see `Step.transaction`."""
        return await self.step.transaction(fn, *args, **kwargs)

    @property
    def body(self) -> Body:
        """The tool's body: what its steps and child runs belong to."""
        if self._body is None:
            self._body = self._env.body(self._io, self._key, self.call)
        return self._body

    async def run(
        self,
        definition: Runnable[Out],
        input: Any = None,
        **options: Unpack[RunOptions[Any]],
    ) -> RunResult[Out, Any]:
        """Run an agent or a network as a child of this run: its usage counts here, and it is kept with this run.

        Args:
            definition: what to run.
            input: as for `run`.
            options: as for `run`, without `session_id` and `run_id`, which follow from this run and place.

        Raises:
            RunFailed: the child failed.
            StepOutsideSteps: the tool does not declare `effect="steps"`.
        """
        return await self._env.doing.run_child(self._env, self, definition, input, options)
