"""Element-wise ops, sums and products, as ONNX has them.

In: a node of the graph. Out: nodes of the draft. Promise: dims are those of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from dgraph.graph.node import OpNode
from dgraph.onnx.writing.draft import Draft, result, source, sources
from dgraph.onnx.writing.function import softplus_function, threshold_function

Emit = Callable[[Draft, OpNode], None]


def _plain(draft: Draft, node: OpNode, op: str) -> None:
    draft.node(op, [source(node)], result(node), node.name)


def _numbered(draft: Draft, node: OpNode, op: str, key: str) -> None:
    draft.node(op, [source(node)], result(node), node.name, {"alpha": node.attributes[key]})


def _affine(draft: Draft, node: OpNode) -> None:
    ports = dict(node.inputs)
    given = ports["input"]
    both = "a" in ports and "b" in ports
    if "a" in ports:
        scale = draft.parameter(ports["a"], draft.span(node, "a"))
        output = f"{node.name}.scaled" if both else result(node)
        given = draft.node("Mul", [given, scale], output, f"{node.name}.scale" if both else node.name)
    if "b" in ports:
        draft.node("Add", [given, draft.parameter(ports["b"], draft.span(node, "b"))], result(node), node.name)
    if not {"a", "b"} & ports.keys():
        _plain(draft, node, "Identity")


def _prelu(draft: Draft, node: OpNode) -> None:
    slope = draft.parameter(source(node, "slope"), draft.span(node, "slope"))
    draft.node("PRelu", [source(node), slope], result(node), node.name)


def _gelu(draft: Draft, node: OpNode) -> None:
    draft.node("Gelu", [source(node)], result(node), node.name, {"approximate": node.attributes["approximate"]})


def _silu(draft: Draft, node: OpNode) -> None:
    gate = draft.node("Sigmoid", [source(node)], f"{node.name}.gate", f"{node.name}.sigmoid")
    draft.node("Mul", [source(node), gate], result(node), node.name)


def _softplus(draft: Draft, node: OpNode) -> None:
    if node.attributes["beta"] == 1:
        _plain(draft, node, "Softplus")
        return
    beta = draft.numbers(f"{node.name}.beta", node.attributes["beta"])
    draft.call(softplus_function(), [source(node), beta], result(node), node.name)


def _softmax(draft: Draft, node: OpNode) -> None:
    draft.node("Softmax", [source(node)], result(node), node.name, {"axis": node.attributes["axis"]})


def _probability(draft: Draft, node: OpNode) -> None:
    """What a softmax loss gives besides the loss."""
    draft.node("Softmax", [source(node)], result(node, "probability"), node.name, {"axis": 1})


def _threshold(draft: Draft, node: OpNode) -> None:
    at = draft.numbers(f"{node.name}.at", node.attributes["at"])
    draft.call(threshold_function(), [source(node), at], result(node), node.name)


def _add(draft: Draft, node: OpNode) -> None:
    given = sources(node)
    draft.node({1: "Identity", 2: "Add"}.get(len(given), "Sum"), given, result(node), node.name)


def _multiply(draft: Draft, node: OpNode) -> None:
    """A product of several is one of two, again and again."""
    product, *others = sources(node)
    if not others:
        draft.node("Identity", [product], result(node), node.name)
    for k, factor in enumerate(others, 1):
        last = k == len(others)
        output = result(node) if last else f"{node.name}.product{k}"
        product = draft.node("Mul", [product, factor], output, node.name if last else f"{node.name}.{k}")


def _concat(draft: Draft, node: OpNode) -> None:
    draft.node("Concat", sources(node), result(node), node.name, {"axis": node.attributes["axis"]})


def _dropout(draft: Draft, node: OpNode) -> None:
    ratio = draft.numbers(f"{node.name}.ratio", node.attributes["rate"])
    draft.node("Dropout", [source(node), ratio], result(node), node.name)


_PLAIN = {"identity": "Identity", "logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_NUMBERED = {"leaky_relu": ("LeakyRelu", "slope"), "elu": ("Elu", "alpha")}

EMIT: Mapping[str, Emit] = {
    **{name: partial(_plain, op=op) for name, op in _PLAIN.items()},
    **{name: partial(_numbered, op=op, key=key) for name, (op, key) in _NUMBERED.items()},
    "affine": _affine,
    "prelu": _prelu,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
    "softmax": _probability,
    "softmax_activation": _softmax,
    "threshold": _threshold,
    "add": _add,
    "multiply": _multiply,
    "concat": _concat,
    "dropout": _dropout,
}
