"""Steps that a user writes inside a tool: run once, kept, and answered from the log when the body is entered again.

A step's key is its place: the tool's key, scopes, and the id that the user gave; `#2` and so on are added only to
repeats in sequence.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from random import Random
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    TypeVarTuple,
    Unpack,
    cast,
    overload,
)
from uuid import UUID

from perdure.durable import effects, events
from perdure.durable.arguments import arguments_hash
from perdure.durable.effects import StepEffect
from perdure.durable.endings import Parked
from perdure.durable.fingerprint import has_changed
from perdure.durable.people import UNKNOWN, check_in_doubt
from perdure.durable.run_io import RunIO
from perdure.durable.threads import in_thread
from perdure.types.errors import AmbiguousStep, DefinitionError, StepOutsideSteps
from perdure.types.events import StepStarted
from perdure.types.ids import derive_id
from perdure.types.records import ChildDone, StepDone, TransactionDone
from perdure.types.sent_event import SentEvent
from perdure.types.waits import DOUBT, GIVE_UP, Answer, Question, Timer, Wait, WaitAnswer, wait_id

if TYPE_CHECKING:
    from perdure.db.transaction import AsyncTransaction, Transaction

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


TURNS = 8
"""How many turns of the event loop a body is given to go on, when a branch of it has ended, before it is ended to wait:
`gather`, `wait` and task groups take three."""


LONGEST = 200
"""How many characters the name of a step may have."""
DEEPEST = 500
"""How many characters the place of a step may have: PostgreSQL keeps it in an index."""


class Suspended(BaseException):
    """Ends a body whose open steps all wait; it is no `Exception`, so that a user's handler does not swallow it.

    Args:
        waits: what the body waits for.
    """

    def __init__(self, waits: tuple[Wait, ...]) -> None:
        super().__init__()
        self.waits = waits


class Body:
    """One entry into a tool's code: which steps are open, which ids were used.

    Args:
        io: the run's way to the log.
        key: the tool's place.
        effect: the tool's declared effect; steps need `steps` or `pure`.
        done: the records of inner steps that are finished.
        answers: how waits were answered so far.
        waits: what was waited for so far, so that a deadline stays what it was when the body is entered again.
        name: the tool's name, for errors.
        root: the body that this one is a scope of, if it is one.

    Attributes:
        suspended: what has ended this body before its code did: it waits, or its code has changed.
        asked: the places of the steps that it has asked for.
    """

    __slots__ = (
        "_all_open",
        "_counts",
        "_open",
        "_overlapped",
        "_parked",
        "_root",
        "_scopes",
        "answers",
        "asked",
        "done",
        "effect",
        "io",
        "key",
        "name",
        "suspended",
        "waits",
    )

    def __init__(
        self,
        io: RunIO,
        key: str,
        effect: str,
        done: Mapping[str, StepDone | ChildDone],
        answers: Mapping[str, WaitAnswer],
        waits: Mapping[str, Wait],
        name: str,
        root: Body | None = None,
    ) -> None:
        self.io = io
        self.key = key
        self.effect = effect
        self.done = done
        self.answers = answers
        self.waits = waits
        self.name = name
        self.suspended: Suspended | Parked | None = None
        self.asked: set[str] = set() if root is None else root.asked
        self._counts: dict[str, int] = {}
        self._open = 0
        self._overlapped = False
        self._scopes: dict[str, Body] = {}
        self._root = root
        self._all_open = 0
        self._parked: list[tuple[asyncio.Future[NoReturn], tuple[Wait, ...]]] = []

    @contextmanager
    def enter(self, id: str, what: str) -> Generator[str]:
        """Open a step of this body and give its key.

        Raises:
            StepOutsideSteps: the tool did not declare that its effects are in its steps.
            AmbiguousStep: the id was used while another step was open.
            Suspended: the body has ended, to wait; what its code still does counts for nothing.
            Parked: the body has ended, because its code has changed.
        """
        if (self._root or self).suspended is not None:
            raise cast("BaseException", (self._root or self).suspended)
        if self.effect not in ("steps", "pure"):
            raise StepOutsideSteps(
                f"The tool {self.name!r} used {what} but its effect is {self.effect!r}. "
                'Declare @tool(effect="steps"), which says that all its effects are in its own steps.'
            )
        _check(id, "step id")
        count = self._counts.get(id, 0) + 1
        self._counts[id] = count
        if count > 1 and (self._open or self._overlapped):
            raise AmbiguousStep(
                f"The step id {id!r} was used again in {self.name!r} while steps ran at once; "
                "use ctx.step.scope(name).run(...) in each branch, so that the ids differ."
            )
        if self._open:
            self._overlapped = True
        root = self._root or self
        self._open += 1
        root._all_open += 1
        key = f"{self.key}/{id}" + (f"#{count}" if count > 1 else "")
        if len(key) > DEEPEST:
            raise DefinitionError(f"The step {key[:80]}…{id!r} has a place that is too long; use shorter names.")
        self.asked.add(key)
        try:
            yield key
        finally:
            self._open -= 1
            root._all_open -= 1
            root._look()

    def scope(self, name: str) -> Body:
        """Give the part of this body that a name stands for; the same name gives the same part.

        Raises:
            AmbiguousStep: the name could be mistaken for a place.
        """
        _check(name, "scope")
        found = self._scopes.get(name)
        if found is None:
            key, root = f"{self.key}/{name}", self._root or self
            found = Body(self.io, key, self.effect, self.done, self.answers, self.waits, self.name, root)
            self._scopes[name] = found
        return found

    async def known(self, key: str, closing: StepDone) -> Any:
        """The record of a step that was done before, if it was.

        Raises:
            Parked: it was done, or begun, with other arguments; the body's other steps are finished before.
        """
        witness = self.io.kernel.witness
        if witness is not None:
            await witness.asked(self.io, key, closing)
        known = self.done.get(key)
        begun = known.arguments if isinstance(known, StepDone) else self.io.tried.open.get(key)
        if begun not in (None, closing.arguments) and key not in self.io.tried.accepted:
            self.differs(key, f"was {'begun' if known is None else 'finished'} with other arguments")
            await self.park(())
        if not isinstance(known, StepDone):
            return None
        if known.error is not None:
            raise effects.raised(known.name, known.error)
        return known

    async def wait(self, id: str, what: str, make: Callable[[str], Wait]) -> WaitAnswer:
        """Wait for somebody or something outside, as a step of this body.

        Args:
            id: the step's name.
            what: what the user called, for errors.
            make: makes the wait of its id, when the place is reached for the first time.

        Returns:
            How it was answered; until it is, the body is ended and entered again.
        """
        with self.enter(id, what) as key:
            return await self.wait_at(key, make)

    async def wait_at(self, place: str, make: Callable[[str], Wait]) -> WaitAnswer:
        """Wait within a step that is open already; see `wait`."""
        mark = wait_id(self.io.token.run_id, place)
        self.asked.add(mark)
        answer = self.answers.get(mark)
        if answer is None:
            answer = self.io.tried.inherited(place)
        if answer is None:
            await self.park((self.waits.get(mark) or make(mark),))
        return answer

    async def park(self, waits: tuple[Wait, ...]) -> NoReturn:  # pyright: ignore[reportReturnType]  # the future only ever raises
        """Wait until every open step of this body waits; then the body ends with `Suspended`."""
        future: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        entry = (future, waits)
        root = self._root or self
        root._parked.append(entry)
        try:
            root._look()
            await future
        finally:
            root._parked.remove(entry)

    @property
    def drawing(self) -> str:
        """The run whose id makes what is the same whenever this body comes here: its own, or its base's."""
        io = self.io
        return (
            io.tried.drawing(io.token.run_id, (self._root or self).key, self.asked)
            if io.tried.origins
            else io.token.run_id
        )

    def differs(self, key: str, what: str) -> Parked:
        """End this body, because its code asks a step that was done before for something else."""
        root = self._root or self
        found = root.suspended
        if not isinstance(found, Parked):
            found = root.suspended = changed(f"the step {key!r} {what}")
        return found

    async def unfit(self, key: str, error: Exception) -> NoReturn:
        """End this body, because its code cannot read what a step has given; its other steps are finished before."""
        self.differs(key, f"gave what does not fit any more: {error}")
        await self.park(())

    def unasked(self, waited: Sequence[Wait] = ()) -> list[str]:
        """The steps of earlier entries that this one has not asked for, though its code has ended.

        Args:
            waited: what the body was ended to wait for last.
        """
        run_id, mine = self.io.token.run_id, wait_id(self.io.token.run_id, self.key)
        if self.effect in ("steps", "pure") and self.key not in self.io.tried.accepted:
            waits = [one.id for one in waited if one.run_id == run_id and one.id not in (*self.asked, mine)]
            if waits:
                return waits
        under, accepted = f"{self.key}/", self.io.tried.accepted
        known = [*self.done, *self.io.tried.open]
        places = (one.removesuffix("#undo") for one in known if one.startswith(under) and one not in accepted)
        return [one for one in places if one not in self.asked]

    def _look(self) -> None:
        """See whether all that is open waits, once the body's other branches have had their turn to open a step."""
        if self._parked:
            asyncio.get_running_loop().call_soon(self._suspend, TURNS)

    def _suspend(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._suspend, turns - 1)
        elif self._parked and len(self._parked) == self._all_open:
            waits = tuple(wait for _, some in self._parked for wait in some)
            if not isinstance(self.suspended, Parked):
                self.suspended = Suspended(waits)
            for future, _ in self._parked:
                if not future.done():
                    future.set_exception(self.suspended)


