"""Forward graph -> training graph: gradient, zeroing, measure and update nodes.

In: a forward graph. Out: a larger graph, in dependency order: forward, zeroing, gradient (in reverse), measure, update. Promise:
every parameter that a loss depends on has an update node; nothing is computed for tensors that no parameter stands behind.

    x --> [op] --> y             y.grad --> [op.grad] --> x.grad     the gradient op has the maps of its op,
    w -->                             x, w -->       --> w.grad      read and written the other way round

    w.grad --> [gradient_norm_w] --> gradient.norms (a row of it) --> [update_w], and all others     where updates need norms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dgraph.error import ConfigError
from dgraph.graph.fan import is_weight
from dgraph.graph.node import EMPTY, Graph, Op, OpNode, State, TensorNode, family
from dgraph.ops.frame import measure_access, update_access, zero_access


def add_gradients(graph: Graph, table: Mapping[str, Op], norms: Mapping[str, int] = EMPTY) -> Graph:
    """The training graph of a forward graph with at least one loss. `norms`: what updates need to be measured before, `gradient` or
    `step`, in this order, and how many numbers of each parameter.

    Raises ConfigError where there is no loss, where a loss depends on a parameter through something that has no
    gradient, and where a parameter is not reached.
    """
    wanted = _depend_on_parameters(graph, table)
    _refuse_blocks(graph, table, wanted)
    gradients: dict[str, TensorNode] = {}
    backward: list[OpNode] = []
    for op in reversed(tuple(graph.ops.values())):
        node = _gradient_node(op, table[op.op], graph, wanted, gradients)
        if node is not None:
            backward.append(node)
    if not backward:
        raise ConfigError("nothing to train: no loss depends on a parameter", "add a softmax layer")
    measured = _norm_tensors(graph, norms)
    zeros = [_zero_node(tensor) for tensor in (*gradients.values(), *measured.values())]
    backward += _measure_nodes(graph, gradients, measured)
    # In the order in which their gradients are there, so that the last of them may travel behind the first updates.
    written = {tensor: place for place, op in enumerate(backward) for _, tensor in op.outputs}
    updates = [_update_node(graph, row, gradients, measured) for row in range(len(graph.parameters))]
    updates.sort(key=lambda node: written[node.inputs[0][1]])
    updates += [
        _follow_node(op, tensor, table[op.op].states[port])
        for op in graph.ops.values()
        for port, tensor in op.inputs
        if port in table[op.op].states
    ]
    ops = {op.name: op for op in (*graph.ops.values(), *zeros, *backward, *updates)}
    _check_names([op.name for op in (*graph.ops.values(), *zeros, *backward, *updates)])
    tensors = {**graph.tensors, **gradients, **{tensor.name: tensor for tensor in measured.values()}}
    return Graph(graph.name, MappingProxyType(ops), MappingProxyType(tensors))


def _check_names(names: Sequence[str]) -> None:
    """Raises at a name that stands twice: that of a declared node and of one that was added, or of two update nodes."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"node {name} has the name of a gradient, zeroing or update node", "rename it").about(
                name
            )
        seen.add(name)


def _depend_on_parameters(graph: Graph, table: Mapping[str, Op]) -> set[str]:
    """The tensors whose gradient leads to a parameter."""
    wanted = {parameter.name for parameter in graph.parameters}
    for op in graph.ops.values():
        rule = table[op.op].gradient
        if rule and any(family(port) in rule.of and tensor in wanted for port, tensor in op.inputs):
            wanted.update(tensor for _, tensor in op.outputs)
    return wanted


def _refuse_blocks(graph: Graph, table: Mapping[str, Op], wanted: set[str]) -> None:
    """Raises at an op without a gradient that stands between a parameter and a loss."""
    leading: set[str] = set()
    for op in reversed(tuple(graph.ops.values())):
        record = table[op.op]
        rule = record.gradient
        if record.loss is None and not any(tensor in leading for _, tensor in op.outputs):
            continue
        if rule is None and any(tensor in wanted for _, tensor in op.inputs):
            what = f"node {op.name}: {op.op} has no gradient"
            raise ConfigError(what, "a loss depends on parameters through it").about(op.name)
        leading.update(tensor for port, tensor in op.inputs if rule is None or family(port) in rule.of)


def _gradient_of(tensor: str, graph: Graph, gradients: dict[str, TensorNode], role: str) -> str:
    name = f"{tensor}.grad"
    if name in graph.tensors:
        writer = graph.writers[name][0][0] if graph.writers[name] else name
        raise ConfigError(f"tensor {name} has the name of the gradient of {tensor}", "rename it").about(
            writer, "outputs"
        )
    gradients.setdefault(name, TensorNode(name, graph.tensors[tensor].dim, role, of=tensor))
    return name


