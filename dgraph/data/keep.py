"""Samples that stay in memory once they were read.

In: a source. Out: a `Source`. Promise: values are those of the source; of a rect every sample is read once, by whoever reads it
first, and only what was read is kept. Readers in several threads may read the same twice, and keep the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dgraph.data.spec import Array, Behind
from dgraph.rect import Rect

Read = Callable[[Array, Rect], Array]


@dataclass
class Shelf:
    """The rows of one rect: `values` [samples, *rect.size], of which those `there` were read."""

    values: Array
    there: Array


@dataclass(frozen=True)
class Kept(Behind):
    """A source whose samples are read once."""

    _shelves: dict[tuple[str, Rect], Shelf] = field(default_factory=dict)

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        return self._kept("values", self.source.read, indices, rect)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return self._kept("labels", self.source.labels, indices, rect)

    def _kept(self, what: str, read: Read, indices: Array, rect: Rect) -> Array:
        shelf = self._shelves.get((what, rect))
        missing = np.unique(indices if shelf is None else indices[~shelf.there[indices]])
        if missing.size or shelf is None:
            found = read(missing, rect)
            if shelf is None:
                values = np.empty((self.samples, *rect.size), found.dtype)
                shelf = self._shelves.setdefault((what, rect), Shelf(values, np.zeros(self.samples, bool)))
            shelf.values[missing] = found
            shelf.there[missing] = True
        taken: Array = shelf.values[indices]
        return taken
