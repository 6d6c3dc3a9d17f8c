"""Ops that sum products of two operands: tiled filter, convolution, transposed convolution, linear.

In: attributes and the dim of the input. Out: their access maps. Promise: all that layout, plan and kernels know of these ops
is in the maps.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import Affine, Space, label
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNT, COUNTS, DILATION, GROUPS, OUTPUT_PADDING, PADDING, STRIDE
from dgraph.ops.label import (
    labels_map,
    position_labels,
    spatial_labels,
    spatial_of,
    tile_labels,
    transposed_extents,
    window_extents,
    window_labels,
    window_map,
    windowed_of,
)


def tiled_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """A filter of its own for every position, shared by the places of a tile:
    `out[n, o, g*T + t] = sum over c, i of in[n, c, g*s + i] * filters[o, t, c, i, g]` in every spatial dimension."""
    n, c, *extents = dims["input"]
    count = windowed_of(dims["input"])
    size, stride, tile, channels = (attributes[key] for key in ("size", "stride", "tile", "channels"))
    ones, zeros = (1,) * count, (0,) * count
    g, t, i = position_labels(count), tile_labels(count), window_labels(count)
    positions = window_extents(tuple(extents), size, stride, ones, tuple((0, 0) for _ in size))
    pairs = [(a, b) for pair in zip(g, t, strict=True) for a, b in [(pair[0], pair[1])]]
    interleaved = tuple(name for pair in pairs for name in pair)
    sizes = tuple(e for pair in zip(positions, tile, strict=True) for e in pair)
    return Access(
        Space(("n", "o", *interleaved, "c", *i), (n, channels, *sizes, c, *size)),
        {
            "input": (*labels_map("n", "c"), *window_map(g, i, stride, ones, zeros)),
            "filters": labels_map("o", *t, "c", *i, *g),
            "output": (
                *labels_map("n", "o"),
                *(Affine(((a, e), (b, 1))) for (a, b), e in zip(pairs, tile, strict=True)),
            ),
        },
        {
            "input": dims["input"],
            "filters": (channels, *tile, c, *size, *positions),
            "output": (n, channels, *(p * e for p, e in zip(positions, tile, strict=True))),
        },
    )


def _tiled_cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    names = {name.upper(): name for name in access.space.labels}
    count = len(access.dims["input"]) - 2
    spatial = zip(spatial_labels(count), position_labels(count), strict=True)
    return names | {name.upper(): position for name, position in spatial}


def conv_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, o, h] = sum over c, i of in[n, c, h*s + i*d - p] * filters[o, c, i]` in every spatial dimension; with
    groups, o and c run within their group g."""
    n, c, *extents = dims["input"]
    count = windowed_of(dims["input"])
    size, stride, dilation, padding = (attributes[key] for key in ("size", "stride", "dilation", "padding"))
    channels, groups = attributes["channels"], attributes["groups"]
    out, inner = _per_group(channels, c, groups)
    windows = window_extents(tuple(extents), size, stride, dilation, padding)
    h, i = spatial_labels(count), window_labels(count)
    group, (lead, taken) = _group_labels(groups, ("o", out), ("c", inner))
    return Access(
        Space(("n", *group, "o", *h, "c", *i), (n, *group.values(), out, *windows, inner, *size)),
        {
            "input": (label("n"), taken, *window_map(h, i, stride, dilation, tuple(p for p, _ in padding))),
            "filters": (lead, *labels_map("c", *i)),
            "output": (label("n"), lead, *labels_map(*h)),
        },
        {
            "input": dims["input"],
            "filters": (channels, inner, *size),
            "output": (n, channels, *windows),
        },
    )


def _conv_cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    names: dict[str, str | tuple[str, str]] = {name.upper(): name for name in access.space.labels}
    return names | {"O": ("g", "o")} if "G" in names else names


