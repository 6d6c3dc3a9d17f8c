"""Strided views of operands over boxes of labels.

In: an array, its rect, its access map. Out: `Operand`, whose views have one axis a label. Promise: nothing is copied;
labels that an operand does not have are axes of length 1, so that views of all operands of one box broadcast against
each other.

    input index y = h*2 + i - 1, tensor of 6 rows          box: h in [0, 3), i in [0, 3)
                                                           i = 0: h in [1, 3) (h = 0 stands in the padding)
     padding | 0  1  2  3  4  5 | padding                  i = 1: h in [0, 3)
       h=0 [ i  i  i ]                                     i = 2: h in [0, 3)
             h=1 [ i  i  i ]                               `parts` gives these three boxes, each with its view
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from numpy.lib.stride_tricks import as_strided

from dgraph.graph.access import Affine, Map, Space
from dgraph.kernels.call import Array, Call
from dgraph.rect import Rect


@dataclass(frozen=True)
class Operand:
    """A port of a call: the array stands for `rect` of the tensor, `index` says which labels touch what of it."""

    array: Array
    index: Map
    rect: Rect
    space: Space

    @staticmethod
    def of(call: Call, port: str, array: Array) -> Operand:
        """The operand of a port; `<port>.delta` has the map of `<port>`."""
        return Operand(array, call.access.maps[port.removesuffix(".delta")], call.rects[port], call.space)

    @cached_property
    def labels(self) -> frozenset[str]:
        return frozenset(label for expression in self.index for label, _ in expression.terms)

    @cached_property
    def strides(self) -> dict[str, int]:
        """Bytes from one value of a label to the next."""
        strides = dict.fromkeys(self.space.labels, 0)
        for expression, stride in zip(self.index, self.array.strides, strict=True):
            for label, coefficient in expression.terms:
                strides[label] += coefficient * stride
        return strides

    @property
    def is_plain(self) -> bool:
        """Whether every dim has at most one label."""
        return all(len(expression.terms) <= 1 for expression in self.index)

    def narrow(self, box: Rect) -> Rect:
        """The box with every label that this operand lacks as [0, 1)."""
        pairs = zip(self.space.labels, box.bounds, strict=True)
        return Rect.of([bounds if label in self.labels else (0, 1) for label, bounds in pairs])

    def is_inside(self, box: Rect) -> bool:
        """Whether every point of the box is an element of the rect."""
        spans = self.space.box(box)
        values = (expression.bounds(spans) for expression in self.index)
        return all(a <= c and d <= b for (a, b), (c, d) in zip(self.rect.bounds, values, strict=True))

    def is_exact(self, box: Rect) -> bool:
        """Whether the box touches every element of the rect, and each once."""
        sizes = self.space.box(box)
        once = all(is_injective(expression, sizes) for expression in self.index)
        return once and self.is_inside(box) and self.narrow(box).volume == self.rect.volume

    def view(self, box: Rect) -> Array:
        """The elements of a box that is inside, one axis a label."""
        box = self.narrow(box)
        corner = dict(zip(self.space.labels, box.start, strict=True))
        first = [
            slice(sum([c * corner[label] for label, c in e.terms]) + e.offset - a, None)
            for e, a in zip(self.index, self.rect.start, strict=True)
        ]
        strides = [self.strides[label] for label in self.space.labels]
        return as_strided(self.array[tuple(first)], box.size, strides)

    def cells(self, box: Rect, once: bool = False) -> Iterator[tuple[Rect, Rect]]:
        """Disjoint boxes that make up `box` (narrowed to the labels), each with the part of it that lies in the rect.

        `once`: none of them holds an element twice, so that one can write to it.
        """
        box = self.narrow(box)
        walked = self._walked(box, once)
        spans = (range(*bounds) if label in walked else (None,) for label, bounds in self.space.box(box).items())
        for values in product(*spans):
            pairs = zip(box.bounds, values, strict=True)
            cell = Rect.of([bounds if v is None else (v, v + 1) for bounds, v in pairs])
            yield cell, self._clip(cell)

    def parts(self, box: Rect, once: bool = False) -> Iterator[tuple[Rect, Array]]:
        """The cells without what lies outside, each with its view."""
        for _, clipped in self.cells(box, once):
            if clipped:
                yield clipped, self.view(clipped)

    def _walked(self, box: Rect, once: bool) -> set[str]:
        """The labels to be taken value by value: all but the longest of every dim that clips or repeats."""
        spans = self.space.box(box)
        walked: set[str] = set()
        for expression, (first, last) in zip(self.index, self.rect.bounds, strict=True):
            start, stop = expression.bounds(spans)
            if start < first or stop > last or (once and not is_injective(expression, spans)):
                extents = sorted((spans[label][1] - spans[label][0], label) for label, _ in expression.terms)
                walked.update(label for _, label in extents[:-1])
        return walked

    def _clip(self, box: Rect) -> Rect:
        """The box without points outside the rect; no dim that clips has more than one label of length > 1."""
        spans = self.space.box(box)
        for expression, (first, last) in zip(self.index, self.rect.bounds, strict=True):
            start, stop = expression.bounds(spans)
            if stop <= first or start >= last:
                return Rect.empty(box.ndim)
            for label, coefficient in expression.terms:
                a, b = spans[label]
                below, above = max(0, first - start), max(0, stop - last)
                if b - a > 1 and (below or above):
                    spans[label] = a - (-below // coefficient), b - (-(-above // coefficient))
        return Rect.of(spans.values())


def is_injective(expression: Affine, spans: dict[str, tuple[int, int]]) -> bool:
    """Whether no two points of the box have the same value; False may be said too often, True never."""
    reach = 0
    for label, coefficient in sorted(expression.terms, key=lambda term: term[1]):
        extent = spans[label][1] - spans[label][0]
        if extent > 1 and coefficient <= reach:
            return False
        reach += coefficient * (extent - 1)
    return True
