"""Windows of three places with fewer products: whether it pays, and in which blocks.

In: the windows of a call and the extents of its operands. Out: `Tiling`. Promise: no arrays, so that a plan can ask.

In one dimension two results next to each other, a tile, are sums of four products in place of six:

    v = (x0 - x2, x1 + x2, x2 - x1, x3 - x1)        of the four places that the two windows cover
    u = (w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, w2)
    y = (m0 + m1 + m2, m1 - m2 + m3)                of the products m = u v

In more dimensions each does so by itself, and the products of all channels at one of the 4, 16 or 64 places of v are one matrix
product. Winograd, Arithmetic complexity of computations, 1980; Lavin and Gray, Fast algorithms for convolutional neural networks,
2016, section 4. The gradient of filters is the transposed scheme. All factors are 1 or 1/2: rounding is that of a direct sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from dgraph.kernels.numpy.block import aligned, block_sizes
from dgraph.kernels.torch.geometry import Sizes, Windows

TAPS, PLACES, STEP = 3, 4, 2
"""Of a window, of a tile's sums, of a tile's results, by dimension."""
BUDGET = 4 << 20
"""Bytes of v and m of one block."""
LEAST = 128
"""Tiles of a block, even where those take more: a matrix product of fewer rows is slow."""
FILTERS = 64 << 10
"""Elements of filters that go to u, or come from there, at a time."""
ITEMSIZE = 4
PRODUCT, SUM, FILTER, BLOCK = 1.3, 12, 60, 2e6
"""What a product of a matrix product, a sum of an element of a tile, an element of u, and the calls of a block take, in products of
a direct convolution (oneDNN 3.12 and MKL on AVX-512, where that is at 0.9 of the machine's rate)."""
REORDER, SLOWER, FEW = 170, 3, 20480
"""What an element of a delta of filters takes besides, which oneDNN sums up in an order of its own; and how much slower it is where
the library does without oneDNN: for one sample that has so few inputs (in three dimensions: in a plane)."""
GAIN = 0.95
"""The part of the time of a direct convolution that tiles may take."""


@dataclass(frozen=True)
class Tiling:
    """Sums over windows of `size` (3 or 1 places): the window of result h begins at place h - before of the source. `results`
    [samples, spatial...]; channels of source and result."""

    results: Sizes
    before: Sizes
    size: Sizes
    inputs: int
    outputs: int

    @property
    def places(self) -> int:
        """Matrix products: the sums of a tile."""
        return int(PLACES**self._dims)

    @cached_property
    def tiles(self) -> Sizes:
        """[samples, spatial...] in tiles."""
        steps = (1, *(STEP if k == TAPS else 1 for k in self.size))
        return tuple(-(-n // step) for n, step in zip(self.results, steps, strict=True))

    @cached_property
    def block(self) -> Sizes:
        """The most tiles that are done at a time."""
        limit = max(LEAST, BUDGET // (self.places * (self.inputs + self.outputs) * ITEMSIZE))
        most = block_sizes(self.tiles, range(len(self.tiles)), limit)
        return tuple(-(-n // -(-n // m)) for n, m in zip(self.tiles, most, strict=True))

    @cached_property
    def rows(self) -> int:
        """How many rows of filters are worked on at a time."""
        return max(1, FILTERS // (prod(self.size) * max(self.inputs, self.outputs)))

    @property
    def cost(self) -> float:
        """The time it takes, in products of a direct convolution, by the constants of this module."""
        source, *sums = (prod(shape) for shape in self.windows(self.block))
        each = 2 * source + sum(sums) + sum(prod(shape) for shape in self.pairs(self.block))
        rounds = prod(-(-n // m) for n, m in zip(self.tiles, self.block, strict=True))
        products = (PRODUCT * prod(self.tiles) + FILTER) * self.places * self.inputs * self.outputs
        return products + (SUM * each + BLOCK) * rounds

    def library_cost(self, to_filters: bool) -> float:
        """The time that the library takes for it."""
        filters, inputs = (
            prod(self.size) * self.inputs * self.outputs,
            self.results[0] * self.inputs * prod(self.results[1:3]),
        )
        if not to_filters:
            return float(filters * prod(self.results))
        slower = SLOWER if self.results[0] == 1 and inputs <= FEW else 1
        return float(filters * (slower * prod(self.results) + REORDER))

    def workspace(self, to_filters: bool) -> int:
        """Bytes of scratch: u, v and m, and room for a block on its way there, in which m may stand."""
        tiles = prod(self.block)
        shapes = [(self.outputs, self.inputs), (tiles, self.inputs), (tiles, self.outputs)]
        u, v, m = (nbytes((self.places, *shape)) for shape in shapes)
        filters = nbytes(
            *stages((self.rows, *self.size, max(self.inputs, self.outputs)), (1,) * len(self.size), self.size)[1:-1]
        )
        room = max(nbytes(*self.windows(self.block)[:-1]), filters)
        if to_filters:
            return u + v + m + max(room, nbytes(*self.pairs(self.block)[:-1]))
        return u + v + max(room, m)

    def windows(self, block: Sizes) -> list[Sizes]:
        """The shapes that all places of a block of tiles go through (see `stages`): those of the source."""
        return self._stages(block, TAPS - 1, self.inputs)

    def pairs(self, block: Sizes) -> list[Sizes]:
        """The same of its results."""
        return self._stages(block, 0, self.outputs)

    def _stages(self, block: Sizes, more: int, channels: int) -> list[Sizes]:
        extents = (STEP * t + more if k == TAPS else t for t, k in zip(block[1:], self.size, strict=True))
        return stages((block[0], *extents, channels), block[1:], self.size)

    @property
    def _dims(self) -> int:
        return sum(k == TAPS for k in self.size)


def stages(shape: Sizes, tiles: Sizes, size: Sizes) -> list[Sizes]:
    """The shape [x, spatial..., c], and what becomes of it when sums replace places in one dimension after the other, the last one
    first: [4, ..., x, spatial..., c]."""
    found, extents = [shape], list(shape)
    for d in reversed(range(len(size))):
        if size[d] == TAPS:
            extents[1 + d] = tiles[d]
            found.append((*(PLACES,) * len(found), *extents))
    return found


def nbytes(*shapes: Sizes) -> int:
    """Of arrays of these shapes in scratch."""
    return sum(aligned(prod(shape) * ITEMSIZE) for shape in shapes)


def tiling_of(windows: Windows, target: str, small: Sequence[int], big: Sequence[int]) -> Tiling | None:
    """The tiles of a sum for `target` ("small", "big" or "filters") where they pay; `small` [n, a, spatial...] and `big` [n, b,
    spatial...] are extents."""
    ones = (1,) * (len(windows.size) + 2 - len(small))
    plain = {*windows.stride} == {1} and windows.groups == 1 and {*windows.size} <= {1, TAPS} and TAPS in windows.size
    dense = all(k == 1 or d == 1 for k, d in zip(windows.size, windows.dilation, strict=True))
    if not (plain and dense):
        return None
    to_big = target == "big"
    source, result = (small, big) if to_big else (big, small)
    rest = tuple(k - 1 - n for k, n in zip(windows.size, windows.before, strict=True))
    tiling = Tiling(
        (result[0], *ones, *result[2:]), rest if to_big else windows.before, windows.size, source[1], result[1]
    )
    return tiling if tiling.cost < GAIN * tiling.library_cost(target == "filters") else None
