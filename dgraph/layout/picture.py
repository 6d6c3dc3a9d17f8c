"""A dump as a picture: the dot language of Graphviz.

In: a layout, a rank, the table of ops. Out: dot text. Kinds of nodes differ by shape (LEGEND), arrows carry the names of ports.
Colours are light with dark text on white, so that the picture reads the same on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.graph.node import Op, OpNode
from dgraph.layout.assign import Layout
from dgraph.layout.dump import op_lines, tensor_lines, value_text
from dgraph.rect import Rect

LEGEND = (
    "box: op   rounded box: gradient op   house: update (upside down: its norms)   double octagon: sets to zero\n"
    "ellipse: tensor (two rims: parameter; dashed: gradient; dotted: the 1 that gradients start from)\n"
    "dotted arrow: order only   rects: [start]+[size]"
)
_OP_STYLE = {
    "forward": 'shape=box, style=filled, color="#2b5c8a", fillcolor="#dbe9f6"',
    "gradient": 'shape=box, style="filled,rounded", color="#a1551b", fillcolor="#fde3cf"',
    "measure": 'shape=invhouse, style=filled, color="#38702f", fillcolor="#dcefd9"',
    "update": 'shape=house, style=filled, color="#38702f", fillcolor="#dcefd9"',
    "zero": 'shape=doubleoctagon, style=filled, color="#777777", fillcolor="#eeeeee", margin=0.02',
}
_TENSOR = 'shape=ellipse, style=filled, color="#555555", fillcolor="#ffffff"'
_TENSOR_STYLE = {
    "state": 'shape=ellipse, peripheries=2, style="filled,dashed", color="#8a6d00", fillcolor="#fffbe6"',
    "parameter": 'shape=ellipse, peripheries=2, style=filled, color="#8a6d00", fillcolor="#fff6c9"',
    "gradient": 'shape=ellipse, style="filled,dashed", color="#a1551b", fillcolor="#fffaf6"',
    "norms": 'shape=ellipse, style="filled,dashed", color="#38702f", fillcolor="#f6fbf5"',
    "seed": 'shape=ellipse, style="filled,dotted", color="#a1551b", fillcolor="#fffaf6"',
}
_KEYS = {"read_rect": "read", "write_rect": "write"}


def dot(layout: Layout, rank: int, table: Mapping[str, Op]) -> str:
    """The whole graph of one rank in the dot language."""
    mesh = layout.mesh
    place = ", ".join(f"{n}={c}" for n, c in zip(mesh.names, mesh.coordinates(rank), strict=True))
    title = f"{layout.graph.name}: rank {rank} of {mesh.ranks} ({place})\n{LEGEND}"
    lines = [
        f"digraph {_quoted(layout.graph.name)} {{",
        f'  graph [bgcolor=white, ranksep=0.3, nodesep=0.2, labelloc=t, fontname="Helvetica", label={_quoted(title)}];',
        '  node [fontname="Helvetica", fontsize=10, margin="0.08,0.04"];',
        '  edge [fontname="Helvetica", fontsize=9, color="#444444", arrowsize=0.7];',
    ]
    for name, tensor in layout.tensors.items():
        style = _TENSOR_STYLE.get(tensor.node.role, _TENSOR)
        shown = [(key, value) for key, value in tensor_lines(layout, name, rank) if value is not None]
        text = [name, *(f"{_KEYS.get(key, key)} {_short(value)}" for key, value in shown)]
        lines.append(f"  {_quoted('t:' + name)} [{style}, label={_quoted(chr(10).join(text))}];")
    for node in layout.graph.ops.values():
        lines += _op(layout, node, rank, table)
    return "\n".join([*lines, "}"]) + "\n"


def _op(layout: Layout, node: OpNode, rank: int, table: Mapping[str, Op]) -> list[str]:
    text = [node.name, *(f"{key} {_short(value)}" for key, value in op_lines(layout, node, rank, table))]
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
        return str(value) if value else "nothing"
    return value_text(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
