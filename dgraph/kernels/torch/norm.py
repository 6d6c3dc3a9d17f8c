"""Normalisation by means and variances where they are one number a channel; forward and gradient.

In: calls of batch norm whose operands have their channels innermost. Out: kernels, and what chains are made of. Promise: what is
normalised otherwise, or lies otherwise in memory, is done by the NumPy kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch

from dgraph.kernels.backend import Key
from dgraph.kernels.call import Action, Array, Call, Kernel
from dgraph.kernels.numpy import norm
from dgraph.kernels.numpy.block import Step, in_sequence
from dgraph.kernels.numpy.blockwise import Indifferent
from dgraph.kernels.torch.channel import BLOCK, PART, Matrices, Row, Tensors, matrices, of_channels
from dgraph.kernels.torch.statistic import Line, Operands, by_channel, of_present

_GRADIENT = torch.ops.aten.native_batch_norm_backward.default
_GATE = torch.ops.aten.threshold_backward.grad_input
_SUMS = [False, True, True]
"""Of what the library's gradient finds: not the input's, but the two sums of every channel."""


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

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("output", "input")]


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

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`: the delta of the input is made behind all sums."""
        return [("input.delta", "output.delta")]


class Backward:
    """The gradient of a normalisation in two passes: what passes the gate and its sums, then the delta of the input.

    With d = what passes: `input.delta = slope * (d - mean of d - z * mean of d z)` once the deltas of mean and variance have gone
    back, too; z is the normalised input.
    """

    def __init__(self, call: Call, arrays: Operands, views: Matrices, gate: Gate | None) -> None:
        """`views`: what passes, x, the input's delta, the gate's output, delta and others."""
        self._call, self._arrays, self._gate = call, arrays, gate
        self._numbers = Numbers(call, arrays)
        home = arrays["output.delta"] if gate is None else gate.home
        self._operands = (home, arrays["input"], arrays["input.delta"])
        self._views, self._parts = views, views.blocks(BLOCK)
        self._sums = ChannelSums(views, len(self._parts))

    def _first_pass(self, behind: Callable[[Tensors], list[Step]] = lambda block: []) -> list[Step]:
        """What passes the gate and its sums, and what is done `behind` them while a block is in the cache.

        The last block, which was written last, comes first; the first is in the cache still when a second pass begins with it.
        """
        steps: list[Step] = [self._begin]
        for k, block in reversed(list(enumerate(self._parts))):
            steps += [*self._passing(*block), self._sums.of_block(k, block[0], block[1]), *behind(block)]
        return [*steps, self._end]

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
        row, added = self._views.row(), "input.delta" in self._call.accumulate

        def scale(block: Tensors) -> list[Step]:
            return [_scaling(block[0], block[2], row, added)]

        first, *rest = self._first_pass(scale)
        return in_sequence([first, lambda: row.set(self._numbers.slope), *rest])

    def with_statistics(self) -> Action:
        """That with what goes by mean and variance, where samples are there."""

        def bind(rows: int, elements: float) -> Action:
            return in_sequence([*self._first_pass(), *self._complete(rows, elements), *self._scaled(slice(rows, None))])

        return of_present(self._call, bind)

    def _scaled(self, some: slice) -> list[Step]:
        """`input.delta (+)= slope * what passes`, for some samples."""
        views = matrices(*(operand[some] for operand in self._operands))
        if views is None:
            return []
        row, added = views.row(), "input.delta" in self._call.accumulate
        steps: list[Step] = [lambda: row.set(self._numbers.slope)]
        return [*steps, *(_scaling(home, delta, row, added) for home, _, delta in views.blocks(BLOCK))]

    def _complete(self, rows: int, elements: float) -> list[Step]:
        """`input.delta = slope * (what passes + tilt * x) + level`, for the first samples, of which so many elements are summed."""
        views = matrices(*(operand[:rows] for operand in self._operands))
        if views is None:
            return []
        slope, tilt, level = views.row(), views.row(), views.row()

        def find() -> None:
            numbers = self._numbers
            by_distance = -(numbers.inverse**2) * self._product / elements
            slope.set(numbers.slope)
            tilt.set(by_distance)
            level.set(-numbers.slope * (self._plain / elements + by_distance * numbers.mean))

        steps: list[Step] = [find]
        for home, x, delta in views.blocks(BLOCK):
            steps.append(partial(torch.addcmul, home, x, tilt.tensor, out=delta))
            steps.append(partial(torch.addcmul, level.tensor, delta, slope.tensor, out=delta))
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
        self._plain, self._product = plain, product = self._sums.end()
        numbers = self._numbers
        self._deliver("shift.delta", plain)
        self._deliver("scale.delta", numbers.inverse * product)
        self._deliver("mean.delta", -numbers.slope * plain)
        self._deliver("variance.delta", -0.5 * numbers.slope * numbers.inverse**2 * product)

    def _deliver(self, port: str, value: Array) -> None:
        if port in self._arrays:
            target = of_channels(self._arrays[port])
            np.copyto(target, value + target if port in self._call.accumulate else value, casting="same_kind")


def _scaling(home: torch.Tensor, delta: torch.Tensor, slope: Row, added: bool) -> Step:
    """`delta (+)= slope * home`"""
    return partial(delta.addcmul_, home, slope.tensor) if added else partial(torch.mul, home, slope.tensor, out=delta)


KERNELS: Mapping[Key, Kernel] = MappingProxyType(
    {("normalize", False): Normalize(), ("normalize", True): NormalizeGradient()}
)
