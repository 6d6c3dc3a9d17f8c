"""Labels in another form.

In: a source with class numbers. Out: a `Source` with real targets. Promise: samples are untouched; a rect of the labels reads that
rect alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgraph.data.spec import Array, Behind, Description
from dgraph.error import ConfigError
from dgraph.rect import Rect


def one_hot_description(known: Description) -> Description:
    """The numbers of a source behind `OneHot`. Raises ConfigError unless it has one class number a sample or place."""
    if known.classes is None or known.label_shape[0] != 1:
        has = "real targets" if known.classes is None else f"{known.label_shape[0]} class numbers a place"
        raise ConfigError(f"one_hot needs one class number, the data has {has}", "leave it out").about(
            "data", "one_hot"
        )
    return replace(known, classes=None, label_shape=(known.classes, *known.label_shape[1:]))


@dataclass(frozen=True)
class OneHot(Behind):
    """A source of real targets [K, ...]: 1 for the class of the sample or place, 0 for the others."""

    targets: int

    classes = None

    @property
    def label_shape(self) -> tuple[int, ...]:
        """One target a class."""
        return (self.targets, *self.source.label_shape[1:])

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`, float32."""
        (first, last), *places = rect.bounds
        numbers = self.source.labels(indices, Rect.of([(0, 1), *places]))
        classes = np.arange(first, last).reshape(-1, *(1 for _ in places))
        hot: Array = numbers == classes
        return hot.astype(np.float32)
