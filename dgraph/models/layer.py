"""One layer to its nodes and parameters.

In: a `LayerConfig`, the tensors that it reads. Out: a `Part`. Promise: the names of nodes and parameters follow from the
layer's name and kind alone, so that splits, overrides and traces can rely on them:

    kind              nodes                                              parameters
    tiled             .filter .filterA .filterNL                         .W .a .b
    conv              .conv .convA .convNL                               .W .a .b
    linear            .linear .linearA .linearNL                         .W .a .b
    *_pool            .pool .poolNL
    affine            .affine .affineNL                                  .a .b
    nonlinearity      .NL
    softmax           .linear1 .linear1A .softmax .evaluate              .weights1 .bias1
                      .evaluate.accuracy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from dgraph.config.schema import AffineConfig, LayerConfig
from dgraph.graph.node import EMPTY, Attributes
from dgraph.graph.spec import NodeSpec, ParameterSpec

Init = Mapping[str, Mapping[str, float]]
Ports = tuple[tuple[str, str], ...]

XAVIER: Init = MappingProxyType({"xavier": EMPTY})
HE: Init = MappingProxyType({"he": EMPTY})
ONE: Init = MappingProxyType({"constant": MappingProxyType({"value": 1.0})})
ZERO: Init = MappingProxyType({"zero": EMPTY})

_NODE = {
    "tiled": "filter",
    "conv": "conv",
    "linear": "linear",
    "max_pool": "pool",
    "average_pool": "pool",
    "affine": "affine",
    "nonlinearity": "",
}
_WEIGHTS = {"tiled": "filters", "conv": "filters", "linear": "weights"}
_POOLS = ("max_pool", "average_pool")
_RECTIFIERS = ("relu", "leaky_relu")


@dataclass(frozen=True)
class Part:
    """Nodes and parameters in order; `output` is the tensor that the next layer reads, None behind a loss."""

    nodes: tuple[NodeSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    output: str | None


def expand_layer(layer: LayerConfig, tensor: str, letters: str) -> Part:
    """The part of a network that a layer of any kind but softmax stands for.

    Parameters
    ----------
    layer : LayerConfig
        The layer; its split and pieces go to the first node, and the others follow their input.
    tensor : str
        The tensor [N, C, spatial ...] that it reads.
    letters : str
        C and the spatial letters, such as CHW: what the bias `all` spans.
    """
    first = f"{layer.name}.{_NODE[layer.kind]}"
    part = Part((), (), tensor)
    if layer.kind in _WEIGHTS:
        part = _weighted(part, layer, first)
    elif layer.kind in _POOLS:
        part = _then(part, first, layer.kind, layer.attributes)
    if layer.affine is not None:
        name = first if layer.kind == "affine" else f"{first}A"
        part = _affine(part, layer, layer.affine, name, letters)
    if layer.nonlinearity is not None:
        part = _then(part, f"{first}NL", layer.nonlinearity.name, layer.nonlinearity.attributes)
    return replace(part, nodes=_placed(part.nodes, layer))


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
    weights = _parameter(layer, "weights1", layer.init or XAVIER, f"update_W{number}")
    weights = replace(weights, update_split=layer.update_split)
    part = Part((), (weights,), tensor)
    features = {"features": layer.attributes["classes"]}
    part = _then(part, f"{layer.name}.linear1", "linear", features, (("weights", weights.name),))
    if layer.attributes["bias"]:
        bias = _parameter(layer, "bias1", ZERO, f"update_B{number}")
        part = replace(part, parameters=(weights, bias))
        part = _then(part, f"{layer.name}.linear1A", "affine", {"bias": "C"}, (("b", bias.name),))
    return Part(_placed((*part.nodes, *_loss(layer, str(part.output), labels)), layer), part.parameters, None)


def _loss(layer: LayerConfig, scores: str, labels: str) -> tuple[NodeSpec, ...]:
    softmax, evaluate = f"{layer.name}.softmax", f"{layer.name}.evaluate"
    read = (("labels", labels), ("probability", f"{softmax}.probability"), ("loss", f"{softmax}.output"))
    return (
        NodeSpec(softmax, "softmax", (("input", scores), ("labels", labels)), split=layer.loss_split),
        NodeSpec(evaluate, "evaluate", read, split=layer.loss_split),
        NodeSpec(f"{evaluate}.accuracy", "accuracy", (("input", f"{evaluate}.output"),)),
    )


def _parameter(layer: LayerConfig, name: str, init: Init, update: str | None = None) -> ParameterSpec:
    return ParameterSpec(f"{layer.name}.{name}", init, update, shard=layer.shard, place=layer.place)


def _weighted(part: Part, layer: LayerConfig, name: str) -> Part:
    rectified = layer.nonlinearity is not None and layer.nonlinearity.name in _RECTIFIERS
    weights = _parameter(layer, "W", layer.init or (HE if rectified else XAVIER))
    part = replace(part, parameters=(replace(weights, update_split=layer.update_split),))
    return _then(part, name, layer.kind, layer.attributes, ((_WEIGHTS[layer.kind], weights.name),))


def _affine(part: Part, layer: LayerConfig, affine: AffineConfig, name: str, letters: str) -> Part:
    bias = letters if affine.bias == "all" else affine.bias
    scales = (_parameter(layer, "a", ONE),) if affine.scale else ()
    biases = (_parameter(layer, "b", ZERO),) if bias else ()
    part = replace(part, parameters=(*part.parameters, *scales, *biases))
    ports = (*(("a", a.name) for a in scales), *(("b", b.name) for b in biases))
    return _then(part, name, "affine", {"bias": bias} if bias else {}, ports)


def _then(part: Part, name: str, op: str, attributes: Attributes, inputs: Ports = ()) -> Part:
    """The part with one more node, which reads what the part gave so far."""
    node = NodeSpec(name, op, (("input", str(part.output)), *inputs), attributes=MappingProxyType(dict(attributes)))
    return Part((*part.nodes, node), part.parameters, f"{name}.output")


def _placed(nodes: tuple[NodeSpec, ...], layer: LayerConfig) -> tuple[NodeSpec, ...]:
    """The nodes with the place of their layer, the first with its split and pieces."""
    first = replace(nodes[0], split=layer.split, pieces=layer.pieces)
    return tuple(replace(node, place=layer.place) for node in (first, *nodes[1:]))
