"""Convolutions, linear and tiled layers, and pools, as ONNX has them.

In: a node of the graph. Out: nodes of the draft. Promise: the same sums in another order; a bias that alone reads the result is
the bias of the ONNX node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from dgraph.error import ConfigError
from dgraph.graph.node import OpNode
from dgraph.onnx.writing.draft import Draft, result, source
from dgraph.onnx.writing.function import tiled_function


def _window(node: OpNode) -> dict[str, Any]:
    """Size, stride, padding and dilation as ONNX calls them."""
    values = node.attributes
    if not values["size"]:
        raise ConfigError(f"node {node.name}: a window without spatial dimensions is nothing in ONNX").about(node.name)
    before, after = zip(*values["padding"], strict=True)
    return {
        "kernel_shape": values["size"],
        "strides": values["stride"] or values["size"],
        "pads": (*before, *after),
        "dilations": values.get("dilation"),
    }


def _biased(draft: Draft, node: OpNode) -> tuple[list[str], str]:
    """The bias that a node takes over, if there is one, and the tensor that it then writes."""
    bias = draft.biases.get(node.name)
    if bias is None:
        return [], result(node)
    return [draft.parameter(source(bias, "b"), (node.access.dims["output"][1],))], result(bias)


def _conv(draft: Draft, node: OpNode) -> None:
    filters = draft.parameter(source(node, "filters"), node.access.dims["filters"])
    bias, output = _biased(draft, node)
    name = "ConvTranspose" if node.op == "conv_transpose" else "Conv"
    more = {"group": node.attributes["groups"], "output_padding": node.attributes.get("output_padding")}
    draft.node(name, [source(node), filters, *bias], output, node.name, {**_window(node), **more})


def _linear(draft: Draft, node: OpNode) -> None:
    """Gemm; before it Flatten, behind it the spatial extents of 1 that the result has, where it does not do without."""
    features, *inner = node.access.dims["weights"]
    weights = draft.parameter(source(node, "weights"), (features, prod(inner)))
    bias, output = _biased(draft, node)
    given = source(node)
    if len(inner) > 1 and given not in draft.flat:
        given = draft.node("Flatten", [given], f"{node.name}.flat", f"{node.name}.flatten", {"axis": 1})
    is_flat = len(inner) == 1 or output in draft.flat
    flat = output if is_flat else f"{node.name}.features"
    draft.node("Gemm", [given, weights, *bias], flat, node.name, {"transB": 1})
    if not is_flat:
        name = f"{node.name}.reshape"
        shape = draft.integers(f"{name}.shape", [0, features, *(1 for _ in inner[1:])])
        draft.node("Reshape", [flat, shape], output, name)


def _tiled(draft: Draft, node: OpNode) -> None:
    dims, values = node.access.dims, node.attributes
    spatial = len(values["size"])
    positions = dims["filters"][-spatial:]
    inputs = [source(node), draft.parameter(source(node, "filters"), dims["filters"])]
    for d, (count, stride, size) in enumerate(zip(positions, values["stride"], values["size"], strict=True)):
        index = np.arange(count)[:, None] * stride + np.arange(size)
        inputs.append(draft.integers(f"{node.name}.index{d}", index))
    inputs.append(draft.integers(f"{node.name}.shape", [0, *dims["output"][1:]]))
    draft.call(tiled_function(spatial), inputs, result(node), node.name)


def _pool(draft: Draft, node: OpNode) -> None:
    largest = node.op == "max_pool"
    more = {"ceil_mode": int(node.attributes["ceil"])}
    if not largest:
        more["count_include_pad"] = int(node.attributes["count_padding"])
    op = "MaxPool" if largest else "AveragePool"
    draft.node(op, [source(node)], result(node), node.name, {**_window(node), **more})


def _global_max_pool(draft: Draft, node: OpNode) -> None:
    draft.node("GlobalMaxPool", [source(node)], result(node), node.name)


def _local_response_norm(draft: Draft, node: OpNode) -> None:
    values = node.attributes
    numbers = {"size": values["size"], "alpha": values["alpha"], "beta": values["beta"], "bias": values["k"]}
    draft.node("LRN", [source(node)], result(node), node.name, numbers)


EMIT: Mapping[str, Callable[[Draft, OpNode], None]] = {
    "conv": _conv,
    "conv_transpose": _conv,
    "linear": _linear,
    "tiled": _tiled,
    "max_pool": _pool,
    "average_pool": _pool,
    "global_max_pool": _global_max_pool,
    "local_response_norm": _local_response_norm,
}
