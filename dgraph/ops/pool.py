"""Pooling: the largest or the mean of every window.

In: the dim of the input and the window. Out: access maps with a window, as a convolution's, but channel by channel.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import Space
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNTS, PADDING, POOL_STRIDE, flag
from dgraph.ops.label import labels_map, spatial_labels, spatial_of, window_extents, window_labels, window_map


def pool_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c, h] = f over i of in[n, c, h*s + i - p]` in every spatial dimension; the stride is the size unless given."""
    n, c, *extents = dims["input"]
    count = spatial_of(dims["input"])
    size, padding = attributes["size"], attributes["padding"]
    stride = attributes["stride"] or size
    if any(max(pair) >= k for pair, k in zip(padding, size, strict=True)):
        raise ConfigError(
            f"padding {[list(pair) for pair in padding]} is as large as the window {list(size)}",
            "every window needs something of the input",
        )
    ones = (1,) * count
    windows = window_extents(tuple(extents), size, stride, ones, padding)
    h, i = spatial_labels(count), window_labels(count)
    return Access(
        Space(("n", "c", *h, *i), (n, c, *windows, *size)),
        {
            "input": (*labels_map("n", "c"), *window_map(h, i, stride, ones, tuple(p for p, _ in padding))),
            "output": labels_map("n", "c", *h),
        },
        {"input": dims["input"], "output": (n, c, *windows)},
    )


_WINDOW = {"size": COUNTS, "stride": POOL_STRIDE, "padding": PADDING}
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
OPS = (MAX_POOL, AVERAGE_POOL)
