"""Methods that are known by their names, because the class that has them is not loaded yet."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


class ByName:
    """Stands for a class where only the names of its methods are wanted; type checkers are shown the class itself.

    Args:
        module: where the class is.
        name: its name.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __getattr__(self, name: str) -> Named:
        return Named(self._module, self._name, name)


class Named:
    """A method by its name."""

    def __init__(self, module: str, kind: str, name: str) -> None:
        self._module = module
        self._kind = kind
        self.__name__ = name
        self.__doc__ = f"See `{kind}.{name}`."

    def load(self) -> Callable[..., Any]:
        """Find the method itself."""
        return getattr(getattr(import_module(self._module), self._kind), self.__name__)


def loaded(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method itself, where it is given by its name."""
    return method.load() if isinstance(method, Named) else method
