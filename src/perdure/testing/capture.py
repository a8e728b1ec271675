"""What tests look at: a context for calling one tool alone, and a recorder of a run's events.

ctx = context(Support(user="ada"), resources=[FakePool()])
assert await weather(ctx, "Oslo") == "Cold."
assert ctx.state.data.answered

recorder = EventRecorder()
run = await recorder.watch(agent.stream("hi", model=ScriptedModel(say("Hello."))))
recorder.assert_well_formed()
assert recorder.text == (await run.result()).output
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from perdure.agents.agent import Agent
from perdure.agents.budget import Ledger
from perdure.agents.context import Context
from perdure.agents.env import Env
from perdure.agents.handle import Run
from perdure.agents.running import DOING
from perdure.agents.state import State
from perdure.agents.state_kind import StateKind
from perdure.agents.stream import RunStream
from perdure.durable.kernel import Kernel
from perdure.testing.well_formed import find_flaw
from perdure.types import events as ev
from perdure.types.base import Json, plain
from perdure.types.errors import StepOutsideSteps
from perdure.types.messages import Message, ToolCall

if TYPE_CHECKING:
    from perdure.agents.network import Network
    from perdure.durable.step import Body

S = TypeVar("S")
Out = TypeVar("Out")
E = TypeVar("E", bound=ev.Event)


class ToolContext(Context[S]):
    """A `Context` without a run, made by `context(...)`; `emitted` is what the tool reported with `ctx.emit`."""

    __slots__ = ("_agent", "_messages", "emitted")

    def __init__(self, env: Env, doc: Json, call: ToolCall, agent: Agent[Any, Any], messages: tuple[Message, ...]):
        super().__init__(env, None, f"test/tool/{call.id}", None, doc, call)
        self._agent = agent
        self._messages = messages
        self.emitted: list[Json] = []

    @property
    def agent(self) -> Agent[Any, Any]:
        """The agent that was given to `context`, else a nameless one."""
        return self._agent

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation that was given to `context`."""
        return self._messages

    def emit(self, data: Any) -> None:
        """Keep what a running tool reports in `emitted`, as the plain JSON that a listener would get.

        Raises:
            Unserialisable: the data have no JSON form.
        """
        self.emitted.append(plain(data, "progress"))

    @property
    def body(self) -> Body:
        """Refuse steps and child runs.

        Raises:
            StepOutsideSteps: always: they are kept in a run's log, and this context has no run.
        """
        raise StepOutsideSteps(
            "ctx.step and ctx.run keep their results in a run, and a context made for testing a tool alone has none. "
            'Let an agent call the tool: Agent("Test", tools=[it]).run("go", model=ScriptedModel(call("it"), '
            'say("done"))).'
        )


@overload
def context(
    state: None = None,
    *,
    user_id: str | None = None,
    session_id: str = "test-session",
    run_id: str = "test-run",
    resources: Sequence[Any] = (),
    messages: Sequence[Message] = (),
    agent: Agent[Any, Any] | None = None,
    network: Network[Any, Any] | None = None,
    call: ToolCall | None = None,
) -> ToolContext[dict[str, Any]]: ...
@overload
def context(
    state: State[S] | S,
    *,
    user_id: str | None = None,
    session_id: str = "test-session",
    run_id: str = "test-run",
    resources: Sequence[Any] = (),
    messages: Sequence[Message] = (),
    agent: Agent[Any, Any] | None = None,
    network: Network[Any, Any] | None = None,
    call: ToolCall | None = None,
) -> ToolContext[S]: ...
def context(
    state: Any = None,
    *,
    user_id: str | None = None,
    session_id: str = "test-session",
    run_id: str = "test-run",
    resources: Sequence[Any] = (),
    messages: Sequence[Message] = (),
    agent: Agent[Any, Any] | None = None,
    network: Network[Any, Any] | None = None,
    call: ToolCall | None = None,
) -> ToolContext[Any]:
    """Make a context for calling one tool, hook or prompt function alone, without a model or a run.

    As in a run, `ctx.state.data` is a copy of what was given and must be JSON-serialisable; look at
    `ctx.state.data` afterwards, or at `ctx.patch()` for the changes, `ctx.emitted` for progress and
    `ctx.take_scheduled()` for the agents that were queued.

    Args:
        state: the data, or a whole `State`; an empty dict unless given.
        user_id: whom the run would serve.
        session_id: the session's id.
        run_id: the run's id.
        resources: live objects for `ctx.use`.
        messages: the conversation so far.
        agent: whose turn it would be.
        network: the network, for `ctx.network.agents` and `ctx.network.schedule`.
        call: the model's call, for tools that read `ctx.call`.

    Raises:
        DefinitionError: the state is not a kind of object that can be kept.
        Unserialisable: the state holds something that has no JSON form.
    """
    given: Any = state
    thread_id: str | None = None
    if isinstance(state, State):
        whole = cast("State[Any]", state)
        messages = messages or whole.messages
        thread_id = whole.thread_id
        given = whole.data
    data: object = {} if given is None else given
    kind: StateKind[Any] = StateKind.of(cast("Callable[[], Any]", type(data)))
    doc = kind.check(data)
    speaker: Agent[Any, Any] = agent if agent is not None else Agent("Test")
    env = Env(
        kernel=Kernel(),
        definition=network if network is not None else speaker,
        kind=kind,
        hooks=(),
        ledger=Ledger(None),
        run_id=run_id,
        session_id=session_id,
        options={
            "user_id": user_id,
            "resources": tuple(resources),
            "results": state.results if isinstance(state, State) else (),
        },
        doing=DOING,
    )
    env.thread_id = thread_id
    return ToolContext(env, doc, call or ToolCall("call-1", "tool"), speaker, tuple(messages))


class EventRecorder:
    """Collects the events of runs and checks that they are well formed.

    `events` is what was seen, in order. One recorder may watch several runs, one after another or at once.
    """

    def __init__(self) -> None:
        self.events: list[ev.AnyEvent] = []

    async def watch(self, source: RunStream[Out, S] | Run[Out, S]) -> Run[Out, S]:
        """Record a stream or a run to its end; a failure of the run is not raised here.

        Args:
            source: a stream that was not entered yet, or a handle.

        Returns:
            The handle: `await run.result()` gives the result or raises.
        """
        if isinstance(source, RunStream):
            async with source as stream:
                return await self.watch(stream.run)
        async for event in source.events():
            self.events.append(event)
        return source

    def add(self, event: ev.AnyEvent) -> None:
        """Record one event; for following a run by hand."""
        self.events.append(event)

    def types(self) -> list[type[ev.AnyEvent]]:
        """The events' classes, in order."""
        return [type(event) for event in self.events]

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        """All text that was streamed, without what was reset."""
        pieces: list[tuple[str, str]] = []
        for event in self.events:
            if isinstance(event, ev.MessageReset):
                pieces = [piece for piece in pieces if piece[0] != event.message_id]
            elif isinstance(event, ev.TextDelta):
                pieces.append((event.message_id, event.text))
        return "".join(piece for _, piece in pieces)

    def assert_well_formed(self) -> None:
        """Check every run that was recorded.

        A run begins with `RunStarted` and ends with exactly one terminal event, which is its last. Every agent,
        message and tool is opened once and closed once, and pieces come inside of what they belong to. Only a run that
        waits may leave agents and tools open.

        Raises:
            AssertionError: something is wrong; the message names it and lists the events.
        """
        problem = find_flaw(self.events)
        if problem is not None:
            raise AssertionError(problem)

    def __repr__(self) -> str:
        return f"EventRecorder({len(self.events)} events)"
