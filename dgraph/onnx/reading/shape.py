"""Ops of ONNX that cut, pad, repeat and reorder elements, as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: what a shape says is spelt out; where its first extent is that of the
batch and stays so, it is written as 0, which keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

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
    node.expect("allowzero", 0)
    _reshaped(intake, node, intake.integers(node, 1))


def _reshaped(intake: Intake, node: Node, shape: list[int]) -> None:
    dim = intake.dim(node)
    if shape and shape[0] == dim[0]:
        shape = [0, *shape[1:]]
    intake.add(node, "reshape", [("input", intake.given(node))], {"shape": shape})


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
    node.expect("mode", "constant")
    dim, pads = intake.dim(node), intake.integers(node, 1)
    axes = _axes(intake, node, 3, len(dim), range(len(dim)))
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise node.refuse(f"pads {pads}", "two numbers >= 0 for every dimension are needed")
    letters = letters_of(len(dim))
    attributes: dict[str, Any] = {
        letters[axis]: [pads[k], pads[len(axes) + k]] for k, axis in enumerate(axes) if pads[k] or pads[len(axes) + k]
    }
    value = float(intake.constant(node, 2).reshape(-1)[0]) if intake.has(node, 2) else 0.0
    intake.add(node, "pad", [("input", intake.given(node))], {**attributes, "value": value})


def _resize(intake: Intake, node: Node) -> None:
    """A resize by whole factors, in which every element of the input has its own tile."""
    dim = intake.dim(node)
    mode = node.expect("mode", "nearest", "linear")
    where = node.take("coordinate_transformation_mode", "half_pixel")
    rounding = node.take("nearest_mode", "round_prefer_floor")
    fitting = where == "half_pixel" if mode == "linear" else (where, rounding) in _TILES
    if not fitting:
        raise node.refuse(
            f"attribute coordinate_transformation_mode is {where}, nearest_mode {rounding}, mode {mode}",
            "supported: linear with half_pixel, nearest with half_pixel, or with asymmetric and floor",
        )
    for key, value in (("antialias", 0), ("exclude_outside", 0), ("keep_aspect_ratio_policy", "stretch")):
        node.expect(key, value)
    for key in ("cubic_coeff_a", "extrapolation_value"):
        node.take(key)
    _upsample(intake, node, dim, _factors(intake, node, dim), mode)


_TILES = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


def _factors(intake: Intake, node: Node, dim: Sequence[int]) -> list[float]:
    """By how much every dimension grows."""
    axes = [_axis(node, axis, len(dim)) for axis in node.take("axes", range(len(dim)))]
    if intake.has(node, 3):
        found = [n / dim[axis] for axis, n in zip(axes, intake.integers(node, 3), strict=False)]
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
    "Resize": _resize,
}
