"""Means, variances and normalisation by them where they are one number a channel; forward and gradient.

In: calls of batch norm whose operands have their channels innermost. Out: kernels. Promise: sums are float32 within a block and
float64 over blocks, so that they are sound for any number of elements; what is normalised otherwise (by groups, layers or
instances), or lies otherwise in memory, or is a batch that lacks samples, is done by the NumPy kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy import norm
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent
from dgraph.kernels.torch.channel import BLOCK, PART, TERMS, ColumnSums, Matrices, matrices, of_channels
from dgraph.ops.label import dimension_labels
from dgraph.ops.norm import summed

Operands = Mapping[str, Array]
_STATISTICS = torch.ops.aten.batch_norm_update_stats.out
_GRADIENT = torch.ops.aten.native_batch_norm_backward.default
_GATE = torch.ops.aten.threshold_backward.grad_input
_SUMS = [False, True, True]
"""Of what the library's gradient finds: not the input's, but the two sums of every channel."""


def by_channel(call: Call) -> bool:
    """Whether every channel has one statistic, and one scale and shift."""
    letters = {name.upper() for name in dimension_labels(len(call.access.dims["input"]))}
    spans = call.attributes.get("spans", ("C",))
    return set(call.attributes["over"]) == letters - {"C"} and tuple(spans) == ("C",)


def is_full(moment: Moment) -> bool:
    """Whether this is training on a batch with all of its samples."""
    return moment.training and moment.samples == moment.batch


def unless_full(call: Call, full: Action, arrays: Operands, scratch: Array) -> Action:
    """`full` for full batches of training; all else is the NumPy kernel's, which is bound when it is first needed."""
    kernel, moment, others = norm.KERNELS[call.op, call.gradient], call.moment, list[Action]()

    def act() -> None:
        if is_full(moment):
            full()
            return
        if not others:
            others.append(kernel.bind(call, arrays, scratch))
        others[0]()

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
        x = matrices(arrays["input"]) if by_channel(call) else None
        if x is None or not x.dense:
            return norm.KERNELS[self.op, False].bind(call, arrays, scratch)
        find = _mean(x) if self.op == "mean" else _variance(x, of_channels(arrays["mean"]))
        output, elements, accumulate = of_channels(arrays["output"]), summed(call.access), "output" in call.accumulate

        def full() -> None:
            value = find() / elements
            np.copyto(output, value + output if accumulate else value, casting="same_kind")

        return unless_full(call, full, arrays, scratch)


def _mean(x: Matrices) -> Callable[[], Array]:
    sums = ColumnSums(x)
    add = in_sequence(sums.steps)

    def find() -> Array:
        add()
        return sums.total()

    return find


def _variance(x: Matrices, mean: Array) -> Callable[[], Array]:
    moments = Moments(x)

    def find() -> Array:
        means, variances = moments.find()
        return moments.variance(means, variances, mean.astype(np.float64)) * moments.count

    return find


@dataclass(frozen=True)
class StatisticGradient(Indifferent):
    """The part of the input's delta that goes by a statistic: a line in the input for every channel."""

    op: str

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return norm.KERNELS[self.op, True].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        delta = arrays["input.delta"]
        views = matrices(delta, arrays.get("input", delta)) if by_channel(call) else None
        if views is None:
            return norm.KERNELS[self.op, True].bind(call, arrays, scratch)
        line = Line(views)
        given, elements = of_channels(arrays["output.delta"]), summed(call.access)
        mean = of_channels(arrays["mean"]) if self.op == "variance" else None

        def find() -> None:
            share = given.astype(np.float64) / elements
            if mean is None:
                line.set(None, share)
            else:
                line.set(2 * share, -2 * share * mean)

        full = [find, *line.steps("input.delta" in call.accumulate, mean is not None)]
        return unless_full(call, in_sequence(full), arrays, scratch)


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


# --- normalisation


