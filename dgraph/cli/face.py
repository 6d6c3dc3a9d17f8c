"""The human face: tables.

In: rows. Out: text on stdout. Promise: on a terminal rich tables; elsewhere plain lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        shown = Table(*columns, title=title, title_justify="left")
        for row in texts:
            shown.add_row(*row)
        Console().print(shown)
        return
    widths = [max(len(row[k]) for row in [list(columns), *texts]) for k in range(len(columns))]
    print(title)
    for row in [list(columns), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
