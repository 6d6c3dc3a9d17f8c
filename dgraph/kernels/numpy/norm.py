"""Means, variances, normalisation by them, and dropout; forward and gradient.

In: calls whose operands are seen label by label (`Operand.view`): a statistic has length 1 in the labels that it sums. Out:
kernels that go over the input in blocks. Promise: sums are taken in float64; in an evaluation a statistic with a running
value is that value, written by the one piece that starts at the first of the summed labels, so that the sum over pieces is
right; samples that a partial batch lacks have no part in a statistic; what dropout keeps depends on seed, node, step and global
index alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy.block import Carver, Step, aligned, in_sequence
from dgraph.kernels.numpy.blockwise import (
    LIMIT,
    Indifferent,
    Rule,
    assign_or_add,
    delivered,
    like,
    nbytes,
    parts,
    sum_nbytes,
    sum_of,
)
from dgraph.kernels.numpy.view import Operand
from dgraph.ops.norm import summed
from dgraph.random import fill_uniform
from dgraph.rect import Rect

Operands = Mapping[str, Array]


def _views(call: Call, arrays: Mapping[str, Array], piece: Rect) -> Operands:
    """Every operand with one axis a label, and, where it is read, spread over the whole piece."""
    size = piece.size
    written = {port for port in call.rects if port == "output" or (port.endswith(".delta") and port != "output.delta")}
    views = {port: Operand.of(call, port, arrays[port]).view(piece) for port in call.rects}
    return {port: view if port in written else np.broadcast_to(view, size) for port, view in views.items()}


def _add_to(call: Call, views: Operands, port: str, rule: Rule, reads: Sequence[str], scratch: Array) -> Action:
    """`port (+)= rule(reads)`, element by element."""
    inputs = [views[read] for read in reads]
    return assign_or_add(rule, inputs, views[port], port in call.accumulate, Carver(scratch))


# --- statistics


def _of_present(call: Call, bind: Callable[[Rect, float], Action]) -> Action:
    """`bind(piece, share)` for the part of the piece whose samples are there, and their share of the batch.

    Bound once for full batches, and for a partial one when it first comes: there are few sizes of them.
    """
    whole = bind(call.piece, 1.0)
    if "N" not in call.attributes["over"]:
        return whole
    moment, extent, partly = call.moment, call.access.dims["input"][0], dict[int, Action]()

    def act() -> None:
        rows = extent * moment.samples // moment.batch
        if rows < extent and rows not in partly:
            partly[rows] = bind(_before(call, rows), rows / extent)
        (whole if rows == extent else partly[rows])()

    return act


def _before(call: Call, rows: int) -> Rect:
    """The part of a piece that stands before a row of the input."""
    box = call.space.box(call.piece)
    first, last = box["n"]
    return Rect.of((box | {"n": (first, max(first, min(rows, last)))}).values())


def _behind(call: Call, part: Rect) -> Rect:
    """The rest of a piece, behind what `_before` gave."""
    box = call.space.box(call.piece)
    return Rect.of((box | {"n": (call.space.box(part)["n"][1], box["n"][1])}).values())


@dataclass(frozen=True)
class Statistic(Indifferent):
    """`output = sum of rule(reads) / how many`; in an evaluation `running`, if it is joined."""

    rule: Rule | None
    reads: tuple[str, ...]

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return sum_nbytes(call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        accumulate = "output" in call.accumulate
        train = _of_present(call, partial(self._sum, call, arrays, scratch))
        if "running" not in call.rects:
            return train
        running = arrays["running"] if self._is_first(call) else None
        evaluate = partial(_take, running, arrays["output"], accumulate)
        return partial(_by_moment, call.moment, train, evaluate)

    def _sum(self, call: Call, arrays: Mapping[str, Array], scratch: Array, piece: Rect, share: float) -> Action:
        accumulate = "output" in call.accumulate
        if not piece:
            return partial(_take, None, arrays["output"], accumulate)
        views = _views(call, arrays, piece)
        inputs, scale = [views[port] for port in self.reads], 1 / (summed(call.access) * share)
        return sum_of(self.rule, inputs, views["output"], accumulate, scratch, scale)

    def _is_first(self, call: Call) -> bool:
        """Whether the piece starts at the first value of every label that is summed."""
        kept = {label for expression in call.access.maps["output"] for label, _ in expression.terms}
        starts = zip(call.space.labels, call.piece.start, strict=True)
        return all(start == 0 for label, start in starts if label not in kept)


def _take(running: Array | None, output: Array, accumulate: bool) -> None:
    if running is not None:
        np.add(output, running, out=output) if accumulate else np.copyto(output, running)
    elif not accumulate:
        output.fill(0)


def _by_moment(moment: Moment, train: Action, evaluate: Action) -> None:
    (train if moment.training else evaluate)()


def _squared_distance(x: Array, mean: Array, out: Array) -> None:
    np.subtract(x, mean, out=out)
    np.multiply(out, out, out=out)


@dataclass(frozen=True)
class StatisticGradient(Indifferent):
    """`input.delta = rule(reads) * factor / how many`, 0 for samples that are not there."""

    rule: Callable[..., None]
    reads: tuple[str, ...]
    factor: float

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        return _of_present(call, partial(self._spread, call, arrays, scratch))

    def _spread(self, call: Call, arrays: Mapping[str, Array], scratch: Array, piece: Rect, share: float) -> Action:
        steps: list[Step] = []
        if piece:
            rule = partial(self.rule, self.factor / (summed(call.access) * share))
            steps.append(_add_to(call, _views(call, arrays, piece), "input.delta", rule, self.reads, scratch))
        if share < 1 and "input.delta" not in call.accumulate:
            delta = Operand.of(call, "input.delta", arrays["input.delta"]).view(_behind(call, piece))
            steps.append(partial(delta.fill, 0))
        return in_sequence(steps)


def _scaled(scale: float, delta: Array, out: Array) -> None:
    np.multiply(delta, scale, out=out)


def _scaled_distance(scale: float, x: Array, mean: Array, delta: Array, out: Array) -> None:
    np.subtract(x, mean, out=out)
    np.multiply(out, delta, out=out)
    np.multiply(out, scale, out=out)


# --- normalisation


def _inverse_deviation(variance: Array, epsilon: float, out: Array) -> None:
    """1 / sqrt(variance + epsilon)"""
    np.add(variance, epsilon, out=out)
    np.sqrt(out, out=out)
    np.reciprocal(out, out=out)


class _Normalizing(Indifferent):
    """What forward and gradient share: the inverse deviations, found once a run in scratch of the statistic's size."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return aligned(call.rects["variance"].volume * np.dtype(call.dtype).itemsize) + sum_nbytes(call.dtype)

    def inverse(
        self, call: Call, arrays: Mapping[str, Array], scratch: Array
    ) -> tuple[Action, dict[str, Array], Array]:
        """An action that finds the inverse deviations, the views with them as `inverse`, and the rest of scratch."""
        variance = arrays["variance"]
        inverse = Carver(scratch).take(variance.shape, call.dtype)
        view = Operand.of(call, "variance", inverse).view(call.piece)
        views = dict(_views(call, arrays, call.piece)) | {"inverse": np.broadcast_to(view, call.piece.size)}
        epsilon = float(call.attributes["epsilon"])
        return partial(_inverse_deviation, variance, epsilon, inverse), views, scratch[aligned(inverse.nbytes) :]


