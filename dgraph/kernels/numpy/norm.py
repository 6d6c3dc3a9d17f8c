"""Means, variances and normalisation by them; forward and gradient.

In: calls whose operands are seen label by label (`Operand.view`): a statistic has length 1 in the labels that it sums. Out:
kernels that go over the input in blocks. Promise: sums over blocks are taken in float64; in an evaluation a statistic with a
running value is that value, written by the one piece that starts at the first of the summed labels, so that the sum over pieces is
right; samples that a partial batch lacks have no part in a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from dgraph.kernels.call import Action, Array, Call, Kernel, Moment
from dgraph.kernels.numpy.block import Carver, Step, aligned, in_sequence
from dgraph.kernels.numpy.blockwise import (
    Beside,
    Indifferent,
    Rule,
    Sum,
    assign_or_add,
    nbytes,
    sum_nbytes,
    sum_of,
    sums_of,
)
from dgraph.kernels.numpy.view import Operand
from dgraph.ops.norm import summed, summed_in
from dgraph.rect import Rect

Operands = Mapping[str, Array]


def views_of(call: Call, arrays: Mapping[str, Array], piece: Rect) -> Operands:
    """Every operand with one axis a label, and, where it is read, spread over the whole piece."""
    size = piece.size
    written = {port for port in call.rects if port == "output" or (port.endswith(".delta") and port != "output.delta")}
    views = {port: Operand.of(call, port, arrays[port]).view(piece) for port in call.rects}
    return {port: view if port in written else np.broadcast_to(view, size) for port, view in views.items()}


def by_label(call: Call, array: Array) -> Array:
    """An array of the input's rect with one axis a label."""
    return Operand.of(call, "input", array).view(call.piece)


def _add_to(call: Call, views: Operands, port: str, rule: Rule, reads: Sequence[str], scratch: Array) -> Action:
    """`port (+)= rule(reads)`, element by element."""
    inputs = [views[read] for read in reads]
    return assign_or_add(rule, inputs, views[port], port in call.accumulate, Carver(scratch))


# --- statistics


def of_present(call: Call, bind: Callable[[Rect, float], Action]) -> Action:
    """`bind(piece, elements)` for the part of the piece whose samples are there, and how many elements are summed.

    Bound once for full batches, and for a partial one when it first comes: there are few sizes of them.
    """
    moment, extent, partly = call.moment, call.access.dims["input"][0], dict[int, Action]()
    whole = bind(call.piece, elements(call, extent))
    if "N" not in call.attributes["over"]:
        return whole

    def act() -> None:
        rows = extent * moment.samples // moment.batch
        if rows < extent and rows not in partly:
            partly[rows] = bind(_before(call, rows), elements(call, rows))
        (whole if rows == extent else partly[rows])()

    return act


def elements(call: Call, rows: int) -> float:
    """How many elements stand behind one value of a statistic when so many samples are there: of the whole space, or of those
    pieces that it is of."""
    if call.among:
        return summed_in(call.access, call.among, rows)
    return summed(call.access) * (rows / call.access.dims["input"][0] if "N" in call.attributes["over"] else 1.0)


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
        train = of_present(call, partial(self._sum, call, arrays, scratch))
        if "running" not in call.rects:
            return train
        running = arrays["running"] if self._is_first(call) else None
        evaluate = partial(_take, running, arrays["output"], accumulate)
        return partial(_by_moment, call.moment, train, evaluate)

    def _sum(self, call: Call, arrays: Mapping[str, Array], scratch: Array, piece: Rect, elements: float) -> Action:
        accumulate = "output" in call.accumulate
        if not piece:
            return partial(_take, None, arrays["output"], accumulate)
        views = views_of(call, arrays, piece)
        inputs = [views[port] for port in self.reads]
        return sum_of(self.rule, inputs, views["output"], accumulate, scratch, 1 / elements)

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
        return of_present(call, partial(self._spread, call, arrays, scratch))

    def _spread(self, call: Call, arrays: Mapping[str, Array], scratch: Array, piece: Rect, elements: float) -> Action:
        steps: list[Step] = []
        if piece:
            rule = partial(self.rule, self.factor / elements)
            steps.append(_add_to(call, views_of(call, arrays, piece), "input.delta", rule, self.reads, scratch))
        if piece != call.piece and "input.delta" not in call.accumulate:
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


