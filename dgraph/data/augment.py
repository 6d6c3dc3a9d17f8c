"""Samples changed at random in training: mirrored, shifted, cropped; and normalised at all times.

In: a source, steps, an epoch. Out: a `Source`. Promise: a change is a function of (seed, step, epoch, index of the sample), the
same on any mesh; a rect of the result reads that rect as it lay before, mirrored or moved, and nothing else. Labels of places move
with their sample.

    kind        in training                                    in evaluations     arguments
    flip        mirrored along each axis with a probability    as it is           axis: W or HW ..., probability: 0.5
    shift       moved by up to so many places, zeros behind    as it is           H: 4, W: 4
    crop        a part of this size, anywhere                  the middle         H: 28, W: 28
    normalize   (x - mean) / deviation, channel by channel     the same           mean: [...], deviation: [...]

A place that came in from outside has no label.

    out   | a   b |        shift by o: x + o        in   | a + o   b + o |        mirrored in E places: E - 1 - x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgraph.data.batch import missing_label
from dgraph.data.spec import Array, Behind, Description, Source, Step
from dgraph.error import ConfigError
from dgraph.ops.letter import letters_of
from dgraph.random import fill_uniform
from dgraph.rect import Rect
from dgraph.spare import empty

SAMPLES = 64
"""How many samples are moved at a time."""
Bounds = tuple[int, int]
Draw = Callable[[Array], Array]
"""From samples, int64 [n], to what happens to each along every dimension, int64 [n, dimension, 2]: an offset, and 1 if mirrored."""


def axes_of(shape: Sequence[int]) -> tuple[str, ...]:
    """The letters of a sample's spatial dimensions."""
    return letters_of(len(shape) + 1)[2:]


def augmented_description(steps: Sequence[Step], known: Description) -> Description:
    """The numbers of a source behind steps. Raises ConfigError for a step that does not fit the samples or their labels."""
    for place, step in enumerate(steps):
        ((kind, given),) = step.items()
        where = f"augment.{place}.{kind}"
        if kind == "normalize":
            _check_channels(given, known.shape, where)
            continue
        axes = given["axis"] if kind == "flip" else given
        for axis in axes:
            _check_axis(axis, known, where if kind == "flip" else f"{where}.{axis}", kind)
        if kind == "shift":
            _check_shift(given, known.shape, where)
        if kind == "crop":
            known = _cropped(given, known, where)
    return known


def _check_channels(given: Mapping[str, Any], shape: Sequence[int], where: str) -> None:
    for key in ("mean", "deviation"):
        if len(given[key]) != shape[0]:
            what = f"data.{where}.{key} has {len(given[key])} numbers, a sample has {shape[0]} channels"
            raise ConfigError(what, "one a channel").about("data", f"{where}.{key}")


def _check_axis(axis: str, known: Description, where: str, kind: str) -> None:
    axes = axes_of(known.shape)
    if axis not in axes:
        has = f"its axes are {', '.join(axes)}" if axes else "it has no axes of space"
        raise ConfigError(f"data.{where}: a sample has no axis {axis}", has).about("data", where)
    dimension = 1 + axes.index(axis)
    extent, labels = known.shape[dimension], known.label_shape[dimension]
    if labels not in (1, extent):
        what = f"{kind} along {axis}: labels have {labels} places, the sample {extent}"
        raise ConfigError(what, "labels can move with their sample only where they have its places").about(
            "data", where
        )


def _check_shift(given: Mapping[str, int], shape: Sequence[int], where: str) -> None:
    for axis, extent in zip(axes_of(shape), shape[1:], strict=True):
        if given.get(axis, 0) >= extent:
            what = f"data.{where}.{axis}: {given[axis]} of {extent} places"
            raise ConfigError(what, "a shift leaves some of the sample").about("data", f"{where}.{axis}")


def _cropped(given: Mapping[str, int], known: Description, where: str) -> Description:
    shape, label_shape = list(known.shape), list(known.label_shape)
    for dimension, axis in enumerate(axes_of(known.shape), 1):
        size = given.get(axis, shape[dimension])
        if size > shape[dimension]:
            what = f"data.{where}.{axis}: {size} of {shape[dimension]} places"
            raise ConfigError(what, "a crop is no larger than the sample").about("data", f"{where}.{axis}")
        if label_shape[dimension] > 1:
            label_shape[dimension] = size
        shape[dimension] = size
    return replace(known, shape=tuple(shape), label_shape=tuple(label_shape))


def augmented(source: Source, steps: Sequence[Step], seed: int, epoch: int | None) -> Source:
    """A source behind steps that fit it, as an epoch of training has it, or with None as evaluations do."""
    for place, step in enumerate(steps):
        ((kind, given),) = step.items()
        if kind == "normalize":
            source = Normalized(source, tuple(given["mean"]), tuple(given["deviation"]))
        elif kind == "crop" or epoch is not None:
            draws = _Draws(source, kind, given, seed, f"augment {place} {kind}", epoch)
            known = Description(source.samples, source.shape, source.classes, source.label_shape)
            if kind == "crop":
                known = _cropped(given, known, "")
            source = Moved(source, known, draws)
    return source


def reach(steps: Sequence[Step], shape: Sequence[int], rect: Rect) -> Rect:
    """Which rect of samples, or of labels, of this shape a rect behind the steps can come from, whatever they draw."""
    stages = [tuple(shape)]
    for step in steps:
        crop = step.get("crop", {})
        sizes = (min(n, crop.get(axis, n)) for axis, n in zip(axes_of(shape), stages[-1][1:], strict=True))
        stages.append((shape[0], *sizes))
    for step, before in zip(reversed(steps), reversed(stages[:-1]), strict=True):
        rect = Rect.of(_reach(step, rect, before, d) for d in range(len(before)))
    return rect


