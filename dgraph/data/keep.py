"""Samples that stay in memory once they were read.

In: a source, the rects of samples and labels that a rank may want. Out: a `Source`. Promise: values are those of the source; every
sample is read once, all of its rect, and no other is kept. Readers in several threads may read the same twice, and keep the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dgraph.data.spec import Array, Behind
from dgraph.rect import Rect
from dgraph.spare import empty

Read = Callable[[Array, Rect], Array]


@dataclass
class Shelf:
    """The rows of one rect: `values` [samples, *rect.size], of which those `there` were read."""

    values: Array
    there: Array


@dataclass(frozen=True)
class Kept(Behind):
    """A source whose samples are read once within `rect`, and their labels within `label_rect`; what lies outside is not kept."""

    rect: Rect
    label_rect: Rect
    _shelves: dict[str, Shelf] = field(default_factory=dict)

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        return self._kept("values", self.source.read, self.rect, indices, rect)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        return self._kept("labels", self.source.labels, self.label_rect, indices, rect)

    def _kept(self, what: str, read: Read, whole: Rect, indices: Array, rect: Rect) -> Array:
        if rect not in whole:
            return read(indices, rect)
        shelf = self._shelves.get(what)
        missing = np.unique(indices if shelf is None else indices[~shelf.there[indices]])
        if missing.size or shelf is None:
            found = read(missing, whole)
            if shelf is None:
                values = np.empty((self.samples, *whole.size), found.dtype)
                shelf = self._shelves.setdefault(what, Shelf(values, np.zeros(self.samples, bool)))
            shelf.values[missing] = found
            shelf.there[missing] = True
        rows = shelf.values[(slice(None), *rect.slices(whole.start))]
        found = empty((len(indices), *rect.size), rows.dtype)
        if rows.flags.c_contiguous and rows.size:
            return np.take(rows, indices, 0, out=found, mode="clip")
        # NumPy would copy all rows first.
        for k, index in enumerate(indices.tolist()):
            found[k] = rows[index]
        return found
