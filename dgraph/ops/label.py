"""The labels that ops share: which letters stand for spatial dimensions, window offsets and tiles.

In: how many spatial dimensions. Out: label names, outermost first.
"""

from __future__ import annotations

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Affine, Map, label
from dgraph.graph.node import Dim


def spatial_labels(count: int) -> tuple[str, ...]:
    """Labels of the spatial dimensions: w, hw or dhw."""
    return ("d", "h", "w")[3 - count :]


def window_labels(count: int) -> tuple[str, ...]:
    """Labels of the offsets in a window: j, ij or lij."""
    return ("l", "i", "j")[3 - count :]


def position_labels(count: int) -> tuple[str, ...]:
    """Labels of the positions of tiles."""
    return ("gz", "gy", "gx")[3 - count :]


def tile_labels(count: int) -> tuple[str, ...]:
    """Labels of the places in a tile."""
    return ("tz", "ty", "tx")[3 - count :]


def dimension_labels(ndim: int) -> tuple[str, ...]:
    """One label a dimension of a tensor with any number of them: n, c, spatial letters; beyond five dimensions x2, x3 ..."""
    if ndim < 1:
        raise ConfigError("a tensor without dimensions cannot be an input here")
    names = ("n", "c", *spatial_labels(ndim - 2)) if 2 <= ndim <= 5 else ("n", "c", *(f"x{d}" for d in range(2, ndim)))
    return names[:ndim]


def labels_map(*names: str) -> Map:
    """The map that takes one label a dimension; "0" stands for the index 0."""
    return tuple(ZERO if name == "0" else label(name) for name in names)


def is_alike(dim: Dim, other: Dim) -> bool:
    """Whether two dims are the same but for last extents of 1."""
    longest = max(len(dim), len(other))
    return (*dim, *(1,) * longest)[:longest] == (*other, *(1,) * longest)[:longest]


def with_ndim(index: Map, ndim: int) -> Map:
    """A map of an operand whose last dimensions, those more or fewer than the map's, have extents of 1."""
    return (*index, *(ZERO,) * ndim)[:ndim]


def spatial_of(dim: Dim) -> int:
    """How many spatial dimensions a tensor [N, C, spatial ...] has."""
    if not 2 <= len(dim) <= 5:
        raise ConfigError(
            f"a tensor of dim {list(dim)} cannot be an input here", "wanted is [N, C] and up to 3 spatial dimensions"
        )
    return len(dim) - 2


def windowed_of(dim: Dim) -> int:
    """How many spatial dimensions a tensor has in which windows lie; ConfigError where there are none."""
    count = spatial_of(dim)
    if not count:
        raise ConfigError(f"a tensor of dim {list(dim)} cannot be an input here", "wanted are spatial dimensions")
    return count


def window_map(outer: tuple[str, ...], inner: tuple[str, ...], stride: tuple[int, ...],
               dilation: tuple[int, ...], before: tuple[int, ...]) -> Map:  # fmt: skip
    """`outer * stride + inner * dilation - before`, for every spatial dimension."""
    return tuple(
        Affine(((o, s), (i, d)), -p) for o, i, s, d, p in zip(outer, inner, stride, dilation, before, strict=True)
    )


def window_extents(extents: Dim, size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...],
                   padding: tuple[tuple[int, int], ...]) -> Dim:  # fmt: skip
    """How many windows fit, for every spatial dimension; ConfigError where none does."""
    counts = []
    for n, k, s, d, (before, after) in zip(extents, size, stride, dilation, padding, strict=True):
        room = n + before + after - (d * (k - 1) + 1)
        if room < 0:
            raise ConfigError(
                f"a window of {d * (k - 1) + 1} does not fit into {n + before + after}",
                f"input extents {list(extents)}, size {list(size)}",
            )
        counts.append(room // s + 1)
    return tuple(counts)


def transposed_extents(extents: Dim, size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...],
                       padding: tuple[tuple[int, int], ...], beyond: tuple[int, ...]) -> Dim:  # fmt: skip
    """How far the windows of a transposed convolution reach, without the padding and with `beyond` at the end, for every spatial
    dimension; ConfigError where nothing is left."""
    reached = tuple(
        (n - 1) * s + d * (k - 1) + 1 - before - after + more
        for n, k, s, d, (before, after), more in zip(extents, size, stride, dilation, padding, beyond, strict=True)
    )
    if min(reached, default=1) < 1:
        raise ConfigError(
            f"padding {[list(pair) for pair in padding]} leaves an output of {list(reached)}",
            f"input extents {list(extents)}, size {list(size)}",
        )
    return reached
