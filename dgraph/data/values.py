"""Arrays of samples that are read part by part, wherever they lie.

In: arrays in memory, or in files. Out: `Values`, and views of them that move nothing: several as one, with 1s put in or left
out, with channels first. Promise: a part is read as the file has it, no more of it than the kind of file demands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, Protocol

import numpy as np

from dgraph.block import blocks
from dgraph.data.spec import Array
from dgraph.error import DataError
from dgraph.rect import Rect

BITE = 1 << 20
"""How many elements are looked at together; also how many bytes may as well be kept in memory."""
MOST_KEPT = 4 << 30
"""How many bytes of what can only be read as a whole (because it is compressed as a whole) are kept in memory."""
DEFLATED = 1040
"""How many times smaller than its content a deflated stream may be (RFC 1951: 258 bytes in 2 bits), and some more."""


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
class Packed:
    """An array that can only be read as a whole: it is brought into memory when it is first needed. `unpack` reads it;
    `name` is what messages call it, `place` what they call a sample."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    unpack: Callable[[], Array]
    name: str = "x"
    place: Callable[[int], str] | None = None

    @cached_property
    def held(self) -> Held:
        """The array in memory, all of it finite."""
        array = self.unpack()
        require_finite(self.name, array, np.arange(len(array)), self.where)
        return Held(self.path, array)

    def load(self) -> None:
        self.held  # noqa: B018

    def read(self, indices: Array, rect: Rect) -> Array:
        return self.held.read(indices, rect)

    def where(self, index: int) -> str:
        return f"{self.path}: sample {index}" if self.place is None else self.place(index)


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


@dataclass(frozen=True)
class Shaped:
    """The same values with 1s put in or left out of the shape of a sample."""

    values: Values
    sample: tuple[int, ...]

    @property
    def path(self) -> str:
        return self.values.path

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.values.shape[0], *self.sample)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def load(self) -> None:
        self.values.load()

    def read(self, indices: Array, rect: Rect) -> Array:
        long = iter([bounds for bounds, extent in zip(rect.bounds, self.sample, strict=True) if extent > 1])
        inner = Rect.of((0, 1) if extent == 1 else next(long) for extent in self.values.shape[1:])
        return self.values.read(indices, inner).reshape(len(indices), *rect.size)

    def where(self, index: int) -> str:
        return self.values.where(index)


@dataclass(frozen=True)
class Folded:
    """Rows [n, k] as samples of a shape with k elements, in C order; of a row, what lies between the first and the last element
    of a rect is read."""

    values: Values
    sample: tuple[int, ...]

    @property
    def path(self) -> str:
        return self.values.path

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.values.shape[0], *self.sample)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def load(self) -> None:
        self.values.load()

    def read(self, indices: Array, rect: Rect) -> Array:
        places = np.arange(prod(self.sample)).reshape(self.sample)[rect.slices()]
        first, last = int(places.flat[0]), int(places.flat[-1])
        return self.values.read(indices, Rect((first,), (last + 1 - first,)))[:, places - first]

    def where(self, index: int) -> str:
        return self.values.where(index)


@dataclass(frozen=True)
class One:
    """An array that is one sample."""

    values: Values

    @property
    def path(self) -> str:
        return self.values.path

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.values.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def load(self) -> None:
        self.values.load()

    def read(self, indices: Array, rect: Rect) -> Array:
        places = np.arange(rect.start[0], rect.stop[0])
        sample = self.values.read(places, Rect(rect.start[1:], rect.size[1:]))[None]
        return sample if len(indices) == 1 else np.repeat(sample, len(indices), axis=0)

    def where(self, index: int) -> str:
        return self.values.path


@dataclass(frozen=True)
class ChannelsLast:
    """Values [n, spatial..., C] as [n, C, spatial...]."""

    values: Values

    @property
    def path(self) -> str:
        return self.values.path

    @property
    def shape(self) -> tuple[int, ...]:
        samples, *spatial, channels = self.values.shape
        return (samples, channels, *spatial)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def load(self) -> None:
        self.values.load()

    def read(self, indices: Array, rect: Rect) -> Array:
        inner = Rect((*rect.start[1:], rect.start[0]), (*rect.size[1:], rect.size[0]))
        return np.moveaxis(self.values.read(indices, inner), -1, 1)

    def where(self, index: int) -> str:
        return self.values.where(index)


def fits(own: tuple[int, ...], sample: tuple[int, ...]) -> bool:
    """Whether samples of a shape can be taken for those of another: it is the same but for 1s, or they are rows of as many
    numbers."""
    return without_ones(own) == without_ones(sample) or (len(own) == 1 and own[0] == prod(sample))


def shaped(values: Values, sample: tuple[int, ...]) -> Values:
    """Values as samples of a shape that fits theirs."""
    if values.shape[1:] == sample:
        return values
    same = without_ones(values.shape[1:]) == without_ones(sample)
    return Shaped(values, sample) if same else Folded(values, sample)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its 1s."""
    return tuple(extent for extent in shape if extent > 1)


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


class Stream(Protocol):
    """A file that is read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, `size` at most."""


def whole(file: Stream, nbytes: int) -> Array:
    """All that is left in a file, uint8 [nbytes]; read to its end, so that a sum there is checked.

    Raises EOFError where it is shorter, ValueError where it is longer.
    """
    content: Array = np.empty(nbytes, np.uint8)
    filled = 0
    while part := file.read(4 * BITE):
        if filled + len(part) > nbytes:
            raise ValueError("it is longer than its header says")
        content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if filled < nbytes:
        raise EOFError("it is shorter than its header says")
    return content


def require_finite(name: str, array: Array, indices: Array, where: Callable[[int], str]) -> None:
    """Raises DataError for the first of these samples in `array` that has an infinite or undefined value."""
    if not all_finite(array):
        raise DataError(f"{where(first_wrong(indices, np.isfinite(array)))}: {name} has values that are not finite")


def first_wrong(indices: Array, right: Array) -> int:
    """The first of the samples in which not all is right."""
    return int(indices[right.reshape(len(right), -1).all(1).argmin()])


def require_kept(path: str, shape: tuple[int, ...], dtype: np.dtype[Any], stored: int, remedy: str) -> None:
    """Raises DataError, before anything is allocated, where a deflated array of so many stored bytes cannot have that size, or is
    too large to be kept in memory."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes > DEFLATED * stored + BITE:
        raise DataError(
            f"{path}: damaged", f"{stored} compressed bytes cannot hold the {nbytes} bytes that its header says"
        )
    if nbytes > MOST_KEPT:
        raise DataError(
            f"{path}: {nbytes} bytes are too many to be kept in memory, as a compressed array has to be", remedy
        )
