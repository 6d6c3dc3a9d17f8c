"""An ONNX graph in the making.

In: nodes and values, op by op. Out: `Draft`, from which a model is made. Promise: the names of the graph's tensors and nodes
are kept; a parameter is named once and read when the model is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx

from dgraph.graph.node import EMPTY, Attributes, Dim, OpNode
from dgraph.kernels.call import Array


@dataclass(frozen=True)
class Kept:
    """An initializer: the tensor of the network that holds its values, and the dim that ONNX sees; or the values themselves."""

    dim: Dim
    tensor: str = ""
    values: Array | None = None


@dataclass
class Draft:
    """Nodes, initializers and functions in the order in which they were added.

    `biases` are the bias nodes that a convolution or linear node takes over, by its name; `flat` the tensors that are written
    without their spatial extents of 1.
    """

    dtype: str
    biases: Mapping[str, OpNode]
    flat: frozenset[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, Kept] = field(default_factory=dict)
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], output: str, name: str, attributes: Attributes = EMPTY,
             domain: str | None = None) -> str:  # fmt: skip
        """Adds a node of one output, and gives that. Attributes that are None are left out."""
        given: dict[str, Any] = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=name, domain=domain, **given))
        return output

    def call(self, function: onnx.FunctionProto, inputs: Sequence[str], output: str, name: str) -> str:
        """Adds a node that calls a function, and gives its output."""
        self.functions[function.name] = function
        return self.node(function.name, inputs, output, name, domain=function.domain)

    def span(self, node: OpNode, port: str) -> Dim:
        """The dim of a parameter that is repeated over a node's input, as that is written."""
        dim = node.access.dims[port]
        return dim[:2] if source(node) in self.flat and len(dim) > 1 else dim

    def parameter(self, tensor: str, dim: Dim) -> str:
        """The initializer of a parameter or state, seen with a dim of as many elements."""
        known = self.initializers.get(tensor)
        name = tensor if known is None or known.dim == dim else f"{tensor}.{'x'.join(map(str, dim))}"
        self.initializers[name] = Kept(dim, tensor)
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """The initializer of a list of integers, such as axes."""
        return self._values(name, np.array(values, np.int64))

    def numbers(self, name: str, values: Any) -> str:
        """The initializer of numbers of the network's dtype."""
        return self._values(name, np.array(values, self.dtype))

    def filled(self, name: str, value: float, dim: Dim) -> str:
        """The initializer of one number, repeated."""
        return self._values(name, np.full(dim, value, self.dtype))

    def scales(self, name: str, values: Sequence[float]) -> str:
        """The initializer of scales, which are float32 in any network."""
        return self._values(name, np.array(values, np.float32))

    def _values(self, name: str, values: Array) -> str:
        self.initializers[name] = Kept(values.shape, values=values)
        return name

    def content(self) -> tuple[list[bytes], dict[str, tuple[Dim, str, bytes]]]:
        """What a model is made of, to be compared."""
        nodes = [node.SerializeToString(deterministic=True) for node in self.nodes]
        given = {
            name: b"" if kept.values is None else kept.values.tobytes() for name, kept in self.initializers.items()
        }
        return nodes, {name: (kept.dim, kept.tensor, given[name]) for name, kept in self.initializers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        itemsize = np.dtype(self.dtype).itemsize
        return sum(prod(kept.dim) * itemsize for kept in self.initializers.values())


def source(node: OpNode, port: str = "input") -> str:
    """The tensor that a port reads."""
    return dict(node.inputs)[port]


def result(node: OpNode, port: str = "output") -> str:
    """The tensor that a port writes."""
    return dict(node.outputs)[port]


def sources(node: OpNode) -> list[str]:
    """The tensors that the ports of a family read, in order."""
    return [tensor for _, tensor in sorted(node.inputs, key=lambda pair: int(pair[0].removeprefix("input")))]
