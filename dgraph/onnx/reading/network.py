"""All of a model as a network.

In: a `Model`. Out: `Network`: specs, values, what goes in and what comes out. Promise: what is not supported is a ConfigError
that names the node, its op and what of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx

from dgraph.error import ConfigError
from dgraph.graph.node import EMPTY, Dim
from dgraph.graph.spec import NodeSpec
from dgraph.kernels.call import Array
from dgraph.onnx.reading import function, norm, pointwise, shape, window
from dgraph.onnx.reading.file import Input, Model, tensor_values
from dgraph.onnx.reading.fold import FOLDED, folded
from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node

_READ: Mapping[str, Callable[[Intake, Node], None]] = {**window.READ, **pointwise.READ, **shape.READ, **norm.READ}
_STANDARD = ("", "ai.onnx")
_REAL = ("float32", "float64")
LONGEST = 1 << 40
"""More elements than any tensor has."""
_NUMBERS = {
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}


@dataclass(frozen=True)
class Network:
    """A network read from a model: its forward nodes in order, the values of parameters and states, and what the model calls
    its inputs and outputs -> tensors of the network."""

    dtype: str
    specs: tuple[NodeSpec, ...]
    values: Mapping[str, Array]
    dims: Mapping[str, Dim]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


Feed = Callable[[Input, Dim], tuple[NodeSpec, str]]
"""The node that gives a model's input of that dim, and which of its ports does."""


def read_network(model: Model, path: Path, feed: Feed, batch: int, given: Mapping[str, Array] = EMPTY) -> Network:
    """The network of a model.

    Parameters
    ----------
    feed : what gives an input.
    batch : the extent that a model leaves open in the first dimension.
    given : values of inputs that are known before the network runs, such as shapes.
    """
    nodes = [Node(proto, number, model.opset, path) for number, proto in enumerate(model.nodes)]
    for node in nodes:
        if _reader(node, model) is None and (node.domain not in _STANDARD or node.op not in FOLDED):
            raise _unknown(node)
    free = [one for one in model.inputs if one.name not in given]
    dtype = _dtype(free, path)
    intake = Intake(dtype, {**model.initializers, **given})
    for one in free:
        spec, port = feed(one, _dim(one, batch, path))
        intake.feed(spec, one.name, port)
    inputs = dict(intake.names)
    wanted = {*model.outputs, *(name for node in nodes for name in node.inputs)}
    for node, proto in zip(nodes, model.nodes, strict=True):
        _read(intake, node, proto, model, wanted)
    for name in model.outputs:
        if name not in intake.names:
            raise ConfigError(f"{path}: output {name} is a constant", "it depends on no input")
    dims = {name: tensor.dim for name, tensor in intake.tensors.items()}
    outputs = {name: intake.names[name] for name in model.outputs}
    return Network(dtype, tuple(intake.specs), intake.values, dims, inputs, outputs)


def _read(intake: Intake, node: Node, proto: onnx.NodeProto, model: Model, wanted: Container[str]) -> None:
    if node.domain in _STANDARD:
        value = _constant(node) if node.op == "Constant" else folded(intake, node, proto)
        if value is not None:
            intake.constants[node.outputs[0]] = value
            return
    reader = _reader(node, model)
    if reader is None:
        raise _unknown(node)
    reader(intake, node)
    node.finish(wanted)


def _reader(node: Node, model: Model) -> Callable[[Intake, Node], None] | None:
    """What reads a node whose result must be computed; None if nothing does."""
    if function.is_own(node, model.functions):
        return function.READ[node.op]
    return _READ.get(node.op) if node.domain in _STANDARD else None


def _unknown(node: Node) -> ConfigError:
    domain = f" of domain {node.domain}" if node.domain not in _STANDARD else ""
    return node.refuse(f"dgraph has no op {node.op}{domain}")


def _constant(node: Node) -> Array:
    value = node.take("value")
    if value is not None:
        return tensor_values(value, node.path)
    for key, dtype in _NUMBERS.items():
        value = node.take(key)
        if value is not None:
            return np.array(value, dtype)
    raise node.refuse("a constant of another kind", f"supported: value, {', '.join(_NUMBERS)}")


def _dtype(inputs: list[Input], path: Path) -> str:
    """The one dtype of all inputs."""
    dtypes = sorted({one.dtype for one in inputs})
    odd = next((one for one in inputs if one.dtype not in _REAL), None)
    if odd is not None:
        raise ConfigError(f"{path}: input {odd.name} is of type {odd.dtype}", f"supported are {' and '.join(_REAL)}")
    if len(dtypes) != 1:
        what = f"inputs of types {' and '.join(dtypes)}" if dtypes else "no input of real numbers"
        raise ConfigError(f"{path}: {what}", f"one type for all, {' or '.join(_REAL)}, is needed")
    return dtypes[0]


def _dim(one: Input, batch: int, path: Path) -> Dim:
    dim = tuple(batch if d == 0 and n is None else n for d, n in enumerate(one.dims))
    if not dim or None in dim:
        shown = ", ".join("?" if n is None else str(n) for n in dim)
        raise ConfigError(f"{path}: input {one.name} has dim [{shown}]", "only the first extent may be open")
    known = tuple(n for n in dim if n is not None)
    if min(known) < 1 or prod(known) > LONGEST:
        raise ConfigError(
            f"{path}: input {one.name} has dim {list(known)}", "every extent is at least 1, and not too large"
        )
    return known
