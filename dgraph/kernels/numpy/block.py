"""Work in blocks that fit a cache, and the scratch that a block uses.

In: boxes, arrays, bytes. Out: blocks of a box (`blocks`, `block_sizes`), aligned pieces of scratch (`Carver`), a list of
steps as one action (`in_sequence`). Promise: everything is decided when an action is bound, nothing when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from dgraph.kernels.call import Action, Array
from dgraph.rect import Rect

ALIGNMENT = 64
BLOCK = 32 << 10
"""Elements of a cache block: a handful of them fit a level-2 cache."""

Step = Callable[[], object]


def blocks(box: Rect, sizes: Sequence[int], order: Sequence[int] | None = None) -> Iterator[Rect]:
    """Cut a box into blocks of at most these sizes; `order` lists the axes, the slowest loop first."""
    axes = list(order) if order is not None else list(range(box.ndim))
    starts = (range(*box.bounds[axis], max(1, sizes[axis])) for axis in axes)
    for corner in product(*starts):
        first = dict(zip(axes, corner, strict=True))
        yield Rect.of((first[d], min(first[d] + sizes[d], stop)) for d, stop in enumerate(box.stop))


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes of an array, the largest stride first; axes of length 1 come first of all."""
    keys = [(-abs(s) if n > 1 else -np.inf, d) for d, (s, n) in enumerate(zip(array.strides, array.shape, strict=True))]
    return tuple(d for _, d in sorted(keys))


def block_sizes(size: Sequence[int], order: Sequence[int], limit: int) -> tuple[int, ...]:
    """The largest sizes of volume <= limit, cut along `order` (slowest axis first), so that runs stay long."""
    sizes = list(size)
    for axis in order:
        rest = prod(sizes) // max(1, sizes[axis])
        sizes[axis] = max(1, min(sizes[axis], limit // max(1, rest)))
    return tuple(sizes)


def cache_blocks(array: Array, limit: int = BLOCK) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into blocks of at most `limit` elements, in its memory order."""
    order = memory_order(array)
    for block in blocks(Rect.whole(array.shape), block_sizes(array.shape, order, limit), order):
        yield block.slices()


class Carver:
    """Deals out aligned arrays from scratch, one behind the other. What it deals is never given back."""

    def __init__(self, scratch: Array) -> None:
        self._rest = scratch

    @property
    def rest(self) -> Array:
        """What has not been dealt out."""
        return self._rest

    def take(self, shape: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
        """An uninitialised C-contiguous array of this shape."""
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        taken, self._rest = self._rest[:nbytes], self._rest[aligned(nbytes) :]
        return taken.view(dtype).reshape(tuple(shape))

    def take_ordered(self, shape: Sequence[int], order: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
        """The same, its memory order as `order` says (slowest axis first)."""
        return self.take([shape[d] for d in order], dtype).transpose(np.argsort(order))


def aligned(nbytes: int) -> int:
    """Rounded up to the alignment of scratch."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def in_sequence(steps: Sequence[Step]) -> Action:
    """One action that does the steps in this order."""
    fixed = tuple(steps)

    def act() -> None:
        for step in fixed:
            step()

    return act


def with_buffers(action: Action, elements: int) -> Action:
    """The action with ufunc buffers of so many elements. Strided operands whose runs are at least that long are then worked on
    where they lie."""

    def act() -> None:
        before = np.setbufsize(elements)
        try:
            action()
        finally:
            np.setbufsize(before)

    return act
