"""Local response normalisation (Krizhevsky et al. 2012, section 3.3), forward and gradient.

In: calls with the ports `input` and `output`; the input's access map has a window over channels. Out: two kernels that keep one
block of the output in the cache. Promise: the gradient of a piece reaches all elements of its windows, also those of other pieces.

    s[c] = k + alpha/size * sum over j of x[c + j - before]^2          y[c] = x[c] * s[c]^-beta

    x.delta[c]              +=  y.delta[c] * s[c]^-beta
    x.delta[c + j - before] -=  2 alpha beta/size * x[c + j - before] * y.delta[c] * x[c] * s[c]^(-beta-1)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, delivered, nbytes
from dgraph.kernels.numpy.window import Spare, Windows, gathered, scattered
from dgraph.ops.response import WINDOW, before
from dgraph.rect import Rect


class Response(Indifferent):
    """`output = input * s^-beta`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        windows, spare = Windows.of(call, arrays, "input", "output"), Spare(scratch, [call.dtype] * 2)
        steps: list[Step] = []
        for block, view in windows.blocks(call.piece):
            scale, seen = spare.like(view)
            steps += _scales(call, windows, block, scale, seen)
            steps += [
                partial(np.power, scale, -call.attributes["beta"], out=scale),
                partial(np.copyto, seen, windows.wide.view(_own(call, block))),
                partial(np.multiply, scale, seen, out=scale),
            ]
            steps += delivered(scale, view, "output" in call.accumulate)
        return in_sequence(steps)


class ResponseGradient(Indifferent):
    """Adds to the deltas of an element and of all of its window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(4, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        inputs = Windows.of(call, arrays, "input", "output.delta")
        deltas = Windows.of(call, arrays, "input.delta", "output.delta")
        spare, values = Spare(scratch, [call.dtype] * 4), call.attributes
        factor = -2 * values["alpha"] * values["beta"] / values["size"]
        cleared = "input.delta" not in call.accumulate
        steps: list[Step] = [partial(arrays["input.delta"].fill, 0)] if cleared else []
        for block, view in inputs.blocks(call.piece):
            scale, seen, share, back = spare.like(view)
            own = _own(call, block)
            steps += _scales(call, inputs, block, scale, seen)
            steps += [
                partial(np.power, scale, -values["beta"], out=share),
                partial(np.copyto, back, view),
                partial(np.multiply, share, back, out=share),
            ]
            steps += scattered(deltas.wide.view(own), share, seen, (slice(None),) * view.ndim)
            steps += [
                partial(np.copyto, seen, inputs.wide.view(own)),
                partial(np.divide, share, scale, out=share),
                partial(np.multiply, share, seen, out=share),
                partial(np.multiply, share, factor, out=share),
            ]
            for (wide, part), (target, _) in zip(inputs.offsets(block), deltas.offsets(block), strict=True):
                steps += gathered(wide, back, part, 0)
                steps.append(partial(np.multiply, back, share, out=back))
                steps += scattered(target, back, seen, part)
        return in_sequence(steps)


def _scales(call: Call, windows: Windows, block: Rect, scale: Array, seen: Array) -> list[Step]:
    """Steps that leave s of a block in `scale`; `seen` is scratch."""
    steps: list[Step] = [partial(scale.fill, 0)]
    for wide, part in windows.offsets(block):
        steps += gathered(wide, seen, part, 0)
        steps += [partial(np.multiply, seen, seen, out=seen), partial(np.add, scale, seen, out=scale)]
    share = call.attributes["alpha"] / call.attributes["size"]
    return [
        *steps,
        partial(np.multiply, scale, share, out=scale),
        partial(np.add, scale, call.attributes["k"], out=scale),
    ]


def _own(call: Call, block: Rect) -> Rect:
    """The block with the one place of a window where an element itself stands."""
    place = before(call.attributes["size"])
    pairs = zip(call.space.labels, block.bounds, strict=True)
    return Rect.of((place, place + 1) if label == WINDOW else bounds for label, bounds in pairs)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {("local_response_norm", False): Response(), ("local_response_norm", True): ResponseGradient()}
)
