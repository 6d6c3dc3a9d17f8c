"""Messages as they travel: all that one rank sends another in a flight stands in one block.

In: the messages of tensors, arrays like theirs. Out: blocks by peer and views in them. Promise: rects stand one behind the other,
tensor by tensor, each in the order of its tensor's memory, which is the same on all ranks; so sender and receiver find the same
block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dgraph.kernels.call import Array
from dgraph.plan.message import Messages

Tensors = Sequence[tuple[Messages, Array | None]]
"""Of every tensor, its messages and an array like them: None where there are none."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One block a peer, and for every tensor a view for each of its messages, in their order."""

    blocks: dict[int, Array]
    views: list[list[Array]]

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())


def packed(tensors: Tensors, block: Callable[[int, int], Array] | None = None) -> Packed:
    """The blocks of all messages of some tensors; `block(peer, elements)` gives the flat memory of one, else it is new."""
    sizes: dict[int, int] = {}
    starts: list[list[int]] = []
    for messages, _ in tensors:
        starts.append([])
        for peer, rect in messages:
            starts[-1].append(sizes.get(peer, 0))
            sizes[peer] = sizes.get(peer, 0) + rect.volume
    dtype = next((like.dtype for _, like in tensors if like is not None), np.dtype(np.uint8))
    make = block or (lambda peer, elements: np.empty(elements, dtype=dtype))
    blocks = {peer: make(peer, size)[:size] for peer, size in sorted(sizes.items())}
    views = [
        [
            shaped(blocks[peer][at : at + rect.volume], rect.size, memory_order(like))
            for (peer, rect), at in zip(messages, places, strict=True)
        ]
        for (messages, like), places in zip(tensors, starts, strict=True)
    ]
    return Packed(blocks, views)


def among(messages: Messages, ranks: Collection[int], inside: bool) -> Messages:
    """The messages whose peers are, or are not, among some ranks."""
    kept = np.isin(messages.peers, list(ranks), invert=not inside)
    return Messages(messages.peers[kept], messages.starts[kept], messages.stops[kept])


def memory_order(array: Array | None) -> tuple[int, ...]:
    """The dimensions of an array, the slowest first."""
    return () if array is None else tuple(sorted(range(array.ndim), key=lambda d: -array.strides[d]))


def shaped(flat: Array, size: Sequence[int], order: Sequence[int]) -> Array:
    """A flat array as one of this size whose memory has this order of dimensions, the slowest first."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return flat.reshape([size[d] for d in order]).transpose(inverse)


def flat(array: Array) -> Array:
    """The memory of an array, in its order. Raises ValueError where it is not one block."""
    block = array.transpose(memory_order(array))
    if not block.flags.c_contiguous:
        raise ValueError("a part of a buffer is not one block")
    return block.reshape(-1)
