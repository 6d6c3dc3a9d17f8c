"""Files of samples as one array of samples and one of labels.

In: a `DataSpec`. Out: `Files`: both, and their numbers. Promise: opens no more than headers and labels; files of one source agree
in their shapes and kinds of labels; samples stand in the order of the files, those of the main files first, behind them
those of validation and test. Every fault is a DataError that names the file, with the key that names it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from dgraph.data.form import ChannelsLast, One, fits, shaped, without_ones
from dgraph.data.reader.cifar import open_cifar
from dgraph.data.reader.delimited import open_csv
from dgraph.data.reader.hdf5 import open_hdf5
from dgraph.data.reader.idx import open_idx
from dgraph.data.reader.image import open_folder, open_utkface
from dgraph.data.reader.npy import open_npy
from dgraph.data.reader.npz import open_npz
from dgraph.data.reader.pair import Opener, Pair
from dgraph.data.spec import SUBSETS, Array, DataSpec, Description
from dgraph.data.values import BITE, Held, Joined, Values, bites, require_finite
from dgraph.error import ConfigError, DataError, DgraphError
from dgraph.ops.frame import padded
from dgraph.rect import Rect

OPENERS: Mapping[str, Opener] = {
    "npz": open_npz,
    "npy": open_npy,
    "hdf5": open_hdf5,
    "idx": open_idx,
    "cifar": open_cifar,
    "csv": open_csv,
    "folder": open_folder,
    "utkface": open_utkface,
}
LABELLED = ("npy", "idx")
"""Sources with labels in files of their own."""
FEW = 64
"""Labels of up to so many numbers a sample are kept in memory."""
SHAPES = "it needs x [n, C, spatial...] and y [n], or y [n, ...] of no more dimensions than x"


@dataclass(frozen=True)
class Files:
    """The samples and labels of all files, and their numbers."""

    x: Values
    y: Values
    known: Description


def open_files(spec: DataSpec) -> Files:
    """Opens all files of a spec, headers and labels. Raises DataError; ConfigError where the spec lacks something."""
    pairs: list[Pair] = []
    counts: dict[str, int] = {}
    for name in SUBSETS:
        own = spec.sets.get(name)
        if name != "train" and own is None:
            continue
        path, labels = (spec.path, spec.labels) if own is None else (own["path"], own.get("labels"))
        with _about("path" if own is None else f"sets.{name}.path"):
            found = [_opened(spec, *one) for one in _named(spec, path, labels)]
            for pair in found:
                _check_alike((pairs or found)[0], pair)
        counts[name] = sum(pair.x.shape[0] for pair in found)
        pairs += found
    return _joined(spec, pairs, (counts.get("validation", 0), counts.get("test", 0)))


@contextmanager
def _about(key: str) -> Iterator[None]:
    try:
        yield
    except DgraphError as error:
        raise error.about("data", key) from None


def _named(spec: DataSpec, path: object, labels: object) -> Iterator[tuple[str, str | None]]:
    """The files of `path`, each with its file of labels where the source has such files."""
    paths = _expanded(spec, "path", path)
    if spec.source not in LABELLED:
        yield from ((one, None) for one in paths)
        return
    others = _expanded(spec, "labels", labels)
    if len(paths) != len(others):
        what = f"{len(paths)} files of samples have {len(others)} files of labels"
        raise ConfigError(what, "every one needs one").about("data", "labels")
    yield from zip(paths, others, strict=True)


def _expanded(spec: DataSpec, key: str, given: object) -> list[str]:
    """One or several paths as a list, with what `*` and `?` stand for."""
    paths = [given] if isinstance(given, str) else given if isinstance(given, tuple) else []
    if not paths or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f"source {spec.source} needs {key}", "the path of a file, or a list of them").about(
            "data", key
        )
    result: list[str] = []
    for path in paths:
        if os.path.exists(path) or not set("*?") & set(path):
            result.append(path)
            continue
        found = sorted(glob.glob(path.replace("[", "[[]")))
        if not found:
            raise DataError(f"{path}: there is no such file")
        result += found
    return result


def _opened(spec: DataSpec, path: str, labels: str | None) -> Pair:
    """The samples [n, C, spatial...] and labels of one file, which fit."""
    pair = OPENERS[spec.source](path, labels, spec)
    x, y = pair.x, pair.y
    if x.dtype.kind not in "fiub" or y.dtype.kind not in ("fiuU" if spec.source != "npz" else "fiu"):
        raise DataError(f"{path}: x is {x.dtype} and y {y.dtype}", "they need numbers")
    if _is_one(spec, x):
        x, y = One(x), y if y.shape[0] == 1 < len(y.shape) else One(y)
    if spec.channels_last and len(x.shape) > 2:
        x, y = ChannelsLast(x), ChannelsLast(y) if len(y.shape) == len(x.shape) else y
    sample = pair.shape or x.shape[1:]
    if spec.shape is not None and fits(sample, spec.shape):
        sample = spec.shape
    sound = 1 <= len(y.shape) <= len(sample) + 1 >= 2 and x.shape[0] == y.shape[0]
    if not sound or not prod(x.shape) or not prod(y.shape):
        raise DataError(f"{path}: x {list(x.shape)} and y {list(y.shape)} do not fit", SHAPES)
    own = y.shape[1:] or (1,)
    if spec.label_shape is not None and without_ones(spec.label_shape) == without_ones(own):
        own = spec.label_shape
    y = shaped(y, padded(own, sample))
    return replace(pair, x=shaped(x, sample), y=_kept(y))


def _is_one(spec: DataSpec, x: Values) -> bool:
    """Whether the array of a file is not samples of the shape that the spec wants, but one."""
    if spec.shape is None or fits(x.shape[1:], spec.shape):
        return False
    return without_ones(_first(spec, x.shape)) == without_ones(spec.shape) and len(x.shape) > 1


def _first(spec: DataSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sample with its channels first."""
    return (shape[-1], *shape[:-1]) if spec.channels_last else shape


