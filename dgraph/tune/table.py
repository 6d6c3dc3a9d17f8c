"""What a search has found: one row a point, the best of them.

In: points and the outcomes of their trials. Out: `Table`: rows for people, plain values for programs. Promise: a point counts by
the mean over its seeds; one of which a trial failed has no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any

from dgraph.config import TuneConfig
from dgraph.config.plain import plain_value
from dgraph.data import SUBSETS
from dgraph.tune.trial import Outcome, Point


@dataclass(frozen=True)
class Row:
    """A point, its score (None: it has none), its figure of each subset as mean and deviation over seeds, and failures."""

    point: Point
    score: float | None
    figures: Mapping[str, tuple[float, float]]
    failures: tuple[str, ...]

    @staticmethod
    def of(point: Point, outcomes: Sequence[Outcome], tune: TuneConfig) -> Row:
        """The row of a point whose trials have come to these ends."""
        _, _, name = tune.metric.partition(".")
        figures = {}
        for subset in SUBSETS:
            found = [outcome.figure(f"{subset}.{name}") for outcome in outcomes]
            known = [value for value in found if value is not None and isfinite(value)]
            if known and len(known) == len(outcomes):
                figures[subset] = (fmean(known), stdev(known) if len(known) > 1 else 0.0)
        failures = tuple(outcome.failure for outcome in outcomes if outcome.failure)
        wanted = figures.get(tune.metric.partition(".")[0])
        return Row(point, None if wanted is None else wanted[0], figures, failures)

    def rank(self, mode: str) -> float:
        """What is least for the best row. There must be a score."""
        assert self.score is not None
        return self.score if mode == "min" else -self.score


@dataclass(frozen=True)
class Table:
    """The rows of a search, in the order of their numbers."""

    tune: TuneConfig
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        """The row that counts most; the first of equals. None if every point failed."""
        scored = [row for row in self.rows if row.score is not None]
        return min(scored, key=lambda row: row.rank(self.tune.mode), default=None)

    @property
    def logarithmic(self) -> tuple[str, ...]:
        """The paths whose ranges are logarithmic."""
        return tuple(path for path, kind in self.tune.keys.items() if kind.kind.startswith("log_"))

    @property
    def columns(self) -> list[str]:
        """The headings of `texts`."""
        figure = self.tune.metric.partition(".")[2]
        named = ["name"] if self.tune.cases else []
        return ["trial", *named, *self._paths, *(f"{subset} {figure}" for subset in SUBSETS), ""]

    @property
    def _paths(self) -> tuple[str, ...]:
        """What is shown of every row: of named cases the names say it."""
        return (*self.tune.keys, *self.tune.grid)

    def texts(self) -> list[list[str]]:
        """The rows as texts."""
        best = self.best
        return [self._texts(row, row is best) for row in self.rows]

    def _texts(self, row: Row, best: bool) -> list[str]:
        named = [row.point.name] if self.tune.cases else []
        values = [_text(row.point.values[path]) for path in self._paths]
        figures = [_mean(row.figures.get(subset), self.tune.seeds) for subset in SUBSETS]
        note = f"failed: {row.failures[0]}" if row.failures else "best" if best else ""
        return [str(row.point.number), *named, *values, *figures, note]

    def plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        best = self.best
        return {
            "metric": self.tune.metric,
            "mode": self.tune.mode,
            "trials": [_plain(row) for row in self.rows],
            "best": None if best is None else _plain(best),
        }


def _plain(row: Row) -> dict[str, Any]:
    values = plain_value(row.point.values)
    entry: dict[str, Any] = {"trial": row.point.number, "round": row.point.round + 1, "name": row.point.name}
    figures = {name: {"mean": mean, "deviation": spread} for name, (mean, spread) in row.figures.items()}
    return entry | {"values": values, "score": row.score, **figures, "failures": list(row.failures)}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(plain_value(value))


def _mean(figure: tuple[float, float] | None, seeds: int) -> str:
    if figure is None:
        return "-"
    return f"{figure[0]:.4f}" + (f" ± {figure[1]:.4f}" if seeds > 1 else "")
