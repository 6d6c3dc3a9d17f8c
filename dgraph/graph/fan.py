"""How many terms stand behind one element of a parameter's op, for initial values.

In: a graph and a parameter. Out: (fan in, fan out), and whether it is a weight, found from the access maps of its first reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from dgraph.graph.access import Affine, Map
from dgraph.graph.node import Graph


def fans(graph: Graph, parameter: str) -> tuple[int, int]:
    """Fan in: the extents of the labels that the op sums over with this parameter, times how many windows of the result overlap (as
    those of a transposed convolution do). Fan out: the extents of the labels that it adds to the result, times those of the window.
    (1, 1) for a parameter that no op with maps reads."""
    for reader, port in graph.readers[parameter]:
        node = graph.ops[reader]
        maps = node.access.maps
        if not maps.get(port) or "input" not in maps:
            continue
        extents = dict(zip(node.access.space.labels, node.access.space.extents, strict=True))
        own, data = _labels(maps[port]), _labels(maps["input"])
        outputs = [maps[out] for out, _ in node.outputs]
        result = set().union(*map(_labels, outputs))
        window = {name for e in maps["input"][2:] if len(e.terms) > 1 for name, _ in e.terms} - result
        overlaps = [_overlap(e, extents) for index in outputs for e in index if len(e.terms) == 2]
        fan_in = prod(extents[name] for name in own - result) * prod(overlaps)
        fan_out = prod(extents[name] for name in (own & result - data) | (own & window))
        return fan_in, fan_out
    return 1, 1


def is_weight(graph: Graph, parameter: str) -> bool:
    """Whether an op multiplies a parameter with its input and sums up, as a filter does; a bias, a slope, the scale and shift of a
    norm only go with what is there."""
    for reader, port in graph.readers[parameter]:
        node = graph.ops[reader]
        if node.access.maps.get(port) and node.kind == "forward":
            result = set().union(*(_labels(node.access.maps[out]) for out, _ in node.outputs))
            return bool(_labels(node.access.maps[port]) - result)
    return False


def _overlap(expression: Affine, extents: Mapping[str, int]) -> int:
    """How many windows `outer * stride + inner` meet in one element, at most."""
    (_, stride), (inner, _) = expression.terms
    return -(-extents[inner] // stride)


def _labels(index: Map) -> set[str]:
    return {name for expression in index for name, _ in expression.terms}
