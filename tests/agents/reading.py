"""A context of its own, and reading functions with it: for tests of signatures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from typing_extensions import TypedDict

from perdure.agents.signature import ArgumentsInvalid, Signature, read_signature

S = TypeVar("S")


class Context(Generic[S]):
    pass


class SpecialContext(Context[S]):
    pass


class Support:
    pass


def read(fn: Callable[..., Any], parameters: Any = None) -> Signature:
    return read_signature(fn, parameters=parameters, context_type=Context)


def run(fn: Callable[..., Any], arguments: Any, parameters: Any = None, ctx: Any = None) -> Any:
    signature = read(fn, parameters)
    return signature.call(fn, ctx, signature.bind(arguments))


def refusal(fn: Callable[..., Any], arguments: Any, parameters: Any = None) -> str:
    with pytest.raises(ArgumentsInvalid) as caught:
        read(fn, parameters).bind(arguments)
    return str(caught.value)


# -- types of parameters


@dataclasses.dataclass
class Span:
    since: date
    until: date | None = None


class Filter(TypedDict, total=False):
    limit: int


class Point(msgspec.Struct):
    x: int
    y: int = 0
