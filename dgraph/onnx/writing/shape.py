"""Ops that cut, pad, repeat and reorder elements, as ONNX has them.

In: a node of the graph. Out: nodes of the draft. Promise: the extent of the batch is written only where it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dgraph.graph.node import OpNode
from dgraph.onnx.writing.draft import Draft, result, source
from dgraph.ops.letter import given


def _transpose(draft: Draft, node: OpNode) -> None:
    draft.node("Transpose", [source(node)], result(node), node.name, {"perm": node.attributes["order"]})


def _flatten(draft: Draft, node: OpNode) -> None:
    draft.node("Flatten", [source(node)], result(node), node.name, {"axis": node.attributes["axis"]})


def _reshape(draft: Draft, node: OpNode) -> None:
    """A leading extent that stays is written as 0, which keeps it."""
    dim, shape = node.access.dims["input"], node.access.dims["output"]
    wanted = [0, *shape[1:]] if shape[0] == dim[0] else shape
    draft.node("Reshape", [source(node), draft.integers(f"{node.name}.shape", wanted)], result(node), node.name)


def _slice(draft: Draft, node: OpNode) -> None:
    """Slices and crops: what the map says of the input, in the dimensions that change."""
    dim, name = node.access.dims["input"], node.name
    extents = node.access.dims["output"]
    starts = [expression.offset for expression in node.access.maps["input"]]
    steps = [expression.terms[0][1] for expression in node.access.maps["input"]]
    axes = [d for d, n in enumerate(dim) if (starts[d], steps[d], extents[d]) != (0, 1, n)]
    stops = [starts[d] + steps[d] * (extents[d] - 1) + 1 for d in axes]
    inputs = [
        source(node),
        draft.integers(f"{name}.starts", [starts[d] for d in axes]),
        draft.integers(f"{name}.stops", stops),
        draft.integers(f"{name}.axes", axes),
        draft.integers(f"{name}.steps", [steps[d] for d in axes]),
    ]
    draft.node("Slice", inputs, result(node), name)


def _pad(draft: Draft, node: OpNode) -> None:
    dim, name = node.access.dims["input"], node.name
    pairs = [pair or (0, 0) for pair in given(node.attributes, len(dim), "padding")]
    axes = [d for d, pair in enumerate(pairs) if pair != (0, 0)]
    inputs = [
        source(node),
        draft.integers(f"{name}.pads", [pairs[d][side] for side in (0, 1) for d in axes]),
        draft.numbers(f"{name}.value", node.attributes["value"]),
        draft.integers(f"{name}.axes", axes),
    ]
    draft.node("Pad", inputs, result(node), name)


def _upsample(draft: Draft, node: OpNode) -> None:
    scale = draft.scales(f"{node.name}.scales", [1, 1, *node.attributes["scale"]])
    mode = node.attributes["mode"]
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": "half_pixel" if mode == "linear" else "asymmetric",
        "nearest_mode": "floor" if mode == "nearest" else None,
    }
    draft.node("Resize", [source(node), "", scale], result(node), node.name, attributes)


EMIT: Mapping[str, Callable[[Draft, OpNode], None]] = {
    "flatten": _flatten,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "crop": _slice,
    "pad": _pad,
    "upsample": _upsample,
}