def conv_transpose_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, o, h*s + i*d - p] += in[n, c, h] * filters[c, o, i]` in every spatial dimension: the gradient of a convolution by its
    input, as a forward op; with groups, c and o run within their group g. What no window reaches is zero."""
    n, c, *extents = dims["input"]
    count = windowed_of(dims["input"])
    size, stride, dilation, padding = (attributes[key] for key in ("size", "stride", "dilation", "padding"))
    channels, groups = attributes["channels"], attributes["groups"]
    out, inner = _per_group(channels, c, groups)
    reached = transposed_extents(tuple(extents), size, stride, dilation, padding, attributes["output_padding"])
    h, i = spatial_labels(count), window_labels(count)
    group, (lead, taken) = _group_labels(groups, ("o", out), ("c", inner))
    return Access(
        Space(("n", *group, "c", *h, "o", *i), (n, *group.values(), inner, *extents, out, *size)),
        {
            "input": (label("n"), taken, *labels_map(*h)),
            "filters": (taken, *labels_map("o", *i)),
            "output": (label("n"), lead, *window_map(h, i, stride, dilation, tuple(p for p, _ in padding))),
        },
        {
            "input": dims["input"],
            "filters": (c, out, *size),
            "output": (n, channels, *reached),
        },
    )


def _per_group(channels: int, inputs: int, groups: int) -> tuple[int, int]:
    """How many output and input channels a group has."""
    if inputs % groups or channels % groups:
        raise ConfigError(f"{groups} groups do not divide {inputs} input and {channels} output channels")
    return channels // groups, inputs // groups


def _group_labels(groups: int, *channels: tuple[str, int]) -> tuple[dict[str, int], tuple[Affine, ...]]:
    """The label of groups with its extent, if there are several; and `g * extent + label` for each of (label, extent)."""
    if groups == 1:
        return {}, tuple(label(name) for name, _ in channels)
    return {"g": groups}, tuple(Affine((("g", extent), (name, 1))) for name, extent in channels)


def linear_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, k] = sum over c, h, w of in[n, c, h, w] * weights[k, c, h, w]`; the output keeps spatial extents of 1."""
    n, *inner = dims["input"]
    h = spatial_labels(spatial_of(dims["input"]))
    features = attributes["features"]
    return Access(
        Space(("n", "k", "c", *h), (n, features, *inner)),
        {
            "input": labels_map("n", "c", *h),
            "weights": labels_map("k", "c", *h),
            "output": labels_map("n", "k", *("0" for _ in h)),
        },
        {
            "input": dims["input"],
            "weights": (features, *inner),
            "output": (n, features, *(1 for _ in h)),
        },
    )


def _linear_cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    return {name.upper(): name for name in access.space.labels} | {"O": "k"}


_WINDOW_LINES = (
    ("result_dim", "output"),
    ("dist_input", "input"),
    ("dist_filters", "filters"),
    ("dist_result", "output"),
)

TILED = Op(
    name="tiled",
    access=tiled_access,
    inputs=("input", "filters"),
    parameters=("filters",),
    attributes={"channels": COUNT, "tile": COUNTS, "size": COUNTS, "stride": STRIDE},
    cuts=_tiled_cuts,
    gradient=Gradient(reads=("input", "filters"), of=("filters", "input")),
    flops=2,
    traced=_WINDOW_LINES,
)
_FILTER = {
    "channels": COUNT,
    "size": COUNTS,
    "stride": STRIDE,
    "padding": PADDING,
    "dilation": DILATION,
    "groups": GROUPS,
}
CONV = Op(
    name="conv",
    access=conv_access,
    inputs=("input", "filters"),
    parameters=("filters",),
    attributes=_FILTER,
    cuts=_conv_cuts,
    gradient=Gradient(reads=("input", "filters"), of=("filters", "input")),
    flops=2,
    traced=_WINDOW_LINES,
)
CONV_TRANSPOSE = Op(
    name="conv_transpose",
    access=conv_transpose_access,
    inputs=("input", "filters"),
    parameters=("filters",),
    attributes=_FILTER | {"output_padding": OUTPUT_PADDING},
    cuts=_conv_cuts,
    gradient=Gradient(reads=("input", "filters"), of=("filters", "input")),
    flops=2,
    traced=_WINDOW_LINES,
)
LINEAR = Op(
    name="linear",
    access=linear_access,
    inputs=("input", "weights"),
    parameters=("weights",),
    attributes={"features": COUNT},
    cuts=_linear_cuts,
    gradient=Gradient(reads=("input", "weights"), of=("weights", "input")),
    flops=2,
    traced=(("read_rect", "input"), ("write_rect", "output")),
    traced_gradient=(("read_rect", "output.delta"), ("write_rect", "input.delta")),
)
OPS = (TILED, CONV, CONV_TRANSPOSE, LINEAR)
