"""Convolutions, matrix products and pools of ONNX as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: a bias becomes a node of its own behind the sum; automatic padding is
spelt out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dgraph.kernels.call import Array
from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.ops.letter import letters_of

Pairs = list[list[int]]
_AUTOMATIC = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def _pairs(node: Node, extents: Sequence[int], size: Sequence[int], stride: Sequence[int],
           dilation: Sequence[int]) -> Pairs:  # fmt: skip
    """Padding before and after every spatial dimension. SAME gives as many windows as strides fit into the input."""
    count = len(size)
    automatic = node.expect("auto_pad", *_AUTOMATIC)
    pads = node.numbers("pads", [0] * 2 * count)
    if automatic in ("NOTSET", "VALID"):
        if min(pads, default=0) < 0:
            raise node.refuse(f"attribute pads is {pads}", "padding is at least 0")
        return [[pads[d], pads[count + d]] for d in range(count)] if automatic == "NOTSET" else [[0, 0]] * count
    pairs = []
    for n, k, s, d in zip(extents, size, stride, dilation, strict=True):
        whole = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        pairs.append(_halves(whole, automatic))
    return pairs


def _halves(whole: int, automatic: str) -> list[int]:
    """The two sides of a padding; what is odd stands at the end, or at the start for SAME_LOWER."""
    less, more = whole // 2, whole - whole // 2
    return [less, more] if automatic == "SAME_UPPER" else [more, less]


def _spatial(intake: Intake, node: Node) -> list[int]:
    dim = intake.dim(node)
    if not 3 <= len(dim) <= 5:
        raise node.refuse(f"an input of dim {list(dim)}", "1 to 3 spatial dimensions are supported")
    return list(dim[2:])


def _filters(intake: Intake, node: Node, extents: Sequence[int]) -> tuple[Any, list[int]]:
    """The filters, and the size of their window."""
    filters = intake.constant(node, 1)
    if filters.ndim != len(extents) + 2:
        raise node.refuse(f"filters of dim {list(filters.shape)} do not fit an input of dim {list(intake.dim(node))}")
    size = node.numbers("kernel_shape", [int(n) for n in filters.shape[2:]])
    if size != list(filters.shape[2:]):
        raise node.refuse(f"attribute kernel_shape is {size}", f"the filters have dim {list(filters.shape)}")
    return filters, size


def _conv(intake: Intake, node: Node) -> None:
    extents = _spatial(intake, node)
    filters, size = _filters(intake, node, extents)
    ones = [1] * len(size)
    stride, dilation = node.numbers("strides", ones), node.numbers("dilations", ones)
    attributes = {
        "channels": int(filters.shape[0]),
        "size": size,
        "stride": stride,
        "padding": _pairs(node, extents, size, stride, dilation),
        "dilation": dilation,
        "groups": node.take("group", 1),
    }
    biased(intake, node, "conv", attributes, ("filters", intake.parameter(node, 1, filters)))


def _conv_transpose(intake: Intake, node: Node) -> None:
    extents = _spatial(intake, node)
    filters, size = _filters(intake, node, extents)
    ones, zeros = [1] * len(size), [0] * len(size)
    stride, dilation = node.numbers("strides", ones), node.numbers("dilations", ones)
    beyond, groups = node.numbers("output_padding", zeros), node.take("group", 1)
    padding, beyond = _transposed_padding(node, extents, size, stride, dilation, beyond)
    attributes = {
        "channels": int(filters.shape[1]) * groups,
        "size": size,
        "stride": stride,
        "padding": padding,
        "output_padding": beyond,
        "dilation": dilation,
        "groups": groups,
    }
    biased(intake, node, "conv_transpose", attributes, ("filters", intake.parameter(node, 1, filters)))


def _transposed_padding(node: Node, extents: Sequence[int], size: Sequence[int], stride: Sequence[int],
                        dilation: Sequence[int], beyond: list[int]) -> tuple[Pairs, list[int]]:  # fmt: skip
    """Padding of a transposed convolution and what it has beyond its windows, also from the shape that is wanted."""
    wanted = node.take("output_shape")
    automatic = node.expect("auto_pad", *_AUTOMATIC)
    if wanted is None and automatic in ("NOTSET", "VALID"):
        return _pairs(node, extents, size, stride, dilation), beyond
    node.take("pads")
    windows = zip(extents, size, stride, dilation, beyond, strict=True)
    reach = [s * (n - 1) + b + d * (k - 1) + 1 for n, k, s, d, b in windows]
    shape = list(wanted)[-len(size) :] if wanted else [n * s for n, s in zip(extents, stride, strict=True)]
    missing = [n - r for r, n in zip(reach, shape, strict=True)]
    # The larger half stands at the end for SAME_UPPER alone: so says the operator's definition.
    side = "SAME_UPPER" if automatic == "SAME_UPPER" else "SAME_LOWER"
    padding = [_halves(max(0, -n), side) for n in missing]
    return padding, [b + max(0, n) for b, n in zip(beyond, missing, strict=True)]


def biased(intake: Intake, node: Node, op: str, attributes: Mapping[str, Any], weights: tuple[str, str]) -> None:
    """A node with weights, and one for its bias of one number a channel, where there is one."""
    ports = [("input", intake.given(node)), weights]
    if not intake.has(node, 2):
        intake.add(node, op, ports, attributes)
        return
    first = intake.step(node, op, ports, attributes)
    dim, bias = intake.tensors[first].dim, intake.constant(node, 2)
    if bias.shape != dim[1:2]:
        raise node.refuse(f"a bias of dim {list(bias.shape)}", f"one number for each of {dim[1]} channels is needed")
    name = intake.parameter(node, 2, bias.reshape(1, -1, *(1 for _ in dim[2:])))
    intake.add(node, "affine", [("input", first), ("b", name)], {"bias": "C"}, mark="A")


def _gemm(intake: Intake, node: Node) -> None:
    """`alpha * input' * weights' + beta * bias`, with the factors taken into weights and bias."""
    weights = _matrix(intake, node, node.expect("transB", 0, 1) == 0)
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    given = intake.given(node)
    if len(intake.dim(node)) != 2:
        raise node.refuse(f"an input of dim {list(intake.dim(node))}", "two dimensions are needed")
    if node.expect("transA", 0, 1):
        given = intake.step(node, "transpose", [("input", given)], {"order": [1, 0]}, mark=".transpose")
    name = intake.parameter(node, 1, weights * np.asarray(alpha, weights.dtype), f"transposed {alpha}")
    ports, attributes = [("input", given), ("weights", name)], {"features": int(weights.shape[0])}
    if not intake.has(node, 2):
        intake.add(node, "linear", ports, attributes)
        return
    first = intake.step(node, "linear", ports, attributes)
    bias = intake.constant(node, 2)
    shift(intake, node, 2, first, bias * np.asarray(beta, bias.dtype), f"times {beta}")


def shift(intake: Intake, node: Node, k: int, given: str, values: Any, how: str = "", mark: str = "A") -> None:
    """Adds a constant, which is repeated over dimensions where it has an extent of 1."""
    spans, whole = spanned(intake, node, given, values)
    name = intake.parameter(node, k, whole, how)
    intake.add(node, "affine", [("input", given), ("b", name)], {"bias": spans}, mark=mark)


def spanned(intake: Intake, node: Node, given: str, values: Array) -> tuple[str, Array]:
    """The letters that a constant spans of a tensor, and the constant with as many dimensions as that has."""
    dim = intake.tensors[given].dim
    if values.ndim > len(dim):
        raise node.refuse(f"a constant of dim {list(values.shape)}", f"it makes more of an input of dim {list(dim)}")
    whole = values.reshape(*(1 for _ in dim[values.ndim :]), *values.shape)
    return "".join(letter for letter, n in zip(letters_of(len(dim)), whole.shape, strict=True) if n > 1), whole


def _matmul(intake: Intake, node: Node) -> None:
    """A product with a constant matrix; with a vector, that of a matrix of one column, and the column then goes."""
    if intake.constant(node, 1).ndim != 1:
        _product(intake, node, _matrix(intake, node, True), intake.add)
        return
    product = _product(intake, node, intake.constant(node, 1)[None], intake.step)
    rest = intake.tensors[product].dim[1:-1]
    intake.add(node, "reshape", [("input", product)], {"shape": [0, *rest]}, mark=".reshape")


def _product(intake: Intake, node: Node, weights: Array, last_step: Callable[..., str]) -> str:
    """A product with weights [features, channels]; of more than two dimensions, a convolution of size 1 over the last."""
    dim, given, features = intake.dim(node), intake.given(node), int(weights.shape[0])
    if len(dim) == 2:
        ports = [("input", given), ("weights", intake.parameter(node, 1, weights, "transposed"))]
        return last_step(node, "linear", ports, {"features": features})
    if not 3 <= len(dim) <= 5:
        raise node.refuse(f"an input of dim {list(dim)}", "two to five dimensions are supported")
    ones = [1] * (len(dim) - 2)
    filters = intake.parameter(node, 1, weights.reshape(*weights.shape, *ones), "transposed")
    first, *middle, last = range(len(dim))
    front = intake.step(node, "transpose", [("input", given)], {"order": [first, last, *middle]}, mark=".front")
    ports = [("input", front), ("filters", filters)]
    product = intake.step(node, "conv", ports, {"channels": features, "size": ones})
    back = {"order": [0, *range(2, len(dim)), 1]}
    return last_step(node, "transpose", [("input", product)], back, mark=".back")


def _matrix(intake: Intake, node: Node, transposed: bool) -> Any:
    """The weights [features, channels] of a product."""
    weights = intake.constant(node, 1)
    if weights.ndim != 2:
        raise node.refuse(f"weights of dim {list(weights.shape)}", "two dimensions are needed")
    return weights.T if transposed else weights


def _pool(intake: Intake, node: Node) -> None:
    extents = _spatial(intake, node)
    ones = [1] * len(extents)
    size, stride = node.numbers("kernel_shape", ones), node.numbers("strides", ones)
    dilation = node.numbers("dilations", ones)
    automatic = node.expect("auto_pad", *_AUTOMATIC)
    attributes: dict[str, Any] = {
        "size": size,
        "stride": stride,
        "padding": _pairs(node, extents, size, stride, dilation),
        "dilation": dilation,
    }
    if node.expect("ceil_mode", 0, 1) and automatic == "NOTSET":
        attributes["ceil"] = True
    if node.op == "MaxPool":
        # The order in which another output, that of indices, counts.
        node.take("storage_order")
    elif node.expect("count_include_pad", 0, 1):
        attributes["count_padding"] = True
    op = "max_pool" if node.op == "MaxPool" else "average_pool"
    intake.add(node, op, [("input", intake.given(node))], attributes)


def _global_average_pool(intake: Intake, node: Node) -> None:
    _spatial(intake, node)
    intake.add(node, "mean", [("input", intake.given(node))], {"over": "space"})


def _global_max_pool(intake: Intake, node: Node) -> None:
    _spatial(intake, node)
    intake.add(node, "global_max_pool", [("input", intake.given(node))])


def _lrn(intake: Intake, node: Node) -> None:
    attributes = {
        "size": node.take("size"),
        "alpha": node.number("alpha", 1e-4),
        "beta": node.number("beta", 0.75),
        "k": node.number("bias", 1.0),
    }
    intake.add(node, "local_response_norm", [("input", intake.given(node))], attributes)


READ: Mapping[str, Callable[[Intake, Node], None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "LRN": _lrn,
}
