"""Blocks of whole samples, and what lies at their labels.

In: values [n, k, h, w] with all classes k of each sample (n, h, w), class numbers [n, 1, h, w] as floats. Out: views and scratch,
block by block. Promise: blocks hold whole samples.

A class number is compared with 0, 1, ... k - 1, so that the value at the label is a masked sum: no indices are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.block import Carver, block_sizes, blocks, memory_order
from dgraph.kernels.numpy.blockwise import LIMIT, like, nbytes
from dgraph.rect import Rect

K = 1
"""The axis of classes."""


@dataclass(frozen=True)
class Block:
    """Scratch for one block: `wide` arrays have a value a class, `narrow` ones one a sample, all in one memory order."""

    slices: tuple[slice, ...]
    samples: tuple[slice, ...]
    wide: tuple[Array, ...]
    narrow: tuple[Array, ...]


@dataclass(frozen=True)
class Shelf:
    """The dtypes of a kernel's scratch: so many arrays of a value a class, and of one a sample."""

    wide: tuple[str, ...]
    narrow: tuple[str, ...]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of scratch for scores of this shape."""
        elements = max(LIMIT, shape[K])
        return sum(nbytes(1, dtype, elements) for dtype in self.wide) + sum(nbytes(1, dtype) for dtype in self.narrow)

    def blocks(self, scores: Array, scratch: Array) -> Iterator[Block]:
        """Blocks of whole samples, in the memory order of the scores."""
        if not scores.size:
            return
        carver, elements = Carver(scratch), max(LIMIT, scores.shape[K])
        wide = [carver.take([elements], dtype) for dtype in self.wide]
        narrow = [carver.take([LIMIT], dtype) for dtype in self.narrow]
        order = [d for d in memory_order(scores) if d != K]
        shape = (*scores.shape[:K], 1, *scores.shape[K + 1 :])
        for block in blocks(Rect.whole(shape), block_sizes(shape, order, elements // scores.shape[K]), [*order, K]):
            samples = block.slices()
            slices = (*samples[:K], slice(None), *samples[K + 1 :])
            view = scores[slices]
            one = view[:, :1]
            yield Block(slices, samples, tuple(like(view, w) for w in wide), tuple(like(one, n) for n in narrow))


def class_numbers(scores: Array) -> Array:
    """0, 1, ... k - 1 along the axis of classes."""
    return np.arange(scores.shape[K], dtype=scores.dtype).reshape(
        [n if d == K else 1 for d, n in enumerate(scores.shape)]
    )


def sum_over_classes(values: Array, out: Array) -> None:
    """One sum a sample."""
    np.add.reduce(values, axis=K, out=out, keepdims=True)


def at_label(label: Array, classes: Array, values: Array, mask: Array, out: Array) -> None:
    """`out = values[label]`, 0 for samples that do not count. Leaves nothing else in `values`."""
    np.not_equal(label, classes, out=mask)
    np.copyto(values, 0, where=mask)
    sum_over_classes(values, out)
