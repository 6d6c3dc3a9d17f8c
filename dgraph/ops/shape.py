"""Ops that cut, pad, repeat and reorder the elements of one tensor.

In: the dim of the input. Out: access maps that take every element of the result to one of the input, or outside. Promise: a split
names the letters of the input's dimensions; ops without a split follow their input exactly, so that nothing but halos is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dgraph.error import ConfigError
from dgraph.graph.access import Affine, Map, Space, label
from dgraph.graph.node import Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNTS, number
from dgraph.ops.label import dimension_labels, labels_map, spatial_labels, tile_labels, window_labels, windowed_of
from dgraph.ops.letter import ALL_MARGINS, MARGINS, RANGES, given, letters_of, permutation


def transpose_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[x[order[0]], x[order[1]], ...] = in[x]`: letters of a split are those of the input."""
    dim, order = dims["input"], attributes["order"]
    names = dimension_labels(len(dim))
    maps = {"input": labels_map(*names), "output": labels_map(*(names[d] for d in order))}
    return Access(Space(names, dim), maps, {"input": dim, "output": tuple(dim[d] for d in order)})


def slice_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = in[n, c, h * step + start]`, in every dimension that is named."""
    dim = dims["input"]
    index: list[Affine] = []
    extents = []
    for name, n, value in zip(dimension_labels(len(dim)), dim, given(attributes, len(dim)), strict=True):
        taken = range(n)[slice(*value)] if value else range(n)
        if not taken:
            raise ConfigError(f"{name.upper()} of {n}: {list(value)} leaves nothing", "start < stop")
        index.append(label(name, taken.step, taken.start))
        extents.append(len(taken))
    return _moved(dim, tuple(index), tuple(extents))


def crop_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = in[n, c, h + before]`"""
    dim = dims["input"]
    pairs = [pair or (0, 0) for pair in given(attributes, len(dim), "margin")]
    for letter, n, pair in zip(letters_of(len(dim)), dim, pairs, strict=True):
        if sum(pair) >= n:
            raise ConfigError(f"{letter} of {n}: a margin of {list(pair)} leaves nothing", "before + after < extent")
    return _shifted(dim, [(before, -before - after) for before, after in pairs])


def pad_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = in[n, c, h - before]`, and `value` where that is outside."""
    dim = dims["input"]
    pairs = [pair or (0, 0) for pair in given(attributes, len(dim), "padding")]
    return _shifted(dim, [(-before, before + after) for before, after in pairs])


def _shifted(dim: Dim, shifts: Sequence[tuple[int, int]]) -> Access:
    """(offset, by how much longer) in every dimension."""
    names = dimension_labels(len(dim))
    index = tuple(label(name, 1, offset) for name, (offset, _) in zip(names, shifts, strict=True))
    return _moved(dim, index, tuple(n + longer for n, (_, longer) in zip(dim, shifts, strict=True)))


def _moved(dim: Dim, index: Map, result: Dim) -> Access:
    names = dimension_labels(len(dim))
    maps = {"input": index, "output": labels_map(*names)}
    return Access(Space(names, result), maps, {"input": dim, "output": result})


def upsample_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h * scale + t] = in[n, c, h]`, or for `linear` the sum over i in 0, 1, 2 of `weight[t, i] * in[n, c, h + i - 1]`,
    in every spatial dimension. H of a split cuts the input's rows, so that the result is cut at multiples of the scale."""
    n, c, *extents = dims["input"]
    count = windowed_of(dims["input"])
    scale = attributes["scale"]
    h, t = spatial_labels(count), tile_labels(count)
    i = window_labels(count) if attributes["mode"] == "linear" else ()
    rows = tuple(Affine(((a, 1), (b, 1)), -1) for a, b in zip(h, i, strict=True)) if i else labels_map(*h)
    tiles = tuple(Affine(((a, s), (b, 1))) for a, b, s in zip(h, t, scale, strict=True))
    return Access(
        Space(("n", "c", *h, *t, *i), (n, c, *extents, *scale, *(3 for _ in i))),
        {"input": (*labels_map("n", "c"), *rows), "output": (*labels_map("n", "c"), *tiles)},
        {"input": dims["input"], "output": (n, c, *(m * s for m, s in zip(extents, scale, strict=True)))},
    )


def _mode(value: object, spatial: int) -> str:
    if value not in ("nearest", "linear"):
        raise ValueError("nearest or linear")
    return str(value)


def _moving(name: str, access: Callable[[Attributes, Mapping[str, Dim]], Access],
            attributes: Mapping[str, Attribute]) -> Op:  # fmt: skip
    return Op(
        name=name,
        access=access,
        inputs=("input",),
        attributes=attributes,
        gradient=Gradient(reads=(), of=("input",)),
        flops=0,
    )


TRANSPOSE = _moving("transpose", transpose_access, {"order": Attribute(permutation)})
SLICE = _moving("slice", slice_access, RANGES)
CROP = _moving("crop", crop_access, {**MARGINS, "margin": ALL_MARGINS})
PAD = _moving("pad", pad_access, {**MARGINS, "padding": ALL_MARGINS, "value": number(0)})
UPSAMPLE = Op(
    name="upsample",
    access=upsample_access,
    inputs=("input",),
    attributes={"scale": COUNTS, "mode": Attribute(_mode, "nearest")},
    uncut={
        **dict.fromkeys(tile_labels(3), "parts of a tile would leave gaps in the result"),
        **dict.fromkeys(window_labels(3), "at the edges the taps of a window are one"),
    },
    gradient=Gradient(reads=(), of=("input",)),
    flops=2,
)
OPS = (TRANSPOSE, SLICE, CROP, PAD, UPSAMPLE)
