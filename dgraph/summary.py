"""A network by layers: what each gives, how many parameters it has, how much it multiplies.

In: a config. Out: `Summary`, plain numbers. Promise: nothing is laid out or planned, no values are read; figures are those of
the graph as it runs: a parameter that several layers share counts once, with the first.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from dgraph.config import Config
from dgraph.graph.node import Dim, Graph, OpNode
from dgraph.ops import OPS
from dgraph.program import backend_of, forward_graph, libraries

MULTIPLYING = ("conv", "conv_transpose", "tiled", "linear")
"""Ops whose iteration space is counted as multiply-accumulates."""


@dataclass(frozen=True)
class Row:
    """A layer, or several under one name.

    `kind` is that of the layer, or how many there are; `dim` is what it gives for the whole batch and `output_nbytes` its size;
    `parameters` are numbers that training changes; `macs` are the multiply-accumulates of one sample, forward, padding included.
    """

    name: str
    kind: str
    dim: Dim
    parameters: int
    macs: int
    parameter_nbytes: int
    output_nbytes: int


@dataclass(frozen=True)
class Summary:
    """A network's rows and its totals; `macs` are those of one sample, `libraries` the ops by the library whose kernels do
    them."""

    name: str
    batch: int
    parameters: int
    macs: int
    parameter_nbytes: int
    layers: tuple[Row, ...]
    libraries: Mapping[str, tuple[str, ...]]

    def plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def summarize(config: Config, depth: int | None = None) -> Summary:
    """The summary of a network.

    Parameters
    ----------
    config : Config
        Of any mesh.
    depth : int, optional
        How many parts of a layer's name (between its dots) are told apart: with 1, a block is one row, with all of its copies.
        None: every layer has its row.

    Raises
    ------
    ConfigError, DataError
        As `compile_config`: what does not fit, and data that cannot be described.
    """
    graph = forward_graph(config)[2]
    itemsize = 4 if config.dtype == "float32" else 8
    kinds = {layer.name: layer.kind for layer in config.layers}
    groups: dict[str, dict[str, list[OpNode]]] = {}
    for node in graph.ops.values():
        layer = _layer_of(node.name, kinds)
        group = groups.setdefault(".".join(layer.split(".")[:depth]), {})
        group.setdefault(layer, []).append(node)
    owned = _first_read(graph)
    rows = []
    for name, layers in groups.items():
        nodes = [node for layer in layers.values() for node in layer]
        kind = kinds.get(next(iter(layers)), nodes[0].op) if len(layers) == 1 else f"{len(layers)} layers"
        dim = _output_dim(graph, [*layers.values()][-1])
        parameters = sum(owned[node.name] for node in nodes)
        sizes = (parameters * itemsize, prod(dim) * itemsize if dim else 0)
        rows.append(Row(name, kind, dim, parameters, sum(map(_macs, nodes)), *sizes))
    total = sum(row.parameters for row in rows)
    return Summary(config.name, config.data.batch, total, sum(row.macs for row in rows), total * itemsize, tuple(rows),
                   libraries(graph, backend_of(config)))  # fmt: skip


def _layer_of(node: str, layers: Container[str]) -> str:
    """The layer that a node belongs to: the longest name that it starts with. A node that was declared alone is its own."""
    name = node
    while name and name not in layers:
        name = name.rpartition(".")[0]
    return name or node


def _first_read(graph: Graph) -> dict[str, int]:
    """How many numbers of parameters each node is the first to read."""
    owned = dict.fromkeys(graph.ops, 0)
    for parameter in graph.parameters:
        owned[graph.readers[parameter.name][0][0]] += prod(parameter.dim)
    return owned


def _output_dim(graph: Graph, nodes: Sequence[OpNode]) -> Dim:
    """The dim of what the next layer would read; of a loss where there is nothing else; empty where nothing is written."""
    shown = [node for node in nodes if OPS[node.op].gradient and not OPS[node.op].loss] or nodes
    outputs = dict(shown[-1].outputs)
    return graph.tensors[outputs.get("output", next(iter(outputs.values())))].dim if outputs else ()


def _macs(node: OpNode) -> int:
    """The multiply-accumulates of one sample."""
    if node.op not in MULTIPLYING:
        return 0
    space = node.access.space
    return prod(extent for label, extent in zip(space.labels, space.extents, strict=True) if label != "n")
