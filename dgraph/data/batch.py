"""Which samples make a batch, and the part of a batch that a rank needs.

In: the numbers of a source, a seed, epoch and step. Out: global indices of samples; values and labels in arrays that are there
already. Promise: indices are a function of (seed, epoch, step) alone, the same on every rank, without a word between ranks. A
rank reads only what its rect needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from dgraph.block import blocks
from dgraph.data.spec import SUBSETS, Array, DataSpec, Description, Source
from dgraph.error import ConfigError
from dgraph.random import permutation
from dgraph.rect import Rect
from dgraph.spare import lent

MISSING = -1
"""The index of a sample that a last, partial batch lacks, and its class numbers; its real targets are NaN, its values 0."""
BITE, SAMPLES = 1 << 20, 512
"""How many elements, and samples, are read at a time at most."""
Read = Callable[[Array, Rect], Array]


@dataclass(frozen=True, eq=False)
class Batch:
    """Which samples a step takes: global indices (int64 [batch], -1: none), and the epoch of training (None: evaluation)."""

    indices: Array
    epoch: int | None

    @property
    def training(self) -> bool:
        """Whether it is one of training."""
        return self.epoch is not None

    def same(self, other: Batch) -> bool:
        """Whether both give the same values."""
        return self.epoch == other.epoch and np.array_equal(self.indices, other.indices)


def missing_label(classes: int | None) -> float:
    """What stands where there is no label."""
    return np.nan if classes is None else MISSING


def subset(spec: DataSpec, known: Description, name: str) -> Array:
    """Indices (int64, ascending) of the samples of train, validation or test.

    The three are disjoint. A subset with files of its own (`spec.sets`) has their samples; the others are cut from one
    permutation of all samples that are left, each with its share, rounded.
    Raises ConfigError for shares that are negative or sum to more than 1, ValueError for another name.
    """
    if min(spec.shares) < 0 or sum(spec.shares) > 1 + 1e-9:
        raise ConfigError(f"shares {list(spec.shares)} do not fit", "none is negative, their sum is at most 1")
    place = SUBSETS.index(name)
    shared = known.samples - sum(known.own)
    if name in spec.sets:
        first = shared + sum(known.own[: place - 1])
        return np.arange(first, first + known.own[place - 1])
    first, last = (min(shared, round(shared * sum(spec.shares[:n]))) for n in (place, place + 1))
    return np.sort(permutation(spec.seed, "data subset", 0, shared)[first:last])


class Batches:
    """The batches of an epoch over some samples; the last one may be partial.

    `indices` (int64) are those of the samples, `batch` (>= 1) is how many a step takes, `shuffle` gives every epoch an order of
    its own.
    """

    def __init__(self, indices: Array, batch: int, shuffle: bool, seed: int) -> None:
        self._chosen, self._batch, self._shuffle, self._seed = indices, batch, shuffle, seed
        self._epoch = -1
        self._order = indices

    @property
    def samples(self) -> int:
        """How many samples an epoch has."""
        return len(self._chosen)

    @property
    def steps(self) -> int:
        """How many batches an epoch has, the partial one included."""
        return -(-self.samples // self._batch)

    def indices(self, epoch: int, step: int) -> Array:
        """The samples of a step (from 0) of an epoch (from 0), int64 [batch]; -1 for those that a partial batch lacks.

        The order of the last epoch asked for is kept. Raises ValueError for a step that the epoch does not have.
        """
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} of {self.steps}")
        if self._shuffle and epoch != self._epoch:
            self._order = self._chosen[permutation(self._seed, "batch order", epoch, self.samples)]
            self._epoch = epoch
        chosen = self._order[step * self._batch : (step + 1) * self._batch]
        return np.pad(chosen, (0, self._batch - len(chosen)), constant_values=MISSING)

    def pairs(self) -> Iterator[tuple[Array, Array | None]]:
        """The samples of each step of the first epoch, and those of the step after it, None after the last."""
        for step in range(self.steps):
            yield self.indices(0, step), self.indices(0, step + 1) if step + 1 < self.steps else None


def there(indices: Array) -> int:
    """How many samples of a batch are there; the others are behind them."""
    return int(np.count_nonzero(indices != MISSING))


def fill(source: Source, indices: Array, raw: tuple[Array, Rect] | None, labels: tuple[Array, Rect] | None) -> None:
    """Write a rank's part of the batch of these samples (int64 [batch], -1: none) into its arrays, of any strides.

    `raw` is an array and its rect [n, c, spatial...] of the batch's values, `labels` an array and its rect [n, ...] of its labels;
    each array has exactly its rect's shape. Reads only what the rects need, some megabytes at a time. A sample that is not
    there gets zeros, and as labels -1 for class numbers and NaN for real targets. Raises DataError if the source cannot be
    read.
    """
    if raw is not None and raw[1]:
        _fill(source.read, source.shape, 0.0, indices, *raw)
    if labels is not None and labels[1]:
        _fill(source.labels, source.label_shape, missing_label(source.classes), indices, *labels)


def _fill(read: Read, shape: tuple[int, ...], missing: float, indices: Array, out: Array, rect: Rect) -> None:
    """Write what `read` gives of the samples, some at a time, and `missing` for those that are not there."""
    _check(out, rect, (len(indices), *shape))
    sample = Rect(rect.start[1:], rect.size[1:])
    for block in blocks(rect.size[:1], max(1, min(SAMPLES, BITE // prod(sample.size)))):
        chosen = indices[block.shift(rect.start[:1]).slices()]
        part = out[block.slices()]
        there = chosen != MISSING
        with lent():
            if there.all():
                part[...] = read(chosen, sample)
            else:
                part[...] = missing
                part[there] = read(chosen[there], sample)


def _check(out: Array, rect: Rect, dim: tuple[int, ...]) -> None:
    if out.shape != rect.size or len(dim) != rect.ndim or rect not in Rect.whole(dim):
        raise ValueError(f"{rect} of a batch {dim} does not fit an array of {out.shape}")
