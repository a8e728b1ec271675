"""The runtime: one process's door to a store."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from perdure.agents.by_name import ByName
from perdure.agents.definition import AgentDefinition, Definition
from perdure.agents.hooks import HooksLike, read_hooks
from perdure.agents.in_sync import EachInSync, InSync
from perdure.db.database import StoreError
from perdure.runtime.bus_doors import BusDoors
from perdure.runtime.doors import Doors
from perdure.runtime.image_names import OUTSIDE, PREFIX
from perdure.runtime.of_default import OfDefault
from perdure.types.errors import DefinitionError, InvalidId, UnknownName
from perdure.types.ids import check_id, new_id

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path
    from types import TracebackType

    from perdure.agents.handle import Run
    from perdure.agents.in_sync import Loop
    from perdure.agents.outcome import RunResult
    from perdure.agents.running import Running
    from perdure.db.database import Database
    from perdure.durable.kernel import Clock, Witness
    from perdure.durable.live import Live
    from perdure.log.check import Damage
    from perdure.log.erase import Erasure
    from perdure.log.owners import Timing
    from perdure.log.policy import Policy
    from perdure.models.model import Model
    from perdure.runtime.commands import Commands
    from perdure.runtime.container import Container
    from perdure.runtime.environment import EnvironmentFactory
    from perdure.runtime.images import Images
    from perdure.runtime.publish import Publisher
    from perdure.runtime.sessions import Sessions
    from perdure.runtime.worker import Worker

else:
    Container = ByName("perdure.runtime.container", "Container")

Out = TypeVar("Out")
S = TypeVar("S")
_HELD = (
    "Its {count} open runs are held, because the original may go on with them. If this copy takes its place, open it "
    "once with Runtime(…, take_over=True) or --take-over."
)


WORKERS = 100
"""How many runs a process has taken over at once, unless it is told otherwise."""


class Runtime(Doors, BusDoors):
    """Where runs are kept; use it with `async with`, or with `with` from sync code.

    Args:
        url: `sqlite:///name.db`, `sqlite:////path/name.db` or `postgresql://user@host/name`; `memory:` keeps what is
            there until it is closed.
        definitions: the agents, networks and functions that run here; their names must differ.
        model: the model of agents that have none.
        hooks: hooks that apply to every run.
        resources: live objects for `ctx.use`; never recorded.
        durability: SQLite only: `"full"` survives a power loss, `"normal"` a killed process.
        workers: whether this process takes over runs that others have left or queued, and how many at once.
        take_over: whether the runs that a copy of a store holds go on here: it takes the original's place.
        timing: how long is what when processes watch each other; all on one store should agree.
        base_path: the folder below which each image has one of its own; none is made unless given.
        default_agent: what new images are made of where they say nothing: an agent, or values by name.
        environment_factory: makes the environments that images without a definition have their answers from.
        environment_timeout: how many seconds an environment may say nothing in the middle of a turn.
        idle: after how many seconds without anything to do a live agent ends by itself; None for never.
        retention: after how long without a record a session is removed, a `timedelta` or seconds, in containers of
            which `Container.configure` says nothing else; None keeps all.

    Raises:
        DefinitionError: the address or a definition is wrong.
    """

    def __init__(
        self,
        url: str = "memory:",
        definitions: Sequence[Definition] = (),
        *,
        model: Model | str | None = None,
        hooks: HooksLike = (),
        resources: Sequence[Any] = (),
        durability: Literal["full", "normal"] = "full",
        workers: bool | int = True,
        take_over: bool = False,
        timing: Timing | None = None,
        base_path: str | Path | None = None,
        default_agent: AgentDefinition | Mapping[str, Any] | None = None,
        environment_factory: EnvironmentFactory | None = None,
        environment_timeout: float = 600.0,
        idle: float | None = 600.0,
        retention: timedelta | float | None = None,
    ) -> None:
        from pathlib import Path

        from perdure.agents.env import resolve
        from perdure.db.open import open_database
        from perdure.durable.held import Held
        from perdure.durable.kernel import SYSTEM_CLOCK, Registry
        from perdure.log.live import LiveTable
        from perdure.log.owners import Timing
        from perdure.runtime.bus import Bus
        from perdure.runtime.loop_thread import LoopThread
        from perdure.runtime.schedule import Schedule
        from perdure.runtime.upkeep import read_retention

        self.db: Database = open_database(url, durability=durability)
        self.clock: Clock = SYSTEM_CLOCK
        self.witness: Witness | None = None
        self.model = resolve(model)
        self.hooks = read_hooks(hooks, "Runtime")
        self.resources = tuple(resources)
        self.registry = Registry()
        for one in definitions:
            if not isinstance(one, Definition):
                raise DefinitionError(f"Runtime(definitions=…) holds {one!r}; give agents, networks and functions.")
            self.registry.add(one)
        self.schedule = Schedule(definitions)
        self.base_path = Path(base_path) if base_path is not None else None
        self.default_agent = default_agent if isinstance(default_agent, AgentDefinition) else None
        self._defaults = _defaults(default_agent)
        self.environment_factory = environment_factory
        self.image_prefix = PREFIX if environment_factory is None else OUTSIDE
        self.environment_timeout = environment_timeout
        self._idle = idle
        self.retention = read_retention(retention)
        self.policies: Mapping[str, Policy] = {}
        self.bus = Bus()
        self._images: Images | None = None
        self._commands: Commands | None = None
        self.loop = LoopThread(self)
        self.closing = False
        self.held = Held()
        self._workers = check_workers(workers)
        self._take_over = take_over
        self._timing = timing or Timing()
        self._worker: Worker | None = None
        self._containers: dict[str, Container] = {}
        self._runs: set[Run[Any, Any]] = set()
        self._followers: set[asyncio.Task[Any]] = set()
        self._table = LiveTable(self.db)
        self._publisher: Publisher | None = None

    async def __aenter__(self) -> Self:
        if self._worker is not None:
            raise StoreError("This runtime is open already; close it first, or make another one.")
        from perdure.db.migrate import migrate, tables_of
        from perdure.log.copies import open_copy
        from perdure.log.images import Entities
        from perdure.log.schema import MIGRATIONS
        from perdure.log.search import search_part
        from perdure.runtime.bus import Bus
        from perdure.runtime.commands import Commands
        from perdure.runtime.images import Images
        from perdure.runtime.publish import Publisher
        from perdure.runtime.worker import Worker

        await self.db.open()
        self.closing = False
        self.loop.begin()
        try:
            await migrate(self.db, MIGRATIONS, new_id("store"))
            self.db.protect(tables_of(search_part(self.db)))  # made by whichever process searches first
            opened = await open_copy(self.db, new_id("store"), take_over=self._take_over)
            self.store_id = opened.id
            if opened.held and not self._take_over:
                import logging

                logging.getLogger("perdure").warning(
                    "%s is a copy of another store. %s", self.db.url, _HELD.format(count=opened.held)
                )
            worker = Worker(self, self.db, self.clock, self._timing, self._workers)
            await worker.beat()
            self._worker = worker
            await self.schedule.register(self.container("default").log)
            await worker.sweep()
        except BaseException:
            await self.db.close()
            raise
        worker.start()
        if self.bus.destroyed:
            self.bus = Bus()
        self._images = Images(self, Entities(self.db, self.clock.now, worker.owners.id), self._idle)
        self._commands = Commands(self.bus, self._images)
        self._publisher = Publisher(self.db, self._table, worker.owners, self.clock, self._lives)
        self._publisher.start()
        return self

    def _lives(self) -> list[tuple[str, Live]]:
        return [(name, one.live_here) for name, one in self._containers.items()]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs here without ending it: whoever opens the store next takes it over."""
        if self._worker is None:
            return
        import asyncio

        if self._commands is not None:
            await self._commands.stop()
        self.images.leave()
        self.closing = True
        self.worker.tell()  # whoever follows a session stops
        try:
            for one in self._followers:
                one.cancel()
            await asyncio.gather(*(run.detach() for run in self._runs))
            await asyncio.gather(*self._followers, return_exceptions=True)
            await self.worker.stop()
            if self._publisher is not None:
                await self._publisher.stop()
            with suppress(StoreError):  # a store that is gone cannot be told; others see that this process is dead
                await self.images.close()
            await self.worker.owners.close()  # last: what it serves is nobody's before it is let go of
        finally:
            self.bus.destroy()
            self._worker = self._images = None
            self._containers.clear()
            self.loop.end()
            await self.db.close()

    async def open(self) -> Self:
        """Open it, where `async with` does not fit; end it by `dispose`."""
        return await self.__aenter__()

    async def dispose(self) -> None:
        """Close it, as leaving `async with` does; again, it does nothing."""
        await self.__aexit__(None, None, None)

    def __enter__(self) -> Self:
        """Open the runtime for sync code, in an event loop of its own that runs in a thread."""
        self.loop.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, as leaving `async with` does."""
        self.loop.close()

    # -- the verbs ---------------------------------------------------------------------------------------------------

    def prepare(self, definition: Any, input: Any, options: dict[str, Any]) -> Running:
        """Make the live side of a run of the default container."""
        return self.container("default").prepare(definition, input, options)

    def launch(self, running: Running, taken: asyncio.Future[None] | None = None) -> Run[Any, Any]:
        """Let a run of the default container begin in the background."""
        return self.container("default").launch(running, taken)

    async def left(self, run: Run[Any, Any]) -> None:
        """Whoever waited for a run was cancelled; see `Container.left`."""
        await self.container("default").left(run)

    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""
        return self.loop

    async def sweep(self) -> None:
        """Take over now what nobody alive drives; a worker does it from time to time anyway."""
        await self.worker.sweep()

    events = OfDefault(Container.events)
    cancel = OfDefault(Container.cancel)
    send_event = OfDefault(Container.send_event)
    approve = OfDefault(Container.approve)
    deny = OfDefault(Container.deny)
    answer = OfDefault(Container.answer)
    respond = OfDefault(Container.respond)
    waits = OfDefault(Container.waits)
    resume = OfDefault(Container.resume)
    fork = OfDefault(Container.fork)
    runs = OfDefault(Container.runs)
    sessions = OfDefault(Container.sessions)
    search = OfDefault(Container.search)
    import_session = OfDefault(Container.import_session)

    async def erase(self, *, user_id: str) -> Erasure:
        """Erase all that was said by a user and to them, in all containers; see `Container.erase`.

        The receipt names the containers in which it was looked for.
        """
        gone = await self.container("default").erase(user_id=user_id)
        for name in await self.images.entities.containers():
            if name != "default":
                gone = gone.and_(await self.container(name).erase(user_id=user_id))
        return gone

    async def backup(self, path: str | Path) -> int:
        """Copy the store to a new SQLite file while it is in use; gives the size in bytes.

        Opened, the copy is a store with an id of its own, and holds the runs that were open; see `take_over=`.

        Raises:
            StoreError: the file is there already, its folder is not, or the copy is not whole.
        """
        from pathlib import Path

        from perdure.log.backup import backup

        return await backup(self.db, Path(path))

    async def check(self, *, deep: bool = False) -> list[Damage]:
        """Look whether the store is whole; `deep` reads every payload too."""
        from perdure.log.check import check

        return await check(self.db, deep=deep)

    # -- bus, images and live agents ---------------------------------------------------------------------------------

    @property
    def images(self) -> Images:
        """The images of all containers, and their live agents.

        Raises:
            StoreError: the runtime is not open.
        """
        if self._images is None or self._worker is None:
            raise StoreError("The runtime is not open; use it with: async with Runtime(…) as runtime")
        return self._images

    async def send(self, image_id: str, content: Any, *, user_id: str | None = None) -> Run[Any, Any]:
        """Give a message to an image; it is stored when this returns. See `Images.send`."""
        return await self.images.send(image_id, content, user_id=user_id)

    async def ask(self, image_id: str, content: Any, *, user_id: str | None = None) -> RunResult[Any, Any]:
        """Give a message to an image and wait for the end of its turn."""
        return await self.images.ask(image_id, content, user_id=user_id)

    def default_config(self) -> dict[str, Any]:
        """What new images are made of where they say nothing."""
        return dict(self._defaults)

    @property
    def session(self) -> Sessions:
        """Starts sessions of the default container, and gives handles on them; see `Container.session`."""
        return self.container("default").session

    def container(self, name: str) -> Container:
        """A handle on a tenant.

        Raises:
            InvalidId: the name has a shape that is not allowed.
            StoreError: the runtime is not open.
        """
        found = self._containers.get(name)
        if found is None:
            from perdure.log.policy import Policy
            from perdure.log.sql import SqlLog
            from perdure.runtime.container import Container

            owner = self.worker.owners.id
            log = SqlLog(self.db, self.clock.now, owner, check_id(name, "container"), self._table, self.worker)
            log.quota = self.policies.get(name, Policy()).quota
            found = self._containers[name] = Container(self, name, log)
        return found

    def hold(self, policies: Mapping[str, Policy]) -> None:
        """Let policies hold from now on, in this process."""
        from perdure.log.policy import Policy

        self.policies = policies
        for name, one in self._containers.items():
            one.log.quota = policies.get(name, Policy()).quota

    def forgets(self) -> bool:
        """Whether some container has a retention."""
        return self.retention is not None or any(one.retention is not None for one in self.policies.values())

    async def tidy(self) -> list[str]:
        """Remove what is older than the retention of its container, in all containers; gives the sessions."""
        names = sorted(self.policies) if self.retention is None else await self.images.entities.containers()
        return [id for name in names if self.knows(name) for id in await self.container(name).tidy()]

    def notice(self) -> None:
        """There is something that other processes may want to know."""
        if self._publisher is not None:
            self._publisher.notice()

    # -- for sync code -----------------------------------------------------------------------------------------------

    events_sync = EachInSync(Container.events)
    cancel_sync = InSync(Container.cancel)
    send_event_sync = InSync(Container.send_event)
    approve_sync = InSync(Container.approve)
    deny_sync = InSync(Container.deny)
    answer_sync = InSync(Container.answer)
    respond_sync = InSync(Container.respond)
    waits_sync = InSync(Container.waits)
    resume_sync = InSync(Container.resume)
    fork_sync = InSync(Container.fork)
    runs_sync = InSync(Container.runs)
    sessions_sync = InSync(Container.sessions)
    search_sync = InSync(Container.search)
    import_session_sync = InSync(Container.import_session)
    erase_sync = InSync(erase)
    backup_sync = InSync(backup)
    check_sync = InSync(check)
    sweep_sync = InSync(sweep)
    tidy_sync = InSync(tidy)
    send_sync = InSync(send)
    ask_sync = InSync(ask)

    # -- for the rooms of the runtime --------------------------------------------------------------------------------

    @property
    def worker(self) -> Worker:
        """What watches the store for this process.

        Raises:
            StoreError: the runtime is not open.
        """
        if self._worker is None:
            raise StoreError("The runtime is not open; use it with: async with Runtime(…) as runtime")
        return self._worker

    def simulate(self, db: Database, clock: Clock, witness: Witness) -> None:
        """Put another database and clock in the place of the machine's, and let somebody see what steps do."""
        from perdure.log.live import LiveTable

        self.db, self.clock, self.witness = db, clock, witness
        self._table = LiveTable(db)

    def check_registered(self, definition: Any) -> None:
        """Refuse a definition that another process could not find by its name.

        Raises:
            DefinitionError: it is not registered here.
        """
        try:
            known = self.registry.get(definition.name)
        except (UnknownName, AttributeError):
            known = None
        if known is not definition:
            raise DefinitionError(
                f"{definition!r} is not registered with this runtime, so no other process could take its runs over. "
                "Give it to Runtime(url, [definition, …])."
            )

    async def knows_definition(self, name: str) -> bool:
        """Whether a definition is registered here, or is made of an image that can be served here."""
        if not name.startswith((PREFIX, OUTSIDE)):
            return self.registry.has(name)
        return self._images is not None and await self._images.resolve(name)

    async def see_agents(self) -> None:
        """Let go of live agents that another process has destroyed."""
        if self._images is not None:
            await self._images.tidy()

    def keep(self, run: Run[Any, Any]) -> None:
        """Own a background run until it ends."""
        self._runs.add(run)
        run.on_end(self._runs.discard)

    def follows(self, task: asyncio.Task[Any]) -> None:
        """Own a task that follows a run, until it ends."""
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    def busy(self) -> bool:
        """Whether this process drives anything, or is about to; a thread may ask, too."""
        return any(one.live for one in list(self._containers.values()))

    def drives(self) -> bool:
        """Whether this process drives anything now; a run that waits for its turn is not driven."""
        running = (run for one in self._containers.values() for run in one.live.values())
        return any(run is not None and run.io is not None for run in running)

    def live(self) -> set[str]:
        """The runs that this process drives or is about to."""
        return {id for one in self._containers.values() for id in one.live}

    def leave(self, run_id: str, task: asyncio.Task[None]) -> None:
        """Stop driving a run that was taken over, without ending it."""
        for one in self._containers.values():
            running = one.live.get(run_id)
            if running is not None and running.io is not None:
                return running.leave()
        task.cancel()

    def knows(self, container: str) -> bool:
        """Whether a container's name is one that may be used here."""
        try:
            self.container(container)
        except InvalidId:
            return False
        return True


def check_workers(workers: bool | int) -> int:
    """Read how many runs a process may have taken over at once."""
    if workers is True or workers is False:
        return WORKERS if workers else 0
    if not isinstance(workers, int) or workers < 0:
        raise DefinitionError(f"Runtime(workers={workers!r}) must be True, False, or a number of runs from 0.")
    return workers


def _defaults(given: AgentDefinition | Mapping[str, Any] | None) -> dict[str, Any]:
    """What the default agent says of new images, as plain values."""
    if given is None:
        return {}
    if isinstance(given, AgentDefinition):
        return {"name": given.name, "description": given.description or None}
    unknown = sorted(set(given) - {"name", "description", "system_prompt", "model", "mcp_servers"})
    if unknown:
        raise DefinitionError(f"Runtime(default_agent=…) has {', '.join(unknown)}; see ImageConfig for what there is.")
    return dict(given)
