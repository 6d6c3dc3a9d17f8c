"""Upsampling, forward and gradient.

In: calls with the ports `input` and `output`. Out: kernels for both modes. Promise: each place in a tile has its own weights of the
three taps of a linear window; those that fall outside count for the element at the edge.

    scale 2, places t = 0, 1        in   |   0   |   1   |   2   |        out[1*2 + 0] = 1/4 in[0] + 3/4 in[1]
    (at - 1/2) / scale              out  | 0 | 1 | 2 | 3 | 4 | 5 |        out[1*2 + 1] = 3/4 in[1] + 1/4 in[2]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, assign_or_add, nbytes
from dgraph.kernels.numpy.remap import Remap, RemapGradient
from dgraph.kernels.numpy.view import Operand
from dgraph.ops.label import spatial_labels, tile_labels, window_labels
from dgraph.rect import Rect

Bounds = tuple[int, int]


def weights(place: int, scale: int) -> tuple[float, float, float]:
    """The weights of the rows h - 1, h, h + 1 in row `h * scale + place` of the result, by the distance of their centres."""
    distance = (place + 0.5) / scale - 0.5
    return max(-distance, 0.0), 1 - abs(distance), max(distance, 0.0)


def _taps(rows: Bounds, extent: int, scale: int) -> Iterator[tuple[Bounds, int, int, float]]:
    """(rows, place, tap, weight) that add up to all rows of the result, in one dimension."""
    first, last = rows
    for place in range(scale):
        before, here, after = weights(place, scale)
        yield rows, place, 1, here
        yield (max(first, 1), last), place, 0, before
        yield (first, min(first + 1, last) if first == 0 else first), place, 1, before
        yield (first, min(last, extent - 1)), place, 2, after
        yield (max(last - 1, first) if last == extent else last, last), place, 1, after


def _terms(call: Call) -> Iterator[tuple[Rect, float]]:
    """Boxes of the piece with one place and one tap each, and what they weigh."""
    count = len(call.attributes["scale"])
    spans = call.space.box(call.piece)
    extents = dict(zip(call.space.labels, call.space.extents, strict=True))
    h, t, i = spatial_labels(count), tile_labels(count), window_labels(count)
    taps = (_taps(spans[name], extents[name], s) for name, s in zip(h, call.attributes["scale"], strict=True))
    for terms in product(*taps):
        box = dict(spans)
        for d, (rows, place, tap, _) in enumerate(terms):
            box |= {h[d]: rows, t[d]: (place, place + 1), i[d]: (tap, tap + 1)}
        rect, weight = Rect.of(box.values()), prod(term[3] for term in terms)
        if rect and weight:
            yield rect, weight


def _weigh(weight: float, x: Array, out: Array) -> None:
    np.multiply(x, weight, out=out)


@dataclass(frozen=True)
class Linear(Indifferent):
    """`target (+)= weight * source`, tap by tap; forward from input to output, the gradient the other way."""

    source: str
    target: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        source, target = (Operand.of(call, port, arrays[port]) for port in (self.source, self.target))
        steps: list[Step] = [] if self.target in call.accumulate else [partial(target.array.fill, 0)]
        for box, weight in _terms(call):
            rule = partial(_weigh, weight)
            steps.append(assign_or_add(rule, [source.view(box)], target.view(box), True, Carver(scratch)))
        return in_sequence(steps)


@dataclass(frozen=True)
class ByMode(Indifferent):
    """One kernel for each mode."""

    modes: Mapping[str, Kernel]

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self.modes[call.attributes["mode"]].workspace(call)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        return self.modes[call.attributes["mode"]].bind(call, arrays, scratch)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("upsample", False): ByMode({"nearest": Remap(), "linear": Linear("input", "output")}),
        ("upsample", True): ByMode({"nearest": RemapGradient(), "linear": Linear("output.delta", "input.delta")}),
    }
)
