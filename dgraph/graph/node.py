"""The nodes of a graph and the contract of an op.

In: names, dims, attributes. Out: `OpNode`, `TensorNode`, `Graph` (frozen), and `Op`, the record by which an op family
describes itself. Promise: nothing here knows of ranks, arrays or YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dgraph.graph.access import Map, Space

Dim = tuple[int, ...]
Attributes = Mapping[str, Any]
EMPTY: Mapping[str, Any] = MappingProxyType({})


REQUIRED = object()


def family(port: str) -> str:
    """The port of an op's record that a node's port belongs to: `input1.delta` -> `input`."""
    return port.removesuffix(".delta").rstrip("0123456789")


@dataclass(frozen=True)
class Attribute:
    """One attribute of an op: `read(value, spatial)` checks and normalises it (`spatial`: how many spatial
    dimensions), raising ValueError with what it wants instead."""

    read: Callable[[Any, int], Any]
    default: Any = REQUIRED


@dataclass(frozen=True)
class Access:
    """What an op touches: its iteration space, one map a port, and the dim of every operand."""

    space: Space
    maps: Mapping[str, Map]
    dims: Mapping[str, Dim]


@dataclass(frozen=True)
class Gradient:
    """How an op's gradient op is made: which operands it reads again, for which inputs it writes a delta, and from
    the deltas of which outputs. `only` names operands that are read for the delta of one input alone."""

    reads: tuple[str, ...]
    of: tuple[str, ...]
    by: tuple[str, ...] = ("output",)
    only: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class State:
    """A tensor that training follows but no gradient changes, such as a running mean: after every training step it becomes
    `(1 - momentum) * state + momentum * result`.

    `follows` is the result's port, `initial` the first value. `numbers(attributes, access)` gives `momentum`, and, where the result
    is the mean square of a sample from which that of the population is estimated (Bessel's correction), of how many `elements` in a
    full batch (else 1), and whether they are fewer where a batch has fewer samples (`by_sample`).
    """

    follows: str
    numbers: Callable[[Attributes, Access], Mapping[str, Any]]
    initial: float = 0.0


@dataclass(frozen=True)
class Op:
    """One op, as data. Adding an op is one such record in `dgraph.ops` and its kernels.

    `access(attributes, dims)` gets the dims of the data inputs and gives space, maps and the dims of all ports
    (raising ConfigError for shapes that do not fit); `cuts` names what a split may cut: the user's letter -> a label, or a pair
    (outer, inner) where a dimension is `outer * extent(inner) + inner`; labels in `uncut` may never be cut, with the
    reason why; `many` are input ports that stand for a family `port0, port1, ...`; `states` are input ports joined to tensors
    that training follows; `proportional`: cuts follow an input in proportion where a label is longer than the input's
    dimension; `attributes` gives every attribute's check and default (see `dgraph.ops.attribute`); `domain` is what
    its input must hold, where not every number will do; `flops` is the arithmetic
    of one point of the iteration space; `traced` are the lines of a trace: (key, port), and `shown` the names of ports in
    it where they are not the ports' own.
    """

    name: str
    access: Callable[[Attributes, Mapping[str, Dim]], Access]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("output",)
    parameters: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    variadic: tuple[str, ...] = ()
    many: tuple[str, ...] = ()
    states: Mapping[str, State] = field(default_factory=lambda: EMPTY)
    proportional: bool = False
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: EMPTY)
    cuts: Callable[[Access], Mapping[str, str | tuple[str, str]]] = lambda access: {
        name.upper(): name for name in access.space.labels
    }
    uncut: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    gradient: Gradient | None = None
    loss: str | None = None
    domain: str = ""
    flops: int = 1
    traced: tuple[tuple[str, str], ...] = (("result_dim", "output"), ("dist_result", "output"))
    traced_gradient: tuple[tuple[str, str], ...] | None = None
    shown: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class Split:
    """Which mesh axes cut one label: a list of axes (the first the slowest), with sizes where they are not balanced."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OpNode:
    """An op at work: its ports joined to tensors. `kind` is forward, gradient, zero, measure or update.

    A gradient node shares op, space, maps and attributes with its forward node; its ports are the operands that it
    reads again, `<port>.delta` of the results (read) and `<port>.delta` of the inputs (written).
    """

    name: str
    op: str
    kind: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    access: Access
    attributes: Attributes = field(default_factory=lambda: EMPTY)
    split: Mapping[str, Split] | None = None
    pieces: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    forward: str | None = None

    def port_map(self, port: str) -> Map:
        """The access map of a port; `<port>.delta` has that of `<port>`."""
        return self.access.maps[port.removesuffix(".delta")]


@dataclass(frozen=True)
class TensorNode:
    """A tensor: `role` is data, activation, parameter, state (see `State`), gradient, seed (a constant gradient of a loss) or norms
    (a few numbers of every parameter, which updates read)."""

    name: str
    dim: Dim
    role: str
    of: str | None = None
    attributes: Attributes = field(default_factory=lambda: EMPTY)

    @property
    def accumulates(self) -> bool:
        """Whether it is set to zero first, and everything that is written adds up."""
        return self.role in ("gradient", "norms")


@dataclass(frozen=True)
class Graph:
    """Ops in dependency order, and the tensors between them, by name."""

    name: str
    ops: Mapping[str, OpNode]
    tensors: Mapping[str, TensorNode]
    writers: Mapping[str, tuple[tuple[str, str], ...]] = field(init=False)
    readers: Mapping[str, tuple[tuple[str, str], ...]] = field(init=False)

    def __post_init__(self) -> None:
        writers: dict[str, list[tuple[str, str]]] = {name: [] for name in self.tensors}
        readers: dict[str, list[tuple[str, str]]] = {name: [] for name in self.tensors}
        for op in self.ops.values():
            for port, tensor in op.inputs:
                readers[tensor].append((op.name, port))
            for port, tensor in op.outputs:
                writers[tensor].append((op.name, port))
        object.__setattr__(self, "writers", {k: tuple(v) for k, v in writers.items()})
        object.__setattr__(self, "readers", {k: tuple(v) for k, v in readers.items()})

    @property
    def parameters(self) -> tuple[TensorNode, ...]:
        return tuple(t for t in self.tensors.values() if t.role == "parameter")

    @property
    def kept(self) -> tuple[TensorNode, ...]:
        """What lasts from step to step: parameters and states."""
        return tuple(t for t in self.tensors.values() if t.role in ("parameter", "state"))
