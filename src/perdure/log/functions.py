"""What the log does for durable functions: who starts when, how many are active, and how a run tells the one above.

`functions` belongs to the store and not to a container: every process that has a function in its code writes its row,
so that any process, also one without the code, can send an event or list what there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

from perdure.db.database import Database, Row, Script, Sql
from perdure.log.events import Events
from perdure.log.images import container_names
from perdure.log.log import ENDED, NewRun
from perdure.log.policy import check_quota
from perdure.log.rows import Coded, input_hash
from perdure.log.schema import ROOM
from perdure.log.waits import End, has_waits
from perdure.types.base import Base, plain
from perdure.types.concurrency import lane_of
from perdure.types.cron import EACH, last_due, next_due
from perdure.types.errors import QuotaExceeded
from perdure.types.ids import derive_id
from perdure.types.records import RunStarted, encode_payload, kind_of
from perdure.types.sent_event import CRON_EVENT, SentEvent
from perdure.types.waits import ChildEnded, wait_id

AGAIN = 10.0
"""After how many seconds it is looked again whether there is room for what a schedule starts."""

_log = logging.getLogger("perdure")

FREE = (
    "COALESCE((SELECT f.most FROM functions f WHERE f.name = r.definition) - "
    "(SELECT COUNT(*) FROM runs a WHERE a.lane = r.lane AND a.status = 'running'), 1)"
)
"""How many more runs of the lane of the run `r` may be active."""


class Subscription(Base):
    """A function as the store knows it: what starts it, how many of its runs are active at once, who has its code.

    `containers` are those that its schedule starts it in; `next_at` is when that is due next, `at` when a process has
    registered it last, and `known` whether that process is still there.
    """

    name: str
    event: str | None = None
    cron: str | None = None
    most: int | None = None
    key: str | None = None
    next_at: float | None = None
    at: float = 0.0
    known: bool = False
    containers: tuple[str, ...] = ()


class Functions(Events):
    """The functions that are started in one container."""

    owner: str

    # -- what there is -----------------------------------------------------------------------------------------------

    async def subscribe(self, functions: Sequence[Subscription]) -> None:
        """Make functions known to the store; a schedule that is known goes on as it was."""
        now = self.now()

        def script() -> Script[None]:
            for one in sorted(functions, key=lambda one: one.name):
                due = None if one.cron is None else next_due(one.cron, (yield from _time(self.db)))
                row = (one.name, one.event, one.cron, one.most, one.key, due, self.owner, now)
                yield Sql(
                    "INSERT INTO functions (name, event, cron, most, by_key, next_at, owner, at, containers) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET event = excluded.event, "
                    "next_at = CASE WHEN functions.cron = excluded.cron THEN functions.next_at "
                    "ELSE excluded.next_at END, cron = excluded.cron, most = excluded.most, by_key = excluded.by_key, "
                    "owner = excluded.owner, at = excluded.at, containers = excluded.containers",
                    (*row, " ".join(one.containers)),
                    blind=True,
                )

        if functions:
            await self.db.write(script)

    async def functions(self) -> list[Subscription]:
        """List the functions that the store knows, by their names."""

        def script() -> Script[list[Row]]:
            return (
                yield Sql(
                    "SELECT f.name, f.event, f.cron, f.most, f.by_key, f.next_at, f.at, o.id IS NOT NULL, f.containers "
                    "FROM functions f LEFT JOIN owners o ON o.id = f.owner ORDER BY f.name"
                )
            )

        rows = await self.db.read(script)
        return [Subscription(*row[:7], known=bool(row[7]), containers=tuple(row[8].split())) for row in rows]

    async def unsubscribe(self, name: str) -> bool:
        """Forget a function: nothing starts it any more; say whether it was there."""

        def script() -> Script[list[Row]]:
            return (yield Sql("DELETE FROM functions WHERE name = ? RETURNING 1", (name,)))

        return bool(await self.db.write(script))

    # -- starting ----------------------------------------------------------------------------------------------------

    def start_subscribed(self, event: SentEvent, now: float, *, limited: bool) -> Script[list[str]]:
        """Start the functions of an event that has just been taken in, each once; give the runs.

        Raises:
            QuotaExceeded: there is no room for one of them, and they are `limited`, as no run has sent the event.
        """
        rows = yield Sql("SELECT name, most, by_key FROM functions WHERE event = ? ORDER BY name", (event.name,))
        started: list[str] = []
        for name, most, key in rows:
            run_id = derive_id("run", self.container, event.id, str(name))
            if limited:
                yield from self._check_room(run_id, str(name))
            if (yield from self._begin(run_id, str(name), event, most, key, now)):
                started.append(run_id)
        return started

    async def start_due(self, names: Collection[str], log_of: Callable[[str], Functions]) -> float | None:
        """Start the functions whose time has come by the store's clock, each once for the last of the times it missed.

        All that one moment starts is one transaction, so it is started by one process, and wholly. Where a container
        has no room, it is tried again; what has begun in others is known by its id then.

        Args:
            names: those whose code is here.
            log_of: gives the log of a container.

        Returns:
            When the next of them is due; None if none ever is.
        """
        now = self.now()
        started: list[tuple[Functions, str]] = []

        def script() -> Script[float | None]:
            started.clear()
            time = yield from _time(self.db)
            rows = yield Sql(
                "SELECT name, cron, next_at, containers, most, by_key FROM functions WHERE cron IS NOT NULL "
                "ORDER BY name"
            )
            upcoming: list[float] = []
            for name, cron, next_at, places, most, key in rows:
                if name not in names or next_at is None:
                    continue
                if next_at > time:
                    upcoming.append(next_at)
                    continue
                due, following = max(last_due(cron, time), next_at), next_due(cron, time)
                move = "UPDATE functions SET next_at = ? WHERE name = ? AND next_at = ? RETURNING 1"
                if (yield Sql(move, (following, name, next_at))):
                    full = False
                    for place in sorted((yield from container_names()) if places == EACH else places.split()):
                        log, data = log_of(place), {"due": due, "schedule": cron, "container": place}
                        event = SentEvent(CRON_EVENT, data, derive_id("event", place, str(name), repr(due)), due)
                        run_id = derive_id("run", place, event.id, str(name))
                        try:
                            yield from log._check_room(run_id, str(name))
                        except QuotaExceeded as error:
                            _log.warning("What the schedule of %r starts waits for room: %s", name, error)
                            full = True
                            continue
                        if (yield from log._begin(run_id, str(name), event, most, key, now)):
                            started.append((log, run_id))
                    if full:
                        yield Sql(move, (next_at, name, following))
                        following = time + AGAIN
                upcoming.append(following)
            return min(upcoming, default=None)

        upcoming = await self.db.write(script, notify=True)
        for log, run_id in started:
            log.tell([run_id])
        return upcoming

    def _check_room(self, run_id: str, name: str) -> Script[None]:
        if self.quota is not None:
            yield from check_quota(self.db, self.container, NewRun(run_id, _session_of(run_id), name), self.quota)

    def _begin(
        self, run_id: str, name: str, event: SentEvent, most: int | None, key: str | None, now: float
    ) -> Script[bool]:
        """Take in the run of a function that nobody waits for; say whether it is new."""
        session_id, user = _session_of(run_id), event.user_id
        rows = yield Sql(
            "INSERT INTO sessions (container, id, turn, user_id, created_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (container, id) DO NOTHING RETURNING number",
            (self.container, session_id, run_id, user, now),
        )
        if not rows:
            return False
        given = plain(event, "event")
        started = RunStarted(name, "function", (), input=given, state={}, user_id=user)
        lane = None if most is None else lane_of(name, key, self.container, given)
        yield Sql(
            "INSERT INTO runs (container, id, session, definition, status, input_hash, position, last, claimed_at, "
            "created_at, detached, lane, user_id, event) VALUES (?, ?, ?, ?, 'queued', ?, 1, 1, 1, ?, 1, ?, ?, "
            "(SELECT COALESCE(MAX(number), 0) FROM events))",
            (self.container, run_id, session_id, name, input_hash(started), now, lane, user),
            blind=True,
        )
        coded = Coded(None, kind_of(started), encode_payload(started))
        yield from self._insert(int(rows[0][0]) * ROOM, session_id, run_id, [coded], now)
        return True

    # -- how many are active -----------------------------------------------------------------------------------------

    def has_room(self, run_id: str, lane: str) -> Script[bool]:
        """Whether a run may become active, while nobody else decides about its lane."""
        if self._locks:
            mark = int.from_bytes(blake2b(f"lane\0{lane}".encode(), digest_size=8).digest(), signed=True)
            yield Sql("SELECT pg_advisory_xact_lock(?)", (mark,), blind=True)
        rows = yield Sql(f"SELECT {FREE} FROM runs r WHERE container = ? AND id = ?", (self.container, run_id))
        return int(rows[0][0]) > 0

    # -- telling the run above ---------------------------------------------------------------------------------------

    def lock_above(self, run_id: str) -> Script[None]:
        """Lock the session of whoever waits for a run that ends, before its own: from the top down."""
        if self._locks:
            rows = yield Sql(
                "SELECT parent FROM runs WHERE container = ? AND id = ? AND detached = 1 AND parent IS NOT NULL",
                (self.container, run_id),
            )
            if rows:
                _, session = yield from self._driven_by(str(rows[0][0]))
                yield self._lock(session)

    def tell_above(self, run_id: str, now: float) -> Script[list[str]]:
        """Let the run that waits for one that has just ended know of it; give it if it can go on because of it."""
        rows = yield Sql(
            "SELECT parent, parent_key FROM runs WHERE container = ? AND id = ? AND detached = 1 "
            "AND parent IS NOT NULL",
            (self.container, run_id),
        )
        if not rows:
            return []
        parent, key = str(rows[0][0]), str(rows[0][1])
        above, session = yield from self._driven_by(parent)
        end = End(wait_id(parent, key), parent, ChildEnded(run_id))
        if (yield from self._take_waiter(end.wait)):
            return [above] if (yield from self._end_waits(above, session, [end], now)) else []
        rows = yield Sql(
            f"SELECT 1 FROM runs WHERE container = ? AND id IN (?, ?) AND status IN {ENDED}",
            (self.container, above, parent),
        )
        if not rows:  # it has not recorded yet that it waits
            yield from self._keep_answer(above, end, 0, now)
            yield has_waits(self.container, above)
        return []


def _session_of(run_id: str) -> str:
    """The session of a run that nobody waits for."""
    return f"session_{run_id.removeprefix('run_')}"


def _time(db: Database) -> Script[float]:
    rows = yield Sql(f"SELECT {db.clock}")
    return float(rows[0][0])
