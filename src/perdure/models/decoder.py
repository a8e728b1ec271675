"""What reading a provider's stream has in common, whatever its pieces look like. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from perdure.types.chunks import ModelEvent
from perdure.types.errors import BadResponse, ModelError
from perdure.types.usage import Usage

E = TypeVar("E", bound=ModelError)


class Decoder(ABC):
    """Reads one answer; `names` are the tools' own names, by the names under which they were sent."""

    def __init__(self, provider: str, model: str, names: Mapping[str, str] | None = None) -> None:
        self._provider = provider
        self._model = model
        self._names = names or {}

    @abstractmethod
    def feed(self, chunk: Any) -> Iterable[ModelEvent]:
        """Read one piece, as plain JSON values or as the SDK gives it.

        Raises:
            ModelError: it says that something went wrong, or is no piece of an answer.
        """

    @abstractmethod
    def end(self) -> Iterable[ModelEvent]:
        """The provider's stream has ended: give what is left, `Finished` last.

        Raises:
            ModelUnreachable: the stream broke off before the answer was complete.
            ModelError: nothing of the answer can be used.
        """

    @abstractmethod
    def used(self) -> Usage:
        """Say what the answer has used so far, as far as the provider has said it."""

    def _wrong(self, kind: type[E], message: str) -> E:
        return kind(message, provider=self._provider, model=self._model)

    def _object(self, chunk: Any) -> dict[str, Any]:
        if not isinstance(chunk, dict):
            raise self._wrong(BadResponse, f"a piece of the stream is not an object: {str(chunk)[:200]}")
        return cast("dict[str, Any]", chunk)


def part(piece: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Take an object out of a piece; an empty one if there is none.

    Raises:
        ValueError: something else is there.
    """
    found: Any = piece.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{key} is not an object: {str(found)[:200]}")  # noqa: TRY004  # no caller passed a wrong type
    return cast("dict[str, Any]", found)
