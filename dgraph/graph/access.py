"""Access maps: which elements of an operand an op touches, as affine expressions of its labels.

In: labels (integers with an extent) and expressions over them. Out: images of boxes of labels. Promise: pure
integers. Every coefficient is at least 1 and every extent at least 1, so that the image of a box is found from its
two corners.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgraph.rect import Rect


@dataclass(frozen=True)
class Affine:
    """`sum(coefficient * label) + offset`: one index of an operand."""

    terms: tuple[tuple[str, int], ...] = ()
    offset: int = 0

    def bounds(self, box: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """(start, stop) of the values over a non-empty box of (start, stop) by label."""
        start = stop = self.offset
        for label, coefficient in self.terms:
            first, last = box[label]
            start += coefficient * first
            stop += coefficient * (last - 1)
        return start, stop + 1

    def is_dense(self, box: dict[str, tuple[int, int]]) -> bool:
        """Whether every integer within the bounds is taken by some point of the box."""
        reach = 0
        for label, coefficient in sorted(self.terms, key=lambda term: term[1]):
            first, last = box[label]
            if last - first > 1 and coefficient > reach + 1:
                return False
            reach += coefficient * (last - first - 1)
        return True

    def __str__(self) -> str:
        parts = [label if c == 1 else f"{label}*{c}" for label, c in self.terms]
        if self.offset or not parts:
            parts.append(str(self.offset))
        return " + ".join(parts).replace("+ -", "- ")


def label(name: str, coefficient: int = 1, offset: int = 0) -> Affine:
    """`coefficient * name + offset`."""
    return Affine(((name, coefficient),), offset)


ZERO = Affine()

Map = tuple[Affine, ...]
"""One expression a dimension of the operand. The empty tuple reads nothing of it: an edge of order only."""


@dataclass(frozen=True)
class Space:
    """An iteration space: labels and their extents, in one order."""

    labels: tuple[str, ...]
    extents: tuple[int, ...]

    def box(self, piece: Rect) -> dict[str, tuple[int, int]]:
        """The (start, stop) of every label of a piece."""
        return dict(zip(self.labels, piece.bounds, strict=True))

    @property
    def whole(self) -> Rect:
        return Rect.whole(self.extents)


def image(index: Map, space: Space, piece: Rect, dim: tuple[int, ...]) -> Rect:
    """The rect of an operand of this `dim` that `piece` touches: the bounding box of the map's values, clipped."""
    if not piece or not index:
        return Rect.empty(len(dim))
    box = space.box(piece)
    pairs = (expression.bounds(box) for expression in index)
    return Rect.of((max(a, 0), min(b, n)) for (a, b), n in zip(pairs, dim, strict=True))
