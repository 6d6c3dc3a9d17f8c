"""Readers of one tensor in layouts that have little in common, each with a tensor of its own.

In: a forward graph and its layout. Out: a graph in which every tensor's readers need about the same of it on every rank. Promise:
values do not change; what is added are `identity` nodes, which stay where the tensor was written, so that only their results
travel. A read rect is one bounding box: rows for one reader and samples for another would else be the whole tensor on every
rank, and so would its gradient.

    x  --> conv, cut over rows            x --> conv, cut over rows
       --> add, cut over samples    =>      --> [identity] --> x' --> add, cut over samples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from types import MappingProxyType

import numpy as np

from dgraph.graph.node import Graph, Op, OpNode, TensorNode
from dgraph.layout.assign import Layout
from dgraph.layout.field import Field

_SPARE = 1.5
"""How many times what one reader needs may be read for several together."""

Reader = tuple[str, str]
"""Node and port."""


def part_readers(graph: Graph, layout: Layout, table: Mapping[str, Op]) -> Graph:
    """The graph with an identity node for every further group of readers of an activation."""
    groups = {
        tensor.name: _groups(tensor.name, graph, layout)
        for tensor in graph.tensors.values()
        if tensor.role == "activation" and len(graph.readers[tensor.name]) > 1
    }
    if all(len(readers) < 2 for readers in groups.values()):
        return graph
    instead: dict[tuple[str, str, str], str] = {}
    for tensor, readers in groups.items():
        for number, group in enumerate(readers[1:], 1):
            instead |= {(node, port, tensor): f"{tensor}.copy{number}" for node, port in group}
    return _rebuilt(graph, instead, table)


def _groups(tensor: str, graph: Graph, layout: Layout) -> list[list[Reader]]:
    """The readers, together where one bounding box serves them about as well as their own. Where they are several groups, the first
    (perhaps of nobody) reads where the tensor was written, as the copies do."""
    readers = [(node, port) for node, port in graph.readers[tensor] if port in layout.ops[node].fields]
    fields = {reader: layout.ops[reader[0]].fields[reader[1]] for reader in readers}
    if not fields or _agree(list(fields.values())):
        return [readers]
    written = [layout.tensors[tensor].write]
    groups: list[list[Reader]] = [[]]
    for reader, field in fields.items():
        for number, group in enumerate(groups):
            if _agree([*(fields[other] for other in group), field, *(written if number == 0 else ())]):
                group.append(reader)
                break
        else:
            groups.append([reader])
    return groups


def _agree(fields: Sequence[Field]) -> bool:
    return _volume(reduce(Field.hull, fields)) <= _SPARE * max(_volume(field) for field in fields)


def _volume(field: Field) -> int:
    """The most elements that a rank has of a field."""
    volume = np.ones((), dtype=np.int64)
    for interval in field.intervals:
        volume = volume * np.maximum(interval.stop - interval.start, 0)
    return int(volume.max())


def _rebuilt(graph: Graph, instead: Mapping[tuple[str, str, str], str], table: Mapping[str, Op]) -> Graph:
    """The graph in which some ports read copies, each made right behind the tensor's writer."""
    copies: dict[str, list[str]] = {}
    for (_, _, tensor), copy in instead.items():
        if copy not in copies.setdefault(tensor, []):
            copies[tensor].append(copy)
    ops: dict[str, OpNode] = {}
    tensors: dict[str, TensorNode] = {}
    for node in graph.ops.values():
        joined = [*((port, tensor) for port, tensor in node.inputs if node.port_map(port)), *node.outputs]
        tensors |= {tensor: graph.tensors[tensor] for _, tensor in joined}
        inputs = tuple((port, _read(instead, node.name, port, tensor)) for port, tensor in node.inputs)
        ops[node.name] = replace(node, inputs=inputs)
        for _, tensor in node.outputs:
            for copy in copies.get(tensor, ()):
                made = _identity(copy, tensors[tensor], table["identity"])
                ops[made.name], tensors[f"{copy}.output"] = made, replace(tensors[tensor], name=f"{copy}.output")
    return Graph(graph.name, MappingProxyType(ops), MappingProxyType(tensors))


def _read(instead: Mapping[tuple[str, str, str], str], node: str, port: str, tensor: str) -> str:
    copy = instead.get((node, port, tensor))
    return tensor if copy is None else f"{copy}.output"


def _identity(name: str, tensor: TensorNode, record: Op) -> OpNode:
    access = record.access({}, {"input": tensor.dim})
    return OpNode(name, record.name, "forward", (("input", tensor.name),), (("output", f"{name}.output"),), access)
