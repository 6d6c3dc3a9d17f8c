"""A sum of products over a box of labels as matrix products of blocks that fit a cache.

In: three operands, a piece. Out: `Product`: what is cut into which blocks, and what of them is packed. Promise: the sizes of blocks
follow from the shapes alone unless scratch is short; nothing but blocks is copied.

A product is `target[...] (+)= sum(first[...] * second[...])`. Its labels fall into four groups:

    batch  in all three              target [batch, rows, cols]
    rows   in target and first     = first  [batch, rows, inner]
    cols   in target and second    @ second [batch, inner, cols]
    inner  in first and second

    op     target         first         second        batch  rows       cols   inner
    conv   output         filters       input         g      o          h w n  c i j
           input.delta    filters       output.delta  g      c i j      h w n  o
           filters.delta  input         output.delta  g      c i j      o      h w n
    tiled  output         filters       input         gy gx  o ty tx    n      c i j

In each block, operands that are no matrices as they lie are packed (windows unfold in this step, padding becomes zeros) and
multiplied; sums over blocks of `inner` are made in scratch, and the result is copied or added to where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, product
from math import prod

from dgraph.kernels.numpy.contraction.matrix import Axes, Matrix, Sizes
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

SMALL = 1_000_000
"""Multiplications up to which BLAS works on the operands where they lie, without packing them first."""
RUN = 256
"""The fewest columns (or terms of a sum, twice as many) that blocks are cut to for the sake of the cache."""
CACHE = 160 << 10
"""Elements of an unfolded block: they fit a level-2 cache beside its product."""
LONG, FLAT = 2048, 128
"""Terms of a sum that are enough for one block; rows below which BLAS takes such sums at half its rate."""


@dataclass(frozen=True)
class Groups:
    """The axes of the labels by the operands that have them, the slowest of each first."""

    batch: Axes
    rows: Axes
    cols: Axes
    inner: Axes


@dataclass(frozen=True)
class Product:
    """target (+)= first @ second over a piece.

    `turned`: first and second have changed places for the sake of speed. BLAS is not to change them back, as it does for a result
    whose rows run fastest.
    """

    target: Operand
    first: Operand
    second: Operand
    piece: Rect
    accumulate: bool
    turned: bool = False

    def upright(self) -> Product:
        """The same with more rows than columns where that matters."""
        sizes, g = list(self.piece.size), self.groups
        rows, cols, inner = (volume(sizes, group) for group in (g.rows, g.cols, g.inner))
        if rows < cols <= inner and rows <= FLAT and inner >= LONG:
            return replace(self, first=self.second, second=self.first, turned=True)
        return self

    @property
    def is_there(self) -> bool:
        """Whether there is anything to be summed."""
        return bool(self.target.rect) and bool(self.piece)

    @cached_property
    def is_assigned(self) -> bool:
        """Whether the sums can take the place of what is in the target."""
        return not self.accumulate and bool(self.piece) and self.target.is_exact(self.piece)

    @cached_property
    def groups(self) -> Groups:
        """The labels' groups; `cols` in the memory order of second, the others in that of first."""

        def group(a: Operand, b: Operand, without: Operand | None, by: Operand) -> Axes:
            names = (a.labels & b.labels) - (without.labels if without else frozenset())
            axes = [axis for axis, label in enumerate(self.labels) if label in names]
            return tuple(sorted(axes, key=lambda axis: -by.strides[self.labels[axis]]))

        target, first, second = self.target, self.first, self.second
        every = tuple(axis for axis in group(target, first, None, first) if self.labels[axis] in second.labels)
        rows, cols = group(target, first, second, first), group(target, second, first, second)
        return Groups(every, rows, cols, group(first, second, target, first))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.target.space.labels

    @cached_property
    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """Target, first and second."""
        g = self.groups
        return (
            Matrix(self.target, g.batch, g.rows, g.cols),
            Matrix(self.first, g.batch, g.rows, g.inner),
            Matrix(self.second, g.batch, g.inner, g.cols),
        )

    @property
    def loops(self) -> Axes:
        """The axes, slowest loop first: sums run fastest. Within a group the slowest axis of memory does, along which a block
        shares most with the next where windows overlap."""
        g = self.groups
        return g.batch + g.cols[::-1] + g.rows + g.inner[::-1]

    def reaches(self, axis: int) -> Callable[[int, int], bool]:
        """Whether a span of the label of an axis stays inside all operands, with whatever values of the others."""
        label, spans = self.labels[axis], self.target.space.box(self.piece)
        reaching = []
        for operand in (self.target, self.first, self.second):
            for expression, (low, high) in zip(operand.index, operand.rect.bounds, strict=True):
                start, stop = expression.bounds(spans)
                if label in dict(expression.terms) and (start < low or stop > high):
                    reaching.append((expression, low, high))

        def inside(first: int, last: int) -> bool:
            values = ((e.bounds(spans | {label: (first, last)}), low, high) for e, low, high in reaching)
            return all(low <= start and stop <= high for (start, stop), low, high in values)

        return inside

    def needed(self, sizes: Sizes) -> tuple[bool, bool, bool, bool]:
        """Whether blocks of these sizes need a buffer for results, for the terms of their sums, for first and for second."""
        target, first, second = (self._is_direct(matrix, sizes) for matrix in self.matrices)
        cut = any(sizes[axis] < self.piece.size[axis] for axis in self.groups.inner)
        return self.turned or not self.is_assigned or not target, cut, not first, not second

    def _is_direct(self, matrix: Matrix, sizes: Sizes) -> bool:
        """Whether BLAS takes all blocks of an operand as they lie: those of full size, and the last ones."""
        pairs = list(zip(self.piece.bounds, sizes, strict=True))
        spans = [{(a, a + n), (b - ((b - a) % n or n), b)} if axis in matrix.axes else {(a, a + n)}
                 for axis, ((a, b), n) in enumerate(pairs)]  # fmt: skip
        return matrix.operand.is_inside(self.piece) and all(
            matrix.direct(Rect.of(bounds)) is not None for bounds in product(*spans)
        )

    def sizes(self, limit: int) -> Sizes:
        """The sizes of blocks: as BLAS is fastest, as a cache holds what is unfolded, as buffers fit into `limit` bytes."""
        sizes, g, matrices = list(self.piece.size), self.groups, self.matrices
        if not all(matrix.operand.is_plain for matrix in matrices):
            fit(sizes, g.inner, LONG)
            small = SMALL // volume(sizes, g.rows + g.inner)
            fit(sizes, g.cols, min(small, 16 * RUN) if 2 * small >= RUN else 2 * RUN)
        for matrix, places, fewest in zip(matrices, (g.cols, g.inner, g.cols), (RUN, 2 * RUN, RUN), strict=True):
            if not matrix.operand.is_plain:
                for axes, least in ((g.batch, 1), (places, fewest)):
                    rest = max(1, matrix.volume(sizes) // volume(sizes, axes))
                    # What does not fit the cache anyway is cut less.
                    fit(sizes, axes, CACHE // rest if least * rest <= CACHE or least == 1 else 2 * least)
        if not matrices[1].operand.is_plain:
            fit(sizes, g.rows, max(RUN, CACHE // volume(sizes, g.inner)))
        while self._nbytes(sizes) > limit:
            longest = max((g.rows, g.cols, g.inner), key=lambda group: volume(sizes, group))
            chosen = g.batch if volume(sizes, g.batch) > 1 else longest
            fit(sizes, chosen, volume(sizes, chosen) // 2)
        return sizes

    def _nbytes(self, sizes: Sizes) -> int:
        """Bytes of all buffers."""
        return sum(m.nbytes(sizes) for m in compress((self.matrices[0], *self.matrices), self.needed(sizes)))


def volume(sizes: Sizes, axes: Axes) -> int:
    """How many values the labels of a group have together."""
    return prod(sizes[axis] for axis in axes)


def fit(sizes: Sizes, axes: Axes, most: int) -> None:
    """Cuts sizes along a group, the slowest axis first, until it has at most so many values; blocks are about equal."""
    for axis in axes:
        rest = max(1, volume(sizes, axes) // sizes[axis])
        count = -(-sizes[axis] // max(1, most // rest))
        sizes[axis] = -(-sizes[axis] // count)
