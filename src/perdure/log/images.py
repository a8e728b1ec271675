"""Containers, images and live agents as rows: what lasts of them, and which image has a live agent, and where.

An image has at most one live agent, whichever process has it: its row is the proof. A row of a dead process counts for
nothing and is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import msgspec

from perdure.db.database import Database, Row, Script, Sql
from perdure.types.base import Base, decode_json, encode_json, sound
from perdure.types.errors import Conflict, UnknownName

CHANGEABLE = ("name", "description", "system_prompt", "model", "mcp_servers", "metadata")
"""What of an image can be changed."""

_IMAGE = (
    "SELECT id, container, session, name, description, system_prompt, model, mcp_servers, definition, parent, "
    "metadata, created_at, updated_at FROM images"
)
_AGENT = "SELECT image, id, container, owner, created_at FROM agents"
_SERVED = (
    "SELECT i.id, i.container, i.session, i.name, i.description, i.system_prompt, i.model, i.mcp_servers, "
    "i.definition, i.parent, i.metadata, i.created_at, i.updated_at, a.image, a.id, a.container, a.owner, "
    "a.created_at FROM images i LEFT JOIN agents a ON a.image = i.id WHERE i.id = ?"
)
_JSON = ("mcp_servers", "metadata")


def container_names() -> Script[set[str]]:
    """The names of all containers: those that were made, and those that have sessions."""
    rows = yield Sql("SELECT id FROM containers")
    names = {str(row[0]) for row in rows}
    # from one name to the next in the index: there are few names and many sessions
    rows = yield Sql(
        "WITH RECURSIVE found(name) AS (SELECT MIN(container) FROM sessions UNION ALL SELECT (SELECT "
        "MIN(container) FROM sessions WHERE container > found.name) FROM found WHERE found.name IS NOT NULL) "
        "SELECT name FROM found WHERE name IS NOT NULL"
    )
    return names | {str(row[0]) for row in rows}


class ContainerRow(Base):
    """A container as it is stored; times in seconds since the epoch."""

    id: str
    config: dict[str, Any]
    created_at: float
    updated_at: float


class ImageRow(Base):
    """An image as it is stored: a session with a configuration.

    `definition` is the agent or network that it runs; without one it is an agent of its own, made of the rest.
    """

    id: str
    container: str
    session: str
    name: str
    description: str | None = None
    system_prompt: str | None = None
    model: str | None = None
    mcp_servers: dict[str, Any] | None = None
    definition: str | None = None
    parent: str | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    created_at: float = 0.0
    updated_at: float = 0.0


class AgentRow(Base):
    """A live agent: the image that it serves, and the process that has it."""

    image: str
    id: str
    container: str
    owner: str
    created_at: float


class Entities:
    """What a store has of containers, images and live agents.

    Args:
        db: the opened database.
        now: the store's clock, seconds since the epoch.
        owner: this process's id.
    """

    def __init__(self, db: Database, now: Callable[[], float], owner: str) -> None:
        self._db = db
        self._now = now
        self.owner = owner

    # -- containers --------------------------------------------------------------------------------------------------

    async def make_container(self, id: str, config: Mapping[str, Any] | None = None) -> tuple[ContainerRow, bool]:
        """Create a container, or get it if it is there; says whether it is new."""

        def script() -> Script[tuple[ContainerRow, bool]]:
            made = yield from self._make(id, config)
            rows = yield Sql("SELECT id, config, created_at, updated_at FROM containers WHERE id = ?", (id,))
            return _container(rows[0]), made

        return await self._db.write(script, notify=True)

    def _make(self, id: str, config: Mapping[str, Any] | None = None) -> Script[bool]:
        now = self._now()
        rows = yield Sql(
            "INSERT INTO containers (id, config, created_at, updated_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING RETURNING id",
            (id, encode_json(dict(config or {})).decode(), now, now),
        )
        return bool(rows)

    async def has_container(self, id: str) -> bool:
        """Whether there is a container of this name, or anything in it."""

        def script() -> Script[list[Row]]:
            text = (
                "SELECT 1 FROM containers WHERE id = ? UNION ALL "
                "SELECT 1 FROM (SELECT 1 FROM sessions WHERE container = ? LIMIT 1) AS present"
            )
            return (yield Sql(text, (id, id)))

        return bool(await self._db.read(script))

    async def containers(self) -> list[str]:
        """The names of all containers, in order."""

        return sorted(await self._db.read(container_names))

    # -- images ------------------------------------------------------------------------------------------------------

    async def make_image(self, image: ImageRow) -> tuple[ImageRow, bool]:
        """Store a new image, with its container if need be; says whether that one is new.

        Raises:
            Conflict: there is an image of this id.
        """
        now = self._now()
        made = msgspec.structs.replace(image, created_at=now, updated_at=now)
        values = {
            **{name: getattr(made, name) for name in made.__struct_fields__},
            **{name: _coded(getattr(made, name)) for name in _JSON},
        }

        def script() -> Script[bool]:
            new = yield from self._make(image.container)
            rows = yield Sql(
                f"INSERT INTO images ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
                "ON CONFLICT (id) DO NOTHING RETURNING id",
                (*values.values(),),
            )
            if not rows:
                raise Conflict(f"There is an image {image.id!r} already; give another id, or none.")
            return new

        return made, await self._db.write(script, notify=True)

    async def image(self, id: str) -> ImageRow:
        """Read an image.

        Raises:
            UnknownName: there is none.
        """
        rows = await self._rows(f"{_IMAGE} WHERE id = ?", (id,)) if storable(id) else []
        if not rows:
            raise _unknown(id)
        return _image(rows[0])

    async def served(self, id: str) -> tuple[ImageRow, AgentRow | None]:
        """Read an image, and who serves it, whether that one is alive or not.

        Raises:
            UnknownName: there is none.
        """
        rows = await self._rows(_SERVED, (id,)) if storable(id) else []
        if not rows:
            raise _unknown(id)
        row, many = rows[0], len(ImageRow.__struct_fields__)
        return _image(row[:many]), _agent(row[many:]) if row[many] is not None else None

    async def images(
        self, container: str | None = None, *, after: ImageRow | None = None, limit: int = 1000
    ) -> list[ImageRow]:
        """List images, the newest first; those behind one if it is given."""
        where, params = "1 = 1", ()
        if container is not None:
            where, params = "container = ?", (container,)
        if after is not None:
            where, params = f"{where} AND (created_at, id) < (?, ?)", (*params, after.created_at, after.id)
        text = f"{_IMAGE} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?"
        return [_image(row) for row in await self._rows(text, (*params, limit))]

    async def shown(self, container: str, sessions: Sequence[str]) -> bool:
        """Whether any of these sessions is that of an image."""
        where = f"container = ? AND session IN ({', '.join('?' * len(sessions))})"

        def script() -> Script[list[Row]]:
            return (yield Sql(f"SELECT 1 FROM images WHERE {where} LIMIT 1", (container, *sessions)))

        return bool(sessions) and bool(await self._db.read(script))

    async def change_image(self, id: str, changes: Mapping[str, Any]) -> ImageRow:
        """Change what is given; metadata are merged, and a name in them with None is taken out.

        Raises:
            UnknownName: there is no such image.
        """
        lock = " FOR UPDATE" if self._db.dialect == "postgres" else ""

        def script() -> Script[ImageRow]:
            rows = yield Sql(f"{_IMAGE} WHERE id = ?{lock}", (id,))
            if not rows:
                raise _unknown(id)
            image = _image(rows[0])
            given = {name: changes[name] for name in CHANGEABLE if name in changes}
            if "metadata" in given:
                merged = {**image.metadata, **given["metadata"]}
                given["metadata"] = {name: value for name, value in merged.items() if value is not None}
            now = max(self._now(), image.updated_at)
            sets = ", ".join(f"{name} = ?" for name in given)
            values = [_coded(value) if name in _JSON else value for name, value in given.items()]
            yield Sql(f"UPDATE images SET {sets}{', ' * bool(sets)}updated_at = ? WHERE id = ?", (*values, now, id))
            return msgspec.structs.replace(image, **given, updated_at=now)

        return await self._db.write(script, notify=True)

    async def forgotten(self, container: str) -> list[ImageRow]:
        """List images of which all was erased but their folders."""
        return [_image(row) for row in await self._rows(f"{_IMAGE} WHERE container = ? AND session = ''", (container,))]

    async def delete_image(self, id: str) -> ImageRow | None:
        """Remove an image and its live agent's row; gives what it was, None if there is none."""

        def script() -> Script[ImageRow | None]:
            rows = yield Sql(f"{_IMAGE} WHERE id = ?", (id,))
            yield Sql("DELETE FROM agents WHERE image = ?", (id,))
            yield Sql("DELETE FROM images WHERE id = ?", (id,))
            return _image(rows[0]) if rows else None

        return await self._db.write(script, notify=True)

    # -- live agents -------------------------------------------------------------------------------------------------

    async def activate(self, image: ImageRow, agent_id: str, dead: Collection[str] = ()) -> tuple[AgentRow, bool]:
        """Give an image a live agent, unless it has one; says whether it was there before.

        Args:
            image: the image.
            agent_id: the id of the agent if it is to be made.
            dead: owners that are known to be dead; agents of theirs are none.

        Raises:
            UnknownName: the image has been deleted.
        """
        lock = " FOR UPDATE" if self._db.dialect == "postgres" else ""
        now = self._now()

        def script() -> Script[tuple[AgentRow, bool]]:
            rows = yield Sql(f"SELECT 1 FROM images WHERE id = ?{lock}", (image.id,))
            if not rows:
                raise _unknown(image.id)
            rows = yield Sql(f"{_AGENT} WHERE image = ?", (image.id,))
            known = _agent(rows[0]) if rows else None
            if known is not None and known.owner not in dead:
                rows = yield Sql("SELECT 1 FROM owners WHERE id = ?", (known.owner,))
                if rows:  # an owner that others have forgotten is dead
                    return known, True
            yield Sql("DELETE FROM agents WHERE image = ?", (image.id,))
            made = AgentRow(image.id, agent_id, image.container, self.owner, now)
            yield Sql(
                "INSERT INTO agents (image, id, container, owner, created_at) VALUES (?, ?, ?, ?, ?)",
                (made.image, made.id, made.container, made.owner, made.created_at),
            )
            return made, False

        return await self._db.write(script, notify=True)

    async def deactivate(self, agent_id: str) -> AgentRow | None:
        """Take a live agent's row away; gives what it was, None if there is none."""
        if not storable(agent_id):
            return None

        def script() -> Script[AgentRow | None]:
            text = "DELETE FROM agents WHERE id = ? RETURNING image, id, container, owner, created_at"
            rows = yield Sql(text, (agent_id,))
            return _agent(rows[0]) if rows else None

        return await self._db.write(script, notify=True)

    async def leave(self) -> None:
        """Take all rows of this process away, as it goes."""

        def script() -> Script[None]:
            yield Sql("DELETE FROM agents WHERE owner = ?", (self.owner,), blind=True)

        await self._db.write(script, notify=True)

    async def agent(self, id: str) -> AgentRow | None:
        """Read a live agent."""
        rows = await self._rows(f"{_AGENT} WHERE id = ?", (id,)) if storable(id) else []
        return _agent(rows[0]) if rows else None

    async def agents(
        self, container: str | None = None, *, image: str | None = None, dead: Collection[str] = ()
    ) -> list[AgentRow]:
        """List live agents, the oldest first, without those of dead processes."""
        where, params = "1 = 1", ()
        if container is not None:
            where, params = "container = ?", (container,)
        if image is not None:
            where, params = f"{where} AND image = ?", (*params, image)
        where = f"{where} AND owner IN (SELECT id FROM owners)"
        rows = await self._rows(f"{_AGENT} WHERE {where} ORDER BY created_at, id", params)
        return [one for one in map(_agent, rows) if one.owner not in dead]

    async def gone(self, agent_ids: Collection[str]) -> set[str]:
        """Say which of these live agents are none any more."""

        def script() -> Script[set[str]]:
            ids, found = list(agent_ids), set[str]()
            for start in range(0, len(ids), 500):
                some = ids[start : start + 500]
                rows = yield Sql(f"SELECT id FROM agents WHERE id IN ({', '.join('?' * len(some))})", some)
                found.update(str(row[0]) for row in rows)
            return set(ids) - found

        return await self._db.read(script)

    async def _rows(self, text: str, params: tuple[Any, ...]) -> list[Row]:
        def script() -> Script[list[Row]]:
            return (yield Sql(text, params))

        return await self._db.read(script)


def storable(text: str) -> bool:
    """Whether a text can be in a database: without NUL and without half of a sign."""
    return "\0" not in text and sound(text) == text


def _unknown(id: str) -> UnknownName:
    return UnknownName("image", id)


def _coded(value: Any) -> str | None:
    return None if value is None else encode_json(value).decode()


def _container(row: Row) -> ContainerRow:
    id, config, created_at, updated_at = row
    return ContainerRow(id, cast("dict[str, Any]", decode_json(config)), float(created_at), float(updated_at))


def _image(row: Row) -> ImageRow:
    fields = dict(zip(ImageRow.__struct_fields__, row, strict=True))
    for name in _JSON:
        if fields[name] is not None:
            fields[name] = decode_json(fields[name])
    return ImageRow(**fields)


def _agent(row: Row) -> AgentRow:
    return AgentRow(*row)
