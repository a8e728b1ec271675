"""Rows in columns, as wide as they must be; only the last one is cut to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len

from perdure.cli.paint import Painter, shorten

_GAP = "  "
_LEAST = 24


class Cell(NamedTuple):
    """A text, how it looks, and whether it stands at the right of its column."""

    text: str
    style: str = ""
    right: bool = False


def table(painter: Painter, heads: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Write rows in columns below their heads."""
    cells = [[one if isinstance(one, Cell) else Cell(one) for one in row] for row in rows]
    columns = list(zip(*cells, strict=True)) or [() for _ in heads]
    sizes = [
        max(cell_len(head), *(cell_len(one.text) for one in some), 0) for head, some in zip(heads, columns, strict=True)
    ]
    used = sum(sizes[:-1]) + len(_GAP) * (len(sizes) - 1)
    last = max(_LEAST, min(painter.width, 200) - 1 - used)
    aligned = [any(one.right for one in some) for some in columns]
    header = [Cell(head, "dim", right) for head, right in zip(heads, aligned, strict=True)]
    for row in ([header] if any(heads) else []) + cells:
        for n, one in enumerate(row):
            end = n == len(row) - 1
            text = shorten(one.text, last) if end else one.text
            space = " " * (sizes[n] - cell_len(text))
            painter.write(f"{space}{text}" if one.right else text if end else f"{text}{space}", one.style)
            painter.write("" if end else _GAP, end="\n" if end else "")
