"""The ops that frame a network: the data at its front, the zeroing, the measuring and the update of what it accumulates.

In: dims. Out: maps that take every dimension as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Affine, Space, label
from dgraph.graph.node import Access, Attribute, Attributes, Dim, Op
from dgraph.ops.attribute import COUNT, DIM, READING, SHAPE
from dgraph.ops.label import labels_map, spatial_labels


def data_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """A mini-batch: `raw_data[n, c, h, w]`, and `labels[n, 0, 0, 0]`, or of another label shape: of K channels at as many places
    as the sample has, `labels[n, k, h, w]`; at other places, `labels[n, k, ph, pw]`."""
    batch, shape = attributes["batch"], attributes["shape"]
    label_shape = padded(attributes["label_shape"] or (1,), shape)
    spatial = spatial_labels(len(shape) - 1)
    names = ("n", "c", *spatial)
    shared = zip(spatial, shape[1:], label_shape[1:], strict=True)
    places = ("k", *(name if extent == places else f"p{name}" for name, extent, places in shared))
    own = {name: extent for name, extent in zip(places, label_shape, strict=True) if extent > 1 and name not in names}
    labels = (label(name) if extent > 1 else ZERO for name, extent in zip(places, label_shape, strict=True))
    return Access(
        Space((*names, *own), (batch, *shape, *own.values())),
        {"raw_data": labels_map(*names), "labels": (label("n"), *labels)},
        {"raw_data": (batch, *shape), "labels": (batch, *label_shape)},
    )


def padded(label_shape: Dim, shape: Dim) -> Dim:
    """A label shape with 1s at its end, of as many dimensions as a sample. Raises ConfigError if it has more."""
    if len(label_shape) > len(shape):
        what = f"label_shape {list(label_shape)} has more dimensions than shape {list(shape)}"
        raise ConfigError(what, "labels lie beside their sample").about("data", "label_shape")
    return label_shape + (1,) * (len(shape) - len(label_shape))


def _label_shape(value: Any, spatial: int) -> Dim | None:
    return None if value is None else SHAPE.read(value, spatial)


def input_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """A tensor of any dim that is given by name."""
    return whole_access(("output",), attributes["dim"])


def whole_access(ports: tuple[str, ...], dim: Dim) -> Access:
    """Every port is one tensor's own elements: the space of update and zeroing nodes, labels x0 x1 ..."""
    names = tuple(f"x{d}" for d in range(len(dim)))
    same = labels_map(*names)
    return Access(Space(names, dim), dict.fromkeys(ports, same), dict.fromkeys(ports, dim))


def update_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Reads the gradient and writes the parameter, element by element; reads all norms, with each."""
    return _with_norms(whole_access(("gradient", "output"), dims["gradient"]), dims)


def measure_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Reads the gradient, and all norms found before; writes the row `row` of norms [parameters, 1 or 2]."""
    others = {port: dim for port, dim in dims.items() if port != "norms"}
    plain, norms = _with_norms(whole_access(("gradient",), dims["gradient"]), others), dims["norms"]
    return Access(
        Space((*plain.space.labels, "m"), (*plain.space.extents, norms[1])),
        {**plain.maps, "norms": (Affine((), attributes["row"]), label("m"))},
        {**plain.dims, "norms": norms},
    )


def _with_norms(plain: Access, dims: Mapping[str, Dim]) -> Access:
    """The access, in which all of every further tensor in `dims` is read."""
    space, maps = plain.space, dict(plain.maps)
    for port, dim in dims.items():
        if port != "gradient":
            names = tuple(f"{port}{d}" for d in range(len(dim)))
            space = Space((*space.labels, *names), (*space.extents, *dim))
            maps[port] = labels_map(*names)
    return Access(space, maps, {**plain.dims, **dims})


def zero_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """Sets a gradient tensor to zero before anything is added into it."""
    return whole_access(("output",), dims["output"])


DATA = Op(
    name="data",
    access=data_access,
    inputs=(),
    outputs=("raw_data", "labels"),
    attributes={"batch": COUNT, "shape": SHAPE, "label_shape": Attribute(_label_shape, None), "read": READING},
    flops=0,
    traced=(("result_dim", "raw_data"), ("dist_result", "raw_data")),
)
INPUT = Op(name="input", access=input_access, inputs=(), attributes={"dim": DIM, "read": READING}, flops=0)
NORMS = ("gradient_norms", "step_norms")
"""The ports by which updates read norms."""
UPDATE = Op(name="update", access=update_access, inputs=("gradient", *NORMS), optional=NORMS, flops=2)
MEASURE = Op(
    name="measure",
    access=measure_access,
    inputs=("gradient", "gradient_norms"),
    outputs=("norms",),
    optional=("gradient_norms",),
    flops=2,
    traced=(("result_dim", "norms"), ("dist_input", "gradient"), ("dist_result", "norms")),
)
ZERO_OP = Op(name="zero", access=zero_access, inputs=(), flops=0, traced=())
FOLLOW = Op(name="follow", access=update_access, inputs=("gradient",), flops=3)
OPS = (DATA, INPUT, UPDATE, MEASURE, ZERO_OP, FOLLOW)
