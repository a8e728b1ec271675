"""Breaking the code on purpose, to see that the suite notices."""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def mutated(owner: Any, name: str, old: str, new: str) -> Iterator[None]:
    """Change one place in the source of a method while the block runs.

    Args:
        owner: the class that has it.
        name: the method.
        old: the text to be replaced, which must be there once: a mutation that no longer fits the code is an error.
        new: what takes its place.
    """
    function = owner.__dict__[name]
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{owner.__name__}.{name} has {old!r} {source.count(old)} times; mend the mutation"
    module = sys.modules[function.__module__]
    made: dict[str, Any] = {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(old, new), f"<mutated {name}>", "exec"),
        module.__dict__,
        made,
    )
    setattr(owner, name, made[name])
    try:
        yield
    finally:
        setattr(owner, name, function)
