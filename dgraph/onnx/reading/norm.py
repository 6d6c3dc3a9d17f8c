"""Norms and means of ONNX as dgraph has them.

In: a node of a model. Out: nodes of the network. Promise: a norm is three nodes (mean, variance, normalisation by them);
running statistics are states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dgraph.onnx.reading.intake import Intake
from dgraph.onnx.reading.node import Node
from dgraph.ops.letter import letters_of

_NORMALIZE = ".normalize"
PER_CHANNEL = 21
"""From this operator set on a group norm has a scale a channel; before, one a group."""


def _norm(intake: Intake, node: Node, over: Mapping[str, Any], spans: str, factors: Sequence[str],
          states: Sequence[str] = (), momentum: float | None = None) -> None:  # fmt: skip
    """The three nodes of a norm; `factors` are the parameters scale and shift, `states` the running mean and variance."""
    node.name = node.name.removesuffix(_NORMALIZE)
    given = ("input", intake.given(node))
    running = [[("running", state)] for state in states] or [[], []]
    following = {} if momentum is None else {"momentum": momentum}
    # ONNX's running variance is that of the batch itself.
    unbiased = {"unbiased": False} if states else {}
    mean = intake.step(node, "mean", [given, *running[0]], {**over, **following}, ".mean")
    ports = [given, ("mean", mean), *running[1]]
    variance = intake.step(node, "variance", ports, {**over, **following, **unbiased}, ".variance")
    ports = [given, ("mean", mean), ("variance", variance), *zip(("scale", "shift"), factors, strict=False)]
    attributes = {**over, "epsilon": node.number("epsilon", 1e-5), "spans": spans}
    intake.add(node, "normalize", ports, attributes, mark=_NORMALIZE)


def _per_channel(intake: Intake, node: Node, *inputs: int) -> list[str]:
    """Parameters or states of one number a channel."""
    dim = intake.dim(node)
    names = []
    for k in inputs:
        values = intake.constant(node, k)
        if len(dim) < 2 or values.shape != dim[1:2]:
            raise node.refuse(f"input {node.inputs[k]} of dim {list(values.shape)}", f"the input has dim {list(dim)}")
        names.append(intake.parameter(node, k, values.reshape(1, -1, *(1 for _ in dim[2:]))))
    return names


def _batch(intake: Intake, node: Node) -> None:
    """In training mode the statistics are those of the batch; running ones are other outputs."""
    factors = _per_channel(intake, node, 1, 2)
    momentum = round(1 - node.number("momentum", 0.9), 8)
    if node.expect("training_mode", 0, 1):
        _norm(intake, node, {"over": "batch"}, "C", factors)
    else:
        _norm(intake, node, {"over": "batch"}, "C", factors, _per_channel(intake, node, 3, 4), momentum)


def _instance(intake: Intake, node: Node) -> None:
    _norm(intake, node, {"over": "space"}, "C", _per_channel(intake, node, 1, 2))


def _group(intake: Intake, node: Node) -> None:
    node.take("stash_type")
    groups, channels = node.take("num_groups"), intake.dim(node)[1:2]
    if node.opset < PER_CHANNEL:
        wide = [np.repeat(intake.constant(node, k), max(1, channels[0] // groups)) for k in (1, 2)]
        shape = (1, -1, *(1 for _ in intake.dim(node)[2:]))
        factors = [intake.parameter(node, k, values.reshape(shape)) for k, values in zip((1, 2), wide, strict=True)]
    else:
        factors = _per_channel(intake, node, 1, 2)
    _norm(intake, node, {"over": "sample", "groups": groups}, "C", factors)


def _layer(intake: Intake, node: Node) -> None:
    node.take("stash_type")
    dim = intake.dim(node)
    axis = node.take("axis", -1)
    if not -len(dim) <= axis < len(dim):
        raise node.refuse(f"attribute axis is {axis}", f"the input has {len(dim)} dimensions")
    axis %= len(dim)
    letters = "".join(letters_of(len(dim))[axis:])
    factors = []
    for k in (1, 2) if intake.has(node, 2) else (1,):
        values = intake.constant(node, k)
        try:
            whole = np.broadcast_to(values, dim[axis:])
        except ValueError:
            raise node.refuse(f"input {node.inputs[k]} of dim {list(values.shape)} does not fit") from None
        factors.append(intake.parameter(node, k, whole.reshape(*(1 for _ in dim[:axis]), *whole.shape)))
    _norm(intake, node, {"over": letters}, letters, factors)


def _reduce_mean(intake: Intake, node: Node) -> None:
    dim = intake.dim(node)
    nothing = node.expect("noop_with_empty_axes", 0, 1)
    given = node.take("axes")
    axes = list(given) if given is not None else intake.integers(node, 1, ())
    if nothing and not axes:
        node.take("keepdims")
        intake.add(node, "identity", [("input", intake.given(node))])
        return
    if any(not -len(dim) <= axis < len(dim) for axis in axes):
        raise node.refuse(f"axes {axes}", f"the input has {len(dim)} dimensions")
    summed = {axis % len(dim) for axis in axes or range(len(dim))}
    over = {"over": "".join(letter for d, letter in enumerate(letters_of(len(dim))) if d in summed)}
    ports = [("input", intake.given(node))]
    if node.expect("keepdims", 1, 0):
        intake.add(node, "mean", ports, over)
        return
    rest = [n for d, n in enumerate(dim) if d not in summed]
    if not rest:
        raise node.refuse("attribute keepdims is 0", "nothing would be left of the dimensions")
    mean = intake.step(node, "mean", ports, over)
    intake.add(
        node, "reshape", [("input", mean)], {"shape": [0, *rest[1:]] if 0 not in summed else rest}, mark=".reshape"
    )


READ: Mapping[str, Callable[[Intake, Node], None]] = {
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "LayerNormalization": _layer,
    "ReduceMean": _reduce_mean,
}