def _check(name: str, what: str) -> None:
    if not isinstance(name, str) or len(name) > LONGEST or not name.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
        shown = repr(name) if len(repr(name)) < 100 else f"{repr(name)[:80]}…"
        raise DefinitionError(
            f"The {what} {shown} is not allowed: give a text of 1 to {LONGEST} printable characters that says what the "
            "step does; what it is done with belongs to its arguments."
        )
    if not name or "/" in name or "#" in name:
        raise AmbiguousStep(f"The {what} {name!r} is not allowed: it must not be empty nor contain '/' or '#'.")


def changed(why: str) -> Parked:
    """Make what ends a run whose code has changed so that it cannot be told what it has done already."""
    return Parked(has_changed(why))


async def _call(fn: Callable[..., Any], *args: Any) -> Any:
    """Call a user's function; a sync one in a thread."""
    value = fn(*args) if inspect.iscoroutinefunction(fn) else await in_thread(fn, *args)
    return await value if inspect.isawaitable(value) else value


class Step:
    """The step API of one body, as `ctx.step`."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[Unpack[Ts]], R | Awaitable[R]],
        /,
        *args: *Ts,
        effect: StepEffect = "once",
        retries: int = 0,
        undo: Callable[[Unpack[Ts]], Any] | None = None,
        in_doubt: Literal["tell"] = "tell",
    ) -> R: ...
    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[Unpack[Ts]], R | Awaitable[R]],
        /,
        *args: *Ts,
        effect: StepEffect = "once",
        retries: int = 0,
        in_doubt: Literal["ask"],
    ) -> R | None: ...
    async def run(
        self,
        id: str,
        fn: Callable[[Unpack[Ts]], R | Awaitable[R]],
        /,
        *args: *Ts,
        effect: StepEffect = "once",
        retries: int = 0,
        undo: Callable[[Unpack[Ts]], Any] | None = None,
        in_doubt: Literal["tell", "ask"] = "tell",
    ) -> R | None:
        """Run a function once; entered again, the kept result is returned and the function is not called.

        Args:
            id: the step's name, unique among the steps of this body that run at the same time.
            fn: a sync or async function; its result must be JSON-serialisable, and comes back as plain JSON values.
            args: what it is called with.
            effect: what a repetition would do; a step that is not `"once"` is called again after a failure or a crash.
            retries: how often a failed call is tried again; for `once` only after `NotDone`.
            undo: takes back what a `once` step that is in doubt may have done; called with the same arguments.
            in_doubt: `"ask"` lets a person say of a `once` step that a crash has left in doubt: it happened (the step
                gives None), do it again, or give up, which raises `StepInDoubt` as `"tell"` does.

        Raises:
            StepError: a `once` step failed, was in doubt after a crash (`StepInDoubt`), or was undone (`StepUndone`).
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
            AmbiguousStep: the id does not tell two steps apart.
            Unserialisable: the result cannot be kept.
        """
        if effect not in ("pure", "idempotent", "once") or (undo is not None and effect != "once"):
            raise DefinitionError(
                f"The step {id!r}: effect={effect!r}{' with undo=…' if undo else ''} is not possible; it is 'pure', "
                "'idempotent' or 'once', and only 'once' can be undone."
            )
        check_in_doubt(f"The step {id!r}", in_doubt, effect, undo)
        with self._body.enter(id, f"ctx.step.run({id!r})") as key:
            closing = StepDone(id, None, arguments_hash(args))
            known = await self._body.known(key, closing)
            if known is not None:
                return known.result
            io = self._opened(id, key)
            # what was begun with other arguments, and is accepted as it is, is not undone with these
            undone = undo if io.tried.open.get(key, closing.arguments) == closing.arguments else None
            undoing = None if undone is None else lambda: _call(undone, *args)
            asking = None if in_doubt == "tell" else partial(self._doubted, id, key)
            work = effects.perform(
                io, key, closing, lambda: _call(fn, *args), effect=effect, retries=retries, undo=undoing, ask=asking
            )
            return cast("R", await work)

    async def _doubted(self, id: str, key: str, begun: int) -> str:
        body = self._body
        text = f"The process died while the step {id!r} of {body.name!r} ran; {UNKNOWN}"
        run_id = body.io.token.run_id
        answer = await body.wait_at(f"{key}#doubt{begun}", lambda mark: Question(mark, text, run_id, choices=DOUBT))
        return answer.text if isinstance(answer, Answer) else GIVE_UP

    @overload
    async def transaction(
        self, fn: Callable[Concatenate[AsyncTransaction, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    async def transaction(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function that writes to the runtime's database; its writes and this step are committed together.

        Args:
            fn: takes the transaction first; its place is its name. On SQLite a plain function, which has 250 ms. It may
                be called again if its transaction was undone, so it does nothing but read and write rows.
            args: what else it is called with.

        Raises:
            NeedsRuntime: there is no database.
            TransactionError: the function did what it may not, or took too long.
            Exception: what the function raised; nothing of it is kept.
        """
        from perdure.durable.transaction import transact  # only here, as it needs the driver of a database

        name = getattr(fn, "__name__", type(fn).__name__)
        with self._body.enter(f"transaction:{name}", f"ctx.transaction({name})") as key:
            closing = TransactionDone(name, None, arguments_hash([args, kwargs]))
            known = await self._body.known(key, closing)
            if known is not None:
                return known.result
            return await transact(self._opened(name, key), key, closing, fn, args, kwargs)

    def _opened(self, name: str, key: str) -> RunIO:
        io = self._body.io
        if io.projector is not None:
            io.emit([StepStarted(name=name, run_id=io.token.run_id, session_id=io.token.session_id, step=key)])
        return io

    async def sleep(self, id: str, duration: float | timedelta) -> None:
        """Let time pass, also while no process lives; a run that sleeps takes no more than its rows in the store.

        Args:
            id: the step's name, unique among the steps of this body that are open at the same time.
            duration: how long, in seconds or as a timedelta.

        Raises:
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
        """
        seconds = events.in_seconds(duration, f"ctx.step.sleep({id!r}, {duration!r})")
        await self._rest(id, f"ctx.step.sleep({id!r})", lambda now: now + seconds)

    async def sleep_until(self, id: str, when: datetime) -> None:
        """Let time pass until a moment; one that is over already is not waited for.

        Args:
            id: the step's name.
            when: the moment, with its time zone.
        """
        if when.tzinfo is None:
            raise DefinitionError(f"ctx.step.sleep_until({id!r}, {when!r}): give a time with a time zone.")
        await self._rest(id, f"ctx.step.sleep_until({id!r})", lambda now: when.timestamp())

    async def _rest(self, id: str, what: str, until: Callable[[float], float]) -> None:
        body, io = self._body, self._body.io
        clock = io.kernel.clock
        if io.kernel.durable:
            await body.wait(id, what, lambda mark: Timer(mark, io.token.run_id, until(io.kernel.store_now())))
            return
        with body.enter(id, what) as key:  # nobody can wake a run in memory that is not there any more
            if await self._body.known(key, closing := StepDone(id, None, "")) is None:
                now = clock.now()
                await clock.sleep(max(0.0, until(now) - now))
                await io.keep(key, closing)

    async def wait_for_event(
        self,
        id: str,
        name: str,
        *,
        match: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
        since: datetime | Literal["now"] | None = None,
    ) -> SentEvent | None:
        """Wait until an event has come, for weeks if need be; it may have come before, since the run was created.

        Events are taken in the order in which they came, each at most once by a run.

        Args:
            id: the step's name.
            name: the event's name.
            match: dotted paths into its data, and the JSON values that must stand there: `{"invoice.id": "i-7"}`.
            timeout: how long at most, in seconds or as a timedelta.
            since: only events that came behind this moment count, or behind this call (`"now"`).

        Returns:
            The event; None if it did not come in time.

        Raises:
            NeedsRuntime: there is no place for events.
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
        """
        return await events.wait_for_event(self._body, id, name, match, timeout, since)

    async def send_event(self, id: str, name: str, data: Any = None, *, event_id: str | None = None) -> SentEvent:
        """Send an event, once: it is sent if and only if this step is kept.

        Args:
            id: the step's name.
            name: the event's name, such as `app/invoice.paid`.
            data: plain values, as a JSON object.
            event_id: makes the event once, whoever sends it; one that follows from the run and the step unless given.

        Raises:
            NeedsRuntime: there is no place for events.
            Conflict: the id was used for another event.
            StepOutsideSteps: the tool does not declare `effect="steps"` or `"pure"`.
        """
        return await events.send_event(self._body, id, name, data, event_id)

    def now(self, id: str = "now") -> datetime:
        """Tell the time; whenever this body is entered again it is what it was.

        Args:
            id: the step's name; repeats in sequence are told apart.
        """
        body, io = self._body, self._body.io
        with body.enter(id, f"ctx.step.now({id!r})") as key:
            known = body.done.get(key)
            if not isinstance(known, StepDone):
                known = StepDone(id, io.kernel.clock.now())
                io.note(key, known)  # it is committed with the next record
            elif known.arguments or not isinstance(known.result, (int, float)):
                raise body.differs(key, "was finished, and gave no time")
            return datetime.fromtimestamp(known.result, UTC)

    def scope(self, name: str) -> Step:
        """Make a step API with a place of its own, so that branches which run at once may use the same ids.

        Raises:
            AmbiguousStep: the name could be mistaken for a place.
        """
        return Step(self._body.scope(name))

    def uuid(self, name: str = "") -> UUID:
        """Make a UUID that is the same whenever this body is entered again."""
        return UUID(bytes=blake2b(self._seed("uuid", name), digest_size=16).digest(), version=4)

    def random(self, name: str = "") -> Random:
        """Make a random generator that gives the same numbers whenever this body is entered again."""
        return Random(self._seed("random", name))

    def _seed(self, kind: str, name: str) -> bytes:
        body = self._body
        return derive_id(kind, body.drawing, body.key, name).encode()
