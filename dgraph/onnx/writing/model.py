"""A network as an ONNX model.

In: a forward graph and its dtype. Out: a `Draft` of what leads to the result. Promise: it computes what an evaluation computes:
running statistics, no dropout, no losses; what ONNX cannot say is a ConfigError that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import onnx

from dgraph.error import ConfigError
from dgraph.graph.node import Dim, Graph, OpNode
from dgraph.onnx.version import IR_VERSION, OPSET
from dgraph.onnx.writing import norm, pointwise, shape, window
from dgraph.onnx.writing.draft import Draft, result, source
from dgraph.onnx.writing.flat import flat_tensors
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
    """The tensor that a network is there for: probabilities, or what the last loss compares with its labels; without a loss, the
    last that nothing reads."""
    head = _head(graph)
    if head is None:
        unread = [name for name, one in graph.tensors.items() if one.role == "activation" and not graph.readers[name]]
        return unread[-1]
    ports = dict(head.outputs)
    return ports["probability"] if "probability" in ports else source(head)


def _head(graph: Graph) -> OpNode | None:
    return next((node for node in reversed(tuple(graph.ops.values())) if OPS[node.op].loss), None)


def needed(graph: Graph, result: str) -> Graph:
    """The part of a forward graph that leads to a tensor."""
    wanted, kept = {result}, []
    for node in reversed(tuple(graph.ops.values())):
        if any(tensor in wanted for _, tensor in node.outputs):
            kept.append(node)
            ports = {port for port, _ in node.inputs} - ({"labels"} if OPS[node.op].loss else set())
            wanted |= {tensor for port, tensor in node.inputs if port in ports}
    ops = {node.name: node for node in reversed(kept)}
    given = {tensor for node in kept for _, tensor in (*node.inputs, *node.outputs)}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in given}
    return Graph(graph.name, MappingProxyType(ops), MappingProxyType(tensors))


def draft_of(graph: Graph, dtype: str, result: str) -> Draft:
    """The ONNX nodes of a graph that `needed` gave."""
    draft = Draft(dtype, dict(_biases(graph, result)), flat_tensors(graph))
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


def _biases(graph: Graph, wanted: str) -> Iterable[tuple[str, OpNode]]:
    """(convolution or linear node, the node that adds its bias), where nothing else reads what is biased."""
    for node in graph.ops.values():
        if node.op in _BIASED and result(node) != wanted:
            readers = graph.readers[result(node)]
            after = graph.ops[readers[0][0]]
            if len(readers) == 1 and after.op == "affine" and {port for port, _ in after.inputs} == {"input", "b"}:
                dims = after.access.dims
                if dims["b"] == (1, dims["input"][1], *(1 for _ in dims["input"][2:])):
                    yield node.name, after


def finish(draft: Draft, forward: Graph, tensor: str) -> tuple[str, Dim]:
    """What `predict` makes of the predicted tensor: probabilities of scores, no spatial extents of 1. Its name and dim."""
    head, dim = _head(forward), forward.tensors[tensor].dim
    if head is not None and head.attributes.get("logits"):
        is_flat = tensor in draft.flat
        tensor = draft.node("Sigmoid", [tensor], f"{head.name}.probability", head.name)
        draft.flat |= {tensor} if is_flat else set()
    if max(dim[2:], default=2) > 1 or tensor in draft.flat:
        return tensor, dim[:2] if tensor in draft.flat else dim
    name = f"{tensor}.flat"
    shape = draft.integers(f"{name}.shape", [0, dim[1]])
    return draft.node("Reshape", [tensor, shape], name, name), dim[:2]


def model_of(graph: Graph, draft: Draft, output: str, dim: Dim, any_batch: bool) -> onnx.ModelProto:
    """The model of a draft, without initializers; `any_batch` leaves the extent of the batch open."""
    kind = onnx.TensorProto.FLOAT if draft.dtype == "float32" else onnx.TensorProto.DOUBLE
    read = {name for node in draft.nodes for name in node.input}
    fed = [(name, tensor.dim) for name, tensor in graph.tensors.items() if tensor.role == "data" and name in read]

    def info(name: str, dim: Dim) -> onnx.ValueInfoProto:
        extents: list[str | int | None] = [BATCH if any_batch else dim[0], *dim[1:]]
        return onnx.helper.make_tensor_value_info(name, kind, extents)

    inputs = [info(name, dim) for name, dim in fed]
    body = onnx.helper.make_graph(draft.nodes, graph.name, inputs, [info(output, dim)])
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    if draft.functions:
        opsets.append(onnx.helper.make_opsetid(DOMAIN, 1))
    functions = list(draft.functions.values())
    return onnx.helper.make_model(
        body, opset_imports=opsets, functions=functions, ir_version=IR_VERSION, producer_name="dgraph"
    )
