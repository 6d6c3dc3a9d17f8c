"""Element-wise ops, sums and products of ONNX as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: a constant that is added or multiplied becomes a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from dgraph.graph.node import EMPTY, Attributes
from dgraph.onnx.reading.file import DTYPES
from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.onnx.reading.window import shift
from dgraph.ops.letter import letters_of

Read = Callable[[Intake, Node], None]


def _plain(intake: Intake, node: Node, op: str, attributes: Attributes = EMPTY) -> None:
    intake.add(node, op, [("input", intake.given(node))], attributes)


def _numbered(intake: Intake, node: Node, op: str, key: str, default: float) -> None:
    _plain(intake, node, op, {key: node.number("alpha", default)})


def _gelu(intake: Intake, node: Node) -> None:
    _plain(intake, node, "gelu", {"approximate": node.expect("approximate", "none", "tanh")})


def _swish(intake: Intake, node: Node) -> None:
    if node.number("alpha", 1.0) != 1:
        raise node.refuse(f"attribute alpha is {node.number('alpha', 1.0)}", "supported: 1")
    _plain(intake, node, "silu")


def _cast(intake: Intake, node: Node) -> None:
    """A cast to the type that all of the network has."""
    node.take("saturate")
    kind = DTYPES.get(node.take("to"))
    if kind != intake.dtype:
        raise node.refuse(f"attribute to is {kind or 'another type'}", f"the network is of type {intake.dtype}")
    _plain(intake, node, "identity")


def _softmax(intake: Intake, node: Node) -> None:
    _plain(intake, node, "softmax_activation", {"axis": node.take("axis", -1)})


def _prelu(intake: Intake, node: Node) -> None:
    dim, slope = intake.dim(node), intake.constant(node, 1)
    if slope.ndim > len(dim):
        raise node.refuse(f"a slope of dim {list(slope.shape)} does not fit an input of dim {list(dim)}")
    whole = slope.reshape(*(1 for _ in dim[slope.ndim :]), *slope.shape)
    spans = "".join(letter for letter, n in zip(letters_of(len(dim)), whole.shape, strict=True) if n > 1)
    ports = [("input", intake.given(node)), ("slope", intake.parameter(node, 1, whole))]
    intake.add(node, "prelu", ports, {"spans": spans})


def _joined(intake: Intake, node: Node, op: str) -> None:
    """A sum or product of tensors that are computed; or of one and a constant."""
    constants = [k for k in range(len(node.inputs)) if intake.is_constant(node, k)]
    if not constants:
        intake.add(node, op, [(f"input{k}", intake.given(node, k)) for k in range(len(node.inputs))])
        return
    if len(node.inputs) != 2:
        raise node.refuse(f"input {node.inputs[constants[0]]} is a constant", "one of two may be")
    k = constants[0]
    given, values = intake.given(node, 1 - k), intake.constant(node, k)
    if op == "add":
        shift(intake, node, k, given, values, mark="")
    else:
        _scaled(intake, node, k, given, values)


def _div(intake: Intake, node: Node) -> None:
    """A division by a constant is a product with its inverse."""
    given, divisor = intake.given(node), intake.constant(node, 1)
    if not divisor.all():
        raise node.refuse(f"input {node.inputs[1]} holds a 0")
    _scaled(intake, node, 1, given, 1 / divisor, "inverse")


def _scaled(intake: Intake, node: Node, k: int, given: str, values: Any, how: str = "") -> None:
    """A product with one number, or with one number a channel: a convolution of every channel by itself."""
    dim = intake.tensors[given].dim
    if values.size == 1 and values.ndim <= len(dim):
        intake.add(node, "affine", [("input", given), ("a", intake.parameter(node, k, values.reshape(1), how))])
        return
    whole = values.reshape(*(1 for _ in dim[values.ndim :]), *values.shape) if values.ndim <= len(dim) else values
    if len(dim) < 3 or whole.shape != (1, dim[1], *(1 for _ in dim[2:])):
        raise node.refuse(
            f"a factor of dim {list(values.shape)} for an input of dim {list(dim)}", "one number, or one a channel"
        )
    ones = [1] * (len(dim) - 2)
    filters = intake.parameter(node, k, whole.reshape(dim[1], 1, *ones), how)
    attributes = {"channels": dim[1], "size": ones, "groups": dim[1]}
    intake.add(node, "conv", [("input", given), ("filters", filters)], attributes)


def _concat(intake: Intake, node: Node) -> None:
    ports = [(f"input{k}", intake.given(node, k)) for k in range(len(node.inputs))]
    intake.add(node, "concat", ports, {"axis": node.take("axis")})


def _dropout(intake: Intake, node: Node) -> None:
    if intake.has(node, 2) and intake.constant(node, 2).any():
        raise node.refuse("input training_mode is true", "a model is read as it is evaluated")
    node.take("seed")
    ratio = intake.constant(node, 1) if intake.has(node, 1) else np.array(0.5)
    _plain(intake, node, "dropout", {"rate": float(str(np.float32(ratio.reshape(-1)[0])))})


def _sub(intake: Intake, node: Node) -> None:
    """A constant that is taken away is added with its sign turned."""
    shift(intake, node, 1, intake.given(node), -intake.constant(node, 1), "negative", mark="")


_PLAIN = {"Identity": "identity", "Sigmoid": "logistic", "Tanh": "tanh", "Relu": "relu", "Softplus": "softplus"}

READ: Mapping[str, Read] = {
    **{name: partial(_plain, op=op) for name, op in _PLAIN.items()},
    "LeakyRelu": partial(_numbered, op="leaky_relu", key="slope", default=0.01),
    "Elu": partial(_numbered, op="elu", key="alpha", default=1.0),
    "Gelu": _gelu,
    "Swish": _swish,
    "Cast": _cast,
    "Softmax": _softmax,
    "PRelu": _prelu,
    "Add": partial(_joined, op="add"),
    "Sum": partial(_joined, op="add"),
    "Mul": partial(_joined, op="multiply"),
    "Sub": _sub,
    "Div": _div,
    "Concat": _concat,
    "Dropout": _dropout,
}
