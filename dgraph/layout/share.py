"""Which part of an op's iteration space each rank does.

In: an op node, its split (or the rects on which its input was written), the mesh. Out: a `Share`: a list of pieces a rank.
Promise: over the ranks that differ on the share's axes, the pieces cover the iteration space exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from dgraph.error import ConfigError
from dgraph.graph.access import Affine
from dgraph.graph.build import closest
from dgraph.graph.node import Access, Op, OpNode, Split
from dgraph.layout.field import Integers, Interval, Mesh, cut, whole
from dgraph.rect import Rect

Piece = Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class Share:
    """The pieces of every rank (a rank may have fewer: empty ones are skipped), and the mesh axes that tell ranks' shares apart."""

    access: Access
    pieces: tuple[Piece, ...]
    axes: frozenset[int]

    def at(self, coordinates: Sequence[int]) -> tuple[Rect, ...]:
        """The non-empty pieces of one rank, as rects over the labels of the space."""
        place = tuple(coordinates[axis] for axis in sorted(self.axes | self._depends))
        found = self._rects.get(place)
        if found is None:
            labels = self.access.space.labels
            rects = (Rect.of(piece[name].at(coordinates) for name in labels) for piece in self.pieces)
            found = self._rects[place] = tuple(rect for rect in rects if rect)
        return found

    @cached_property
    def _depends(self) -> frozenset[int]:
        return frozenset(axis for piece in self.pieces for interval in piece.values() for axis in interval.axes())

    @cached_property
    def _rects(self) -> dict[tuple[int, ...], tuple[Rect, ...]]:
        return {}


def share_of_split(node: OpNode, record: Op, mesh: Mesh) -> Share:
    """The share that the node's own split and piece counts ask for; ConfigError where they name what is not there."""
    access, cuts = node.access, record.cuts(node.access)
    choices: list[list[Piece]] = []
    used: set[str] = set()
    split = dict(node.split or {})
    for letter in dict.fromkeys([*split, *node.pieces]):
        target = _target(letter, node, record, cuts)
        names = target if isinstance(target, tuple) else (target,)
        if used & set(names):
            what = f"node {node.name}: {letter} cuts a label that is cut already"
            raise ConfigError(what, "one letter a label").about(node.name, _key(node, letter))
        used.update(names)
        choices.append(_letter_pieces(access, target, split.get(letter), node.pieces.get(letter), node, letter, mesh))
    return _combine(access, choices, mesh)


def share_of_input(node: OpNode, record: Op, port: str, written: Sequence[Interval], mesh: Mesh) -> Share:
    """The share that follows the rects on which the operand of `port` was written: labels that cannot be found from the operand
    alone, and those that may not be cut, stay whole. What several ranks wrote parts of a sum of goes to the first of them; what no
    rank wrote goes with what stands before it."""
    access = node.access
    results = {name for out, _ in node.outputs for e in access.maps[out] for name, _ in e.terms}
    choices: list[list[Piece]] = []
    for expression, interval, extent in zip(access.maps[port], written, access.dims[port], strict=True):
        if interval.axes() and not any(name in record.uncut for name, _ in expression.terms[:1]):
            alone = interval if interval.is_disjoint() else interval.disjoint()
            choices.append(_follow(access, expression, alone.filled(extent), extent, results, record.proportional))
    return _combine(access, choices, mesh)


def compound_pieces(outer: str, inner: str, extent: int, interval: Interval) -> list[Piece]:
    """An interval of `outer * extent + inner` as boxes: the end of a first group, whole groups, the start of a last one.

    extent 4, [2, 13):    . . 2 3 | 4 5 6 7 | 8 9 10 11 | 12 . . .
                          head      middle                tail
    """
    first, last = interval.start, np.maximum(interval.stop, interval.start)
    head_group, head = np.divmod(first, extent)
    middle_start = head_group + (head > 0)
    tail_group, tail = np.divmod(last, extent)
    within = tail_group < middle_start
    pieces: list[Piece] = [
        {
            outer: Interval(head_group, middle_start),
            inner: Interval(head, np.where(within, tail, extent)),
        },
        {outer: Interval(middle_start, tail_group), inner: Interval(np.zeros_like(first), np.full_like(first, extent))},
        {
            outer: Interval(tail_group, np.where(within | (tail == 0), tail_group, tail_group + 1)),
            inner: Interval(np.zeros_like(first), np.where(within, 0, tail)),
        },
    ]
    return [piece for piece in pieces if not (piece[outer].empty() | piece[inner].empty()).all()] or pieces[:1]


