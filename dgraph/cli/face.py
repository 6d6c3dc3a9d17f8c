"""The human face: tables.

In: rows. Out: text on stdout. Promise: on a terminal that is wide enough, rich tables; elsewhere plain lines. Nothing is cut off.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NARROWEST = 10
"""So wide is a column of words at least, if it has words of that length."""

WIDEST = 10_000
"""Wider than any table."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        console, shown = Console(), _rich_table(title, columns, texts)
        if console.measure(shown, options=console.options.update(max_width=WIDEST)).minimum <= console.width:
            console.print(shown)
            return
    widths = [max(len(row[k]) for row in [list(columns), *texts]) for k in range(len(columns))]
    print(title)
    for row in [list(columns), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(title: str, columns: Sequence[str], texts: Sequence[Sequence[str]]) -> Table:
    """Numbers to the right; words may be folded, numbers and dims are not."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, column in enumerate(columns):
        cells = [row[k] for row in texts if row[k]]
        numbers = all(cell[0].isdigit() for cell in cells)
        whole = numbers or all(cell[0] == "[" for cell in cells)
        side: Literal["right", "left"] = "right" if numbers else "left"
        least = min(NARROWEST, max(map(len, cells), default=0))
        shown.add_column(column.replace(" ", "\n"), justify=side, overflow="fold", no_wrap=whole, min_width=least)
    for row in texts:
        shown.add_row(*row)
    return shown
