"""The verbs of the default container, as the runtime offers them: declared once, in the container."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

if TYPE_CHECKING:
    from perdure.runtime.container import Container
    from perdure.runtime.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")


class OfDefault(Generic[P, T]):
    """A method of the runtime that is the default container's.

    Args:
        method: the container's method.
    """

    def __init__(self, method: Callable[Concatenate[Container, P], T]) -> None:
        self._name: str = getattr(method, "__name__")  # noqa: B009  # a callable need not have one
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Runtime, owner: type) -> Callable[P, T]: ...
    def __get__(self, instance: Runtime | None, owner: type) -> Any:
        return self if instance is None else getattr(instance.container("default"), self._name)