def _kept(y: Values) -> Values:
    """Labels in memory, all of them finite, if there are few a sample."""
    if prod(y.shape[1:]) > FEW and prod(y.shape) * y.dtype.itemsize > BITE:
        return y
    y.load()
    array = y.read(np.arange(y.shape[0]), Rect.whole(y.shape[1:]))
    require_finite("y", array, np.arange(len(array)), y.where)
    return Held(y.path, array)


def _check_alike(first: Pair, pair: Pair) -> None:
    """All files of a source have samples and labels of the same shapes, and either names of classes or numbers."""
    for name, one, other in (("x", first.x, pair.x), ("y", first.y, pair.y)):
        if one.shape[1:] != other.shape[1:]:
            what = f"{other.path}: {name} {list(other.shape)} is not like {name} {list(one.shape)} of {one.path}"
            raise DataError(what, "all files need samples of one shape")
        if (one.dtype.kind == "U") != (other.dtype.kind == "U"):
            raise DataError(
                f"{other.path}: labels are {'names' if other.dtype.kind == 'U' else 'numbers'}, unlike those of {one.path}"
            )
    if first.named != pair.named:
        raise DataError(f"{pair.y.path}: the classes are not those of {first.y.path}")


def _joined(spec: DataSpec, pairs: Sequence[Pair], own: tuple[int, int]) -> Files:
    """All files as one."""
    x = pairs[0].x if len(pairs) == 1 else Joined([pair.x for pair in pairs])
    names: tuple[str, ...] = pairs[0].named
    parts = [pair.y for pair in pairs]
    if parts[0].dtype.kind == "U":
        parts, names = _numbered(parts)
    y = parts[0] if len(parts) == 1 else Joined(parts)
    classes = len(names) or _classes(spec, pairs[0].classes, parts, y)
    return Files(x, y, Description(x.shape[0], x.shape[1:], classes, y.shape[1:], own, names))


def _numbered(parts: Sequence[Values]) -> tuple[list[Values], tuple[str, ...]]:
    """Class numbers for names, in the order of the names in all files, and those."""
    texts = [part.read(np.arange(part.shape[0]), Rect.whole(part.shape[1:])) for part in parts]
    names: Array = np.unique(np.concatenate([np.unique(text) for text in texts]))
    numbers = [Held(part.path, np.searchsorted(names, text)) for part, text in zip(parts, texts, strict=True)]
    return list(numbers), tuple(names.tolist())


def _classes(spec: DataSpec, known: int | None, parts: Sequence[Values], y: Values) -> int | None:
    """How many classes; None for real targets.

    Fractions are real targets, as are whole numbers where the spec has a `label_shape` and no `classes`; else labels are class
    numbers, and where neither the spec nor the file says how many, these are the highest label and one. Labels in memory are
    checked here, others when they are read.
    """
    if y.dtype.kind == "f":
        if spec.classes is not None:
            hint = "class numbers are whole numbers; real targets have no classes"
            raise DataError(f"{y.path}: y is {y.dtype}", hint)
        return None
    classes = known or spec.classes
    if classes is None and spec.label_shape is not None:
        return None
    highest = -1
    for part in parts:
        if classes is None or isinstance(part, Held):
            highest = max(highest, _highest(part, classes))
    return classes or highest + 1


def _highest(part: Values, classes: int | None) -> int:
    """The highest label of a file; all are within 0 .. classes - 1."""
    extremes = [(int(bite.min()), int(bite.max())) for bite in bites(part)]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if low < 0 or (classes is not None and high >= classes):
        bound = "they start at 0" if classes is None else f"{classes} classes have labels 0 to {classes - 1}"
        raise DataError(f"{part.path}: y has labels from {low} to {high}", bound)
    return high