def _target(letter: str, node: OpNode, record: Op, cuts: Mapping[str, str | tuple[str, str]]) -> str | tuple[str, str]:
    known = {name: label for name, label in cuts.items() if label not in record.uncut}
    target = cuts.get(letter.upper())
    if target is None:
        what = f"node {node.name}: {record.name} has no dimension {letter} to split"
        raise ConfigError(what, closest(letter, known or ["none"])).about(node.name, _key(node, letter))
    for name in target if isinstance(target, tuple) else (target,):
        if name in record.uncut:
            what = f"node {node.name}: {letter} of {record.name} cannot be split"
            raise ConfigError(what, record.uncut[name]).about(node.name, _key(node, letter))
    return target


def _key(node: OpNode, letter: str) -> str:
    """Where a node names a letter."""
    return f"split.{letter}" if letter in (node.split or {}) else f"pieces.{letter}"


def _letter_pieces(access: Access, target: str | tuple[str, str], split: Split | None, count: int | None,
                   node: OpNode, letter: str, mesh: Mesh) -> list[Piece]:  # fmt: skip
    """The pieces of one letter: cut by axes, or a grid of `count` pieces of which every rank gets a run."""
    extents = dict(zip(access.space.labels, access.space.extents, strict=True))
    total = extents[target] if isinstance(target, str) else extents[target[0]] * extents[target[1]]
    axes = tuple(mesh.names.index(axis) for axis in split.axes) if split else ()
    sizes = split.sizes if split else None
    if sizes is not None:
        _check_sizes(sizes, axes, total, node, letter, mesh)
        if count is not None:
            what = f"node {node.name}: {letter} has both sizes and pieces"
            raise ConfigError(what, "pieces are those of a fixed grid").about(node.name, f"pieces.{letter}")
    if count is None:
        intervals = [cut(mesh, total, axes, sizes)]
    else:
        intervals = _grid_intervals(cut(mesh, count, axes), count, total)
    if isinstance(target, str):
        return [{target: interval} for interval in intervals]
    return [piece for interval in intervals for piece in compound_pieces(*target, extents[target[1]], interval)]


def _check_sizes(sizes: Sequence[int], axes: Sequence[int], total: int, node: OpNode, letter: str, mesh: Mesh) -> None:
    parts = 1
    for axis in axes:
        parts *= mesh.sizes[axis]
    if len(sizes) != parts or sum(sizes) != total:
        raise ConfigError(
            f"node {node.name}: sizes {list(sizes)} do not cut {letter} of {total} into {parts}",
            f"wanted are {parts} sizes whose sum is {total}",
        ).about(node.name, f"split.{letter}.sizes")


def _grid_intervals(run: Interval, count: int, total: int) -> list[Interval]:
    """The pieces of a fixed grid that fall to a rank: number `start .. stop` of `count` over `total`."""
    longest = int((run.stop - run.start).max())
    intervals = []
    for k in range(max(longest, 1)):
        number = run.start + k
        there = number < run.stop
        quotient, rest = divmod(total, count)
        start = number * quotient + np.minimum(number, rest)
        stop = start + quotient + (number < rest)
        intervals.append(Interval(start, np.where(there, stop, start)))
    return intervals


def _follow(access: Access, expression: Affine, written: Interval, extent: int, results: set[str],
            proportional: bool) -> list[Piece]:  # fmt: skip
    """The labels of one operand index, from the interval on which the operand was written; a window's by where it starts.
    `proportional`: where the label is longer than the operand, as in a concatenation, the bounds grow with it."""
    extents = dict(zip(access.space.labels, access.space.extents, strict=True))
    leading = [(n, c) for n, c in expression.terms if n in results] or list(expression.terms)
    if not leading:
        return [{}]
    name, coefficient = leading[0]
    inner = [(n, c) for n, c in expression.terms if n != name]
    if inner and not expression.offset and inner[0][1] == 1 and coefficient == extents[inner[0][0]] and name == "g":
        return compound_pieces(name, inner[0][0], coefficient, written)

    grows = proportional and extents[name] > extent
    longer, offset = (extents[name], 0) if grows else (extent, 0 if inner else expression.offset)

    def boundary(at: Integers) -> Integers:
        """Where a bound of the operand falls among the label's values; both ends stay ends."""
        inside = np.clip(-((offset - at) * longer // (coefficient * extent)), 0, extents[name])
        return np.where(at <= 0, 0, np.where(at >= extent, extents[name], inside))

    empty = written.empty()
    start = boundary(written.start)
    return [{name: Interval(start, np.where(empty, start, boundary(written.stop)))}]


def _combine(access: Access, choices: Sequence[Sequence[Piece]], mesh: Mesh) -> Share:
    """Every combination of the letters' pieces; labels that none names stay whole."""
    base = {name: whole(mesh, n) for name, n in zip(access.space.labels, access.space.extents, strict=True)}
    pieces: list[Piece] = []
    for combination in product(*choices):
        piece = dict(base)
        for part in combination:
            piece |= part
        pieces.append(piece)
    return Share(access, tuple(pieces), frozenset(a for piece in pieces for i in piece.values() for a in i.axes()))
