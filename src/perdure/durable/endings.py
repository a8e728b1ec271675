"""How driving a run ends other than with a result, and how an error is kept."""

from __future__ import annotations

from perdure.types.base import sound
from perdure.types.records import ErrorInfo


class Left(BaseException):
    """The driver leaves a run as it is; no `Exception`, so that no handler takes it for a failure of a step."""


class Parked(BaseException):
    """A run cannot go on until a person has looked at it; no `Exception`, so that no handler takes it for a failure."""


def describe(error: BaseException, where: str = "") -> ErrorInfo:
    """Write an exception as it is kept and shown: no stack, its notes left out."""
    return ErrorInfo(type(error).__name__, sound(str(error)) or type(error).__name__, where)
