"""Means and variances where they are one number a channel; forward and gradient.

In: calls of batch norm whose operands have their channels innermost. Out: kernels, and what chains are made of. Promise: sums are
float32 within a block and float64 over blocks, so that they are sound for any number of elements; samples that a partial batch
lacks have no part; what is normalised otherwise (by groups, layers or instances), or lies otherwise in memory, is done by the NumPy
kernel, as are evaluations by running values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy import norm
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent
from dgraph.kernels.torch.channel import PART, TERMS, ColumnSums, Matrices, matrices, of_channels
from dgraph.ops.label import dimension_labels

Operands = Mapping[str, Array]
_STATISTICS = torch.ops.aten.batch_norm_update_stats.out


def by_channel(call: Call) -> bool:
    """Whether every channel has one statistic, and one scale and shift."""
    letters = {name.upper() for name in dimension_labels(len(call.access.dims["input"]))}
    spans = call.attributes.get("spans", ("C",))
    return set(call.attributes["over"]) == letters - {"C"} and tuple(spans) == ("C",)


# --- samples that are there


def of_present(call: Call, bind: Callable[[int, float], Action]) -> Action:
    """`bind(rows, elements)` for the first rows of the piece, whose samples are there, and how many elements are summed.

    Bound once for full batches, and for a partial one when it first comes: there are few sizes of them.
    """
    moment, extent = call.moment, call.access.dims["input"][0]
    first, last = call.space.box(call.piece)["n"]
    bound = {extent: bind(last - first, norm.elements(call, extent))}

    def act() -> None:
        rows = extent * moment.samples // moment.batch
        if rows not in bound:
            bound[rows] = bind(max(0, min(rows, last) - first), norm.elements(call, rows))
        bound[rows]()

    return act


def unless_evaluated(moment: Moment, train: Action, bind: Callable[[], Action]) -> Action:
    """`train`, but in an evaluation what is bound when it first comes."""
    bound: list[Action] = []

    def act() -> None:
        if moment.training:
            train()
            return
        if not bound:
            bound.append(bind())
        bound[0]()

    return act


# --- statistics


class Moments:
    """Mean and variance of every channel of a dense operand in one pass: block by block by the library, in float32, then over
    blocks in float64 (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances")."""

    def __init__(self, x: Matrices) -> None:
        parts = x.blocks(TERMS * x.width)
        found = torch.empty(2, len(parts), x.width, dtype=parts[0][0].dtype)
        self._steps = [(block, found[0, k], found[1, k]) for k, (block,) in enumerate(parts)]
        self._found = found.numpy().reshape(2, len(parts), x.fold, x.channels)
        self._counts = np.array([[[len(block)]] for block, _, _ in self._steps], np.float64)
        self.count = float(self._counts.sum()) * x.fold

    def find(self) -> tuple[Array, Array]:
        """Means of the columns, and their mean squares around these: float64 [blocks, fold, channels].

        The last block comes first: it was written last, so that it may be in the cache still, and the first one is there behind it.
        """
        for block, mean, variance in reversed(self._steps):
            _STATISTICS(block, None, None, 0.0, out0=mean, out1=variance)
        means, variances = self._found.astype(np.float64)
        return means, variances

    def mean(self, means: Array) -> Array:
        """The means of the channels."""
        return np.asarray((means * self._counts).sum((0, 1)) / self.count)

    def variance(self, means: Array, variances: Array, mean: Array) -> Array:
        """The mean squares of the channels around a mean."""
        spread = means - mean
        spread *= spread
        spread += variances
        return np.asarray((spread * self._counts).sum((0, 1)) / self.count)


@dataclass(frozen=True)
class Statistic(Indifferent):
    """The mean, or the variance around it."""

    op: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return norm.KERNELS[self.op, False].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        other = partial(norm.KERNELS[self.op, False].bind, call, arrays, scratch)
        x = matrices(arrays["input"]) if by_channel(call) else None
        if x is None or not _is_dense(arrays["input"], x):
            return other()
        train = of_present(call, partial(self._of_rows, call, arrays))
        return unless_evaluated(call.moment, train, other) if "running" in call.rects else train

    def _of_rows(self, call: Call, arrays: Operands, rows: int, elements: float) -> Action:
        output, accumulate = of_channels(arrays["output"]), "output" in call.accumulate
        find = self._sum(arrays, matrices(arrays["input"][:rows]))

        def act() -> None:
            value = find() / max(1, elements)
            np.copyto(output, value + output if accumulate else value, casting="same_kind")

        return act

    def _sum(self, arrays: Operands, x: Matrices | None) -> Callable[[], Array]:
        if x is None:
            return lambda: np.zeros(arrays["input"].shape[1])
        return _sum(x) if self.op == "mean" else _squares(x, of_channels(arrays["mean"]))


def _sum(x: Matrices) -> Callable[[], Array]:
    sums = ColumnSums(x)
    add = in_sequence(sums.steps)

    def find() -> Array:
        add()
        return sums.total()

    return find


def _squares(x: Matrices, mean: Array) -> Callable[[], Array]:
    """The sum of the squares of what is left without the mean."""
    moments = Moments(x)

    def find() -> Array:
        means, variances = moments.find()
        return moments.variance(means, variances, mean.astype(np.float64)) * moments.count

    return find


def both(call: Call, mean: Operands, variance: Operands) -> Action | None:
    """The mean (of `call`) and the variance of a whole batch in one pass over the input; None where it lies otherwise."""
    x = mean["input"]
    views = matrices(x)
    if views is None or not _is_dense(x, views):
        return None
    outputs = [of_channels(own["output"]) for own in (mean, variance)]

    def bind(rows: int, elements: float) -> Action:
        views = matrices(x[:rows])
        return partial(_find_both, None if views is None else Moments(views), outputs)

    return of_present(call, bind)


def _find_both(moments: Moments | None, outputs: list[Array]) -> None:
    if moments is None:
        for output in outputs:
            output.fill(0)
        return
    means, variances = moments.find()
    mean = moments.mean(means)
    for output, value in zip(outputs, (mean, moments.variance(means, variances, mean)), strict=True):
        np.copyto(output, value, casting="same_kind")


def _is_dense(array: Array, views: Matrices) -> bool:
    """Whether an operand and its first samples are runs of memory."""
    return views.dense and (len(array) == 1 or array.strides[0] == max(array.strides))


# --- gradients


@dataclass(frozen=True)
class StatisticGradient(Indifferent):
    """The part of the input's delta that goes by a statistic: a line in the input for every channel."""

    op: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return norm.KERNELS[self.op, True].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        action = None
        if by_channel(call):
            given = of_channels(arrays["output.delta"])
            action = taken_back(call, arrays, *((None, given) if self.op == "mean" else (given, None)))
        return norm.KERNELS[self.op, True].bind(call, arrays, scratch) if action is None else action


def taken_back(call: Call, arrays: Operands, variance: Array | None, mean: Array | None) -> Action | None:
    """`input.delta (+)= 2 (x - its mean) / n * variance's delta + mean's delta / n`, of those that are given; None where operands
    lie otherwise."""
    delta, accumulate = arrays["input.delta"], "input.delta" in call.accumulate
    x = arrays.get("input", delta)
    if matrices(delta, x) is None:
        return None

    def bind(rows: int, elements: float) -> Action:
        views = matrices(delta[:rows], x[:rows])
        rest = [] if accumulate or rows == len(delta) else [partial(delta[rows:].fill, 0)]
        if views is None:
            return in_sequence(rest)
        line = Line(views)

        def find() -> None:
            level = np.zeros(delta.shape[1]) if mean is None else mean / elements
            slope = None if variance is None else variance.astype(np.float64) * (2 / elements)
            line.set(slope, level if slope is None else level - slope * of_channels(arrays["mean"]))

        return in_sequence([find, *line.steps(accumulate, variance is not None), *rest])

    return of_present(call, bind)


class Line:
    """`target (+)= slope * x + level`, with a slope and a level for every channel; `views`: target and x."""

    def __init__(self, views: Matrices) -> None:
        self._views, self._slope, self._level = views, views.row(), views.row()

    def set(self, slope: Array | None, level: Array) -> None:
        """Takes the numbers of the channels."""
        if slope is not None:
            self._slope.set(slope)
        self._level.set(level)

    def steps(self, accumulate: bool, sloping: bool = True) -> list[Step]:
        """What does it, block by block."""
        parts = self._views.blocks(PART)
        return [step for target, x in parts for step in self.of_block(target, x, accumulate, sloping)]

    def of_block(self, target: torch.Tensor, x: torch.Tensor, accumulate: bool, sloping: bool = True) -> list[Step]:
        """What does one block."""
        slope, level = self._slope.tensor, self._level.tensor
        if not sloping:
            return [partial(target.add_ if accumulate else target.copy_, level)]
        if not accumulate:
            return [partial(torch.addcmul, level, x, slope, out=target)]
        return [partial(target.addcmul_, x, slope), partial(target.add_, level)]


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {(op, False): Statistic(op) for op in ("mean", "variance")}
    | {(op, True): StatisticGradient(op) for op in ("mean", "variance")}
)
