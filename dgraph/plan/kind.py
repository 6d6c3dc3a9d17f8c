"""What the messages of a tensor are together: a collective, a halo, or just messages.

In: a tensor's layout. Out: `Kind`: its name and the mesh axes along which ranks talk. Promise: found from the fields of all ranks
alone, so that every rank finds the same; pieces may be uneven; what does not fit exactly is `messages`.

    written             read                kind
    whole by all        the same            all_reduce
    whole by all        in disjoint parts   reduce_scatter
    in disjoint parts   whole by all        all_gather
    in disjoint parts   in parts that all   all_to_all
                        meet all of them
    by one              whole by all        broadcast
    in disjoint parts   more around them    halo, and turned round, with sums

Two all-reduces that are a mean and the variance around it may be `moments` (`dgraph.plan.merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from dgraph.layout.assign import TensorLayout
from dgraph.layout.field import Booleans, Field, Interval, Mesh

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "all_reduce": "written whole by all, read whole by all: sums",
        "reduce_scatter": "written whole by all, read in parts: sums",
        "all_gather": "written in parts, read whole by all",
        "all_to_all": "written in parts, read in other parts",
        "broadcast": "written by one, read by all",
        "halo": "read beyond what is written here",
        "moments": "mean and variance of every rank's own elements, read by all: merged",
        "messages": "no pattern that all ranks share",
    }
)
KINDS = tuple(kind for kind in REASONS if kind != "messages")
"""What can be recognised; a plan may be told to leave some of them as messages."""
COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "moments")
"""Those in which every rank along the axes takes part."""

GATHERED = ("all_gather", "broadcast")
"""Those in which a rank sends the same to all others: where no memory is shared, one collective of the communicator's."""


@dataclass(frozen=True)
class Kind:
    """The name of a pattern, and the mesh axes (their numbers) along which ranks talk."""

    name: str
    axes: tuple[int, ...]

    def group(self, mesh: Mesh, rank: int) -> tuple[int, ...]:
        """The ranks that talk with `rank`, itself among them: all at its place on the other axes; empty but for collectives."""
        if self.name not in COLLECTIVES:
            return ()
        place = [np.full(1, at, dtype=np.int64) for at in mesh.coordinates(rank)]
        for axis in self.axes:
            place[axis] = np.arange(mesh.sizes[axis], dtype=np.int64)
        members = np.ravel_multi_index(np.ix_(*place), mesh.sizes).ravel()
        return tuple(members.tolist())


def recognise(tensor: TensorLayout, mesh: Mesh) -> Kind:
    """The pattern of a tensor's messages, the same on every rank."""
    read, write = tensor.read, tensor.write
    talking = _talking(tensor, mesh)
    axes = tuple(sorted(talking))
    if not axes:
        return Kind("messages", axes)
    written_whole, read_whole = not write.axes() & talking, not read.axes() & talking
    if written_whole and read_whole:
        return Kind("all_reduce" if write.equals(read) else "messages", axes)
    if written_whole and _is_cut(read, talking) and _within(read, write):
        return Kind("reduce_scatter", axes)
    if read_whole and _is_cut(write, talking) and _within(write, read):
        return Kind("all_gather", axes)
    if read_whole and _has_one_writer(write, axes, mesh) and _within(write, read):
        return Kind("broadcast", axes)
    cut = _is_cut(write, talking), _is_cut(read, talking)
    if all(cut) and _meet_all(write, read, talking):
        return Kind("all_to_all", axes)
    if (cut[0] and _within(write, read)) or (cut[1] and _within(read, write)):
        return Kind("halo", axes)
    return Kind("messages", axes)


def _talking(tensor: TensorLayout, mesh: Mesh) -> frozenset[int]:
    """The axes along which messages may go: not those of replicas, nor those that cut a dimension, for reading and writing alike,
    into disjoint parts."""
    free = frozenset(a for a, n in enumerate(mesh.sizes) if n > 1 and a not in tensor.replicas)
    for read, write in zip(tensor.read.intervals, tensor.write.intervals, strict=True):
        if write.axes() and _same(read, write) and write.is_disjoint():
            free -= write.axes()
    return free


def _same(one: Interval, other: Interval) -> bool:
    return np.array_equal(one.start, other.start) and np.array_equal(one.stop, other.stop)


def _is_cut(field: Field, axes: frozenset[int]) -> bool:
    """Whether ranks along these axes have disjoint parts, none of them empty: each axis cuts exactly one dimension."""
    seen: set[int] = set()
    for interval in field.intervals:
        cutting = interval.axes() & axes
        if cutting and (seen & cutting or not interval.is_disjoint() or interval.empty().any()):
            return False
        seen |= cutting
    return seen == axes


def _within(inner: Field, outer: Field) -> bool:
    """Whether every rank's rect of one field lies in that of the other, or is empty."""
    inside: Booleans = np.ones((1,) * inner.intervals[0].start.ndim, dtype=np.bool_)
    for small, large in zip(inner.intervals, outer.intervals, strict=True):
        inside = inside & (small.start >= large.start) & (small.stop <= large.stop)
    return bool((inside | _empty(inner)).all())


def _empty(field: Field) -> Booleans:
    gone: Booleans = np.zeros((1,) * field.intervals[0].start.ndim, dtype=np.bool_)
    for interval in field.intervals:
        gone = gone | interval.empty()
    return gone


def _has_one_writer(write: Field, axes: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether along these axes just one rank has anything, wherever one stands on the others."""
    there = ~_empty(write)
    shape = [mesh.sizes[axis] if axis in axes else n for axis, n in enumerate(there.shape)]
    return bool((np.broadcast_to(there, shape).sum(axis=axes) == 1).all())


def _meet_all(write: Field, read: Field, axes: frozenset[int]) -> bool:
    """Whether every part has elements in common with every other: they are cut in different dimensions, whole in the other's."""
    for one, other in zip(write.intervals, read.intervals, strict=True):
        if one.axes() & axes and other.axes() & axes:
            return False
        cut, whole = (one, other) if one.axes() & axes else (other, one)
        if not ((cut.start >= whole.start) & (cut.stop <= whole.stop)).all():
            return False
    return True
