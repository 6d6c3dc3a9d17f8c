"""Ops that ONNX does not have, as functions that a model brings along.

In: how many spatial dimensions. Out: the function's definition, in ONNX's own ops. Promise: any runtime with model-local
functions (ONNX 1.10 and later) runs them; a reader knows them again by their definitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from dgraph.onnx.version import OPSET

DOMAIN = "dgraph"
"""The domain of these functions, whose version is 1."""
_EQUATIONS = {1: "ncgi,otcig->nogt", 2: "ncgihj,otucijgh->nogthu", 3: "ncgihjkl,otuvcijlghk->nogthukv"}
"""n, c, positions g h k each with its window i j l; o, tiles t u v, c, windows, positions: to channels, positions each with its
tile."""


def tiled_function(spatial: int) -> onnx.FunctionProto:
    """`tiled<spatial>(input, filters, index0, ..., shape)`: `index` [positions, size] names the rows of every window, `shape`
    is the result's."""
    indices = [f"index{d}" for d in range(spatial)]
    nodes, given = [], "input"
    for d, index in enumerate(indices):
        nodes.append(onnx.helper.make_node("Gather", [given, index], [f"windows{d}"], axis=2 + 2 * d))
        given = f"windows{d}"
    nodes.append(onnx.helper.make_node("Einsum", [given, "filters"], ["tiles"], equation=_EQUATIONS[spatial]))
    nodes.append(onnx.helper.make_node("Reshape", ["tiles", "shape"], ["output"]))
    return _function(f"tiled{spatial}", ["input", "filters", *indices, "shape"], nodes)


def threshold_function() -> onnx.FunctionProto:
    """`threshold(input, at)`: 1 where the input is above `at`, else 0, in the input's type."""
    nodes = [
        onnx.helper.make_node("Greater", ["input", "at"], ["above"]),
        onnx.helper.make_node("CastLike", ["above", "input"], ["output"]),
    ]
    return _function("threshold", ["input", "at"], nodes)


def softplus_function() -> onnx.FunctionProto:
    """`softplus(input, beta)`: `log(1 + exp(beta * input)) / beta`."""
    nodes = [
        onnx.helper.make_node("Mul", ["input", "beta"], ["steeper"]),
        onnx.helper.make_node("Softplus", ["steeper"], ["soft"]),
        onnx.helper.make_node("Div", ["soft", "beta"], ["output"]),
    ]
    return _function("softplus", ["input", "beta"], nodes)


def variance_function() -> onnx.FunctionProto:
    """`variance(input, mean, axes)`: the mean square of what is left of the input without the mean, over axes."""
    nodes = [
        onnx.helper.make_node("Sub", ["input", "mean"], ["rest"]),
        onnx.helper.make_node("Mul", ["rest", "rest"], ["square"]),
        onnx.helper.make_node("ReduceMean", ["square", "axes"], ["output"], keepdims=1),
    ]
    return _function("variance", ["input", "mean", "axes"], nodes)


def normalize_function() -> onnx.FunctionProto:
    """`normalize(input, mean, variance, scale, shift, epsilon)`: `(input - mean) / sqrt(variance + epsilon) * scale + shift`."""
    nodes = [
        onnx.helper.make_node("Sub", ["input", "mean"], ["rest"]),
        onnx.helper.make_node("Add", ["variance", "epsilon"], ["positive"]),
        onnx.helper.make_node("Sqrt", ["positive"], ["deviation"]),
        onnx.helper.make_node("Div", ["rest", "deviation"], ["normal"]),
        onnx.helper.make_node("Mul", ["normal", "scale"], ["scaled"]),
        onnx.helper.make_node("Add", ["scaled", "shift"], ["output"]),
    ]
    return _function("normalize", ["input", "mean", "variance", "scale", "shift", "epsilon"], nodes)


def _function(name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_function(DOMAIN, name, inputs, ["output"], nodes, opsets)


_ALL = (
    *map(tiled_function, _EQUATIONS),
    threshold_function(),
    softplus_function(),
    variance_function(),
    normalize_function(),
)
FUNCTIONS = {function.name: function for function in _ALL}
"""All of them, by name."""
