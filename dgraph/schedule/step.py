"""The steps of one rank, and how they are put in order.

In: a layout, a plan, a backend. Out: `Schedule`: buffers and ordered steps. Promise: a transfer starts right after the last writer
of its tensor and is waited for right before its first reader, at the same places of one global order on every rank; nothing is left
to be decided while running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dgraph.graph.access import image
from dgraph.graph.node import Attributes, Graph, OpNode
from dgraph.kernels.backend import Backend
from dgraph.kernels.call import Call
from dgraph.layout.assign import Layout, OpLayout
from dgraph.plan.make import Plan, Transfer
from dgraph.rect import Rect
from dgraph.schedule.buffer import Placement, memory_orders, place_tensors
from dgraph.schedule.turn import Late, Turn, behind_gradients


@dataclass(frozen=True)
class Compute:
    """One piece of one op: the call, and for every port of it the buffer and the rect in it."""

    node: str
    call: Call
    ports: Mapping[str, tuple[int, Rect]]


@dataclass(frozen=True)
class Feed:
    """The rank's part of a mini-batch: port -> buffer and rect."""

    node: str
    ports: Mapping[str, tuple[int, Rect]]


@dataclass(frozen=True)
class Zero:
    """Sets a write buffer to zero; `elided` where the first writer assigns all of it."""

    node: str
    buffer: int | None
    elided: bool


@dataclass(frozen=True)
class Update:
    """Updates a parameter on `rect` from its gradient: both as (buffer, rect); `norms` by stage, likewise. `attributes` are those
    of the node. A state (`follows`) is updated from the result that it follows."""

    node: str
    parameter: str
    gradient: tuple[int, Rect]
    target: tuple[int, Rect]
    norms: Mapping[str, tuple[int, Rect]]
    attributes: Attributes
    follows: bool = False


@dataclass(frozen=True)
class Measure:
    """Measures the pieces of a parameter that count on this rank, before its update; `row` is where the result goes."""

    node: str
    update: Update
    pieces: tuple[Rect, ...]
    row: tuple[int, Rect]


@dataclass(frozen=True)
class Start:
    """Packs and posts a tensor's messages."""

    transfer: Transfer

    @property
    def node(self) -> str:
        return self.transfer.tensor


@dataclass(frozen=True)
class Wait:
    """Waits for a tensor's messages and unpacks them."""

    transfer: Transfer

    @property
    def node(self) -> str:
        return self.transfer.tensor


Step = Compute | Feed | Zero | Measure | Update | Start | Wait


@dataclass(frozen=True)
class Schedule:
    """All that one rank does in a training step, and at which of its batches (`turns`); the first `forward` steps are those of an
    evaluation."""

    rank: int
    dtype: str
    placement: Placement
    steps: tuple[Step, ...]
    turns: tuple[Turn, ...]
    forward: int
    workspace_nbytes: int
    staging_nbytes: int
    state_nbytes: int
    ahead_nbytes: int

    @property
    def peak_nbytes(self) -> int:
        """Bytes of buffers, staged messages, optimizer state, scratch, batches read ahead: all live from first to last step."""
        buffers = sum(buffer.nbytes for buffer in self.placement.buffers)
        return buffers + self.workspace_nbytes + self.staging_nbytes + self.state_nbytes + self.ahead_nbytes


NOWHERE = -1
"""The number of no buffer: for operands with no elements."""

ITEMSIZE = MappingProxyType({"float32": 4, "float64": 8})


def make_schedule(layout: Layout, plan: Plan, backend: Backend, dtype: str = "float32", states: int = 0,
                  update_workspace: int = 0, orders: Mapping[str, tuple[int, ...]] | None = None,
                  batches: int = 1, ahead: int = 0) -> Schedule:  # fmt: skip
    """The schedule of one rank. `states`: arrays of a parameter's shape that the optimizer keeps for each;
    `orders`: the memory orders, if they are known already (they are the same on every rank); `batches`: how many there are in a
    training step, whose gradients add up; `ahead`: how many batches there is room to read ahead."""
    graph, itemsize = layout.graph, ITEMSIZE[dtype]
    late = behind_gradients(graph)
    if orders is None:
        orders = memory_orders(graph, backend.kernels, dtype)
    placement = place_tensors(layout, plan, orders, itemsize)
    kept = late.gradients if batches > 1 else frozenset()
    by_node = {name: _node_steps(layout, name, plan.rank, placement, dtype, kept) for name in graph.ops}
    steps, forward = _with_transfers(graph, plan, by_node)
    calls = [step.call for step in steps if isinstance(step, Compute)]
    updates = [step for step in steps if isinstance(step, Update)]
    fed = [step for step in steps if isinstance(step, Feed)]
    updated = sum(step.target[1].volume for step in updates if not step.follows)
    workspace = [backend.kernels[call.op, call.gradient].workspace(call) for call in calls]
    return Schedule(
        rank=plan.rank,
        dtype=dtype,
        placement=placement,
        steps=tuple(steps),
        turns=tuple(_turn(step, graph, late) for step in steps),
        forward=forward,
        workspace_nbytes=max([*workspace, update_workspace if updates else 0, 0]),
        staging_nbytes=sum(_staging(transfer) for transfer in plan.transfers.values()) * itemsize,
        state_nbytes=updated * states * itemsize,
        ahead_nbytes=ahead * sum(rect.volume for step in fed for _, rect in step.ports.values()) * itemsize,
    )


