"""A box walked in bounded bites.

In: sizes and a limit. Out: small rects. Promise: pure integers; the bites one after the other are the box in C order,
so that what is streamed bite by bite is the same as what is streamed whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from dgraph.rect import Rect, share


def blocks(size: Sequence[int], limit: int) -> Iterator[Rect]:
    """Rects of at most `limit` (>= 1) elements that cover a box of this size, from its corner, in C order.

    One dimension is cut in even shares, those before it go one by one, those behind it stay whole:

        size [2, 5, 3], limit 9  ->  [1, 3, 3] [1, 2, 3] [1, 3, 3] [1, 2, 3]
    """
    if not all(size):
        return
    cut = len(size)
    inner = 1
    while cut and inner * size[cut - 1] <= limit:
        cut -= 1
        inner *= size[cut]
    if not cut:
        yield Rect.whole(size)
        return
    parts = -(-size[cut - 1] // (limit // inner))
    rest = [(0, n) for n in size[cut:]]
    for *outer, part in product(*map(range, size[: cut - 1]), range(parts)):
        yield Rect.of([*((i, i + 1) for i in outer), share(size[cut - 1], parts, part), *rest])


def strides(dim: Sequence[int]) -> tuple[int, ...]:
    """How many elements apart two neighbours along each dimension lie in C order."""
    return tuple(prod(dim[d + 1 :]) for d in range(len(dim)))
