"""A network as an ONNX model.

In: a forward graph and its dtype. Out: a `Draft` of what leads to the result. Promise: it computes what an evaluation computes:
running statistics, no dropout, no losses; what ONNX cannot say is a ConfigError that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import onnx

from dgraph.error import ConfigError
from dgraph.graph.node import Graph, OpNode, TensorNode
from dgraph.onnx.version import IR_VERSION, OPSET
from dgraph.onnx.writing import norm, pointwise, shape, window
from dgraph.onnx.writing.draft import Draft, result, source
from dgraph.onnx.writing.function import DOMAIN
from dgraph.ops import OPS

BATCH = "N"
"""The name of the batch's extent where any will do."""
_EMIT: Mapping[str, Callable[[Draft, OpNode], None]] = {
    **window.EMIT,
    **pointwise.EMIT,
    **shape.EMIT,
    **norm.EMIT,
}
_BIASED = ("conv", "conv_transpose", "linear")


def predicted(graph: Graph) -> str:
    """The tensor that a network is there for: probabilities, or what the last loss compares with its labels; without a loss,
    the last that nothing reads."""
    heads = [node for node in graph.ops.values() if OPS[node.op].loss]
    if not heads:
        return [
            name for name, tensor in graph.tensors.items() if tensor.role == "activation" and not graph.readers[name]
        ][-1]
    ports = dict(heads[-1].outputs)
    return ports["probability"] if "probability" in ports else source(heads[-1])


def needed(graph: Graph, results: Iterable[str]) -> Graph:
    """The part of a forward graph that leads to some tensors."""
    wanted, kept = set(results), []
    for node in reversed(tuple(graph.ops.values())):
        if any(tensor in wanted for _, tensor in node.outputs):
            kept.append(node)
            ports = {port for port, _ in node.inputs} - ({"labels"} if OPS[node.op].loss else set())
            wanted |= {tensor for port, tensor in node.inputs if port in ports}
    ops = {node.name: node for node in reversed(kept)}
    given = {tensor for node in kept for _, tensor in (*node.inputs, *node.outputs)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in given}
    return Graph(graph.name, MappingProxyType(ops), MappingProxyType(tensors))


def draft_of(graph: Graph, dtype: str, results: Iterable[str]) -> Draft:
    """The ONNX nodes of a graph that `needed` gave."""
    draft = Draft(dtype, dict(_biases(graph, frozenset(results))))
    taken = {node.name for node in draft.biases.values()}
    norms = {node.name: norm.one_node(graph, node) for node in graph.ops.values() if node.op == "normalize"}
    for name, op in norms.items():
        if op:
            taken |= {graph.writers[source(graph.ops[name], port)][0][0] for port in norm.STATISTICS}
    for node in graph.ops.values():
        if not node.inputs or node.name in taken:
            continue
        if norms.get(node.name):
            norm.emit_one(draft, node, norms[node.name], graph)
        elif node.op in _EMIT:
            _EMIT[node.op](draft, node)
        else:
            raise ConfigError(f"node {node.name}: {node.op} is nothing in ONNX").about(node.name)
    return draft


def _biases(graph: Graph, results: frozenset[str]) -> Iterable[tuple[str, OpNode]]:
    """(convolution or linear node, the node that adds its bias), where nothing else reads what is biased."""
    for node in graph.ops.values():
        if node.op in _BIASED and result(node) not in results:
            readers = graph.readers[result(node)]
            after = graph.ops[readers[0][0]]
            if len(readers) == 1 and after.op == "affine" and {port for port, _ in after.inputs} == {"input", "b"}:
                dims = after.access.dims
                if dims["b"] == (1, dims["input"][1], *(1 for _ in dims["input"][2:])):
                    yield node.name, after


def model_of(graph: Graph, draft: Draft, results: Iterable[str], any_batch: bool) -> onnx.ModelProto:
    """The model of a draft, without initializers; `any_batch` leaves the extent of the batch open."""
    kind = onnx.TensorProto.FLOAT if draft.dtype == "float32" else onnx.TensorProto.DOUBLE
    read = {name for node in draft.nodes for name in node.input}
    fed = [name for name, tensor in graph.tensors.items() if tensor.role == "data" and name in read]

    def info(tensor: TensorNode) -> onnx.ValueInfoProto:
        dim: list[str | int | None] = [BATCH if any_batch else tensor.dim[0], *tensor.dim[1:]]
        return onnx.helper.make_tensor_value_info(tensor.name, kind, dim)

    inputs = [info(graph.tensors[name]) for name in fed]
    outputs = [info(graph.tensors[name]) for name in results]
    body = onnx.helper.make_graph(draft.nodes, graph.name, inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    if draft.functions:
        opsets.append(onnx.helper.make_opsetid(DOMAIN, 1))
    functions = list(draft.functions.values())
    return onnx.helper.make_model(
        body, opset_imports=opsets, functions=functions, ir_version=IR_VERSION, producer_name="dgraph"
    )