class Normalize(_Normalizing):
    """`output = (input - mean) * inverse deviation * scale + shift`."""

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        first, views, rest = self.inverse(call, arrays, scratch)
        factors = [port for port in ("scale", "shift") if port in call.rects]
        rule = partial(_normalize, "scale" in factors, "shift" in factors)
        return in_sequence([first, _add_to(call, views, "output", rule, ("input", "mean", "inverse", *factors), rest)])


def _normalize(scaled: bool, shifted: bool, x: Array, mean: Array, inverse: Array, *factors: Array) -> None:
    *given, out = factors
    np.subtract(x, mean, out=out)
    np.multiply(out, inverse, out=out)
    if scaled:
        np.multiply(out, given[0], out=out)
    if shifted:
        np.add(out, given[-1], out=out)


class NormalizeGradient(_Normalizing):
    """With d = output.delta * scale and the normalised input z: `input.delta = d / deviation`, `mean.delta = - sum of that`,
    `variance.delta = - sum of d z / (2 (variance + epsilon))`, `scale.delta = sum of output.delta z`, `shift.delta` = sum of
    output.delta."""

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        first, views, rest = self.inverse(call, arrays, scratch)
        scale = ("scale",) if "scale" in call.rects else ()
        reads: dict[str, tuple[Rule | None, tuple[str, ...], float]] = {
            "shift.delta": (None, ("output.delta",), 1.0),
            "scale.delta": (_times_normalized, ("output.delta", "input", "mean", "inverse"), 1.0),
            "mean.delta": (_times, ("output.delta", "inverse", *scale), -1.0),
            "variance.delta": (_by_variance, ("output.delta", "input", "mean", "inverse", *scale), -0.5),
        }
        actions = [first]
        for port, (rule, ports, factor) in reads.items():
            if port in call.rects:
                inputs = [views[read] for read in ports]
                actions.append(sum_of(rule, inputs, views[port], port in call.accumulate, rest, factor))
        if "input.delta" in call.rects:
            ports = ("output.delta", "inverse", *scale)
            actions.append(_add_to(call, views, "input.delta", _times, ports, rest))
        return in_sequence(actions)


