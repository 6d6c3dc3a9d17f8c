"""How the numbers of steps are fitted: what one rank does with its share of the features.

In: batches of samples, one after the other. Out: what was fitted. Promise: no more than one batch is held; all is in double
precision; a feature's numbers do not depend on how features are shared out, those of several features (of a channel, components)
by rounding alone.

Means and squared deviations of batches are put together as by Chan, Golub and LeVeque (1983, eq. 2.1). Principal components are
those of a subspace that takes in one batch after the other (Levy and Lindenbaum 2000, algorithm 1; Ross, Lim, Lin and Yang 2008,
fig. 1): rows that stand for all samples so far, and those of the next batch

    R = | sqrt(e_i) v_i               l rows, l > k: directions that a batch may still bring forward
        | x - mean of the batch       its rows
        | sqrt(n m / (n + m)) d       d: from one mean to the other; n, m: how many samples they are of

have R^T R for the scatter of all of them; with R R^T = U E U^T, the first l rows of U^T R stand for them from now on. R R^T is a
sum over features, so that ranks that have some features each add up theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Protocol

import numpy as np

from dgraph.block import blocks
from dgraph.data.prepare import BITE, Elementwise, Fitted, MinMax, Part, Pca, Standardize, Step
from dgraph.data.spec import Array
from dgraph.random import normal
from dgraph.rect import Rect

SPARE, FEWEST = 4, 256
"""Directions that are kept: so many times those that are wanted, at least so many."""
NO_VARIANCE = 1e-12
"""Directions with no more than this share of the largest variance have none but that of rounding."""


class Team(Protocol):
    """What ranks do together. All of it is collective."""

    def total(self, array: Array) -> None:
        """The sum over ranks, in place."""

    def everyone(self, array: Array) -> Array:
        """The arrays of all ranks, one after the other."""

    def first(self, make: Callable[[], Array]) -> Array:
        """What rank 0 makes, for all; float64 of one dimension."""


class Fitter(Protocol):
    """Takes in batches: they are put into `room` [batch, *size of the rank's rect], and counted."""

    room: Array

    def add(self, count: int, team: Team) -> None:
        """Takes in the first `count` rows of `room`, and may change them."""

    def finish(self, team: Team) -> Fitted:
        """What was fitted, from all that was taken in: of this rank's rect, or all of it."""


def fitter_of(step: Step, rect: Rect, batch: int) -> Fitter:
    """The fitter of a step on this rank's rect of its samples."""
    match step:
        case Pca():
            return Subspace(step, rect, batch)
        case Standardize():
            return Moments(step, rect, batch)
        case MinMax():
            return Extremes(step, rect, batch)
    raise ValueError(f"no step {step}")


class _Elements:
    """What fitters of single elements have in common."""

    def __init__(self, step: Elementwise, rect: Rect, batch: int) -> None:
        self.room: Array = np.empty((batch, *rect.size))
        self._step, self._place = step, step.place(rect)
        spread = range(1, self.room.ndim) if step.by_channel else ()
        self._axes = (0, *(axis for axis in spread if axis > 1))

    def _bites(self, count: int) -> list[Array]:
        """Some rows at a time."""
        rows = max(1, BITE // max(1, prod(self.room.shape[1:])))
        return [self.room[a : min(a + rows, count)] for a in range(0, count if self._place else 0, rows)]

    def _spread(self, values: Array) -> Array:
        """Of all channels, from those of this rank's rect; NaN for others."""
        whole: Array = np.full(self._step.dim, np.nan)
        whole[self._place.slices()] = values
        return whole

    def _parts(self, **values: Array) -> Fitted:
        rect = Rect.whole(self._step.dim) if self._step.by_channel else self._place
        return {name: Part(rect, array) for name, array in values.items()}


class Moments(_Elements):
    """Mean and deviation."""

    def __init__(self, step: Elementwise, rect: Rect, batch: int) -> None:
        super().__init__(step, rect, batch)
        self._count = 0.0
        self._mean, self._squares = np.zeros(self._place.size), np.zeros(self._place.size)

    def add(self, count: int, team: Team) -> None:
        """As `Fitter.add`."""
        for bite in self._bites(count):
            mean = bite.mean(self._axes, keepdims=True)
            squares = np.square(bite - mean).sum(self._axes).reshape(self._place.size)
            number = float(bite.size // max(1, self._place.volume))
            self._mean, self._squares = _merged(
                self._count, self._mean, self._squares, number, mean.reshape(self._place.size), squares
            )
            self._count += number

    def finish(self, team: Team) -> Fitted:
        """As `Fitter.finish`."""
        if self._step.by_channel:
            self._over_ranks(team)
        deviation = np.sqrt(self._squares / np.maximum(self._count, 1.0))
        # What rounding alone makes of values that are all the same (Chan, Golub and LeVeque 1983, section 3).
        rounding = self._count * np.finfo(np.float64).eps * np.abs(self._mean)
        deviation[deviation <= rounding] = 0.0
        return self._parts(mean=self._mean, deviation=deviation)

    def _over_ranks(self, team: Team) -> None:
        count = np.full(self._place.size, self._count)
        shares = team.everyone(np.stack([self._spread(one) for one in (count, self._mean, self._squares)]))
        total, mean, squares = np.zeros((3, *self._step.dim))
        for number, other, deviations in shares:
            there = ~np.isnan(number)
            mean[there], squares[there] = _merged(
                total[there], mean[there], squares[there], number[there], other[there], deviations[there]
            )
            total[there] += number[there]
        self._count, self._mean, self._squares = float(total.flat[0]), mean, squares


def _merged(n: Array | float, mean: Array, squares: Array, m: Array | float, other: Array, deviations: Array
            ) -> tuple[Array, Array]:  # fmt: skip
    """Mean and squared deviations of n and m values together."""
    apart = other - mean
    share = m / (n + m)
    return mean + apart * share, squares + deviations + apart * apart * n * share


class Extremes(_Elements):
    """Minimum and maximum."""

    def __init__(self, step: Elementwise, rect: Rect, batch: int) -> None:
        super().__init__(step, rect, batch)
        self._minimum, self._maximum = np.full(self._place.size, np.inf), np.full(self._place.size, -np.inf)

    def add(self, count: int, team: Team) -> None:
        """As `Fitter.add`."""
        for bite in self._bites(count):
            low, high = (find(bite, self._axes).reshape(self._place.size) for find in (np.min, np.max))
            np.minimum(self._minimum, low, out=self._minimum)
            np.maximum(self._maximum, high, out=self._maximum)

    def finish(self, team: Team) -> Fitted:
        """As `Fitter.finish`."""
        if not self._step.by_channel:
            return self._parts(minimum=self._minimum, maximum=self._maximum)
        shares = team.everyone(np.stack([self._spread(self._minimum), self._spread(self._maximum)]))
        return self._parts(minimum=np.nanmin(shares[:, 0], axis=0), maximum=np.nanmax(shares[:, 1], axis=0))


class Subspace:
    """Principal components."""

    def __init__(self, step: Pca, rect: Rect, batch: int) -> None:
        self._step, self._rect = step, rect
        self._kept = min(prod(step.shape), max(SPARE * step.components, FEWEST))
        self._rows: Array = np.zeros((self._kept + batch + 1, rect.volume))
        self.room = self._rows[self._kept : -1].reshape(batch, *rect.size)
        self._count, self._mean = 0, np.zeros(rect.volume)
        self._scatter = np.zeros(self._kept)

    def add(self, count: int, team: Team) -> None:
        """As `Fitter.add`."""
        used = self._rows[: self._kept + count + 1]
        batch = used[self._kept : -1]
        apart = batch.mean(0) - self._mean
        batch -= self._mean + apart
        share = count / (self._count + count)
        np.multiply(apart, -np.sqrt(self._count * share), out=used[-1])
        self._mean += apart * share
        self._count += count
        self._turn(used, team)

    def _turn(self, used: Array, team: Team) -> None:
        """Puts the rows that stand for all others in front."""
        products = used @ used.T
        team.total(products)
        made = team.first(lambda: _eigen(products, self._kept)).reshape(1 + len(used), self._kept)
        self._scatter, turn = made[0], np.ascontiguousarray(made[1:].T)
        for columns in blocks((used.shape[1],), max(1, BITE // len(used))):
            (place,) = columns.slices()
            used[: self._kept, place] = turn @ used[:, place]

    def finish(self, team: Team) -> Fitted:
        """As `Fitter.finish`. The sign of a component is that of its product with a vector that is the same on any mesh; one of no
        variance is zero."""
        wanted = self._step.components
        row = Rect.of([(0, 1), *self._rect.bounds])
        vector = normal(0, "sign of a component", 0, (1, *self._step.shape), row, dtype="float64").ravel()
        products = np.append(self._rows[:wanted] @ vector, self._mean @ self._mean)
        team.total(products)
        scatter = self._scatter[:wanted].copy()
        # What rounding makes of values that are all the same: as in `Moments`, for all features together.
        rounding = self._count**3 * np.finfo(np.float64).eps ** 2 * products[-1]
        scatter[scatter <= max(NO_VARIANCE * scatter[0], rounding)] = 0.0
        length = np.sqrt(np.where(scatter > 0, scatter, np.inf)) * np.where(products[:-1] < 0, -1.0, 1.0)
        components = self._rows[:wanted] / length[:, None]
        over = Rect.of([(0, wanted), *self._rect.bounds])
        return {
            "mean": Part(self._rect, self._mean.reshape(self._rect.size)),
            "components": Part(over, components.reshape(over.size)),
            "variance": Part(Rect.whole((wanted,)), scatter / max(1, self._count - 1)),
        }


def _eigen(products: Array, kept: int) -> Array:
    """The largest eigenvalues of a symmetric matrix, and behind them the rows of their vectors; the largest first."""
    values, vectors = np.linalg.eigh(products)
    return np.vstack([np.maximum(values, 0.0), vectors])[:, : -kept - 1 : -1].ravel()
