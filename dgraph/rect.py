"""Boxes of integers in global coordinates.

In: starts and sizes. Out: `Rect`, frozen and hashable, with the few operations that the whole system is built on.
Promise: pure integers, no arrays; an empty rect is one with a size of 0, and all empty rects of one ndim are equal
(they are normalised to zeros, as traces print them).

      start
        +---------+      stop = start + size, exclusive
        |         |
        +---------+ stop
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod


def _array(values: tuple[int, ...]) -> str:
    width = max((len(str(v)) for v in values), default=1)
    return "[" + ", ".join(str(v).rjust(width) for v in values) + "]"


def dim_text(dim: Sequence[int]) -> str:
    """A dim as traces print it: `[256  16  64  64]`."""
    width = max((len(str(v)) for v in dim), default=1)
    return "[" + " ".join(str(v).rjust(width) for v in dim) + "]"


@dataclass(frozen=True, slots=True)
class Rect:
    """The box `start <= x < start + size`, one entry a dimension."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @staticmethod
    def of(bounds: Iterable[tuple[int, int]]) -> Rect:
        """The rect of (start, stop) pairs; where any of them is empty, the empty rect."""
        pairs = list(bounds)
        size = tuple([stop - start for start, stop in pairs])
        if size and min(size) <= 0:
            return Rect.empty(len(pairs))
        return Rect(tuple([start for start, _ in pairs]), size)

    @staticmethod
    def whole(dim: Sequence[int]) -> Rect:
        """The rect that covers a tensor of this dim."""
        return Rect.of((0, n) for n in dim)

    @staticmethod
    def empty(ndim: int) -> Rect:
        """The empty rect of so many dimensions: all zeros."""
        return Rect((0,) * ndim, (0,) * ndim)

    @property
    def ndim(self) -> int:
        return len(self.start)

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple([a + n for a, n in zip(self.start, self.size, strict=True)])

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of every dimension."""
        return tuple([(a, a + n) for a, n in zip(self.start, self.size, strict=True)])

    @property
    def volume(self) -> int:
        """How many elements; 1 for a rect of no dimensions."""
        return prod(self.size)

    def __bool__(self) -> bool:
        """Whether there is any element in it."""
        return all(n > 0 for n in self.size)

    def __contains__(self, other: Rect) -> bool:
        return not other or all(a <= c and d <= b for (a, b), (c, d) in zip(self.bounds, other.bounds, strict=True))

    def intersect(self, other: Rect) -> Rect:
        """What both cover."""
        return Rect.of((max(a, c), min(b, d)) for (a, b), (c, d) in zip(self.bounds, other.bounds, strict=True))

    def hull(self, other: Rect) -> Rect:
        """The bounding box of both; an empty rect adds nothing."""
        if not self:
            return other
        if not other:
            return self
        return Rect.of((min(a, c), max(b, d)) for (a, b), (c, d) in zip(self.bounds, other.bounds, strict=True))

    def shift(self, offset: Sequence[int]) -> Rect:
        """The rect moved by `offset`; an empty one stays where it is."""
        if not self:
            return self
        return Rect(tuple(a + o for a, o in zip(self.start, offset, strict=True)), self.size)

    def subtract(self, other: Rect) -> list[Rect]:
        """Disjoint rects that cover this one without `other`, at most 2 a dimension.

        +-----------+
        |     0     |      cut dimension by dimension:
        +--+-----+--+      what lies before and after `other` is split off,
        |2 |other| 3|      the middle goes on to the next dimension
        +--+-----+--+
        |     1     |
        +-----------+
        """
        middle = self.intersect(other)
        if not middle:
            return [self] if self else []
        rest: list[Rect] = []
        bounds = list(self.bounds)
        for d, (a, b) in enumerate(middle.bounds):
            first, last = bounds[d]
            for part in ((first, a), (b, last)):
                if part[0] < part[1]:
                    rest.append(Rect.of([*bounds[:d], part, *bounds[d + 1 :]]))
            bounds[d] = (a, b)
        return rest

    def slices(self, origin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Slices of this rect in an array whose first element stands at `origin` (zeros if left out)."""
        base = origin if origin is not None else (0,) * self.ndim
        return tuple([slice(a - o, a - o + n) for a, n, o in zip(self.start, self.size, base, strict=True)])

    def __str__(self) -> str:
        """`[ 0  0 28 28]+[256  16  36  36]`: start and size."""
        return f"{dim_text(self.start)}+{dim_text(self.size)}"

    def __repr__(self) -> str:
        return f"Rect(array({_array(self.start)}, dtype=int32), array({_array(self.size)}, dtype=int32))"


def share(extent: int, parts: int, index: int) -> tuple[int, int]:
    """(start, stop) of share `index` of `extent` over `parts`: the first `extent mod parts` shares get one more."""
    quotient, rest = divmod(extent, parts)
    start = index * quotient + min(index, rest)
    return start, start + quotient + (index < rest)