def by_statistic(call: Call) -> bool:
    """Whether scale and shift have one number for every number of the statistics, as in batch norm: sums over the labels that these
    lack are then all that is to be known of the input."""
    maps = call.access.maps
    return maps["scale"] == maps["variance"] or not {"scale", "shift", "shift.delta"} & call.rects.keys()


class _Normalizing(Indifferent):
    """What forward and gradient share: numbers of the statistic's size, found once a run in scratch.

    `inverse`: the inverse deviations; `factor`: the same times the scale, where there is one for each of them.
    """

    numbers, sums = 2, 1

    def workspace(self, call: Call) -> int:
        """See `Kernel.workspace`."""
        itemsize = np.dtype(call.dtype).itemsize
        blocks = sum_nbytes(call.dtype, self.sums) + nbytes(1, call.dtype)
        return self.numbers * aligned(call.rects["variance"].volume * itemsize) + blocks

    def found(self, call: Call, arrays: Mapping[str, Array], carver: Carver) -> tuple[list[Step], dict[str, Array]]:
        """The steps that find the numbers, and the arrays with them."""
        variance = arrays["variance"]
        numbers = {name: carver.take(variance.shape, call.dtype) for name in ("inverse", "factor")}
        epsilon = float(call.attributes["epsilon"])
        steps: list[Step] = [partial(_inverse_deviation, variance, epsilon, numbers["inverse"])]
        if "scale" in call.rects and by_statistic(call):
            steps.append(partial(np.multiply, numbers["inverse"], arrays["scale"], out=numbers["factor"]))
        else:
            steps.append(partial(np.copyto, numbers["factor"], numbers["inverse"]))
        return steps, numbers


def _spread(call: Call, numbers: Mapping[str, Array]) -> dict[str, Array]:
    """Numbers of the statistic's size with one axis a label, spread over the whole piece."""
    return {
        name: np.broadcast_to(Operand.of(call, "variance", array).view(call.piece), call.piece.size)
        for name, array in numbers.items()
    }


