"""Samples as they are after steps whose numbers were fitted on the training samples.

In: a source, steps, what was fitted. Out: a `Source`. Promise: the shape of the result is known before anything is fitted; a rank
needs no more of a sample, and of what was fitted, than its rect of the result asks for.

    kind          result                                    fitted
    standardize   (x - mean) / deviation                    mean, deviation (of the population)
    min_max       from low to high                          minimum, maximum
    pca           projections onto principal components     mean, components, variance (n - 1 in its denominator)

The first two are by feature, each element of a sample on its own, or by channel. Without spread a feature becomes 0 (min_max: low).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import numpy as np

from dgraph.data.spec import Array, Behind, Description
from dgraph.data.spec import Step as Said
from dgraph.error import ConfigError
from dgraph.rect import Rect

Shape = tuple[int, ...]
BITE = 1 << 22
"""Elements of samples that are prepared at a time."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a rank has of something fitted: an array of the rect's shape."""

    rect: Rect
    array: Array

    def of(self, rect: Rect) -> Array:
        """The values of a rect within it."""
        return self.array[rect.slices(self.rect.start)]


Fitted = Mapping[str, Part]
"""What was fitted for a step, by name."""


class Step(Protocol):
    """One step: what it makes of samples."""

    @property
    def shape(self) -> Shape:
        """Of a sample before it."""

    @property
    def result_shape(self) -> Shape:
        """Of a sample behind it."""

    def dims(self) -> Mapping[str, Shape]:
        """What is fitted, by name."""

    def cut(self, name: str, rect: Rect) -> Rect | None:
        """What is fitted from this rect of samples alone; None for what needs all of them."""

    def needs(self, rect: Rect) -> Rect:
        """Which rect of a sample a rect of the result comes from."""

    def reads(self, rect: Rect) -> Mapping[str, Rect]:
        """Which rects of what is fitted a rect of the result needs."""

    def apply(self, values: Array, fitted: Fitted, rect: Rect) -> Array:
        """A rect of results [n, *rect.size] from the values [n, *size] of the rect that it needs."""


@dataclass(frozen=True)
class Elementwise:
    """What the steps have in common that take every element on its own."""

    shape: Shape
    by_channel: bool

    @property
    def result_shape(self) -> Shape:
        """The same."""
        return self.shape

    def needs(self, rect: Rect) -> Rect:
        """The same."""
        return rect

    def cut(self, name: str, rect: Rect) -> Rect | None:
        """A feature needs nothing but itself."""
        return None if self.by_channel else rect

    @property
    def dim(self) -> Shape:
        """Of everything that is fitted."""
        return (self.shape[0], *(1 for _ in self.shape[1:])) if self.by_channel else self.shape

    def place(self, rect: Rect) -> Rect:
        """Where the numbers of a rect of samples are."""
        return Rect.of([rect.bounds[0], *((0, 1) for _ in rect.bounds[1:])]) if self.by_channel and rect else rect


@dataclass(frozen=True)
class Standardize(Elementwise):
    """(x - mean) / deviation."""

    def dims(self) -> Mapping[str, Shape]:
        """Mean and deviation."""
        return {"mean": self.dim, "deviation": self.dim}

    def reads(self, rect: Rect) -> Mapping[str, Rect]:
        """Both, where the rect is."""
        return dict.fromkeys(("mean", "deviation"), self.place(rect))

    def apply(self, values: Array, fitted: Fitted, rect: Rect) -> Array:
        """As `Step.apply`; in double precision, and rounded."""
        mean, deviation = (fitted[name].of(self.place(rect)) for name in ("mean", "deviation"))
        centred = values - mean
        return _quotient(centred, deviation).astype(values.dtype, copy=False)


@dataclass(frozen=True)
class MinMax(Elementwise):
    """From `low` to `high`."""

    low: float
    high: float

    def dims(self) -> Mapping[str, Shape]:
        """Minimum and maximum."""
        return {"minimum": self.dim, "maximum": self.dim}

    def reads(self, rect: Rect) -> Mapping[str, Rect]:
        """Both, where the rect is."""
        return dict.fromkeys(("minimum", "maximum"), self.place(rect))

    def apply(self, values: Array, fitted: Fitted, rect: Rect) -> Array:
        """As `Step.apply`; in double precision, and rounded."""
        minimum, maximum = (fitted[name].of(self.place(rect)) for name in ("minimum", "maximum"))
        share = _quotient(values - minimum, maximum - minimum)
        share *= self.high - self.low
        share += self.low
        return share.astype(values.dtype, copy=False)


def _quotient(values: Array, spread: Array) -> Array:
    """values / spread, 0 where there is no spread; in place of values."""
    np.divide(values, np.where(spread > 0, spread, np.inf), out=values)
    return values