class Numbers:
    """What a normalisation knows of its channels: float64 [channels], as read at every run."""

    def __init__(self, call: Call, arrays: Operands) -> None:
        self._arrays = {port: of_channels(arrays[port]) for port in ("scale", "shift") if port in call.rects}
        self._mean, self._variance = of_channels(arrays["mean"]), of_channels(arrays["variance"])
        self._epsilon = float(call.attributes["epsilon"])

    def read(self) -> None:
        """Looks them up: `mean`, `inverse` (of the deviation), `slope` (that times the scale), `level`."""
        self.mean = self._mean.astype(np.float64)
        self.inverse = 1 / np.sqrt(self._variance.astype(np.float64) + self._epsilon)
        self.slope = self.inverse * self._arrays["scale"] if "scale" in self._arrays else self.inverse
        shift = self._arrays.get("shift")
        self.level = -self.mean * self.slope if shift is None else shift - self.mean * self.slope


class Normalize(Indifferent):
    """`output = (input - mean) / deviation * scale + shift`: one line in the input for every channel."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return norm.KERNELS["normalize", False].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        steps = normalizing(call, arrays, arrays["output"])
        if steps is None:
            return norm.KERNELS["normalize", False].bind(call, arrays, scratch)
        return in_sequence(steps)


def normalizing(call: Call, arrays: Operands, output: Array, added: Array | None = None,
                relu: bool = False) -> list[Step] | None:  # fmt: skip
    """Steps that normalise into `output`, then add another operand, then cut off below 0; None where they cannot."""
    operands = (output, arrays["input"], *(() if added is None else (added,)))
    views = matrices(*operands) if by_channel(call) else None
    if views is None:
        return None
    line, numbers = Line(Matrices(views.views[:2], views.fold, views.channels)), Numbers(call, arrays)

    def find() -> None:
        numbers.read()
        line.set(numbers.slope, numbers.level)

    steps: list[Step] = [find]
    for target, x, *others in views.blocks(PART):
        steps += line.of_block(target, x, "output" in call.accumulate)
        steps += [partial(target.add_, other) for other in others]
        steps += [partial(torch.relu_, target)] if relu else []
    return steps


class ChannelSums:
    """Two sums of every channel of dense operands: of a delta, and of the delta times the distance of x from its mean."""

    def __init__(self, views: Matrices, blocks: int) -> None:
        self._found = np.empty((2, blocks, views.fold, views.channels))
        self._rows = torch.from_numpy(self._found).reshape(2, blocks, -1)
        self._mean, self._one = views.row(), views.row(1.0)

    def begin(self, mean: Array) -> None:
        """Takes the means."""
        self._mean.set(mean)

    def of_block(self, k: int, delta: torch.Tensor, x: torch.Tensor) -> Step:
        """What finds the sums of one block."""
        width = delta.shape[-1]
        return partial(self._reduce, delta.reshape(-1, width), x.reshape(-1, width), self._rows[:, k])

    def _reduce(self, delta: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        _, product, plain = _GRADIENT(
            delta, x, None, self._mean.tensor, self._one.tensor, None, None, False, 0.0, _SUMS
        )
        out[0].copy_(plain)
        out[1].copy_(product)

    def end(self) -> tuple[Array, Array]:
        """The sums, float64 [channels]."""
        plain, product = self._found.sum((1, 2))
        return plain, product


@dataclass(frozen=True)
class Gate:
    """A relu behind the normalisation: its output and delta; where what passes is written (`home`), and added or copied to."""

    output: Array
    delta: Array
    home: Array
    others: tuple[tuple[Array, bool], ...] = ()


class NormalizeGradient(Indifferent):
    """The deltas of scale, shift, mean, variance and input."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return norm.KERNELS["normalize", True].workspace(call)

    def bind(self, call: Call, arrays: Operands, scratch: Array) -> Action:
        """See `Kernel.bind`."""
        found = Backward.of(call, arrays)
        return norm.KERNELS["normalize", True].bind(call, arrays, scratch) if found is None else found.alone()


