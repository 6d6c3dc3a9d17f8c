"""The one rule of communication: from the rects of a tensor to the messages of one rank.

In: a tensor's layout and a rank. Out: `Messages`, in columns. Promise: sender and receiver find the same messages, each alone,
from the fields; the time grows with the extents of the mesh axes that the tensor depends on, not with the number of ranks squared.

    value on read_rect[r] = sum over ranks s at r's place on the replica axes of (what s wrote on write_rect[s] ∩ read_rect[r])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgraph.layout.assign import TensorLayout
from dgraph.layout.field import Field, Integers, Mesh
from dgraph.rect import Rect


@dataclass(frozen=True, eq=False)
class Messages:
    """Messages of one rank, sorted by peer: `peers` [m], `starts` and `stops` [m, ndim]."""

    peers: Integers
    starts: Integers
    stops: Integers

    @staticmethod
    def of(entries: Sequence[tuple[int, Rect]], ndim: int) -> Messages:
        """Messages from (peer, rect), sorted by peer."""
        peers = np.array([peer for peer, _ in entries], dtype=np.int64)
        starts = np.array([rect.start for _, rect in entries], dtype=np.int64).reshape(-1, ndim)
        stops = np.array([rect.stop for _, rect in entries], dtype=np.int64).reshape(-1, ndim)
        return Messages(peers, starts, stops)

    def __len__(self) -> int:
        return len(self.peers)

    def __iter__(self) -> Iterator[tuple[int, Rect]]:
        """(peer, rect) of every message."""
        for peer, start, stop in zip(self.peers.tolist(), self.starts.tolist(), self.stops.tolist(), strict=True):
            yield peer, Rect.of(zip(start, stop, strict=True))

    @property
    def elements(self) -> int:
        """How many elements all of them carry."""
        return int(np.prod(self.stops - self.starts, axis=1).sum()) if len(self) else 0


def receives(tensor: TensorLayout, mesh: Mesh, rank: int) -> Messages:
    """What `rank` needs of other ranks: their write rects cut with its read rect."""
    return _messages(tensor.write, tensor.read.at(mesh.coordinates(rank)), tensor.replicas, mesh, rank)


def sends(tensor: TensorLayout, mesh: Mesh, rank: int) -> Messages:
    """What other ranks need of `rank`: their read rects cut with its write rect."""
    return _messages(tensor.read, tensor.write.at(mesh.coordinates(rank)), tensor.replicas, mesh, rank)


def _messages(field: Field, rect: Rect, replicas: frozenset[int], mesh: Mesh, rank: int) -> Messages:
    """The ranks at `rank`'s place on the replica axes, other than itself, whose field meets `rect`."""
    own = mesh.coordinates(rank)
    free = [axis for axis, size in enumerate(mesh.sizes) if axis not in replicas and size > 1]
    if not rect or not free:
        return _none(rect.ndim)
    hit = field.overlaps(rect)
    shape = [1] * len(mesh.sizes)
    for axis, size in enumerate(hit.shape):
        if axis not in free and size > 1:
            hit = np.take(hit, [own[axis]], axis=axis)
    for axis in free:
        shape[axis] = mesh.sizes[axis]
    places = list(np.nonzero(np.broadcast_to(hit, shape)))
    peers = np.zeros_like(places[0])
    for axis, size in enumerate(mesh.sizes):
        if axis not in free:
            places[axis] = np.full_like(peers, own[axis])
        peers = peers * size + places[axis]
    others = peers != rank
    return _columns(field, rect, [place[others] for place in places], peers[others])


def _columns(field: Field, rect: Rect, places: list[Integers], peers: Integers) -> Messages:
    starts = np.empty((len(peers), rect.ndim), dtype=np.int64)
    stops = np.empty_like(starts)
    for d, (interval, (first, last)) in enumerate(zip(field.intervals, rect.bounds, strict=True)):
        starts[:, d] = np.maximum(_pick(interval.start, places), first)
        stops[:, d] = np.minimum(_pick(interval.stop, places), last)
    return Messages(peers, starts, stops)


def _pick(array: Integers, places: list[Integers]) -> Integers:
    if array.size == 1:
        return array.reshape(())
    picked: Integers = array[tuple(place if n > 1 else 0 for place, n in zip(places, array.shape, strict=True))]
    return picked


def _none(ndim: int) -> Messages:
    nothing = np.zeros((0, ndim), dtype=np.int64)
    return Messages(np.zeros(0, dtype=np.int64), nothing, nothing)
