"""Ops of ONNX that cut, pad, repeat and reorder elements, as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: what a shape says is spelt out; where its first extent is that of the
batch and stays so, it is written as 0, which keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.ops.letter import letters_of


def _axis(node: Node, axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise node.refuse(f"axis {axis}", f"the input has {ndim} dimensions")
    return axis % ndim


def _axes(intake: Intake, node: Node, k: int, ndim: int, default: Sequence[int]) -> list[int]:
    axes = [_axis(node, axis, ndim) for axis in intake.integers(node, k, default)]
    if len(set(axes)) != len(axes):
        raise node.refuse(f"axes {axes}", "every one once")
    return axes


def _flatten(intake: Intake, node: Node) -> None:
    intake.add(node, "flatten", [("input", intake.given(node))], {"axis": node.take("axis", 1)})


def _reshape(intake: Intake, node: Node) -> None:
    shape = intake.integers(node, 1)
    if node.expect("allowzero", 0, 1) and 0 in shape:
        raise node.refuse(f"shape {shape} with attribute allowzero", "an extent is at least 1")
    _reshaped(intake, node, shape)


def _reshaped(intake: Intake, node: Node, shape: list[int], given: str = "") -> None:
    given = given or intake.given(node)
    if shape and shape[0] == intake.tensors[given].dim[0]:
        shape = [0, *shape[1:]]
    intake.add(node, "reshape", [("input", given)], {"shape": shape})


def _squeeze(intake: Intake, node: Node) -> None:
    dim = intake.dim(node)
    axes = _axes(intake, node, 1, len(dim), [d for d, n in enumerate(dim) if n == 1])
    if any(dim[d] != 1 for d in axes):
        raise node.refuse(f"axes {axes} of dim {list(dim)}", "only extents of 1 can go")
    _reshaped(intake, node, [n for d, n in enumerate(dim) if d not in axes])


def _unsqueeze(intake: Intake, node: Node) -> None:
    rest = list(intake.dim(node))
    axes = intake.integers(node, 1)
    ndim = len(rest) + len(axes)
    shape = [1 if d in {_axis(node, axis, ndim) for axis in axes} else 0 for d in range(ndim)]
    if sum(shape) != len(axes):
        raise node.refuse(f"axes {axes}", "every one once")
    _reshaped(intake, node, [1 if one else rest.pop(0) for one in shape])


def _transpose(intake: Intake, node: Node) -> None:
    ndim = len(intake.dim(node))
    order = list(node.take("perm", range(ndim)[::-1]))
    intake.add(node, "transpose", [("input", intake.given(node))], {"order": order})


def _slice(intake: Intake, node: Node) -> None:
    dim = intake.dim(node)
    starts, stops = intake.integers(node, 1), intake.integers(node, 2)
    axes = _axes(intake, node, 3, len(dim), range(len(starts)))
    steps = intake.integers(node, 4, [1] * len(starts))
    if not len(starts) == len(stops) == len(axes) == len(steps):
        raise node.refuse("starts, ends, axes and steps have different lengths")
    letters, attributes = letters_of(len(dim)), {}
    for axis, *bounds in zip(axes, starts, stops, steps, strict=True):
        if bounds[2] < 1:
            raise node.refuse(f"step {bounds[2]}", "only steps forward are supported")
        start, stop, step = slice(*bounds).indices(dim[axis])
        attributes[letters[axis]] = [start, stop, step]
    intake.add(node, "slice", [("input", intake.given(node))], attributes)


def _pad(intake: Intake, node: Node) -> None:
    """Padding; what is less than 0 is cropped first."""
    node.expect("mode", "constant")
    dim, pads = intake.dim(node), intake.integers(node, 1)
    axes = _axes(intake, node, 3, len(dim), range(len(dim)))
    if len(pads) != 2 * len(axes):
        raise node.refuse(f"pads {pads}", "two numbers for every dimension are needed")
    letters, given = letters_of(len(dim)), intake.given(node)
    pairs = {letters[axis]: (pads[k], pads[len(axes) + k]) for k, axis in enumerate(axes)}
    margins = {letter: [max(0, -n) for n in pair] for letter, pair in pairs.items() if min(pair) < 0}
    padding = {letter: [max(0, n) for n in pair] for letter, pair in pairs.items() if max(pair) > 0}
    value = float(intake.constant(node, 2).reshape(-1)[0]) if intake.has(node, 2) else 0.0
    if margins and not padding:
        intake.add(node, "crop", [("input", given)], margins)
        return
    given = intake.step(node, "crop", [("input", given)], margins, mark=".crop") if margins else given
    intake.add(node, "pad", [("input", given)], {**padding, "value": value})


def _split(intake: Intake, node: Node) -> None:
    """A slice for every output."""
    dim, count = intake.dim(node), len(node.outputs)
    axis = _axis(node, node.take("axis", 0), len(dim))
    each = -(-dim[axis] // (node.take("num_outputs") or count))
    sizes = intake.integers(node, 1, [min(each, dim[axis] - k * each) for k in range(count)])
    if len(sizes) != count or sum(sizes) != dim[axis] or min(sizes) < 1:
        raise node.refuse(f"parts of {sizes}", f"{count} parts, each at least 1, of {dim[axis]} are needed")
    letter, ports = letters_of(len(dim))[axis], [("input", intake.given(node))]
    for k, size in enumerate(sizes):
        start = sum(sizes[:k])
        if node.outputs[k]:
            intake.add(node, "slice", ports, {letter: [start, start + size, 1]}, mark=f".{k}", output=k)


def _gather(intake: Intake, node: Node) -> None:
    """One place of a dimension, or several that follow each other in even steps: a slice."""
    dim, indices = intake.dim(node), intake.constant(node, 1)
    axis = _axis(node, node.take("axis", 0), len(dim))
    places = [int(n) + dim[axis] if n < 0 else int(n) for n in indices.reshape(-1)]
    first, second, last = (*places[:1], 0)[0], (*places[1:2], 0)[0], (*places[-1:], 0)[0]
    run = range(first, last + 1, max(1, second - first))
    if not places or list(run) != places or indices.ndim > 1 or not 0 <= first <= last < dim[axis]:
        what = f"indices {node.inputs[1]} of dim {list(indices.shape)}"
        raise node.refuse(what, f"one of {dim[axis]} places, or several forward in even steps, are supported")
    ports, ranges = [("input", intake.given(node))], {letters_of(len(dim))[axis]: [run.start, run.stop, run.step]}
    if indices.ndim:
        intake.add(node, "slice", ports, ranges)
        return
    taken = intake.step(node, "slice", ports, ranges, mark=".slice")
    _reshaped(intake, node, [n for d, n in enumerate(dim) if d != axis], taken)


_BLOCKS = {
    ("DepthToSpace", "DCR"): (0, 3, 4, 1, 5, 2),
    ("DepthToSpace", "CRD"): (0, 1, 4, 2, 5, 3),
    ("SpaceToDepth", "DCR"): (0, 3, 5, 1, 2, 4),
    ("SpaceToDepth", "CRD"): (0, 1, 3, 5, 2, 4),
}
"""Where the six dimensions of channels, places and blocks go."""


def _blocks(intake: Intake, node: Node) -> None:
    """Blocks of places become channels, or channels blocks of places."""
    block, order = node.take("blocksize"), _BLOCKS[node.op, node.expect("mode", "DCR", "CRD")]
    dim = intake.dim(node)
    shrinks = node.op == "SpaceToDepth"
    if (
        len(dim) != 4
        or block < 1
        or any(n % block for n in dim[2:] if shrinks)
        or dim[1] % (1 if shrinks else block**2)
    ):
        raise node.refuse(f"attribute blocksize is {block}", f"the input has dim {list(dim)}")
    (c, h, w), inner = dim[1:], dim[1] // block**2
    if shrinks:
        apart, whole = [0, c, h // block, block, w // block, block], [0, c * block**2, h // block, w // block]
    else:
        apart = [0, block, block, inner, h, w] if order[1] == 3 else [0, inner, block, block, h, w]
        whole = [0, inner, h * block, w * block]
    given = intake.step(node, "reshape", [("input", intake.given(node))], {"shape": apart}, mark=".apart")
    given = intake.step(node, "transpose", [("input", given)], {"order": list(order)}, mark=".moved")
    intake.add(node, "reshape", [("input", given)], {"shape": whole})


def _resize(intake: Intake, node: Node) -> None:
    """A resize by whole factors, in which every element of the input has its own tile."""
    dim = intake.dim(node)
    mode = node.expect("mode", "nearest", "linear")
    where = node.take("coordinate_transformation_mode", "half_pixel")
    rounding = node.take("nearest_mode", "round_prefer_floor")
    centred = where in _CENTRED and (mode == "linear" or rounding in ("round_prefer_floor", "round_prefer_ceil"))
    if not centred and (mode, where, rounding) != ("nearest", "asymmetric", "floor"):
        raise node.refuse(
            f"attribute coordinate_transformation_mode is {where}, nearest_mode {rounding}, mode {mode}",
            f"supported: {', '.join(_CENTRED)}, nearest rounding there; or asymmetric and floor",
        )
    # Of cubic and of other coordinates, or where a dimension shrinks.
    for key in ("antialias", "exclude_outside", "cubic_coeff_a", "extrapolation_value"):
        node.take(key)
    _upsample(intake, node, dim, _factors(intake, node, dim), mode)


_CENTRED = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
"""Coordinates of which all are the same for whole factors."""


def _factors(intake: Intake, node: Node, dim: Sequence[int]) -> list[float]:
    """By how much every dimension grows."""
    axes = [_axis(node, axis, len(dim)) for axis in node.take("axes", range(len(dim)))]
    policy = node.expect("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    if intake.has(node, 3):
        found = [n / dim[axis] for axis, n in zip(axes, intake.integers(node, 3), strict=False)]
        if policy != "stretch" and found:
            found = [min(found) if policy == "not_larger" else max(found)] * len(found)
    else:
        found = [float(value) for value in intake.constant(node, 2).reshape(-1)]
    if len(found) != len(axes):
        raise node.refuse(f"{len(found)} scales for {len(axes)} dimensions")
    return [dict(zip(axes, found, strict=True)).get(d, 1.0) for d in range(len(dim))]


def _upsample(intake: Intake, node: Node, dim: Sequence[int], factors: Sequence[float], mode: str) -> None:
    if any(factor != int(factor) or factor < 1 for factor in factors) or any(factor != 1 for factor in factors[:2]):
        raise node.refuse(f"scales {list(factors)}", "whole numbers in the spatial dimensions are supported")
    if prod(dim) * prod(factors) > 1 << 40:
        raise node.refuse(f"scales {list(factors)} are too large")
    scale = [int(factor) for factor in factors[2:]]
    intake.add(node, "upsample", [("input", intake.given(node))], {"scale": scale, "mode": mode})


READ: Mapping[str, Callable[[Intake, Node], None]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Split": _split,
    "Gather": _gather,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
    "Resize": _resize,
}
