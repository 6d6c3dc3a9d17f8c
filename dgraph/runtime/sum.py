"""Sums of what several ranks wrote, in the order of the ranks.

In: arrays in that order, and where their sum goes. Out: an action. Promise: ((a + b) + c) + ..., whoever adds and wherever the
arrays lie, so that all readers of an element have the same bits; nothing is allocated when it runs. The result may lie where one
of the terms does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dgraph.kernels.call import Action, Array

BLOCK = 1 << 15
"""Elements of long flat sums that are added up at a time, so that they stay in the cache from term to term."""


def bind_sum(out: Array, terms: Sequence[Array]) -> list[Action]:
    """Actions that set `out` to the sum of `terms`, all of its shape; to zero if there are none. At most one of them is `out`
    itself."""
    if not terms:
        return [partial(out.fill, 0)]
    if len(terms) == 1:
        return [] if _same(out, terms[0]) else [partial(np.copyto, out, terms[0])]
    if len(terms) == 2 or out.ndim != 1 or out.size <= BLOCK:
        return _chain(out, terms)
    starts = range(0, out.size, BLOCK)
    return [a for at in starts for a in _chain(out[at : at + BLOCK], [term[at : at + BLOCK] for term in terms])]


def _chain(out: Array, terms: Sequence[Array]) -> list[Action]:
    """A term that lies where the sum goes is overwritten when it is added: until then the sum is made elsewhere."""
    own = next((k for k, term in enumerate(terms) if _same(out, term)), 0)
    total = out if own < 2 else np.empty_like(out)
    actions: list[Action] = []
    left = terms[0]
    for k, term in enumerate(terms[1:], start=1):
        into = out if k >= own else total
        actions.append(partial(np.add, left, term, into))
        left = into
    return actions


def _same(one: Array, other: Array) -> bool:
    return one.__array_interface__["data"][0] == other.__array_interface__["data"][0] and one.strides == other.strides
