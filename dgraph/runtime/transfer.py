"""A transfer at work: packing, the exchange, unpacking.

In: a planned transfer, the arrays of the tensor's writers and readers, a communicator. Out: `BoundTransfer`: `start`, `test` and
`wait`. Promise: all buffers are made once; what overlaps is added in the order of the ranks, so that all readers of one element
get the same bits; messages of one rank travel packed, one a peer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgraph.kernels.call import Array
from dgraph.plan.make import Transfer
from dgraph.plan.message import Messages
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator, Exchange, Message


class BoundTransfer:
    """One tensor's transfer on one rank. `write` and `read` are views of its write and read rect (None where empty)."""

    def __init__(self, transfer: Transfer, write: Array | None, read: Array | None, same: bool,
                 communicator: Communicator) -> None:  # fmt: skip
        self._packs: list[tuple[Array, Array]] = []
        self._copies: list[tuple[Array, Array]] = []
        self._adds: list[tuple[Array, Array]] = []
        self._sum: Array | None = None
        self.sent_nbytes = 0
        if transfer.all_reduce:
            self._exchange = _all_reduce(transfer, read, communicator)
            self.sent_nbytes = 0 if read is None else read.nbytes
            return
        outgoing, incoming = _staging(transfer.sends, write), _staging(transfer.receives, read)
        self._exchange = _exchange(transfer, outgoing, incoming, communicator)
        self.sent_nbytes = sum(buffer.nbytes for buffer in outgoing)
        if write is not None:
            rects = [rect for _, rect in transfer.sends]
            origin = transfer.write_rect.start
            self._packs = [(b, write[r.slices(origin)]) for b, r in zip(outgoing, rects, strict=True)]
        if read is not None:
            self._plan_unpacking(transfer, write, read, same, incoming, communicator.rank)

    def _plan_unpacking(self, transfer: Transfer, write: Array | None, read: Array, same: bool,
                        incoming: Sequence[Array], rank: int) -> None:  # fmt: skip
        """Copies where everything falls beside everything else; otherwise sums in the order of the ranks."""
        entries = [(peer, rect, buffer) for (peer, rect), buffer in zip(transfer.receives, incoming, strict=True)]
        own = transfer.write_rect.intersect(transfer.read_rect)
        if not same and own and write is not None:
            entries.append((rank, own, write[own.slices(transfer.write_rect.start)]))
        entries.sort(key=lambda entry: entry[0])
        pairs = [(read[_slices(rect, transfer)], source) for _, rect, source in entries]
        if transfer.overlaps:
            self._sum, self._adds = read, pairs
        else:
            self._copies = pairs

    def start(self) -> None:
        """Pack what this rank wrote and post all messages."""
        for buffer, view in self._packs:
            np.copyto(buffer, view)
        self._exchange.start()

    def test(self) -> bool:
        """Make progress; True once every message is taken and has arrived."""
        return self._exchange.test()

    def wait(self) -> None:
        """Wait for the messages and bring the read rect up to date."""
        self._exchange.wait()
        for view, buffer in self._copies:
            np.copyto(view, buffer)
        if self._sum is not None:
            self._sum.fill(0)
            for view, buffer in self._adds:
                np.add(view, buffer, out=view)


def _slices(rect: Rect, transfer: Transfer) -> tuple[slice, ...]:
    return rect.slices(transfer.read_rect.start)


def _staging(messages: Messages, like: Array | None) -> list[Array]:
    if like is None:
        return []
    return [np.empty(rect.size, dtype=like.dtype) for _, rect in messages]


def _exchange(transfer: Transfer, outgoing: Sequence[Array], incoming: Sequence[Array],
              communicator: Communicator) -> Exchange:  # fmt: skip
    tag = transfer.number
    sends = [Message(peer, tag, b) for peer, b in zip(transfer.sends.peers.tolist(), outgoing, strict=True)]
    receives = [Message(peer, tag, b) for peer, b in zip(transfer.receives.peers.tolist(), incoming, strict=True)]
    return communicator.exchange(sends, receives)


def _all_reduce(transfer: Transfer, read: Array | None, communicator: Communicator) -> Exchange:
    """The sum in place. The buffer holds just this rect, so its memory is one block in whatever order its dimensions lie."""
    if read is None or transfer.all_reduce is None:
        raise ValueError(f"{transfer.tensor}: an all-reduce of nothing")
    order = sorted(range(read.ndim), key=lambda d: -read.strides[d])
    block = read.transpose(order)
    if not block.flags.c_contiguous:
        raise ValueError(f"{transfer.tensor}: an all-reduce of a part of a buffer")
    return communicator.all_reduce(transfer.all_reduce, block.reshape(-1), transfer.number)
