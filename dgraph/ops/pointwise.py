"""Element-wise ops: affine, and the access of all others.

In: the dim of the input, of any number of dimensions. Out: maps that take every label once.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.graph.access import ZERO, Map, Space, label
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import letters
from dgraph.ops.label import dimension_labels, labels_map


def pointwise_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h, w] = f(in[n, c, h, w])`."""
    dim = dims["input"]
    names = dimension_labels(len(dim))
    same = labels_map(*names)
    return Access(Space(names, dim), {"input": same, "output": same}, {"input": dim, "output": dim})


def affine_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out = a * in + b`; a and b span the dimensions that `scale` and `bias` name and are repeated over the others. An a that
    spans none is one number, of dim [1]."""
    plain = pointwise_access(attributes, dims)
    b, dim = spanning(attributes["bias"], dims["input"])
    a, factors = spanning(attributes["scale"], dims["input"]) if attributes["scale"] else ((ZERO,), (1,))
    return Access(plain.space, {**plain.maps, "a": a, "b": b}, {**plain.dims, "a": factors, "b": dim})


def spanning(letters: str, dim: Dim) -> tuple[Map, Dim]:
    """Map and dim of an operand that has the dimensions with these letters, and 1 in place of the others."""
    names = dimension_labels(len(dim))
    kept = [name.upper() in letters for name in names]
    index = tuple(label(name) if there else ZERO for name, there in zip(names, kept, strict=True))
    return index, tuple(n if there else 1 for n, there in zip(dim, kept, strict=True))


AFFINE = Op(
    name="affine",
    access=affine_access,
    inputs=("input", "a", "b"),
    parameters=("a", "b"),
    optional=("a", "b"),
    attributes={"bias": letters("C"), "scale": letters("")},
    gradient=Gradient(reads=("input", "a", "b"), of=("a", "b", "input"), only={"input": "a"}),
    flops=2,
)
OPS = (AFFINE,)
