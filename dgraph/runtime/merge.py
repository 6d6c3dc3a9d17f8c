"""Moments of a whole from those of its parts: see `dgraph.plan.merge`.

In: the mean and variance of every rank, in the order of the ranks. Out: actions. Promise: made in float64 and in that order, so
that all ranks have the same bits, whatever way they came; a rank without elements has no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgraph.kernels.call import Action, Array, Moment
from dgraph.plan.transfer import Merge
from dgraph.runtime.sum import bind_sum

Pair = tuple[Array, Array]
"""A mean and a variance."""


def bind_merge(merge: Merge, out: Pair, terms: Sequence[Pair], moment: Moment) -> list[Action]:
    """Actions that set `out` to the mean and variance of all elements, from the pairs of all ranks, arrays of one shape. In an
    evaluation by running values, which one rank gives and the others leave at 0, to their sums."""
    train = _Merging(merge, out, terms, moment)
    if not merge.running:
        return [train.run]
    plain = [action for k, total in enumerate(out) for action in bind_sum(total, [term[k] for term in terms])]

    def act() -> None:
        for action in (train.run,) if moment.training else plain:
            action()

    return [act]


class _Merging:
    """What merges, and the room that it takes."""

    def __init__(self, merge: Merge, out: Pair, terms: Sequence[Pair], moment: Moment) -> None:
        self._merge, self._out, self._terms, self._moment = merge, out, terms, moment
        self._parts, self._total = np.empty((2, len(terms), *out[0].shape)), np.empty((2, *out[0].shape))
        self._room = np.empty_like(self._total[0])
        self._shares: dict[int, list[float]] = {}

    def run(self) -> None:
        """Merges what the terms hold."""
        (means, variances), (mean, variance), shares = self._parts, self._total, self._known()
        for k, (one, other) in enumerate(self._terms):
            means[k], variances[k] = one, other
        self._weighted(means, shares, mean)
        means -= mean
        means *= means
        variances += means
        self._weighted(variances, shares, variance)
        for out, total in zip(self._out, self._total, strict=True):
            np.copyto(out, total, casting="same_kind")

    def _weighted(self, values: Array, shares: Sequence[float], out: Array) -> None:
        """The sum of the ranks' values, each times its share, rank by rank."""
        np.multiply(values[0], shares[0], out=out)
        for value, share in zip(values[1:], shares[1:], strict=True):
            out += np.multiply(value, share, out=self._room)

    def _known(self) -> Sequence[float]:
        """Which share of the elements each rank has; by the number of rows that are there, of which there are few."""
        rows = self._merge.access.dims["input"][0] * self._moment.samples // self._moment.batch
        if rows not in self._shares:
            counts = self._merge.elements(rows)
            self._shares[rows] = [count / sum(counts) for count in counts]
        return self._shares[rows]
