"""Local response normalisation: every element divided by a power of the sum of squares of its neighbours in the channels.

In: the dim of the input, the size of the window. Out: access maps with a window over channels: a halo over channels where those are
cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from dgraph.error import ConfigError
from dgraph.graph.access import Affine, Space
from dgraph.graph.node import Access, Attributes, Dim, Gradient, Op
from dgraph.ops.attribute import COUNT, number
from dgraph.ops.label import dimension_labels, labels_map

WINDOW = "j"
"""The label of the places in a window."""


def before(size: int) -> int:
    """How many channels of a window stand before the element's own: ONNX's rule (an even window of PyTorch is the mirror image)."""
    return (size - 1) // 2


def response_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c] = in[n, c] * (k + alpha / size * sum over j of in[n, c + j - before]^2) ^ -beta`, at every place in space.

    Krizhevsky, Sutskever and Hinton 2012, section 3.3, with alpha divided by the size.
    """
    dim, size = dims["input"], attributes["size"]
    if len(dim) < 2:
        raise ConfigError(f"a tensor of dim {list(dim)} has no channels", "wanted is [N, C, ...]")
    names = dimension_labels(len(dim))
    n, _, *h = labels_map(*names)
    return Access(
        Space((*names, WINDOW), (*dim, size)),
        {"input": (n, Affine((("c", 1), (WINDOW, 1)), -before(size)), *h), "output": labels_map(*names)},
        {"input": dim, "output": dim},
    )


LOCAL_RESPONSE_NORM = Op(
    name="local_response_norm",
    access=response_access,
    inputs=("input",),
    attributes={"size": COUNT, "alpha": number(1e-4), "beta": number(0.75), "k": number(1.0)},
    uncut={WINDOW: "an element is divided by a power of its whole window"},
    gradient=Gradient(reads=("input",), of=("input",)),
    flops=3,
    traced=(("result_dim", "output"), ("dist_input", "input"), ("dist_result", "output")),
)
OPS = (LOCAL_RESPONSE_NORM,)
