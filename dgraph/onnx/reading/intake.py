"""A network in the making, read node by node from a model.

In: nodes and constants of a model. Out: `Intake`: specs, and the values of parameters and states. Promise: the dims of all
tensors are known as soon as they are added; names are the model's own, spelt as a config can have them, and unique.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from dgraph.error import DgraphError
from dgraph.graph.build import access_of
from dgraph.graph.node import EMPTY, Attributes, Dim, TensorNode
from dgraph.graph.spec import NodeSpec
from dgraph.kernels.call import Array
from dgraph.onnx.reading.node import Node
from dgraph.ops import OPS

Ports = Sequence[tuple[str, str]]
_OUTPUT = "output"


@dataclass
class Intake:
    """What has been read so far. `tensors` are those of the network by their names there, `names` how the model calls them.

    `constants` are values that the model knows before it runs; `values` those of parameters and states.
    """

    dtype: str
    constants: dict[str, Array]
    tensors: dict[str, TensorNode] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    specs: list[NodeSpec] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)
    _origins: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _nodes: set[str] = field(default_factory=set)

    # --- what a node reads

    def given(self, node: Node, k: int = 0) -> str:
        """The tensor that a node reads as its k-th input. Raises ConfigError for a constant."""
        name = self._input(node, k)
        if name not in self.names:
            raise node.refuse(f"input {name or k} is a constant", "it must be computed")
        return self.names[name]

    def dim(self, node: Node, k: int = 0) -> Dim:
        """The dim of a node's k-th input."""
        return self.tensors[self.given(node, k)].dim

    def is_constant(self, node: Node, k: int) -> bool:
        """Whether the k-th input is there and a constant."""
        return self._input(node, k) in self.constants

    def has(self, node: Node, k: int) -> bool:
        """Whether there is a k-th input."""
        return bool(self._input(node, k))

    def constant(self, node: Node, k: int) -> Array:
        """The values of a node's k-th input. Raises ConfigError where they are computed."""
        name = self._input(node, k)
        if name not in self.constants:
            raise node.refuse(f"input {name or k} is not a constant", "it must be an initializer")
        return self.constants[name]

    def integers(self, node: Node, k: int, default: Sequence[int] | None = None) -> list[int]:
        """The integers of a node's k-th input, such as axes."""
        if default is not None and not self.has(node, k):
            return list(default)
        return [int(value) for value in self.constant(node, k).reshape(-1)]

    def _input(self, node: Node, k: int) -> str:
        return node.inputs[k] if k < len(node.inputs) else ""

    # --- what it becomes

    def parameter(self, node: Node, k: int, values: Array, how: str = "") -> str:
        """The parameter that holds a node's k-th input, seen as `values` and changed as `how` says: the same for all who see it
        so."""
        given = node.inputs[k]
        origin = f"{given} {list(values.shape)} {how}"
        if origin not in self._origins:
            self._origins[origin] = self.unique(given)
        name = self._origins[origin]
        self.values[name] = np.asarray(values, self.dtype)
        return name

    def factor(self, node: Node, value: float) -> str:
        """A parameter of one number that the model does not name."""
        name = self.unique(f"{self.base(node)}.a")
        self.values[name] = np.array([value], self.dtype)
        return name

    def feed(self, spec: NodeSpec, given: str, port: str) -> None:
        """Adds a node that has no inputs; `given` is what the model calls the tensor of its port."""
        self._nodes.add(spec.name)
        self._taken |= {tensor for _, tensor in spec.outputs}
        self._add(spec, {given: port})

    def step(self, node: Node, op: str, inputs: Ports, attributes: Attributes = EMPTY, mark: str = "") -> str:
        """Adds one of several nodes that stand for a node of the model, named after it and a mark; gives the tensor that it
        writes."""
        name = _free(f"{self.base(node)}{mark}", self._nodes)
        outputs = self._outputs(name, op, {})
        return self._added(node, NodeSpec(name, op, tuple(inputs), outputs, _plain(attributes)), {})

    def add(self, node: Node, op: str, inputs: Ports, attributes: Attributes = EMPTY, mark: str = "",
            output: int = 0) -> str:  # fmt: skip
        """The same with the last or only one of them, which writes an output of the node: the first, or all one by one.

        Raises ConfigError, naming the node, for what the op does not take.
        """
        name = _free(f"{self.base(node)}{mark}", self._nodes)
        written, node.results = node.outputs[output], output + 1
        outputs = self._outputs(name, op, {_OUTPUT: written})
        spec = NodeSpec(name, op, tuple(inputs), outputs, _plain(attributes))
        return self._added(node, spec, {written: _OUTPUT})

    def _outputs(self, name: str, op: str, wanted: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The tensors that a node writes, where they are not called as usual."""
        usual = {port: f"{name}.{port}" for port in OPS[op].outputs}
        found = {port: self.unique(wanted.get(port, tensor)) for port, tensor in usual.items()}
        return tuple((port, tensor) for port, tensor in found.items() if tensor != usual[port])

    def _added(self, node: Node, spec: NodeSpec, written: Mapping[str, str]) -> str:
        try:
            return self._add(spec, written)
        except DgraphError as error:
            raise node.refuse(error.what, error.hint) from None

    def _add(self, spec: NodeSpec, written: Mapping[str, str]) -> str:
        op = OPS[spec.op]
        access, _ = access_of(spec, op, self.tensors)
        for port, name in spec.inputs:
            if (port in op.parameters or port in op.states) and self.values[name].shape != access.dims[port]:
                what = f"{port} {name} of dim {list(self.values[name].shape)} does not fit"
                raise DgraphError(what, f"wanted is {list(access.dims[port])}")
        own = dict(spec.outputs)
        tensors = {port: own.get(port, f"{spec.name}.{port}") for port in op.outputs}
        for port, name in tensors.items():
            self.tensors[name] = TensorNode(name, access.dims[port], "activation")
        for name, port in written.items():
            self.names[name] = tensors[port]
        self.specs.append(spec)
        return tensors.get(_OUTPUT, next(iter(tensors.values())))

    # --- names

    def base(self, node: Node) -> str:
        """The name of a node, spelt as a config can have it; that of its output where it has none."""
        return spelt(node.name or node.outputs[0].removesuffix(f".{_OUTPUT}") or node.op.lower())

    def unique(self, name: str) -> str:
        """A name for a tensor: this, or one like it that is not taken yet; takes it."""
        return _free(name, self._taken)


def _free(name: str, taken: set[str]) -> str:
    plain = spelt(name)
    found, count = plain, 1
    while found in taken:
        count += 1
        found = f"{plain}_{count}"
    taken.add(found)
    return found


def _plain(attributes: Attributes) -> Attributes:
    return MappingProxyType(dict(attributes))


def spelt(name: str) -> str:
    """A name as a config can have it: letters, digits and _ . -, the first a letter or _."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.strip("/"))
    return plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"
