"""The layout as one rank sees it: every node with its dims and rects.

In: a layout, a rank, the table of ops. Out: plain values (for JSON) and text with the keys of the reference trace. Promise: only
what was planned, so a dump made without MPI equals the dump of a running job, character by character.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgraph.graph.node import Op, OpNode
from dgraph.layout.assign import Layout
from dgraph.rect import Rect, dim_text

Line = tuple[str, Any]


def op_lines(layout: Layout, node: OpNode, rank: int, table: Mapping[str, Op]) -> list[Line]:
    """(key, dim or Rect or None) of every line that a trace shows of an op."""
    record = table[node.op]
    gradient = node.kind == "gradient" and record.traced_gradient is not None
    lines = record.traced_gradient if gradient and record.traced_gradient else record.traced
    coordinates = layout.mesh.coordinates(rank)
    fields = layout.ops[node.name].fields
    result: list[Line] = []
    for key, port in lines:
        if key == "result_dim":
            result.append((key, node.access.dims[port]))
            continue
        field = fields.get(port) or fields.get(f"{port}.delta")
        result.append((key, field.at(coordinates) if field else None))
    return result


def tensor_lines(layout: Layout, tensor: str, rank: int) -> list[Line]:
    """dim, read_rect and write_rect of a tensor; nobody writes a parameter but its update, outside the forward graph."""
    node = layout.tensors[tensor].node
    written = None if node.role in ("parameter", "state") else layout.write_rect(tensor, rank)
    return [("dim", node.dim), ("read_rect", layout.read_rect(tensor, rank)), ("write_rect", written)]


def ports(node: OpNode, joined: tuple[tuple[str, str], ...], table: Mapping[str, Op]) -> dict[str, Any]:
    """Port -> tensor, or a list of tensors where a port takes several."""
    record = table[node.op]
    shown = record.shown if joined is node.inputs else {}
    result: dict[str, Any] = {}
    for port, tensor in joined:
        name = shown.get(port, port)
        if port in record.variadic:
            result.setdefault(name, []).append(tensor)
        else:
            result[name] = tensor
    return result


def dump(layout: Layout, rank: int, table: Mapping[str, Op]) -> dict[str, Any]:
    """The dump as plain values, with the keys of the reference trace: grid, ops, tensors; a rect is [start, size]."""
    ops: dict[str, Any] = {}
    zeroed = []
    for node in layout.graph.ops.values():
        if node.kind == "zero":
            zeroed.append(node.outputs[0][1])
            continue
        entry = {key: _plain(value) for key, value in op_lines(layout, node, rank, table)}
        ops[node.name] = entry | {"in": ports(node, node.inputs, table), "out": ports(node, node.outputs, table)}
    keys = {"dim": "dim", "read_rect": "read", "write_rect": "write"}
    tensors = {
        name: {keys[key]: _plain(value) for key, value in tensor_lines(layout, name, rank)} for name in layout.tensors
    }
    mesh = layout.mesh
    grid = {
        "ranks": mesh.ranks,
        "rank": rank,
        "spatial": list(mesh.sizes),
        "mesh": dict(zip(mesh.names, mesh.sizes, strict=True)),
        "place": list(mesh.coordinates(rank)),
    }
    return {"grid": grid, "ops": ops | {"set_zero_of": zeroed}, "tensors": tensors}


def dump_text(layout: Layout, rank: int, table: Mapping[str, Op]) -> str:
    """The dump as text: ops in order, each followed by the tensors that it is the first to touch."""
    mesh = layout.mesh
    place = ", ".join(f"{n}={c}" for n, c in zip(mesh.names, mesh.coordinates(rank), strict=True))
    blocks = [f"{layout.graph.name}: rank {rank} of {mesh.ranks} ({place})\n"]
    shown: set[str] = set()
    for node in layout.graph.ops.values():
        blocks.append(_op_text(layout, node, rank, table))
        for _, tensor in (*node.inputs, *node.outputs):
            if tensor not in shown:
                shown.add(tensor)
                lines = tensor_lines(layout, tensor, rank)
                blocks.append(tensor + "\n" + "".join(f"{k}={value_text(v)}\n" for k, v in lines))
    return "\n".join(blocks)


def _op_text(layout: Layout, node: OpNode, rank: int, table: Mapping[str, Op]) -> str:
    record = table[node.op]
    lines = [f"{key}={value_text(value)}" for key, value in op_lines(layout, node, rank, table)]
    lines += [f"{tensor} ->{record.shown.get(port, port)}" for port, tensor in node.inputs]
    lines += [f"{port}-> {tensor}" for port, tensor in node.outputs]
    return "\n".join([node.name, *lines]) + "\n"


def value_text(value: Any) -> str:
    """A dim, a rect, or None."""
    if isinstance(value, tuple):
        return dim_text(value) if value else "1"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Rect):
        return [list(value.start), list(value.size)]
    if isinstance(value, tuple):
        return list(value) if value else 1
    return value
