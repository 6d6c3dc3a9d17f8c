"""Element-wise ops, sums and products of ONNX as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: a constant that is added or multiplied becomes a parameter, also
where the model has it as an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx

from dgraph.graph.node import EMPTY, Attributes
from dgraph.onnx.reading.file import DTYPES
from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.onnx.reading.window import shift, spanned
from dgraph.ops.letter import letters_of

Read = Callable[[Intake, Node], None]


def _plain(intake: Intake, node: Node, op: str, attributes: Attributes = EMPTY) -> None:
    intake.add(node, op, [("input", intake.given(node))], attributes)


def _numbered(intake: Intake, node: Node, op: str, key: str, default: float) -> None:
    _plain(intake, node, op, {key: node.number("alpha", default)})


def _gelu(intake: Intake, node: Node) -> None:
    _plain(intake, node, "gelu", {"approximate": node.expect("approximate", "none", "tanh")})


def _swish(intake: Intake, node: Node) -> None:
    """`x * logistic(alpha * x)`"""
    alpha, given = node.number("alpha", 1.0), intake.given(node)
    if alpha == 1:
        _plain(intake, node, "silu")
        return
    gate = intake.step(node, "logistic", [("input", _times(intake, node, given, alpha, ".scaled"))], mark=".gate")
    intake.add(node, "multiply", [("input0", given), ("input1", gate)])


def _celu(intake: Intake, node: Node) -> None:
    """`alpha * elu(x / alpha)`"""
    alpha = node.number("alpha", 1.0)
    if alpha == 1:
        _plain(intake, node, "elu")
        return
    steep = _times(intake, node, intake.given(node), 1 / alpha if alpha else 0.0, ".scaled")
    ports = [("input", intake.step(node, "elu", [("input", steep)], mark=".elu")), ("a", intake.factor(node, alpha))]
    intake.add(node, "affine", ports, {"bias": ""})


def _selu(intake: Intake, node: Node) -> None:
    """`gamma * elu(x)`"""
    alpha, gamma = node.number("alpha", 1.67326319217681884765625), node.number("gamma", 1.05070102214813232421875)
    bent = intake.step(node, "elu", [("input", intake.given(node))], {"alpha": alpha}, ".elu")
    intake.add(node, "affine", [("input", bent), ("a", intake.factor(node, gamma))], {"bias": ""})


def _mish(intake: Intake, node: Node) -> None:
    """`x * tanh(softplus(x))`"""
    given = intake.given(node)
    soft = intake.step(node, "softplus", [("input", given)], mark=".softplus")
    gate = intake.step(node, "tanh", [("input", soft)], mark=".tanh")
    intake.add(node, "multiply", [("input0", given), ("input1", gate)])


def _clip(intake: Intake, node: Node) -> None:
    """Cut off below 0 alone, or not at all."""
    bounds = [intake.constant(node, k).reshape(-1).tolist() if intake.has(node, k) else [] for k in (1, 2)]
    low, high = ([value for value in bound if np.isfinite(value)] for bound in bounds)
    if low not in ([], [0]) or high:
        shown = " and ".join(f"{name} {value[0]}" for name, value in (("min", low), ("max", high)) if value)
        raise node.refuse(f"input {shown}", "a min of 0, or none, and no max are supported")
    _plain(intake, node, "relu" if low else "identity")


def _cast(intake: Intake, node: Node) -> None:
    """A cast to the type that all of the network has."""
    node.take("saturate")
    kind = DTYPES.get(node.take("to"))
    if kind != intake.dtype:
        name = onnx.helper.tensor_dtype_to_string(node.take("to")).removeprefix("TensorProto.")
        raise node.refuse(f"attribute to is {name}", f"the network is of type {intake.dtype}")
    _plain(intake, node, "identity")


def _cast_like(intake: Intake, node: Node) -> None:
    for key in ("saturate", "round_mode"):
        node.take(key)
    if intake.is_constant(node, 1) and intake.constant(node, 1).dtype != intake.dtype:
        raise node.refuse(f"to type {intake.constant(node, 1).dtype}", f"the network is of type {intake.dtype}")
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
    """A product with a constant, which is repeated over dimensions where it has an extent of 1."""
    spans, whole = spanned(intake, node, given, values)
    name = intake.parameter(node, k, whole if spans else whole.reshape(1), how)
    intake.add(node, "affine", [("input", given), ("a", name)], {"scale": spans, "bias": ""})


def _times(intake: Intake, node: Node, given: str, factor: float, mark: str) -> str:
    """A step that multiplies by a number that the model does not name."""
    return intake.step(node, "affine", [("input", given), ("a", intake.factor(node, factor))], {"bias": ""}, mark)


def _neg(intake: Intake, node: Node) -> None:
    ports = [("input", intake.given(node)), ("a", intake.factor(node, -1.0))]
    intake.add(node, "affine", ports, {"bias": ""})


def _mean(intake: Intake, node: Node) -> None:
    """A sum, times one over how many there are."""
    ports = [(f"input{k}", intake.given(node, k)) for k in range(len(node.inputs))]
    total = intake.step(node, "add", ports, mark=".sum")
    intake.add(node, "affine", [("input", total), ("a", intake.factor(node, 1 / len(ports)))], {"bias": ""})


def _concat(intake: Intake, node: Node) -> None:
    ports = [(f"input{k}", intake.given(node, k)) for k in range(len(node.inputs))]
    intake.add(node, "concat", ports, {"axis": node.take("axis")})


def _dropout(intake: Intake, node: Node) -> None:
    ratio = float(str(np.float32(intake.constant(node, 1).reshape(-1)[0] if intake.has(node, 1) else 0.5)))
    if ratio and intake.has(node, 2) and intake.constant(node, 2).any():
        raise node.refuse("input training_mode is true", "a model is read as it is evaluated")
    node.take("seed")
    _plain(intake, node, "dropout", {"rate": ratio})


def _sub(intake: Intake, node: Node) -> None:
    """What is taken away is added with its sign turned: as another constant, or times -1."""
    if intake.is_constant(node, 1):
        shift(intake, node, 1, intake.given(node), -intake.constant(node, 1), "negative", mark="")
        return
    negative = _times(intake, node, intake.given(node, 1), -1.0, ".negative")
    if intake.is_constant(node, 0):
        shift(intake, node, 0, negative, intake.constant(node, 0), mark="")
        return
    intake.add(node, "add", [("input0", intake.given(node)), ("input1", negative)])


_PLAIN = {"Identity": "identity", "Sigmoid": "logistic", "Tanh": "tanh", "Relu": "relu", "Softplus": "softplus"}

READ: Mapping[str, Read] = {
    **{name: partial(_plain, op=op) for name, op in _PLAIN.items()},
    "LeakyRelu": partial(_numbered, op="leaky_relu", key="slope", default=0.01),
    "Elu": partial(_numbered, op="elu", key="alpha", default=1.0),
    "Gelu": _gelu,
    "Swish": _swish,
    "Celu": _celu,
    "Selu": _selu,
    "Mish": _mish,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Softmax": _softmax,
    "PRelu": _prelu,
    "Add": partial(_joined, op="add"),
    "Sum": partial(_joined, op="add"),
    "Mul": partial(_joined, op="multiply"),
    "Sub": _sub,
    "Neg": _neg,
    "Mean": _mean,
    "Div": _div,
    "Concat": _concat,
    "Dropout": _dropout,
}
