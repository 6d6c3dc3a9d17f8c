"""Statistics over some dimensions, normalisation by them, and dropout.

In: the dim of the input, the letters of the dimensions that a statistic is taken `over`. Out: access maps in which these labels
are summed. Promise: a statistic is a tensor with overlapping writes that add up, like any other: whatever the split, ranks
exchange as many numbers as there are statistics, never the input.

    batch norm     over N and space: one mean a channel            mean      [1, C, 1, 1]
    layer norm     over C and space: one mean a sample             mean      [N, 1, 1, 1]
    group norm     the same, a group of channels at a time         mean      [N, groups, 1, 1], channel = g * (C / groups) + c
    instance norm  over space                                      mean      [N, C, 1, 1]

The variance is a second pass around the mean, so that it is sound where the mean is large; its derivative by the mean is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

from dgraph.error import ConfigError
from dgraph.graph.access import ZERO, Affine, Map, Space, label
from dgraph.graph.node import Access, Attribute, Attributes, Dim, Gradient, Op, State
from dgraph.ops.attribute import GROUPS, flag, number, positive
from dgraph.ops.label import dimension_labels, labels_map
from dgraph.ops.letter import letters_of
from dgraph.rect import Rect

_WORDS: Mapping[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "batch": lambda letters: [one for one in letters if one != "C"],
    "sample": lambda letters: letters[1:],
    "space": lambda letters: letters[2:],
    "all": lambda letters: letters,
}


def _letters(value: Any, spatial: int) -> tuple[str, ...]:
    """Letters of dimensions, as a string, a list, or one of the words batch, sample, space, all."""
    allowed = list(letters_of(spatial + 2))
    wanted = f"different letters out of {', '.join(allowed)}, or one of {', '.join(_WORDS)}"
    if isinstance(value, str) and value in _WORDS:
        return tuple(_WORDS[value](allowed))
    entries = list(value) if isinstance(value, (str, list, tuple)) else [value]
    if any(entry not in allowed for entry in entries) or len(set(entries)) != len(entries):
        raise ValueError(wanted)
    return tuple(entries)


def _space(attributes: Attributes, dim: Dim) -> tuple[Space, Map, Map, Dim]:
    """The space, the maps of the input and of a statistic, and the statistic's dim."""
    over, groups = attributes["over"], attributes["groups"]
    names = dimension_labels(len(dim))
    grouped = groups > 1 and "C" in over
    if groups > 1 and (not grouped or dim[1] % groups):
        why = f"{dim[1]} channels" if grouped else f"the statistics are over {', '.join(over) or 'nothing'}, not over C"
        raise ConfigError(f"{groups} groups do not fit a tensor of dim {list(dim)}", why)
    labels: list[tuple[str, int]] = []
    source: list[Affine] = []
    statistic: list[Affine] = []
    kept: list[int] = []
    for name, extent in zip(names, dim, strict=True):
        if grouped and name == "c":
            inner = extent // groups
            labels += [("g", groups), ("c", inner)]
            source.append(Affine((("g", inner), ("c", 1))))
            statistic.append(label("g"))
            kept.append(groups)
        else:
            summed = name.upper() in over
            labels.append((name, extent))
            source.append(label(name))
            statistic.append(ZERO if summed else label(name))
            kept.append(1 if summed else extent)
    space = Space(tuple(name for name, _ in labels), tuple(extent for _, extent in labels))
    return space, tuple(source), tuple(statistic), tuple(kept)


