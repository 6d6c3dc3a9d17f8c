"""Samples that lie in arrays.

In: arrays. Out: a `Source`. Promise: only what a rect needs is copied, so a mapped file is read no further than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgraph.data.spec import Array
from dgraph.rect import Rect


@dataclass(frozen=True)
class ArraySource:
    """Samples x [n, C, spatial...] and labels y [n, *label shape] that are in memory, or mapped into it; the n may stand
    there `repeat` times."""

    x: Array
    y: Array
    classes: int | None
    scale: float
    repeat: int = 1

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.y) * self.repeat

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, spatial...] of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of a sample's labels."""
        return tuple(self.y.shape[1:])

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`: float32, or float64 where x needs it."""
        values = self._part(self.x, indices, rect, np.result_type(self.x.dtype, np.float32))
        values /= self.scale
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`: real targets are float32, or float64 where y needs it."""
        real = np.result_type(self.y.dtype, np.float32)
        return self._part(self.y, indices, rect, real if self.classes is None else np.dtype(np.int64))

    def _part(self, whole: Array, indices: Array, rect: Rect, dtype: np.dtype[Any]) -> Array:
        where: tuple[Any, ...] = (indices % len(whole), *rect.slices())
        return np.array(whole[where], dtype)
