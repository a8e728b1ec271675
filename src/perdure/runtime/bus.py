"""The bus: who wants to know of an event is called, in the same order for everybody.

An event that is emitted by a handler comes when all handlers of the present one have been called, so that nobody sees
an answer before its question. A handler that raises is logged and the others are called all the same. Async handlers
have a queue of their own, and so keep nobody waiting. A bus belongs to one event loop and is not for other threads.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

from perdure.runtime.event_stream import EventStream
from perdure.runtime.requests import Requests, RequestTimeout
from perdure.types.envelope import NOBODY, EventContext, SystemEvent
from perdure.types.errors import DefinitionError, PerdureError
from perdure.types.ids import new_id

Handler: TypeAlias = Callable[[SystemEvent], Any]
Filter: TypeAlias = Callable[[SystemEvent], object]

BUFFER = 10_000
"""How many events an async handler or a reader may be behind, unless it is told otherwise."""

_log = logging.getLogger("perdure")


class BusClosed(PerdureError):
    """The bus was destroyed; nothing that is asked of it is answered any more."""


class Subscription:
    """Somebody's wish to be called; call it, or `stop()`, to end it.

    Attributes:
        active: whether it still holds.
        missed: how many events an async handler was not given, because it was too far behind.
    """

    __slots__ = ("_bus", "_handler", "_inbox", "_most", "_task", "active", "filter", "missed", "once", "order", "types")

    def __init__(
        self,
        bus: Bus | None,
        handler: Handler,
        types: frozenset[str] | None,
        filter: Filter | None,
        order: tuple[int, int],
        once: bool,
        buffer: int,
    ) -> None:
        self._bus = bus
        self._handler = handler
        self.types = types
        self.filter = filter
        self.order = order
        self.once = once
        self.active = bus is not None
        self.missed = 0
        self._most = buffer
        self._inbox: deque[SystemEvent | Awaitable[Any]] | None = None
        self._task: asyncio.Task[None] | None = None
        if _is_async(handler):
            self._inbox = deque()

    def stop(self) -> None:
        """End it, at once: also in the middle of an event. What an async handler is doing is finished."""
        if self.active:
            self.active = False
            if self._bus is not None:
                self._bus.forget(self)
        if self._inbox:
            self._clear(self._inbox)

    __call__ = stop

    def give(self, event: SystemEvent) -> None:
        """Call the handler, or put the event into its queue."""
        filter = self.filter
        try:
            if filter is not None and not filter(event):
                return
            if self.once:
                self.active = False
                if self._bus is not None:
                    self._bus.forget(self)
            if self._inbox is not None:
                self._queue(self._inbox, event)
                return
            result = self._handler(event)
        except Exception as error:
            _log.exception("A handler of the event %r raised; the others are called all the same.", event.type)
            self._told(error, event)
            return
        if result is not None and inspect.isawaitable(result):
            self._queue(deque(), result)

    async def idle(self) -> None:
        """Wait until an async handler has nothing more to do."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        """End what an async handler is doing."""
        self.stop()
        if self._task is not None:
            self._task.cancel()

    def _queue(self, inbox: deque[SystemEvent | Awaitable[Any]], item: SystemEvent | Awaitable[Any]) -> None:
        inbox = self._inbox = inbox if self._inbox is None else self._inbox
        if len(inbox) >= self._most:
            self.missed += 1
            if self.missed == 1:
                _log.warning("%r is %d events behind; it misses what comes until it has room.", self, self._most)
            _close(item)
            return
        inbox.append(item)
        if self._task is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._clear(inbox)
                raise DefinitionError(f"{self!r} is async, and the event was emitted outside an event loop.") from None
            self._task = loop.create_task(self._work(inbox), name="perdure-bus-handler")
            if self._bus is not None:
                self._bus.works(self, self._task)

    async def _work(self, inbox: deque[SystemEvent | Awaitable[Any]]) -> None:
        try:
            while inbox:
                item = inbox.popleft()
                try:
                    result = self._handler(item) if isinstance(item, SystemEvent) else item
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:
                    _log.exception("%r raised; it is called again with the next event.", self)
                    self._told(error, item if isinstance(item, SystemEvent) else None)
        finally:
            self._task = None
            self._clear(inbox)

    def _told(self, error: Exception, event: SystemEvent | None) -> None:
        if self._bus is not None:
            self._bus.failed(error, event)

    def _clear(self, inbox: deque[SystemEvent | Awaitable[Any]]) -> None:
        while inbox:
            _close(inbox.popleft())

    def __repr__(self) -> str:
        name = getattr(self._handler, "__qualname__", type(self._handler).__qualname__)
        return f"Subscription({name}, types={sorted(self.types) if self.types is not None else 'all'})"


class Bus(Requests):
    """Events in, handlers called; requests with their responses.

    Args:
        on_error: told what a handler or filter has raised, and by which event; it is logged all the same.
    """

    def __init__(self, on_error: Callable[[Exception, SystemEvent], object] | None = None) -> None:
        self._on_error = on_error
        self._subscriptions: list[Subscription] = []
        self._by_type: dict[str, tuple[Subscription, ...]] = {}
        self._queue: deque[SystemEvent] = deque()
        self._emitting = False
        self._made = 0
        self._pending: dict[str, tuple[str, asyncio.Future[SystemEvent]]] = {}
        self._working: dict[asyncio.Task[None], Subscription] = {}
        self._streams: set[EventStream] = set()
        self._destroyed = False
        self._consumer = Consumer(self)
        self._producer = Producer(self)

    # -- emitting ----------------------------------------------------------------------------------------------------

    def emit(self, event: SystemEvent) -> None:
        """Call everybody who wants to know of an event; within a handler, when its event is done.

        Args:
            event: what happened. On a bus that was destroyed nothing happens.
        """
        if self._destroyed:
            return
        queue = self._queue
        if self._emitting:
            queue.append(event)
            return
        self._emitting = True
        try:
            self._dispatch(event)
            while queue:
                self._dispatch(queue.popleft())
        finally:
            self._emitting = False
            queue.clear()  # only a KeyboardInterrupt or the like leaves anything

    def emit_batch(self, events: Iterable[SystemEvent]) -> None:
        """Emit several events, in this order."""
        for event in events:
            self.emit(event)

    def emit_command(self, type: str, data: Any, context: EventContext = NOBODY) -> None:
        """Emit a command's request or response; its type's end, `_request` or `_response`, says which.

        Raises:
            DefinitionError: it ends otherwise.
        """
        if type.endswith("_request"):
            self.emit(SystemEvent(type, data, "command", "request", "request", context))
        elif type.endswith("_response"):
            self.emit(SystemEvent(type, data, "command", "response", "result", context))
        else:
            raise DefinitionError(f"The command {type!r} must end with '_request' or '_response'.")

    def _dispatch(self, event: SystemEvent) -> None:
        if self._pending and event.category == "response":
            self._answer(event)
        found = self._by_type.get(event.type)
        if found is None:
            found = self._find(event.type)
        for one in found:
            if one.active:
                one.give(event)

    def _find(self, type: str) -> tuple[Subscription, ...]:
        if len(self._by_type) > 1000:  # types are few; whoever makes them up must not fill the memory
            self._by_type.clear()
        wanted = [one for one in self._subscriptions if one.types is None or type in one.types]
        wanted.sort(key=lambda one: one.order)
        found = self._by_type[type] = tuple(wanted)
        return found

    # -- subscribing -------------------------------------------------------------------------------------------------

    def on(
        self,
        types: str | Iterable[str],
        handler: Handler,
        *,
        filter: Filter | None = None,
        priority: int = 0,
        once: bool = False,
        buffer: int = BUFFER,
    ) -> Subscription:
        """Have a handler called with each event of one type or of several.

        Args:
            types: one type, several, or `"*"` for all.
            handler: sync or async. Async ones are called one event after the other, in the background.
            filter: only events for which it says yes count.
            priority: higher ones are called earlier; equal ones in the order in which they came.
            once: whether it is called only once.
            buffer: how many events an async handler may be behind before it misses some.

        Returns:
            The subscription; call it to end it.

        Raises:
            DefinitionError: the handler, the types or the buffer are none.
        """
        return self._subscribe(_read_types(types), handler, filter, priority, once, buffer)

    def on_any(
        self,
        handler: Handler,
        *,
        filter: Filter | None = None,
        priority: int = 0,
        once: bool = False,
        buffer: int = BUFFER,
    ) -> Subscription:
        """Have a handler called with every event; see `on`."""
        return self._subscribe(None, handler, filter, priority, once, buffer)

    def once(self, types: str | Iterable[str], handler: Handler, *, filter: Filter | None = None) -> Subscription:
        """Have a handler called with the next event of a type, and then no more."""
        return self.on(types, handler, filter=filter, once=True)

    def on_command(self, type: str, handler: Handler) -> Subscription:
        """Have a handler called with a command's requests or responses."""
        return self.on(type, handler, filter=_from_command)

    def stream(
        self, types: str | Iterable[str] = "*", *, filter: Filter | None = None, buffer: int = BUFFER
    ) -> EventStream:
        """Read events by `async for`; see `EventStream`.

        Args:
            types: one type, several, or `"*"` for all.
            filter: only events for which it says yes count.
            buffer: how many events the reader may be behind before it misses some.
        """
        stream = EventStream(buffer, self._streams.discard)
        if self._destroyed:
            stream.close()
            return stream
        stream.follow(self.on(types, stream.put, filter=filter))
        self._streams.add(stream)
        return stream

    def _subscribe(
        self,
        types: frozenset[str] | None,
        handler: Handler,
        filter: Filter | None,
        priority: int,
        once: bool,
        buffer: int,
    ) -> Subscription:
        if not callable(handler) or (filter is not None and not callable(filter)):
            raise DefinitionError(f"on(…): the handler {handler!r} and the filter {filter!r} must be callable.")
        if buffer < 1:
            raise DefinitionError(f"on(…, buffer={buffer!r}) must be at least 1.")
        self._made += 1
        bus = None if self._destroyed else self
        one = Subscription(bus, handler, types, filter, (-priority, self._made), once, buffer)
        if bus is not None:
            self._subscriptions.append(one)
            self._by_type.clear()
        return one

    def forget(self, one: Subscription) -> None:
        """Take a subscription out; it says that it is over itself."""
        if one in self._subscriptions:
            self._subscriptions.remove(one)
            self._by_type.clear()

    def works(self, one: Subscription, task: asyncio.Task[None]) -> None:
        """Own what an async handler does, until it is done."""
        self._working[task] = one
        task.add_done_callback(self._working.pop)

    def failed(self, error: Exception, event: SystemEvent | None) -> None:
        """Tell whoever wants to know that a handler has raised."""
        if self._on_error is not None:
            self._on_error(error, event or SystemEvent("unknown"))

    async def idle(self) -> None:
        """Wait until no async handler has anything to do."""
        while self._working:
            await asyncio.wait(self._working)

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return len(self._subscriptions)

    def has_handler(self, type: str) -> bool:
        """Whether somebody wants just this type."""
        return any(one.types is not None and type in one.types for one in self._subscriptions)

    @property
    def destroyed(self) -> bool:
        """Whether it was ended."""
        return self._destroyed

    # -- requests ----------------------------------------------------------------------------------------------------

    async def ask(self, type: str, data: Any, timeout: float) -> SystemEvent:
        """Do what `request` says, for data of any kind."""
        if self._destroyed:
            raise BusClosed(f"The bus was destroyed, so {type!r} is answered by nobody.")
        if not type.endswith("_request"):
            raise DefinitionError(f"The command {type!r} must end with '_request'.")
        if not isinstance(data, Mapping):
            raise DefinitionError(f"The data of {type!r} are a {_kind(data)}; give an object.")
        data = cast("Mapping[str, Any]", data)
        request_id = data.get("request_id") or new_id("req")
        if not isinstance(request_id, str):
            raise DefinitionError(f"The request_id of {type!r} is a {_kind(request_id)}; give a text, or none.")
        if request_id in self._pending:
            raise DefinitionError(f"The request id {request_id!r} is in use; give another, or none.")
        future: asyncio.Future[SystemEvent] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (type.removesuffix("_request") + "_response", future)
        try:
            self.emit_command(type, {**data, "request_id": request_id})
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise RequestTimeout(f"Request timeout: {type} was not answered within {timeout:g} s.") from None
        finally:
            del self._pending[request_id]

    async def _request(self, type: str, data: Any, timeout: float) -> SystemEvent:
        return await self.ask(type, data, timeout)

    def _answer(self, event: SystemEvent) -> None:
        given: Any = event.data
        if not isinstance(given, Mapping):
            return
        type, future = self._pending.get(str(cast("Mapping[str, Any]", given).get("request_id")), (None, None))
        if future is not None and type == event.type and not future.done():
            future.set_result(event)

    # -- halves and the end ------------------------------------------------------------------------------------------

    def as_consumer(self) -> Consumer:
        """The half that subscribes and asks; always the same object."""
        return self._consumer

    def as_producer(self) -> Producer:
        """The half that emits; always the same object."""
        return self._producer

    def destroy(self) -> None:
        """End it: nothing is emitted any more, nobody is called, and who waits for a response is told."""
        if self._destroyed:
            return
        self._destroyed = True
        for one in [*self._subscriptions, *self._working.values()]:
            one.cancel()
        for stream in list(self._streams):
            stream.close()
        for type, future in self._pending.values():
            if not future.done():
                future.set_exception(BusClosed(f"The bus was destroyed before {type!r} came."))
        self._queue.clear()


