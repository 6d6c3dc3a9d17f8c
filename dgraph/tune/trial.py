"""What is tried, and what came of it.

In: values by dotted path. Out: `Point`, `Trial`, `Outcome`. Promise: a trial is an ordinary run of the same config with `--set`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgraph.config.plain import plain_value


@dataclass(frozen=True)
class Point:
    """Values by dotted path, the number of the point (from 0) and of its round (from 0), and the name of its row."""

    number: int
    round: int
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run of a point: with the seed `seed`, its repetition `repeat` (from 0). `label` names its folder."""

    point: Point
    repeat: int
    seed: int
    label: str

    def overrides(self) -> tuple[str, ...]:
        """The values as `--set` takes them (JSON is YAML); a trial does not search."""
        given = {**self.point.values, "seed": self.seed, "tune": None}
        return tuple(f"{path}={json.dumps(plain_value(value))}" for path, value in given.items())

    def plain(self) -> dict[str, Any]:
        """What was tried, as plain values."""
        return {"point": self.point.number, "seed": self.seed, "values": plain_value(self.point.values)}


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: the result of the training, or why it failed."""

    result: Mapping[str, Any] | None
    failure: str | None

    def figure(self, metric: str) -> float | None:
        """A figure such as validation.rmse; None where the trial failed or has no such samples."""
        subset, _, name = metric.partition(".")
        found = ((self.result or {}).get(subset) or {}).get(name)
        return None if found is None else float(found)
