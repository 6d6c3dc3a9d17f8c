"""Copies, and sums of what several ranks wrote, in the order of the ranks.

In: arrays in that order, and where their sum goes. Out: an action. Promise: ((a + b) + c) + ..., whoever adds and wherever the
arrays lie, so that all readers of an element have the same bits; nothing is allocated when it runs. The result may lie where one
of the terms does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dgraph.kernels.call import Action, Array

BLOCK = 1 << 15
"""Elements of long flat sums that are added up at a time, so that they stay in the cache from term to term."""

COPIED, ADDED, ROWS = 3, 5, 64
"""Measured with NumPy 2: rows of so few elements are faster copied, or added, column by column, if there are so many of them."""


def bind_sum(out: Array, terms: Sequence[Array]) -> list[Action]:
    """Actions that set `out` to the sum of `terms`, all of its shape; to zero if there are none. At most one of them is `out`
    itself."""
    if not terms:
        return [partial(out.fill, 0)]
    if len(terms) == 1:
        return [] if _same(out, terms[0]) else bind_copy(out, terms[0])
    if len(terms) == 2 or out.ndim != 1 or out.size <= BLOCK:
        return _chain(out, terms)
    starts = range(0, out.size, BLOCK)
    return [a for at in starts for a in _chain(out[at : at + BLOCK], [term[at : at + BLOCK] for term in terms])]


def bind_copy(out: Array, source: Array) -> list[Action]:
    """Actions that make `out` the same as `source`."""
    return [partial(into.__setitem__, ..., part) for into, part in _columns(COPIED, *_runs(out, source))]


def _runs(*arrays: Array) -> tuple[Array, ...]:
    """The arrays with what lies side by side in all of them as one element of so many bytes: NumPy takes as long for a short run as
    for a single number. They themselves where nothing does, or everything."""
    first = arrays[0]
    order = sorted((axis for axis, n in enumerate(first.shape) if n > 1), key=lambda axis: abs(first.strides[axis]))
    run, inner = first.itemsize, 0
    while inner < len(order) and all(array.strides[order[inner]] == run for array in arrays):
        run *= first.shape[order[inner]]
        inner += 1
    if not first.size or inner in (0, len(order)):
        return arrays
    outer = order[: inner - 1 : -1]
    shape = (*(first.shape[axis] for axis in outer), run // first.itemsize)
    return tuple(
        as_strided(array, shape, (*(array.strides[axis] for axis in outer), first.itemsize)).view(f"V{run}")[..., 0]
        for array in arrays
    )


def _columns(most: int, out: Array, *others: Array) -> list[tuple[Array, ...]]:
    """The arrays, or where `out` has but a few elements in a row, and many rows, one array for each element of a row: NumPy goes
    along the shortest stride, however few steps there are."""
    strides = [abs(stride) if n > 1 else sys.maxsize for n, stride in zip(out.shape, out.strides, strict=True)]
    axis = strides.index(min(strides)) if strides else 0
    if not out.size or not 1 < out.shape[axis] <= most or out.size < ROWS * out.shape[axis]:
        return [(out, *others)]
    return [tuple(array[(slice(None),) * axis + (k,)] for array in (out, *others)) for k in range(out.shape[axis])]


def _chain(out: Array, terms: Sequence[Array]) -> list[Action]:
    """A term that lies where the sum goes is overwritten when it is added: until then the sum is made elsewhere."""
    own = next((k for k, term in enumerate(terms) if _same(out, term)), 0)
    total = out if own < 2 else np.empty_like(out)
    actions: list[Action] = []
    left = terms[0]
    for k, term in enumerate(terms[1:], start=1):
        into = out if k >= own else total
        actions += [partial(np.add, a, b, c) for c, a, b in _columns(ADDED, into, left, term)]
        left = into
    return actions


def _same(one: Array, other: Array) -> bool:
    return one.__array_interface__["data"][0] == other.__array_interface__["data"][0] and one.strides == other.strides
