"""A dump as a picture: the dot language of Graphviz.

In: a layout, a rank, the table of ops. Out: dot text. Op nodes are boxes, tensor nodes ellipses, zeroing nodes double octagons; a
parameter is an ellipse with two rims; arrows carry the names of ports.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.graph.node import Op, OpNode
from dgraph.layout.assign import Layout
from dgraph.layout.dump import op_lines, tensor_lines, value_text
from dgraph.rect import Rect, dim_text

_OP_STYLE = {
    "forward": 'shape=box, style=filled, fillcolor="#dbe9f6"',
    "gradient": 'shape=box, style="filled,rounded", fillcolor="#fde3cf"',
    "update": 'shape=house, style=filled, fillcolor="#dcefd9"',
    "zero": 'shape=doubleoctagon, style=filled, fillcolor="#eeeeee"',
}
_TENSOR_STYLE = {
    "parameter": 'shape=ellipse, peripheries=2, style=filled, fillcolor="#fff6c9"',
    "gradient": "shape=ellipse, style=dashed",
    "seed": "shape=ellipse, style=dotted",
}


def dot(layout: Layout, rank: int, table: Mapping[str, Op]) -> str:
    """The whole graph of one rank in the dot language."""
    lines = [f"digraph {_quoted(layout.graph.name)} {{", '  node [fontname="Helvetica", fontsize=10];']
    lines.append('  edge [fontname="Helvetica", fontsize=9];')
    for name, tensor in layout.tensors.items():
        style = _TENSOR_STYLE.get(tensor.node.role, "shape=ellipse")
        text = [name, *(f"{key}={_short(value)}" for key, value in tensor_lines(layout, name, rank))]
        lines.append(f"  {_quoted('t:' + name)} [{style}, label={_quoted(chr(10).join(text))}];")
    for node in layout.graph.ops.values():
        lines += _op(layout, node, rank, table)
    return "\n".join([*lines, "}"]) + "\n"


def _op(layout: Layout, node: OpNode, rank: int, table: Mapping[str, Op]) -> list[str]:
    text = [node.name, *(f"{key}={_short(value)}" for key, value in op_lines(layout, node, rank, table))]
    own = _quoted("o:" + node.name)
    lines = [f"  {own} [{_OP_STYLE[node.kind]}, label={_quoted(chr(10).join(text))}];"]
    shown = table[node.op].shown
    style = ", style=dashed" if node.kind == "zero" else ""
    for port, tensor in node.inputs:
        order = ", style=dotted" if not node.port_map(port) else ""
        lines.append(f"  {_quoted('t:' + tensor)} -> {own} [label={_quoted('->' + shown.get(port, port))}{order}];")
    for port, tensor in node.outputs:
        lines.append(f"  {own} -> {_quoted('t:' + tensor)} [label={_quoted(port + '->')}{style}];")
    return lines


def _short(value: object) -> str:
    """A rect as [start]+[size]: the numpy notation is too wide for a picture."""
    if isinstance(value, Rect):
        return f"{dim_text(value.start)}+{dim_text(value.size)}" if value else "empty"
    return value_text(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
