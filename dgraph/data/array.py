"""Samples and labels that are arrays.

In: `Values` of both. Out: a `Source`. Promise: only what a rect needs is read, and what is read is checked: values are finite,
class numbers are those of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgraph.data.spec import Array
from dgraph.data.values import Values, first_wrong, require_finite
from dgraph.error import DataError
from dgraph.rect import Rect


@dataclass(frozen=True)
class ArraySource:
    """Samples x [n, C, spatial...] and labels y [n, *label shape]; the n may stand there `repeat` times. `dtype` is the least type
    of values: what is stored in fewer bits is widened first, scaled then."""

    x: Values
    y: Values
    classes: int | None
    scale: float
    dtype: str
    repeat: int = 1

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.y.shape[0] * self.repeat

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, spatial...] of one sample."""
        return self.x.shape[1:]

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of a sample's labels."""
        return self.y.shape[1:]

    def raw(self, indices: Array, rect: Rect) -> Array:
        """Values as they are in x: of its type, and not scaled. Raises DataError as `read`."""
        indices = indices % self.x.shape[0]
        values = self.x.read(indices, rect)
        require_finite("x", values, indices, self.x.where)
        return values

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`: of `dtype`, or float64 where x needs it."""
        values = self.raw(indices, rect)
        values = values.astype(np.result_type(values.dtype, self.dtype), copy=False)
        if self.scale != 1:
            values /= self.scale
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`: real targets are of `dtype`, or float64 where y needs it."""
        indices = indices % self.y.shape[0]
        values = self.y.read(indices, rect)
        require_finite("y", values, indices, self.y.where)
        if self.classes is None:
            return values.astype(np.result_type(self.y.dtype, self.dtype), copy=False)
        wrong = (values < 0) | (values >= self.classes)
        if wrong.any():
            what = f"y has the label {values[wrong][0]}"
            raise DataError(
                f"{self.y.where(first_wrong(indices, ~wrong))}: {what}",
                f"{self.classes} classes have labels 0 to {self.classes - 1}",
            )
        return values.astype(np.int64, copy=False)
