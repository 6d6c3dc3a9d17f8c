"""Blocks that lie side by side, visited by a loop.

In: arrays, how they are cut. Out: `Tile`, blocks of one size; `Loop`, their views one after the other. Promise: a view is there
while the loop is at it, so that what is kept grows with the number of arrays, not with that of their blocks.

    10 rows in blocks of 4          a tile of 2 blocks       and one of what is left
    +----------+                    stack [2, 4, ...]        stack [2, ...]
    |    4     |  block 0  -+
    |    4     |  block 1  -+
    |    2     |  rest
    +----------+
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from numpy.lib.stride_tricks import as_strided

from dgraph.kernels.call import Array
from dgraph.rect import Rect


@dataclass(frozen=True)
class Tile:
    """Blocks of one size: the first starts at `start`, and `counts` of them follow each other along every axis."""

    start: tuple[int, ...]
    size: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def box(self) -> Rect:
        """All of them together."""
        return Rect(self.start, tuple(n * count for n, count in zip(self.size, self.counts, strict=True)))

    def axes(self, order: Sequence[int]) -> list[int]:
        """Those along which there are several, in this order."""
        return [axis for axis in order if self.counts[axis] > 1]

    def stack(self, array: Array, axes: Sequence[int]) -> Array:
        """The blocks of an array as one view: first the axes along which they follow each other, then a block's own. Axes of
        length 1 have no stride: NumPy copies what it works on in place if that has another one there than the result."""
        first = array[tuple(slice(start, None) for start in self.start)]
        shape = (*(self.counts[axis] for axis in axes), *self.size)
        steps = (self.size[axis] * array.strides[axis] for axis in axes)
        own = (stride if n > 1 else 0 for stride, n in zip(array.strides, self.size, strict=True))
        return as_strided(first, shape, (*steps, *own))


def tiles(box: Rect, sizes: Sequence[int]) -> Iterator[Tile]:
    """The blocks of at most these sizes that a box is cut into, those of one size together; nothing for an empty box."""
    runs = []
    for (start, stop), most in zip(box.bounds, sizes, strict=True):
        size = max(1, min(most, stop - start))
        count, rest = divmod(stop - start, size)
        runs.append([run for run in ((start, size, count), (start + count * size, rest, 1)) if run[1] * run[2]])
    for chosen in product(*runs):
        yield Tile(*(tuple(part) for part in zip(*chosen, strict=True))) if chosen else Tile((), (), ())


@dataclass(frozen=True)
class Loop:
    """Stacks to be walked along their first `depth` axes, all at once."""

    stacks: tuple[Array, ...]
    depth: int

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        """One block of every stack at a time."""
        return walk(self.stacks, self.depth)

    @property
    def first(self) -> tuple[Array, ...]:
        """The first block of every stack; all others have its shapes and strides."""
        return next(iter(self))

    def merged(self, behind: int = 0) -> Loop:
        """The same blocks in the same order along fewer axes, where all stacks go on evenly from one to the next; the first
        `behind` of them stay."""
        stacks, depth = self.stacks, self.depth
        for axis in range(depth - 1, behind, -1):
            if all(s.strides[axis - 1] == s.shape[axis] * s.strides[axis] for s in stacks):
                stacks, depth = tuple(_joined(stack, axis) for stack in stacks), depth - 1
        return Loop(stacks, depth)


def walk(stacks: Sequence[Array], depth: int) -> Iterator[tuple[Array, ...]]:
    """The blocks of stacks, one of each at a time, along the first `depth` axes."""
    if depth == 0:
        yield tuple(stacks)
    elif depth == 1:
        yield from zip(*stacks, strict=True)
    else:
        for rows in zip(*stacks, strict=True):
            yield from walk(rows, depth - 1)


def _joined(stack: Array, axis: int) -> Array:
    """The stack with an axis and the one before it as one."""
    shape, strides = stack.shape, stack.strides
    shape = (*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])
    return as_strided(stack, shape, (*strides[: axis - 1], *strides[axis:]))
