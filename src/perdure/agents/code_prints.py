"""The print of a function's own code: which steps it asks for, as they stand there, and a hash of what is run.

It is made of the compiled code, so that it is what runs here whatever has become of the source, and so that comments
and layout do not matter. It is a hint: what a function calls is not looked at, and what a run does is judged by what it
asks for.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator, Set
from types import CodeType
from typing import Any, cast

from perdure.durable.fingerprint import CODE, Prints, hashed

MOST = 300
"""The most characters of steps that are told; more are only told to have changed."""
_OF_STEP = frozenset(
    ("run", "infer", "sleep", "sleep_until", "send_event", "wait_for_event", "invoke", "transaction", "scope")
)
_NONE: Set[str] = frozenset()
_OF_CONTEXT = frozenset(("approve", "ask", "run", "transaction"))


def code_prints(fn: Any, context: bool) -> Prints:
    """Say what a function's code is; nothing if it has none that can be looked at.

    Args:
        fn: the function.
        context: whether its first parameter is the context.
    """
    inner = inspect.unwrap(fn)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    if not isinstance(code, CodeType):
        return {}
    at = 1 if code.co_varnames[:1] == ("self",) else 0
    steps = ", ".join(_steps(code, code.co_varnames[at] if context and len(code.co_varnames) > at else ""))
    told: Prints = {"steps": steps if len(steps) <= MOST else hashed(steps)} if steps else {}
    version = ".".join(str(one) for one in sys.version_info[:2])
    return {**told, CODE: f"{hashed(repr(_plain(code)))} {version}"}


def _steps(code: CodeType, context: str) -> Iterator[str]:
    """The steps that a code asks for, in the order in which they stand there."""
    methods: Set[str] = _NONE
    found = ""
    for one in dis.get_instructions(code):
        said: object = one.argval
        if isinstance(said, CodeType):
            yield from _steps(said, context)
        elif found:
            yield f"{found} {said}" if one.opname == "LOAD_CONST" and isinstance(said, str) else found
            found = ""
        elif one.opname.startswith("LOAD_"):
            found = str(said) if said in methods else ""
            methods = _OF_STEP if said == "step" else _OF_CONTEXT if context and said == context else _NONE


def _plain(value: object) -> object:
    """A code, or what is constant in it, as what is the same in every process."""
    if isinstance(value, CodeType):
        return [(one.opname, _plain(one.argval)) for one in dis.get_instructions(value)]
    if isinstance(value, frozenset):
        return sorted(repr(_plain(one)) for one in cast("frozenset[object]", value))
    if isinstance(value, tuple):
        return [_plain(one) for one in cast("tuple[object, ...]", value)]
    return value