def _times(delta: Array, *factors: Array) -> None:
    *given, out = factors
    np.copyto(out, delta)
    for factor in given:
        np.multiply(out, factor, out=out)


def _times_normalized(delta: Array, x: Array, mean: Array, inverse: Array, out: Array) -> None:
    np.subtract(x, mean, out=out)
    np.multiply(out, inverse, out=out)
    np.multiply(out, delta, out=out)


def _by_variance(delta: Array, x: Array, mean: Array, inverse: Array, *factors: Array) -> None:
    *scale, out = factors
    _times_normalized(delta, x, mean, inverse, out)
    for factor in (inverse, inverse, *scale):
        np.multiply(out, factor, out=out)


# --- dropout


class Dropout(Indifferent):
    """`output = input * mask`, a mask of 0 and 1 / (1 - rate) in training, of 1 in an evaluation (Srivastava et al. 2014)."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`. Either of the results may be left out."""
        leading = arrays["output" if "output" in call.rects else "mask"]
        flat = Carver(scratch).take([LIMIT], call.dtype)
        steps: list[Step] = []
        for part in parts(leading):
            kept = like(leading[part], flat)
            steps.append(partial(_draw, call, _part_of(call.piece, part), kept))
            if "mask" in call.rects:
                steps.append(partial(_deliver, kept, arrays["mask"][part], "mask" in call.accumulate))
            if "output" in call.rects:
                steps.append(partial(np.multiply, kept, arrays["input"][part], out=kept))
                steps += delivered(kept, arrays["output"][part], "output" in call.accumulate)
        return in_sequence(steps)


def _part_of(piece: Rect, part: tuple[slice, ...]) -> Rect:
    """The rect of a block of a piece, in global coordinates."""
    return Rect.of((a + one.start, a + one.stop) for a, one in zip(piece.start, part, strict=True))


def _deliver(kept: Array, mask: Array, accumulate: bool) -> None:
    np.add(mask, kept, out=mask) if accumulate else np.copyto(mask, kept)


def _draw(call: Call, rect: Rect, kept: Array) -> None:
    """0 or 1 / (1 - rate) for every element of a rect, by global index."""
    moment, rate = call.moment, float(call.attributes["rate"])
    if not moment.training or rate == 0:
        kept.fill(1)
        return
    fill_uniform(kept, moment.seed, f"dropout {call.purpose}", moment.step, call.space.extents, rect)
    np.greater_equal(kept, rate, out=kept)
    np.multiply(kept, 1 / (1 - rate), out=kept)


class DropoutGradient(Indifferent):
    """`input.delta = output.delta * mask`."""

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        return nbytes(1, call.dtype)

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        accumulate = "input.delta" in call.accumulate
        reads = (arrays["output.delta"], arrays["mask"])
        return assign_or_add(_times, reads, arrays["input.delta"], accumulate, Carver(scratch))


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("mean", False): Statistic(None, ("input",)),
        ("mean", True): StatisticGradient(_scaled, ("output.delta",), 1.0),
        ("variance", False): Statistic(_squared_distance, ("input", "mean")),
        # What goes by the mean adds up to zero.
        ("variance", True): StatisticGradient(_scaled_distance, ("input", "mean", "output.delta"), 2.0),
        ("normalize", False): Normalize(),
        ("normalize", True): NormalizeGradient(),
        ("dropout", False): Dropout(),
        ("dropout", True): DropoutGradient(),
    }
)
