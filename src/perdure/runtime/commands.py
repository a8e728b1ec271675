"""The commands of the bus: each request is done by a method of `Images`, and gets exactly one response.

A failure is data: the response has an `error`, and a `system_error` with the same request id comes before it. A command
that nobody knows gets an error, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from msgspec import structs

from perdure.log.images import storable
from perdure.runtime.bus import Bus
from perdure.runtime.image_config import check_names
from perdure.runtime.images import Images
from perdure.types import commands as c
from perdure.types.envelope import EventContext, SystemEvent, is_command_request
from perdure.types.errors import DefinitionError, PerdureError, UnknownName

Answer: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Answer]]

MOST = 10_000
"""How many commands are worked on at once; what comes above is refused."""

_log = logging.getLogger("perdure")


class Commands:
    """Does what is asked for on a bus.

    Args:
        bus: the bus.
        images: what does it.
    """

    def __init__(self, bus: Bus, images: Images) -> None:
        self._bus = bus
        self._images = images
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Handler] = {
            "container_create": self._container_create,
            "container_get": self._container_get,
            "container_list": self._container_list,
            "agent_get": self._agent_get,
            "agent_list": self._agent_list,
            "agent_destroy": self._agent_destroy,
            "agent_destroy_all": self._agent_destroy_all,
            "agent_interrupt": self._agent_interrupt,
            "image_create": self._image_create,
            "image_run": self._image_run,
            "image_stop": self._image_stop,
            "image_update": self._image_update,
            "image_list": self._image_list,
            "image_get": self._image_get,
            "image_delete": self._image_delete,
            "image_messages": self._image_messages,
            "image_fork": self._image_fork,
            "image_rewind": self._image_rewind,
        }
        self._subscription = bus.on_any(self._asked, filter=is_command_request)

    async def stop(self) -> None:
        """Take no more commands, and finish those that are worked on."""
        self._subscription.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _asked(self, event: SystemEvent) -> None:
        name = event.type.removesuffix("_request")
        given: Any = event.data
        if not isinstance(given, Mapping):
            wrong = DefinitionError(f"The data of {event.type!r} are a {type(given).__name__}; give an object.")
            self._failed(name, structs.replace(event, data={}), wrong)
            return
        if name != "message_send" and name not in self._handlers:
            if not self._bus.has_handler(event.type):
                known = ", ".join(sorted(f"{one}_request" for one in (*self._handlers, "message_send")))
                self._failed(name, event, DefinitionError(f"Unknown command {event.type!r}. Known: {known}."))
            return
        if len(self._tasks) >= MOST:
            self._failed(name, event, PerdureError(f"{MOST:,} commands are worked on already; try again."))
            return
        task = asyncio.create_task(self._do(name, event), name=f"perdure-{event.type}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, name: str, event: SystemEvent) -> None:
        try:
            if name == "message_send":
                await self._message_send(event)
            else:
                self._respond(name, event, await self._handlers[name](event.data))
        except Exception as error:
            if not isinstance(error, PerdureError):
                _log.exception("The command %s failed.", event.type)
            self._failed(name, event, error)

    def _respond(self, name: str, event: SystemEvent, data: Answer) -> None:
        self._bus.emit_command(f"{name}_response", {"request_id": event.data.get("request_id"), **data}, event.context)

    def _failed(self, name: str, event: SystemEvent, error: Exception) -> None:
        given, message = event.data, _said(error)
        ids = {one: given[one] for one in ("container_id", "image_id", "agent_id") if _is_name(given.get(one))}
        context = EventContext(**ids)
        told: dict[str, Any] = {
            "message": message,
            "request_id": given.get("request_id"),
            "severity": "error",
            "details": type(error).__name__,
        }
        self._bus.emit(SystemEvent("system_error", told, "command", "error", context=context))
        empty = _EMPTY.get(name, ())
        answer: Answer = {one: value for one, value in ids.items() if one in empty}
        self._respond(name, event, {**{one: _NOTHING[one] for one in empty}, **answer, "error": message})

    # -- containers --------------------------------------------------------------------------------------------------

    async def _container_create(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "container_id")
        await self._images.create_container(id)
        return {"container_id": id}

    async def _container_get(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "container_id")
        exists = await self._images.entities.has_container(id)
        return {"exists": exists, **({"container_id": id} if exists else {})}

    async def _container_list(self, data: Mapping[str, Any]) -> Answer:
        return {"container_ids": await self._images.entities.containers()}

    # -- live agents -------------------------------------------------------------------------------------------------

    async def _agent_get(self, data: Mapping[str, Any]) -> Answer:
        row = await self._images.agent(_text(data, "agent_id"))
        return {"exists": False} if row is None else {"exists": True, "agent_id": row.id, "container_id": row.container}

    async def _agent_list(self, data: Mapping[str, Any]) -> Answer:
        rows = await self._images.agents(_text(data, "container_id"))
        return {"agents": [{"agent_id": one.id, "container_id": one.container, "image_id": one.image} for one in rows]}

    async def _agent_destroy(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "agent_id")
        return {"agent_id": id, "success": await self._images.destroy(id)}

    async def _agent_destroy_all(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "container_id")
        await self._images.destroy_all(id)
        return {"container_id": id}

    async def _message_send(self, event: SystemEvent) -> None:
        data = event.data
        image_id, agent_id = data.get("image_id"), data.get("agent_id")
        if image_id is None and agent_id is None:
            raise DefinitionError("Either image_id or agent_id must be provided.")
        if image_id is None:
            row = await self._images.agent(_text(data, "agent_id"))
            if row is None:
                raise UnknownName("agent", str(agent_id))
            image_id = row.image
        agent = await self._images.serving(_text({"image_id": image_id}, "image_id"))

        def told(message_id: str, queued: bool) -> None:
            answer: Answer = {"agent_id": agent.id, "image_id": image_id, "message_id": message_id, "queued": queued}
            self._respond("message_send", event, answer)

        await agent.receive(data.get("content"), told=told, image=agent.image)

    async def _agent_interrupt(self, data: Mapping[str, Any]) -> Answer:
        if data.get("image_id") is not None:
            image_id = _text(data, "image_id")
            agent_id = await self._images.interrupt(image_id)
            return {"image_id": image_id, **({"agent_id": agent_id} if agent_id is not None else {})}
        row = await self._images.agent(_text(data, "agent_id"))
        if row is None:
            raise UnknownName("agent", str(data["agent_id"]))
        await self._images.interrupt(row.image)
        return {"agent_id": row.id, "image_id": row.image}

    # -- images ------------------------------------------------------------------------------------------------------

    async def _image_create(self, data: Mapping[str, Any]) -> Answer:
        record = await self._images.create(_text(data, "container_id"), **_object(data, "config", c.ImageConfig))
        return {"record": record, "subscriptions": [record["session_id"]]}

    async def _image_run(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "image_id")
        agent_id, reused = await self._images.run(id)
        return {"image_id": id, "agent_id": agent_id, "reused": reused}

    async def _image_stop(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "image_id")
        await self._images.stop(id)
        return {"image_id": id}

    async def _image_update(self, data: Mapping[str, Any]) -> Answer:
        return {
            "record": await self._images.update(_text(data, "image_id"), **_object(data, "updates", c.ImageUpdates))
        }

    async def _image_list(self, data: Mapping[str, Any]) -> Answer:
        container = _text(data, "container_id") if data.get("container_id") is not None else None
        records = await self._images.list(container)
        return {"records": records, "subscriptions": [one["session_id"] for one in records]}

    async def _image_get(self, data: Mapping[str, Any]) -> Answer:
        record = await self._images.get(_text(data, "image_id"))
        return {"record": record, **({"subscriptions": [record["session_id"]]} if record is not None else {})}

    async def _image_delete(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "image_id")
        await self._images.delete(id)
        return {"image_id": id}

    async def _image_messages(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "image_id")
        return {"image_id": id, "messages": await self._images.messages(id)}

    async def _image_fork(self, data: Mapping[str, Any]) -> Answer:
        where: dict[str, Any] = {name: data.get(name) for name in ("at", "before", "after")}
        record = await self._images.fork(_text(data, "image_id"), **where, **_object(data, "config", c.ImageConfig))
        return {"record": record, "subscriptions": [record["session_id"]]}

    async def _image_rewind(self, data: Mapping[str, Any]) -> Answer:
        id = _text(data, "image_id")
        where: dict[str, Any] = {name: data.get(name) for name in ("to", "before", "after")}
        return {"image_id": id, "seq": await self._images.rewind(id, **where, cancel=data.get("cancel") is True)}


_NOTHING: dict[str, Any] = {
    "container_id": "",
    "image_id": "",
    "agent_id": "",
    "success": False,
    "reused": False,
    "exists": False,
    "agents": [],
    "records": [],
    "messages": [],
    "container_ids": [],
    "record": None,
    "seq": 0,
}
_EMPTY: dict[str, tuple[str, ...]] = {
    "container_create": ("container_id",),
    "container_get": ("exists",),
    "container_list": ("container_ids",),
    "agent_get": ("exists",),
    "agent_list": ("agents",),
    "agent_destroy": ("agent_id", "success"),
    "agent_destroy_all": ("container_id",),
    "message_send": ("agent_id", "image_id"),
    "agent_interrupt": (),
    "image_create": ("record",),
    "image_update": ("record",),
    "image_get": ("record",),
    "image_run": ("image_id", "agent_id", "reused"),
    "image_stop": ("image_id",),
    "image_list": ("records",),
    "image_delete": ("image_id",),
    "image_messages": ("image_id", "messages"),
    "image_fork": ("record",),
    "image_rewind": ("image_id", "seq"),
}
"""What the response of a command that has failed holds all the same."""


def _said(error: Exception) -> str:
    if isinstance(error, UnknownName):
        return str(error)
    return str(error) or type(error).__name__


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1000 and storable(value)


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not _is_name(value):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
        raise DefinitionError(f"{name} must be a text of 1 to 1,000 characters, without NUL, not {shown}.")
    return value


def _object(data: Mapping[str, Any], name: str, kind: type) -> dict[str, Any]:
    value = cast("dict[Any, Any]", data.get(name) or {})
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value):  # pyright: ignore[reportUnnecessaryIsInstance]  # from outside
        raise DefinitionError(f"{name} is a {type(value).__name__}; give an object.")
    check_names(value, kind.__annotations__, name)
    return value
