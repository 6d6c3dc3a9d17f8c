"""Dropout, forward and gradient.

In: calls with the ports `input`, `output`, `mask`. Out: two kernels. Promise: what is kept depends on seed, node, step and global
index alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, in_sequence
from dgraph.kernels.numpy.blockwise import LIMIT, Indifferent, assign_or_add, delivered, like, nbytes, parts
from dgraph.random import fill_uniform
from dgraph.rect import Rect


class Dropout(Indifferent):
    """`output = input * mask`, a mask of 0 and 1 / (1 - rate) in training, of 1 in an evaluation (Srivastava et al. 2014)."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`. Either of the results may be left out."""
        leading = arrays["output" if "output" in call.rects else "mask"]
        flat = Carver(scratch).take([LIMIT], call.dtype)
        steps: list[Step] = []
        for part in parts(leading):
            kept = like(leading[part], flat)
            steps.append(partial(_draw, call, _part_of(call.piece, part), kept))
            if "mask" in call.rects:
                steps.append(partial(_deliver, kept, arrays["mask"][part], "mask" in call.accumulate))
            if "output" in call.rects:
                steps.append(partial(np.multiply, kept, arrays["input"][part], out=kept))
                steps += delivered(kept, arrays["output"][part], "output" in call.accumulate)
        return in_sequence(steps)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("output", "input")]


def _part_of(piece: Rect, part: tuple[slice, ...]) -> Rect:
    """The rect of a block of a piece, in global coordinates."""
    return Rect.of((a + one.start, a + one.stop) for a, one in zip(piece.start, part, strict=True))


def _deliver(kept: Array, mask: Array, accumulate: bool) -> None:
    np.add(mask, kept, out=mask) if accumulate else np.copyto(mask, kept)


def _draw(call: Call, rect: Rect, kept: Array) -> None:
    """0 or 1 / (1 - rate) for every element of a rect, by global index."""
    moment, rate = call.moment, float(call.attributes["rate"])
    if not moment.training or rate == 0:
        kept.fill(1)
        return
    fill_uniform(kept, moment.seed, f"dropout {call.purpose}", moment.step, call.space.extents, rect)
    np.greater_equal(kept, rate, out=kept)
    np.multiply(kept, 1 / (1 - rate), out=kept)


class DropoutGradient(Indifferent):
    """`input.delta = output.delta * mask`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        accumulate = "input.delta" in call.accumulate
        reads = (arrays["output.delta"], arrays["mask"])
        return assign_or_add(np.multiply, reads, arrays["input.delta"], accumulate, Carver(scratch))

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("input.delta", "output.delta"), ("input.delta", "mask")]


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {("dropout", False): Dropout(), ("dropout", True): DropoutGradient()}
)
