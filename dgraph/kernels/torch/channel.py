"""Operands with channels innermost, seen as matrices that are wide enough to work on quickly.

In: arrays of one shape, axis 1 the channels. Out: `Matrices`: views of all of them [..., rows, width], where a row holds the
channels of `fold` places one behind the other, and blocks of these; vectors of a value a channel, repeated for a row. Promise:
nothing is copied; where channels are not innermost there is no such view.

    [n, c, h, w], channels innermost, 16 channels, fold 3      row 0:  c0 c1 ... c15 | c0 c1 ... c15 | c0 c1 ... c15
                                                                       place 0         place 1         place 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.block import Step, block_sizes, blocks, memory_order
from dgraph.rect import Rect

C = 1
"""The axis of channels."""
WIDTH = 1024
"""A row is at most so long, unless there are more channels: long enough that the work on it hides what it costs to begin one."""
TERMS = 128
"""A sum in float32 has at most so many terms where little may be lost: their rounding adds up to some 1e-6 of it at worst."""
BLOCK = 1 << 20
"""Elements of a block that two steps go over one after the other: a few of them fit a level-3 cache."""
PART = 1 << 18
"""Elements of a block that several steps go over: a few of them fit a level-2 cache."""

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Matrices:
    """Views of several arrays, of one shape [..., rows, width]."""

    views: tuple[Array, ...]
    fold: int
    channels: int

    @property
    def width(self) -> int:
        return self.fold * self.channels

    @property
    def dense(self) -> bool:
        """Whether all arrays are runs of memory."""
        return all(view.flags.c_contiguous for view in self.views)

    def blocks(self, limit: int) -> list[Tensors]:
        """All views as tensors of the library, cut into blocks of whole rows of at most `limit` elements."""
        shape = self.views[0].shape[:-1]
        sizes = block_sizes(shape, range(len(shape)), max(1, limit // self.width))
        cuts = [block.slices() for block in blocks(Rect.whole(shape), sizes)]
        return [tuple(torch.from_numpy(view[cut]) for view in self.views) for cut in cuts]

    def row(self, value: float = 0.0) -> Row:
        """A value a channel, repeated for a row."""
        return Row(self.fold, self.channels, self.views[0].dtype, value)


class Row:
    """A value a channel, repeated for a row of a matrix: `tensor` [width]."""

    def __init__(self, fold: int, channels: int, dtype: np.dtype[np.generic], value: float) -> None:
        self._array = np.full((fold, channels), value, dtype)
        self.tensor = torch.from_numpy(self._array.reshape(-1))

    def set(self, values: Array) -> None:
        """Takes values [channels], rounded to its dtype."""
        np.copyto(self._array, values, casting="same_kind")


class ColumnSums:
    """The sum of every channel of a dense operand: `steps` find those of its blocks, `total` adds them up."""

    def __init__(self, x: Matrices) -> None:
        parts = [block.numpy() for (block,) in x.blocks(TERMS * x.width)]
        ones = np.ones(max(len(block) for block in parts), parts[0].dtype)
        self._found = np.empty((len(parts), x.width), parts[0].dtype)
        self._shape = (len(parts), x.fold, x.channels)
        self.steps: list[Step] = [
            partial(np.dot, ones[: len(block)], block, out=row) for block, row in zip(parts, self._found, strict=True)
        ]

    def total(self) -> Array:
        """Float64 [channels]."""
        return np.asarray(self._found.reshape(self._shape).sum((0, 1), dtype=np.float64))


def matrices(*arrays: Array) -> Matrices | None:
    """The views of arrays of one shape, or None where there are none."""
    first = arrays[0]
    if first.ndim < 2 or not first.size:
        return None
    channels = first.shape[C]
    if channels > 1 and any(array.strides[C] != array.itemsize for array in arrays):
        return None
    axes = [axis for axis in memory_order(first) if axis != C]
    merged, places = _merged(arrays, axes)
    fold = max(k for k in range(1, max(1, WIDTH // channels) + 1) if places % k == 0)
    outer = axes[: len(axes) - merged]
    order = [*outer, *axes[len(outer) :], C]
    shape = [*(first.shape[axis] for axis in outer), places // fold, fold * channels]
    return Matrices(tuple(array.transpose(order).reshape(shape) for array in arrays), fold, channels)


def _merged(arrays: Sequence[Array], axes: Sequence[int]) -> tuple[int, int]:
    """How many of the last axes are one run of memory with the channels, in all arrays, and of how many places."""
    places, merged = 1, 0
    for axis in reversed(axes):
        extent, step = arrays[0].shape[axis], places * arrays[0].shape[C]
        if extent > 1 and any(array.strides[axis] != step * array.itemsize for array in arrays):
            break
        places *= extent
        merged += 1
    return merged, places


def of_channels(array: Array) -> Array:
    """A view [channels] of an operand that has one value a channel."""
    view: Array = array.reshape(array.shape[:2])[0]
    return view
