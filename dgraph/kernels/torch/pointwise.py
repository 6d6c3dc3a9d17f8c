"""Element-wise ops: nonlinearities, the sum of a bias, and both of them in one go; forward and gradient.

In: calls whose ports all have the rect of the piece. Out: kernels and chains. Promise: an operand goes through the cache once; what
lies so that the library is slow, and ops for which NumPy is as fast (the hyperbolic tangent among them), are NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, cache_blocks, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, like, nbytes

_ATEN = torch.ops.aten
LIMIT = 1 << 16
"""Elements of a block that is made in scratch before it is added to where it belongs."""

Attributes = Mapping[str, Any]
Assign = Callable[[torch.Tensor, list[torch.Tensor]], Step]
"""From the tensor that is written, and those that are read, the step that does it."""


@dataclass(frozen=True)
class Pointwise(Indifferent):
    """`target (+)= f(reads)`, element by element, by one function of the library."""

    make: Callable[[Attributes, np.dtype[Any]], Assign]
    reads: tuple[str, ...]
    target: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype, LIMIT) if self.target in call.accumulate else 0

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        target, inputs = arrays[self.target], [arrays[port] for port in self.reads]
        assign = self.make(call.attributes, target.dtype)
        if self.target not in call.accumulate:
            return in_sequence([assign(torch.from_numpy(target), [torch.from_numpy(array) for array in inputs])])
        flat, steps = Carver(scratch).take([LIMIT], call.dtype), list[Step]()
        for part in cache_blocks(target, LIMIT) if target.size else ():
            block = torch.from_numpy(like(target[part], flat))
            steps.append(assign(block, [torch.from_numpy(array[part]) for array in inputs]))
            steps.append(partial(torch.from_numpy(target[part]).add_, block))
        return in_sequence(steps)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`: the library's functions go element by element."""
        return [(self.target, self.reads[-1])]


def _given(function: Callable[..., Any], *keys: str) -> Callable[[Attributes, np.dtype[Any]], Assign]:
    """A function of the operands in order, then of these attributes; the result is `out`."""
    return lambda attributes, dtype: (
        lambda out, inputs: partial(function, *inputs, *(attributes[key] for key in keys), out=out)
    )


def _backward(function: Callable[..., Any], *more: object) -> Callable[[Attributes, np.dtype[Any]], Assign]:
    """A gradient of the library: of the delta (read last by us, first by it) and an operand, then of numbers or attributes."""

    def make(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
        numbers = [attributes[one] if isinstance(one, str) else one for one in more]
        return lambda out, inputs: partial(function, inputs[1], inputs[0], *numbers, grad_input=out)

    return make


def _copy(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    return lambda out, inputs: partial(out.copy_, inputs[0])


def _relu(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    """The library's own `relu.out` makes its result elsewhere and copies it."""
    return lambda out, inputs: partial(torch.clamp_min, inputs[0], 0, out=out)


def _gelu(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    return lambda out, inputs: partial(_ATEN.gelu.out, inputs[0], approximate=attributes["approximate"], out=out)


def _gelu_gradient(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    form = attributes["approximate"]
    return lambda out, inputs: partial(
        _ATEN.gelu_backward.grad_input, inputs[1], inputs[0], approximate=form, grad_input=out
    )


def _elu_gradient(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    alpha = attributes["alpha"]
    return lambda out, inputs: partial(
        _ATEN.elu_backward.grad_input, inputs[1], alpha, 1, 1, False, inputs[0], grad_input=out
    )


def _softplus(attributes: Attributes, dtype: np.dtype[Any]) -> Assign:
    """Above the threshold the result is its argument, to the last digit."""
    threshold = 20 if dtype == np.float32 else 40
    return lambda out, inputs: partial(_ATEN.softplus.out, inputs[0], attributes["beta"], threshold, out=out)


def _pair(name: str, forward: Callable[[Attributes, np.dtype[Any]], Assign] | None,
          gradient: Callable[[Attributes, np.dtype[Any]], Assign] | None, *reads: str) -> dict[Key, Kernel]:  # fmt: skip
    """The kernels of a nonlinearity: forward, and a gradient that reads these operands before the delta."""
    kernels: dict[Key, Kernel] = {}
    if forward is not None:
        kernels[name, False] = Pointwise(forward, ("input",), "output")
    if gradient is not None:
        kernels[name, True] = Pointwise(gradient, (*reads, "output.delta"), "input.delta")
    return kernels


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    _pair("identity", _copy, _copy)
    | _pair("relu", _relu, _backward(_ATEN.threshold_backward.grad_input, 0), "output")
    | _pair("tanh", None, _backward(_ATEN.tanh_backward.grad_input), "output")
    | _pair("logistic", _given(_ATEN.sigmoid.out), _backward(_ATEN.sigmoid_backward.grad_input), "output")
    | _pair(
        "leaky_relu",
        _given(_ATEN.leaky_relu.out, "slope"),
        _backward(_ATEN.leaky_relu_backward.grad_input, "slope", False),
        "input",
    )
    | _pair("elu", _given(_ATEN.elu.out, "alpha"), _elu_gradient, "input")
    | _pair("silu", _given(_ATEN.silu.out), _backward(_ATEN.silu_backward.grad_input), "input")
    | _pair("gelu", _gelu, _gelu_gradient, "input")
    | _pair("softplus", _softplus, None)
)