class Backward:
    """The gradient of a normalisation in two passes: what passes the gate and its sums, then the delta of the input.

    With d = what passes: `input.delta = slope * (d - mean of d - z * mean of d z)` once the deltas of mean and variance have gone
    back, too; z is the normalised input.
    """

    def __init__(self, call: Call, arrays: Operands, views: Matrices, gate: Gate | None) -> None:
        """`views`: what passes, x, the input's delta, the gate's output, delta and others."""
        self._call, self._arrays, self._gate = call, arrays, gate
        self._numbers = Numbers(call, arrays)
        self._pairs = Matrices((views.views[2], views.views[0], views.views[1]), views.fold, views.channels)
        parts = views.blocks(BLOCK)
        self._sums = ChannelSums(views, len(parts))
        self._slope, self._tilt, self._level = views.row(), views.row(), views.row()
        self.steps: list[Step] = [self._begin]
        # The last block, which was written last, comes first; the first is in the cache still when the second pass begins with it.
        for k, block in reversed(list(enumerate(parts))):
            self.steps += [*self._passing(*block), self._sums.of_block(k, block[0], block[1])]
        self.steps.append(self._end)

    @staticmethod
    def of(call: Call, arrays: Operands, gate: Gate | None = None) -> Backward | None:
        """None where operands lie otherwise."""
        if not by_channel(call) or "input.delta" not in call.rects:
            return None
        home = arrays["output.delta"] if gate is None else gate.home
        more = () if gate is None else (gate.output, gate.delta, *(array for array, _ in gate.others))
        views = matrices(home, arrays["input"], arrays["input.delta"], *more)
        dense = views is not None and all(view.flags.c_contiguous for view in views.views[:2])
        return Backward(call, arrays, views, gate) if views is not None and dense else None

    def alone(self) -> Action:
        """The gradient of the normalisation alone."""
        return in_sequence([*self.steps, *self.scaled()])

    def scaled(self) -> list[Step]:
        """`input.delta (+)= slope * what passes`."""
        row, added, steps = self._slope.tensor, "input.delta" in self._call.accumulate, list[Step]()
        for delta, home, _ in self._pairs.blocks(BLOCK):
            steps.append(partial(delta.addcmul_, home, row) if added else partial(torch.mul, home, row, out=delta))
        return steps

    def complete(self) -> list[Step]:
        """`input.delta` with what goes by mean and variance: `slope * (what passes + tilt * x) + level`."""
        slope, tilt, level, steps = self._slope.tensor, self._tilt.tensor, self._level.tensor, list[Step]()
        for delta, home, x in self._pairs.blocks(BLOCK):
            steps.append(partial(torch.addcmul, home, x, tilt, out=delta))
            steps.append(partial(torch.addcmul, level, delta, slope, out=delta))
        return steps

    def _begin(self) -> None:
        self._numbers.read()
        self._sums.begin(self._numbers.mean)

    def _passing(self, home: torch.Tensor, x: torch.Tensor, delta: torch.Tensor, *more: torch.Tensor) -> list[Step]:
        """What lets pass one block."""
        if self._gate is None:
            return []
        output, given, *others = more
        steps: list[Step] = [partial(_GATE, given, output, 0, grad_input=home)]
        for other, (_, added) in zip(others, self._gate.others, strict=True):
            steps.append(partial(other.add_ if added else other.copy_, home))
        return steps

    def _end(self) -> None:
        plain, product = self._sums.end()
        numbers, dims = self._numbers, self._call.access.dims
        elements = prod(dims["input"]) // prod(dims["mean"])
        by_mean = -numbers.slope * plain
        by_variance = -0.5 * numbers.slope * numbers.inverse**2 * product
        self._deliver("shift.delta", plain)
        self._deliver("scale.delta", numbers.inverse * product)
        self._deliver("mean.delta", by_mean)
        self._deliver("variance.delta", by_variance)
        tilt = -(numbers.inverse**2) * product / elements
        self._slope.set(numbers.slope)
        self._tilt.set(tilt)
        self._level.set(by_mean / elements - numbers.slope * tilt * numbers.mean)

    def _deliver(self, port: str, value: Array) -> None:
        if port in self._arrays:
            target = of_channels(self._arrays[port])
            np.copyto(target, value + target if port in self._call.accumulate else value, casting="same_kind")


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {(op, False): Statistic(op) for op in ("mean", "variance")}
    | {(op, True): StatisticGradient(op) for op in ("mean", "variance")}
    | {("normalize", False): Normalize(), ("normalize", True): NormalizeGradient()}
)
