"""A page of what a command lists, and JSON for machines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from perdure.cli.paint import Painter
from perdure.types.base import plain

T = TypeVar("T")


def print_json(value: Any) -> int:
    """Print a value for machines."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
    sys.stdout.flush()
    return 0


def show_page(
    given: argparse.Namespace,
    painter: Painter,
    name: str,
    found: Sequence[T],
    id_of: Callable[[T], str],
    show: Callable[[Sequence[T]], None],
    none: str,
) -> int:
    """Show as many rows as were asked for, and how to get the next ones.

    Args:
        given: what was asked for: `limit` and `json`.
        painter: where to.
        name: what the rows are.
        found: the rows, one more than was asked for if there are more.
        id_of: gives a row's id.
        show: writes rows for people.
        none: what is written if there are none.
    """
    shown = found[: given.limit]
    following = id_of(shown[-1]) if len(found) > given.limit else None
    if given.json:
        return print_json({name: [plain(one) for one in shown], "next": following})
    if shown:
        show(shown)
    else:
        painter.line(none)
    if following is not None:
        painter.line(f"The next ones: --after {following}", "dim")
    return 0
