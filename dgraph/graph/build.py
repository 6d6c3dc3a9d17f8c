"""Specs -> graph: shapes, ports and order of the forward nodes.

In: node and parameter specs, the table of ops. Out: a `Graph` of forward ops and their tensors. Promise: every port is joined,
every dim is known, ops stand in dependency order; whatever does not fit raises ConfigError at the node's place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any

from dgraph.error import ConfigError, DgraphError
from dgraph.graph.node import EMPTY, REQUIRED, Access, Dim, Graph, Op, OpNode, State, TensorNode, family
from dgraph.graph.spec import NodeSpec, ParameterSpec

_LISTED = 15
_OUTPUT_NAMES = {"raw_data": "raw_output", "labels": "labels_output"}


def build_graph(name: str, specs: Sequence[NodeSpec], parameters: Sequence[ParameterSpec],
                table: Mapping[str, Op]) -> Graph:  # fmt: skip
    """The forward graph of `specs`, in which tensors that no node writes are parameters.

    Raises ConfigError, with the place of the node, for unknown ops, ports, tensors and attributes, for shapes that do not fit,
    cycles, names used twice, and parameters that no node reads.
    """
    specs = [_numbered(spec, table[spec.op]) if spec.op in table else spec for spec in specs]
    declared = {parameter.name: parameter for parameter in parameters}
    ops: dict[str, OpNode] = {}
    tensors: dict[str, TensorNode] = {}
    outputs = _name_outputs(specs, table)
    for spec in _in_order(specs, outputs):
        try:
            _add_node(spec, outputs[spec.name], table[spec.op], declared, ops, tensors)
        except DgraphError as error:
            error.what = f"node {spec.name}: {error.what}"
            raise (error.at(spec.place) if spec.place else error).about(spec.name) from None
    _check_parameters(declared, tensors)
    return Graph(name, MappingProxyType(ops), MappingProxyType(tensors))


def specs_of(graph: Graph) -> tuple[tuple[NodeSpec, ...], tuple[ParameterSpec, ...]]:
    """The specs that give a forward graph again: every name, port and attribute spelt out."""
    nodes = tuple(
        NodeSpec(
            node.name,
            node.op,
            node.inputs,
            node.outputs,
            MappingProxyType({key: value for key, value in node.attributes.items() if value is not None}),
            node.split,
            node.pieces,
        )
        for node in graph.ops.values()
    )
    parameters = tuple(
        ParameterSpec(
            p.name, *(p.attributes[key] for key in ("init", "update", "update_split", "shard", "rate", "penalty"))
        )
        for p in graph.parameters
    )
    return nodes, parameters


def closest(word: str, words: Iterable[str]) -> str:
    """A hint: the nearest of `words`, or all of them where they are few."""
    known = sorted(words)
    near = difflib.get_close_matches(word, known, 1) or [one for one in known if len(one) > 2 and word.startswith(one)]
    if near:
        return f"did you mean {near[0]}?"
    return f"known are: {', '.join(known)}" if len(known) <= _LISTED else "no known name is like it"


def _numbered(spec: NodeSpec, op: Op) -> NodeSpec:
    """The spec with the ports of a family by number: `input: [a, b]` becomes `input0: a, input1: b`."""
    if not any(port in op.many for port, _ in spec.inputs):
        return spec
    counts = dict.fromkeys(op.many, 0)
    inputs = []
    for port, tensor in spec.inputs:
        inputs.append((f"{port}{counts[port]}" if port in counts else port, tensor))
        if port in counts:
            counts[port] += 1
    return replace(spec, inputs=tuple(inputs))


def _name_outputs(specs: Sequence[NodeSpec], table: Mapping[str, Op]) -> dict[str, dict[str, str]]:
    """Port -> tensor of every node's outputs; names are unique."""
    outputs: dict[str, dict[str, str]] = {}
    owner: dict[str, str] = {}
    for spec in specs:
        if spec.name in outputs:
            raise ConfigError(f"node {spec.name} is declared twice", "names are unique", spec.place)
        if spec.op not in table:
            raise ConfigError(f"node {spec.name}: unknown op {spec.op}", closest(spec.op, table), spec.place).about(
                spec.name, "op"
            )
        given = dict(spec.outputs)
        ports = table[spec.op].outputs
        for port in given:
            if port not in ports:
                raise ConfigError(
                    f"node {spec.name}: {spec.op} has no output port {port}",
                    closest(port, ports or ["none"]),
                    spec.place,
                ).about(spec.name, f"outputs.{port}")
        outputs[spec.name] = {port: given.get(port, f"{spec.name}.{_OUTPUT_NAMES.get(port, port)}") for port in ports}
        for port, tensor in outputs[spec.name].items():
            if tensor in owner:
                raise ConfigError(
                    f"tensor {tensor} is written by {owner[tensor]} and by {spec.name}",
                    "one writer a tensor",
                    spec.place,
                ).about(spec.name, f"outputs.{port}")
            owner[tensor] = spec.name
    return outputs


