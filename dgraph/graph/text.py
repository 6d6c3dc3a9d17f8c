"""A graph as plain values: the expanded node form of a config.

In: a forward graph. Out: lists and mappings of strings and numbers, as YAML holds them. Promise: loaded back, they give the
same graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgraph.graph.node import Graph, OpNode, Split, TensorNode


def graph_values(graph: Graph) -> dict[str, Any]:
    """`nodes` and `parameters` of a config that declares this forward graph node by node."""
    parameters = {p.name: _parameter(p) for p in graph.parameters}
    return {"nodes": [_node(node) for node in graph.ops.values()], "parameters": parameters}


def split_values(split: Mapping[str, Split]) -> dict[str, Any]:
    """A split as a config writes it."""
    return {
        letter: list(entry.axes) if entry.sizes is None else {"axes": list(entry.axes), "sizes": list(entry.sizes)}
        for letter, entry in split.items()
    }


def _node(node: OpNode) -> dict[str, Any]:
    values: dict[str, Any] = {"name": node.name, "op": node.op}
    attributes = {key: _plain(value) for key, value in node.attributes.items() if value is not None}
    if attributes:
        values["attributes"] = attributes
    inputs: dict[str, Any] = {}
    for port, tensor in node.inputs:
        if port in inputs:
            several = inputs[port] if isinstance(inputs[port], list) else [inputs[port]]
            inputs[port] = [*several, tensor]
        else:
            inputs[port] = tensor
    if inputs:
        values["inputs"] = inputs
    if node.outputs:
        values["outputs"] = dict(node.outputs)
    if node.split is not None:
        values["split"] = split_values(node.split)
    if node.pieces:
        values["pieces"] = dict(node.pieces)
    return values


def _parameter(parameter: TensorNode) -> dict[str, Any]:
    attributes = parameter.attributes
    values: dict[str, Any] = {
        "init": {kind: dict(arguments) for kind, arguments in attributes["init"].items()},
        "update": attributes["update"],
    }
    if attributes["update_split"] is not None:
        values["update_split"] = split_values(attributes["update_split"])
    if attributes["shard"] is not None:
        values["shard"] = attributes["shard"]
    return values


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value
