"""Nonlinearities: what of the forward op each gradient reads again, and their attributes.

In: the dim of the input, of any number of dimensions. Out: maps that take every label once. Promise: a gradient reads `output`
where that tells all, else `input`, so that it is right for every value of the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.graph.access import Space
from dgraph.graph.node import EMPTY, Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import choice, letters, number, positive
from dgraph.ops.label import dimension_labels, labels_map
from dgraph.ops.letter import dimension
from dgraph.ops.pointwise import pointwise_access, spanning


def prelu_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out = max(in, 0) + slope * min(in, 0)`; slope has the dimensions that `spans` names and is repeated over the others."""
    plain = pointwise_access(attributes, dims)
    index, dim = spanning(attributes["spans"], dims["input"])
    return Access(plain.space, {**plain.maps, "slope": index}, {**plain.dims, "slope": dim})


def softmax_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, k, h] = exp(in[n, k, h]) / sum over k`, where k is the dimension `axis`."""
    dim = dims["input"]
    names = tuple("k" if d == attributes["axis"] else name for d, name in enumerate(dimension_labels(len(dim))))
    same = labels_map(*names)
    return Access(Space(names, dim), {"input": same, "output": same}, {"input": dim, "output": dim})


def _softmax_cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    """The letters of the dimensions, that of `axis` included."""
    names = dimension_labels(len(access.dims["input"]))
    return {name.upper(): own for name, own in zip(names, access.space.labels, strict=True)}


def _nonlinearity(name: str, reads: tuple[str, ...], attributes: Mapping[str, Attribute] = EMPTY) -> Op:
    return Op(
        name=name,
        access=pointwise_access,
        inputs=("input",),
        attributes=attributes,
        gradient=Gradient(reads=reads, of=("input",)),
    )


THRESHOLD = Op(name="threshold", access=pointwise_access, inputs=("input",), attributes={"at": number(0.0)})
"""1 above `at`, else 0. Its derivative is 0 wherever there is one, so that nothing is trained through it."""
PRELU = Op(
    name="prelu",
    access=prelu_access,
    inputs=("input", "slope"),
    parameters=("slope",),
    attributes={"spans": letters("C")},
    gradient=Gradient(reads=("input", "slope"), of=("slope", "input")),
    flops=2,
)
SOFTMAX_ACTIVATION = Op(
    name="softmax_activation",
    access=softmax_access,
    inputs=("input",),
    attributes={"axis": Attribute(dimension, "C")},
    cuts=_softmax_cuts,
    uncut={"k": "a softmax needs all values along its axis"},
    gradient=Gradient(reads=("output",), of=("input",)),
    flops=4,
)
OPS = (
    THRESHOLD,
    _nonlinearity("identity", ()),
    _nonlinearity("logistic", ("output",)),
    _nonlinearity("tanh", ("output",)),
    _nonlinearity("relu", ("output",)),
    _nonlinearity("leaky_relu", ("input",), {"slope": number(0.01)}),
    PRELU,
    _nonlinearity("elu", ("input",), {"alpha": number(1.0)}),
    _nonlinearity("softplus", ("output",), {"beta": positive(1.0)}),
    _nonlinearity("gelu", ("input",), {"approximate": choice("none", "tanh")}),
    _nonlinearity("silu", ("input",)),
    SOFTMAX_ACTIVATION,
)
