"""Images: sessions with a configuration, and the live agents that serve them.

The short forms of the commands; the commands call the same methods. An image may run any registered agent or network,
or an agent of its own that is made of its system prompt, model and MCP servers and of the runtime's default agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from typing_extensions import Unpack

from perdure.agents.definition import AgentDefinition, NetworkDefinition
from perdure.agents.handle import Run
from perdure.agents.in_sync import InSync, Loop
from perdure.agents.outcome import RunResult
from perdure.db.database import StoreError
from perdure.durable.tail import Tail
from perdure.log.images import AgentRow, Entities, ImageRow
from perdure.runtime.environment import EnvironmentConfig, Hosted
from perdure.runtime.face import Face, messages_of
from perdure.runtime.image_agent import definition_of, environment_agent
from perdure.runtime.image_config import NAME, RESUMED, check_config, check_names, record_of
from perdure.runtime.image_forks import ImageForks
from perdure.runtime.image_names import OUTSIDE, PREFIX
from perdure.runtime.live_agent import LiveAgent, interrupt
from perdure.runtime.workdir import make_workdir, workdir
from perdure.types import commands as c
from perdure.types.envelope import EventContext, SystemEvent
from perdure.types.errors import Conflict, DefinitionError, UnknownName
from perdure.types.ids import check_id, new_id
from perdure.types.live import Cursor
from perdure.types.visible import visible

if TYPE_CHECKING:
    from perdure.runtime.runtime import Runtime

_log = logging.getLogger("perdure")
_DESTROYED = "The live agent was destroyed in the middle of its turn."


class Images(ImageForks):
    """The images of a runtime, in all its containers.

    Args:
        runtime: the opened runtime.
        entities: what its store has of them.
        idle: after how many seconds without anything to do a live agent ends by itself; None for never.
    """

    def __init__(self, runtime: Runtime, entities: Entities, idle: float | None) -> None:
        self._runtime = runtime
        self.entities = entities
        self._idle = idle
        self.live: dict[str, LiveAgent] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # each as long as it is wanted
        self._made: dict[str, tuple[float, Any]] = {}
        self._notes: set[asyncio.Task[object]] = set()
        self._leaving = False

    # -- containers --------------------------------------------------------------------------------------------------

    async def create_container(self, container_id: str) -> bool:
        """Create a container, or get it; says whether it is new.

        Raises:
            InvalidId: the name has a shape that is not allowed.
        """
        row, new = await self.entities.make_container(check_id(container_id, "container_id"))
        if new:
            self._created(row.id, row.created_at)
        return new

    def _created(self, id: str, at: float) -> None:
        data: dict[str, Any] = {"container_id": id, "created_at": int(at * 1000)}
        self._tell("container_created", data, "container", EventContext(id))

    # -- images ------------------------------------------------------------------------------------------------------

    async def create(self, container_id: str = "default", **config: Unpack[c.ImageConfig]) -> c.ImageRecord:
        """Create an image with a session of its own, in a container that is made if need be.

        Args:
            container_id: the container.
            config: what it is made of; what is left out comes from the runtime's default agent.

        Raises:
            InvalidId: the container's name has a shape that is not allowed.
            DefinitionError: something in the configuration is wrong.
            QuotaExceeded: the container has no room.
        """
        check_id(container_id, "container_id")
        check_names(config, c.ImageConfig.__annotations__, "config")
        own: dict[str, Any] = {name: one for name, one in config.items() if one is not None}
        given: dict[str, Any] = {**self._runtime.default_config(), **own}
        check_config(given)
        if given.get("definition") is not None:
            self._named(given["definition"])
            for name in ("system_prompt", "mcp_servers"):
                if own.get(name) is not None:
                    raise DefinitionError(f"config: {name} does not go with a definition, which has its own.")
                given.pop(name, None)
        await self._runtime.container(container_id).check_new()
        id = new_id("img")
        row = ImageRow(
            id,
            container_id,
            new_id("sess"),
            given.get("name") or NAME,
            given.get("description"),
            given.get("system_prompt"),
            given.get("model"),
            given.get("mcp_servers"),
            given.get("definition"),
            metadata=given.get("metadata") or {},
        )
        return await self._keep(row)

    async def _keep(self, row: ImageRow) -> c.ImageRecord:
        """Store a new image and tell of it."""
        row, new = await self.entities.make_image(row)
        if new:
            self._created(row.container, row.created_at)
        data: dict[str, Any] = {
            "session_id": row.session,
            "image_id": row.id,
            "container_id": row.container,
            "title": row.name,
            "created_at": int(row.created_at * 1000),
        }
        self._tell("session_created", data, "session", EventContext(row.container, row.id, None, row.session))
        return record_of(row, None)

    async def get(self, image_id: str) -> c.ImageRecord | None:
        """Read an image; None if there is none."""
        try:
            row = await self.entities.image(image_id)
        except UnknownName:
            return None
        return record_of(row, await self._online(image_id))

    async def list(self, container_id: str | None = None) -> list[c.ImageRecord]:
        """List images of one container or of all, the newest first."""
        found: list[ImageRow] = []
        while True:
            page = await self.entities.images(container_id, after=found[-1] if found else None)
            found += page
            if len(page) < 1000:
                break
        dead = await self._dead()
        agents = {one.image: one for one in await self.entities.agents(container_id, dead=dead)}
        return [record_of(row, agents.get(row.id)) for row in found]

    async def update(self, image_id: str, **updates: Unpack[c.ImageUpdates]) -> c.ImageRecord:
        """Change what is given of an image; the next turn has it.

        Raises:
            UnknownName: there is no such image.
            DefinitionError: something that is given is wrong.
        """
        check_names(updates, c.ImageUpdates.__annotations__, "updates")
        check_config(updates)
        if "name" in updates and not updates["name"]:
            raise DefinitionError("updates: a name can be changed, and not be taken away.")
        row = await self.entities.image(image_id)
        if row.definition is not None:
            for name in ("system_prompt", "mcp_servers"):
                if updates.get(name) is not None:
                    raise DefinitionError(
                        f"updates: {name} does not go with the image's definition {row.definition!r}."
                    )
        return record_of(await self.entities.change_image(image_id, updates), await self._online(image_id))

    async def run(self, image_id: str) -> tuple[str, bool]:
        """Give an image a live agent, unless it has one.

        Returns:
            The agent's id, and whether it was there before.

        Raises:
            UnknownName: there is no such image.
        """
        agent, reused = await self._activate(image_id)
        return agent.id, reused

    async def stop(self, image_id: str) -> bool:
        """Destroy an image's live agent, if it has one; the image and its session stay. Says whether it had one.

        Raises:
            UnknownName: there is no such image.
        """
        await self.entities.image(image_id)
        row = await self._online(image_id)
        return row is not None and await self.destroy(row.id)

    async def delete(self, image_id: str) -> None:
        """Delete an image with its folder, its session and what was said in it; what goes on is cancelled first."""
        try:
            row = await self.entities.image(image_id)
        except UnknownName:
            return
        online = await self._online(image_id)
        if online is not None:
            await self.destroy(online.id)
        await self._remove(row)
        self._forget(image_id)

    async def discard(self, container_id: str) -> None:
        """Take away what is left of images that were erased with their user: live agents, folders, ids."""
        for row in await self.entities.forgotten(container_id):
            online = await self._online(row.id)
            if online is not None:
                await self.destroy(online.id)
            await self._clear(row)
            await self.entities.delete_image(row.id)
            self._forget(row.id)

    async def messages(self, image_id: str) -> list[dict[str, Any]]:
        """What was said in an image, whole messages turn by turn, whether it is online or not.

        Raises:
            UnknownName: there is no such image.
        """
        row = await self.entities.image(image_id)
        log = self._runtime.container(row.container).log
        face = Face(EventContext(row.container, image_id, None, row.session), row.model or "")
        tail = Tail(row.session, Cursor())
        turns: dict[str, list[SystemEvent]] = {}  # what came while a turn went on is said in its own
        for record in visible(await log.read_session(row.session)):
            for event in tail.record(record):
                turns.setdefault(event.run_id or f"#{record.seq}", []).extend(
                    face.show(event, int(record.created_at * 1000))
                )
        return [message for told in turns.values() for message in messages_of(told)]

    # -- talking -----------------------------------------------------------------------------------------------------

    async def send(self, image_id: str, content: Any, *, user_id: str | None = None) -> Run[Any, Any]:
        """Give a message to an image, which is activated if need be; it is stored when this returns.

        Returns:
            The run that answers it, when its turn comes.

        Raises:
            UnknownName: there is no such image.
            DefinitionError: the content is none.
        """
        agent, _ = await self._activate(image_id)
        return await agent.receive(content, user_id=user_id, image=agent.image)

    async def ask(self, image_id: str, content: Any, *, user_id: str | None = None) -> RunResult[Any, Any]:
        """Give a message to an image and wait for the end of its turn."""
        return await (await self.send(image_id, content, user_id=user_id)).result()

    async def interrupt(self, image_id: str) -> str | None:
        """Stop what goes on in an image; gives its live agent's id, None if it is offline or unknown."""
        try:
            row = await self.entities.image(image_id)
        except UnknownName:
            return None
        await interrupt(self._runtime.container(row.container), row.session)
        online = await self._online(image_id)
        return online.id if online is not None else None

    # -- live agents -------------------------------------------------------------------------------------------------

    async def agent(self, agent_id: str) -> AgentRow | None:
        """Read a live agent of any process."""
        row = await self.entities.agent(agent_id)
        return row if row is not None and row.owner not in await self._dead() else None

    async def agents(self, container_id: str) -> list[AgentRow]:
        """List the live agents of a container, of all processes."""
        return await self.entities.agents(container_id, dead=await self._dead())

    async def serving(self, image_id: str) -> LiveAgent:
        """The live agent of an image, in this process; it is made if need be.

        Raises:
            UnknownName: there is no such image.
        """
        return (await self._activate(image_id))[0]

    async def destroy(self, agent_id: str) -> bool:
        """Destroy a live agent, whichever process has it; says whether there was one."""
        row = await self.entities.deactivate(agent_id)
        mine = self.live.get(row.image) if row is not None else None
        if mine is not None and mine.id == agent_id:
            await self._close(mine, _DESTROYED)
        return row is not None

    async def destroy_all(self, container_id: str) -> int:
        """Destroy all live agents of a container; says how many there were."""
        return sum([await self.destroy(one.id) for one in await self.agents(container_id)])

    # -- for sync code -----------------------------------------------------------------------------------------------

    create_container_sync = InSync(create_container)
    create_sync = InSync(create)
    get_sync = InSync(get)
    list_sync = InSync(list)
    update_sync = InSync(update)
    run_sync = InSync(run)
    stop_sync = InSync(stop)
    delete_sync = InSync(delete)
    messages_sync = InSync(messages)
    send_sync = InSync(send)
    ask_sync = InSync(ask)
    interrupt_sync = InSync(interrupt)
    agent_sync = InSync(agent)
    agents_sync = InSync(agents)
    destroy_sync = InSync(destroy)
    destroy_all_sync = InSync(destroy_all)

    def loop_thread(self) -> Loop:
        """Where sync code finds an event loop."""
        return self._runtime.loop.opened()

    async def tidy(self) -> None:
        """Let go of live agents that another process has destroyed."""
        if self.live:
            gone = await self.entities.gone([one.id for one in self.live.values()])
            ended = [one for one in self.live.values() if one.id in gone]
            await asyncio.gather(*(self._close(one, _DESTROYED) for one in ended))

    def leave(self) -> None:
        """Make no live agent any more, and wait for no environment."""
        self._leaving = True
        for one in self.live.values():
            if one.hosted is not None:
                one.hosted.leave()

    async def close(self) -> None:
        """Destroy the live agents of this process, and say that their containers go."""
        counts: dict[str, int] = {}
        live = list(self.live.values())
        for one in live:
            if one.owned:
                counts[one.container_id] = counts.get(one.container_id, 0) + 1
        await asyncio.gather(*(self._close(one) for one in live))
        if self._notes:
            await asyncio.wait(self._notes)
        await self.entities.leave()
        for name, count in counts.items():
            data: dict[str, Any] = {"container_id": name, "agent_count": count}
            self._tell("container_destroyed", data, "container", EventContext(name))

    async def _activate(self, image_id: str) -> tuple[LiveAgent, bool]:
        image, serves = await self.entities.served(image_id)
        mine = self._serving(image, serves)
        if mine is not None:
            return mine, True
        async with self._locks.setdefault(image_id, asyncio.Lock()):
            image, serves = await self.entities.served(image_id)
            mine = self._serving(image, serves)
            if mine is not None:
                return mine, True
            if self._leaving:
                raise StoreError(f"The runtime is being closed, so the image {image.id!r} gets no live agent here.")
            row, reused = await self.entities.activate(image, new_id("agent"), await self._dead())
            mine = self.live.get(image.id)
            if mine is not None and mine.id == row.id and mine.lifecycle != "destroyed":
                mine.image = image
                return mine, True
            if mine is not None:  # another process has destroyed it since
                await self._close(mine, _DESTROYED)
            container = self._runtime.container(image.container)

            async def definition(now: ImageRow | None) -> tuple[Any, ImageRow]:
                now = await self.entities.image(image.id) if now is None else now
                return self._define(now), now

            owned = row.owner == self.entities.owner
            foreign = self._runtime.environment_factory is not None and image.definition is None
            try:
                if self._runtime.base_path is not None:
                    make_workdir(self._runtime.base_path, image.container, image.id)
                hosted = await self._host(image, row) if foreign and owned else None
            except BaseException:
                if owned:
                    await self.entities.deactivate(row.id)
                raise
            agent = LiveAgent(
                *(row, image, container, self._runtime.bus.emit, definition, self._end, self._idle, hosted),
                owned=owned,
                elsewhere=foreign and not owned,
            )
            self.live[image.id] = agent
            if not reused:
                data: dict[str, Any] = {
                    "container_id": image.container,
                    "agent_id": row.id,
                    "definition_name": image.name,
                    "registered_at": int(row.created_at * 1000),
                }
                self._tell("agent_registered", data, "container", agent.context)
            return agent, reused

    def _serving(self, image: ImageRow, serves: AgentRow | None) -> LiveAgent | None:
        """The live agent of an image if this process has it."""
        mine = self.live.get(image.id)
        if mine is None or not mine.owned or mine.lifecycle == "destroyed" or serves != mine.row:
            return None
        mine.image = image
        return mine

    async def _end(self, agent: LiveAgent, idle: bool) -> None:
        """Destroy a live agent; one that is only a view of another process's goes alone when it is idle."""
        if agent.owned or not idle:
            await self.destroy(agent.id)
        else:
            await self._close(agent)

    async def _host(self, image: ImageRow, row: AgentRow) -> Hosted:
        """Make the environment of an image."""
        factory = self._runtime.environment_factory
        assert factory is not None
        base = self._runtime.base_path

        def captured(session_id: str) -> None:
            self._note(self.entities.change_image(image.id, {"metadata": {RESUMED: session_id}}))

        config = EnvironmentConfig(
            row.id,
            image.system_prompt,
            image.model,
            workdir(base, image.container, image.id) if base is not None else None,
            image.metadata.get(RESUMED),
            image.mcp_servers or {},
            captured,
        )
        context = EventContext(image.container, image.id, row.id, image.session)
        hosted = Hosted(factory, config, context, self._runtime.environment_timeout)
        await hosted.connect()
        return hosted

    def _note(self, work: Coroutine[Any, Any, object]) -> None:
        """Have something written in the background, which is over before the runtime is closed."""
        task = asyncio.create_task(work)
        self._notes.add(task)
        task.add_done_callback(self._noted)

    def _noted(self, task: asyncio.Task[object]) -> None:
        self._notes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("What an environment gave for its next start could not be kept: %s", task.exception())

    async def _hosted(self, image_id: str) -> Hosted:
        """The environment of an image that is served here; instead of one that was lost another is made.

        Raises:
            Conflict: another process serves the image since.
        """
        agent, _ = await self._activate(image_id)
        if not agent.owned or agent.hosted is None:
            raise Conflict(
                f"The image {image_id!r} is served by an environment of another process since; send it again."
            )
        if agent.hosted.lost:
            async with self._locks.setdefault(image_id, asyncio.Lock()):
                if agent.hosted.lost:
                    await agent.hosted.close()
                    agent.hosted = await self._host(agent.image, agent.row)
        return agent.hosted

    async def _close(self, agent: LiveAgent, why: str | None = None) -> None:
        """Let go of a live agent, and tell of it if it is one and not only a view of it.

        Args:
            agent: the agent.
            why: how it was destroyed; None if this process goes, or leaves it to the one that has it.
        """
        if self.live.get(agent.image_id) is agent:
            del self.live[agent.image_id]
        if not await agent.close(why) or not (agent.owned or why):
            return
        at: dict[str, Any] = {"agent_id": agent.id, "container_id": agent.container_id}
        self._tell("session_destroyed", {"session_id": agent.session_id, **at}, "session", agent.context)
        self._tell("agent_unregistered", at, "container", agent.context)

    # -- definitions -------------------------------------------------------------------------------------------------

    async def resolve(self, name: str) -> bool:
        """Make the definition of a run known that an image has started; says whether it can be driven here.

        An image whose answers come from an environment is served from now on, if no other process serves it.
        """
        prefix = self._runtime.image_prefix
        if not name.startswith(prefix):
            return False
        try:
            image = await self.entities.image(name.removeprefix(prefix))
            self._define(image)
        except (UnknownName, DefinitionError):
            return False
        if self._runtime.environment_factory is None or image.definition is not None:
            return True
        try:
            return (await self._activate(image.id))[0].owned
        except (StoreError, UnknownName):
            return False
        except Exception:
            _log.exception("The environment of the image %r cannot be made; what it is asked fails.", image.id)
            return True

    def _define(self, image: ImageRow) -> AgentDefinition | NetworkDefinition:
        if image.definition is not None:
            return self._named(image.definition)
        made_at, known = self._made.get(image.id, (0.0, None))
        if known is not None and made_at == image.updated_at:
            return known
        base, cwd = self._runtime.default_agent, None
        if self._runtime.base_path is not None:
            cwd = workdir(self._runtime.base_path, image.container, image.id)
        if self._runtime.environment_factory is not None:
            made = environment_agent(image, lambda: self._hosted(image.id))
        else:
            made = definition_of(image, base, cwd)
        self._made[image.id] = (image.updated_at, made)
        self._runtime.registry.put(made)
        return made

    def _named(self, name: str) -> Any:
        if not self._runtime.registry.has(name):
            raise DefinitionError(f"The definition {name!r} is not registered with this runtime.")
        return self._runtime.registry.get(name)

    def _forget(self, image_id: str) -> None:
        self._made.pop(image_id, None)
        for prefix in (PREFIX, OUTSIDE):
            self._runtime.registry.drop(f"{prefix}{image_id}")

    async def _online(self, image_id: str) -> AgentRow | None:
        found = await self.entities.agents(image=image_id, dead=await self._dead())
        return found[0] if found else None

    async def _dead(self) -> Mapping[str, int]:
        return await self._runtime.worker.dead()

    def _tell(self, type: str, data: dict[str, Any], source: Any, context: EventContext) -> None:
        self._runtime.bus.emit(SystemEvent(type, data, source, "lifecycle", context=context))
