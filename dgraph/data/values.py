"""Arrays of samples that are read part by part, wherever they lie.

In: arrays in memory, or in files. Out: `Values`: one in memory, several as one; what looks at them part by part. Promise: a part
is read as the file has it, no more of it than the kind of file demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from dgraph.block import blocks
from dgraph.data.spec import Array
from dgraph.error import DataError
from dgraph.rect import Rect

BITE = 1 << 20
"""How many elements are looked at together; also how many bytes may as well be kept in memory."""


class Values(Protocol):
    """An array [n, ...] of n samples."""

    @property
    def path(self) -> str:
        """The file that it is in; of several, the first."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its values are in the file."""

    def load(self) -> None:
        """Bring into memory what can only be kept there. Raises DataError where that cannot be read."""

    def read(self, indices: Array, rect: Rect) -> Array:
        """A new array [len(indices), *rect.size] of these samples' values within `rect` of shape[1:].

        `indices` are int64 in 0 .. n - 1, `rect` is not empty. Raises DataError where they cannot be read.
        """

    def where(self, index: int) -> str:
        """What a message calls a sample."""


@dataclass(frozen=True)
class Held:
    """An array in memory, or mapped into it."""

    path: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def load(self) -> None:
        pass

    def read(self, indices: Array, rect: Rect) -> Array:
        where: tuple[Any, ...] = (indices, *rect.slices())
        return np.array(self.array[where])

    def where(self, index: int) -> str:
        return f"{self.path}: sample {index}"


@dataclass(frozen=True)
class Joined:
    """Several arrays of samples of the same shape, one behind the other."""

    parts: Sequence[Values]

    @property
    def path(self) -> str:
        return self.parts[0].path

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    @cached_property
    def _stops(self) -> Array:
        return np.array(list(accumulate(part.shape[0] for part in self.parts)))

    def load(self) -> None:
        for part in self.parts:
            part.load()

    def read(self, indices: Array, rect: Rect) -> Array:
        places = np.searchsorted(self._stops, indices, side="right")
        values = np.empty((len(indices), *rect.size), self.dtype)
        for k in np.unique(places):
            chosen = places == k
            part = self.parts[k]
            values[chosen] = part.read(indices[chosen] - (self._stops[k] - part.shape[0]), rect)
        return values

    def where(self, index: int) -> str:
        k = int(np.searchsorted(self._stops, index, side="right"))
        return self.parts[k].where(index - int(self._stops[k]) + self.parts[k].shape[0])


def bites(values: Values) -> Iterator[Array]:
    """All values, some at a time."""
    for block in blocks(values.shape, BITE):
        indices = np.arange(block.start[0], block.stop[0])
        yield values.read(indices, Rect(block.start[1:], block.size[1:]))


def all_finite(array: Array) -> bool:
    """Whether no value is infinite or undefined; needs no memory of the array's size."""
    if array.dtype.kind != "f" or not array.size:
        return True
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def require_finite(name: str, array: Array, indices: Array, where: Callable[[int], str]) -> None:
    """Raises DataError for the first of these samples in `array` that has an infinite or undefined value."""
    if not all_finite(array):
        raise DataError(f"{where(first_wrong(indices, np.isfinite(array)))}: {name} has values that are not finite")


def first_wrong(indices: Array, right: Array) -> int:
    """The first of the samples in which not all is right."""
    return int(indices[right.reshape(len(right), -1).all(1).argmin()])
