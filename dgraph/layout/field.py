"""Intervals and rects of all ranks at once.

In: a mesh and how its axes cut labels. Out: `Interval` and `Field`: start and stop as arrays over the mesh. Promise: an array has
extent 1 along every mesh axis on which it does not depend, so the layout of 65,536 ranks that cuts one label by one
axis is as small as that axis, and "which ranks" is a question of broadcasting.

    mesh y: 2, x: 3    H cut by y:  start [[0], [5]]   W cut by x:  start [[0, 4, 8]]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgraph.graph.access import Affine, Map
from dgraph.graph.node import Dim
from dgraph.rect import Rect

Integers = np.ndarray[Any, np.dtype[np.int64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Mesh:
    """The named grid of ranks; the last axis is the fastest."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @staticmethod
    def of(axes: Mapping[str, int]) -> Mesh:
        return Mesh(tuple(axes), tuple(axes.values()))

    @property
    def ranks(self) -> int:
        product = 1
        for size in self.sizes:
            product *= size
        return product

    def coordinates(self, rank: int) -> tuple[int, ...]:
        """Where a rank stands on every axis."""
        places = []
        for size in reversed(self.sizes):
            rank, place = divmod(rank, size)
            places.append(place)
        return tuple(reversed(places))

    def index(self, axis: int) -> Integers:
        """The coordinate along `axis`, as an array over the mesh."""
        shape = [1] * len(self.sizes)
        shape[axis] = self.sizes[axis]
        return np.arange(self.sizes[axis], dtype=np.int64).reshape(shape)

    def constant(self, value: int) -> Integers:
        """An array over the mesh that depends on no axis."""
        return np.full((1,) * len(self.sizes), value, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Interval:
    """`start <= x < stop` on every rank; empty where stop <= start."""

    start: Integers
    stop: Integers

    def axes(self) -> frozenset[int]:
        """The mesh axes on which it depends."""
        return _axes((self.start, self.stop))

    def empty(self) -> Booleans:
        return self.stop <= self.start

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both, rank by rank."""
        return Interval(np.minimum(self.start, other.start), np.maximum(self.stop, other.stop))

    def is_disjoint(self) -> bool:
        """Whether the intervals at different places on its axes have nothing in common."""
        start, stop = (a.ravel() for a in np.broadcast_arrays(self.start, self.stop))
        there = stop > start
        order = np.argsort(start[there])
        return bool((start[there][order][1:] >= stop[there][order][:-1]).all())

    def disjoint(self) -> Interval:
        """The same union with nothing in it twice: each place keeps what no place with a lower start (or number) has.

        [0, 2) [1, 3) [1, 3)  ->  [0, 2) [2, 3) [3, 3)
        """
        start, stop = np.broadcast_arrays(self.start, self.stop)
        order = np.lexsort((stop.ravel(), start.ravel()))
        reached = np.maximum.accumulate(np.where(stop > start, stop, 0).ravel()[order])
        first = np.empty_like(start).ravel()
        first[order] = np.maximum(start.ravel()[order], np.concatenate([[0], reached[:-1]]))
        kept = first.reshape(start.shape)
        return Interval(np.minimum(kept, np.maximum(stop, start)), stop)

    def filled(self, extent: int) -> Interval:
        """Disjoint intervals, made to cover [0, extent): each runs on to the next one, where windows have left out some between.

        [0, 2) [4, 6)  of 8  ->  [0, 4) [4, 8)
        """
        start, stop = np.broadcast_arrays(self.start, self.stop)
        there = stop > start
        if (stop - start)[there].sum() == extent:
            return self
        first = start.ravel()
        places = np.flatnonzero(there) if there.any() else np.zeros(1, dtype=np.int64)
        places = places[np.argsort(first[places], kind="stable")]
        bounds = np.concatenate([[0], first[places[1:]], [extent]])
        starts, stops = first.copy(), stop.ravel().copy()
        starts[places], stops[places] = bounds[:-1], bounds[1:]
        return Interval(starts.reshape(start.shape), stops.reshape(start.shape))

    def at(self, coordinates: Sequence[int]) -> tuple[int, int]:
        """(start, stop) of one rank."""
        return _at(self.start, coordinates), _at(self.stop, coordinates)


def whole(mesh: Mesh, extent: int) -> Interval:
    """The same interval [0, extent) on every rank."""
    return Interval(mesh.constant(0), mesh.constant(extent))


def cut(mesh: Mesh, extent: int, axes: Sequence[int], sizes: Sequence[int] | None = None) -> Interval:
    """[0, extent) cut over mesh axes, the first the slowest: balanced, or in pieces of the given sizes."""
    index, parts = flat_index(mesh, axes)
    if sizes is None:
        return balanced(Interval(mesh.constant(0), mesh.constant(extent)), index, parts)
    bounds = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))])
    return Interval(bounds[index], bounds[index + 1])


def flat_index(mesh: Mesh, axes: Sequence[int]) -> tuple[Integers, int]:
    """The number of every rank along several axes together, and how many numbers there are."""
    index, parts = mesh.constant(0), 1
    for axis in axes:
        index = index * mesh.sizes[axis] + mesh.index(axis)
        parts *= mesh.sizes[axis]
    return index, parts


def balanced(interval: Interval, index: Integers, parts: int) -> Interval:
    """Share `index` of `interval` over `parts`: the first `length mod parts` shares get one more."""
    quotient, rest = np.divmod(np.maximum(interval.stop - interval.start, 0), parts)
    start = interval.start + index * quotient + np.minimum(index, rest)
    return Interval(start, start + quotient + (index < rest))


@dataclass(frozen=True, eq=False)
class Field:
    """A rect on every rank. Where it is empty, every dimension has start = dim and stop = 0, which adds nothing to a hull."""

    dim: Dim
    intervals: tuple[Interval, ...]

    @staticmethod
    def of(dim: Dim, intervals: Iterable[Interval], empty: Booleans | None = None) -> Field:
        """The field of `intervals`, empty in all dimensions where any of them (or `empty`) is empty."""
        entries = tuple(intervals)
        flags = [interval.empty() for interval in entries] + ([] if empty is None else [empty])
        flags = [flag for flag in flags if flag.any()]
        if not flags:
            return Field(dim, entries)
        gone = flags[0]
        for flag in flags[1:]:
            gone = gone | flag
        return Field(
            dim,
            tuple(
                Interval(np.where(gone, n, interval.start), np.where(gone, 0, interval.stop))
                for n, interval in zip(dim, entries, strict=True)
            ),
        )

    @staticmethod
    def nowhere(mesh: Mesh, dim: Dim) -> Field:
        """Empty on every rank."""
        return Field.of(dim, (whole(mesh, n) for n in dim), np.ones((1,) * len(mesh.sizes), dtype=np.bool_))

    def at(self, coordinates: Sequence[int]) -> Rect:
        """The rect of one rank. Ranks at the same place on the axes that matter share it: it is made once."""
        place = tuple(coordinates[axis] for axis in self._sorted_axes)
        rect = self._rects.get(place)
        if rect is None:
            rect = self._rects[place] = Rect.of(interval.at(coordinates) for interval in self.intervals)
        return rect

    def axes(self) -> frozenset[int]:
        """The mesh axes on which it depends."""
        return frozenset(self._sorted_axes)

    def meeting(self, rect: Rect) -> Iterator[tuple[int, ...]]:
        """The places on the whole mesh where the field has elements in common with `rect`, at 0 on axes that do not matter, in the
        order of the ranks."""
        hit = np.argwhere(self.overlaps(rect)) if rect else ()
        yield from (tuple(place.tolist()) for place in hit)

    @cached_property
    def _sorted_axes(self) -> tuple[int, ...]:
        return tuple(sorted(_axes(a for interval in self.intervals for a in (interval.start, interval.stop))))

    @cached_property
    def _rects(self) -> dict[tuple[int, ...], Rect]:
        return {}

    def hull(self, other: Field) -> Field:
        """The bounding box of both, rank by rank."""
        if self.equals(other):
            return self
        return Field(
            self.dim,
            tuple(a.hull(b) for a, b in zip(self.intervals, other.intervals, strict=True)),
        )

    def only_where(self, kept: Booleans) -> Field:
        """The field made empty where `kept` is false."""
        return Field.of(self.dim, self.intervals, ~kept)

    def overlaps(self, rect: Rect) -> Booleans:
        """On which ranks the field has elements in common with `rect` (an array over the axes that matter)."""
        hit: Booleans = np.ones((1,) * self.intervals[0].start.ndim, dtype=np.bool_)
        for interval, (start, stop) in zip(self.intervals, rect.bounds, strict=True):
            hit = hit & (interval.start < stop) & (interval.stop > start)
        return hit

    def equals(self, other: Field) -> bool:
        """Whether both are the same rect on every rank."""
        return self is other or all(
            np.array_equal(a.start, b.start) and np.array_equal(a.stop, b.stop)
            for a, b in zip(self.intervals, other.intervals, strict=True)
        )


def image_interval(expression: Affine, piece: Mapping[str, Interval], extent: int) -> Interval:
    """The indices of one dimension that a piece of every rank touches, clipped to it. Where a label of the expression is empty it
    is [extent, 0), which adds nothing to a hull."""
    start: Any = np.full((1,) * _ndim(piece), expression.offset, dtype=np.int64)
    stop = start
    empty: Any = np.zeros((1,) * _ndim(piece), dtype=np.bool_)
    for name, coefficient in expression.terms:
        start = start + coefficient * piece[name].start
        stop = stop + coefficient * (piece[name].stop - 1)
        if piece[name].empty().any():
            empty = empty | piece[name].empty()
    start, stop = np.maximum(start, 0), np.minimum(stop + 1, extent)
    return Interval(np.where(empty, extent, start), np.where(empty, 0, stop)) if empty.any() else Interval(start, stop)


def image_field(index: Map, labels: Iterable[str], piece: Mapping[str, Interval], dim: Dim) -> Field:
    """The rects that a piece of every rank touches under a map: `dgraph.graph.access.image` for all ranks. It is empty where
    one of `labels`, all labels of the space, is."""
    intervals = [image_interval(expression, piece, extent) for expression, extent in zip(index, dim, strict=True)]
    empty: Any = np.zeros((1,) * _ndim(piece), dtype=np.bool_)
    for name in labels:
        if piece[name].empty().any():
            empty = empty | piece[name].empty()
    return Field.of(dim, intervals, empty)


def _ndim(piece: Mapping[str, Interval]) -> int:
    return next(iter(piece.values())).start.ndim


def _axes(arrays: Iterable[Integers]) -> frozenset[int]:
    return frozenset(axis for array in arrays for axis, size in enumerate(array.shape) if size > 1)


def _at(array: Integers, coordinates: Sequence[int]) -> int:
    return int(array[tuple(c if n > 1 else 0 for c, n in zip(coordinates, array.shape, strict=True))])
