"""Global max pooling: the largest of every channel, forward and gradient.

In: calls with the ports `input` [n, c, spatial ...] and `output` [n, c, 1 ...]. Out: two kernels. Promise: the gradient goes to the
first place, in row-major order, that holds the largest value; scratch does not grow with the operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, block_sizes, blocks, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import LIMIT, Indifferent, delivered, like, nbytes, parts
from dgraph.rect import Rect


class GlobalMaxPool(Indifferent):
    """`output = max of input` over all dimensions but the first two."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, y = arrays["input"], arrays["output"]
        flat = Carver(scratch).take([LIMIT], call.dtype)
        steps: list[Step] = []
        for part in parts(y):
            target = y[part]
            largest = like(target, flat)
            steps.append(
                partial(np.maximum.reduce, x[part[:2]], axis=tuple(range(2, x.ndim)), keepdims=True, out=largest)
            )
            steps += delivered(largest, target, "output" in call.accumulate)
        return in_sequence(steps)


class GlobalMaxPoolGradient(Indifferent):
    """`input.delta (+)= output.delta` at the first place of every channel that equals its output, 0 elsewhere."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype) + nbytes(3, "bool")

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, delta = arrays["input"], arrays["input.delta"]
        carver = Carver(scratch)
        seen, change = (carver.take([LIMIT], call.dtype) for _ in range(2))
        here, earlier, found = (carver.take([LIMIT], "bool") for _ in range(3))
        order = [*(d for d in memory_order(x) if d < 2), *range(2, x.ndim)]
        steps: list[Step] = []
        for block in blocks(Rect.whole(x.shape), block_sizes(x.shape, order, LIMIT), order) if x.size else ():
            places, shape = block.slices(), block.size
            rows, places_a_row = shape[0] * shape[1], block.volume // (shape[0] * shape[1])
            values, result, mask = (flat[: block.volume].reshape(shape) for flat in (seen, change, here))
            here_rows, earlier_rows = (flat[: block.volume].reshape(rows, places_a_row) for flat in (here, earlier))
            output, share = (arrays[port][places[:2]] for port in ("output", "output.delta"))
            if not any(block.start[2:]):
                steps.append(partial(found.fill, False))
            steps += [
                partial(np.copyto, values, x[places]),
                partial(np.equal, values, output, out=mask),
                partial(_keep_first, here_rows, earlier_rows, found[:rows]),
                partial(np.copyto, result, mask),
                partial(np.multiply, result, share, out=result),
            ]
            steps += delivered(result, delta[places], "input.delta" in call.accumulate)
        return in_sequence(steps)


def _keep_first(here: Array, earlier: Array, found: Array) -> None:
    """Of every row of `here` [rows, places], its first True alone stays, and none where an earlier block had one (`found`);
    `earlier` is scratch."""
    np.greater(here, found[:, None], out=here)
    np.logical_or.accumulate(here, axis=1, out=earlier)
    np.greater(here[:, 1:], earlier[:, :-1], out=here[:, 1:])
    np.logical_or(found, earlier[:, -1], out=found)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {("global_max_pool", False): GlobalMaxPool(), ("global_max_pool", True): GlobalMaxPoolGradient()}
)