def _staging(transfer: Transfer) -> int:
    """Elements packed to be sent and received."""
    return 0 if transfer.all_reduce else transfer.sends.elements + transfer.receives.elements


# --- order


def _with_transfers(graph: Graph, plan: Plan, by_node: Mapping[str, list[Step]]) -> tuple[list[Step], int]:
    """The nodes' steps in graph order with the transfers between them; and how many belong to an evaluation."""
    position = {name: k for k, name in enumerate(graph.ops)}
    after: dict[int, list[Step]] = {}
    before: dict[int, list[Step]] = {}
    for tensor, transfer in plan.transfers.items():
        last = max(position[name] for name, _ in graph.writers[tensor])
        readers = [position[name] for name, port in graph.readers[tensor] if graph.ops[name].port_map(port)]
        first = min((at for at in readers if at > last), default=len(position))
        after.setdefault(last, []).append(Start(transfer))
        before.setdefault(first, []).append(Wait(transfer))
    steps: list[Step] = []
    forward = 0
    for name, k in position.items():
        steps += [*before.get(k, ()), *by_node[name], *after.get(k, ())]
        if graph.ops[name].kind == "forward":
            forward = len(steps)
    return [*steps, *before.get(len(position), ())], forward


def _turn(step: Step, graph: Graph, late: Late) -> Turn:
    match step:
        case Start() | Wait():
            return late.transfer(step.transfer.tensor)
        case Zero() if graph.ops[step.node].kind == "zero":
            return late.zeroing(graph.ops[step.node].outputs[0][1])
        case _:
            return late.node(step.node)


# --- the steps of one node


def _node_steps(layout: Layout, name: str, rank: int, placement: Placement, dtype: str,
                kept: frozenset[str]) -> list[Step]:  # fmt: skip
    """`kept`: gradients that are added to what they hold already."""
    op = layout.ops[name]
    node = op.node
    if node.kind == "forward" and not node.inputs:
        return [Feed(name, _feed_ports(layout, node, rank, placement))]
    if node.kind == "zero":
        return [_zero_step(layout, node, rank, placement, kept)]
    if node.kind == "update":
        update = _update_step(layout, node, rank, placement)
        return [] if update is None else [update]
    if node.kind == "measure":
        return _measure_steps(layout, op, rank, placement)
    if node.op == "accuracy":
        return []
    return _compute_steps(layout, op, rank, placement, dtype, kept)


def _feed_ports(layout: Layout, node: OpNode, rank: int, placement: Placement) -> dict[str, tuple[int, Rect]]:
    ports = {}
    for port, tensor in node.outputs:
        number = placement.places[tensor].write
        if number is not None:
            ports[port] = (number, layout.write_rect(tensor, rank))
    return ports


def _update_step(layout: Layout, node: OpNode, rank: int, placement: Placement) -> Update | None:
    """None where this rank updates nothing."""
    (_, gradient), *norms = node.inputs
    parameter = node.outputs[0][1]
    rect = layout.write_rect(parameter, rank)
    source, target = placement.places[gradient].read, placement.places[parameter].write
    if not rect or source is None or target is None:
        return None
    places = {}
    for port, tensor in norms:
        number = placement.places[tensor].read
        places[port.removesuffix("_norms")] = (NOWHERE if number is None else number, layout.read_rect(tensor, rank))
    return Update(
        node.name, parameter, (source, rect), (target, rect), places, node.attributes, follows=node.op == "follow"
    )


def _measure_steps(layout: Layout, op: OpLayout, rank: int, placement: Placement) -> list[Step]:
    """None at all where this rank has nothing of the parameter, or another counts for it."""
    node, graph, place = op.node, layout.graph, layout.mesh.coordinates(rank)
    parameter = graph.tensors[node.attributes["parameter"]]
    update = _update_step(layout, graph.ops[parameter.attributes["update"]], rank, placement)
    pieces = layout.distinct(node.name, "gradient", place) if op.counts("norms", place) else ()
    tensor = node.outputs[0][1]
    number = placement.places[tensor].write
    if update is None or number is None or not pieces:
        return []
    columns = graph.tensors[tensor].dim[1]
    return [Measure(node.name, update, pieces, (number, Rect((node.attributes["row"], 0), (1, columns))))]


