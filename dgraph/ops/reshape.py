"""Ops that give the same elements, in the same order, other dimensions.

In: the dim of the input and the one wanted. Out: access maps over the factors that both dims are made of. Promise: a dimension that
stays, or the outermost of those that are merged or split, can be cut; all others are read whole.

    [4, 6] -> [2, 2, 6]      4 = 2 * 2, 6 = 6                labels n u0 c          [n*2 + u0, c] -> [n, u0, c]
    [4, 6, 5] -> [4, 30]     4 = 4, 6 * 5 = 30               labels n c u0          [n, c, u0] -> [n, c*5 + u0]
    [4, 6] -> [3, 8]         4 * 6 = 3 * 8, but 4 / 3 ...    labels v0 v1 v2 v3     [v0, v1] -> [v2, v3]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count, islice, pairwise
from math import prod
from operator import mul
from typing import Any

from dgraph.error import ConfigError
from dgraph.graph.access import Affine, Space, label
from dgraph.graph.node import Access, Attribute, Attributes, Dim, Gradient, Op
from dgraph.ops.label import dimension_labels
from dgraph.ops.letter import boundary, letters_of

_MOST = 32
"""So many labels of one kind have a reason why they may not be cut."""


def flatten_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """`out[n, c*H*W + h*W + w] = in[n, c, h, w]`: the dimensions before `axis`, and those from there on, are merged."""
    dim, axis = dims["input"], attributes["axis"]
    return reshaped(dim, (prod(dim[:axis]), prod(dim[axis:])))


def reshape_access(attributes: Attributes, dims: Mapping[str, Dim]) -> Access:
    """The same elements as a tensor of dim `shape`, in which 0 stands for the extent of the input there, -1 for what is left."""
    dim, shape = dims["input"], attributes["shape"]
    fault, elements = f"shape {list(shape)} does not fit an input of dim {list(dim)}", prod(dim)
    if 0 in shape[len(dim) :]:
        raise ConfigError(fault, f"0 keeps the extent of one of {len(dim)} dimensions")
    result = tuple(dim[d] if n == 0 else n for d, n in enumerate(shape))
    known = prod(n for n in result if n > 0)
    if -1 in result:
        if elements % known:
            raise ConfigError(fault, f"{elements} is no multiple of {known}")
        result = tuple(elements // known if n < 0 else n for n in result)
    elif known != elements:
        raise ConfigError(fault, f"{known} elements are not {elements}")
    return reshaped(dim, result)


def reshaped(dim: Dim, result: Dim) -> Access:
    """The access of an op that reads a tensor of one dim as one of another with as many elements."""
    names, inner, unlike = dimension_labels(len(dim)), _numbered("u"), _numbered("v")
    extents: dict[str, int] = {}
    source: list[Affine] = []
    target: list[Affine] = []
    for own, other in _groups(dim, result):
        edges = _edges(dim[own], result[other])
        if edges is None:
            sides = [{next(unlike): n for n in side} for side in (dim[own], result[other])]
            source += map(label, sides[0])
            target += map(label, sides[1])
            extents |= sides[0] | sides[1]
        else:
            factors = [b // a for a, b in pairwise(edges)]
            taken = [next(chain(names[own][:1], inner)), *islice(inner, len(factors) - 1)]
            source += _indices(dim[own], taken, edges)
            target += _indices(result[other], taken, edges)
            extents |= dict(zip(taken, factors, strict=True))
    return Access(
        Space(tuple(extents), tuple(extents.values())),
        {"input": tuple(source), "output": tuple(target)},
        {"input": dim, "output": result},
    )


def _numbered(letter: str) -> Iterator[str]:
    return (f"{letter}{k}" for k in count())


def _groups(dim: Dim, result: Dim) -> Iterator[tuple[slice, slice]]:
    """Runs of dimensions of both sides with equal products, as short as can be; an extent of 1 may stand for itself."""
    i = j = 0
    while i < len(dim) or j < len(result):
        first, second = i, j
        own, other = (*dim[i:], None)[0], (*result[j:], None)[0]
        if other is None or (own == 1 and other > 1):
            i += 1
        elif own is None or (other == 1 and own > 1):
            j += 1
        else:
            i, j = i + 1, j + 1
        while (p := prod(dim[first:i])) != (q := prod(result[second:j])):
            i, j = (i + 1, j) if p < q else (i, j + 1)
        yield slice(first, i), slice(second, j)


def _edges(own: Sequence[int], other: Sequence[int]) -> list[int] | None:
    """The products of leading extents of either side, from 1 on, if each divides the next: the edges of common factors."""
    edges = sorted({1, *accumulate(own, mul), *accumulate(other, mul)})
    if any(b % a for a, b in pairwise(edges)):
        return None
    return edges if len(edges) > 1 else [1, 1]


def _indices(extents: Sequence[int], names: Sequence[str], edges: Sequence[int]) -> Iterator[Affine]:
    """What each dimension is made of: its factors, the outermost first."""
    start = 1
    for extent in extents:
        stop = start * extent
        factors = zip(names, pairwise(edges), strict=True)
        yield Affine(tuple((name, stop // b) for name, (a, b) in factors if start <= a and b <= stop))
        start = stop


def _cuts(access: Access) -> Mapping[str, str | tuple[str, str]]:
    """The letters of the input's dimensions: each the outermost factor of its own."""
    index = access.maps["input"]
    letters = zip(letters_of(len(index)), index, strict=True)
    return {letter: expression.terms[0][0] for letter, expression in letters if expression.terms}


def _shape(value: Any, spatial: int) -> tuple[int, ...]:
    wanted = "a list of integers >= 1, 0 (keep) and at most one -1 (what is left)"
    if not isinstance(value, (list, tuple)) or not value or list(value).count(-1) > 1:
        raise ValueError(wanted)
    if any(isinstance(entry, bool) or not isinstance(entry, int) or entry < -1 for entry in value):
        raise ValueError(wanted)
    return tuple(value)


def _reshaping(name: str, access: Callable[[Attributes, Mapping[str, Dim]], Access], **attributes: Attribute) -> Op:
    return Op(
        name=name,
        access=access,
        inputs=("input",),
        attributes=attributes,
        cuts=_cuts,
        uncut={
            **{f"u{k}": "it is not the outermost of dimensions that are merged or split" for k in range(_MOST)},
            **{f"v{k}": "its dimensions are neither merged nor split" for k in range(_MOST)},
        },
        gradient=Gradient(reads=(), of=("input",)),
        flops=0,
    )


FLATTEN = _reshaping("flatten", flatten_access, axis=Attribute(boundary, 1))
RESHAPE = _reshaping("reshape", reshape_access, shape=Attribute(_shape))
OPS = (FLATTEN, RESHAPE)
