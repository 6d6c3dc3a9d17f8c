"""Sums of products along access maps: linear, conv and tiled, forward and both gradients, as blocked GEMMs.

In: a call with the ports `input`, `output` and a parameter. Out: two kernels. Promise: nothing is known of the ops but
their access maps, so any number of spatial dims, strides, dilations, groups and cuts come for nothing; at most `BUDGET`
bytes of scratch; operands that BLAS can read as they lie are not copied.

A product is `target[...] (+)= sum(first[...] * second[...])`. Its labels fall into four groups:

    batch  in all three              target [batch, rows, cols]
    rows   in target and first     = first  [batch, rows, inner]
    cols   in target and second    @ second [batch, inner, cols]
    inner  in first and second

    op     target         first         second        batch  rows       cols   inner
    conv   output         filters       input         g      o          h w n  c i j
           input.delta    filters       output.delta  g      c i j      h w n  o
           filters.delta  output.delta  input         g      o          c i j  h w n
    tiled  output         filters       input         gy gx  o ty tx    n      c i j

The iteration space is cut into blocks. In each, operands that are no matrices as they lie are packed (windows unfold in
this step, padding becomes zeros) and multiplied, and the result is copied or added to where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import compress
from math import prod
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dgraph.graph.access import Map
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, aligned, blocks, in_sequence, with_buffers
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

BUDGET = 4 << 20
UFUNC_BUFFER = 256
"""Elements: results are added in shorter runs than NumPy's own 8192, which would copy both operands first."""
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

    def packed(self, buffer: Array, block: Rect) -> tuple[Array, Array]:
        """The buffer as the block's view (one axis a label) and as its matrix.

        The group of the label with the smallest stride runs fastest, so that packing copies long runs.
        """
        box = self.operand.narrow(block)
        strides = [self.operand.strides[label] or np.inf for label in self.operand.space.labels]
        fastest = min(self.axes, key=lambda axis: strides[axis])
        groups = (self.batch, self.right, self.left) if fastest in self.left else (self.batch, self.left, self.right)
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


@dataclass
class Source:
    """A matrix that is read, block by block; `buffer` is None where every block is direct."""

    matrix: Matrix
    buffer: Array | None
    box: Rect | None = None
    array: Array | None = None

    def load(self, block: Rect, steps: list[Step]) -> Array:
        """The matrix of a block; adds the steps that pack it, unless the last block has left it there."""
        operand = self.matrix.operand
        box = operand.narrow(block)
        if self.array is None or box != self.box:
            self.box, self.array = box, self.matrix.direct(box)
        if self.array is None:
            assert self.buffer is not None, "a block that is not direct has a buffer"
            view, self.array = self.matrix.packed(self.buffer, box)
            steps += pack(operand, box, view)
        return self.array


def pack(operand: Operand, box: Rect, view: Array) -> Iterator[Step]:
    """The steps that copy a box of an operand into `view` (one axis a label), with zeros for what lies outside."""
    for cell, inside in operand.cells(box):
        yield from (partial(view[margin.slices(box.start)].fill, 0) for margin in cell.subtract(inside))
        if inside:
            yield partial(np.copyto, view[inside.slices(box.start)], operand.view(inside))


@dataclass(frozen=True)
class Groups:
    """The axes of the labels by the operands that have them, the slowest of each first."""

    batch: Axes
    rows: Axes
    cols: Axes
    inner: Axes