def _in_order(specs: Sequence[NodeSpec], outputs: Mapping[str, Mapping[str, str]]) -> list[NodeSpec]:
    """The specs in dependency order, as declared where that leaves a choice."""
    writer = {tensor: name for name, ports in outputs.items() for tensor in ports.values()}
    by_name = {spec.name: spec for spec in specs}
    sorter = TopologicalSorter(
        {spec.name: [writer[tensor] for _, tensor in spec.inputs if tensor in writer] for spec in specs}
    )
    position = {spec.name: k for k, spec in enumerate(specs)}
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1]
        raise ConfigError(
            f"nodes wait for each other: {' -> '.join(reversed(cycle))}",
            "a graph has no cycles",
            by_name[cycle[0]].place,
        ).about(cycle[0], "inputs") from None
    order: list[NodeSpec] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted({*ready, *sorter.get_ready()}, key=position.__getitem__)
        sorter.done(first := ready.pop(0))
        order.append(by_name[first])
    return order


def _attributes(spec: NodeSpec, op: Op, spatial: int) -> Mapping[str, Any]:
    """The attributes of a node, checked, normalised and complete."""
    for key in spec.attributes:
        if key not in op.attributes:
            raise ConfigError(f"{op.name} has no attribute {key}", closest(key, op.attributes or ["none"])).about(
                spec.name, f"attributes.{key}"
            )
    values: dict[str, Any] = {}
    for key, attribute in op.attributes.items():
        value = spec.attributes.get(key, attribute.default)
        if value is REQUIRED:
            raise ConfigError(f"{op.name} needs the attribute {key}").about(spec.name, "attributes")
        try:
            values[key] = attribute.read(value, spatial)
        except ValueError as error:
            what = f"attribute {key} of {op.name} must be {error}"
            raise ConfigError(what, f"not {_shown(value)}").about(spec.name, f"attributes.{key}") from None
    return MappingProxyType(values)


def _check_ports(spec: NodeSpec, op: Op) -> None:
    ports = [port for port, _ in spec.inputs]
    known = {*op.inputs} - {*op.many}
    for port in ports:
        if port not in known and (family(port) not in op.many or port == family(port)):
            what = f"{op.name} has no input port {port}"
            raise ConfigError(what, closest(port, op.inputs or ["none"])).about(spec.name, f"inputs.{port}")
        if ports.count(port) > 1 and port not in op.variadic:
            raise ConfigError(f"port {port} of {op.name} takes one tensor").about(spec.name, f"inputs.{port}")
    _check_families(spec, op, ports)
    for port in op.inputs:
        if port not in ports and port not in op.optional and port not in op.many:
            raise ConfigError(f"port {port} of {op.name} is not joined to a tensor").about(spec.name, "inputs")


def _check_families(spec: NodeSpec, op: Op, ports: Sequence[str]) -> None:
    """The ports of a family are numbered from 0, without gaps."""
    for name in op.many:
        members = sorted(int(port[len(name) :]) for port in ports if family(port) == name)
        if members != list(range(len(members))) or not members:
            what = f"{op.name} takes the ports {name}0, {name}1, ..."
            raise ConfigError(what, f"not {', '.join(ports) or 'none'}").about(spec.name, "inputs")


