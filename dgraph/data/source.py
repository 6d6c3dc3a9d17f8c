"""Sources of samples.

In: a `DataSpec`. Out: its `Description`, cheaply, and a `Source`. Promise: what a spec claims of a source is checked against
what the source says; a fault is a DataError, or a ConfigError where the spec itself is at fault.
"""

from __future__ import annotations

import numpy as np

from dgraph.data.array import ArraySource
from dgraph.data.npz import describe_npz, read_npz
from dgraph.data.ring import RingSource, describe_ring
from dgraph.data.spec import Array, DataSpec, Description, Source
from dgraph.data.synthetic import open_synthetic
from dgraph.data.table import describe_table, read_table
from dgraph.error import ConfigError, DataError
from dgraph.ops.frame import padded

DIGITS = Description(1797, (1, 8, 8), 10, (1, 1, 1))
"""The digits that scikit-learn carries: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits."""


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
            return _agreed(spec, describe_npz(path, spec.classes, spec.label_shape), f"{path}: it has", DataError)
        case "table":
            return _agreed(spec, describe_table(spec), "the table has", ConfigError)
        case "ring":
            return _agreed(spec, describe_ring(_samples(spec)), "the ring has", ConfigError)
        case _:
            raise ConfigError(f"there is no data source {spec.source}", "synthetic, digits, npz, table, ring")


def open_source(spec: DataSpec) -> Source:
    """The source of a spec, ready to be read. A file is read once as a whole and checked: sums, finite values, labels.

    Raises as `describe`; DataError also where the digits are wanted and scikit-learn is not installed.
    """
    known = describe(spec)
    match spec.source:
        case "synthetic":
            return open_synthetic(known, spec.scale, spec.seed)
        case "ring":
            return RingSource(known.samples, spec.scale, spec.seed)
        case "digits":
            x, y = _digits()
        case "table":
            x, y = read_table(spec, known)
        case _:
            x, y = read_npz(_path(spec), known.classes)
    y = y.reshape(len(x), *known.label_shape)
    return ArraySource(x, y, known.classes, spec.scale, known.samples // len(x))


def _path(spec: DataSpec) -> str:
    if not isinstance(spec.path, str):
        raise ConfigError("an npz source needs a path")
    return spec.path


def _samples(spec: DataSpec) -> int:
    if spec.samples is None:
        raise ConfigError(f"a {spec.source} source needs samples", "how many").about("data")
    return spec.samples


def _synthetic(spec: DataSpec) -> Description:
    if spec.shape is None:
        raise ConfigError("a synthetic source needs shape", "[channels, spatial ...] of one sample").about("data")
    if spec.classes is None and spec.label_shape is None:
        hint = "classes for class numbers, label_shape for real targets, both for class numbers at every place"
        raise ConfigError("a synthetic source needs classes or label_shape", hint).about("data")
    return Description(_samples(spec), spec.shape, spec.classes, padded(spec.label_shape or (1,), spec.shape))


def _agreed(spec: DataSpec, known: Description, who: str, error: type[ConfigError] | type[DataError]) -> Description:
    """What is known of a source, unless the spec claims something else."""
    claims = {"samples": spec.samples, "shape": spec.shape, "classes": spec.classes}
    if spec.label_shape is not None:
        claims["label_shape"] = padded(spec.label_shape, known.shape)
    for key, claim in claims.items():
        fact = getattr(known, key)
        if claim is not None and claim != fact:
            hint = f"leave {key} out of data, or correct it"
            raise error(f"{who} {key} {_text(fact)}, not {_text(claim)}", hint).about("data", key)
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
