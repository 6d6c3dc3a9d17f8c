"""Means, variances and what is normalised by them, as ONNX has them.

In: a normalising node and the statistics that it reads. Out: nodes of the draft. Promise: the three nodes of a batch, layer,
group or instance norm are one ONNX node where there is one; other statistics stand alone.

    statistics over            scale and shift span      ONNX
    N and space, running       C                         BatchNormalization
    C and space, in groups     C                         GroupNormalization
    the last dimensions        the same                  LayerNormalization
    space                      C                         InstanceNormalization
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from dgraph.error import ConfigError
from dgraph.graph.node import Graph, OpNode
from dgraph.onnx.writing.draft import Draft, result, source
from dgraph.onnx.writing.function import normalize_function, variance_function
from dgraph.ops.letter import letters_of

STATISTICS = ("mean", "variance")


def one_node(graph: Graph, node: OpNode) -> str:
    """The ONNX op that a normalising node and its statistics are; empty if they are none."""
    mean, variance = (graph.ops[graph.writers[source(node, port)][0][0]] for port in STATISTICS)
    if (mean.op, variance.op) != STATISTICS or source(variance, "mean") != result(mean):
        return ""
    given, other = source(node), {source(mean), source(variance)}
    over = (node.attributes["over"], node.attributes["groups"])
    shared = {(one.attributes["over"], one.attributes["groups"]) for one in (mean, variance)}
    read = {name for one in (mean, variance) for name, _ in graph.readers[result(one)]}
    if other != {given} or shared != {over} or not read <= {node.name, variance.name}:
        return ""
    running = ["running" in dict(one.inputs) for one in (mean, variance)]
    return _kind(node, all(running)) if running[0] == running[1] else ""


def _kind(node: OpNode, running: bool) -> str:
    dim, values = node.access.dims["input"], node.attributes
    letters = letters_of(len(dim))
    over, spans = set(values["over"]), set(values["spans"])
    plain = not {"scale", "shift"} & dict(node.inputs).keys()
    if running:
        return "BatchNormalization" if over == {*letters} - {"C"} and (plain or spans == {"C"}) else ""
    if over == {*letters[-len(over) :]} and spans == over and not plain and values["groups"] == 1:
        return "LayerNormalization"
    if len(dim) > 2 and over == {*letters[1:]} and (plain or spans == {"C"}):
        return "GroupNormalization"
    return "InstanceNormalization" if len(dim) > 2 and over == {*letters[2:]} and (plain or spans == {"C"}) else ""


def emit_one(draft: Draft, node: OpNode, op: str, graph: Graph) -> None:
    """A norm that ONNX has as one node, `op`."""
    ports, dim = dict(node.inputs), node.access.dims["input"]
    first = len(dim) - len(node.attributes["over"])
    span = dim[first:] if op == "LayerNormalization" else dim[1:2]
    inputs = [ports["input"]]
    for port, value in (("scale", 1.0), ("shift", 0.0)):
        name = f"{node.name}.{port}"
        inputs.append(draft.parameter(ports[port], span) if port in ports else draft.filled(name, value, span))
    more: dict[str, Any] = {"epsilon": node.attributes["epsilon"]}
    if op == "BatchNormalization":
        mean, variance = (graph.ops[graph.writers[ports[port]][0][0]] for port in STATISTICS)
        inputs += [draft.parameter(source(one, "running"), span) for one in (mean, variance)]
        more["momentum"] = 1 - mean.attributes["momentum"]
    if op == "GroupNormalization":
        more["num_groups"] = node.attributes["groups"]
    if op == "LayerNormalization":
        more["axis"] = first
    draft.node(op, inputs, result(node), node.name, more)


def _axes(draft: Draft, node: OpNode) -> str:
    letters = letters_of(len(node.access.dims["input"]))
    if node.attributes["groups"] > 1:
        raise ConfigError(f"node {node.name}: these statistics of groups are nothing in ONNX").about(node.name)
    return draft.integers(
        f"{node.name}.axes", [letters.index(one) for one in letters if one in node.attributes["over"]]
    )


def _mean(draft: Draft, node: OpNode) -> None:
    dim, letters = node.access.dims["input"], letters_of(len(node.access.dims["input"]))
    if _running(draft, node):
        return
    if len(dim) > 2 and node.attributes["groups"] == 1 and {*node.attributes["over"]} == {*letters[2:]}:
        draft.node("GlobalAveragePool", [source(node)], result(node), node.name)
        return
    draft.node("ReduceMean", [source(node), _axes(draft, node)], result(node), node.name, {"keepdims": 1})


def _variance(draft: Draft, node: OpNode) -> None:
    if not _running(draft, node):
        inputs = [source(node), source(node, "mean"), _axes(draft, node)]
        draft.call(variance_function(), inputs, result(node), node.name)


def _running(draft: Draft, node: OpNode) -> bool:
    """A statistic that is the running one where nothing is trained."""
    state = dict(node.inputs).get("running")
    if state is None:
        return False
    draft.node("Identity", [draft.parameter(state, node.access.dims["output"])], result(node), node.name)
    return True


def _normalize(draft: Draft, node: OpNode) -> None:
    ports = dict(node.inputs)
    if node.attributes["groups"] > 1 and prod(node.access.dims["mean"]) > 1:
        raise ConfigError(f"node {node.name}: this norm of groups is nothing in ONNX").about(node.name)
    inputs = [ports[port] for port in ("input", *STATISTICS)]
    for port, value in (("scale", 1.0), ("shift", 0.0)):
        name, dim = f"{node.name}.{port}", node.access.dims[port]
        given = draft.parameter(ports[port], dim) if port in ports else draft.filled(name, value, dim)
        inputs.append(given)
    inputs.append(draft.numbers(f"{node.name}.epsilon", node.attributes["epsilon"]))
    draft.call(normalize_function(), inputs, result(node), node.name)


EMIT: Mapping[str, Callable[[Draft, OpNode], None]] = {"mean": _mean, "variance": _variance, "normalize": _normalize}