def access_of(spec: NodeSpec, op: Op, tensors: Mapping[str, TensorNode]) -> tuple[Access, Mapping[str, Any]]:
    """What a node touches, given the tensors before it, and its attributes, complete. Raises as `build_graph`."""
    dims: dict[str, Dim] = {}
    for port, tensor in spec.inputs:
        if port in op.parameters or port in op.states or port in op.variadic:
            continue
        if tensor not in tensors:
            raise _no_tensor(spec, port, tensor, tensors)
        dims[port] = tensors[tensor].dim
    spatial = len(next(iter(dims.values()))) - 2 if dims else 0
    attributes = _attributes(spec, op, spatial)
    try:
        return op.access(attributes, dims), attributes
    except DgraphError as error:
        error.what = _with_tensors(error.what, spec)
        raise error.about(spec.name, "attributes") from None


def _with_tensors(what: str, spec: NodeSpec) -> str:
    """A fault with the tensors that are joined to numbered ports in place of the ports."""
    joined = dict(spec.inputs)
    return re.sub(r"\b[a-z_]+[0-9]+\b", lambda found: joined.get(found[0], found[0]), what)


def _no_tensor(spec: NodeSpec, port: str, tensor: str, tensors: Mapping[str, TensorNode]) -> DgraphError:
    what = f"port {port}: there is no tensor {tensor}"
    return ConfigError(what, closest(tensor, tensors or ["none"])).about(spec.name, f"inputs.{port}")


def _shown(value: Any) -> str:
    """A value as YAML has it, in flow style."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _add_node(spec: NodeSpec, outputs: Mapping[str, str], op: Op, declared: Mapping[str, ParameterSpec],
              ops: dict[str, OpNode], tensors: dict[str, TensorNode]) -> None:  # fmt: skip
    _check_ports(spec, op)
    access, attributes = access_of(spec, op, tensors)
    for port, tensor in spec.inputs:
        if port in op.parameters:
            _add_parameter(spec, tensor, access.dims[port], port, declared, tensors)
        elif port in op.states:
            _add_state(spec, tensor, access.dims[port], op.states[port], tensors)
        elif tensor not in tensors and tensor not in declared:
            raise _no_tensor(spec, port, tensor, tensors)
    role = "activation" if op.inputs else "data"
    for port, tensor in outputs.items():
        tensors[tensor] = TensorNode(tensor, access.dims[port], role)
    ops[spec.name] = OpNode(
        name=spec.name,
        op=op.name,
        kind="forward",
        inputs=spec.inputs,
        outputs=tuple(outputs.items()),
        access=access,
        attributes=attributes,
        split=spec.split,
        pieces=spec.pieces,
    )


def _add_parameter(reader: NodeSpec, name: str, dim: Dim, port: str, declared: Mapping[str, ParameterSpec],
                   tensors: dict[str, TensorNode]) -> None:  # fmt: skip
    known = tensors.get(name)
    if known is not None:
        if known.dim != dim:
            raise ConfigError(
                f"{port}: {name} has dim {list(known.dim)}, here {list(dim)} is needed",
                "shared parameters have one dim",
            ).about(reader.name, f"inputs.{port}")
        return
    spec = declared.get(name, ParameterSpec(name))
    attributes = MappingProxyType(
        {
            "init": spec.init or MappingProxyType({"xavier": EMPTY}),
            "update": spec.update or f"update_{name}",
            "update_split": spec.update_split,
            "shard": spec.shard,
            "rate": spec.rate,
            "penalty": spec.penalty,
            "port": port,
        }
    )
    tensors[name] = TensorNode(name, dim, "parameter", attributes=attributes)


def _add_state(reader: NodeSpec, name: str, dim: Dim, state: State, tensors: dict[str, TensorNode]) -> None:
    if name in tensors:
        what = f"{name} is joined to two nodes"
        raise ConfigError(what, "a state follows the results of one node").about(reader.name, "inputs")
    init = MappingProxyType({"constant": MappingProxyType({"value": state.initial})})
    attributes = MappingProxyType({"init": init, "update": f"update_{name}", "update_split": None, "shard": False})
    tensors[name] = TensorNode(name, dim, "state", attributes=attributes)


def _check_parameters(declared: Mapping[str, ParameterSpec], tensors: Mapping[str, TensorNode]) -> None:
    for spec in declared.values():
        node = tensors.get(spec.name)
        if node is None or node.role != "parameter":
            known = [t.name for t in tensors.values() if t.role == "parameter"]
            raise ConfigError(
                f"no node reads the parameter {spec.name}", closest(spec.name, known or ["none"]), spec.place
            ).about(spec.name)