@dataclass(frozen=True)
class Product:
    """target (+)= first @ second over a piece."""

    target: Operand
    first: Operand
    second: Operand
    piece: Rect
    accumulate: bool

    def steps(self, scratch: Array, limit: int) -> list[Step]:
        """All that is to be done, in order, with at most `limit` bytes of scratch."""
        steps: list[Step] = []
        if not self.accumulate and not self.is_assigned:
            steps.append(partial(self.target.array.fill, 0))
        if not self.target.rect or not self.piece:
            return steps
        sizes = self._sizes(limit)
        needed = self._needed(sizes)
        carver = Carver(scratch)
        dtype = self.target.array.dtype
        result, *packs = (
            carver.take((matrix.volume(sizes),), dtype) if buffered else None
            for matrix, buffered in zip(self.matrices, needed, strict=True)
        )
        first, second = (Source(matrix, buffer) for matrix, buffer in zip(self.matrices[1:], packs, strict=True))
        for block in blocks(self.piece, sizes, self._loops(packs_second=needed[2])):
            left, right = first.load(block, steps), second.load(block, steps)
            self._store(block, left, right, result, steps)
        return steps

    @cached_property
    def is_assigned(self) -> bool:
        """Whether the results of the first block of `inner` can take the place of what is in the target."""
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

    def _needed(self, sizes: Sizes) -> list[bool]:
        """Whether blocks of these sizes need a buffer for target, first and second."""
        block = Rect(self.piece.start, tuple(sizes))
        target, *sources = self.matrices
        whole = all(sizes[axis] == self.piece.size[axis] for axis in self.groups.inner)
        passed = self.is_assigned and whole and target.direct(block) is not None
        return [
            not passed,
            *(not m.operand.is_inside(self.piece) or m.direct(block) is None for m in sources),
        ]

    def _sizes(self, limit: int) -> Sizes:
        """The sizes of blocks whose buffers fit: first `batch` is cut, then the longest group that any buffer has."""
        sizes = list(self.piece.size)
        while True:
            buffered = list(compress(self.matrices, self._needed(sizes)))
            if sum(matrix.nbytes(sizes) for matrix in buffered) <= limit:
                return sizes
            cut = {axis for matrix in buffered for axis in matrix.axes if sizes[axis] > 1}
            g = self.groups
            rest = [group for group in (g.rows, g.cols, g.inner) if cut & set(group)]
            longest = max(rest, key=lambda group: prod(sizes[axis] for axis in group), default=g.batch)
            chosen = g.batch if cut & set(g.batch) else longest
            axis = next(axis for axis in chosen if sizes[axis] > 1)
            sizes[axis] = -(-sizes[axis] // 2)

    def _loops(self, packs_second: bool) -> Axes:
        """The axes, slowest loop first, so that a packed source serves several blocks."""
        g = self.groups
        return g.batch + (g.cols + g.inner + g.rows if packs_second else g.rows + g.inner + g.cols)

    def _store(self, block: Rect, left: Array, right: Array, buffer: Array | None, steps: list[Step]) -> None:
        """Adds the steps that multiply a block and take the result to the target."""
        target = self.matrices[0]
        begins = all(block.start[axis] == self.piece.start[axis] for axis in self.groups.inner)
        assign = self.is_assigned and begins
        out = target.direct(block) if assign else None
        if out is not None:
            steps.append(partial(np.matmul, left, right, out=out))
            return
        assert buffer is not None
        view, matrix = target.packed(buffer, block)
        steps.append(partial(np.matmul, left, right, out=matrix))
        origin = self.target.narrow(block).start
        for part, there in self.target.parts(block, once=True):
            here = view[part.slices(origin)]
            steps.append(partial(np.copyto, there, here) if assign else partial(np.add, there, here, out=there))


@dataclass(frozen=True)
class Contraction:
    """The kernel of an op whose ports are `input`, `output` and this parameter."""

    parameter: str

    def workspace(self, call: Call) -> int:
        """Bytes of scratch: all operands packed whole, or `BUDGET` where that is more."""
        box, itemsize = call.space.box(call.piece), np.dtype(call.dtype).itemsize
        most = 0
        for ports in self._products(call):
            labels = ({label for e in _map(call, port) for label, _ in e.terms} for port in ports)
            volumes = (prod(box[label][1] - box[label][0] for label in names) for names in labels)
            most = max(most, sum(aligned(volume * itemsize) for volume in volumes))
        return min(BUDGET, most)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """The piece as one action; arrays as in the call's contract."""
        limit = self.workspace(call)
        steps: list[Step] = []
        for ports in self._products(call):
            target, first, second = (Operand.of(call, port, arrays[port]) for port in ports)
            product = Product(target, first, second, call.piece, ports[0] in call.accumulate)
            steps += product.steps(scratch, limit)
        return with_buffers(in_sequence(steps), UFUNC_BUFFER)

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """Activations with n fastest, so that windows are copied in long runs; of a parameter, the dims of which every
        result has its own (positions of tiles) slowest, so that each is a matrix."""
        index = _map(call, port)
        if port.removesuffix(".delta") != self.parameter:
            return (*range(1, len(index)), 0)
        shared = set(call.space.labels)
        for operand in ("input", "output"):
            shared &= {label for e in _map(call, operand) for label, _ in e.terms}
        return tuple(sorted(range(len(index)), key=lambda d: not all(label in shared for label, _ in index[d].terms)))

    def _products(self, call: Call) -> list[tuple[str, str, str]]:
        """The ports (target, first, second) of what is wanted."""
        if not call.gradient:
            return [("output", self.parameter, "input")]
        products = [
            (f"{self.parameter}.delta", "output.delta", "input"),
            ("input.delta", self.parameter, "output.delta"),
        ]
        return [ports for ports in products if ports[0] in call.rects]


def _map(call: Call, port: str) -> Map:
    return call.access.maps[port.removesuffix(".delta")]


_PARAMETERS = {"conv": "filters", "conv_transpose": "filters", "linear": "weights", "tiled": "filters"}
KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {(op, gradient): Contraction(name) for op, name in _PARAMETERS.items() for gradient in (False, True)}
)
