"""Losses of class numbers: cross-entropy of scores, and of probabilities; class numbers as a question for every class.

In: dims of scores or probabilities [N, K, spatial ...] and of labels [N, 1, spatial ...], which may have more or fewer last extents
of 1. Out: access maps; the classes of one sample are never cut. Promise: samples with a negative class number count nowhere, but
means are over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Space
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNT, number
from dgraph.ops.label import is_alike, labels_map, spatial_labels, spatial_of, with_ndim

WEIGHT = number(1.0, "a number >= 0", lambda value: value >= 0)
"""What a loss and its gradient are multiplied by."""
WHOLE_SAMPLE = {"k": "a sample's probabilities need all of its classes"}


def check_classes(scores: Dim, labels: Dim) -> None:
    """Raises ConfigError unless there is one class number a place."""
    wanted = (scores[0], 1, *scores[2:])
    if not is_alike(labels, wanted):
        raise ConfigError(
            f"labels of dim {list(labels)} do not fit scores of dim {list(scores)}", f"wanted is {list(wanted)}"
        )


def likelihood_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`output = mean over n, h of -log in[n, label[n, h], h]`."""
    dim = dims["input"]
    h = spatial_labels(spatial_of(dim))
    check_classes(dim, dims["labels"])
    index = with_ndim(labels_map("n", "0", *h), len(dims["labels"]))
    return Access(
        Space(("n", "k", *h), dim),
        {"input": labels_map("n", "k", *h), "labels": index, "output": (ZERO,) * len(dim)},
        {"input": dim, "labels": dims["labels"], "output": (1,) * len(dim)},
    )


def softmax_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`probability[n, k, h] = exp(in) / sum over k`, `output = mean over n, h of -sum over k of target log probability`; the target
    is `1 - smoothing` at the label, and `smoothing / K` more for every class (Szegedy et al. 2016, section 7)."""
    plain = likelihood_access(attributes, dims)
    return Access(
        plain.space,
        {**plain.maps, "probability": plain.maps["input"]},
        {**plain.dims, "probability": plain.dims["input"]},
    )


SOFTMAX = Op(
    name="softmax",
    access=softmax_access,
    inputs=("input", "labels"),
    outputs=("probability", "output"),
    attributes={"smoothing": number(0.0, "a number from 0 to 1", lambda value: 0 <= value <= 1), "weight": WEIGHT},
    uncut=WHOLE_SAMPLE,
    gradient=Gradient(reads=("labels", "probability"), of=("input",)),
    loss="output",
    flops=4,
    traced_gradient=(("result_dim", "output"), ("dist_result", "input.delta")),
)
NEGATIVE_LOG_LIKELIHOOD = Op(
    name="negative_log_likelihood",
    access=likelihood_access,
    inputs=("input", "labels"),
    attributes={"weight": WEIGHT},
    uncut=WHOLE_SAMPLE,
    gradient=Gradient(reads=("input", "labels"), of=("input",)),
    loss="output",
    domain="probabilities",
    traced_gradient=(("result_dim", "output"), ("dist_result", "input.delta")),
)


def one_hot_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, k, h]` is 1 where `labels[n, 0, h]` is k, else 0; -1 for all k where there is no label."""
    dim = dims["labels"]
    h = spatial_labels(spatial_of(dim))
    if dim[1] != 1:
        raise ConfigError(f"labels of dim {list(dim)} are not one class number a place")
    whole = (dim[0], attributes["classes"], *dim[2:])
    return Access(
        Space(("n", "k", *h), whole),
        {"labels": labels_map("n", "0", *h), "output": labels_map("n", "k", *h)},
        {"labels": dim, "output": whole},
    )


ONE_HOT = Op(name="one_hot", access=one_hot_access, inputs=("labels",), attributes={"classes": COUNT})
OPS = (SOFTMAX, NEGATIVE_LOG_LIKELIHOOD, ONE_HOT)
