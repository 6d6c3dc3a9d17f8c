"""Operands as matrices: where BLAS can read or write one as it lies, and how one is packed where it cannot.

In: an operand, its labels in three groups. Out: `Matrix`: views [batch..., left, right] of its blocks. Promise: whether
a block is copied changes no bit of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.block import aligned
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

Axes = tuple[int, ...]
Sizes = list[int]


@dataclass(frozen=True)
class Matrix:
    """An operand as [batch..., left, right]; the groups are axes of its views (positions in the labels)."""

    operand: Operand
    batch: Axes
    left: Axes
    right: Axes

    @property
    def axes(self) -> Axes:
        return self.batch + self.left + self.right

    def volume(self, sizes: Sizes) -> int:
        """Elements of a packed block."""
        return prod(sizes[axis] for axis in self.axes)

    def nbytes(self, sizes: Sizes) -> int:
        """Bytes of a packed block."""
        return aligned(self.volume(sizes) * self.operand.array.itemsize)

    def arrange(self, view: Array) -> Array:
        """A view with its axes in the order of the groups, without those of labels that it lacks."""
        others = tuple(axis for axis in range(view.ndim) if axis not in self.axes)
        arranged: Array = view.transpose((*others, *self.axes))[(0,) * len(others)]
        return arranged

    def direct(self, block: Rect) -> Array | None:
        """The block without a copy, as [batch..., left, right]; None where BLAS cannot read it as it lies."""
        if not self.operand.is_inside(block):
            return None
        array = self.arrange(self.operand.view(block))
        nb, nl = len(self.batch), len(self.batch) + len(self.left)
        left = collapse(array.shape[nb:nl], array.strides[nb:nl])
        right = collapse(array.shape[nl:], array.strides[nl:])
        if left is None or right is None:
            return None
        strides = blas_strides(left, right, array.itemsize)
        if strides is None:
            return None
        return as_strided(array, (*array.shape[:nb], left[0], right[0]), (*array.strides[:nb], *strides))

    @cached_property
    def fastest(self) -> int:
        """The axis along which packing copies long runs: of the labels of the fastest dim the longest."""
        operand = self.operand
        extents = dict(zip(operand.space.labels, operand.space.extents, strict=True))
        dims = zip(operand.index, operand.array.strides, operand.array.shape, strict=True)
        labels = [
            (abs(stride) if n > 1 else np.inf, -extents[label], label)
            for expression, stride, n in dims
            for label, _ in expression.terms
        ]
        return operand.space.labels.index(min(labels)[2])

    def packed(self, buffer: Array, block: Rect, by_rows: bool = False) -> tuple[Array, Array]:
        """The buffer as the block's view (one axis a label) and as its matrix; the group of `fastest` runs fastest, or `right`."""
        box = self.operand.narrow(block)
        by_rows = by_rows or self.fastest not in self.left
        groups = (self.batch, self.left, self.right) if by_rows else (self.batch, self.right, self.left)
        order = (*(axis for axis in range(box.ndim) if axis not in self.axes), *groups[0], *groups[1], *groups[2])
        flat = buffer[: box.volume]
        view = flat.reshape([box.size[axis] for axis in order]).transpose(np.argsort(order))
        shape = [box.size[axis] for axis in self.batch] + [prod(box.size[axis] for axis in g) for g in groups[1:]]
        matrix = flat.reshape(shape)
        return view, matrix.swapaxes(-1, -2) if groups[1] is self.right else matrix


def collapse(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int] | None:
    """(extent, stride) of several axes as one, the last the fastest; None where their steps are not even."""
    extent, stride = 1, 0
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 1:
            continue
        if extent == 1:
            extent, stride = n, s
        elif s == extent * stride:
            extent *= n
        else:
            return None
    return extent, stride


def blas_strides(left: tuple[int, int], right: tuple[int, int], itemsize: int) -> tuple[int, int] | None:
    """The strides of a matrix of such (extent, stride) pairs if BLAS takes it: one of them the unit, the other no less
    than a row. An axis of length 1 gets the stride that suits. A vector has no gaps: BLAS sums one with gaps in another order, and
    replicas, whose buffers differ in gaps alone, are to have the same bits."""
    (rows, a), (cols, b) = left, right
    if rows == 1:
        return (itemsize * cols, itemsize) if b in (0, itemsize) else None
    if cols == 1:
        return (itemsize, itemsize * rows) if a == itemsize else None
    if (b == itemsize and a >= cols * itemsize) or (a == itemsize and b >= rows * itemsize):
        return a, b
    return None