@dataclass(frozen=True)
class Pca:
    """Projections onto the first principal components; whitened, they have a variance of 1 each."""

    shape: Shape
    components: int
    whiten: bool

    @property
    def result_shape(self) -> Shape:
        """One number a component."""
        return (self.components,)

    def dims(self) -> Mapping[str, Shape]:
        """Mean, components and their variance."""
        return {"mean": self.shape, "components": (self.components, *self.shape), "variance": (self.components,)}

    def cut(self, name: str, rect: Rect) -> Rect | None:
        """Features of the mean, and of all components."""
        if name == "variance":
            return None
        return rect if name == "mean" else self._components(Rect.whole((self.components,)), rect)

    def needs(self, rect: Rect) -> Rect:
        """Whole samples."""
        return Rect.whole(self.shape) if rect else Rect.empty(len(self.shape))

    def reads(self, rect: Rect) -> Mapping[str, Rect]:
        """Whole components, as many as the rect has."""
        whole = self.needs(rect)
        return {"mean": whole, "components": self._components(rect, whole), "variance": rect}

    def apply(self, values: Array, fitted: Fitted, rect: Rect) -> Array:
        """As `Step.apply`; in the precision of the components."""
        whole = self.needs(rect)
        components = fitted["components"].of(self._components(rect, whole))
        return self.finish(self.project(values, fitted["mean"].of(whole), components), fitted, rect)

    def project(self, values: Array, mean: Array, components: Array) -> Array:
        """What some features, of values [n, *size], mean [*size] and components [k, *size], give to the projections [n, k]."""
        centred = (values - mean).astype(components.dtype, copy=False).reshape(len(values), mean.size)
        projected: Array = centred @ components.reshape(len(components), mean.size).T
        return projected

    def finish(self, projected: Array, fitted: Fitted, rect: Rect) -> Array:
        """The results of a rect from its projections [n, *rect.size]; in their place."""
        return _quotient(projected, np.sqrt(fitted["variance"].of(rect))) if self.whiten else projected

    def _components(self, first: Rect, behind: Rect) -> Rect:
        return Rect.of([*first.bounds, *behind.bounds])


def steps_of(said: Sequence[Said], shape: Shape) -> tuple[Step, ...]:
    """The steps of a config, for samples of this shape."""
    steps: list[Step] = []
    for one in said:
        ((kind, given),) = one.items()
        before = steps[-1].result_shape if steps else shape
        match kind:
            case "standardize":
                steps.append(Standardize(before, given["per"] == "channel"))
            case "min_max":
                steps.append(MinMax(before, given["per"] == "channel", given["low"], given["high"]))
            case _:
                steps.append(Pca(before, given["components"], given["whiten"]))
    return tuple(steps)


def prepared_description(said: Sequence[Said], known: Description) -> Description:
    """The numbers of a source behind steps. Raises ConfigError for a step that does not fit the samples or their labels."""
    for place, step in enumerate(steps_of(said, known.shape)):
        if not isinstance(step, Pca):
            continue
        where = f"prepare.{place}.pca"
        if max(known.label_shape[1:], default=1) > 1:
            what = f"data.{where}: labels {list(known.label_shape)} lie at places of the sample"
            raise ConfigError(what, "its components have no places").about("data", where)
        if step.components > prod(step.shape):
            what = f"data.{where}.components: {step.components} of {prod(step.shape)} features"
            raise ConfigError(what, "there are no more than features").about("data", f"{where}.components")
        known = replace(known, shape=step.result_shape, label_shape=known.label_shape[:1])
    return known


def require_samples(said: Sequence[Said], samples: int) -> None:
    """Raises ConfigError for a step that needs more samples than there are for training."""
    for place, step in enumerate(said):
        components = step.get("pca", {}).get("components", 0)
        if components >= samples:
            where = f"prepare.{place}.pca.components"
            what = f"data.{where}: {components} of {samples} samples for training"
            raise ConfigError(what, "components are fewer than samples").about("data", where)


@dataclass(frozen=True)
class Prepared(Behind):
    """A source behind steps, each with what was fitted for it, at least where it is read."""

    steps: tuple[Step, ...]
    fitted: tuple[Fitted, ...]

    @property
    def shape(self) -> Shape:
        """Of one sample, behind the last step."""
        return self.steps[-1].result_shape if self.steps else self.source.shape

    @property
    def label_shape(self) -> Shape:
        """The shape of a sample's labels, of as many dimensions as the sample."""
        return self.source.label_shape[: len(self.shape)]

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`."""
        rects = [rect]
        for step in reversed(self.steps):
            rects.insert(0, step.needs(rects[0]))
        rows = max(1, BITE // max(1, rects[0].volume))
        found = [self._read(indices[a : a + rows], rects) for a in range(0, max(1, len(indices)), rows)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _read(self, indices: Array, rects: Sequence[Rect]) -> Array:
        values = self.source.read(indices, rects[0])
        for step, fitted, rect in zip(self.steps, self.fitted, rects[1:], strict=True):
            values = step.apply(values, fitted, rect)
        return values

    def labels(self, indices: Array, rect: Rect) -> Array:
        """As `Source.labels`."""
        gone = len(self.source.label_shape) - rect.ndim
        labels = self.source.labels(indices, Rect.of([*rect.bounds, *((0, 1) for _ in range(gone))]))
        return labels.reshape(len(indices), *rect.size)
