"""Metrics: sums over the labels of a batch from which a run's figures are made.

In: dims of what a loss compares. Out: access maps whose result is one number a metric, `METRICS` of the op, in this order. Promise:
whatever is cut, parts add up; counts are exact: where float32 might not hold them, there are two numbers for each, the second in
units of `UNIT`, behind all the first.

    evaluate         of class numbers: loss, correct, correct_in_top_5, samples
    evaluate_binary  of numbers and thresholds: loss, correct, samples
    evaluate_error   of real targets t, with e = x - t and a shift s that is near the mean target:
                     loss, sum |e|, sum e^2, s, sum (t - s), sum (t - s)^2, samples

The shift keeps the variance of targets sound where their mean is large; it comes from `sum_targets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType

from dgraph.graph.access import ZERO, Map, Space, label
from dgraph.graph.node import Access, Attributes, Dim, Op
from dgraph.ops.attribute import flag
from dgraph.ops.error import check_targets
from dgraph.ops.label import dimension_labels, labels_map, spatial_labels, spatial_of, with_ndim
from dgraph.ops.loss import WHOLE_SAMPLE, check_classes

UNIT = 1 << 12
EXACT = 1 << 24
"""Up to here float32 holds every integer."""
Names = tuple[str, ...]
METRICS: Mapping[str, tuple[Names, Names]] = MappingProxyType(
    {
        "evaluate": (("loss",), ("correct", "correct_in_top_5", "samples")),
        "evaluate_binary": (("loss",), ("correct", "samples")),
        "evaluate_error": (
            ("loss", "absolute", "squared", "shift", "deviation", "squared_deviation"),
            ("samples",),
        ),
        "sum_targets": (("targets",), ("samples",)),
    }
)
"""Op -> names of sums, names of counts."""


FIGURES: Mapping[str, Names] = MappingProxyType(
    {
        "evaluate": ("loss", "accuracy", "top5"),
        "evaluate_binary": ("loss", "accuracy"),
        "evaluate_error": ("loss", "rmse", "mae", "r2"),
    }
)
"""Op -> the figures that are made of its metrics."""


def _rows(op: str, labels: Dim) -> int:
    """How many numbers the metrics of so many labels are."""
    sums, counts = METRICS[op]
    return len(sums) + len(counts) * (2 if prod(labels) > EXACT else 1)


def _metrics(op: str, names: Names, dim: Dim, maps: Mapping[str, Map], dims: Mapping[str, Dim]) -> Access:
    """Reads as `maps` say, the loss, and parameters in order only: metrics belong to the parameters before their update."""
    rows, ones = _rows(op, dims["labels"]), (1,) * (len(dim) - 1)
    return Access(
        Space((*names, "m"), (*dim, rows)),
        {**maps, "output": (label("m"), *(ZERO,) * len(ones)), "loss": (ZERO,) * len(dim), "params": ()},
        {**dims, "output": (rows, *ones), "loss": (1,) * len(dim)},
    )


def evaluate_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Sums over valid samples (label >= 0)."""
    dim, labels = dims["probability"], dims["labels"]
    check_classes(dim, labels)
    h = spatial_labels(spatial_of(dim))
    maps = {"labels": with_ndim(labels_map("n", "0", *h), len(labels)), "probability": labels_map("n", "k", *h)}
    return _metrics("evaluate", ("n", "k", *h), dim, maps, {"labels": labels, "probability": dim})


def evaluate_binary_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Sums over valid elements (label >= 0): an element is correct if it and its label lie on the same side of their thresholds."""
    return _by_element("evaluate_binary", dims)


def evaluate_error_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Sums over elements with a target. Reads all that `sum_targets` gives."""
    plain, total = _by_element("evaluate_error", dims), sum_targets_access(attributes, dims).dims["output"]
    rows = Space((*plain.space.labels, "s"), (*plain.space.extents, total[0]))
    index = (label("s"), *(ZERO,) * (len(total) - 1))
    return Access(rows, {**plain.maps, "targets": index}, {**plain.dims, "targets": total})


def sum_targets_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """The sum and the number of targets that are there."""
    dim = dims["labels"]
    names, rows = dimension_labels(len(dim)), _rows("sum_targets", dim)
    return Access(
        Space((*names, "m"), (*dim, rows)),
        {"labels": labels_map(*names), "output": (label("m"), *(ZERO,) * (len(dim) - 1))},
        {"labels": dim, "output": (rows, *(1,) * (len(dim) - 1))},
    )


def _by_element(op: str, dims: Mapping[str, Dim]) -> Access:
    dim, labels = dims["input"], dims["labels"]
    check_targets(dim, labels)
    names = dimension_labels(len(dim))
    same = labels_map(*names)
    return _metrics(
        op, names, dim, {"input": same, "labels": with_ndim(same, len(labels))}, {"input": dim, "labels": labels}
    )


def accuracy_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Reads all metrics; what a run reports comes from here."""
    dim = dims["input"]
    names = tuple(f"x{d}" for d in range(len(dim)))
    return Access(Space(names, dim), {"input": labels_map(*names)}, {"input": dim, "result": ()})


_TOGETHER = {"m": "the metrics of a sample are found together"}

EVALUATE = Op(
    name="evaluate",
    access=evaluate_access,
    inputs=("labels", "probability", "loss", "params"),
    variadic=("params",),
    optional=("params",),
    shown={"loss": "output"},
    uncut=WHOLE_SAMPLE | _TOGETHER,
)
EVALUATE_BINARY = Op(
    name="evaluate_binary",
    access=evaluate_binary_access,
    inputs=("labels", "input", "loss", "params"),
    variadic=("params",),
    optional=("params",),
    attributes={"logits": flag(False)},
    shown={"loss": "output"},
    uncut=_TOGETHER,
)
EVALUATE_ERROR = Op(
    name="evaluate_error",
    access=evaluate_error_access,
    inputs=("labels", "input", "loss", "targets", "params"),
    variadic=("params",),
    optional=("params",),
    shown={"loss": "output"},
    uncut=_TOGETHER | {"s": "the shift is found from both numbers"},
)
SUM_TARGETS = Op(name="sum_targets", access=sum_targets_access, inputs=("labels",), uncut=_TOGETHER)
ACCURACY = Op(
    name="accuracy",
    access=accuracy_access,
    inputs=("input",),
    outputs=(),
    traced=(("result_dim", "result"),),
)
OPS = (EVALUATE, EVALUATE_BINARY, EVALUATE_ERROR, SUM_TARGETS, ACCURACY)
