"""Threshold, prelu, elu, softplus, gelu, silu and the softmax along one dimension, forward and gradient.

In: calls whose ports all have the rect of the piece (the slope of prelu: the part of it that it spans). Out: kernels that go
once over the operands, in blocks. Promise: no argument overflows; blocks of scratch are all that is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import pi, sqrt
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, Rule, assign_or_add, delivered, nbytes, sum_nbytes, sum_of
from dgraph.kernels.numpy.classes import K, Shelf
from dgraph.kernels.numpy.normal import normal
from dgraph.kernels.numpy.pointwise import Attributes, Pointwise, always, given, logistic, lowest, pair, spread

# --- rules: the result is assigned to `out`; `a`, `b` ... are room to work in


def _threshold(at: float, x: Array, out: Array) -> None:
    """1 where x > at, else 0"""
    np.greater(x, at, out=out)


def _elu(alpha: float, x: Array, out: Array, a: Array) -> None:
    """x where x > 0, else alpha * (exp(x) - 1)"""
    np.minimum(x, 0, out=out)
    np.expm1(out, out=out)
    np.multiply(out, alpha, out=out)
    np.maximum(x, 0, out=a)
    np.add(out, a, out=out)


def _elu_gradient(alpha: float, x: Array, delta: Array, out: Array, a: Array) -> None:
    """delta where x > 0, else delta * alpha * exp(x)"""
    np.minimum(x, 0, out=out)
    np.exp(out, out=out)
    np.multiply(out, alpha, out=out)
    np.less_equal(x, 0, out=a)
    np.multiply(out, a, out=out)
    np.greater(x, 0, out=a)
    np.add(out, a, out=out)
    np.multiply(out, delta, out=out)


def _softplus(beta: float, x: Array, out: Array, a: Array) -> None:
    """log(1 + exp(b)) / beta = (max(b, 0) + log(1 + exp(-|b|))) / beta, b = beta * x"""
    np.multiply(x, beta, out=out)
    np.abs(out, out=a)
    np.negative(a, out=a)
    np.exp(a, out=a)
    np.log1p(a, out=a)
    np.maximum(out, 0, out=out)
    np.add(out, a, out=out)
    np.divide(out, beta, out=out)


def _softplus_gradient(beta: float, y: Array, delta: Array, out: Array) -> None:
    """delta * logistic(beta * x) = delta * (1 - exp(-beta * y))"""
    np.multiply(y, -beta, out=out)
    np.expm1(out, out=out)
    np.negative(out, out=out)
    np.multiply(out, delta, out=out)


def _silu(x: Array, out: Array, a: Array) -> None:
    """x * logistic(x)"""
    logistic(x, out)
    np.maximum(x, lowest(x), out=a)
    np.multiply(out, a, out=out)


def _silu_gradient(x: Array, delta: Array, out: Array, a: Array, b: Array) -> None:
    """delta * s * (1 + x * (1 - s)), s = logistic(x)"""
    logistic(x, a)
    np.maximum(x, lowest(x), out=b)
    np.subtract(1, a, out=out)
    np.multiply(out, b, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, a, out=out)
    np.multiply(out, delta, out=out)


# --- gelu (Hendrycks and Gimpel 2016, "Gaussian error linear units")

_CUBE = 0.044715
_SCALE = 2 * sqrt(2 / pi)
_FAR = 40.0
"""Beyond it both forms are 0 or x."""


def _gelu(x: Array, out: Array, a: Array, b: Array, c: Array) -> None:
    """x * P(X <= x)"""
    normal(x, out, a, b, c)
    np.multiply(out, x, out=out)


def _gelu_gradient(x: Array, delta: Array, out: Array, a: Array, b: Array, c: Array) -> None:
    """delta * (P(X <= x) + x * density(x))"""
    normal(x, out, a, b, c)
    np.multiply(a, 1 / sqrt(2 * pi), out=a)
    np.multiply(a, x, out=a)
    np.add(out, a, out=out)
    np.multiply(out, delta, out=out)


def _sigmoid_of_cubic(x: Array, out: Array, a: Array) -> None:
    """`out = logistic(2 u) = (1 + tanh(u)) / 2`, u = sqrt(2 / pi) * (x + 0.044715 x^3), which has no cancellation; `a = x^2`."""
    np.clip(x, -_FAR, _FAR, out=out)
    np.multiply(out, out, out=a)
    np.multiply(out, _SCALE, out=out)
    np.multiply(a, out, out=a)
    np.multiply(a, _CUBE, out=a)
    np.add(out, a, out=out)
    logistic(out, out)


def _gelu_tanh(x: Array, out: Array, a: Array, b: Array, c: Array) -> None:
    """x * (1 + tanh(u)) / 2"""
    _sigmoid_of_cubic(x, out, a)
    np.multiply(out, x, out=out)


def _gelu_tanh_gradient(x: Array, delta: Array, out: Array, a: Array, b: Array, c: Array) -> None:
    """delta * s * (1 + (1 - s) * x * d(2 u) / dx), s = (1 + tanh(u)) / 2"""
    _sigmoid_of_cubic(x, a, b)
    np.clip(x, -_FAR, _FAR, out=b)
    np.multiply(b, b, out=out)
    np.multiply(out, 3 * _CUBE, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, b, out=out)
    np.multiply(out, _SCALE, out=out)
    np.subtract(1, a, out=c)
    np.multiply(out, c, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, a, out=out)
    np.multiply(out, delta, out=out)


def _form(exact: Rule, approximate: Rule) -> Callable[[Attributes], Rule]:
    """The rule that the attribute `approximate` asks for."""
    return lambda attributes: exact if attributes["approximate"] == "none" else approximate


# --- prelu


def _prelu(x: Array, slope: Array, out: Array, a: Array) -> None:
    """max(x, 0) + slope * min(x, 0)"""
    np.minimum(x, 0, out=out)
    np.multiply(out, slope, out=out)
    np.maximum(x, 0, out=a)
    np.add(out, a, out=out)


def _prelu_gradient(x: Array, slope: Array, delta: Array, out: Array, a: Array) -> None:
    """delta where x > 0, else slope * delta"""
    np.less_equal(x, 0, out=out)
    np.multiply(out, slope, out=out)
    np.greater(x, 0, out=a)
    np.add(out, a, out=out)
    np.multiply(out, delta, out=out)


def _slope_gradient(delta: Array, x: Array, out: Array) -> None:
    """delta * min(x, 0)"""
    np.minimum(x, 0, out=out)
    np.multiply(out, delta, out=out)


class Prelu(Indifferent):
    """`output = max(input, 0) + slope * min(input, 0)`; slope is repeated over dims of length 1."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, accumulate = arrays["input"], "output" in call.accumulate
        return assign_or_add(_prelu, [x, spread(arrays["slope"], x)], arrays["output"], accumulate, Carver(scratch), 1)


