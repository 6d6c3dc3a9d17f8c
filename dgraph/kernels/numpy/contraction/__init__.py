"""Sums of products along access maps: linear, conv and tiled, forward and both gradients, as blocked GEMMs.

In: a call with the ports `input`, `output` and a parameter. Out: two kernels. Promise: nothing is known of the ops but
their access maps, so any number of spatial dims, strides, dilations, groups and cuts come for nothing; at most `BUDGET`
bytes of scratch; operands that BLAS can read as they lie are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.graph.access import Map
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Step, aligned, in_sequence, with_buffers
from dgraph.kernels.numpy.contraction.gather import gathered
from dgraph.kernels.numpy.contraction.nest import Nest
from dgraph.kernels.numpy.contraction.product import Product
from dgraph.kernels.numpy.view import Operand

BUDGET = 6 << 20
UFUNC_BUFFER = 256
"""Elements: results are added in shorter runs than NumPy's own 8192, which would copy both operands first."""


@dataclass(frozen=True)
class Contraction:
    """The kernel of an op whose ports are `input`, `output` and this parameter."""

    parameter: str

    def workspace(self, call: Call) -> int:
        """Bytes of scratch: twice all operands packed whole, or `BUDGET` where that is more."""
        box, itemsize = call.space.box(call.piece), np.dtype(call.dtype).itemsize
        most = 0
        for ports in self._products(call):
            labels = ({label for e in _map(call, port) for label, _ in e.terms} for port in ports)
            volumes = (prod(box[label][1] - box[label][0] for label in names) for names in labels)
            most = max(most, sum(aligned(volume * itemsize) for volume in volumes))
        return min(BUDGET, 2 * most)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """The piece as one action; arrays as in the call's contract."""
        room = scratch[: self.workspace(call)]
        steps: list[Step] = []
        for ports in self._products(call):
            target, first, second = (Operand.of(call, port, arrays[port]) for port in ports)
            whole = Product(target, first, second, call.piece, ports[0] in call.accumulate).upright()
            for product in gathered(whole):
                if not product.accumulate and not product.is_assigned:
                    steps.append(partial(product.target.array.fill, 0))
                if product.is_there:
                    steps.append(Nest.of(product, room).step())
        return with_buffers(in_sequence(steps), UFUNC_BUFFER)

    def order(self, call: Call, port: str) -> tuple[int, ...] | None:
        """Activations with n fastest, so that windows are copied in long runs; of a parameter, the dims of which every
        result has its own (positions of tiles) slowest, so that each is a matrix."""
        index = _map(call, port)
        if port.removesuffix(".delta") != self.parameter:
            return (*range(1, len(index)), 0)
        shared = set(call.space.labels)
        for operand in ("input", "output"):
            shared &= {label for e in _map(call, operand) for label, _ in e.terms}
        return tuple(sorted(range(len(index)), key=lambda d: not all(label in shared for label, _ in index[d].terms)))

    def _products(self, call: Call) -> list[tuple[str, str, str]]:
        """The ports (target, first, second) of what is wanted."""
        if not call.gradient:
            return [("output", self.parameter, "input")]
        products = [
            (f"{self.parameter}.delta", "output.delta", "input"),
            ("input.delta", self.parameter, "output.delta"),
        ]
        return [ports for ports in products if ports[0] in call.rects]


def _map(call: Call, port: str) -> Map:
    return call.access.maps[port.removesuffix(".delta")]


_PARAMETERS = {"conv": "filters", "conv_transpose": "filters", "linear": "weights", "tiled": "filters"}
KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {(op, gradient): Contraction(name) for op, name in _PARAMETERS.items() for gradient in (False, True)}
)
