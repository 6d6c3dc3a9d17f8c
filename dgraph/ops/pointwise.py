"""Element-wise ops: affine and the nonlinearities.

In: the dim of the input. Out: maps that take every label once.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.graph.access import ZERO, Space, label
from dgraph.graph.node import EMPTY, Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import letters, number
from dgraph.ops.label import labels_map, spatial_labels, spatial_of


def _labels(dim: Dim) -> tuple[str, ...]:
    return ("n", "c", *spatial_labels(spatial_of(dim)))


def pointwise_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h, w] = f(in[n, c, h, w])`."""
    dim = dims["input"]
    names = _labels(dim)
    same = labels_map(*names)
    return Access(Space(names, dim), {"input": same, "output": same}, {"input": dim, "output": dim})


def affine_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out = a * in + b` with one number `a`; b spans the dimensions that `bias` names and is repeated over the others."""
    plain = pointwise_access(attributes, dims)
    spanned = [name.upper() in attributes["bias"] for name in plain.space.labels]
    names = plain.space.labels
    return Access(
        plain.space,
        dict(plain.maps)
        | {
            "a": (ZERO,),
            "b": tuple(label(name) if kept else ZERO for name, kept in zip(names, spanned, strict=True)),
        },
        dict(plain.dims)
        | {"a": (1,), "b": tuple(n if kept else 1 for n, kept in zip(dims["input"], spanned, strict=True))},
    )


AFFINE = Op(
    name="affine",
    access=affine_access,
    inputs=("input", "a", "b"),
    parameters=("a", "b"),
    optional=("a", "b"),
    attributes={"bias": letters("C")},
    gradient=Gradient(reads=("input", "a", "b"), of=("a", "b", "input")),
    flops=2,
)


def _nonlinearity(name: str, reads: tuple[str, ...], attributes: Mapping[str, Attribute] = EMPTY) -> Op:
    return Op(
        name=name,
        access=pointwise_access,
        inputs=("input",),
        attributes=attributes,
        gradient=Gradient(reads=reads, of=("input",)),
    )


NONLINEARITIES = (
    _nonlinearity("identity", ()),
    _nonlinearity("logistic", ("output",)),
    _nonlinearity("tanh", ("output",)),
    _nonlinearity("relu", ("output",)),
    _nonlinearity("leaky_relu", ("output",), {"slope": number(0.01)}),
)
OPS = (AFFINE, *NONLINEARITIES)
