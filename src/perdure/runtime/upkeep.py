"""Upkeep of a container: erasing a session or a user, what is kept for how long, and how much there may be."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from types import EllipsisType
from typing import TYPE_CHECKING, Any, overload

import msgspec

from perdure.agents.in_sync import InSync, Loop
from perdure.log.erase import Erasure, erase_events, erase_session, sessions_of, settle
from perdure.log.log import RunRow
from perdure.log.policy import Meter, Policy, Quota, Usage, change_policy, check_sessions, exceeded, read_policies
from perdure.log.retention import old_sessions, prune
from perdure.log.search import merge
from perdure.log.sql import SqlLog
from perdure.runtime.conversations import Conversations
from perdure.types.errors import Conflict, DefinitionError, QuotaExceeded, UnknownName
from perdure.types.session import read_user

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

PATIENCE = 30.0
"""Seconds that an erase waits for the end of runs that it has cancelled."""

_ROUNDS = 100
_MEASURED = 20
"""How many times longer than measuring has taken what was measured counts."""


class Upkeep(ABC):
    """What keeps a container in order."""

    runtime: Runtime
    name: str
    log: SqlLog
    conversations: Conversations

    @abstractmethod
    async def cancel(self, run_id: str) -> None: ...

    @abstractmethod
    def loop_thread(self) -> Loop: ...

    # -- erasing -----------------------------------------------------------------------------------------------------

    @overload
    async def erase(self, session_id: str, *, cancel: bool = False) -> Erasure: ...
    @overload
    async def erase(self, *, user_id: str) -> Erasure: ...
    async def erase(
        self, session_id: str | None = None, *, user_id: str | None = None, cancel: bool = False
    ) -> Erasure:
        """Erase a session (see `Session.erase`), or all that was said by a user and to them.

        A user's sessions, and those of others in which a run was for this user, are erased whole, with the sessions of
        their child runs, their forks, and their images with the folders of these; and the events that were sent for
        this user. Runs that are open there are cancelled first. A call that was interrupted, by a crash too, is
        repeated; of what is erased already nothing is counted. Backups, copies and exports are out of reach.

        Args:
            session_id: the session.
            user_id: the user.
            cancel: of a session: whether open runs are cancelled first.

        Returns:
            What was erased: ids and counts.

        Raises:
            UnknownName: there is no such session.
            Conflict: a run is open, or one that was cancelled does not end.
            StoreBusy: it is erased, but a reader keeps the old bytes in the file's write-ahead log.
            DefinitionError: neither or both were given, or the user's id is none.
        """
        if (session_id is None) == (user_id is None):
            raise DefinitionError("erase() takes a session's id, or user_id=.")
        if session_id is not None:
            return await self._erase_session(session_id, cancel=cancel)
        read_user(user_id)
        gone = Erasure((), 0, True, containers=(self.name,), at=self.log.now())
        for _ in range(_ROUNDS):
            found = await sessions_of(self.log, user_id or "")
            if not found:
                break
            erased = set[str]()
            for one in found:
                if one not in erased:  # with another one
                    more = await self._erase_session(one, cancel=True, settled=False, wholly=True)
                    erased.update(more.sessions)
                    gone = gone.and_(more)
        else:
            raise Conflict(f"The user {user_id!r} begins runs all the time. Stop that, then erase again.")
        gone = gone.and_(await erase_events(self.log, user_id or ""))
        await self.runtime.images.discard(self.name)
        complete = await settle(self.log.db)  # also for what a call before this one has left
        return msgspec.structs.replace(gone, complete=complete)

    @overload
    def erase_sync(self, session_id: str, *, cancel: bool = False) -> Erasure: ...
    @overload
    def erase_sync(self, *, user_id: str) -> Erasure: ...
    def erase_sync(self, *args: Any, **options: Any) -> Erasure:
        """Erase a session, or all that was said by a user and to them, from sync code; see `erase`."""
        return self.loop_thread().run(lambda: self.erase(*args, **options), "erase")

    async def _erase_session(
        self, session_id: str, *, cancel: bool, settled: bool = True, wholly: bool = False
    ) -> Erasure:
        erased = await self._erased(session_id, cancel=cancel, settled=settled, wholly=wholly)
        self.conversations.forget(erased.sessions)
        return erased

    async def _erased(self, session_id: str, *, cancel: bool, settled: bool, wholly: bool) -> Erasure:
        asked: set[str] = set()
        with suppress(TimeoutError):  # whatever still runs then is named when it is refused
            async with asyncio.timeout(PATIENCE):
                while cancel:
                    change = self.runtime.worker.listen()
                    end = not await self._stop(session_id, asked)
                    with suppress(Conflict):
                        return await erase_session(self.log, session_id, end=end, settled=settled, wholly=wholly)
                    await self.runtime.worker.until(change)
        return await erase_session(self.log, session_id, settled=settled, wholly=wholly)

    async def _stop(self, session_id: str, asked: set[str]) -> bool:
        """Cancel what goes on in a session and its forks, each run once, and say whether somebody still drives some."""
        queued: list[RunRow] = []
        running: list[RunRow] = []
        for id in (session_id, *await self.log.forks(session_id)):
            queued += await self.log.runs(session_id=id, status="queued")
            running += await self.log.runs(session_id=id, status="running")
        for one in [*queued, *running]:  # in this order, so that none begins when its turn comes
            if one.id not in asked:
                asked.add(one.id)
                await self.cancel(one.id)
        return bool(running)

    # -- what holds for it -------------------------------------------------------------------------------------------

    async def configure(
        self,
        *,
        retention: timedelta | float | EllipsisType | None = ...,
        quota: Quota | EllipsisType | None = ...,
    ) -> Policy:
        """Say how long this container keeps what was said, and how much it may hold; all processes follow soon.

        Args:
            retention: after how long (in seconds, if it is a number) without a record a session is removed; None keeps
                all, or what `Runtime(retention=…)` says.
            quota: how much there may be; None for no limit.

        Returns:
            What holds from now on; what was not given is as it was.

        Raises:
            DefinitionError: a limit makes no sense.
        """
        changes: dict[str, Any] = {}
        if not isinstance(retention, EllipsisType):
            changes["retention"] = read_retention(retention)
        if not isinstance(quota, EllipsisType):
            changes["quota"] = None if quota is None else quota.checked()
        policy = await change_policy(self.log.db, self.name, self.log.now(), changes)
        self.runtime.hold({**self.runtime.policies, self.name: policy})
        return policy

    async def policy(self) -> Policy:
        """What holds for this container."""
        self.runtime.hold(await read_policies(self.log.db))
        return self.runtime.policies.get(self.name, Policy())

    async def usage(self) -> Usage:
        """Measure what this container holds."""
        return await self._meter.measure()

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.log.db, self.name)

    _measured: tuple[float, Usage] | None = None

    async def check_size(self) -> None:
        """Refuse what is new if there is more than the quota says, as `check_room` does.

        Raises:
            QuotaExceeded: there is.
        """
        if self.log.quota is not None:
            await self.check_room(self.log.quota, "")

    async def full(self) -> QuotaExceeded | None:
        """What to say to something new if there is no room for it."""
        try:
            await self.check_size()
        except QuotaExceeded as full:
            return full
        return None

    async def check_new(self) -> None:
        """Refuse what will have a session, if there is no room for one more.

        Raises:
            QuotaExceeded: there is none.
        """
        await self.check_size()
        if self.log.quota is not None:
            await self.log.db.write(lambda: check_sessions(self.log.db, self.name, self.log.quota, 1))

    async def check_room(self, quota: Quota, run_id: str) -> None:
        """Refuse a new run if there are more records or bytes than the quota says, as of when they were measured last.

        Raises:
            QuotaExceeded: there are.
        """
        if quota.records is None and quota.bytes is None:
            return
        clock = self.runtime.clock
        now = clock.monotonic()
        if self._measured is None or now >= self._measured[0]:
            usage = await self.usage()
            after = clock.monotonic()
            self._measured = (after + _MEASURED * (after - now), usage)
        usage = self._measured[1]
        for what, held, limit in (
            ("records", usage.records, quota.records),
            ("bytes", usage.bytes, quota.bytes),
        ):
            if limit is not None and held >= limit:
                self._measured = None  # something may be erased meanwhile
                with suppress(UnknownName):
                    await self.log.run(run_id)
                    return  # a repetition
                raise exceeded(self.name, what, held, limit)

    # -- retention ---------------------------------------------------------------------------------------------------

    async def tidy(self) -> list[str]:
        """Remove what is older than this container's retention; a worker does it from time to time anyway.

        Returns:
            The sessions of which something was removed.
        """
        retention = self.runtime.policies.get(self.name, Policy()).retention
        if retention is None:
            retention = self.runtime.retention
        if retention is None:
            return []
        before = self.log.now() - retention
        gone: list[str] = []
        after: int | None = 0
        while after is not None:
            old, after = await old_sessions(self.log, before, after)
            for one in reversed(old):  # forks come behind what they go on from
                gone += await prune(self.log, one, before)
        if gone:
            self.conversations.forget(gone)
            if self.log.db.dialect == "sqlite":
                await merge(self.log.db)
        return gone

    # -- for sync code -----------------------------------------------------------------------------------------------

    configure_sync = InSync(configure)
    policy_sync = InSync(policy)
    usage_sync = InSync(usage)
    tidy_sync = InSync(tidy)


SHORTEST = 3600.0
"""Seconds: a number below it is taken for days or hours that somebody meant."""


def read_retention(given: timedelta | float | None) -> float | None:
    """Read how long something is kept, in seconds.

    Raises:
        DefinitionError: it is no time.
    """
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if seconds is not None and (not number or not seconds > 0):
        raise DefinitionError(f"retention={given!r}: give a timedelta or seconds above 0, or None.")
    if seconds is not None and seconds < SHORTEST and not isinstance(given, timedelta):
        raise DefinitionError(
            f"retention={given!r} would be {given:g} seconds, after which everything is removed. Say "
            "timedelta(days=…), or timedelta(seconds=…) if you mean it."
        )
    return None if seconds is None else float(seconds)
