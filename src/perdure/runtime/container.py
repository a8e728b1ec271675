"""A tenant: its own sessions and runs, with the same verbs as the runtime; nothing crosses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from msgspec import structs

from perdure.agents.changed import compare, judge, judge_definition
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.handle import Run
from perdure.agents.in_sync import EachInSync, InSync, Loop
from perdure.agents.outcome import RunResult
from perdure.agents.run_options import BOUNDED, read_kept
from perdure.agents.running import Running
from perdure.db.database import StoreCorrupt, StoreError
from perdure.durable.endings import Left as Leaving
from perdure.durable.endings import Parked
from perdure.durable.fingerprint import has_changed
from perdure.durable.kernel import Kernel
from perdure.durable.live import Live
from perdure.durable.patience import patiently
from perdure.durable.program import Waiting
from perdure.durable.tail import Tail
from perdure.log.log import ENDED, Accepted, Entry, NewRun, RunRow, Token
from perdure.log.owners import Left
from perdure.log.rows import input_hash
from perdure.log.sessions import PAGE, SessionRow, list_runs, list_sessions
from perdure.log.sql import SqlLog
from perdure.log.transfer import import_session
from perdure.log.unpark import unpark
from perdure.runtime.closing import ending, left_at_close
from perdure.runtime.conversations import Conversations
from perdure.runtime.doors import Doors
from perdure.runtime.family import Family
from perdure.runtime.follow import Follower, check_same, follow
from perdure.runtime.forks import Forks
from perdure.runtime.parked import lonely_deaths, why_parked
from perdure.runtime.peers import ContainerPeers
from perdure.runtime.people import People
from perdure.runtime.searching import Searching
from perdure.runtime.session import Session
from perdure.runtime.sessions import Sessions
from perdure.runtime.spent import Spending
from perdure.runtime.upkeep import Upkeep
from perdure.types import events as ev
from perdure.types.base import sound
from perdure.types.errors import Conflict, RunError, RunFailed
from perdure.types.events import AnyEvent
from perdure.types.ids import check_id
from perdure.types.live import Cursor
from perdure.types.records import CancelAsked, Claimed, Erased, ErrorInfo, Forked, Record, RunFinished, RunStarted
from perdure.types.sent_event import SentEvent, new_event
from perdure.types.session import read_user

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

Out = TypeVar("Out")
S = TypeVar("S")
T = TypeVar("T")
DEATHS = 3
"""A run is parked after it was alone in this many dying processes."""

_DRIVEN = ("queued", "running")
_OPEN = (*_DRIVEN, "waiting")
_log = logging.getLogger("perdure")


class Container(Doors, People, Forks, Searching, Upkeep):
    """A handle on one tenant of a runtime.

    Args:
        runtime: the runtime.
        name: the tenant's id.
        log: its log.
    """

    def __init__(self, runtime: Runtime, name: str, log: SqlLog) -> None:
        self.runtime = runtime
        self.name = name
        self.log = log
        self.live_here = Live(runtime.notice)
        self.kernel = Kernel(
            *(log, runtime.clock, runtime.worker, runtime.held, self.live_here, runtime.worker.store.now),
            peers=ContainerPeers(self),
        )
        self.kernel.witness = runtime.witness
        self.live: dict[str, Running | None] = {}
        self.conversations = Conversations(log)
        self._spent = Spending(log)

    # -- verbs -------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Sessions:
        """Starts sessions, and keeps their events; called with an id, it gives the handle on one conversation."""
        return Sessions(self)

    def events(self, session_id: str, after: Cursor | str | int | None = None) -> AsyncIterator[AnyEvent]:
        """Follow a conversation, whoever drives its runs: what was, then what happens, until the runtime is closed.

        What records tell comes in their order, without a gap and without a repetition. What is being said comes as it
        is said; `MessageReset` says that what was shown of an answer is void. It need not exist yet.

        Args:
            session_id: the conversation.
            after: the `cursor` of the last event that the reader has; None for the beginning.

        Raises:
            InvalidId: the cursor is none, or of another session.
        """
        return follow(self, check_id(session_id, "session_id"), Cursor.read(after))

    async def cancel(self, run_id: str, *, reason: Literal["cancelled", "interrupted"] = "cancelled") -> None:
        """Ask for the end of a run, whoever drives it; what it has finished is kept.

        A run that is over stays as it is. One that is queued ends when its turn has come.

        Args:
            run_id: the run.
            reason: what its end says.

        Raises:
            UnknownName: there is no such run.
        """
        run = await self.log.run(run_id)
        if run.status in ENDED:
            return
        await self.log.post(run_id, CancelAsked(reason))
        await self.notice_cancel(run_id)
        run = await self.log.run(run_id)  # it may have begun to wait just before
        if run.status == "parked":
            await unpark(self.log, run_id, to_end=True)
        if run.status in ("waiting", "parked"):  # nobody drives it, so it is closed here
            await self.take_over(Left(self.name, run_id, None, 0, 0), {})

    async def send_event(
        self, name: str, data: Any = None, *, id: str | None = None, user_id: str | None = None
    ) -> SentEvent:
        """Tell of something that has happened: functions of it start, and runs that wait for it go on.

        Args:
            name: what has happened, such as `app/invoice.paid`.
            data: plain values, as a JSON object.
            id: makes it once, however often it is sent; an own one unless given.
            user_id: whose it is: the runs that it starts are theirs, and it is erased with them.

        Returns:
            The event as the store has it.

        Raises:
            Conflict: the id was used for another event.
            DefinitionError: the name, the data or their size are not allowed.
            QuotaExceeded: the container has no room for it and what it starts.
        """
        event = new_event(name, data, id, read_user(user_id))
        if self.log.quota is not None and await self.log.event(event.id) is None:
            await self.check_room(self.log.quota, "")
        return (await self.log.send([event]))[0]

    async def resume(self, run_id: str, *, force: bool = False, accept: bool = False) -> RunRow:
        """Let a parked run go on: a worker that has its definition takes it, when its session's turn is its own.

        Args:
            run_id: the run.
            force: whether it is also taken from an owner that is alive, which is refused what it still writes.
            accept: whether it goes on although its code has changed: what was finished before is used as it is.

        Returns:
            The run as it is now.

        Raises:
            UnknownName: there is no such run.
            Conflict: it is not parked, and `force` was not asked for or does not help.
        """
        run = await unpark(self.log, run_id, force=force, accept=accept)
        self.runtime.worker.tell()
        return run

    async def runs(
        self, *, status: str | None = None, session_id: str | None = None, after: str | None = None, limit: int = PAGE
    ) -> list[RunRow]:
        """List runs page by page, the newest first; `after` is the last run of the page before."""
        return await list_runs(self.log, status=status, session_id=session_id, after=after, limit=limit)

    async def sessions(self, *, after: str | None = None, limit: int = PAGE) -> list[SessionRow]:
        """List sessions page by page, the newest first; `after` is the last session of the page before."""
        return await list_sessions(self.log, after=after, limit=limit)

    async def import_session(self, path: str | Path) -> Session:
        """Take in a session that was exported, with its ids; runs that were open are held, as in a copied store.

        Raises:
            ImportRefused: the file is no export, or is not whole.
            Conflict: one of the ids is here already; nothing is taken in.
        """
        return self.session(await import_session(self.log, Path(path)))

    # -- for sync code -----------------------------------------------------------------------------------------------

    events_sync = EachInSync(events)
    cancel_sync = InSync(cancel)
    send_event_sync = InSync(send_event)
    resume_sync = InSync(resume)
    runs_sync = InSync(runs)
    sessions_sync = InSync(sessions)
    import_session_sync = InSync(import_session)

    # -- how a run goes ----------------------------------------------------------------------------------------------

    def prepare(self, definition: Any, input: Any, options: dict[str, Any]) -> Running:
        """Make the live side of a run."""
        self.runtime.check_registered(definition)
        runtime = self.runtime
        given = {"resources": runtime.resources, **options} if runtime.resources else options
        running = Running(definition, input, given, kernel=self.kernel, hooks=runtime.hooks, fallback=runtime.model)
        running.door = self.resumed
        if options.get("budget") is not None:
            running.count = Family(self.log, running).count
        return running

    async def hand_over(self, definition: Any, input: Any, **options: Any) -> Run[Any, Any]:
        """Give a run to the process that can drive it, and follow it; returns when the log has it."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def accept(running: Running) -> Accepted:
            accepted = await self.log.accept(self.new_run(running, detached=True), running.started)
            if accepted.known:
                check_same(accepted.run, running.env.options)
            return structs.replace(accepted, known=True)  # also a new one is only followed here

        run = self.launch(self.prepare(definition, input, options), taken, accept)
        await taken
        return run

    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""
        return self.runtime.loop.opened()

    async def left(self, run: Run[Any, Any]) -> None:
        """Whoever waited for a run was cancelled: so is the run, if it is driven here for them."""
        mine = self.live.get(run.id)
        await (run.cancel() if mine is not None and run.drives(mine) else run.detach())

    def launch(
        self,
        running: Running,
        taken: asyncio.Future[None] | None = None,
        accept: Callable[[Running], Awaitable[Accepted]] | None = None,
    ) -> Run[Any, Any]:
        """Take a run in and drive it in the background; `taken` is told when the log has it."""
        id = running.env.run_id
        run: Run[Any, Any] = Run(
            running, lambda: self._whole(running, taken, accept or self._accept), lambda: self.cancel(id)
        )
        if taken is not None:
            run.goes_on = lambda: self._to_end(running)
        self.runtime.keep(run)
        return run

    async def _whole(
        self,
        running: Running,
        taken: asyncio.Future[None] | None,
        accept: Callable[[Running], Awaitable[Accepted]],
    ) -> RunResult[Any, Any]:
        """Take a run in, wait for its turn if need be, and drive it; a repetition follows the run that it repeats."""
        id = running.env.run_id
        first = id not in self.live
        if first:
            self.live[id] = running
        try:
            try:
                accepted = await accept(running)
            except BaseException as error:
                if taken is not None and not taken.done():
                    taken.set_exception(error)
                raise
            if taken is not None and not taken.done():
                taken.set_result(None)
            run = accepted.run
            if not accepted.known:
                result = await self._take_turn(running, accepted)
                if result is not None:
                    return result
                run = await self._asked(lambda: self.log.run(id))
            if first:  # it may be taken over here too, if whoever has it dies, or somebody resumes it
                del self.live[id]
                first = False
            return await self._follow(running, run)
        except (Leaving, asyncio.CancelledError) as end:
            if not self.runtime.closing:
                raise
            raise left_at_close(id) from end
        finally:
            if first:
                del self.live[id]
            self.runtime.worker.turns.hand_over(self.name, running.env.session_id)
            self.runtime.worker.tell(more=getattr(running.definition, "concurrency", None) is not None)

    def new_run(self, running: Running, *, detached: bool = False) -> NewRun:
        """The run as the log takes it in; `detached` if whoever has its definition drives it."""
        definition, started = running.definition, running.started
        stated = running.env.options.get("state") is not None
        lane = definition.lane(self.name, started.input) if isinstance(definition, FunctionDefinition) else None
        return structs.replace(running.new_run(input_hash(started, stated=stated)), detached=detached, lane=lane)

    async def _accept(self, running: Running) -> Accepted:
        self.runtime.held.check()
        if running.thread is not None:
            await running.thread.name(running)
        await self.runtime.worker.fresh()
        running.gaps = self.runtime.worker.gaps
        new = self.new_run(running)
        if self.log.quota is not None:
            await self.check_room(self.log.quota, new.id)
        accepted = await self.log.accept(new, running.started, running.env.options.get("on_busy", "queue"))
        if accepted.known:
            check_same(accepted.run, running.env.options)
        if accepted.behind is not None and "on_busy" in running.env.options:
            await self._close_cancelled(running.env.session_id)
        return accepted

    async def _close_cancelled(self, session_id: str) -> None:
        """See to it that the runs of a session which somebody has cancelled end: those that are driven here, and those
        that nobody drives because they wait."""
        for run in await self.log.runs(session_id=session_id):
            if run.status == "running":
                await self.notice_cancel(run.id)
            elif run.status == "waiting" and await self.log.cancelled(run.id):
                await self.take_over(Left(self.name, run.id, None, 0, run.deaths), {})

    async def _take_turn(self, running: Running, accepted: Accepted) -> RunResult[Any, Any] | None:
        """Drive a run when its turn comes; None if it is not this process's, or not any more."""
        env, token = running.env, accepted.token
        if token is not None:
            earlier = await self._asked(lambda: self.conversations.earlier(running, accepted))
            return await self._guarded(running, token, running.begin(token, accepted.head, earlier), accepted)
        # if it is this process's, nobody here drives it: a claim whose outcome was unknown has succeeded
        mine = [self.log.owner]
        worker = self.runtime.worker
        with worker.turns.wanted(self.name, env.session_id, env.run_id) as turn:
            while True:
                running.gaps = worker.gaps
                claimed = await self._asked(lambda: self.log.claim(env.run_id, dead=mine))
                if claimed is not None:
                    break
                if (await self._asked(lambda: self.log.run(env.run_id))).status != "queued":
                    return None
                await worker.until(turn)
                turn.clear()
        token, head = claimed
        records = await self._asked(lambda: self.log.read_run(env.run_id))
        running.recall(records, await self._asked(lambda: self.conversations.earlier(running, None, records)))
        return await self._guarded(running, token, running.take_up(token, head, records))

    async def _guarded(
        self,
        running: Running,
        token: Token,
        drive: Coroutine[Any, Any, RunResult[Any, Any]],
        accepted: Accepted | None = None,
    ) -> RunResult[Any, Any] | None:
        """Drive a run; None if another owner has it since, or it was parked."""
        try:
            if running.session_ledger is not None:
                try:
                    await self._asked(lambda: self._spent.count(running))
                except BaseException:
                    drive.close()  # it has not begun
                    raise
            result = await drive
            self.conversations.ended(running, accepted)
            return result
        except Conflict:
            run = await self._asked(lambda: self.log.run(token.run_id))
            if run.epoch == token.epoch:
                raise
        except Parked as why:
            _log.error("Run %s is parked: %s", token.run_id, why)
        return None

    async def _to_end(self, running: Running) -> RunResult[Any, Any]:
        """Follow a run that has waited to its end, whoever drives it on."""
        task = asyncio.current_task()
        assert task is not None
        self.runtime.follows(task)
        try:
            run = await self._asked(lambda: self.log.run(running.env.run_id))
            return await self._follow(running, run, _OPEN)
        except asyncio.CancelledError as end:
            if not self.runtime.closing:
                raise
            raise left_at_close(running.env.run_id) from end

    async def _follow(self, running: Running, run: RunRow, going: Collection[str] = _DRIVEN) -> RunResult[Any, Any]:
        """Show what happens in a run that somebody else drives, until its end, and read its result from the log."""
        id = run.id
        tail = await self._watch(running, run, going)
        run = await self._asked(lambda: self.log.run(id))
        records = await self._asked(lambda: self.log.read_run(id))
        if any(isinstance(record.payload, Erased) for record in records):
            raise RunError(f"Run {run.id} was erased; nothing of it can be read. Start another one, with another id.")
        running.recall(records, await self._asked(lambda: self.conversations.before(run)))
        action = running.loop.next() if run.status == "waiting" else None
        running.waiting = action if isinstance(action, Waiting) else None
        at: dict[str, Any] = {"run_id": run.id, "session_id": run.session_id}
        if running.sink is not None and running.waiting is not None:
            running.sink(ev.RunWaiting(waits=running.waiting.waits, **at))
        if run.status == "parked":
            text = f"Run {run.id} of {run.definition!r} is parked: {why_parked(run, records)}"
            for event in [*tail.close(run.id), ev.RunFailed(error=ErrorInfo("Parked", text), **at)]:
                if running.sink is not None:
                    running.sink(event)
            raise RunFailed(text, running.result())
        return running.result()

    async def _watch(self, running: Running, run: RunRow, going: Collection[str]) -> Tail:
        """Tell whoever listens to a run what happens in it, as long as somebody else drives it."""
        io, sink = running.io, running.sink
        if io is None or io.projector is None:
            tail = Tail(run.session_id, Cursor(run.position - 1), run.id)
        else:  # it was driven here before, and told
            tail = Tail(run.session_id, Cursor(io.committed), run.id)
            tail.adopt(io.projector, io.token.epoch)
        id = run.id
        loop = running.program.start()

        def notes(record: Record) -> Sequence[AnyEvent]:
            """What no record shows by itself, such as a conflict."""
            return loop.fold(record) if record.run_id == id and not isinstance(record.payload, Erased) else ()

        for record in await self._asked(lambda: self.log.read_run(id)) if tail.seq >= run.position else ():
            if record.seq <= tail.seq:
                notes(record)
        follower = Follower(self, tail, notes)
        with follower.watching(all=True):  # the run's status may change without a record
            while True:
                if follower.behind:
                    run = await self._asked(lambda: self.log.run(id))
                for event in await self._asked(follower.pull):
                    if sink is not None:
                        sink(event)
                if run.status not in going and not follower.behind:
                    return tail
                await follower.wait()

    async def notice_cancel(self, run_id: str) -> None:
        """Stop a run that is driven here and that somebody has cancelled."""
        running = self.live.get(run_id)
        if running is None or running.io is None or running.io.stop is not None:
            return
        asked: CancelAsked | None = None
        for record in await self.log.read_run(run_id):
            if isinstance(record.payload, Forked):
                asked = None  # it was the run that this one goes on from
            elif isinstance(record.payload, CancelAsked):
                asked = asked or record.payload
        if asked is not None:
            running.io.ask_stop(asked.reason, asked.detail)

    def notice_answer(self, run_id: str, seq: int) -> None:
        """Let a run that is driven here look at what has ended one of its waits, if it has not seen it."""
        running = self.live.get(run_id)
        if running is not None and running.io is not None and seq > running.io.committed:
            running.io.nudge()

    # -- taking over -------------------------------------------------------------------------------------------------

    async def take_over(self, left: Left, dead: Mapping[str, int]) -> bool:
        """Drive a run on that nobody alive drives, if it is to be had; one whose definition is elsewhere is not."""
        id, worker = left.run_id, self.runtime.worker
        while left.again and id in self.live:  # it has begun to wait a moment ago, and is let go here right now
            change = worker.listen()
            await worker.until(change)
        run = await self.log.run(id)
        if run.status in ENDED:  # since somebody has looked; nothing is activated for it any more
            return False
        if left.again and (self.runtime.closing or (run.status == "waiting" and not await self.log.cancelled(id))):
            return False  # whoever had it has seen why it can go on, and it waits again
        known = await self.runtime.knows_definition(run.definition)
        if id in self.live or not (known or await self.log.cancelled(id)):
            return False
        self.live[id] = None
        try:
            await self.runtime.worker.fresh()
            if run.parent is not None and not run.detached and not await self.log.cancelled(id):
                await self.log.post(id, CancelAsked(detail="The run that had started this one is over."))
            gaps = self.runtime.worker.gaps
            claimed = await self.log.claim(id, dead=dead if left.owner is None else {left.owner: 0, **dead})
            if claimed is not None:
                for child in await self.log.children(id) if await self.log.cancelled(id) else ():
                    owner = child.owner if child.status == "running" else None
                    await self.take_over(Left(self.name, child.id, owner, 0, child.deaths), dead)
                await self._go_on(left, run, *claimed, gaps)
            return claimed is not None
        except Leaving:
            if not self.runtime.closing:
                raise
            return True
        finally:
            del self.live[id]
            self.runtime.worker.tell(more=run.lane is not None)

    async def _go_on(self, left: Left, run: RunRow, token: Token, head: int, gaps: int) -> None:
        died = left.owner is not None and left.owner != self.log.owner
        claimed = Claimed(token.epoch, died, died and left.held == 1)
        try:
            records = await self.log.read_run(run.id)
        except StoreCorrupt as error:
            if await self.log.cancelled(run.id):  # of what it has left open nothing can be known
                await self.log.append(token, [Entry(None, RunFinished("cancelled", "cancelled"))])
            else:
                await self._park(token, claimed, str(error).removesuffix("."))
            return
        if lonely_deaths(records) + claimed.alone >= DEATHS:
            await self._park(
                token, claimed, f"it was alone in {DEATHS} dying processes, and nothing of it was finished"
            )
            return
        if not self.runtime.registry.has(run.definition):  # nothing is to be done but to end it
            await self.log.append(token, [Entry(None, claimed), *ending(records)])
            return
        other = judge_definition(self.runtime.registry.get(run.definition), cast("RunStarted", records[0].payload))
        if other:
            await self._park(token, claimed, has_changed(other))
            return
        try:
            running = self.revived(run, records)
            running.gaps, running.ends_at = gaps, run.ends_at
            bounded = BOUNDED in running.started.options
            if bounded or "budget" in running.started.options:
                family = Family(self.log, running)
                if bounded:
                    await family.bind(run.parent)
                running.count = family.count
            verdict = compare(running.env, records)
            claimed = structs.replace(claimed, changes=verdict.differences, fingerprints=verdict.prints)
            running.recall(records, await self.conversations.earlier(running, None, records))
            verdict = await judge(running.env, running.loop, records)
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreCorrupt):
                raise
            _log.debug("Run %s cannot be gone on with.", run.id, exc_info=True)
            await self._park(token, claimed, f"it cannot be gone on with ({type(error).__name__}: {error})")
            return
        if verdict.differences:
            _log.info("The code of run %s is %s: %s.", run.id, verdict.name, "; ".join(verdict.differences))
        if verdict.needed:
            await self._park(token, claimed, has_changed(*verdict.needed))
            return
        self.live[run.id] = running
        _log.info("Run %s of %r is driven on here; %d records are known.", run.id, run.definition, len(records))
        await self._guarded(running, token, running.take_up(token, head, records, claimed))

    async def _park(self, token: Token, claimed: Claimed, why: str) -> None:
        _log.error("Run %s is parked: %s.", token.run_id, why)
        await self.log.append(token, [Entry(None, structs.replace(claimed, parked=sound(why)))], "parked")

    def revived(self, run: RunRow, records: Sequence[Record]) -> Running:
        """Make the live side of a run again, from its first record."""
        started = records[0].payload
        assert isinstance(started, RunStarted)
        options = {
            **read_kept(started),
            "run_id": run.id,
            "session_id": run.session_id,
            "user_id": run.user_id,
            "resources": self.runtime.resources,
        }
        runtime = self.runtime
        definition = runtime.registry.get(run.definition)
        running = Running(
            definition, started.input, options, kernel=self.kernel, hooks=runtime.hooks, fallback=runtime.model
        )
        running.started = started
        running.env.turn_prompt = started.system_prompt
        running.door = self.resumed
        return running

    async def _asked(self, do: Callable[[], Awaitable[T]]) -> T:
        """What the log says, as soon as it can be asked."""
        return await patiently(self.runtime.clock, do)

    def __repr__(self) -> str:
        return f"Container({self.name!r})"
