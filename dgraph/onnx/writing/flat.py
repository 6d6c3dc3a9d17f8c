"""Which tensors are written without their spatial extents of 1, as ONNX has them behind a matrix product.

In: a graph. Out: names of tensors. Promise: whoever writes or reads one of them can do without: no other op sees the difference.
"""

from __future__ import annotations

from dgraph.graph.node import Graph, OpNode
from dgraph.onnx.writing.draft import source

_SOURCE = "linear"
_THROUGH = (
    *("affine", "identity", "logistic", "tanh", "relu", "leaky_relu", "prelu", "elu", "softplus", "gelu", "silu"),
    *("threshold", "dropout", "softmax", "softmax_activation"),
)
"""Ops that give flat for flat: those by element, and softmax over channels."""


def flat_tensors(graph: Graph) -> frozenset[str]:
    """The results of linear nodes, and what ops by element make of them, where nobody reads them otherwise."""
    flat = {tensor for node in graph.ops.values() for _, tensor in node.outputs if _may_be(node)}
    while True:
        kept = {tensor for tensor in flat if _holds(graph, tensor, flat)}
        if kept == flat:
            return frozenset(flat)
        flat = kept


def _may_be(node: OpNode) -> bool:
    if node.op != _SOURCE and (node.op not in _THROUGH or node.attributes.get("axis", 1) != 1):
        return False
    dim = node.access.dims["input"]
    return len(dim) > 2 and (node.op == _SOURCE or max(dim[2:]) == 1)


def _holds(graph: Graph, tensor: str, flat: set[str]) -> bool:
    writer = graph.ops[graph.writers[tensor][0][0]]
    if writer.op != _SOURCE and source(writer) not in flat:
        return False
    readers = [graph.ops[name] for name, _ in graph.readers[tensor]]
    return all(reader.op == _SOURCE or any(result in flat for _, result in reader.outputs) for reader in readers)
