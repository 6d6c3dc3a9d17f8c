"""The steps of one node on one rank.

In: a layout, a node, where tensors lie. Out: its steps: one for each of its pieces, and the zeroing that these need. Promise: what
a piece assigns and what it adds is decided here, from rects alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from types import MappingProxyType

from dgraph.graph.access import image
from dgraph.graph.node import OpNode
from dgraph.kernels.call import Call
from dgraph.layout.assign import Layout, OpLayout
from dgraph.plan.make import Plan
from dgraph.rect import Rect
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import NOWHERE, Compute, Feed, Measure, Step, Update, Zero


def node_steps(layout: Layout, name: str, plan: Plan, placement: Placement, dtype: str,
                kept: frozenset[str]) -> list[Step]:  # fmt: skip
    """`kept`: gradients that are added to what they hold already."""
    rank = plan.rank
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
    return _compute_steps(layout, op, rank, placement, dtype, kept, name in plan.merged)


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
    elided = number is None or (fixed and _first_writer_assigns(layout, tensor, rank, placement))
    return Zero(node.name, number, elided)


def _first_writer_assigns(layout: Layout, tensor: str, rank: int, placement: Placement) -> bool:
    """Whether the first op that writes a gradient on this rank covers its whole write rect, and nothing is read beside it."""
    if tensor in placement.bare:
        return False
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
    """Whether pieces write every element of a rect, each once: one piece, or several by one port alone, that nothing may have been
    added before it assigns."""
    node = layout.graph.ops[name]
    boxes = [node.access.space.box(piece) for piece in pieces]
    if not all(expression.is_dense(box) for box in boxes for expression in node.port_map(port)):
        return False
    parts = [layout.piece_rect(name, port, piece) for piece in pieces]
    if len(parts) == 1:
        return parts[0] == rect
    tensors = [tensor for _, tensor in node.outputs]
    alone = tensors.count(dict(node.outputs)[port]) == 1
    apart = not any(a.intersect(b) for a, b in combinations(parts, 2))
    return alone and apart and rect.volume == sum(part.volume for part in parts)


def _compute_steps(layout: Layout, op: OpLayout, rank: int, placement: Placement, dtype: str,
                   kept: frozenset[str], merged: bool) -> list[Step]:  # fmt: skip
    """`merged`: the node finds a statistic of the rank's own pieces."""
    node = op.node
    pieces = layout.pieces(node.name, rank)
    steps: list[Step] = _clears(layout, node, pieces, rank, placement)
    for piece in pieces:
        ports, accumulate = {}, set()
        for port, tensor in (*node.inputs, *node.outputs):
            written = (port, tensor) in node.outputs
            entry = _port_place(layout, op, port, tensor, piece, rank, placement, merged and port == "mean")
            if entry is None:
                continue
            ports[port] = entry
            if written and (tensor in kept or not _assigns(layout, node, port, tensor, pieces, rank, placement)):
                accumulate.add(port)
        if not any(port in ports for port, _ in node.outputs):
            continue
        rects = {port: rect for port, (_, rect) in ports.items()}
        call = Call(
            op=node.op,
            gradient=node.kind == "gradient",
            attributes=node.attributes,
            access=node.access,
            piece=piece,
            rects=rects,
            accumulate=frozenset(accumulate),
            dtype=dtype,
            purpose=node.forward or node.name,
            among=pieces if merged else (),
        )
        steps.append(Compute(node.name, call, MappingProxyType(ports)))
    return steps


def _port_place(layout: Layout, op: OpLayout, port: str, tensor: str, piece: Rect, rank: int,
                placement: Placement, own: bool) -> tuple[int, Rect] | None:  # fmt: skip
    """The buffer and rect of one port; None for edges of order, seeds, and results that do not count here. A piece that lies
    wholly in the padding has operands with no elements, NOWHERE. `own`: what this rank itself wrote is read."""
    node, graph = op.node, layout.graph
    index, place = node.port_map(port), placement.places[tensor]
    written = (port, tensor) in node.outputs
    if not index or graph.tensors[tensor].role == "seed":
        return None
    if written and not op.counts(port, layout.mesh.coordinates(rank)):
        return None
    again = own or (node.forward is not None and (node.forward, port) in graph.writers[tensor])
    number = place.write if written or again else place.read
    rect = image(index, node.access.space, piece, graph.tensors[tensor].dim)
    return (NOWHERE, rect) if number is None or not rect else (number, rect)


def _assigns(layout: Layout, node: OpNode, port: str, tensor: str, pieces: Sequence[Rect], rank: int,
             placement: Placement) -> bool:  # fmt: skip
    """Whether a result is assigned instead of added to: that of a forward op whose pieces leave no gaps and do not add up, if
    nothing is read beside it; the covering first writer of a gradient."""
    if node.kind != "gradient":
        return tensor not in placement.bare and _covers(
            layout, node.name, port, pieces, layout.write_rect(tensor, rank)
        )
    first = next((pair for pair in _counted_writers(layout, tensor, rank) if layout.pieces(pair[0], rank)), None)
    return first == (node.name, port) and _first_writer_assigns(layout, tensor, rank, placement)


def _clears(layout: Layout, node: OpNode, pieces: Sequence[Rect], rank: int, placement: Placement) -> list[Step]:
    """Zeroing of forward results that several pieces of this rank add up, or that have gaps, or of which more is read than is
    written."""
    if node.kind == "gradient":
        return []
    return [
        Zero(node.name, placement.places[tensor].write, elided=False)
        for port, tensor in node.outputs
        if tensor in placement.bare or (pieces and not _assigns(layout, node, port, tensor, pieces, rank, placement))
    ]
