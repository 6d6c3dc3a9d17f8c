"""Sums that windows scatter, as sums that are gathered: each result looks for what adds to it.

In: a product whose target has windows, as the gradient of a convolution by its input. Out: products whose second operand has them.
Promise: the same sums; every element of the target belongs to one of the products.

With a stride s, the results fall into s phases, each with taps of its own, in every dimension:

    target  q = h * 2 + i - 1, i in [0, 3)          phase 0: q = 2 t,     tap 1:  h = t
                                                    phase 1: q = 2 t + 1, tap 2:  h = t;   tap 0:  h = t + 1

Taps run backwards, so that h grows with them: a convolution with the filters mirrored. It pays where windows overlap, so that
scattered sums would go over the target many times, and where fewer elements are moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from dgraph.graph.access import Affine, Map, Space, label
from dgraph.kernels.call import Array
from dgraph.kernels.numpy.contraction.product import Product, volume
from dgraph.kernels.numpy.view import Operand
from dgraph.rect import Rect

ADDED, SHUFFLED = 2.5, 16
"""What it costs to move an element, in elements copied in long runs: added to the target; mirrored with the filters."""


@dataclass(frozen=True)
class Sliding:
    """A dim of the target over which windows slide: `position * stride + offset * dilation + start`."""

    dim: int
    position: str
    offset: str
    stride: int
    dilation: int
    start: int


@dataclass(frozen=True)
class Phase:
    """Every `stride`-th element of a dim of the target, from `first`, `count` of them, and what adds to it: taps `low` to `high` in
    steps of `step`; the last is of position `base` for the first element, and each before it of one `reach` further on."""

    sliding: Sliding
    first: int
    count: int
    low: int
    high: int
    step: int
    base: int
    reach: int

    @property
    def taps(self) -> int:
        """How many."""
        return max(0, (self.high - self.low) // self.step + 1)


def gathered(whole: Product) -> Iterator[Product]:
    """The product as those that gather; itself where it has no windows in its target or where that would not pay."""
    slides = _slides(whole)
    if not slides or not whole.piece or not whole.target.rect or not _pays(whole, slides):
        yield whole
        return
    spans = whole.target.space.box(whole.piece)
    for phases in product(*(_phases(one, whole.target.rect.bounds[one.dim], spans) for one in slides)):
        yield _product(whole, phases)


def _slides(whole: Product) -> list[Sliding]:
    """The dims of the target whose two labels are of second alone and of first alone; none if there are others with several."""
    found = []
    first, second = whole.first.labels - whole.second.labels, whole.second.labels - whole.first.labels
    for dim, expression in enumerate(whole.target.index):
        names = dict(expression.terms)
        positions, offsets = [*names.keys() & second], [*names.keys() & first]
        if len(names) == 2 and positions and offsets:
            (position,), (offset,) = positions, offsets
            found.append(Sliding(dim, position, offset, names[position], names[offset], expression.offset))
    return found


def _pays(whole: Product, slides: list[Sliding]) -> bool:
    """Whether windows overlap, and gathering moves fewer elements than scattering."""
    g, labels, sizes = whole.groups, whole.labels, list(whole.piece.size)
    taps = prod(sizes[labels.index(one.offset)] for one in slides)
    overlap = any(one.dilation * (sizes[labels.index(one.offset)] - 1) >= one.stride for one in slides)
    rows, cols, inner = (volume(sizes, group) for group in (g.rows, g.cols, g.inner))
    return overlap and inner * (taps * cols + SHUFFLED * rows) < ADDED * rows * cols


def _phases(one: Sliding, bounds: tuple[int, int], spans: dict[str, tuple[int, int]]) -> list[Phase]:
    """The phases of a dim of which the target has the elements `bounds`."""
    start, stop = bounds
    step, reach = one.stride // gcd(one.stride, one.dilation), one.dilation // gcd(one.stride, one.dilation)
    phases = []
    for first in range(start, min(start + one.stride, stop)):
        taps = [i for i in range(*spans[one.offset]) if (first - one.start - i * one.dilation) % one.stride == 0]
        low, high = (taps[0], taps[-1]) if taps else (0, -1)
        base = (first - one.start - high * one.dilation) // one.stride
        phases.append(Phase(one, first, -(-(stop - first) // one.stride), low, high, step, base, reach))
    return phases


def _product(whole: Product, phases: tuple[Phase, ...]) -> Product:
    """The part of the product that makes one phase in every dim; its labels of positions count the elements of the phase, those of
    offsets the taps, from the last."""
    spans = whole.target.space.box(whole.piece)
    for phase in phases:
        spans |= {phase.sliding.position: (0, phase.count), phase.sliding.offset: (0, phase.taps)}
    space = Space(whole.labels, tuple(stop for _, stop in spans.values()))
    piece = Rect.of(spans.values())
    target, first, second = whole.target, whole.first, whole.second
    given = whole.target.space.box(whole.piece)
    for phase in phases:
        one = phase.sliding
        at = phase.first - target.rect.start[one.dim]
        target = _replaced(target, one.dim, label(one.position), (0, phase.count), slice(at, None, one.stride))
        dim = _dim_of(first, one.offset)
        origin = first.rect.start[dim]
        tail = phase.high - origin
        # down to `low`, whose predecessor may be before the first element
        taps = slice(tail, tail - phase.taps * phase.step if tail >= phase.taps * phase.step else None, -phase.step)
        first = _replaced(first, dim, label(one.offset), (0, phase.taps), taps if phase.taps else slice(0, 0))
        dim = _dim_of(second, one.position)
        index = Affine(((one.position, 1), (one.offset, phase.reach)), phase.base)
        start, stop = second.rect.bounds[dim]
        low, high = given[one.position]
        inside = max(start, low), min(stop, high)
        second = _replaced(second, dim, index, inside, slice(inside[0] - start, inside[1] - start))
    return replace(whole, target=_in(space, target), first=_in(space, first), second=_in(space, second), piece=piece)


def _dim_of(operand: Operand, name: str) -> int:
    """The dim that a label counts."""
    return next(d for d, expression in enumerate(operand.index) if any(term == name for term, _ in expression.terms))


def _replaced(operand: Operand, dim: int, index: Affine, bounds: tuple[int, int], part: slice) -> Operand:
    """The operand with another index, and a part of its elements, in one dim."""
    array: Array = operand.array[(slice(None),) * dim + (part,)]
    maps: Map = (*operand.index[:dim], index, *operand.index[dim + 1 :])
    rects = [*operand.rect.bounds[:dim], bounds, *operand.rect.bounds[dim + 1 :]]
    return Operand(array, maps, Rect.of(rects), operand.space)


def _in(space: Space, operand: Operand) -> Operand:
    return Operand(operand.array, operand.index, operand.rect, space)
