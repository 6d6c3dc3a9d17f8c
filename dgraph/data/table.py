"""Samples that a config spells out: rows of numbers, and a label or a list of labels for each.

In: a `DataSpec` with rows and labels. Out: its `Description`, its arrays. Promise: every fault is a ConfigError with the
key of the entry at fault. Labels are class numbers where `classes` says so, or where they are single whole numbers and no
`label_shape` is given; else they are real targets.
"""

from __future__ import annotations

from math import prod

import numpy as np

from dgraph.data.reader.pair import Pair
from dgraph.data.spec import Cell, DataSpec, Description
from dgraph.data.values import Held
from dgraph.error import ConfigError
from dgraph.ops.frame import padded


def describe_table(spec: DataSpec) -> Description:
    """The numbers of a table; see `open_table`."""
    rows, labels = _tables(spec)
    shape = spec.shape or (len(rows[0]),)
    _check_lengths("rows", [len(row) for row in rows], "shape", shape)
    lists = [label if isinstance(label, tuple) else (label,) for label in labels]
    label_shape = padded(spec.label_shape or (len(lists[0]),), shape)
    _check_lengths("labels", [len(label) for label in lists], "label_shape", label_shape)
    return Description(len(rows) * spec.repeat, shape, _classes(spec, labels), label_shape)


def open_table(spec: DataSpec, known: Description) -> Pair:
    """x [rows, C, spatial...], float64, and y [rows, *label shape], float64 or, with classes, int64.

    Raises ConfigError where rows or labels have other lengths than their shapes, or labels are no class numbers.
    """
    rows, labels = _tables(spec)
    x = np.array(rows, np.float64).reshape(len(rows), *known.shape)
    y = np.array(labels, np.float64 if known.classes is None else np.int64)
    return Pair(Held("table", x), Held("table", y.reshape(len(rows), *known.label_shape)))


def _tables(spec: DataSpec) -> tuple[tuple[tuple[float, ...], ...], tuple[Cell, ...]]:
    labels = () if isinstance(spec.labels, str) else spec.labels
    cells = tuple(label for label in labels or () if not isinstance(label, str))
    if not spec.rows or not cells:
        raise ConfigError("a table needs rows and labels").about("data")
    if len(spec.rows) != len(cells):
        what = f"a table of {len(spec.rows)} rows has {len(cells)} labels"
        raise ConfigError(what, "every row needs one").about("data", "labels")
    return spec.rows, cells


def _check_lengths(what: str, lengths: list[int], key: str, shape: tuple[int, ...]) -> None:
    """Every entry has as many numbers as its shape."""
    for k, length in enumerate(lengths):
        if length != prod(shape):
            hint = f"{key} {list(shape)} has {prod(shape)}"
            raise ConfigError(f"entry {k} of {what} has the length {length}", hint).about("data", f"{what}.{k}")


def _classes(spec: DataSpec, labels: tuple[Cell, ...]) -> int | None:
    """How many classes; None for real targets."""
    single = all(isinstance(label, int) for label in labels)
    if spec.classes is None and (not single or spec.label_shape is not None):
        return None
    numbers = [list(label) if isinstance(label, tuple) else [label] for label in labels]
    classes = spec.classes or max(1, *(int(number) + 1 for label in numbers for number in label))
    for k, label in enumerate(numbers):
        if not all(isinstance(number, int) and 0 <= number < classes for number in label):
            bound = f"class numbers are 0 to {classes - 1}" if spec.classes else "class numbers start at 0"
            hint = f"{bound}; real targets have a label_shape and no classes"
            raise ConfigError(f"label {k} is {labels[k]}", hint).about("data", f"labels.{k}")
    return classes
