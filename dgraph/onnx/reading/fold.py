"""Nodes whose result is known before a network runs: shapes, and what is computed of constants.

In: a node whose inputs are constants, or whose result is a shape. Out: its value. Promise: only ops whose results are no larger
than their inputs, or of few elements; what they are is ONNX's own reference.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from dgraph.kernels.call import Array
from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node

_MOVING = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
_COMPUTING = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Cast", "CastLike", "Concat", "Gather", "Slice"),
    *("ReduceProd", "Floor", "Ceil", "Min", "Max", "Equal", "Where"),
)
_MOST = 1 << 12
"""So many elements may all inputs of an op have whose result may be larger."""
FOLDED = (*_MOVING, *_COMPUTING, "Shape", "Size", "Constant")
"""Ops whose results may be known."""


def folded(intake: Intake, node: Node, proto: onnx.NodeProto) -> Array | None:
    """The value of a node's output, if it is known; None where it must be computed. Raises ConfigError where it cannot be."""
    if node.op in ("Shape", "Size"):
        dim = intake.constant(node, 0).shape if intake.is_constant(node, 0) else intake.dim(node)
        return np.array(
            prod(dim) if node.op == "Size" else dim[slice(node.take("start", 0), node.take("end"))], np.int64
        )
    if node.op == "CastLike" and intake.is_constant(node, 0) and not intake.is_constant(node, 1):
        intake.given(node, 1)
        return intake.constant(node, 0).astype(intake.dtype)
    constants = [intake.constants.get(name) for name in node.inputs if name]
    known = [array for array in constants if array is not None]
    if node.op not in (*_MOVING, *_COMPUTING) or len(known) < len(constants) or not known:
        return None
    if node.op in _COMPUTING and sum(array.size for array in known) > _MOST:
        return None
    given: dict[str, Array] = {name: np.asarray(intake.constants[name]) for name in node.inputs if name}
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    infos = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = onnx.helper.make_graph([proto], "fold", infos, [onnx.helper.make_empty_tensor_value_info(node.outputs[0])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", node.opset)])
    try:
        (value,) = ReferenceEvaluator(model).run(None, given)
    # The reference raises whatever its NumPy raises.
    except Exception as error:
        raise node.refuse("it cannot be computed", str(error).partition("\n")[0]) from None
    return np.asarray(value)
