"""How many terms stand behind one element of a parameter's op, for initial values.

In: a graph and a parameter. Out: (fan in, fan out), found from the access maps of its first reader.
"""

from __future__ import annotations

from collections.abc import Iterable

from dgraph.graph.access import Map
from dgraph.graph.node import Graph


def fans(graph: Graph, parameter: str) -> tuple[int, int]:
    """Fan in: the extents of the labels that the op sums over with this parameter. Fan out: those of the labels that it adds to the
    result, times the window's. (1, 1) for a parameter that no op with maps reads."""
    for reader, port in graph.readers[parameter]:
        node = graph.ops[reader]
        maps = node.access.maps
        if not maps.get(port) or "input" not in maps:
            continue
        extents = dict(zip(node.access.space.labels, node.access.space.extents, strict=True))
        own, data = _labels(maps[port]), _labels(maps["input"])
        result = {name for out, _ in node.outputs for name in _labels(maps[out])}
        window = {t for e in maps["input"] if len(e.terms) > 1 for t, _ in e.terms} - result
        fan_in = _product(extents[name] for name in own - result)
        fan_out = _product(extents[name] for name in (own & result - data) | (own & window))
        return fan_in, fan_out
    return 1, 1


def _labels(index: Map) -> set[str]:
    return {name for expression in index for name, _ in expression.terms}


def _product(extents: Iterable[int]) -> int:
    product = 1
    for extent in extents:
        product *= extent
    return product
