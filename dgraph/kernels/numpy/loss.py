"""Softmax cross-entropy, its gradient, and the metrics of its probabilities.

In: scores [n, k, h, w] with all classes k of each sample (n, h, w), class numbers [n, 1, h, w] as floats. Out: three kernels.
Promise: samples with a negative class number count nowhere; sums over samples are taken in float64; blocks hold whole samples.

A class number is compared with 0, 1, ... k - 1, so that the score at the label is a masked sum: no indices are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy.block import Carver, Step, block_sizes, blocks, in_sequence, memory_order
from dgraph.kernels.numpy.blockwise import LIMIT, Indifferent, delivered, is_dense, like, nbytes
from dgraph.rect import Rect

K = 1
"""The axis of classes."""
TOP = 5


@dataclass(frozen=True)
class Block:
    """Scratch for one block: `wide` arrays have a value a class, `narrow` ones one a sample, all in one memory order."""

    slices: tuple[slice, ...]
    samples: tuple[slice, ...]
    wide: tuple[Array, ...]
    narrow: tuple[Array, ...]


@dataclass(frozen=True)
class Shelf:
    """The dtypes of a kernel's scratch: so many arrays of a value a class, and of one a sample."""

    wide: tuple[str, ...]
    narrow: tuple[str, ...]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of scratch for scores of this shape."""
        elements = max(LIMIT, shape[K])
        return sum(nbytes(1, dtype, elements) for dtype in self.wide) + sum(nbytes(1, dtype) for dtype in self.narrow)

    def blocks(self, scores: Array, scratch: Array) -> Iterator[Block]:
        """Blocks of whole samples, in the memory order of the scores."""
        if not scores.size:
            return
        carver, elements = Carver(scratch), max(LIMIT, scores.shape[K])
        wide = [carver.take([elements], dtype) for dtype in self.wide]
        narrow = [carver.take([LIMIT], dtype) for dtype in self.narrow]
        order = [d for d in memory_order(scores) if d != K]
        shape = (*scores.shape[:K], 1, *scores.shape[K + 1 :])
        for block in blocks(Rect.whole(shape), block_sizes(shape, order, elements // scores.shape[K]), [*order, K]):
            samples = block.slices()
            slices = (*samples[:K], slice(None), *samples[K + 1 :])
            view = scores[slices]
            one = view[:, :1]
            yield Block(slices, samples, tuple(like(view, w) for w in wide), tuple(like(one, n) for n in narrow))


@dataclass
class Tally:
    """What the blocks of one run add up."""

    loss: float = 0.0
    correct: int = 0
    in_top: int = 0
    samples: int = 0

    def clear(self) -> None:
        """Start again."""
        self.loss, self.correct, self.in_top, self.samples = 0.0, 0, 0, 0


def _classes(scores: Array) -> Array:
    """0, 1, ... k - 1 along the axis of classes."""
    return np.arange(scores.shape[K], dtype=scores.dtype).reshape(
        [n if d == K else 1 for d, n in enumerate(scores.shape)]
    )


def _samples(call: Call) -> int:
    """Samples of the whole op, whether they count or not."""
    extents = zip(call.space.labels, call.space.extents, strict=True)
    return prod(n for label, n in extents if label not in ("k", "m"))


def _sum_over_classes(values: Array, out: Array) -> None:
    np.add.reduce(values, axis=K, out=out, keepdims=True)


def _at_label(label: Array, classes: Array, values: Array, mask: Array, out: Array) -> None:
    """`out = values[label]`, 0 for samples that do not count. Leaves nothing else in `values`."""
    np.not_equal(label, classes, out=mask)
    np.copyto(values, 0, where=mask)
    _sum_over_classes(values, out)


# --- softmax


class Softmax(Indifferent):
    """`probability = exp(input) / sum of it over k`; `output = sum of -log probability[label] / samples`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["input"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`. Either of the results may be left out."""
        x, labels, classes, tally = arrays["input"], arrays["labels"], _classes(arrays["input"]), Tally()
        added = "probability" in call.accumulate
        steps: list[Step] = [tally.clear]
        for block in self._shelf(call).blocks(x, scratch):
            target = arrays["probability"][block.slices] if "probability" in call.rects else None
            p = block.wide[0] if target is None or added or not is_dense(target) else target
            steps.append(partial(_softmax, classes, tally, x[block.slices], labels[block.samples], p, block))
            if target is not None:
                steps += delivered(p, target, added)
        if "output" in call.rects:
            steps.append(
                partial(_deliver_loss, tally, 1 / _samples(call), arrays["output"], "output" in call.accumulate)
            )
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, call.dtype, "bool"), (call.dtype, call.dtype, "bool", "float64"))


def _softmax(classes: Array, tally: Tally, x: Array, label: Array, p: Array, block: Block) -> None:
    """One block: `p`, and the losses of its samples."""
    _, shifted, mask = block.wide
    sums, other, void, losses = block.narrow
    np.copyto(shifted, x)
    np.maximum.reduce(shifted, axis=K, out=other, keepdims=True)
    np.subtract(shifted, other, out=shifted)
    np.exp(shifted, out=p)
    _sum_over_classes(p, sums)
    np.divide(p, sums, out=p)
    _at_label(label, classes, shifted, mask, other)
    np.log(sums, out=sums)
    np.subtract(sums, other, out=sums)
    np.less(label, 0, out=void)
    np.copyto(sums, 0, where=void)
    np.copyto(losses, sums)
    tally.loss += float(np.add.reduce(losses, axis=None))


def _deliver_loss(tally: Tally, scale: float, output: Array, accumulate: bool) -> None:
    output[...] = tally.loss * scale + (float(output.flat[0]) if accumulate else 0.0)


class SoftmaxGradient(Indifferent):
    """`input.delta = (probability - 1 at the label) / samples`, 0 for samples that do not count."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["probability"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, delta = arrays["probability"], arrays["labels"], arrays["input.delta"]
        rule = partial(_softmax_gradient, _classes(p), 1 / _samples(call))
        steps: list[Step] = []
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
            steps += delivered(block.wide[0], delta[block.slices], "input.delta" in call.accumulate)
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool"), (call.dtype,))


def _softmax_gradient(classes: Array, scale: float, p: Array, label: Array, block: Block) -> None:
    """The delta of one block."""
    (delta, mask), (weight,) = block.wide, block.narrow
    np.equal(label, classes, out=mask)
    np.copyto(delta, mask)
    np.subtract(p, delta, out=delta)
    np.greater_equal(label, 0, out=weight)
    np.multiply(weight, scale, out=weight)
    np.multiply(delta, weight, out=delta)


# --- metrics


class Evaluate(Indifferent):
    """`output = (loss, correct, correct in the top 5, samples)`: sums over the samples that count.

    A sample is correct if no other class has a larger probability, and no earlier one the same; in the top 5 if
    there are fewer than 5 such classes. The loss is taken over by the piece that starts at the first sample.
    """

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return self._shelf(call).nbytes(call.rects["probability"].size)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        p, labels, tally = arrays["probability"], arrays["labels"], Tally()
        loss = None if any(call.piece.start) else arrays["loss"]
        rule = partial(_count, _classes(p), tally)
        steps: list[Step] = [tally.clear]
        for block in self._shelf(call).blocks(p, scratch):
            steps.append(partial(rule, p[block.slices], labels[block.samples], block))
        steps.append(partial(_deliver_metrics, tally, loss, arrays["output"], "output" in call.accumulate))
        return in_sequence(steps)

    def _shelf(self, call: Call) -> Shelf:
        return Shelf((call.dtype, "bool", "bool"), (call.dtype, "bool", "bool"))


def _count(classes: Array, tally: Tally, p: Array, label: Array, block: Block) -> None:
    """One block: the number of classes that rank behind the label decides. Nothing ranks behind a NaN."""
    (values, behind, other), (number, valid, right) = block.wide, block.narrow
    np.copyto(values, p)
    _at_label(label, classes, values, other, number)
    np.copyto(values, p)
    np.equal(values, number, out=behind)
    np.greater(classes, label, out=other)
    np.logical_and(behind, other, out=behind)
    np.less(values, number, out=other)
    np.logical_or(behind, other, out=behind)
    np.copyto(values, behind)
    _sum_over_classes(values, number)
    np.greater_equal(label, 0, out=valid)
    tally.samples += int(np.count_nonzero(valid))
    np.greater_equal(number, classes.size - 1, out=right)
    np.logical_and(right, valid, out=right)
    tally.correct += int(np.count_nonzero(right))
    np.greater_equal(number, classes.size - TOP, out=right)
    np.logical_and(right, valid, out=right)
    tally.in_top += int(np.count_nonzero(right))


def _deliver_metrics(tally: Tally, loss: Array | None, output: Array, accumulate: bool) -> None:
    mean = 0.0 if loss is None else float(loss.flat[0])
    for m, value in enumerate((mean, tally.correct, tally.in_top, tally.samples)):
        output[m] = value + (float(output[m].flat[0]) if accumulate else 0.0)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {("softmax", False): Softmax(), ("softmax", True): SoftmaxGradient(), ("evaluate", False): Evaluate()}
)
