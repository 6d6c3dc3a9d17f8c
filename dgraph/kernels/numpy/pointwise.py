"""Element-wise ops: affine and the simpler nonlinearities, forward and gradient.

In: calls whose ports all have the rect of the piece (a and b of affine: the part of it that they span). Out: kernels that go
once over the operands, in blocks. Promise: blocks of scratch are all that is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, Rule, assign_or_add, nbytes, sum_nbytes, sum_of_product

Attributes = Mapping[str, Any]
MakeRule = Callable[[Attributes], Rule]


@dataclass(frozen=True)
class Pointwise(Indifferent):
    """`target (+)= rule(reads)`, element by element; `spare` blocks are the rule's to work in; `over` is an operand that it reads
    no more once it writes."""

    make: MakeRule
    reads: tuple[str, ...]
    target: str
    spare: int = 0
    over: str | None = None

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1 + self.spare, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        inputs, rule = [arrays[port] for port in self.reads], self.make(call.attributes)
        accumulate = self.target in call.accumulate
        return assign_or_add(rule, inputs, arrays[self.target], accumulate, Carver(scratch), self.spare)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [] if self.over is None else [(self.target, self.over)]


def always(rule: Rule) -> MakeRule:
    """The same rule, whatever the attributes."""
    return lambda attributes: rule


def given(rule: Rule, key: str) -> MakeRule:
    """The rule with the value of an attribute as its first argument."""
    return lambda attributes: partial(rule, attributes[key])


# --- rules: the result is assigned to `out`


def _identity(x: Array, out: Array) -> None:
    np.copyto(out, x)


def lowest(x: Array) -> float:
    """Below it exp(-x) would overflow."""
    return -88.0 if x.dtype == np.float32 else -709.0


def logistic(x: Array, out: Array) -> None:
    """1 / (1 + exp(-x)); x is cut off where exp(-x) would overflow."""
    np.maximum(x, lowest(x), out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def _logistic_gradient(y: Array, delta: Array, out: Array, a: Array) -> None:
    """delta * y * (1 - y)"""
    np.subtract(1, y, out=a)
    np.multiply(a, y, out=a)
    np.multiply(a, delta, out=out)


def _tanh(x: Array, out: Array) -> None:
    np.tanh(x, out=out)


def _tanh_gradient(y: Array, delta: Array, out: Array, a: Array) -> None:
    """delta * (1 - y^2)"""
    np.multiply(y, y, out=a)
    np.subtract(1, a, out=a)
    np.multiply(a, delta, out=out)


def relu(x: Array, out: Array, zero: Array) -> None:
    """max(x, 0): with a block of zeros NumPy takes a third of the time that it takes with a number."""
    zero.fill(0)
    np.maximum(x, zero, out=out)


def _relu_gradient(y: Array, delta: Array, out: Array, a: Array) -> None:
    """delta where y > 0, else 0"""
    np.greater(y, 0, out=a)
    np.multiply(a, delta, out=out)


def _leaky_relu(slope: float, x: Array, out: Array, a: Array) -> None:
    """x where x > 0, else slope * x: the larger of the two, or for slopes above 1 the smaller."""
    np.multiply(x, slope, out=a)
    (np.maximum if slope <= 1 else np.minimum)(x, a, out=out)


def _leaky_relu_gradient(slope: float, x: Array, delta: Array, out: Array, a: Array) -> None:
    """delta where x > 0, else slope * delta"""
    np.greater(x, 0, out=a)
    np.multiply(a, 1 - slope, out=a)
    np.add(a, slope, out=a)
    np.multiply(a, delta, out=out)


# --- affine


def _scale_and_shift(x: Array, a: Array, b: Array, out: Array) -> None:
    np.multiply(x, a, out=out)
    np.add(out, b, out=out)


def _scale(x: Array, a: Array, out: Array) -> None:
    np.multiply(x, a, out=out)


def _shift(x: Array, b: Array, out: Array) -> None:
    np.add(x, b, out=out)


_AFFINE: Mapping[tuple[str, ...], Rule] = MappingProxyType(
    {(): _identity, ("a",): _scale, ("b",): _shift, ("a", "b"): _scale_and_shift},
)


def spread(array: Array, like: Array) -> Array:
    """A number, or an operand with dims of length 1, repeated over all of another operand."""
    return np.broadcast_to(array.reshape((1,) * like.ndim) if array.size == 1 else array, like.shape)


def _bind_affine(call: Call, arrays: Mapping[str, Array], source: str, target: str, factors: tuple[str, ...],
                 scratch: Array) -> Action:  # fmt: skip
    """`target (+)= source`, with those of `factors` that take part."""
    x, taking_part = arrays[source], tuple(port for port in factors if port in call.rects)
    inputs = [x, *(spread(arrays[port], x) for port in taking_part)]
    accumulate = target in call.accumulate
    return assign_or_add(_AFFINE[taking_part], inputs, arrays[target], accumulate, Carver(scratch))


@dataclass(frozen=True)
class Affine(Indifferent):
    """`output = a * input + b`; a (1 if left out) and b (0 if left out) are one number, or repeated over dims of length 1."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        return _bind_affine(call, arrays, "input", "output", ("a", "b"), scratch)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("output", "input")]


@dataclass(frozen=True)
class AffineGradient(Indifferent):
    """`input.delta = a * output.delta`; the deltas of a and b are sums, in float64 whatever the operands are."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return max(nbytes(1, call.dtype), sum_nbytes(call.dtype))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        delta = arrays["output.delta"]
        actions: list[Action] = []
        if "a.delta" in call.rects:
            factors = arrays["a.delta"]
            factors = factors.reshape((1,) * delta.ndim) if factors.size == 1 else factors
            accumulate = "a.delta" in call.accumulate
            actions.append(sum_of_product((delta, arrays["input"]), factors, accumulate, scratch))
        if "b.delta" in call.rects:
            accumulate = "b.delta" in call.accumulate
            actions.append(sum_of_product((delta,), arrays["b.delta"], accumulate, scratch))
        # Last, as it may be written over what is summed.
        if "input.delta" in call.rects:
            actions.append(_bind_affine(call, arrays, "output.delta", "input.delta", ("a",), scratch))
        return in_sequence(actions)

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("input.delta", "output.delta")]


def pair(name: str, forward: MakeRule, gradient: MakeRule, reads: tuple[str, ...],
         spare: tuple[int, int] = (0, 0), over: bool = False) -> dict[tuple[str, bool], Kernel]:  # fmt: skip
    """The kernels of a nonlinearity: forward, and a gradient that reads the operands `reads` before the delta; with so many blocks
    to work in. `over`: whether they may write over the input and the delta."""
    return {
        (name, False): Pointwise(forward, ("input",), "output", spare[0], "input" if over else None),
        (name, True): Pointwise(
            gradient, (*reads, "output.delta"), "input.delta", spare[1], "output.delta" if over else None
        ),
    }


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    pair("identity", always(_identity), always(_identity), (), over=True)
    | pair("logistic", always(logistic), always(_logistic_gradient), ("output",), (0, 1), over=True)
    | pair("tanh", always(_tanh), always(_tanh_gradient), ("output",), (0, 1), over=True)
    | pair("relu", always(relu), always(_relu_gradient), ("output",), (1, 1), over=True)
    | pair(
        "leaky_relu", given(_leaky_relu, "slope"), given(_leaky_relu_gradient, "slope"), ("input",), (1, 1), over=True
    )
    | {("affine", False): Affine(), ("affine", True): AffineGradient()}
)
