"""The mean of every window, forward and gradient, by the library.

In: calls of whole samples of two dimensions. Out: kernels. Promise: what the library cannot do (a part of a sample or of a window,
padding that differs, sums into a result; in three dimensions it writes beside results with gaps) is done by the NumPy kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy import pool
from dgraph.kernels.numpy.block import in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent

_FORWARD = torch.ops.aten.avg_pool2d.out
_BACKWARD = torch.ops.aten.avg_pool2d_backward.grad_input


def _window(call: Call) -> tuple[object, ...] | None:
    """The window as the library's functions take it; None where they cannot do the call."""
    attributes, dims, suffix = call.attributes, call.access.dims, ".delta" if call.gradient else ""
    size, padding = attributes["size"], attributes["padding"]
    whole = all(call.rects[port + suffix].size[2:] == dims[port][2:] for port in ("input", "output"))
    offsets = call.piece.size[-len(size) :] == size
    plain = all(step == 1 for step in attributes["dilation"]) and len(size) == 2 and not call.accumulate
    even = all(before == after and 2 * before <= n for (before, after), n in zip(padding, size, strict=True))
    if not (whole and offsets and plain and even and call.piece):
        return None
    stride = attributes["stride"] or size
    return size, stride, [before for before, _ in padding], attributes["ceil"], attributes["count_padding"], None


class AveragePool(Indifferent):
    """`output = mean of input` over every window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return pool.KERNELS["average_pool", False].workspace(call)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        window = _window(call)
        if window is None:
            return pool.KERNELS["average_pool", False].bind(call, arrays, scratch)
        x, out = (torch.from_numpy(arrays[port]) for port in ("input", "output"))
        return in_sequence([partial(_FORWARD, x, *window, out=out)])


class AveragePoolGradient(Indifferent):
    """An equal share of output.delta for all of a window."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return pool.KERNELS["average_pool", True].workspace(call)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        window = _window(call)
        if window is None:
            return pool.KERNELS["average_pool", True].bind(call, arrays, scratch)
        given, delta = (torch.from_numpy(arrays[port]) for port in ("output.delta", "input.delta"))
        # Of the input the library wants to know the shape alone.
        return in_sequence([partial(_BACKWARD, given, delta, *window, grad_input=delta)])


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {("average_pool", False): AveragePool(), ("average_pool", True): AveragePoolGradient()}
)