class PreluGradient(Indifferent):
    """`input.delta = output.delta * (1 or slope)`; `slope.delta` is a sum, in float64 whatever the operands are."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return max(nbytes(2, call.dtype), sum_nbytes(call.dtype))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, delta, added = arrays["input"], arrays["output.delta"], call.accumulate
        actions: list[Action] = []
        if "input.delta" in call.rects:
            inputs, target = [x, spread(arrays["slope"], x), delta], arrays["input.delta"]
            actions.append(assign_or_add(_prelu_gradient, inputs, target, "input.delta" in added, Carver(scratch), 1))
        if "slope.delta" in call.rects:
            target = arrays["slope.delta"]
            actions.append(sum_of(_slope_gradient, [delta, x], target, "slope.delta" in added, scratch))
        return in_sequence(actions)


# --- softmax along one dimension


def _standing(call: Call, array: Array) -> Array:
    """A view with the axis of the softmax where scores have their classes."""
    return np.moveaxis(array, call.attributes["axis"], 0)[None]


@dataclass(frozen=True)
class AlongAxis(Indifferent):
    """`target (+)= rule(reads)` on blocks that hold whole runs along the axis."""

    rule: Rule
    reads: tuple[str, ...]
    target: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        size = list(call.rects[self.target].size)
        return self._shelf(call).nbytes((1, size.pop(call.attributes["axis"]), *size))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        inputs = [_standing(call, arrays[port]) for port in self.reads]
        target = _standing(call, arrays[self.target])
        steps: list[Step] = []
        for block in self._shelf(call).blocks(target, scratch):
            (result,) = block.wide
            steps.append(partial(self.rule, *(array[block.slices] for array in inputs), result, *block.narrow))
            steps += delivered(result, target[block.slices], self.target in call.accumulate)
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype,), (call.dtype,))


def _softmax(x: Array, out: Array, one: Array) -> None:
    """exp(x) / sum of it"""
    np.copyto(out, x)
    np.maximum.reduce(out, axis=K, out=one, keepdims=True)
    np.subtract(out, one, out=out)
    np.exp(out, out=out)
    np.add.reduce(out, axis=K, out=one, keepdims=True)
    np.divide(out, one, out=out)


def _softmax_gradient(y: Array, delta: Array, out: Array, one: Array) -> None:
    """y * (delta - sum of delta * y)"""
    np.copyto(out, delta)
    np.multiply(out, y, out=out)
    np.add.reduce(out, axis=K, out=one, keepdims=True)
    np.subtract(delta, one, out=out)
    np.multiply(out, y, out=out)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    pair("elu", given(_elu, "alpha"), given(_elu_gradient, "alpha"), ("input",), (1, 1))
    | pair("softplus", given(_softplus, "beta"), given(_softplus_gradient, "beta"), ("output",), (1, 0))
    | pair("silu", always(_silu), always(_silu_gradient), ("input",), (1, 2))
    | pair("gelu", _form(_gelu, _gelu_tanh), _form(_gelu_gradient, _gelu_tanh_gradient), ("input",), (3, 3))
    | {
        ("threshold", False): Pointwise(given(_threshold, "at"), ("input",), "output"),
        ("prelu", False): Prelu(),
        ("prelu", True): PreluGradient(),
        ("softmax_activation", False): AlongAxis(_softmax, ("input",), "output"),
        ("softmax_activation", True): AlongAxis(_softmax_gradient, ("output", "output.delta"), "input.delta"),
    }
)