class Normalize(_Normalizing):
    """`output = (input - mean) * inverse deviation * scale + shift`."""

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        carver = Carver(scratch)
        steps, numbers = self.found(call, arrays, carver)
        views = dict(views_of(call, arrays, call.piece)) | _spread(call, numbers)
        ports = [
            port for port in ("scale", "shift") if port in call.rects and not (port == "scale" and by_statistic(call))
        ]
        rule = partial(_normalize, "scale" in ports, "shift" in ports)
        inputs = [views[port] for port in ("input", "mean", "factor", *ports)]
        return in_sequence([*steps, assign_or_add(rule, inputs, views["output"], "output" in call.accumulate, carver)])

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`."""
        return [("output", "input")]


def _normalize(scaled: bool, shifted: bool, x: Array, mean: Array, factor: Array, *others: Array) -> None:
    *given, out = others
    np.subtract(x, mean, out=out)
    np.multiply(out, factor, out=out)
    if scaled:
        np.multiply(out, given[0], out=out)
    if shifted:
        np.add(out, given[-1], out=out)


class NormalizeGradient(_Normalizing):
    """With d = output.delta * scale and the normalised input z: `input.delta = d / deviation`, `mean.delta = - sum of that`,
    `variance.delta = - sum of d z / (2 (variance + epsilon))`, `scale.delta = sum of output.delta z`, `shift.delta` = sum of
    output.delta. Where scale and shift have one number a statistic, these follow from two sums, taken in one pass."""

    numbers, sums = 4, 2

    def bind(self, call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """See `Kernel.bind`."""
        return self.behind([], call, arrays, scratch)

    def behind(self, ahead: Sequence[Beside], call: Call, arrays: Mapping[str, Array], scratch: Array) -> Action:
        """The gradient, with more that is done ahead of it, block by block, where it is `by_statistic`; one axis a label."""
        carver = Carver(scratch)
        steps, numbers = self.found(call, arrays, carver)
        views = dict(views_of(call, arrays, call.piece)) | _spread(call, numbers)
        if not by_statistic(call):
            return in_sequence([*steps, *self._separately(call, views, carver)])
        shape = arrays["variance"].shape
        plain, centred = (carver.take(shape, call.dtype) for _ in range(2))
        return in_sequence([*steps, self._sums(call, views, (plain, centred), carver, ahead),
                            partial(_settle, call, arrays, numbers, plain, centred)])  # fmt: skip

    def overwrites(self, call: Call) -> Collection[tuple[str, str]]:
        """See `InPlace.overwrites`: sums of a block come first."""
        return [("input.delta", "output.delta")]

    def _sums(self, call: Call, views: Operands, found: tuple[Array, Array], carver: Carver,
              ahead: Sequence[Beside]) -> Action:  # fmt: skip
        """Finds the sums of the delta, and of its product with the distance from the mean; input.delta beside them."""
        outs = [Operand.of(call, "variance", array).view(call.piece) for array in found]
        delta = views["output.delta"]
        sums = [Sum(None, [delta], outs[0]), Sum(_times_distance, [delta, views["input"], views["mean"]], outs[1])]
        if "input.delta" not in views:
            return sums_of(sums, carver.rest, (), ahead)
        accumulate = "input.delta" in call.accumulate
        beside = Beside(np.multiply, [delta, views["factor"]], views["input.delta"], accumulate)
        return sums_of(sums, carver.rest, [beside], ahead)

    def _separately(self, call: Call, views: Operands, carver: Carver) -> list[Action]:
        """Every result for itself."""
        scale = ("scale",) if "scale" in call.rects else ()
        reads: dict[str, tuple[Rule | None, tuple[str, ...], float]] = {
            "shift.delta": (None, ("output.delta",), 1.0),
            "scale.delta": (_times_normalized, ("output.delta", "input", "mean", "inverse"), 1.0),
            "mean.delta": (_times, ("output.delta", "inverse", *scale), -1.0),
            "variance.delta": (_by_variance, ("output.delta", "input", "mean", "inverse", *scale), -0.5),
        }
        actions: list[Action] = []
        for port, (rule, ports, factor) in reads.items():
            if port in call.rects:
                inputs = [views[read] for read in ports]
                actions.append(sum_of(rule, inputs, views[port], port in call.accumulate, carver.rest, factor))
        if "input.delta" in call.rects:
            ports = ("output.delta", "inverse", *scale)
            actions.append(_add_to(call, views, "input.delta", _times, ports, carver.rest))
        return actions


def _settle(call: Call, arrays: Operands, numbers: Operands, plain: Array, centred: Array) -> None:
    """The deltas of statistics, scale and shift from the sums of the delta, and of its product with the distance from the mean;
    they are lost."""
    _settle_one(call, arrays, "shift.delta", plain)
    np.multiply(plain, numbers["factor"], out=plain)
    np.negative(plain, out=plain)
    _settle_one(call, arrays, "mean.delta", plain)
    np.multiply(centred, numbers["inverse"], out=centred)
    _settle_one(call, arrays, "scale.delta", centred)
    for factor in (numbers["inverse"], numbers["factor"], -0.5):
        np.multiply(centred, factor, out=centred)
    _settle_one(call, arrays, "variance.delta", centred)


def _settle_one(call: Call, arrays: Operands, port: str, value: Array) -> None:
    if port in call.rects:
        target = arrays[port]
        np.add(target, value, out=target) if port in call.accumulate else np.copyto(target, value)


def _times(delta: Array, *factors: Array) -> None:
    *given, out = factors
    np.multiply(delta, given[0], out=out)
    for factor in given[1:]:
        np.multiply(out, factor, out=out)


def _times_distance(delta: Array, x: Array, mean: Array, out: Array) -> None:
    np.subtract(x, mean, out=out)
    np.multiply(out, delta, out=out)


def _times_normalized(delta: Array, x: Array, mean: Array, inverse: Array, out: Array) -> None:
    _times_distance(delta, x, mean, out)
    np.multiply(out, inverse, out=out)


def _by_variance(delta: Array, x: Array, mean: Array, inverse: Array, *factors: Array) -> None:
    *scale, out = factors
    _times_normalized(delta, x, mean, inverse, out)
    for factor in (inverse, inverse, *scale):
        np.multiply(out, factor, out=out)


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("mean", False): Statistic(None, ("input",)),
        ("mean", True): StatisticGradient(_scaled, ("output.delta",), 1.0),
        ("variance", False): Statistic(_squared_distance, ("input", "mean")),
        # What goes by the mean adds up to zero.
        ("variance", True): StatisticGradient(_scaled_distance, ("input", "mean", "output.delta"), 2.0),
        ("normalize", False): Normalize(),
        ("normalize", True): NormalizeGradient(),
    }
)
