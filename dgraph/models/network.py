"""A whole config to the specs of its graph.

In: a `Config`, and the shape of one sample. Out: node and parameter specs for `build_graph`. Promise: the data node comes first,
then the layers in order, then the nodes as they were declared; metrics read every parameter, in order, so that they
belong to the parameters before their update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import MappingProxyType

from dgraph.config.kind import LOSSES
from dgraph.config.schema import Config, LayerConfig
from dgraph.error import ConfigError
from dgraph.graph.spec import NodeSpec, ParameterSpec
from dgraph.models.layer import Part, expand_layer
from dgraph.models.loss import expand_loss, expand_one_vs_all, expand_softmax
from dgraph.ops import OPS

_ADDED = "data"


def expand(
    config: Config, shape: tuple[int, ...], label_shape: tuple[int, ...] = (1,)
) -> tuple[tuple[NodeSpec, ...], tuple[ParameterSpec, ...]]:
    """The specs that a config stands for.

    Parameters
    ----------
    config : Config
        With layers, nodes or both. A node with the op `data` takes the place of the one that is added otherwise.
    shape : tuple of int
        [C, spatial ...] of one sample, as the data source has it.
    label_shape : tuple of int
        Of the labels of one sample; dimensions that are missing at its end are 1.

    Returns
    -------
    nodes : tuple of NodeSpec
        Data, layers, nodes.
    parameters : tuple of ParameterSpec
        Those of layers, then those that nodes read, then others of the config; what the config says of a parameter
        overrides what its layer says, field by field.

    Raises
    ------
    ConfigError
        At the place of the layer: an input that is a loss, which gives nothing to read.
    """
    data = next((node for node in config.nodes if node.op == "data"), None)
    added = () if data else (_data_node(config, shape, label_shape),)
    given = dict(data.outputs) if data else {}
    name = data.name if data else _ADDED
    raw, labels = given.get("raw_data", f"{name}.raw_output"), given.get("labels", f"{name}.labels_output")
    parts = _expand_layers(config.layers, raw, labels)
    own = [parameter for part in parts for parameter in part.parameters]
    parameters = _merge((*own, *_read_by(config.nodes)), config.parameters)
    order = tuple(("params", parameter.name) for parameter in parameters)
    layers = [_after(node, order) for part in parts for node in part.nodes]
    return (*added, *layers, *config.nodes), parameters


def _data_node(config: Config, shape: tuple[int, ...], label_shape: tuple[int, ...]) -> NodeSpec:
    data = config.data
    attributes = {"batch": data.batch, "shape": shape, "read": data.read}
    if any(extent > 1 for extent in label_shape):
        attributes["label_shape"] = label_shape
    return NodeSpec(_ADDED, "data", (), attributes=MappingProxyType(attributes), split=data.split, place=data.place)


def _expand_layers(layers: Sequence[LayerConfig], raw: str, labels: str) -> list[Part]:
    parts: list[Part] = []
    outputs: dict[str, str | None] = {_ADDED: raw}
    before = _ADDED
    softmaxes = 0
    for layer in layers:
        tensors = [_input(layer, name, outputs) for name in layer.reads or (before,)]
        if layer.kind == "softmax":
            softmaxes += 1
            part = expand_softmax(layer, tensors[0], labels, softmaxes)
        elif layer.kind == "one_vs_all":
            part = expand_one_vs_all(layer, tensors[0], labels)
        elif layer.kind in LOSSES:
            part = expand_loss(layer, tensors[0], labels)
        else:
            part = expand_layer(layer, tensors)
        parts.append(part)
        outputs[layer.name] = part.output
        before = layer.name
    return parts


def _input(layer: LayerConfig, name: str, outputs: dict[str, str | None]) -> str:
    """The tensor of an earlier layer, or the tensor of that name (which the graph checks)."""
    tensor = outputs.get(name, name)
    if tensor is None:
        hint = "name another layer as its input"
        raise ConfigError(f"layer {layer.name} cannot read the loss {name}", hint, layer.place)
    return tensor


def _read_by(nodes: Iterable[NodeSpec]) -> list[ParameterSpec]:
    """The parameters that nodes read. An op that is not known reads none: the graph says so."""
    return [
        ParameterSpec(tensor, place=node.place)
        for node in nodes
        if node.op in OPS
        for port, tensor in node.inputs
        if port in OPS[node.op].parameters
    ]


def _merge(own: Iterable[ParameterSpec], declared: Iterable[ParameterSpec]) -> tuple[ParameterSpec, ...]:
    """Each parameter once; fields that are given in `declared` win."""
    merged: dict[str, ParameterSpec] = {}
    for spec in own:
        merged.setdefault(spec.name, spec)
    for spec in declared:
        base = merged.get(spec.name, spec)
        merged[spec.name] = ParameterSpec(
            spec.name,
            spec.init or base.init,
            spec.update or base.update,
            base.update_split if spec.update_split is None else spec.update_split,
            base.shard if spec.shard is None else spec.shard,
            spec.rate,
            spec.penalty,
            spec.place or base.place,
        )
    return tuple(merged.values())


def _after(node: NodeSpec, order: tuple[tuple[str, str], ...]) -> NodeSpec:
    return replace(node, inputs=(*node.inputs, *order)) if "params" in OPS[node.op].variadic else node
