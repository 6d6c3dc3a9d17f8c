"""Sources of samples.

In: a `DataSpec`. Out: its `Description`, cheaply, and a `Source`. Promise: what a spec claims of a source is checked against
what the source says; a fault is a DataError, or a ConfigError where the spec itself is at fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgraph.data.npz import describe_npz, read_npz
from dgraph.data.spec import Array, DataSpec, Description, Source
from dgraph.error import ConfigError, DataError
from dgraph.random import fill_normal, fill_uniform
from dgraph.rect import Rect

DIGITS = Description(1797, (1, 8, 8), 10)
"""The digits that scikit-learn carries: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits."""


@dataclass(frozen=True)
class SyntheticSource:
    """Samples made of a pattern a class (uniform in -1 .. 1) and normal noise of deviation 1: so they can be learned.

    Every value and label is a function of the seed and its global index.
    """

    samples: int
    shape: tuple[int, ...]
    classes: int
    scale: float
    seed: int

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`, float32."""
        values: Array = np.empty((len(indices), *rect.size), np.float32)
        pattern = np.empty_like(values)
        row = Rect((0, *rect.start), (1, *rect.size))
        fill_normal(values, self.seed, "synthetic noise", 0, (self.samples, *self.shape), row, picks=indices)
        dim = (self.classes, *self.shape)
        fill_uniform(pattern, self.seed, "synthetic pattern", 0, dim, row, -1.0, 1.0, self.labels(indices))
        values += pattern
        values /= self.scale
        return values

    def labels(self, indices: Array) -> Array:
        """As `Source.labels`."""
        drawn: Array = np.empty(len(indices))
        row = Rect((0,), (1,))
        fill_uniform(drawn, self.seed, "synthetic label", 0, (self.samples,), row, 0.0, self.classes, indices)
        return drawn.astype(np.int64)


@dataclass(frozen=True)
class ArraySource:
    """Samples x [n, C, spatial...] and labels y [n] that are in memory, or mapped into it."""

    x: Array
    y: Array
    classes: int
    scale: float

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, spatial...] of one sample."""
        return tuple(self.x.shape[1:])

    def read(self, indices: Array, rect: Rect) -> Array:
        """As `Source.read`: float32, or float64 where x needs it."""
        where: tuple[Any, ...] = (indices, *rect.slices())
        values: Array = np.array(self.x[where], np.result_type(self.x.dtype, np.float32))
        values /= self.scale
        return values

    def labels(self, indices: Array) -> Array:
        """As `Source.labels`."""
        return self.y[indices]


def describe(spec: DataSpec) -> Description:
    """The numbers of a source. Opens no more than the headers and the labels of a file, imports nothing heavy.

    Raises ConfigError for an unknown source or a spec that lacks something, DataError for a file that is missing, damaged,
    or not what the spec says.
    """
    match spec.source:
        case "synthetic":
            return _synthetic(spec)
        case "digits":
            return _agreed(spec, DIGITS, "the digits have", ConfigError)
        case "npz":
            path = _path(spec)
            return _agreed(spec, describe_npz(path, spec.classes), f"{path}: it has", DataError)
        case _:
            raise ConfigError(f"there is no data source {spec.source}", "synthetic, digits, npz")


def open_source(spec: DataSpec) -> Source:
    """The source of a spec, ready to be read. A file is read once as a whole and checked: sums, finite values, labels.

    Raises as `describe`; DataError also where the digits are wanted and scikit-learn is not installed.
    """
    known = describe(spec)
    match spec.source:
        case "synthetic":
            return SyntheticSource(known.samples, known.shape, known.classes, spec.scale, spec.seed)
        case "digits":
            return ArraySource(*_digits(), known.classes, spec.scale)
        case _:
            return ArraySource(*read_npz(_path(spec), known.classes), known.classes, spec.scale)


def _path(spec: DataSpec) -> str:
    if spec.path is None:
        raise ConfigError("an npz source needs a path")
    return spec.path


def _synthetic(spec: DataSpec) -> Description:
    if spec.shape is None or spec.classes is None or spec.samples is None:
        raise ConfigError("a synthetic source needs shape, classes and samples")
    return Description(spec.samples, spec.shape, spec.classes)


def _agreed(spec: DataSpec, known: Description, who: str, error: type[ConfigError] | type[DataError]) -> Description:
    """What is known of a source, unless the spec claims something else."""
    for key in ("samples", "shape", "classes"):
        claim, fact = getattr(spec, key), getattr(known, key)
        if claim is not None and claim != fact:
            raise error(f"{who} {key} {_text(fact)}, not {_text(claim)}", f"leave {key} out of data, or correct it")
    return known


def _text(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else str(list(value))


def _digits() -> tuple[Array, Array]:
    try:
        # Imported here: it takes a second, and only this source needs it.
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError:
        raise DataError("the digits need scikit-learn", "pip install dgraph[data]") from None
    digits = load_digits()
    return digits.images[:, None].astype(np.float32), digits.target.astype(np.int64)
