"""Functions that a model of dgraph brings along, as the ops that they are.

In: a node that calls one. Out: nodes of the network. Promise: only what the functions of `dgraph.onnx.writing.function` compute
is read: the definition in the model must be that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx

from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.onnx.writing.function import DOMAIN, FUNCTIONS
from dgraph.ops.letter import letters_of


def is_own(node: Node, functions: Mapping[str, onnx.FunctionProto]) -> bool:
    """Whether a node calls one of dgraph's functions, with its very definition."""
    found, known = functions.get(node.op), FUNCTIONS.get(node.op)
    if node.domain != DOMAIN or found is None or known is None:
        return False
    ours, theirs = (one.SerializeToString(deterministic=True) for one in (known, found))
    return bool(ours == theirs)


def _number(intake: Intake, node: Node, op: str, key: str) -> None:
    value = float(str(intake.constant(node, 1).reshape(-1)[0]))
    intake.add(node, op, [("input", intake.given(node))], {key: value})


def _tiled(intake: Intake, node: Node, spatial: int) -> None:
    filters = intake.constant(node, 1)
    channels, *rest = map(int, filters.shape)
    tile, size, positions = rest[:spatial], rest[spatial + 1 : 2 * spatial + 1], rest[2 * spatial + 1 :]
    stride = []
    for d in range(spatial):
        index = intake.constant(node, 2 + d)
        step = int(index[1, 0] - index[0, 0]) if len(index) > 1 else 1
        if not np.array_equal(index, np.arange(positions[d])[:, None] * step + np.arange(size[d])):
            raise node.refuse(f"input {node.inputs[2 + d]} does not name the windows of a tiled filter")
        stride.append(step)
    attributes = {"channels": channels, "tile": tile, "size": size, "stride": stride}
    ports = [("input", intake.given(node)), ("filters", intake.parameter(node, 1, filters))]
    written = intake.tensors[intake.add(node, "tiled", ports, attributes)].dim
    if intake.integers(node, 2 + spatial)[1:] != list(written[1:]):
        raise node.refuse(f"input {node.inputs[2 + spatial]} is not the shape of the result, {list(written)}")


def _over(intake: Intake, node: Node, axes: list[int]) -> str:
    letters = letters_of(len(intake.dim(node)))
    return "".join(letter for d, letter in enumerate(letters) if d in axes)


def _variance(intake: Intake, node: Node) -> None:
    ports = [("input", intake.given(node)), ("mean", intake.given(node, 1))]
    intake.add(node, "variance", ports, {"over": _over(intake, node, intake.integers(node, 2))})


def _normalize(intake: Intake, node: Node) -> None:
    dim, mean = intake.dim(node), intake.dim(node, 1)
    ports = [(port, intake.given(node, k)) for k, port in enumerate(("input", "mean", "variance"))]
    spans: list[int] = []
    for k, port in ((3, "scale"), (4, "shift")):
        values = intake.constant(node, k)
        spans += [d for d, n in enumerate(values.shape) if n > 1]
        ports.append((port, intake.parameter(node, k, values)))
    over = _over(intake, node, [d for d, (n, m) in enumerate(zip(dim, mean, strict=True)) if m == 1 < n])
    epsilon = float(str(intake.constant(node, 5).reshape(-1)[0]))
    intake.add(node, "normalize", ports, {"over": over, "spans": _over(intake, node, spans), "epsilon": epsilon})


READ: Mapping[str, Callable[[Intake, Node], None]] = {
    "threshold": partial(_number, op="threshold", key="at"),
    "softplus": partial(_number, op="softplus", key="beta"),
    "tiled1": partial(_tiled, spatial=1),
    "tiled2": partial(_tiled, spatial=2),
    "tiled3": partial(_tiled, spatial=3),
    "variance": _variance,
    "normalize": _normalize,
}
