"""Ids: made to sort by time, derived from a place, or given by the user and checked."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

import os
import re
import time

from perdure.types.errors import InvalidId

_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@|+=~-]{0,199}\Z")


def new_id(kind: str) -> str:
    """Make an id that sorts by the time it was made: `<kind>_<12 hex of milliseconds><16 hex random>`."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{random_hex()}"


_stock: list[str] = []


def random_hex() -> str:
    """Take 16 hex digits of the system's randomness, which is asked for many at a time."""
    try:
        return _stock.pop()
    except IndexError:
        digits = os.urandom(8 * 256).hex()
        _stock.extend(digits[at : at + 16] for at in range(16, len(digits), 16))
        return digits[:16]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stock.clear)  # a forked process must not give its parent's ids


def derive_id(kind: str, *parts: str) -> str:
    """Make the id that always belongs to the same parts, such as a run and a place in it."""
    from hashlib import blake2b  # loads OpenSSL, which takes milliseconds

    return f"{kind}_{blake2b(chr(0).join(parts).encode(), digest_size=14).hexdigest()}"


def check_id(value: str, what: str) -> str:
    """Return an id given by a user if its shape is allowed.

    Args:
        value: 1 to 200 characters: ASCII letters, digits and `_.:@|+=~-`, not starting with a sign other than `_`.
        what: what the id is for, for the error.

    Raises:
        InvalidId: the shape is not allowed.
    """
    if not isinstance(value, str) or not _ALLOWED.match(value):
        shown = repr(value if not isinstance(value, str) or len(value) <= 60 else value[:60] + "…")
        raise InvalidId(
            f"{what} {shown} is not allowed: use 1 to 200 ASCII letters, digits or _.:@|+=~- , "
            "starting with a letter, a digit or _."
        )
    return value