def statistic_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[kept] = sum over the others of f(in) / how many`."""
    space, source, statistic, dim = _space(attributes, dims["input"])
    if dims.get("mean", dim) != dim:
        raise ConfigError(f"a mean of dim {list(dims['mean'])} does not fit", f"wanted is {list(dim)}")
    ports = ("mean", "running", "output")
    return Access(
        space,
        {"input": source, **dict.fromkeys(ports, statistic)},
        {"input": dims["input"], **dict.fromkeys(ports, dim)},
    )


def normalize_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out = (in - mean) / sqrt(variance + epsilon) * scale + shift`; scale and shift span the dimensions that `spans` names."""
    space, source, statistic, dim = _space(attributes, dims["input"])
    for port in ("mean", "variance"):
        if dims[port] != dim:
            raise ConfigError(f"a {port} of dim {list(dims[port])} does not fit", f"wanted is {list(dim)}")
    names = [name.upper() for name in dimension_labels(len(dims["input"]))]
    spanned = [name in attributes["spans"] for name in names]
    factors = tuple(e if kept else ZERO for e, kept in zip(source, spanned, strict=True))
    extents = tuple(n if kept else 1 for n, kept in zip(dims["input"], spanned, strict=True))
    return Access(
        space,
        {"input": source, "output": source}
        | dict.fromkeys(("mean", "variance"), statistic)
        | dict.fromkeys(("scale", "shift"), factors),
        {"input": dims["input"], "output": dims["input"]}
        | dict.fromkeys(("mean", "variance"), dim)
        | dict.fromkeys(("scale", "shift"), extents),
    )


def dropout_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`mask[n, c, h, w]` is 0 with probability `rate`, else 1 / (1 - rate); `out = in * mask`."""
    dim = dims["input"]
    names = dimension_labels(len(dim))
    ports = ("input", "output", "mask")
    return Access(Space(names, dim), dict.fromkeys(ports, labels_map(*names)), dict.fromkeys(ports, dim))


def cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    """Every label by its letter; channels that stand in groups by C as a whole, or by G."""
    names: dict[str, str | tuple[str, str]] = {name.upper(): name for name in access.space.labels}
    return names | {"C": ("g", "c")} if "G" in names else names


def summed(access: Access) -> int:
    """How many elements stand behind one value of a statistic."""
    return prod(access.dims["input"]) // prod(access.dims["mean"])


def summed_in(access: Access, pieces: Sequence[Rect], rows: int) -> int:
    """How many of them these pieces have together, of the first `rows` samples, if the statistic sums over samples."""
    kept = {name for expression in access.maps["mean"] for name, _ in expression.terms}
    found = 0
    for piece in pieces:
        box = access.space.box(piece)
        if "n" not in kept:
            first, last = box["n"]
            box |= {"n": (first, max(first, min(rows, last)))}
        found += prod(stop - start for name, (start, stop) in box.items() if name not in kept)
    return found


def _running(attributes: Attributes, access: Access) -> Mapping[str, Any]:
    """See `State.numbers`: a running variance is that of a population of which the batch is a sample."""
    elements = summed(access) if attributes.get("unbiased") else 1
    return {"momentum": attributes["momentum"], "elements": elements, "by_sample": "N" in attributes["over"]}


_OVER = {"over": Attribute(_letters, "batch"), "groups": GROUPS}
_MOMENTUM = {"momentum": number(0.1, "a number from 0 to 1", lambda value: 0 <= value <= 1)}

MEAN = Op(
    name="mean",
    access=statistic_access,
    inputs=("input", "running"),
    optional=("running",),
    states=MappingProxyType({"running": State("output", _running)}),
    attributes=_OVER | _MOMENTUM,
    cuts=cuts,
    gradient=Gradient(reads=(), of=("input",)),
)
VARIANCE = Op(
    name="variance",
    access=statistic_access,
    inputs=("input", "mean", "running"),
    optional=("running",),
    states=MappingProxyType({"running": State("output", _running, initial=1.0)}),
    attributes=_OVER | _MOMENTUM | {"unbiased": flag(True)},
    cuts=cuts,
    gradient=Gradient(reads=("input", "mean"), of=("input",)),
    flops=3,
)
NORMALIZE = Op(
    name="normalize",
    access=normalize_access,
    inputs=("input", "mean", "variance", "scale", "shift"),
    parameters=("scale", "shift"),
    optional=("scale", "shift"),
    attributes=_OVER | {"epsilon": positive(1e-5), "spans": Attribute(_letters, "C")},
    cuts=cuts,
    gradient=Gradient(reads=("input", "mean", "variance", "scale"), of=("scale", "shift", "mean", "variance", "input")),
    flops=4,
)
DROPOUT = Op(
    name="dropout",
    access=dropout_access,
    inputs=("input",),
    outputs=("output", "mask"),
    attributes={"rate": number(0.5, "a number >= 0 and < 1", lambda value: 0 <= value < 1)},
    gradient=Gradient(reads=("mask",), of=("input",)),
    flops=2,
)
OPS = (MEAN, VARIANCE, NORMALIZE, DROPOUT)
