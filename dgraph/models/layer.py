"""One layer to its nodes and parameters.

In: a `LayerConfig`, the tensors that it reads. Out: a `Part`. Promise: the names of nodes and parameters follow from the
layer's name and kind alone, so that splits, overrides and traces can rely on them:

    kind              nodes                                              parameters
    tiled             .filter .filterA .filterNL                         .W .a .b
    conv              .conv .convA .convNL                               .W .a .b
    conv_transpose    .conv .convA .convNL                               .W .a .b
    linear            .linear .linearA .linearNL                         .W .a .b
    norm: ...,        .mean .variance .normalize .normalizeNL            .scale .shift
    *_norm                                                               (states .running_mean .running_variance)
    *_pool            .pool .poolNL
    affine            .affine .affineNL                                  .a .b
    nonlinearity      .NL                                                (prelu: .slope)
    any other         .<kind> .<kind>NL
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dgraph.config.kind import JOINS, KINDS, NORM_KINDS
from dgraph.config.schema import AffineConfig, LayerConfig, Nonlinearity
from dgraph.graph.node import EMPTY, Attributes
from dgraph.graph.spec import NodeSpec, ParameterSpec

Init = Mapping[str, Mapping[str, Any]]
Ports = tuple[tuple[str, str], ...]

_OVER: Mapping[str, Mapping[str, Any]] = {
    "batch": {"over": "batch"},
    "layer": {"over": "sample"},
    "group": {"over": "sample"},
    "instance": {"over": "space"},
}
"""What the statistics of a norm are taken over."""
XAVIER: Init = MappingProxyType({"xavier": EMPTY})
HE: Init = MappingProxyType({"he": EMPTY})
ONE: Init = MappingProxyType({"constant": MappingProxyType({"value": 1.0})})
QUARTER: Init = MappingProxyType({"constant": MappingProxyType({"value": 0.25})})
ZERO: Init = MappingProxyType({"zero": EMPTY})

_NODE = {
    "tiled": "filter",
    "conv": "conv",
    "conv_transpose": "conv",
    "linear": "linear",
    "max_pool": "pool",
    "average_pool": "pool",
    "affine": "affine",
    "nonlinearity": "",
    "global_average_pool": "pool",
    "global_max_pool": "pool",
}
_WEIGHTS = {"tiled": "filters", "conv": "filters", "conv_transpose": "filters", "linear": "weights"}
_OP = {"global_average_pool": ("mean", {"over": "space"})}
"""Kinds that are an op of another name, and its attributes."""
_RECTIFIERS = ("relu", "leaky_relu", "prelu", "elu", "gelu", "silu")
_NONLINEARITY = {"softmax": "softmax_activation"}
"""Nonlinearities that are an op of another name."""


@dataclass(frozen=True)
class Part:
    """Nodes and parameters in order; `output` is the tensor that the next layer reads, None behind a loss."""

    nodes: tuple[NodeSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    output: str | None


def expand_layer(layer: LayerConfig, tensors: Sequence[str]) -> Part:
    """The part of a network that a layer of any kind but a loss stands for.

    Parameters
    ----------
    layer : LayerConfig
        The layer; its split and pieces go to the first node, and the others follow their input.
    tensors : sequence of str
        The tensor [N, C, spatial ...] that it reads; several for a layer that joins them.
    """
    first = f"{layer.name}.{_NODE.get(layer.kind, layer.kind)}"
    part = Part((), (), tensors[0])
    if layer.kind in _WEIGHTS:
        part = _weighted(part, layer, first)
    elif layer.kind in JOINS:
        inputs = tuple(("input", tensor) for tensor in tensors)
        part = Part((NodeSpec(first, layer.kind, inputs, attributes=layer.attributes),), (), f"{first}.output")
    elif layer.kind in KINDS and layer.kind not in NORM_KINDS:
        op, attributes = _OP.get(layer.kind, (layer.kind, layer.attributes))
        part = then(part, first, op, attributes)
    if layer.affine is not None:
        name = first if layer.kind == "affine" else f"{first}A"
        part = _affine(part, layer, layer.affine, name)
    if layer.norm is not None:
        part = expand_norm(part, layer, layer.norm)
        first = f"{layer.name}.normalize" if layer.kind in NORM_KINDS else first
    if layer.nonlinearity is not None:
        part = _nonlinear(part, layer, layer.nonlinearity, f"{first}NL")
    return replace(part, nodes=placed(part.nodes, layer))


def parameter(layer: LayerConfig, name: str, init: Init, update: str | None = None) -> ParameterSpec:
    """A parameter of a layer."""
    return ParameterSpec(f"{layer.name}.{name}", init, update, shard=layer.shard, place=layer.place)


def _weighted(part: Part, layer: LayerConfig, name: str) -> Part:
    rectified = layer.nonlinearity is not None and layer.nonlinearity.name in _RECTIFIERS
    weights = parameter(layer, "W", layer.init or (HE if rectified else XAVIER))
    part = replace(part, parameters=(replace(weights, update_split=layer.update_split),))
    return then(part, name, layer.kind, layer.attributes, ((_WEIGHTS[layer.kind], weights.name),))


def _affine(part: Part, layer: LayerConfig, affine: AffineConfig, name: str) -> Part:
    scales = (parameter(layer, "a", ONE),) if affine.scale else ()
    biases = (parameter(layer, "b", ZERO),) if affine.bias else ()
    part = replace(part, parameters=(*part.parameters, *scales, *biases))
    ports = (*(("a", a.name) for a in scales), *(("b", b.name) for b in biases))
    spans = {"scale": affine.scale if isinstance(affine.scale, str) else None, "bias": affine.bias}
    return then(part, name, "affine", {key: letters for key, letters in spans.items() if letters}, ports)


def _nonlinear(part: Part, layer: LayerConfig, nonlinearity: Nonlinearity, name: str) -> Part:
    """The part with a nonlinearity; prelu has a parameter."""
    op = _NONLINEARITY.get(nonlinearity.name, nonlinearity.name)
    if op != "prelu":
        return then(part, name, op, nonlinearity.attributes)
    slope = parameter(layer, "slope", QUARTER)
    part = replace(part, parameters=(*part.parameters, slope))
    return then(part, name, op, nonlinearity.attributes, (("slope", slope.name),))


def expand_norm(part: Part, layer: LayerConfig, norm: Nonlinearity) -> Part:
    """The part with the mean, the variance and the normalisation by them; those of a batch are followed by states."""
    source, name = str(part.output), layer.name
    given = dict(norm.attributes)
    epsilon, affine = {"epsilon": given.pop("epsilon", 1e-5)}, given.pop("affine", True)
    over = {**_OVER[norm.name], **given}
    states = [(("running", f"{name}.running_{of}"),) if norm.name == "batch" else () for of in ("mean", "variance")]
    mean, variance = f"{name}.mean.output", f"{name}.variance.output"
    part = then(part, f"{name}.mean", "mean", over, states[0])
    part = then(replace(part, output=source), f"{name}.variance", "variance", over, (("mean", mean), *states[1]))
    over = {key: value for key, value in over.items() if key != "momentum"}
    inputs: Ports = (("mean", mean), ("variance", variance))
    if affine:
        scale, shift = parameter(layer, "scale", ONE), parameter(layer, "shift", ZERO)
        part = replace(part, parameters=(*part.parameters, scale, shift))
        inputs = (*inputs, ("scale", scale.name), ("shift", shift.name))
        over |= {"spans": "sample" if norm.name == "layer" else "C"}
    return then(replace(part, output=source), f"{name}.normalize", "normalize", over | epsilon, inputs)


def then(part: Part, name: str, op: str, attributes: Attributes, inputs: Ports = ()) -> Part:
    """The part with one more node, which reads what the part gave so far."""
    node = NodeSpec(name, op, (("input", str(part.output)), *inputs), attributes=MappingProxyType(dict(attributes)))
    return Part((*part.nodes, node), part.parameters, f"{name}.output")


def placed(nodes: tuple[NodeSpec, ...], layer: LayerConfig) -> tuple[NodeSpec, ...]:
    """The nodes with the place of their layer, the first (of a norm: all three) with its split and pieces."""
    main = 3 if layer.kind in NORM_KINDS else 1
    return tuple(
        replace(node, place=layer.place, split=layer.split, pieces=layer.pieces)
        if k < main
        else replace(node, place=layer.place)
        for k, node in enumerate(nodes)
    )
