"""Sums over the blocks of one run, and how they leave it.

In: blocks of terms. Out: numbers in an array. Promise: sums are float64, counts are exact: in float32 as two numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dgraph.kernels.call import Array, Moment
from dgraph.ops.metric import UNIT


@dataclass
class Tally:
    """What the blocks of one run add up: `sums` and `counts`, in the order of the metrics."""

    sums: list[float] = field(default_factory=lambda: [0.0])
    counts: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Start again."""
        self.sums[:] = [0.0] * len(self.sums)
        self.counts[:] = [0] * len(self.counts)

    def add(self, values: Array, wide: Array, at: int = 0) -> None:
        """Adds the elements of a block to a sum; `wide` is a float64 block to work in."""
        np.copyto(wide, values)
        self.sums[at] += float(np.add.reduce(wide, axis=None))

    def count(self, mask: Array, at: int) -> None:
        """Adds the number of elements that are True to a count."""
        self.counts[at] += int(np.count_nonzero(mask))


def deliver_sum(tally: Tally, scale: float, moment: Moment, output: Array, accumulate: bool) -> None:
    """The only element of `output` gets the first sum, scaled for the samples that are there, or it is added there."""
    output[...] = tally.sums[0] * scale * moment.weight + (float(output.flat[0]) if accumulate else 0.0)


def deliver_metrics(tally: Tally, output: Array, accumulate: bool) -> None:
    """`output[m, 0 ...]` gets the sums, then the counts; where it has room for them, counts in two parts each."""
    counts: Sequence[int] = tally.counts
    if len(output) > len(tally.sums) + len(counts):
        counts = [*(n % UNIT for n in counts), *(n // UNIT for n in counts)]
    for row, value in zip(np.split(output, len(output)), (*tally.sums, *counts), strict=True):
        row[...] = value + (float(row.flat[0]) if accumulate else 0.0)
