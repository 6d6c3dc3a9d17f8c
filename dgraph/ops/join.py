"""Ops that join several tensors: sum, product, concatenation.

In: the dims of a family of ports `input0, input1, ...`. Out: access maps over the labels of the result. Promise: what a
dimension of extent 1 (or a missing leading one) is repeated over is a label that its map lacks, so that its delta is a sum.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Space, label
from dgraph.graph.node import Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.label import dimension_labels, labels_map
from dgraph.ops.letter import dimension


def broadcast_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = f(in0[n, c, h], in1[0, c, h], ...)`: dims are aligned at their ends, and those of extent 1 repeated, as
    NumPy does."""
    dim = _broadcast(dims)
    names = dimension_labels(len(dim))
    maps = {"output": labels_map(*names)}
    for port, own in dims.items():
        last = len(dim) - len(own)
        pairs = zip(names[last:], own, dim[last:], strict=True)
        maps[port] = tuple(label(name) if n == whole else ZERO for name, n, whole in pairs)
    return Access(Space(names, dim), maps, {**dims, "output": dim})


def _broadcast(dims: Mapping[str, Dim]) -> Dim:
    """The dim of the result; ConfigError where dims do not fit."""
    (first, result), *others = dims.items()
    for port, dim in others:
        longer, shorter = (result, dim) if len(result) >= len(dim) else (dim, result)
        tail = longer[len(longer) - len(shorter) :]
        if any(a != b and 1 not in (a, b) for a, b in zip(tail, shorter, strict=True)):
            raise ConfigError(
                f"{port} of dim {list(dim)} does not fit {first} of dim {list(dims[first])}",
                "dims are equal, or 1, counted from the last",
            )
        result = (*longer[: -len(shorter)], *(max(a, b) for a, b in zip(tail, shorter, strict=True)))
    return result


def concat_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = in_k[n, c - (channels of the inputs before k), h]`, where that is one of its channels."""
    (first, dim), *others = ordered = sorted(dims.items(), key=lambda item: (len(item[0]), item[0]))
    axis = attributes["axis"]
    for port, other in others:
        if len(other) != len(dim) or any(a != b for d, (a, b) in enumerate(zip(dim, other, strict=True)) if d != axis):
            raise ConfigError(
                f"{port} of dim {list(other)} does not fit {first} of dim {list(dim)}",
                f"they may differ in dimension {axis} alone",
            )
    names = dimension_labels(len(dim))
    maps, before = {}, 0
    for port, own in ordered:
        maps[port] = tuple(label(name, 1, -before if d == axis else 0) for d, name in enumerate(names))
        before += own[axis]
    result = tuple(before if d == axis else n for d, n in enumerate(dim))
    return Access(Space(names, result), {**maps, "output": labels_map(*names)}, {**dims, "output": result})


def _joining(name: str, reads: tuple[str, ...]) -> Op:
    return Op(
        name=name,
        access=broadcast_access,
        inputs=("input",),
        many=("input",),
        gradient=Gradient(reads=reads, of=("input",)),
    )


ADD = _joining("add", ())
MULTIPLY = _joining("multiply", ("input",))
CONCAT = Op(
    name="concat",
    access=concat_access,
    inputs=("input",),
    many=("input",),
    proportional=True,
    attributes={"axis": Attribute(dimension, "C")},
    gradient=Gradient(reads=(), of=("input",)),
    flops=0,
)
OPS = (ADD, MULTIPLY, CONCAT)