def _gradient_node(op: OpNode, record: Op, graph: Graph, wanted: set[str],
                   gradients: dict[str, TensorNode]) -> OpNode | None:  # fmt: skip
    """The gradient op of `op`, or None where no delta arrives or none is wanted; adds the gradient tensors it writes."""
    rule = record.gradient
    if rule is None or not any(family(port) in rule.of and tensor in wanted for port, tensor in op.inputs):
        return None
    ports = dict(op.outputs)
    blocked = [tensor for port, tensor in op.outputs if port not in rule.by and f"{tensor}.grad" in gradients]
    if blocked:
        what = f"node {op.name}: no gradient goes back through {blocked[0]}"
        raise ConfigError(what, f"only through {', '.join(rule.by)}").about(op.name)
    if record.loss is not None:
        if f"{ports[record.loss]}.grad" in gradients:
            what = f"node {op.name}: its loss feeds another op"
            raise ConfigError(what, "the gradient of a loss is the constant 1").about(op.name)
        _gradient_of(ports[record.loss], graph, gradients, "seed")
    deltas = [(f"{port}.delta", f"{ports[port]}.grad") for port in rule.by if f"{ports[port]}.grad" in gradients]
    if not deltas:
        return None
    writes = [
        (f"{port}.delta", _gradient_of(tensor, graph, gradients, "gradient"))
        for kind in rule.of
        for port, tensor in op.inputs
        if family(port) == kind and tensor in wanted
    ]
    written = {port.removesuffix(".delta") for port, _ in writes}
    needed = {port for port in rule.reads if rule.only.get(port, port) in written or port not in rule.only}
    reads = [(port, tensor) for port, tensor in (*op.inputs, *op.outputs) if {port, family(port)} & needed]
    return OpNode(
        name=f"{op.name}.grad",
        op=op.op,
        kind="gradient",
        inputs=(*deltas, *reads),
        outputs=tuple(writes),
        access=op.access,
        attributes=op.attributes,
        split=op.split,
        pieces=op.pieces,
        forward=op.name,
    )


def _zero_node(tensor: TensorNode) -> OpNode:
    return OpNode(
        name=f"{tensor.name}.set_zero",
        op="zero",
        kind="zero",
        inputs=(),
        outputs=(("output", tensor.name),),
        access=zero_access({}, {"output": tensor.dim}),
    )


def _norm_tensors(graph: Graph, norms: Mapping[str, int]) -> dict[str, TensorNode]:
    """Stage -> tensor [parameters, numbers], one row for each."""
    found = {}
    for stage, columns in norms.items():
        name = f"{stage}.norms"
        if name in graph.tensors or f"{name}.grad" in graph.tensors:
            writer = graph.writers.get(name) or ((name, ""),)
            raise ConfigError(f"tensor {name} has the name of the norms of updates", "rename it").about(writer[0][0])
        found[stage] = TensorNode(name, (len(graph.parameters), columns), "norms")
    return found


def _measure_nodes(graph: Graph, gradients: Mapping[str, TensorNode], norms: Mapping[str, TensorNode]) -> list[OpNode]:
    """What finds the norms of every parameter, stage by stage; a stage may read those before it."""
    nodes, before = [], dict[str, TensorNode]()
    for stage, tensor in norms.items():
        for row, parameter in enumerate(graph.parameters):
            gradient = f"{parameter.name}.grad"
            if gradient not in gradients:
                continue
            attributes = {"row": row, "stage": stage, "parameter": parameter.name}
            dims = {"gradient": parameter.dim, "norms": tensor.dim, **{port: one.dim for port, one in before.items()}}
            nodes.append(
                OpNode(
                    name=f"{stage}_norm_{parameter.name}",
                    op="measure",
                    kind="measure",
                    inputs=(("gradient", gradient), *((port, one.name) for port, one in before.items())),
                    outputs=(("norms", tensor.name),),
                    access=measure_access(attributes, dims),
                    attributes=MappingProxyType(attributes),
                )
            )
        before[f"{stage}_norms"] = tensor
    return nodes


def _update_node(graph: Graph, row: int, gradients: Mapping[str, TensorNode],
                 norms: Mapping[str, TensorNode]) -> OpNode:  # fmt: skip
    parameter = graph.parameters[row]
    gradient = f"{parameter.name}.grad"
    if gradient not in gradients:
        raise ConfigError(
            f"parameter {parameter.name} has no part in a loss", "remove its node, or add a loss behind it"
        ).about(parameter.name)
    return OpNode(
        name=parameter.attributes["update"],
        op="update",
        kind="update",
        inputs=(("gradient", gradient), *((f"{stage}_norms", tensor.name) for stage, tensor in norms.items())),
        outputs=(("output", parameter.name),),
        access=update_access(
            {}, {"gradient": parameter.dim, **{f"{stage}_norms": tensor.dim for stage, tensor in norms.items()}}
        ),
        attributes=MappingProxyType(
            {"row": row, "weight": is_weight(graph, parameter.name)}
            | {key: parameter.attributes[key] for key in ("rate", "penalty")}
        ),
        split=parameter.attributes["update_split"],
    )


def _follow_node(op: OpNode, state: str, rule: State) -> OpNode:
    """The node by which a state follows a result of its op after a training step."""
    followed = dict(op.outputs)[rule.follows]
    return OpNode(
        name=f"update_{state}",
        op="follow",
        kind="update",
        inputs=(("gradient", followed),),
        outputs=(("output", state),),
        access=update_access({}, {"gradient": op.access.dims[rule.follows]}),
        attributes=MappingProxyType(dict(rule.numbers(op.attributes, op.access))),
    )