def _reach(step: Step, rect: Rect, shape: Sequence[int], dimension: int) -> Bounds:
    """As `reach`, of one step, along one dimension."""
    ((kind, given),) = step.items()
    first, last = rect.bounds[dimension]
    extent, axis = shape[dimension], ("", *axes_of(shape))[dimension]
    if not rect or not dimension or kind == "normalize":
        return first, last
    if kind == "flip":
        return (min(first, extent - last), max(last, extent - first)) if axis in given["axis"] else (first, last)
    if kind == "shift":
        return max(0, first - given.get(axis, 0)), min(extent, last + given.get(axis, 0))
    return first, last + extent - min(extent, given.get(axis, extent))


@dataclass(frozen=True)
class _Draws:
    """What one step does to samples in one epoch."""

    source: Source
    kind: str
    given: Mapping[str, Any]
    seed: int
    purpose: str
    epoch: int | None

    def __call__(self, indices: Array) -> Array:
        moves = np.zeros((len(indices), len(self.source.shape), 2), np.int64)
        for dimension, axis in enumerate(axes_of(self.source.shape), 1):
            extent = self.source.shape[dimension]
            if self.kind == "flip" and axis in self.given["axis"]:
                moves[:, dimension, 1] = self._uniform(axis, indices) < self.given["probability"]
            elif self.kind == "shift" and (most := self.given.get(axis, 0)):
                moves[:, dimension, 0] = np.floor(self._uniform(axis, indices) * (2 * most + 1)) - most
            elif self.kind == "crop" and (room := extent - self.given.get(axis, extent)):
                chosen = room // 2 if self.epoch is None else np.floor(self._uniform(axis, indices) * (room + 1))
                moves[:, dimension, 0] = chosen
        return moves

    def _uniform(self, axis: str, indices: Array) -> Array:
        drawn: Array = np.empty(len(indices))
        where = (self.seed, f"{self.purpose} {axis}", self.epoch or 0, (self.source.samples,), Rect((0,), (1,)))
        fill_uniform(drawn, *where, picks=indices)
        return drawn


@dataclass(frozen=True)
class Moved(Behind):
    """A source whose samples lie elsewhere: each mirrored or moved as `draw` says."""

    known: Description
    draw: Draw

    @property
    def shape(self) -> tuple[int, ...]:
        """As `Source.shape`."""
        return self.known.shape

    @property
    def label_shape(self) -> tuple[int, ...]:
        """As `Source.label_shape`."""
        return self.known.label_shape

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`; zeros where a sample was moved away."""

        def read(some: Array) -> Array:
            return _read_moved(self.source.read, self.source.shape, 0.0, self.draw(some), some, rect)

        return _in_bites(read, indices)

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`; no label where a sample was moved away."""
        missing = missing_label(self.source.classes)

        def read(some: Array) -> Array:
            moves = self.draw(some)
            moves[:, np.array(self.source.label_shape) == 1] = 0
            return _read_moved(self.source.labels, self.source.label_shape, missing, moves, some, rect)

        return _in_bites(read, indices)


def _in_bites(read: Callable[[Array], Array], indices: Array) -> Array:
    """What is read of samples, a few at a time, so that what is drawn for them stays small."""
    found = [read(indices[start : start + SAMPLES]) for start in range(0, max(1, len(indices)), SAMPLES)]
    if len(found) == 1:
        return found[0]
    return np.concatenate(found, out=empty((len(indices), *found[0].shape[1:]), np.result_type(*found)))


def _read_moved(read: Callable[[Array, Rect], Array], extents: Sequence[int], missing: float, moves: Array,
                indices: Array, rect: Rect) -> Array:  # fmt: skip
    """What `read` gives of samples at the places that their moves lead to; samples of one move are read together."""
    kinds, which = np.unique(moves.reshape(len(indices), 2 * len(extents)), axis=0, return_inverse=True)
    found: list[tuple[tuple[Any, ...], Array]] = []
    for number, move in enumerate(kinds.reshape(-1, len(extents), 2).tolist()):
        chosen = np.flatnonzero(which.ravel() == number)
        before = [_before(*args) for args in zip(rect.bounds, extents, move, strict=True)]
        inner = Rect.of((max(a, 0), min(b, n)) for (a, b), n in zip(before, extents, strict=True))
        if inner:
            turned = (slice(None), *(slice(None, None, -1 if mirrored else 1) for _, mirrored in move))
            target: tuple[Any, ...] = (chosen, *inner.slices([a for a, _ in before]))
            found.append((target, read(indices[chosen], inner)[turned]))
    dtype = np.result_type(*(values for _, values in found)) if found else np.dtype(np.float32)
    out = empty((len(indices), *rect.size), dtype)
    out.fill(missing)
    for target, values in found:
        out[target] = values
    return out


def _before(bounds: Bounds, extent: int, move: Sequence[int]) -> Bounds:
    """Where an interval of the result lay in the source, perhaps beyond its ends."""
    (first, last), (offset, mirrored) = bounds, move
    return (extent - last, extent - first) if mirrored else (first + offset, last + offset)


@dataclass(frozen=True)
class Normalized(Behind):
    """A source whose values are (x - mean) / deviation, by channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        values = self.source.read(indices, rect)
        channels = rect.slices()[0]
        mean, deviation = (
            np.array(given[channels], values.dtype).reshape(-1, *(1 for _ in rect.size[1:]))
            for given in (self.mean, self.deviation)
        )
        normal = empty(values.shape, values.dtype)
        np.subtract(values, mean, out=normal)
        normal /= deviation
        return normal
