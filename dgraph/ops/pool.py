"""Pooling: the largest or the mean of every window, the largest of all.

In: the dim of the input and the window. Out: access maps with a window, as a convolution's, but channel by channel. Promise: every
window holds an element of the input.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import Space
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNTS, DILATION, PADDING, POOL_STRIDE, flag
from dgraph.ops.label import (
    labels_map,
    spatial_labels,
    spatial_of,
    window_extents,
    window_labels,
    window_map,
    windowed_of,
)


def pool_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = f over i of in[n, c, h*s + i*d - p]` in every spatial dimension; the stride is the size unless given."""
    n, c, *extents = dims["input"]
    count = windowed_of(dims["input"])
    size, padding = attributes["size"], attributes["padding"]
    stride, dilation = attributes["stride"] or size, attributes["dilation"]
    windows = _windows(tuple(extents), size, stride, dilation, padding, attributes["ceil"])
    h, i = spatial_labels(count), window_labels(count)
    return Access(
        Space(("n", "c", *h, *i), (n, c, *windows, *size)),
        {
            "input": (*labels_map("n", "c"), *window_map(h, i, stride, dilation, tuple(p for p, _ in padding))),
            "output": labels_map("n", "c", *h),
        },
        {"input": dims["input"], "output": (n, c, *windows)},
    )


def _windows(extents: Dim, size: Dim, stride: Dim, dilation: Dim, padding: tuple[tuple[int, int], ...],
             ceil: bool) -> Dim:  # fmt: skip
    """How many windows there are; with `ceil` also a last one that reaches beyond the padding, if it starts before it."""
    reach = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    if any(max(pair) >= r for pair, r in zip(padding, reach, strict=True)):
        raise _empty_window(f"padding {[list(pair) for pair in padding]} is as large as the window {list(size)}")
    if not ceil:
        counts = window_extents(extents, size, stride, dilation, padding)
    else:
        wider = tuple((before, after + s - 1) for (before, after), s in zip(padding, stride, strict=True))
        reached = window_extents(extents, size, stride, dilation, wider)
        corners = zip(reached, stride, extents, padding, strict=True)
        counts = tuple(m - ((m - 1) * s >= n + before) for m, s, n, (before, _) in corners)
    for n, m, r, s, d, (before, _) in zip(extents, counts, reach, stride, dilation, padding, strict=True):
        starts = range(-before, m * s - before, s)
        if not all(any(0 <= place < n for place in range(start, start + r, d)) for start in starts):
            raise _empty_window(f"a window of {list(size)} with dilation {list(dilation)} falls beside the input")
    return counts


def _empty_window(what: str) -> ConfigError:
    return ConfigError(what, "every window needs something of the input")


def global_max_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, 0] = max over h of in[n, c, h]`, over all spatial dimensions."""
    n, c, *extents = dims["input"]
    h = spatial_labels(spatial_of(dims["input"]))
    return Access(
        Space(("n", "c", *h), (n, c, *extents)),
        {"input": labels_map("n", "c", *h), "output": labels_map("n", "c", *("0" for _ in h))},
        {"input": dims["input"], "output": (n, c, *(1 for _ in h))},
    )


_WINDOW = {"size": COUNTS, "stride": POOL_STRIDE, "padding": PADDING, "dilation": DILATION, "ceil": flag(False)}
_LINES = (("result_dim", "output"), ("dist_input", "input"), ("dist_result", "output"))

MAX_POOL = Op(
    name="max_pool",
    access=pool_access,
    inputs=("input",),
    attributes=_WINDOW,
    uncut=dict.fromkeys("lij", "the largest of a window is no sum of parts"),
    gradient=Gradient(reads=("input", "output"), of=("input",)),
    traced=_LINES,
)
AVERAGE_POOL = Op(
    name="average_pool",
    access=pool_access,
    inputs=("input",),
    attributes=_WINDOW | {"count_padding": flag(False)},
    gradient=Gradient(reads=(), of=("input",)),
    traced=_LINES,
)
GLOBAL_MAX_POOL = Op(
    name="global_max_pool",
    access=global_max_access,
    inputs=("input",),
    uncut=dict.fromkeys("dhw", "the largest of a channel is no sum of parts"),
    gradient=Gradient(reads=("input", "output"), of=("input",)),
    traced=_LINES,
)
OPS = (MAX_POOL, AVERAGE_POOL, GLOBAL_MAX_POOL)
