"""What all cases have in common: what is asked for, medians, ratios pair by pair, one JSON line a row.

In: seconds of two sides that were measured in turn. Out: rows. Promise: the ratio of a row is the median of the ratios of its
pairs, so that what slows the machine for a while slows both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

CONFIGS = Path(__file__).parent.parent / "configs"
PAIRS, QUICK_PAIRS = 7, 3
SECONDS = 3.0
"""Short sides are measured in more pairs than wanted, until so much time is spent."""


@dataclass(frozen=True)
class Options:
    """What was asked for. `only`: cases by name, or by the beginnings of their names; none: all of them."""

    only: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("numpy",)
    pairs: int = PAIRS
    seconds: float = SECONDS
    overrides: tuple[str, ...] = ()
    """Of the config of a case, for trying things out."""
    steps: int | None = None

    def wants(self, case: str) -> bool:
        """Whether a case, such as `eager.lenet5`, is to be measured."""
        return not self.only or any(f"{case}.".startswith(f"{name}.") for name in self.only)


@dataclass(frozen=True)
class Row:
    """A case; `ours` and `theirs` are of a `unit`. A `goal` is the most that the ratio may be, or with `least` the least that it
    has to be; None: it is met with others, in a row of their mean."""

    case: str
    ours: float
    theirs: float
    ratio: float
    goal: float | None = None
    least: bool = False
    unit: str = "seconds"
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio >= self.goal if self.least else self.ratio <= self.goal

    def line(self) -> str:
        """One JSON object."""
        values = {
            "case": self.case,
            f"ours_{self.unit}": self.ours,
            f"theirs_{self.unit}": self.theirs,
            "ratio": round(self.ratio, 4),
            "goal": self.goal,
            "met": self.met,
        }
        return json.dumps({**values, **({"least": True} if self.least else {}), **self.more})


@dataclass(frozen=True)
class Skipped:
    """A case that cannot be measured here, and why."""

    case: str
    why: str

    def line(self) -> str:
        """One JSON object."""
        return json.dumps({"case": self.case, "skipped": self.why})


def missing(package: str) -> str:
    """Why a case that needs a package cannot be measured; empty where it can."""
    return "" if find_spec(package) else f"{package} is not installed (pip install '.[bench]')"


def row_of(case: str, rounds: Sequence[Sequence[float]], goal: float | None, more: Mapping[str, Any]) -> Row:
    """The row of rounds of (our seconds, their seconds)."""
    ours, theirs = (median(side) for side in zip(*rounds, strict=True))
    ratio = median(mine / other for mine, other in rounds)
    return Row(case, ours, theirs, ratio, goal, more=more)


def geometric_mean(case: str, rows: Iterable[Row], goal: float | None, more: Mapping[str, Any] | None = None) -> Row:
    """The mean of the ratios of some rows; its seconds are means, too."""

    def mean(values: Iterable[float]) -> float:
        logs = [log(value) for value in values]
        return exp(sum(logs) / len(logs))

    rows = list(rows)
    seconds = mean(row.ours for row in rows), mean(row.theirs for row in rows)
    return Row(case, *seconds, mean(row.ratio for row in rows), goal, more={"rows": len(rows), **(more or {})})
