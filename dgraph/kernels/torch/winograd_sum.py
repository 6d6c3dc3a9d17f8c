"""Windows of three places with fewer products: the sums themselves, block of tiles by block of tiles.

In: a `Tiling` and arrays. Out: steps. Promise: source and result lie anywhere, in any memory order; what a window covers outside of
the source is zero.

    results                 filters -> u;   source -> v, m = v u, m -> result
    filters' gradient       source -> v, delta -> e, u += e v;   u -> filters
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from math import prod

import torch
from torch import Tensor

from dgraph.kernels.call import Array
from dgraph.kernels.numpy.block import Carver, Step, blocks
from dgraph.kernels.torch.geometry import Sizes
from dgraph.kernels.torch.memory import tensor
from dgraph.kernels.torch.winograd import PLACES, STEP, TAPS, Tiling, stages
from dgraph.rect import Rect

Scheme = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Step]]
"""From places in one dimension to the four sums of a tile."""
Passing = Callable[[Tensor], Sequence[Step]]
"""What a part of the result passes when it is there."""


def of_windows(x: Sequence[Tensor], out: Sequence[Tensor]) -> list[Step]:
    """v of the four places that two windows cover."""
    return [
        partial(torch.sub, x[0], x[2], out=out[0]),
        partial(torch.add, x[1], x[2], out=out[1]),
        partial(torch.sub, x[2], x[1], out=out[2]),
        partial(torch.sub, x[3], x[1], out=out[3]),
    ]


def of_pair(y: Sequence[Tensor], out: Sequence[Tensor]) -> list[Step]:
    """What the deltas of two results add to those of the products m."""
    return [
        partial(out[0].copy_, y[0]),
        partial(torch.add, y[0], y[1], out=out[1]),
        partial(torch.sub, y[0], y[1], out=out[2]),
        partial(out[3].copy_, y[1]),
    ]


def of_filters(w: Sequence[Tensor], out: Sequence[Tensor]) -> list[Step]:
    """u of a filter's three places."""
    return [
        partial(torch.add, w[0], w[2], out=out[1]),
        partial(out[1].mul_, 0.5),
        partial(torch.add, out[1], w[1], alpha=-0.5, out=out[2]),
        partial(out[1].add_, w[1], alpha=0.5),
        partial(out[0].copy_, w[0]),
        partial(out[3].copy_, w[2]),
    ]


def of_turned(w: Sequence[Tensor], out: Sequence[Tensor]) -> list[Step]:
    """The same of a filter turned round."""
    return of_filters(w[::-1], out)


def to_filters(u: Sequence[Tensor]) -> list[Step]:
    """The delta of a filter's three places, in place of the first three of u."""
    return [
        partial(u[0].add_, u[1], alpha=0.5),
        partial(u[0].add_, u[2], alpha=0.5),
        partial(u[3].add_, u[1], alpha=0.5),
        partial(u[1].sub_, u[2]),
        partial(u[1].mul_, 0.5),
        partial(torch.add, u[3], u[2], alpha=0.5, out=u[2]),
    ]


def to_pair(m: Sequence[Tensor]) -> list[Step]:
    """Two results, in place of the first two of m."""
    return [*to_pair_partly(m), partial(m[0].add_, m[2]), partial(m[1].add_, m[3])]


def to_pair_partly(m: Sequence[Tensor]) -> list[Step]:
    """The same but for the last sums, m0 + m2 and m1 + m3."""
    return [partial(m[0].add_, m[1]), partial(m[1].sub_, m[2])]


def spread(x: Tensor, rooms: Sequence[Tensor], scheme: Scheme, size: Sizes) -> list[Step]:
    """The sums of x [n, spatial..., c] in one dimension after the other, the last first, each into the next of the rooms."""
    steps: list[Step] = []
    dims = [d for d in reversed(range(len(size))) if size[d] == TAPS]
    for lead, (d, room) in enumerate(zip(dims, rooms, strict=True)):
        axis = lead + 1 + d
        tiles, places = room.shape[axis + 1], x.shape[axis]
        most = places - STEP * (tiles - 1)
        x_k = [x[(slice(None),) * axis + (slice(k, k + STEP * (tiles - 1) + 1, STEP),)] for k in range(most)]
        steps += scheme(x_k, [*room])
        x = room
    return steps


def parts(m: Tensor, dims: int, count: int) -> list[list[Tensor]]:
    """By each of the `dims` leading dimensions its four parts, of only the first `count` in those before it."""
    return [[m[(slice(count),) * d + (k,)] for k in range(PLACES)] for d in range(dims)]