def _zero_step(layout: Layout, node: OpNode, rank: int, placement: Placement, kept: frozenset[str]) -> Zero:
    tensor = node.outputs[0][1]
    number = placement.places[tensor].write
    fixed = tensor not in kept and layout.graph.tensors[tensor].role == "gradient"
    elided = number is None or (fixed and _first_writer_assigns(layout, tensor, rank))
    return Zero(node.name, number, elided)


def _first_writer_assigns(layout: Layout, tensor: str, rank: int) -> bool:
    """Whether the first op that writes a gradient on this rank covers its whole write rect in one piece without gaps."""
    for name, port in _counted_writers(layout, tensor, rank):
        pieces = layout.pieces(name, rank)
        if pieces:
            return _covers(layout, name, port, pieces, layout.write_rect(tensor, rank))
    return False


def _counted_writers(layout: Layout, tensor: str, rank: int) -> list[tuple[str, str]]:
    place = layout.mesh.coordinates(rank)
    return [
        (name, port)
        for name, port in layout.graph.writers[tensor]
        if layout.graph.ops[name].kind != "zero" and layout.ops[name].counts(port, place)
    ]


def _covers(layout: Layout, name: str, port: str, pieces: Sequence[Rect], rect: Rect) -> bool:
    node = layout.graph.ops[name]
    box = node.access.space.box(pieces[0])
    dense = all(expression.is_dense(box) for expression in node.port_map(port))
    return len(pieces) == 1 and dense and layout.piece_rect(name, port, pieces[0]) == rect


def _compute_steps(layout: Layout, op: OpLayout, rank: int, placement: Placement, dtype: str,
                   kept: frozenset[str]) -> list[Step]:  # fmt: skip
    node = op.node
    pieces = layout.pieces(node.name, rank)
    steps: list[Step] = _clears(layout, node, pieces, rank, placement)
    for piece in pieces:
        ports, accumulate = {}, set()
        for port, tensor in (*node.inputs, *node.outputs):
            written = (port, tensor) in node.outputs
            entry = _port_place(layout, op, port, tensor, piece, rank, placement)
            if entry is None:
                continue
            ports[port] = entry
            if written and (tensor in kept or not _assigns(layout, node, port, tensor, pieces, rank)):
                accumulate.add(port)
        if not any(port in ports for port, _ in node.outputs):
            continue
        rects = {port: rect for port, (_, rect) in ports.items()}
        gradient = node.kind == "gradient"
        purpose = node.forward or node.name
        call = Call(
            node.op, gradient, node.attributes, node.access, piece, rects, frozenset(accumulate), dtype, purpose
        )
        steps.append(Compute(node.name, call, MappingProxyType(ports)))
    return steps


def _port_place(layout: Layout, op: OpLayout, port: str, tensor: str, piece: Rect, rank: int,
                placement: Placement) -> tuple[int, Rect] | None:  # fmt: skip
    """The buffer and rect of one port; None for edges of order, seeds, and results that do not count here. A piece that lies
    wholly in the padding has operands with no elements, NOWHERE."""
    node, graph = op.node, layout.graph
    index, place = node.port_map(port), placement.places[tensor]
    written = (port, tensor) in node.outputs
    if not index or graph.tensors[tensor].role == "seed":
        return None
    if written and not op.counts(port, layout.mesh.coordinates(rank)):
        return None
    again = node.forward is not None and (node.forward, port) in graph.writers[tensor]
    number = place.write if written or again else place.read
    rect = image(index, node.access.space, piece, graph.tensors[tensor].dim)
    return (NOWHERE, rect) if number is None or not rect else (number, rect)


def _assigns(layout: Layout, node: OpNode, port: str, tensor: str, pieces: Sequence[Rect], rank: int) -> bool:
    """Whether a result is assigned instead of added to: the only piece of a forward op, if it leaves no gaps; the covering first
    writer of a gradient."""
    if node.kind != "gradient":
        return _covers(layout, node.name, port, pieces, layout.write_rect(tensor, rank))
    first = next((pair for pair in _counted_writers(layout, tensor, rank) if layout.pieces(pair[0], rank)), None)
    return first == (node.name, port) and _first_writer_assigns(layout, tensor, rank)


def _clears(layout: Layout, node: OpNode, pieces: Sequence[Rect], rank: int, placement: Placement) -> list[Step]:
    """Zeroing of forward results that several pieces of this rank add up, or that have gaps."""
    if node.kind == "gradient" or not pieces:
        return []
    return [
        Zero(node.name, placement.places[tensor].write, elided=False)
        for port, tensor in node.outputs
        if not _assigns(layout, node, port, tensor, pieces, rank)
    ]
