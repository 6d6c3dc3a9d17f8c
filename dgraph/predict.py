"""Predictions: what a network says of every sample of a subset.

In: a worker. Out: arrays on rank 0. Promise: replicas are taken once, samples in the order of the subset.
"""

from __future__ import annotations

import numpy as np

from dgraph.error import ConfigError
from dgraph.graph.node import OpNode
from dgraph.kernels.call import Array
from dgraph.ops import OPS
from dgraph.train import Worker, gather_tensor


def predict(worker: Worker, name: str) -> dict[str, Array] | None:
    """The predictions of the main head, the last loss, for all samples of a subset, on rank 0. Collective.

    Returns
    -------
    index : int64 [n]
        The samples.
    class, probability : [n] and [n, K]
        Of a classifier. Of K numbers that are each a probability (binary cross-entropy) class is [n, K], or [n] where K is 1; of
        one class against all others it is [n].
    class, score : as these
        Of threshold units (perceptron).
    prediction : [n, K]
        Of a regression.
        Spatial extents come last, [n, K, ...], unless all of them are 1.
    """
    batches = worker.batches(name, shuffle=False)
    head = _head(worker)
    ports = dict((*head.inputs, *head.outputs))
    tensor = ports.get("probability", ports["input"])
    rows, numbers = [], []
    with worker.engine.averaged():
        for indices, following in batches.pairs():
            worker.forward(indices, following)
            whole = gather_tensor(worker.program, worker.engine, tensor)
            there = indices >= 0
            if whole is not None:
                rows.append(whole[there])
                numbers.append(indices[there])
    if worker.communicator.rank:
        return None
    dim = worker.program.graph.tensors[tensor].dim
    values = np.concatenate(rows) if rows else np.empty((0, *dim[1:]), worker.program.config.dtype)
    index = np.concatenate(numbers) if numbers else np.empty(0, np.int64)
    forward = worker.program.forward
    one = forward.ops[forward.writers[ports["labels"]][0][0]].op == "one_hot"
    return {"index": index, **_said(head, values if max(dim[2:], default=1) > 1 else values.reshape(-1, dim[1]), one)}


def _head(worker: Worker) -> OpNode:
    """The last loss. Raises ConfigError where there is none."""
    heads = [node for node in worker.program.forward.ops.values() if OPS[node.op].loss]
    if not heads:
        raise ConfigError("nothing to predict: the network has no loss", "add a softmax layer, or squared_error")
    return heads[-1]


def _said(head: OpNode, values: Array, one: bool) -> dict[str, Array]:
    """What the values [n, K, ...] that a loss compares with labels say; `one`: just one of K is right."""
    if head.op in ("softmax", "negative_log_likelihood"):
        return {"class": values.argmax(axis=1), "probability": values}
    if head.op not in ("binary_cross_entropy", "perceptron"):
        return {"prediction": values}
    logits = head.attributes.get("logits", False)
    classes = (values > (0.0 if logits or head.op == "perceptron" else 0.5)).astype(np.int64)
    classes = values.argmax(axis=1) if one else classes[:, 0] if classes.shape[1] == 1 else classes
    if logits:
        values = (0.5 * (1 + np.tanh(0.5 * values))).astype(values.dtype)
    return {"class": classes, "score" if head.op == "perceptron" else "probability": values}
