"""The doors of people: what runs wait for, and answers that let them go on."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from perdure.agents.in_sync import InSync
from perdure.agents.outcome import RunResult, raise_for
from perdure.agents.running import Running
from perdure.log.inbox import WaitKind, WaitRow, ended_by, list_waits
from perdure.log.log import RunRow
from perdure.log.sessions import PAGE
from perdure.log.sql import SqlLog
from perdure.runtime.closing import left_at_close
from perdure.types.base import Base
from perdure.types.errors import Conflict, DefinitionError, UnknownName
from perdure.types.records import Record
from perdure.types.waits import Answer, Approve, Deny, WaitAnswer, late, read_answer, run_of_wait

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

_DRIVEN = ("queued", "running")


class Response(Base):
    """What became of an answer: the run that goes on, and whether anything waited for it.

    `"early"` says that the run does not wait for it now: it is kept until it does, and goes with the run if it never
    does. One that came too late raises `Conflict` instead.
    """

    run: RunRow
    outcome: Literal["accepted", "early"]


class People(ABC):
    """What people can do in one container."""

    runtime: Runtime
    name: str
    log: SqlLog

    @abstractmethod
    def revived(self, run: RunRow, records: Sequence[Record]) -> Running: ...

    @abstractmethod
    async def _follow(self, running: Running, run: RunRow, going: Collection[str] = _DRIVEN) -> RunResult[Any, Any]: ...

    async def approve(self, wait_id: str, by: str | None = None) -> RunResult[Any, Any]:
        """Allow what a run waits for, and wait for what it reaches next.

        The run is driven on here, unless another process has taken it; it goes on also if this call is cancelled.

        Args:
            wait_id: the wait's id.
            by: who allows it; kept with the answer.

        Returns:
            The result of the run that goes on, which is the parent's if a child has asked: ended, or waiting again.
                Its `answered` is `"early"` if nothing waited for this answer.

        Raises:
            Conflict: the wait is over: somebody has answered it otherwise, or its time has passed.
            DefinitionError: it is no wait for an approval, or this runtime does not have the run's definition.
            UnknownName: there is no such run in this container.
            InvalidId: it is the id of no wait.
            RunFailed: the run failed.
            RunCancelled: the run was cancelled or passed its deadline.
        """
        return await self._answered(wait_id, Approve(by))

    async def deny(self, wait_id: str, why: str = "", by: str | None = None) -> RunResult[Any, Any]:
        """Refuse what a run waits for; the model is told why. See `approve`."""
        return await self._answered(wait_id, Deny(why, by))

    async def answer(self, wait_id: str, text: str, by: str | None = None) -> RunResult[Any, Any]:
        """Answer a question that a run waits for. See `approve`."""
        return await self._answered(wait_id, Answer(text, by))

    async def respond(self, wait_id: str, answer: Approve | Deny | Answer) -> Response:
        """Record an answer without waiting for the run: whoever has its definition drives it on.

        An answer to a wait that is not recorded yet is kept until it is. The same answer given twice counts once.

        Args:
            wait_id: the wait's id.
            answer: the answer, and who gave it.

        Returns:
            The run that goes on, as it is now, and whether anything has waited for the answer.

        Raises:
            Conflict: the wait is over: somebody has answered it otherwise, or its time has passed.
            DefinitionError: the wait is not answered like this, or the answer is too large.
            UnknownName: there is no such run in this container.
            InvalidId: it is the id of no wait.
        """
        read = read_answer(answer)
        asker = run_of_wait(wait_id, given=True)
        try:
            taken = await self.log.answer(wait_id, read)
            driver = await self.log.driver_of(asker)
        except UnknownName:
            raise UnknownName(f"run in the container {self.name!r}", asker) from None
        if taken == "late":
            await self._refuse(wait_id, read, asker)
        return Response(await self.log.run(driver), "early" if taken == "early" else "accepted")

    async def _refuse(self, wait_id: str, answer: WaitAnswer, asker: str) -> None:
        """Say how a wait has ended before; the same answer once more is no error."""
        found = await ended_by(self.log, wait_id)
        if found is None:
            run = await self.log.run(asker)
            raise Conflict(f"The wait {wait_id!r} is over: its run is {run.status}. This answer changes nothing.")
        ended, record = found
        if ended.answer != answer:
            raise late(wait_id, ended.answer, record.created_at)

    async def waits(
        self,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        kind: WaitKind | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[WaitRow]:
        """List what runs wait for, page by page.

        Args:
            session_id: only what the runs of this session wait for.
            run_id: only what this run waits for, or asks as a child of another one.
            kind: only this kind; `"person"` for approvals and questions.
            after: the id of the last wait of the page before.
            limit: at most so many.
        """
        return await list_waits(self.log, session_id=session_id, run_id=run_id, kind=kind, after=after, limit=limit)

    # -- for sync code -----------------------------------------------------------------------------------------------

    approve_sync = InSync(approve)
    deny_sync = InSync(deny)
    answer_sync = InSync(answer)
    respond_sync = InSync(respond)
    waits_sync = InSync(waits)

    async def _answered(self, wait_id: str, answer: Approve | Deny | Answer) -> RunResult[Any, Any]:
        asker = run_of_wait(wait_id, given=True)
        try:
            run = await self.log.run(await self.log.driver_of(asker))
        except UnknownName:
            raise UnknownName(f"run in the container {self.name!r}", asker) from None
        if not await self.runtime.knows_definition(run.definition):
            raise DefinitionError(
                f"This runtime does not have {run.definition!r}, so it cannot go on with run {run.id}. Give the "
                "definition to Runtime(url, [definition, …]); respond(wait_id, answer) only records an answer."
            )
        response = await self.respond(wait_id, answer)
        result = await self._next(response.run)
        result.answered = response.outcome
        return result

    async def resumed(self, run_id: str, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]:
        """Answer several waits of a run, as `RunResult.resume` does."""
        for id, answer in answers.items():
            await self.respond(id, read_answer(answer))
        return await self._next(await self.log.run(run_id))

    async def _next(self, run: RunRow) -> RunResult[Any, Any]:
        """Let a run go on here, unless somebody else has it, and wait for its end or its next wait."""
        task = asyncio.create_task(self._reached(run), name=f"perdure-answered-{run.id}")
        self.runtime.follows(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if task.cancelled():
            raise left_at_close(run.id)
        return task.result()

    async def _reached(self, run: RunRow) -> RunResult[Any, Any]:
        if run.status == "queued":
            self.runtime.worker.drive_on(self.name, run.id)
        running = self.revived(run, await self.log.read_run(run.id))
        result = await self._follow(running, await self.log.run(run.id))
        raise_for(result, run.definition, running.cause, running.loop.error)
        return result
