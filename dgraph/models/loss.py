"""Layers that end in a loss: the loss, its metrics, and for softmax and one_vs_all the scores before it.

In: a `LayerConfig`, the tensor that it reads, the labels of the data. Out: a `Part` without an output: nothing reads a loss.

    kind                                       nodes                                             parameters
    softmax                                    .linear1 .linear1A .softmax and the metrics       .weights1 .bias1
    one_vs_all                                 .linear .linearA .targets .<rule> and the metrics         .W .b
    cross_entropy                              .softmax and the metrics
    negative_log_likelihood                    .<kind> and the metrics
    binary_cross_entropy perceptron            .<kind> and the metrics
    squared_error half_squared_norm            .<kind> .targets and the metrics
    absolute_error huber

The metrics are `.evaluate` and `.evaluate.accuracy`, which reads all of them.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from dgraph.config.schema import LayerConfig
from dgraph.graph.node import Attributes
from dgraph.graph.spec import NodeSpec
from dgraph.models.layer import XAVIER, ZERO, Part, Ports, parameter, placed, then

RULES = {"logistic": "binary_cross_entropy", "perceptron": "perceptron"}
"""Rule by which the units of one_vs_all learn -> op."""
CLASSES = ("softmax", "cross_entropy", "negative_log_likelihood")
"""Kinds of losses whose labels are class numbers."""


def expand_softmax(layer: LayerConfig, tensor: str, labels: str, number: int) -> Part:
    """The part that a softmax layer stands for: scores, loss, metrics.

    Parameters
    ----------
    layer : LayerConfig
        Its split and pieces go to the linear node, its loss_split to loss and metrics.
    tensor, labels : str
        The tensor [N, C, spatial ...] and the class numbers [N, 1, ...] that it reads.
    number : int
        Which softmax layer it is, from 1: its update nodes are `update_W<number>` and `update_B<number>`.
    """
    given = dict(layer.attributes)
    features, bias = {"features": given.pop("classes")}, given.pop("bias")
    weights = parameter(layer, "weights1", layer.init or XAVIER, f"update_W{number}")
    part = Part((), (replace(weights, update_split=layer.update_split),), tensor)
    part = then(part, f"{layer.name}.linear1", "linear", features, (("weights", weights.name),))
    if bias:
        shift = parameter(layer, "bias1", ZERO, f"update_B{number}")
        part = replace(part, parameters=(*part.parameters, shift))
        part = then(part, f"{layer.name}.linear1A", "affine", {"bias": "C"}, (("b", shift.name),))
    loss = tuple(replace(node, split=layer.loss_split) for node in _loss(layer, str(part.output), labels, given))
    return Part((*placed(part.nodes, layer), *_where(layer, loss)), part.parameters, None)


def expand_one_vs_all(layer: LayerConfig, tensor: str, labels: str) -> Part:
    """The part of K units, each of which learns to tell one class from all others: scores, targets, loss, metrics. The highest
    score decides.

    Parameters
    ----------
    layer : LayerConfig
        Its split and pieces go to the linear node, its loss_split to targets, loss and metrics.
    tensor, labels : str
        The tensor [N, C, spatial ...] and the class numbers [N, 1, ...] that it reads.
    """
    given = layer.attributes
    classes, weight, op = given["classes"], given.get("weight", 1.0), RULES[given["rule"]]
    weights = replace(parameter(layer, "W", layer.init or XAVIER), update_split=layer.update_split)
    part = then(Part((), (weights,), tensor), f"{layer.name}.linear", "linear", {"features": classes},
                (("weights", weights.name),))  # fmt: skip
    if given["bias"]:
        shift = parameter(layer, "b", ZERO)
        part = replace(part, parameters=(*part.parameters, shift))
        part = then(part, f"{layer.name}.linearA", "affine", {"bias": "C"}, (("b", shift.name),))
    scores = str(part.output)
    # Binary cross-entropy is a mean over the units; here every unit has a loss of its own.
    own = {"logits": True, "weight": weight * classes} if op == "binary_cross_entropy" else {"weight": weight}
    targets = NodeSpec(f"{layer.name}.targets", "one_hot", (("labels", labels),), attributes={"classes": classes})
    compared: Ports = (("input", scores), ("labels", f"{targets.name}.output"))
    loss = NodeSpec(f"{layer.name}.{op}", op, compared, attributes=MappingProxyType(own))
    compared = (("labels", labels), ("probability", scores), ("loss", f"{loss.name}.output"))
    nodes = (targets, loss, NodeSpec(f"{layer.name}.evaluate", "evaluate", compared))
    split = tuple(replace(node, split=layer.loss_split) for node in nodes)
    return Part((*placed(part.nodes, layer), *_where(layer, split)), part.parameters, None)


def expand_loss(layer: LayerConfig, tensor: str, labels: str) -> Part:
    """The part that a layer of any other loss stands for.

    Parameters
    ----------
    layer : LayerConfig
        Its split goes to loss and metrics, its pieces to the loss.
    tensor, labels : str
        The tensor [N, C, spatial ...] and the labels that it reads.
    """
    first, *metrics = _loss(layer, tensor, labels, layer.attributes)
    nodes = (replace(first, pieces=layer.pieces), *metrics)
    return Part(_where(layer, tuple(replace(node, split=layer.split) for node in nodes)), (), None)


def _loss(layer: LayerConfig, tensor: str, labels: str, attributes: Attributes) -> tuple[NodeSpec, ...]:
    """The loss and what finds the metrics."""
    op = "softmax" if layer.kind == "cross_entropy" else layer.kind
    name, evaluate = f"{layer.name}.{op}", f"{layer.name}.evaluate"
    loss = NodeSpec(name, op, (("input", tensor), ("labels", labels)), attributes=MappingProxyType(dict(attributes)))
    compared: Ports = (("labels", labels), ("input", tensor), ("loss", f"{name}.output"))
    if layer.kind in CLASSES:
        probability = f"{name}.probability" if op == "softmax" else tensor
        compared = (("labels", labels), ("probability", probability), ("loss", f"{name}.output"))
        return loss, NodeSpec(evaluate, "evaluate", compared)
    if layer.kind == "perceptron":
        return loss, NodeSpec(evaluate, "evaluate_binary", compared, attributes=MappingProxyType({"logits": True}))
    if layer.kind == "binary_cross_entropy":
        logits = {key: value for key, value in attributes.items() if key == "logits"}
        return loss, NodeSpec(evaluate, "evaluate_binary", compared, attributes=MappingProxyType(logits))
    targets = NodeSpec(f"{layer.name}.targets", "sum_targets", (("labels", labels),))
    compared = (*compared, ("targets", f"{targets.name}.output"))
    return loss, targets, NodeSpec(evaluate, "evaluate_error", compared)


def _where(layer: LayerConfig, nodes: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    """The nodes at the place of their layer, and the one that reads the metrics."""
    reader = NodeSpec(f"{nodes[-1].name}.accuracy", "accuracy", (("input", f"{nodes[-1].name}.output"),))
    return tuple(replace(node, place=layer.place) for node in (*nodes, reader))
