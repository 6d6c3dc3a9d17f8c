"""The table of all cases in the docs.

In: rows, as JSON has them. Out: `docs/speed.md`, between two markers. Promise: rows that were not measured this time stay as they
are; every other line of the page does, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
BEGIN, END = "<!-- table -->", "<!-- end -->"
HEAD = "| case | kernels | ours | theirs | ratio | goal | met |"
RULE = "| --- | --- | --- | --- | --- | --- | --- |"
Key = tuple[str, str]
"""A case and the backend whose kernels it ran on."""


def text_of(row: Mapping[str, Any]) -> str:
    """A line of the table."""
    backend = str(row.get("backend", ""))
    if "skipped" in row:
        return f"| {row['case']} | {backend} | {row['skipped']} | | | | |"
    unit = next(name.removeprefix("ours_") for name in row if name.startswith("ours_"))
    sides = (_amount(row[f"{side}_{unit}"], unit) for side in ("ours", "theirs"))
    goal = "" if row["goal"] is None else f"{'≥' if row.get('least') else '≤'} {row['goal']:g}"
    met = {None: "", True: "yes", False: "**no**"}[row["met"]]
    return f"| {row['case']} | {backend} | {' | '.join(sides)} | {row['ratio']:.2f} | {goal} | {met} |"


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB"
    if unit == "seconds":
        return f"{value * 1e6:,.1f} µs" if value < 1e-3 else f"{value * 1e3:,.1f} ms"
    return f"{value:,.4g} {unit}"


def updated(page: str, rows: Iterable[Mapping[str, Any]], families: Sequence[str]) -> str:
    """The page with these rows; rows of a family stay together, in the order of `families`. Raises ValueError without markers."""
    before, found, rest = page.partition(BEGIN)
    inside, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    lines = {_key(line): line for line in inside.splitlines() if line.startswith("| ") and line not in (HEAD, RULE)}
    lines |= {_key(line): line for line in map(text_of, rows)}
    ordered = sorted(lines, key=lambda key: families.index(key[0].partition(".")[0]))
    return "\n".join([before + BEGIN, HEAD, RULE, *(lines[key] for key in ordered), END + after])


def _key(line: str) -> Key:
    case, backend = (cell.strip() for cell in line.split("|")[1:3])
    return case, backend


def write_table(rows: Iterable[Mapping[str, Any]], families: Sequence[str], page: Path = PAGE) -> None:
    """Brings the page up to date."""
    page.write_text(updated(page.read_text(), rows, families))
