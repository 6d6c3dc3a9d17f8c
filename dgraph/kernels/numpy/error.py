"""Losses that compare element by element, and their gradients.

In: calls whose input, labels and deltas have the rect of the piece. Out: kernels that go once over it, in blocks. Promise: sums are
float64; an element whose label is not there adds nothing to the loss and has the gradient 0; means are over the samples of the
batch that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy.block import Carver, Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, Rule, alike, delivered, is_dense, like, nbytes, parts
from dgraph.kernels.numpy.pointwise import MakeRule, always, given, logistic
from dgraph.kernels.numpy.tally import Tally, deliver_sum

LEAST_LOGARITHM = -100.0
"""What a logarithm of binary cross-entropy is at least, and below: of the slope's denominator. Both as PyTorch has them."""
LEAST_VARIANCE = 1e-12


def absent_target(labels: Array, void: Array) -> None:
    """`void` where there is no real target: NaN."""
    np.isnan(labels, out=void)


def absent_class(labels: Array, void: Array) -> None:
    """`void` where there is no class number or probability of one: < 0 or NaN."""
    np.greater_equal(labels, 0, out=void)
    np.logical_not(void, out=void)


def block_views(
    array: Array, scratch: Array, dtypes: tuple[str, ...]
) -> Iterator[tuple[tuple[slice, ...], list[Array]]]:
    """Slices of an array, block by block, and for each a block of scratch of every dtype."""
    carver = Carver(scratch)
    flats = [carver.take([nbytes(1, dtype) // np.dtype(dtype).itemsize], dtype) for dtype in dtypes]
    for part in parts(array):
        yield part, [like(array[part], flat) for flat in flats]


def shelf_nbytes(dtypes: tuple[str, ...]) -> int:
    """Bytes of scratch that `block_views` takes."""
    return sum(nbytes(1, dtype) for dtype in dtypes)


@dataclass(frozen=True)
class Loss(Indifferent):
    """`output (+)= scale * sum of rule(input, labels)`; rules get a block to work in behind the result's."""

    make: MakeRule
    scale: Callable[[Call], float]
    absent: Rule = absent_target

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return shelf_nbytes(self._dtypes(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, labels, rule, tally = (
            arrays["input"],
            alike(arrays["labels"], arrays["input"]),
            self.make(call.attributes),
            Tally(),
        )
        steps: list[Step] = [tally.clear]
        for part, (values, spare, void, wide) in block_views(x, scratch, self._dtypes(call)):
            steps += [
                partial(rule, x[part], labels[part], values, spare),
                partial(self.absent, labels[part], void),
                partial(np.copyto, values, 0, where=void),
                partial(tally.add, values, wide),
            ]
        steps.append(
            partial(deliver_sum, tally, self.scale(call), call.moment, arrays["output"], "output" in call.accumulate)
        )
        return in_sequence(steps)

    def _dtypes(self, call: Call) -> tuple[str, ...]:
        return (call.dtype, call.dtype, "bool", "float64")


@dataclass(frozen=True)
class LossGradient(Indifferent):
    """`input.delta (+)= scale * rule(input, labels)`; rules get a block to work in behind the result's."""

    make: MakeRule
    scale: Callable[[Call], float]
    absent: Rule = absent_target

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return shelf_nbytes(self._dtypes(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, labels, delta = arrays["input"], alike(arrays["labels"], arrays["input"]), arrays["input.delta"]
        rule, scale, added = self.make(call.attributes), self.scale(call), "input.delta" in call.accumulate
        steps: list[Step] = []
        for part, (values, spare, void) in block_views(delta, scratch, self._dtypes(call)):
            result = delta[part] if is_dense(delta[part]) and not added else values
            steps += [
                partial(rule, x[part], labels[part], result, spare),
                partial(_scaled, scale, call.moment, result),
                partial(self.absent, labels[part], void),
                partial(np.copyto, result, 0, where=void),
                *delivered(result, delta[part], added),
            ]
        return in_sequence(steps)

    def _dtypes(self, call: Call) -> tuple[str, ...]:
        return (call.dtype, call.dtype, "bool")


def _scaled(scale: float, moment: Moment, values: Array) -> None:
    np.multiply(values, scale * moment.weight, out=values)


# --- scales, for a full batch


def _by_element(call: Call) -> float:
    return float(call.attributes["weight"]) / prod(call.space.extents)


def _by_sample(call: Call) -> float:
    return float(call.attributes["weight"]) / call.space.extents[0]


def _by_sample_halved(call: Call) -> float:
    return _by_sample(call) / 2


def _by_element_twice(call: Call) -> float:
    return _by_element(call) * 2


# --- rules: the result is assigned to `out`


def _difference(x: Array, t: Array, out: Array, spare: Array) -> None:
    np.subtract(x, t, out=out)


def _square(x: Array, t: Array, out: Array, spare: Array) -> None:
    np.subtract(x, t, out=out)
    np.multiply(out, out, out=out)


def _magnitude(x: Array, t: Array, out: Array, spare: Array) -> None:
    np.subtract(x, t, out=out)
    np.absolute(out, out=out)


def _sign(x: Array, t: Array, out: Array, spare: Array) -> None:
    np.subtract(x, t, out=out)
    np.sign(out, out=out)


def _huber(delta: float, x: Array, t: Array, out: Array, spare: Array) -> None:
    """a * (|e| - a / 2) with a = min(|e|, delta)"""
    _magnitude(x, t, out, spare)
    np.minimum(out, delta, out=spare)
    np.subtract(out, spare, out=out)
    np.multiply(out, spare, out=out)
    np.multiply(spare, spare, out=spare)
    np.multiply(spare, 0.5, out=spare)
    np.add(out, spare, out=out)


def _huber_slope(delta: float, x: Array, t: Array, out: Array, spare: Array) -> None:
    np.subtract(x, t, out=out)
    np.clip(out, -delta, delta, out=out)


def _cross_entropy(p: Array, t: Array, out: Array, spare: Array) -> None:
    """-t log p - (1 - t) log(1 - p)"""
    np.negative(p, out=out)
    _logarithm(np.log1p, out, out)
    np.subtract(t, 1, out=spare)
    np.multiply(out, spare, out=out)
    _logarithm(np.log, p, spare)
    np.multiply(spare, t, out=spare)
    np.subtract(out, spare, out=out)


def _logarithm(function: np.ufunc, x: Array, out: Array) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        function(x, out=out)
    np.maximum(out, LEAST_LOGARITHM, out=out)


def _cross_entropy_slope(p: Array, t: Array, out: Array, spare: Array) -> None:
    """(p - t) / (p (1 - p))"""
    np.subtract(1, p, out=spare)
    np.multiply(spare, p, out=spare)
    np.maximum(spare, LEAST_VARIANCE, out=spare)
    np.subtract(p, t, out=out)
    np.divide(out, spare, out=out)


def _cross_entropy_of_scores(x: Array, t: Array, out: Array, spare: Array) -> None:
    """max(x, 0) - x t + log(1 + exp(-|x|)), which is sound for x of any size"""
    np.absolute(x, out=spare)
    np.negative(spare, out=spare)
    np.exp(spare, out=spare)
    np.log1p(spare, out=spare)
    np.multiply(x, t, out=out)
    np.subtract(spare, out, out=out)
    np.maximum(x, 0, out=spare)
    np.add(out, spare, out=out)


def _cross_entropy_of_scores_slope(x: Array, t: Array, out: Array, spare: Array) -> None:
    """logistic(x) - t"""
    logistic(x, out)
    np.subtract(out, t, out=out)


def _decision(x: Array, t: Array, out: Array, spare: Array) -> None:
    """H(x) - t"""
    np.greater(x, 0, out=out)
    np.subtract(out, t, out=out)


def _lack(x: Array, t: Array, out: Array, spare: Array) -> None:
    """(H(x) - t) x"""
    _decision(x, t, out, spare)
    np.multiply(out, x, out=out)


def _of_logits(scores: Rule, probabilities: Rule) -> MakeRule:
    return lambda attributes: scores if attributes["logits"] else probabilities


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("squared_error", False): Loss(always(_square), _by_element),
        ("squared_error", True): LossGradient(always(_difference), _by_element_twice),
        ("half_squared_norm", False): Loss(always(_square), _by_sample_halved),
        ("half_squared_norm", True): LossGradient(always(_difference), _by_sample),
        ("absolute_error", False): Loss(always(_magnitude), _by_element),
        ("absolute_error", True): LossGradient(always(_sign), _by_element),
        ("huber", False): Loss(given(_huber, "delta"), _by_element),
        ("huber", True): LossGradient(given(_huber_slope, "delta"), _by_element),
        ("binary_cross_entropy", False): Loss(
            _of_logits(_cross_entropy_of_scores, _cross_entropy), _by_element, absent_class
        ),
        ("binary_cross_entropy", True): LossGradient(
            _of_logits(_cross_entropy_of_scores_slope, _cross_entropy_slope), _by_element, absent_class
        ),
        ("perceptron", False): Loss(always(_lack), _by_sample, absent_class),
        ("perceptron", True): LossGradient(always(_decision), _by_sample, absent_class),
    }
)
