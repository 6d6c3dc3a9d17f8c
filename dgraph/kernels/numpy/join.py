"""Sum, product and concatenation of several tensors, forward and gradient.

In: calls with the ports `input0, input1, ...`. Out: kernels that go over the result once, in blocks. Promise: operands of extent 1
are repeated where they lie, and their deltas are sums in float64.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, Rule, assign_or_add, nbytes, sum_nbytes
from dgraph.kernels.numpy.remap import Remap, RemapGradient, inputs_of, product, sum_over_repeats, total
from dgraph.kernels.numpy.view import Operand


def _spread(operand: Operand, call: Call) -> Array:
    """The operand on every point of the piece."""
    return np.broadcast_to(operand.view(call.piece), call.piece.size)


@dataclass(frozen=True)
class Elementwise(Indifferent):
    """`output (+)= rule(input0, input1, ...)`, element by element."""

    rule: Rule

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        inputs = [_spread(operand, call) for _, operand in inputs_of(call, arrays)]
        output = Operand.of(call, "output", arrays["output"]).view(call.piece)
        return assign_or_add(self.rule, inputs, output, "output" in call.accumulate, Carver(scratch))

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`. What comes behind the first two is read when the result is begun."""
        return [("output", port) for port in ("input0", "input1")]


@dataclass(frozen=True)
class AddGradient(RemapGradient):
    """`input.delta = output.delta`: no copy where it lies."""

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [(port, "output.delta") for port in call.rects if port != "output.delta"]


@dataclass(frozen=True)
class MultiplyGradient(Indifferent):
    """`input.delta = output.delta * (all other inputs)`, for every input: a sum over the labels that the input lacks."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return sum_nbytes(call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        factors = {p: _spread(one, call) for p, one in inputs_of(call, arrays) if not p.endswith(".delta")}
        delta = _spread(Operand.of(call, "output.delta", arrays["output.delta"]), call)
        actions: list[Action] = []
        for port, target in inputs_of(call, arrays, ".delta"):
            others = [factor for other, factor in factors.items() if f"{other}.delta" != port]
            accumulate = port in call.accumulate
            actions.append(sum_over_repeats([delta, *others], target.view(call.piece), accumulate, scratch))
        return in_sequence(actions)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("add", False): Elementwise(total),
        ("add", True): AddGradient(),
        ("multiply", False): Elementwise(product),
        ("multiply", True): MultiplyGradient(),
        ("concat", False): Remap(),
        ("concat", True): RemapGradient(),
    }
)
