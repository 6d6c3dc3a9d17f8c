"""The same values in another form: nothing is moved until it is read.

In: `Values`. Out: `Values` with 1s put in or left out, with samples made of rows, as one sample, with channels first. Promise: a
rect reads what it needs of the values that it looks at, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dgraph.data.spec import Array
from dgraph.data.values import Values
from dgraph.rect import Rect


@dataclass(frozen=True)
class Turned:
    """Values that look like others, but for what its kinds change."""

    values: Values

    @property
    def path(self) -> str:
        return self.values.path

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def load(self) -> None:
        self.values.load()

    def where(self, index: int) -> str:
        return self.values.where(index)


@dataclass(frozen=True)
class Shaped(Turned):
    """The same values with 1s put in or left out of the shape of a sample."""

    shape: tuple[int, ...]

    def read(self, indices: Array, rect: Rect) -> Array:
        long = iter([bounds for bounds, extent in zip(rect.bounds, self.shape[1:], strict=True) if extent > 1])
        inner = Rect.of((0, 1) if extent == 1 else next(long) for extent in self.values.shape[1:])
        return self.values.read(indices, inner).reshape(len(indices), *rect.size)


@dataclass(frozen=True)
class Folded(Turned):
    """Rows [n, k] as samples of a shape with k elements, in C order; of a row, what lies between the first and the last element
    of a rect is read."""

    shape: tuple[int, ...]

    def read(self, indices: Array, rect: Rect) -> Array:
        places = np.arange(prod(self.shape[1:])).reshape(self.shape[1:])[rect.slices()]
        first, last = int(places.flat[0]), int(places.flat[-1])
        return self.values.read(indices, Rect((first,), (last + 1 - first,)))[:, places - first]


@dataclass(frozen=True)
class One(Turned):
    """An array that is one sample."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.values.shape)

    def read(self, indices: Array, rect: Rect) -> Array:
        places = np.arange(rect.start[0], rect.stop[0])
        sample = self.values.read(places, Rect(rect.start[1:], rect.size[1:]))[None]
        return sample if len(indices) == 1 else np.repeat(sample, len(indices), axis=0)

    def where(self, index: int) -> str:
        return self.values.path


@dataclass(frozen=True)
class ChannelsLast(Turned):
    """Values [n, spatial..., C] as [n, C, spatial...]."""

    @property
    def shape(self) -> tuple[int, ...]:
        samples, *spatial, channels = self.values.shape
        return (samples, channels, *spatial)

    def read(self, indices: Array, rect: Rect) -> Array:
        inner = Rect((*rect.start[1:], rect.start[0]), (*rect.size[1:], rect.size[0]))
        return np.moveaxis(self.values.read(indices, inner), -1, 1)


def fits(own: tuple[int, ...], sample: tuple[int, ...]) -> bool:
    """Whether samples of a shape can be taken for those of another: it is the same but for 1s, or they are rows of as many
    numbers."""
    return without_ones(own) == without_ones(sample) or (len(own) == 1 and own[0] == prod(sample))


def shaped(values: Values, sample: tuple[int, ...]) -> Values:
    """Values as samples of a shape that fits theirs."""
    if values.shape[1:] == sample:
        return values
    same = without_ones(values.shape[1:]) == without_ones(sample)
    return (Shaped if same else Folded)(values, (values.shape[0], *sample))


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its 1s."""
    return tuple(extent for extent in shape if extent > 1)
