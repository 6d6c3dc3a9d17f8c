"""A product block by block: nested loops that make the views of a block when they come to it.

In: a product, scratch. Out: the steps that do it. Promise: what is kept does not grow with the number of blocks, but with that of
their kinds: those at the rim of an operand, where padding is, are each of its own.

    h in blocks of 2 rows, padding 1        runs
     padding | 0  1  2  3  4  5  6 |       h = 0..1     1 block, of which a part is padding
       [ 0  1 ]                            h = 2..5     2 blocks, one view each and a step
             [ 2  3 ]                      h = 6        1 block, the rest
                   [ 4  5 ]
                         [ 6  ]

An operand that is packed is packed in the loop of the last axis that it has: those within find it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.block import Carver, Step
from dgraph.kernels.numpy.contraction.matrix import Axes, Matrix, Sizes
from dgraph.kernels.numpy.contraction.product import Product
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

Bounds = tuple[tuple[int, int], ...]
Loaded = tuple[Array | None, Array | None]


@dataclass(frozen=True)
class Part:
    """Something that is done with arrays; those of an operand move with the loops around it, those of None are scratch."""

    act: Callable[..., object]
    arrays: tuple[Array, ...]
    operands: tuple[Operand | None, ...]

    def repeated(self, label: str, size: int, count: int) -> Part:
        """The same for so many blocks, each so many values of a label further on."""
        if count == 1:
            return self
        steps = [operand.strides[label] * size if operand else 0 for operand in self.operands]
        stacks = [
            as_strided(array, (count, *array.shape), (step, *array.strides))
            for array, step in zip(self.arrays, steps, strict=True)
        ]
        return Part(partial(_each, self.act), tuple(stacks), self.operands)


def _each(act: Callable[..., object], *stacks: Array) -> None:
    for arrays in zip(*stacks, strict=True):
        act(*arrays)


def _in_turn(parts: Sequence[Part]) -> Part:
    """Parts one after the other, as one."""
    if len(parts) == 1:
        return parts[0]
    ends = accumulate((len(part.arrays) for part in parts), initial=0)
    acts = [(part.act, slice(*pair)) for part, pair in zip(parts, pairwise(ends), strict=True)]

    def act(*arrays: Array) -> None:
        for one, mine in acts:
            one(*arrays[mine])

    return Part(act, sum((part.arrays for part in parts), ()), sum((part.operands for part in parts), ()))


@dataclass(frozen=True)
class Run:
    """Blocks of one size behind each other along an axis."""

    start: int
    size: int
    count: int


@dataclass(frozen=True)
class Nest:
    """The loops of a product, `result` and `term` its blocks of scratch for results and for the terms of their sums, `packs` those
    for its operands; None where it needs none."""

    product: Product
    sizes: Sizes
    result: Array | None
    term: Array | None
    packs: tuple[Array | None, Array | None]

    @staticmethod
    def of(product: Product, scratch: Array) -> Nest:
        """The loops, in blocks for which the scratch is enough."""
        sizes = product.sizes(scratch.nbytes)
        carver, dtype = Carver(scratch), product.target.array.dtype
        result, term, first, second = (
            carver.take((matrix.volume(sizes),), dtype) if needed else None
            for matrix, needed in zip((product.matrices[0], *product.matrices), product.needed(sizes), strict=True)
        )
        return Nest(product, sizes, result, term, (first, second))

    def step(self) -> Step:
        """All of it."""
        part = _in_turn(self._body(-1, self.product.piece.bounds, (None, None), True))
        return partial(part.act, *part.arrays)

    @cached_property
    def loops(self) -> Axes:
        """The axes of which there is more than one block, the slowest first."""
        whole = self.product.piece.size
        return tuple(axis for axis in self.product.loops if self.sizes[axis] < whole[axis])

    @cached_property
    def _outer(self) -> int:
        """How many of the loops are around a block of results."""
        return sum(axis not in self.product.groups.inner for axis in self.loops)

    def _body(self, depth: int, bounds: Bounds, loaded: Loaded, first: bool) -> list[Part]:
        """What is done within the loop `depth`, of which the first block has these bounds; `first`: whether it begins a sum."""
        parts, loaded = self._packed(depth, bounds, loaded)
        if depth + 1 < len(self.loops):
            parts += self._looped(depth + 1, bounds, loaded, first)
        else:
            parts += self._multiplied(Rect.of(bounds), loaded, first)
        if depth + 1 == self._outer and self.result is not None:
            parts += self._delivered(Rect.of(bounds), self.result)
        return parts

    def _looped(self, depth: int, bounds: Bounds, loaded: Loaded, first: bool) -> Iterator[Part]:
        """The loop `depth`, run by run."""
        axis = self.loops[depth]
        inner = axis in self.product.groups.inner
        for k, run in enumerate(self._runs(axis, inner and first)):
            within = (*bounds[:axis], (run.start, run.start + run.size), *bounds[axis + 1 :])
            body = _in_turn(self._body(depth, within, loaded, first and not (inner and k)))
            yield body.repeated(self.product.labels[axis], run.size, run.count)

    def _runs(self, axis: int, alone: bool) -> list[Run]:
        """The blocks along an axis; those that may reach beyond an operand each for itself, and the first one if `alone`."""
        (start, stop), size = self.product.piece.bounds[axis], self.sizes[axis]
        inside = self.product.reaches(axis)
        runs: list[Run] = []
        joins = False
        for at in range(start, stop, size):
            block = Run(at, min(size, stop - at), 1)
            free = inside(at, at + block.size) and not (alone and at == start)
            if runs and joins and free and block.size == runs[-1].size:
                runs[-1] = Run(runs[-1].start, block.size, runs[-1].count + 1)
            else:
                runs.append(block)
            joins = free
        return runs

    def _packed(self, depth: int, bounds: Bounds, loaded: Loaded) -> tuple[list[Part], Loaded]:
        """The parts that pack the operands of which this loop is the last, and all that are packed by now, as matrices."""
        parts: list[Part] = []
        found = list(loaded)
        for k, (matrix, buffer) in enumerate(zip(self.product.matrices[1:], self.packs, strict=True)):
            last = max((d for d, axis in enumerate(self.loops) if axis in matrix.axes), default=-1)
            if buffer is not None and last == depth:
                box = matrix.operand.narrow(Rect.of(bounds))
                view, found[k] = matrix.packed(buffer, box)
                parts += _pack(matrix.operand, box, view)
        return parts, (found[0], found[1])

    def _multiplied(self, block: Rect, loaded: Loaded, first: bool) -> list[Part]:
        """The product of a block."""
        target, *matrices = self.product.matrices
        pairs = [_operand(matrix, block, array) for matrix, array in zip(matrices, loaded, strict=True)]
        out = _operand(target, block, self._scratch(block, self.result))
        into = out if first else (self._scratch(block, self.term), None)
        parts = [_part(np.matmul, *pairs, into)]
        return parts if first else [*parts, _part(np.add, out, into, out)]

    def _scratch(self, block: Rect, buffer: Array | None) -> Array | None:
        """A block of results in scratch, as a matrix."""
        return None if buffer is None else self.product.matrices[0].packed(buffer, block, self.product.turned)[1]

    def _delivered(self, block: Rect, buffer: Array) -> Iterator[Part]:
        """Takes the results of a block to the target."""
        target = self.product.target
        view, _ = self.product.matrices[0].packed(buffer, block, self.product.turned)
        origin = target.narrow(block).start
        for part, array in target.parts(block, once=True):
            there, here = (array, target), (view[part.slices(origin)], None)
            yield _part(np.copyto, there, here) if self.product.is_assigned else _part(np.add, there, here, there)


Pair = tuple[Array | None, Operand | None]


def _operand(matrix: Matrix, block: Rect, packed: Array | None) -> Pair:
    """The matrix of a block: packed, or where it lies."""
    return (packed, None) if packed is not None else (matrix.direct(matrix.operand.narrow(block)), matrix.operand)


def _part(act: Callable[..., object], *pairs: Pair) -> Part:
    arrays = tuple(array for array, _ in pairs if array is not None)
    assert len(arrays) == len(pairs), "a block that is not direct has a buffer"
    return Part(act, arrays, tuple(operand for _, operand in pairs))


def _pack(operand: Operand, box: Rect, view: Array) -> Iterator[Part]:
    """Copies a box of an operand into `view` (one axis a label), with zeros for what lies outside."""
    for cell, inside in operand.cells(box):
        for margin in cell.subtract(inside):
            yield _part(_clear, (view[margin.slices(box.start)], None))
        if inside:
            yield _part(np.copyto, (view[inside.slices(box.start)], None), (operand.view(inside), operand))


def _clear(array: Array) -> None:
    array.fill(0)
