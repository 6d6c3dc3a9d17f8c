"""How often boxes cover each part of a region.

In: many boxes, as columns of corners. Out: counts on the grid that their faces cut. Promise: time and memory grow with the faces,
not with the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from dgraph.layout.field import Integers
from dgraph.rect import Rect


def corners(rects: Sequence[Rect], ndim: int = 0) -> tuple[Integers, Integers]:
    """Rects as columns: starts and stops, int64 [rect, dimension]."""
    if not rects:
        return np.zeros((0, ndim), dtype=np.int64), np.zeros((0, ndim), dtype=np.int64)
    return np.array([r.start for r in rects], dtype=np.int64), np.array([r.stop for r in rects], dtype=np.int64)


def paint(inside: Rect, corners: tuple[Integers, Integers]) -> tuple[Integers, Callable[[Integers], Rect]]:
    """How often boxes cover each cell of the grid that all their faces cut out of `inside`; and the rect of a cell.

    Corners are counted with alternating signs and summed up along every dimension (a summed-area table, turned round).
    """
    starts, stops = corners
    cut = [d for d, (a, b) in enumerate(inside.bounds) if (starts[:, d] > a).any() or (stops[:, d] < b).any()]
    if not cut:
        return np.full((1,), len(starts), dtype=np.int64), lambda index: inside
    edges, low, high = [], [], []
    for d in cut:
        first, last = inside.bounds[d]
        left, right = np.clip(starts[:, d], first, last), np.clip(stops[:, d], first, last)
        faces = np.unique(np.concatenate([left, right, [first, last]]))
        edges.append(faces)
        low.append(np.searchsorted(faces, left))
        high.append(np.searchsorted(faces, right))
    counts = np.zeros([len(faces) for faces in edges], dtype=np.int64)
    for corner in product((0, 1), repeat=len(cut)):
        at = tuple(high[d] if side else low[d] for d, side in enumerate(corner))
        np.add.at(counts, at, (-1) ** sum(corner))
    for d in range(len(cut)):
        np.cumsum(counts, axis=d, out=counts)

    def cell(index: Integers) -> Rect:
        bounds = list(inside.bounds)
        for d, faces, i in zip(cut, edges, index, strict=True):
            bounds[d] = (int(faces[i]), int(faces[i + 1]))
        return Rect.of(bounds)

    return counts[tuple(slice(0, len(faces) - 1) for faces in edges)], cell
