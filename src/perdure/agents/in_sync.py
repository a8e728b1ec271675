"""Sync forms of async methods: what each does, takes and gives is its async twin's, and is said there alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from perdure.agents.by_name import loaded
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
T = TypeVar("T")
_END: Any = object()


class Loop:
    """An event loop that goes on in another thread, for sync code.

    Args:
        loop: the event loop; None if it does not go on any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def run(self, make: Callable[[], Coroutine[Any, Any, T]], name: str, use: str = "await") -> T:
        """Run a coroutine there and wait for its end.

        Args:
            make: makes it.
            name: the name of the async form.
            use: how that one is used.

        Raises:
            DefinitionError: this is the loop's own thread, which would wait for itself; or the loop is over.
        """
        import asyncio

        loop = self._loop
        if loop is None or loop.is_closed():
            raise DefinitionError(f"{name}_sync() comes too late: the event loop that this was made in is over.")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise DefinitionError(
                f"{name}_sync() would block the event loop that this lives in; there, use: {use} {name}()"
            )
        future = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # whoever waited is interrupted, and it must not go on unseen
            raise

    def each(self, make: Callable[[], AsyncIterator[T]], name: str) -> Iterator[T]:
        """Read what an async iterator gives, one at a time; nothing is read ahead."""

        async def begin() -> AsyncIterator[T]:
            return make()

        return self._read(self.run(begin, name, "async for … in"), name)

    def _read(self, source: AsyncIterator[T], name: str) -> Iterator[T]:
        async def one() -> T:
            return await anext(source, _END)

        try:
            while (value := self.run(one, name)) is not _END:
                yield value
        finally:
            self._close(source)

    def _close(self, source: AsyncIterator[Any]) -> None:
        """End an iterator that somebody has left; also from the loop's own thread, where garbage is collected too."""
        loop, aclose = self._loop, getattr(source, "aclose", None)
        if loop is not None and aclose is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(aclose()))


class Hosted(Protocol):
    """Whatever lives in an event loop."""

    def loop_thread(self) -> Loop:
        """Where sync code finds that loop."""
        ...


class InSync(Generic[P, T]):
    """The sync form of an async method: it waits for the end, and raises what that raises.

    Args:
        method: the async method.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self._name: str = getattr(method, "__name__")  # noqa: B009  # a callable need not have one
        self.__doc__ = f"The sync form of `{self._name}`. {method.__doc__ or ''}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Hosted, owner: type) -> Callable[P, T]: ...
    def __get__(self, instance: Hosted | None, owner: type) -> Self | Callable[P, T]:
        if instance is None:
            return self
        name = self._name

        @wraps(MethodType(loaded(self._method), instance))
        def wait(*args: P.args, **kwargs: P.kwargs) -> T:
            return instance.loop_thread().run(lambda: getattr(instance, name)(*args, **kwargs), name)

        return wait


class EachInSync(Generic[P, T]):
    """The sync form of a method that gives an async iterator: for code that reads it by `for`.

    Args:
        method: the method.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncIterator[T]]) -> None:
        self._method = method
        self._name: str = getattr(method, "__name__")  # noqa: B009
        self.__doc__ = f"The sync form of `{self._name}`. {method.__doc__ or ''}"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Hosted, owner: type) -> Callable[P, Iterator[T]]: ...
    def __get__(self, instance: Hosted | None, owner: type) -> Self | Callable[P, Iterator[T]]:
        if instance is None:
            return self
        name = self._name

        @wraps(MethodType(loaded(self._method), instance))
        def read(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return instance.loop_thread().each(lambda: getattr(instance, name)(*args, **kwargs), name)

        return read
