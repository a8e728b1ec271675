"""How many runs of a function may be active at once, and what tells them apart."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

from typing import Any

from perdure.types.base import Base, encode_json
from perdure.types.errors import DefinitionError
from perdure.types.ids import derive_id
from perdure.types.matching import MISSING, at


class Concurrency(Base):
    """At most `limit` runs of a function are active at once, in all processes together; a run that waits is not active.

    `key` is a dotted path into what the run is about, such as `data.user_id`: then so many for each value, and in each
    container.

    Raises:
        DefinitionError: the limit is no whole number above 0, or the key no path.
    """

    limit: int
    key: str | None = None

    def __post_init__(self) -> None:
        if type(self.limit) is not int or self.limit < 1:
            raise DefinitionError(f"Concurrency(limit={self.limit!r}) must be a whole number above 0.")
        if self.key is not None and (not isinstance(self.key, str) or not all(self.key.split("."))):
            raise DefinitionError(f"Concurrency(key={self.key!r}) must be a dotted path such as 'data.user_id'.")


def read_concurrency(value: int | Concurrency | None, where: str) -> Concurrency | None:
    """Read what was given as `concurrency=`."""
    if value is None or isinstance(value, Concurrency):
        return value
    if type(value) is int:
        return Concurrency(value)
    raise DefinitionError(f"{where}: concurrency= takes a number or Concurrency(limit, key=…), not {value!r}.")


def lane_of(function: str, key: str | None, container: str, given: Any) -> str:
    """Name the runs that share a limit: all of a function, or those of one container with the same value."""
    if key is None:
        return function
    places = (at(key, given), at(key, {"data": given}))
    found = next((one for one in places if one is not MISSING and one is not None), None)
    return derive_id("lane", function, container, encode_json(found).decode())
