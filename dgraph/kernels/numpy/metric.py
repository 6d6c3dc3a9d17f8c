"""Metrics: sums and counts over the labels of a piece.

In: class numbers with probabilities, or labels with an element each. Out: kernels that write `METRICS` of their op. Promise: what
has no label counts nowhere; sums are float64, counts exact; the loss, and a shift, are handed on by one piece alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent, alike
from dgraph.kernels.numpy.classes import Block, Shelf, at_label, class_numbers, sum_over_classes
from dgraph.kernels.numpy.error import absent_class, absent_target, block_views, shelf_nbytes
from dgraph.kernels.numpy.tally import Tally, deliver_metrics
from dgraph.ops.metric import METRICS, UNIT

TOP = 5


def _tally(call: Call) -> Tally:
    sums, counts = METRICS[call.op]
    return Tally([0.0] * len(sums), [0] * len(counts))


def _started(call: Call, arrays: Mapping[str, Array], tally: Tally) -> list[Step]:
    """Steps that clear the tally and hand on the loss, by the piece that starts at the first sample."""
    first = [] if any(call.piece.start) else [partial(_hand_on, tally, arrays["loss"], 0)]
    return [tally.clear, *first]


def _hand_on(tally: Tally, value: Array, at: int) -> None:
    tally.sums[at] = float(value.flat[0])


def _ended(call: Call, arrays: Mapping[str, Array], tally: Tally) -> Step:
    return partial(deliver_metrics, tally, arrays["output"], "output" in call.accumulate)


# --- of class numbers


class Evaluate(Indifferent):
    """`output = (loss, correct, correct in the top 5, samples)`: sums over the samples that count.

    A sample is correct if no other class has a larger probability, and no earlier one the same; in the top 5 if
    there are fewer than 5 such classes.
    """

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["probability"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, tally = arrays["probability"], alike(arrays["labels"], arrays["probability"]), _tally(call)
        rule = partial(_count, class_numbers(p), tally)
        steps = _started(call, arrays, tally)
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
        return in_sequence([*steps, _ended(call, arrays, tally)])

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool", "bool"), (call.dtype, "bool", "bool"))


def _count(classes: Array, tally: Tally, p: Array, label: Array, block: Block) -> None:
    """One block: the number of classes that rank behind the label decides. Nothing ranks behind a NaN."""
    (values, behind, other), (number, valid, right) = block.wide, block.narrow
    np.copyto(values, p)
    at_label(label, classes, values, other, number)
    np.copyto(values, p)
    np.equal(values, number, out=behind)
    np.greater(classes, label, out=other)
    np.logical_and(behind, other, out=behind)
    np.less(values, number, out=other)
    np.logical_or(behind, other, out=behind)
    np.copyto(values, behind)
    sum_over_classes(values, number)
    np.greater_equal(label, 0, out=valid)
    for at, rank in enumerate((1, TOP)):
        np.greater_equal(number, classes.size - rank, out=right)
        np.logical_and(right, valid, out=right)
        tally.count(right, at)
    tally.count(valid, 2)


# --- element by element


class EvaluateBinary(Indifferent):
    """`output = (loss, correct, samples)`: an element and its label are each above a threshold, or not."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return shelf_nbytes(("bool",) * 3)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, labels, tally = arrays["input"], alike(arrays["labels"], arrays["input"]), _tally(call)
        rule = partial(_count_alike, 0.0 if call.attributes["logits"] else 0.5, tally)
        steps = _started(call, arrays, tally)
        for part, masks in block_views(x, scratch, ("bool",) * 3):
            steps.append(partial(rule, x[part], labels[part], *masks))
        return in_sequence([*steps, _ended(call, arrays, tally)])


def _count_alike(threshold: float, tally: Tally, x: Array, label: Array, alike: Array, other: Array,
                 void: Array) -> None:  # fmt: skip
    absent_class(label, void)
    np.logical_not(void, out=void)
    tally.count(void, 1)
    np.greater(x, threshold, out=alike)
    np.greater(label, 0.5, out=other)
    np.equal(alike, other, out=alike)
    np.logical_and(alike, void, out=alike)
    tally.count(alike, 0)


class SumTargets(Indifferent):
    """`output = (sum of targets, how many)`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return shelf_nbytes(self._dtypes(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        labels, tally = arrays["labels"], _tally(call)
        steps: list[Step] = [tally.clear]
        for part, scraps in block_views(labels, scratch, self._dtypes(call)):
            steps.append(partial(_sum_targets, tally, labels[part], *scraps))
        return in_sequence([*steps, _ended(call, arrays, tally)])

    def _dtypes(self, call: Call) -> tuple[str, ...]:
        return ("float64", "bool")


def _sum_targets(tally: Tally, label: Array, wide: Array, mask: Array) -> None:
    np.copyto(wide, label)
    absent_target(label, mask)
    np.copyto(wide, 0, where=mask)
    tally.add(wide, wide)
    np.logical_not(mask, out=mask)
    tally.count(mask, 0)


class EvaluateError(Indifferent):
    """`output = (loss, sum |e|, sum e^2, shift, sum (t - shift), sum (t - shift)^2, samples)`, with e = input - t."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return shelf_nbytes(self._dtypes(call))

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        x, labels, tally, shift = arrays["input"], alike(arrays["labels"], arrays["input"]), _tally(call), np.zeros(())
        steps: list[Step] = [*_started(call, arrays, tally), partial(_find_shift, arrays["targets"], shift)]
        for part, scraps in block_views(x, scratch, self._dtypes(call)):
            steps.append(partial(_sum_errors, tally, shift, x[part], labels[part], *scraps))
        if not any(call.piece.start):
            steps.append(partial(_hand_on, tally, shift, 3))
        return in_sequence([*steps, _ended(call, arrays, tally)])

    def _dtypes(self, call: Call) -> tuple[str, ...]:
        return ("float64", "float64", "bool")


def _find_shift(targets: Array, shift: Array) -> None:
    """The mean of all targets, the same on all ranks, as a number that float32 holds."""
    total, *counts = (float(row.flat[0]) for row in targets)
    count = sum(n * scale for n, scale in zip(counts, (1, UNIT), strict=False))
    shift[...] = np.float32(total / count) if count else 0.0


def _sum_errors(tally: Tally, shift: Array, x: Array, label: Array, wide: Array, other: Array, mask: Array) -> None:
    """One block, in float64."""
    absent_target(label, mask)
    np.copyto(other, label)
    np.subtract(other, shift, out=other)
    _add_moments(tally, other, wide, mask, 4)
    np.copyto(other, x)
    np.copyto(wide, label)
    np.subtract(other, wide, out=other)
    np.absolute(other, out=other)
    _add_moments(tally, other, wide, mask, 1)
    np.logical_not(mask, out=mask)
    tally.count(mask, 0)


def _add_moments(tally: Tally, values: Array, wide: Array, void: Array, at: int) -> None:
    """Adds the values to the sum `at`, and their squares to the next."""
    np.copyto(values, 0, where=void)
    tally.add(values, wide, at)
    np.multiply(values, values, out=values)
    tally.add(values, wide, at + 1)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("evaluate", False): Evaluate(),
        ("evaluate_binary", False): EvaluateBinary(),
        ("evaluate_error", False): EvaluateError(),
        ("sum_targets", False): SumTargets(),
    }
)
