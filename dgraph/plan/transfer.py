"""What travels: a tensor's transfer on one rank, and those that travel together.

In: messages and their kind. Out: `Transfer`, `Convoy`. Promise: plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgraph.graph.node import Access
from dgraph.ops.norm import summed_in
from dgraph.plan.message import Messages
from dgraph.plan.paint import corners, paint
from dgraph.rect import Rect

ONE_PHASE_NBYTES = 1 << 17
"""Sums whose terms have together so many bytes at most are made by every rank itself; of larger ones each makes a share."""
MOST_SUMMED = 64
"""Sums over more ranks are left to the communicator; the order of the terms is then its own."""
IN_PLACE_NBYTES = 1 << 15
"""Where memory is shared, what a rank sends is read where it lies if it has more bytes than this, or is waited for at once; else
it is packed beside, so that who wrote it need not wait for the readers."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """How one tensor's value comes from what ranks wrote to where this rank reads.

    `number` is the tensor's place in the graph: the tag of its messages and the order in which all ranks start transfers. `kind`
    is what its messages are together (`dgraph.plan.kind`), `axes` the names of the mesh axes along which they go, `group` the
    ranks that take part where it is a collective, ascending."""

    tensor: str
    number: int
    read_rect: Rect
    write_rect: Rect
    sends: Messages
    receives: Messages
    kind: str
    axes: tuple[str, ...]
    group: tuple[int, ...]

    @property
    def sums_in_place(self) -> bool:
        """Whether the ranks of the group make one sum of one and the same rect, each in the memory that it wrote."""
        return self.kind in ("all_reduce", "moments")

    @property
    def partners(self) -> frozenset[int]:
        """The ranks that this one exchanges messages with."""
        return frozenset(self.sends.peers.tolist()) | frozenset(self.receives.peers.tolist())

    @property
    def elements(self) -> int:
        """How many elements this rank brings in: of a sum in place its rect, else what it sends."""
        return self.write_rect.volume if self.sums_in_place else self.sends.elements

    @cached_property
    def overlaps(self) -> bool:
        """Whether anything received falls on what this rank wrote itself, or on what another sends: a sum."""
        if not self.read_rect:
            return False
        own = self.write_rect.intersect(self.read_rect)
        starts, stops = corners([own] if own else [], own.ndim)
        incoming = self.receives
        counts, _ = paint(
            self.read_rect, (np.concatenate([starts, incoming.starts]), np.concatenate([stops, incoming.stops]))
        )
        return bool(counts.max() > 1)


@dataclass(frozen=True, eq=False)
class Merge:
    """What is merged: the mean and the variance that each rank of a group has of its own elements, which are the moments of parts
    that do not overlap. `nodes` find them; `ranks` are the group's, ascending, `pieces` what each has of the space; `running`: in
    an evaluation they are those of the population, which one rank alone gives."""

    nodes: tuple[str, str]
    access: Access
    ranks: tuple[int, ...]
    pieces: tuple[tuple[Rect, ...], ...]
    running: bool

    def elements(self, rows: int) -> list[int]:
        """How many elements each rank has behind one value, if there are so many samples."""
        return [summed_in(self.access, own, rows) for own in self.pieces]


@dataclass(frozen=True, eq=False)
class Convoy:
    """Transfers of one kind that start together, behind the node at place `start` of the graph, and are waited for together, before
    the one at place `wait`; to each peer goes one message for all of them.

    From its start to its wait, the write and read buffers of these tensors belong to it: what was written stays as it is, for
    others may read it in place; what is read may be brought up to date at any time. `merge`: its two tensors are moments.
    """

    transfers: tuple[Transfer, ...]
    start: int
    wait: int
    merge: Merge | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Which tensors travel."""
        return tuple(transfer.tensor for transfer in self.transfers)

    @property
    def name(self) -> str:
        """The tensor, or the first one and how many more."""
        more = len(self.transfers) - 1
        return self.transfers[0].tensor + (f" and {more} more" if more else "")

    @property
    def number(self) -> int:
        """The tag of its messages."""
        return self.transfers[0].number

    @property
    def kind(self) -> str:
        return self.transfers[0].kind

    @property
    def group(self) -> tuple[int, ...]:
        return self.transfers[0].group

    @property
    def sums_in_place(self) -> bool:
        return self.transfers[0].sums_in_place

    @property
    def partners(self) -> frozenset[int]:
        """The ranks that this one exchanges messages with."""
        return frozenset().union(*(transfer.partners for transfer in self.transfers))

    @property
    def elements(self) -> int:
        """How many elements this rank brings in."""
        return sum(transfer.elements for transfer in self.transfers)

    def is_one_phase(self, itemsize: int) -> bool:
        """Whether every rank makes the whole of a sum in place. Moments are merged by every rank."""
        return self.merge is not None or self.elements * len(self.group) * itemsize <= ONE_PHASE_NBYTES

    def is_read_in_place(self, itemsize: int) -> bool:
        """Whether, where memory is shared, others read this rank's elements where it wrote them."""
        if len(self.transfers) > 1:
            return False
        if self.sums_in_place:
            return not self.is_one_phase(itemsize)
        return self.wait == self.start + 1 or self.elements * itemsize > IN_PLACE_NBYTES
