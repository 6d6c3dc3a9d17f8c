"""Which tensors have the samples of a batch one after the other along their first dimension.

In: a graph. Out: names of tensors. Promise: sure of those it names: each sample has as many rows as any other, in order, so that
of a batch with fewer samples the rows of those that lack come last.
"""

from __future__ import annotations

from dgraph.graph.access import Affine, Map
from dgraph.graph.node import Graph


def samples_first(graph: Graph) -> frozenset[str]:
    """The tensors whose rows are those of one sample after the other: what data nodes give, and what ops keep so."""
    found: set[str] = set()
    for op in graph.ops.values():
        for port, tensor in op.outputs:
            index = op.port_map(port)
            fed = not op.inputs
            if fed or any(name in found and _alike(op.port_map(own), index) for own, name in op.inputs):
                found.add(tensor)
    return frozenset(found)


def _alike(index: Map, other: Map) -> bool:
    """Whether the same label goes through the rows of two operands, as the outermost of what they have there."""
    if not index or not other:
        return False
    first, second = _outermost(index[0]), _outermost(other[0])
    return first is not None and first == second


def _outermost(expression: Affine) -> str | None:
    return max(expression.terms, key=lambda term: term[1])[0] if expression.terms else None
