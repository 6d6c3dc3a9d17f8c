"""Where values come from: ranges and choices, drawn at random, narrowed around what was best.

In: the section `tune`, points with their scores. Out: points. Promise: the random numbers are a function of (seed, path, number of
the point) alone; which part of a range they fall in follows from the scores of the rounds before.

Values at random find better ones than a grid does in as many trials, for few of many keys matter (Bergstra and Bengio 2012).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, exp, log
from types import MappingProxyType
from typing import Any

import numpy as np

from dgraph.config import Choice, TuneConfig
from dgraph.random.stream import Stream
from dgraph.tune.trial import Point

SHARE = 4
"""A choice keeps the values of the best points, one in so many."""
Scored = Sequence[tuple[Point, float]]
"""Points and their scores, the best first."""


@dataclass(frozen=True)
class Scale:
    """A range as an interval in which values are drawn evenly."""

    low: float
    high: float
    logarithmic: bool
    whole: bool

    @staticmethod
    def of(kind: str, ends: Sequence[float]) -> Scale:
        """The scale of a kind of range; whole numbers have half a unit on either side."""
        logarithmic, whole = kind.startswith("log_"), kind.endswith("integer")
        low, high = (ends[0] - 0.5, ends[1] + 0.5) if whole else (ends[0], ends[1])
        return Scale(log(low) if logarithmic else low, log(high) if logarithmic else high, logarithmic, whole)

    def around(self, value: float, width: float) -> Scale:
        """A part of it of this share of its width, the value in the middle if there is room."""
        middle, half = log(value) if self.logarithmic else value, width * (self.high - self.low) / 2
        low = min(max(middle - half, self.low), self.high - 2 * half)
        return Scale(low, low + 2 * half, self.logarithmic, self.whole)

    def at(self, share: float) -> float | int:
        """The value so far along the interval (0 to 1)."""
        place = self.low + share * (self.high - self.low)
        value = exp(place) if self.logarithmic else place
        return round(value) if self.whole else value


def rounds_of(tune: TuneConfig) -> list[range]:
    """The numbers of the points of each round; the first rounds have one more where they do not come out even."""
    if tune.trials is None:
        return [range(len(table(tune)))]
    shares = np.array_split(np.arange(tune.trials), tune.rounds)
    return [range(int(share[0]), int(share[-1]) + 1) for share in shares]


def points_of(tune: TuneConfig, number: int, scored: Scored) -> list[Point]:
    """The points of a round (from 0), from what those of the rounds before scored."""
    numbers = rounds_of(tune)[number]
    if not tune.keys:
        return table(tune)
    width = tune.narrow**number
    return [
        Point(n, number, "", MappingProxyType({path: _draw(tune, path, n, width, scored) for path in tune.keys}))
        for n in numbers
    ]


def _draw(tune: TuneConfig, path: str, number: int, width: float, scored: Scored) -> Any:
    words = Stream(tune.seed, f"tune {path}", number).words(np.zeros(1, np.int64))
    share = (int(words[0, 0]) + 0.5) / 2**32
    kind, values = tune.keys[path].kind, tune.keys[path].options["values"]
    if kind == "choice":
        good = [point.values[path] for point, _ in scored[: ceil(len(scored) / SHARE)]]
        kept = [value for value in values if value in good] or list(values)
        return kept[int(share * len(kept))]
    scale = Scale.of(kind, values)
    found = (scale.around(scored[0][0].values[path], width) if scored else scale).at(share)
    return min(max(found, values[0]), values[1])


def table(tune: TuneConfig) -> list[Point]:
    """The rows of a table: every case with every combination of the grid, the last key the fastest."""
    cases = dict(tune.cases) or {"": MappingProxyType({})}
    points: list[Point] = []
    for (name, case), *picked in product(cases.items(), *tune.grid.values()):
        values = {**case, **dict(zip(tune.grid, picked, strict=True))}
        points.append(Point(len(points), 0, name, MappingProxyType(values)))
    return points


def extremes(kind: Choice) -> tuple[Any, ...]:
    """The values of a key that stand for all: both ends of a range, every choice."""
    values: tuple[Any, ...] = kind.options["values"]
    return values


def sampled(tune: TuneConfig) -> Mapping[str, tuple[Any, ...]]:
    """By path, values that must fit the config, each by itself."""
    drawn = {path: extremes(kind) for path, kind in tune.keys.items()}
    return MappingProxyType({**drawn, **tune.grid})
