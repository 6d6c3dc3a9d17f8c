"""Samples made of random numbers, with labels that can be learned from them.

In: shapes, a number of samples, a seed. Out: sources. Promise: every value and label is a function of the seed and its
global index, so that any rect of it can be made alone.

    labels                                what they are
    one class number a sample             the sample is a pattern of its class, and noise
    real targets, [K] a sample            the sample is a sum of K patterns, each times its target, and noise
    anything for every place              functions of the sample's value at that place
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from statistics import NormalDist

import numpy as np

from dgraph.data.spec import Array, Description, Source
from dgraph.random import fill_normal, fill_uniform
from dgraph.rect import Rect
from dgraph.spare import empty

NOISE = 0.1
"""The deviation of the noise in samples with real targets."""
BITE = 512
"""Labels of places that are found at a time."""
ERROR = 0.01
"""The deviation of the noise in real targets."""


def open_synthetic(known: Description, scale: float, seed: int) -> Source:
    """The source for labels of this kind and shape."""
    samples, shape, classes, label_shape = known.samples, known.shape, known.classes, known.label_shape
    if classes is not None and prod(label_shape) == 1:
        return ClassSource(samples, shape, classes, scale, seed)
    if classes is not None or prod(label_shape[1:]) > 1:
        return PlaceSource(samples, shape, classes, label_shape, scale, seed)
    return TargetSource(samples, shape, label_shape, scale, seed)


@dataclass(frozen=True)
class ClassSource:
    """Samples made of a pattern a class (uniform in -1 .. 1) and normal noise of deviation 1; one class number a sample."""

    samples: int
    shape: tuple[int, ...]
    classes: int
    scale: float
    seed: int

    @property
    def label_shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,) * len(self.shape)

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`, float32."""
        values = _noise(self, indices, rect)
        row = Rect((0, *rect.start), (1, *rect.size))
        dim = (self.classes, *self.shape)
        fill_uniform(values, self.seed, "synthetic pattern", 0, dim, row, -1.0, 1.0, self._drawn(indices), adds=True)
        values /= self.scale
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return self._drawn(indices).reshape(-1, *rect.size)

    def _drawn(self, indices: Array) -> Array:
        drawn, numbers = empty((len(indices),), np.float64), empty((len(indices),), np.int64)
        row = Rect((0,), (1,))
        fill_uniform(drawn, self.seed, "synthetic label", 0, (self.samples,), row, 0.0, self.classes, indices)
        np.copyto(numbers, drawn, casting="unsafe")
        return numbers


@dataclass(frozen=True)
class TargetSource:
    """Real targets (uniform in -1 .. 1, and an error of deviation `ERROR`), each spread over the sample by a pattern of its own
    (uniform in -1 .. 1), and normal noise of deviation `NOISE` over their sum."""

    samples: int
    shape: tuple[int, ...]
    label_shape: tuple[int, ...]
    scale: float
    seed: int

    classes = None

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`, float32."""
        values = _noise(self, indices, rect)
        values *= NOISE
        targets = self._drawn(indices, Rect.whole(self.label_shape))
        pattern, product = empty((1, *rect.size), np.float32), empty(values.shape, np.float32)
        for k in range(self.label_shape[0]):
            row = Rect((k, *rect.start), (1, *rect.size))
            dim = (self.label_shape[0], *self.shape)
            fill_uniform(pattern, self.seed, "synthetic pattern", 0, dim, row, -1.0, 1.0)
            values += np.multiply(pattern, targets[:, k : k + 1], out=product)
        values /= self.scale
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`, float32."""
        errors = empty((len(indices), *rect.size), np.float32)
        row = Rect((0, *rect.start), (1, *rect.size))
        dim = (self.samples, *self.label_shape)
        fill_normal(errors, self.seed, "synthetic error", 0, dim, row, 0.0, ERROR, indices)
        errors += self._drawn(indices, rect)
        return errors

    def _drawn(self, indices: Array, rect: Rect) -> Array:
        """The targets before their error, float32."""
        drawn = empty((len(indices), *rect.size), np.float32)
        row = Rect((0, *rect.start), (1, *rect.size))
        dim = (self.samples, *self.label_shape)
        fill_uniform(drawn, self.seed, "synthetic target", 0, dim, row, -1.0, 1.0, indices)
        return drawn


@dataclass(frozen=True)
class PlaceSource:
    """Samples of normal noise; a label for every place, from the value there: as class numbers, its class among equally likely
    intervals; as real targets, its sine.

    Samples and labels have the same centre. A label beyond the border of the sample is that of the border; label
    channel k is about the channel k modulo C.
    """

    samples: int
    shape: tuple[int, ...]
    classes: int | None
    label_shape: tuple[int, ...]
    scale: float
    seed: int

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`, float32."""
        values = _noise(self, indices, rect)
        values /= self.scale
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`; real targets are float32."""
        places = [self._places(d, *bounds) for d, bounds in enumerate(rect.bounds)]
        box = Rect.of([(int(place.min()), int(place.max()) + 1) for place in places])
        values = _noise(self, indices, box)
        for d, (place, start) in enumerate(zip(places, box.start, strict=True)):
            taken = empty((*values.shape[: d + 1], len(place), *values.shape[d + 2 :]), np.float32)
            values = np.take(values, place - start, d + 1, out=taken, mode="clip")
        if self.classes is None:
            return np.sin(values, out=values)
        bounds = [NormalDist().inv_cdf(k / self.classes) for k in range(1, self.classes)]
        numbers = empty(values.shape, np.int64)
        for start in range(0, values.size, BITE):
            bite = slice(start, start + BITE)
            numbers.reshape(-1)[bite] = np.searchsorted(bounds, values.reshape(-1)[bite])
        return numbers

    def _places(self, dimension: int, start: int, stop: int) -> Array:
        """Which indices of a sample's dimension the labels from start to stop are about."""
        extent, labels = self.shape[dimension], self.label_shape[dimension]
        if not dimension:
            return np.arange(start, stop) % extent
        return np.clip(np.arange(start, stop) + (extent - labels) // 2, 0, extent - 1)


def _noise(source: ClassSource | TargetSource | PlaceSource, indices: Array, rect: Rect) -> Array:
    """Normal values of deviation 1, float32 [n, *rect.size]."""
    values = empty((len(indices), *rect.size), np.float32)
    row = Rect((0, *rect.start), (1, *rect.size))
    dim = (source.samples, *source.shape)
    fill_normal(values, source.seed, "synthetic noise", 0, dim, row, picks=indices)
    return values
