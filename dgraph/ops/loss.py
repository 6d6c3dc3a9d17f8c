"""Softmax cross-entropy and its metrics.

In: dims of scores and labels. Out: access maps; the classes of one sample are never cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Space, label
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.label import labels_map, spatial_labels, spatial_of

METRICS = ("loss", "correct", "correct_in_top_5", "samples")


def _check_labels(scores: Dim, labels: Dim) -> None:
    wanted = (scores[0], 1, *scores[2:])
    if labels != wanted:
        raise ConfigError(
            f"labels of dim {list(labels)} do not fit scores of dim {list(scores)}", f"wanted is {list(wanted)}"
        )


def softmax_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`probability[n, k, h] = exp(in) / sum over k`, `output = mean over n, h of -log probability[label]`."""
    dim = dims["input"]
    _check_labels(dim, dims["labels"])
    h = spatial_labels(spatial_of(dim))
    scores = labels_map("n", "k", *h)
    return Access(
        Space(("n", "k", *h), dim),
        {
            "input": scores,
            "labels": labels_map("n", "0", *h),
            "probability": scores,
            "output": (ZERO,) * len(dim),
        },
        {"input": dim, "labels": dims["labels"], "probability": dim, "output": (1,) * len(dim)},
    )


def evaluate_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Sums over valid samples (label >= 0): METRICS, in this order. `params` is read in order only: the metrics belong to the
    parameters before their update."""
    dim = dims["probability"]
    _check_labels(dim, dims["labels"])
    h = spatial_labels(spatial_of(dim))
    return Access(
        Space(("n", "k", *h, "m"), (*dim, len(METRICS))),
        {
            "labels": labels_map("n", "0", *h),
            "probability": labels_map("n", "k", *h),
            "output": (label("m"), *(ZERO,) * (len(dim) - 1)),
            "loss": (ZERO,) * len(dim),
            "params": (),
        },
        {
            "labels": dims["labels"],
            "probability": dim,
            "loss": (1,) * len(dim),
            "output": (len(METRICS), *(1,) * (len(dim) - 1)),
        },
    )


def accuracy_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Reads all metrics; what a run reports comes from here."""
    dim = dims["input"]
    names = tuple(f"x{d}" for d in range(len(dim)))
    return Access(Space(names, dim), {"input": labels_map(*names)}, {"input": dim, "result": ()})


_WHOLE_SAMPLE = {"k": "a sample's probabilities need all of its classes"}

SOFTMAX = Op(
    name="softmax",
    access=softmax_access,
    inputs=("input", "labels"),
    outputs=("probability", "output"),
    uncut=_WHOLE_SAMPLE,
    gradient=Gradient(reads=("labels", "probability"), of=("input",)),
    loss="output",
    flops=4,
    traced_gradient=(("result_dim", "output"), ("dist_result", "input.delta")),
)
EVALUATE = Op(
    name="evaluate",
    access=evaluate_access,
    inputs=("labels", "probability", "loss", "params"),
    outputs=("output",),
    variadic=("params",),
    optional=("params",),
    shown={"loss": "output"},
    uncut=_WHOLE_SAMPLE | {"m": "the metrics of a sample are found together"},
)
ACCURACY = Op(
    name="accuracy",
    access=accuracy_access,
    inputs=("input",),
    outputs=(),
    traced=(("result_dim", "result"),),
)
OPS = (SOFTMAX, EVALUATE, ACCURACY)
