"""Losses of class numbers, and their gradients: softmax cross-entropy, negative log-likelihood; one-hot targets.

In: scores or probabilities [n, k, h, w] with all classes k of each sample (n, h, w), class numbers [n, 1, h, w] as floats. Out:
kernels. Promise: samples with a negative class number count nowhere; sums over samples are taken in float64; means are over the
samples of the batch that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy.block import Carver, Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, alike, assign_or_add, delivered, is_dense, nbytes
from dgraph.kernels.numpy.classes import Block, K, Shelf, at_label, class_numbers, sum_over_classes
from dgraph.kernels.numpy.tally import Tally, deliver_sum

LEAST: Mapping[str, float] = MappingProxyType({"float32": 1e-37, "float64": 1e-300})
"""A probability counts as at least this, so that its logarithm and its inverse are finite, some weights times over."""


def scale(call: Call) -> float:
    """The weight of the loss, divided by the samples of a full batch, whether they count or not."""
    extents = zip(call.space.labels, call.space.extents, strict=True)
    return float(call.attributes["weight"]) / prod(n for label, n in extents if label != "k")


# --- softmax


class Softmax(Indifferent):
    """`probability = exp(input) / sum of it over k`; `output = scale * sum of -target * log probability`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["input"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`. Either of the results may be left out."""
        x, labels, tally = arrays["input"], alike(arrays["labels"], arrays["input"]), Tally()
        rule = partial(_softmax, class_numbers(x), call.attributes["smoothing"], tally)
        added = "probability" in call.accumulate
        steps: list[Step] = [tally.clear]
        for block in self._shelf(call).blocks(x, scratch):
            target = arrays["probability"][block.slices] if "probability" in call.rects else None
            p = block.wide[0] if target is None or added or not is_dense(target) else target
            steps.append(partial(rule, x[block.slices], labels[block.samples], p, block))
            if target is not None:
                steps += delivered(p, target, added)
        if "output" in call.rects:
            steps.append(
                partial(deliver_sum, tally, scale(call), call.moment, arrays["output"], "output" in call.accumulate)
            )
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, call.dtype, "bool"), (call.dtype, call.dtype, call.dtype, "bool", "float64"))


def _softmax(classes: Array, smoothing: float, tally: Tally, x: Array, label: Array, p: Array, block: Block) -> None:
    """One block: `p`, and the losses of its samples."""
    _, shifted, mask = block.wide
    sums, other, spread, void, wide = block.narrow
    np.copyto(shifted, x)
    np.maximum.reduce(shifted, axis=K, out=other, keepdims=True)
    np.subtract(shifted, other, out=shifted)
    np.exp(shifted, out=p)
    sum_over_classes(p, sums)
    np.divide(p, sums, out=p)
    np.log(sums, out=sums)
    if smoothing:
        sum_over_classes(shifted, spread)
        np.multiply(spread, smoothing / classes.size, out=spread)
        np.subtract(sums, spread, out=sums)
    at_label(label, classes, shifted, mask, other)
    np.multiply(other, 1 - smoothing, out=other)
    np.subtract(sums, other, out=sums)
    np.less(label, 0, out=void)
    np.copyto(sums, 0, where=void)
    tally.add(sums, wide)


class SoftmaxGradient(Indifferent):
    """`input.delta = scale * (probability - target)`, 0 for samples that do not count."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["probability"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, delta = arrays["probability"], alike(arrays["labels"], arrays["probability"]), arrays["input.delta"]
        rule = partial(_softmax_gradient, class_numbers(p), call.attributes["smoothing"], scale(call), call.moment)
        steps: list[Step] = []
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
            steps += delivered(block.wide[0], delta[block.slices], "input.delta" in call.accumulate)
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool"), (call.dtype,))


def _softmax_gradient(classes: Array, smoothing: float, scale: float, moment: Moment, p: Array, label: Array,
                      block: Block) -> None:  # fmt: skip
    """The delta of one block."""
    (delta, mask), (weight,) = block.wide, block.narrow
    np.equal(label, classes, out=mask)
    np.copyto(delta, mask)
    if smoothing:
        np.multiply(delta, 1 - smoothing, out=delta)
        np.add(delta, smoothing / classes.size, out=delta)
    np.subtract(p, delta, out=delta)
    np.greater_equal(label, 0, out=weight)
    np.multiply(weight, scale * moment.weight, out=weight)
    np.multiply(delta, weight, out=delta)


# --- negative log-likelihood


class Likelihood(Indifferent):
    """`output = scale * sum of -log input[label]`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["input"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, tally = arrays["input"], alike(arrays["labels"], arrays["input"]), Tally()
        rule = partial(_likelihood, class_numbers(p), tally)
        steps: list[Step] = [tally.clear]
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
        steps.append(
            partial(deliver_sum, tally, -scale(call), call.moment, arrays["output"], "output" in call.accumulate)
        )
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool"), (call.dtype, "bool", "float64"))


def _likelihood(classes: Array, tally: Tally, p: Array, label: Array, block: Block) -> None:
    """The logarithms of one block."""
    (values, mask), (logarithm, void, wide) = block.wide, block.narrow
    np.copyto(values, p)
    at_label(label, classes, values, mask, logarithm)
    np.maximum(logarithm, LEAST[logarithm.dtype.name], out=logarithm)
    np.log(logarithm, out=logarithm)
    np.less(label, 0, out=void)
    np.copyto(logarithm, 0, where=void)
    tally.add(logarithm, wide)


class LikelihoodGradient(Indifferent):
    """`input.delta = -scale / input` at the label, 0 elsewhere."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["input"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, delta = arrays["input"], alike(arrays["labels"], arrays["input"]), arrays["input.delta"]
        rule = partial(_likelihood_gradient, class_numbers(p), -scale(call), call.moment)
        steps: list[Step] = []
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
            steps += delivered(block.wide[0], delta[block.slices], "input.delta" in call.accumulate)
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool"), ())


def _likelihood_gradient(classes: Array, scale: float, moment: Moment, p: Array, label: Array, block: Block) -> None:
    """The delta of one block."""
    delta, elsewhere = block.wide
    np.maximum(p, LEAST[delta.dtype.name], out=delta)
    np.divide(scale * moment.weight, delta, out=delta)
    np.not_equal(label, classes, out=elsewhere)
    np.copyto(delta, 0, where=elsewhere)


# --- one-hot targets


class OneHot(Indifferent):
    """`output = 1 if labels == k else 0`, -1 for samples that do not count."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(2, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        out = arrays["output"]
        label = np.broadcast_to(alike(arrays["labels"], out), out.shape)
        number = np.broadcast_to(class_numbers(out) + call.rects["output"].start[K], out.shape)
        return assign_or_add(_one_hot, (label, number), out, "output" in call.accumulate, Carver(scratch), 1)


def _one_hot(label: Array, number: Array, out: Array, void: Array) -> None:
    np.equal(label, number, out=out)
    np.less(label, 0, out=void)
    np.subtract(out, void, out=out)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("softmax", False): Softmax(),
        ("softmax", True): SoftmaxGradient(),
        ("negative_log_likelihood", False): Likelihood(),
        ("negative_log_likelihood", True): LikelihoodGradient(),
        ("one_hot", False): OneHot(),
    }
)