class Consumer(Requests):
    """The half of a bus that subscribes and asks."""

    def __init__(self, bus: Bus) -> None:
        self.on = bus.on
        self.on_any = bus.on_any
        self.once = bus.once
        self.on_command = bus.on_command
        self.stream = bus.stream
        self._bus = bus

    async def _request(self, type: str, data: Any, timeout: float) -> SystemEvent:
        return await self._bus.ask(type, data, timeout)


class Producer:
    """The half of a bus that emits."""

    def __init__(self, bus: Bus) -> None:
        self.emit = bus.emit
        self.emit_batch = bus.emit_batch
        self.emit_command = bus.emit_command


def _kind(value: object) -> str:
    return type(value).__name__


def _from_command(event: SystemEvent) -> bool:
    return event.source == "command"


def _read_types(types: str | Iterable[str]) -> frozenset[str] | None:
    names = frozenset((types,) if isinstance(types, str) else types)
    if not names or not all(isinstance(one, str) and one for one in cast("frozenset[Any]", names)):
        raise DefinitionError(f"on({types!r}, …): give the type of an event, several, or '*'.")
    return None if "*" in names else names


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _close(item: SystemEvent | Awaitable[Any]) -> None:
    """Say of a coroutine that nobody will await it that this is meant."""
    if inspect.iscoroutine(item):
        item.close()