class Tiles:
    """The blocks of a tiling, in scratch as `Tiling.workspace` says."""

    def __init__(self, tiling: Tiling, scratch: Array, to_filters: bool) -> None:
        carver, most = Carver(scratch), prod(tiling.block)
        self.tiling = tiling
        self.dims = sum(k == TAPS for k in tiling.size)
        self._u = _flat(carver, tiling.places * tiling.outputs * tiling.inputs)
        self._v = _flat(carver, tiling.places * most * tiling.inputs)
        self._e = _flat(carver, tiling.places * most * tiling.outputs * to_filters)
        self._rest = carver.rest

    def to_result(self, source: Array, filters: Array, result: Array, adds: bool, turned: bool,
                  bias: Tensor | None, passing: Passing) -> list[Step]:  # fmt: skip
        """result [n, outputs, spatial...] (+)= the sums of source [n, inputs, spatial...] times filters [outputs, inputs, ...], or
        turned round and [inputs, outputs, ...]; with a bias [outputs], and what every block of it passes then."""
        x, w, y = (_inner(array) for array in (source, filters, result))
        steps, factor = self._from_filters(w, of_turned if turned else of_filters)
        shared: dict[Sizes, tuple[Tensor, Tensor, list[Step]]] = {}
        for block in self._blocks():
            if block.size not in shared:
                room, v, middle = self._spread(block.size, self.tiling.windows(block.size), self._v, of_windows)
                m, products = self._products(block.size, v, factor if turned else factor.transpose(1, 2), bias)
                shared[block.size] = room, m, [*middle, *products]
            room, m, middle = shared[block.size]
            steps += [*self._read(x, block, self.tiling.before, room), *middle]
            steps += self._written(m, y, block, adds, passing)
        return steps

    def to_filters(self, source: Array, delta: Array, filters: Array, adds: bool) -> list[Step]:
        """filters [outputs, inputs, ...] (+)= the sums of delta [n, outputs, spatial...] times source [n, inputs, spatial...]."""
        x, w, y = (_inner(array) for array in (source, filters, delta))
        u, none = self._u.view(self.tiling.places, w.shape[0], -1), (0,) * len(self.tiling.size)
        steps: list[Step] = []
        shared: dict[Sizes, tuple[Tensor, Tensor, list[Step], list[Step], Step]] = {}
        for block in self._blocks():
            size = block.size
            if size not in shared:
                room, v, of_source = self._spread(size, self.tiling.windows(size), self._v, of_windows)
                other, e, of_delta = self._spread(size, self.tiling.pairs(size), self._e, of_pair)
                shared[size] = room, other, of_source, of_delta, partial(torch.baddbmm, u, e.transpose(1, 2), v, out=u)
            room, other, of_source, of_delta, products = shared[size]
            steps += [*self._read(x, block, self.tiling.before, room), *of_source]
            steps += [*self._read(y, block, none, other), *of_delta, products]
        return [self._u.zero_, *steps, *self._to_filters(u, w, adds)]

    def _blocks(self) -> Iterator[Rect]:
        return blocks(Rect.whole(self.tiling.tiles), self.tiling.block)

    def _rows(self, w: Tensor) -> Iterator[slice]:
        """Of filters [rows, spatial..., c], those that are worked on at a time."""
        for start in range(0, w.shape[0], self.tiling.rows):
            yield slice(start, min(start + self.tiling.rows, w.shape[0]))

    def _from_filters(self, w: Tensor, scheme: Scheme) -> tuple[list[Step], Tensor]:
        """The steps that make u [places, rows, c] of filters [rows, spatial..., c], and u."""
        size, steps = self.tiling.size, []
        u = self._u.view(*(PLACES,) * self.dims, w.shape[0], *(1,) * len(size), w.shape[-1])
        for rows in self._rows(w):
            x, carver = w[rows], Carver(self._rest)
            rooms = [_shaped(carver, shape) for shape in stages(tuple(x.shape), (1,) * len(size), size)[1:-1]]
            steps += spread(x, [*rooms, u[(slice(None),) * self.dims + (rows,)]], scheme, size)
        return steps, u.view(self.tiling.places, w.shape[0], -1)

    def _to_filters(self, u: Tensor, w: Tensor, adds: bool) -> list[Step]:
        """Filters [rows, spatial..., c] (+)= what the sums u [places, rows, c] are of them."""
        u = u.view(*(PLACES,) * self.dims, *u.shape[1:])
        there = w[(slice(None), *(slice(None) if k == TAPS else 0 for k in self.tiling.size))].movedim(0, -2)
        steps: list[Step] = []
        for rows in self._rows(w):
            some = u[..., rows, :]
            for four in parts(some, self.dims, TAPS):
                steps += to_filters(four)
            target, found = there[..., rows, :], some[(slice(TAPS),) * self.dims]
            steps.append(partial(target.add_ if adds else target.copy_, found))
        return steps

    def _spread(self, size: Sizes, shapes: Sequence[Sizes], flat: Tensor,
                scheme: Scheme) -> tuple[Tensor, Tensor, list[Step]]:  # fmt: skip
        """Room for a block of an operand, the matrices [places, tiles, c] that it becomes, and the steps that do it."""
        carver = Carver(self._rest)
        room, *rooms = [_shaped(carver, shape) for shape in shapes[:-1]]
        last = flat[: prod(shapes[-1])].view(shapes[-1])
        steps = spread(room, [*rooms, last], scheme, self.tiling.size)
        return room, last.view(self.tiling.places, prod(size), -1), steps

    def _products(self, size: Sizes, v: Tensor, factor: Tensor, bias: Tensor | None) -> tuple[Tensor, list[Step]]:
        """The products m [4, ..., samples, spatial..., c] of a block, and the steps from v to results but for their last sums."""
        m = _shaped(Carver(self._rest), (self.tiling.places, prod(size), factor.shape[-1]))
        steps: list[Step] = [partial(torch.bmm, v, factor, out=m)]
        m = m.view(*(PLACES,) * self.dims, *size, -1)
        if bias is not None:
            steps.append(partial(m[(1,) * self.dims].add_, bias))
        *others, last = parts(m, self.dims, STEP)
        for four in others:
            steps += to_pair(four)
        return m, [*steps, *to_pair_partly(last)]

    def _region(self, block: Rect, extents: Sequence[int], before: Sizes) -> list[tuple[int, int]]:
        """Where an operand's part of these extents begins and ends that belongs to a block of tiles."""
        steps = (1, *(STEP if k == TAPS else 1 for k in self.tiling.size))
        starts = (t * step - b for t, step, b in zip(block.start, steps, (0, *before), strict=True))
        return [(start, start + n) for start, n in zip(starts, extents, strict=True)]

    def _read(self, x: Tensor, block: Rect, before: Sizes, room: Tensor) -> list[Step]:
        """A block of x [n, spatial..., c], and zeros around it."""
        region = self._region(block, room.shape[:-1], before)
        inside = [(max(0, a), min(b, n)) for (a, b), n in zip(region, x.shape, strict=False)]
        steps: list[Step] = [] if inside == region else [room.zero_]
        if all(a < b for a, b in inside):
            there = tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(inside, region, strict=True))
            steps.append(partial(room[there].copy_, x[tuple(slice(a, b) for a, b in inside)]))
        return steps

    def _written(self, m: Tensor, y: Tensor, block: Rect, adds: bool, passing: Passing) -> list[Step]:
        """The last sums of a block's products, which are results, to where they belong in y [n, spatial..., c]."""
        extents = [n * (STEP if k == TAPS else 1) for n, k in zip(block.size, (1, *self.tiling.size), strict=True)]
        region = self._region(block, extents, (0,) * len(self.tiling.size))
        there = y[tuple(slice(a, min(b, n)) for (a, b), n in zip(region, y.shape, strict=False))]
        whole = all(b <= n for (_, b), n in zip(region, y.shape, strict=False))
        steps: list[Step] = []
        for one, other, target in self._together(m, there) if whole else self._apart(m, there):
            if adds:
                steps += [partial(one.add_, other), partial(target.add_, one)]
            else:
                steps.append(partial(torch.add, one, other, out=target))
        return [*steps, *passing(there)]

    def _together(self, m: Tensor, there: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The pairs of sums, and where each pair's own sum belongs, with all results of the tiles' other dimensions at a time."""
        for d, k in enumerate(self.tiling.size, start=1):
            there = there.unfold(d, STEP, STEP) if k == TAPS else there
        there = there.movedim(list(range(-self.dims, 0)), list(range(self.dims)))
        m, last = m[(slice(STEP),) * (self.dims - 1)], self.dims - 1
        for k in range(STEP):
            yield m.select(last, k), m.select(last, k + STEP), there.select(last, k)

    def _apart(self, m: Tensor, there: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same, one result of a tile at a time, where some of its others are beyond the edge."""
        for which in product(range(STEP), repeat=self.dims):
            rest = iter(which)
            some = [slice(next(rest), None, STEP) if k == TAPS else slice(None) for k in (1, *self.tiling.size)]
            target = there[tuple(some)]
            within = tuple(slice(n) for n in target.shape)
            yield m[which][within], m[(*which[:-1], which[-1] + STEP)][within], target


def _flat(carver: Carver, count: int) -> Tensor:
    return tensor(carver.take((count,), "float32"))


def _shaped(carver: Carver, shape: Sizes) -> Tensor:
    return tensor(carver.take(shape, "float32"))


def _inner(array: Array) -> Tensor:
    """[n, c, spatial...] as [n, spatial..., c]."""
    return tensor(array).movedim(1, -1)
