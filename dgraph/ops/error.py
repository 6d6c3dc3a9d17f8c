"""Losses that compare element by element: of real targets, binary cross-entropy, and the perceptron criterion.

In: dims of the input and of labels, which are the same but for last extents of 1. Out: access maps in which every label may be cut:
each piece adds its part of the mean. Promise: elements whose label is not there (NaN; of the last two also < 0) count
nowhere, but the mean is over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Space
from dgraph.graph.node import EMPTY, Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import flag, positive
from dgraph.ops.label import dimension_labels, is_alike, labels_map, with_ndim
from dgraph.ops.loss import WEIGHT


def check_targets(dim: Dim, labels: Dim) -> None:
    """Raises ConfigError unless there is one label an element."""
    if not is_alike(labels, dim):
        what = f"labels of dim {list(labels)} do not fit an input of dim {list(dim)}"
        raise ConfigError(what, "they must have the same dim")


def error_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`output = sum over n, c, h of loss(in[n, c, h], labels[n, c, h]) / how many`."""
    dim = dims["input"]
    check_targets(dim, dims["labels"])
    names = dimension_labels(len(dim))
    same = labels_map(*names)
    return Access(
        Space(names, dim),
        {"input": same, "labels": with_ndim(same, len(dims["labels"])), "output": (ZERO,) * len(dim)},
        {"input": dim, "labels": dims["labels"], "output": (1,) * len(dim)},
    )


def _loss(name: str, attributes: Mapping[str, Attribute] = EMPTY, flops: int = 3, domain: str = "") -> Op:
    return Op(
        name=name,
        access=error_access,
        inputs=("input", "labels"),
        attributes={**attributes, "weight": WEIGHT},
        gradient=Gradient(reads=("input", "labels"), of=("input",)),
        loss="output",
        domain=domain,
        flops=flops,
        traced_gradient=(("result_dim", "output"), ("dist_result", "input.delta")),
    )


SQUARED_ERROR = _loss("squared_error")
"""The mean over all elements of (x - t)^2."""
HALF_SQUARED_NORM = _loss("half_squared_norm")
"""The mean over samples of |x - t|^2 / 2."""
ABSOLUTE_ERROR = _loss("absolute_error")
"""The mean over all elements of |x - t|."""
HUBER = _loss("huber", {"delta": positive(1.0)}, 4)
"""The mean over all elements of e^2 / 2 where |e| <= delta, else delta * (|e| - delta / 2), with e = x - t (Huber 1964)."""
BINARY_CROSS_ENTROPY = _loss(
    "binary_cross_entropy", {"logits": flag(False)}, 8, "probabilities, unless logits: true says that it holds scores"
)
"""The mean over all elements of -t log p - (1 - t) log(1 - p); p is the input (logarithms are cut off at -100), or its logistic."""
PERCEPTRON = _loss("perceptron")
"""The mean over samples of the sum of (H(x) - t) x, where H(x) is 1 for x > 0, else 0: what the scores on the wrong side of 0 lack
to it. Its slope is H(x) - t, so that gradient descent, sample by sample, is the rule of Rosenblatt (1958)."""
OPS = (SQUARED_ERROR, HALF_SQUARED_NORM, ABSOLUTE_ERROR, HUBER, BINARY_CROSS_ENTROPY, PERCEPTRON)
