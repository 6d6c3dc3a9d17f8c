"""What ranks of one host read of each other where it lies.

In: a schedule, a communicator. Out: `Window`: this rank's share of the memory, views of that of its neighbours. Promise: where no
memory can be shared there is no window, and everything goes by messages; values are the same to the last bit.

A rank's memory holds, one behind the other:

    buffers     those whose elements others read in place (`Buffer.shared`)
    slots       blocks in which small convoys are packed, two of a convoy where each reader also writes: who packs into one of them
                knows that all have read what was there before, because they have since come to the next use
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgraph.kernels.call import Array
from dgraph.plan.transfer import Convoy
from dgraph.rect import Rect
from dgraph.runtime.communicator import ALIGNMENT, Alone, Communicator, Exchange, Shared
from dgraph.runtime.pack import shaped
from dgraph.schedule.step import Schedule, Start

READY, SUMMED, TAKEN = range(3)
"""What ranks tell each other of a convoy: my elements are there; my share of the sum is; I have what I need."""


@dataclass(frozen=True)
class Slot:
    """Where a convoy is packed: the first byte of each block, and in a block the first element that is for a rank; of a sum all is
    for everybody."""

    starts: tuple[int, ...]
    elements: int
    to: Mapping[int, int]


@dataclass(frozen=True)
class Shelf:
    """The use of a rank's shared memory: the first byte of buffers, by number; the slots of convoys, by number."""

    buffers: Mapping[int, int]
    slots: Mapping[int, Slot]
    nbytes: int

    @staticmethod
    def of(schedule: Schedule) -> Shelf:
        """What a schedule needs."""
        itemsize = np.dtype(schedule.dtype).itemsize
        end = 0

        def take(nbytes: int) -> int:
            nonlocal end
            start, end = end, end + -(-nbytes // ALIGNMENT) * ALIGNMENT
            return start

        placed = enumerate(schedule.placement.buffers)
        buffers = {number: take(buffer.nbytes) for number, buffer in placed if buffer.shared}
        slots = {}
        for convoy in convoys_of(schedule):
            if not convoy.is_read_in_place(itemsize) and convoy.elements:
                starts = tuple(take(convoy.elements * itemsize) for _ in range(_slots(convoy, itemsize)))
                slots[convoy.number] = Slot(starts, convoy.elements, _offsets(convoy))
        return Shelf(buffers, slots, end)

    def note(self, schedule: Schedule) -> bytes:
        """What neighbours must know of it: for every convoy where its slots are, or the buffer that holds its tensor."""
        entries: dict[int, dict[str, Any]] = {
            number: {"starts": slot.starts, "elements": slot.elements, "to": slot.to}
            for number, slot in self.slots.items()
        }
        for convoy in convoys_of(schedule):
            number = schedule.placement.places[convoy.transfers[0].tensor].write
            if convoy.number not in entries and number is not None and number in self.buffers:
                buffer = schedule.placement.buffers[number]
                rect = {"start": buffer.rect.start, "size": buffer.rect.size, "order": buffer.order}
                entries[convoy.number] = {"starts": [self.buffers[number]], **rect}
        return json.dumps(entries).encode()


def convoys_of(schedule: Schedule) -> list[Convoy]:
    """All convoys of a schedule, in the order of their starts."""
    return [step.convoy for step in schedule.steps if isinstance(step, Start)]


def _slots(convoy: Convoy, itemsize: int) -> int:
    if convoy.sums_in_place:
        return 2 if convoy.is_one_phase(itemsize) else 1
    readers = {peer for transfer in convoy.transfers for peer in transfer.sends.peers.tolist()}
    writers = {peer for transfer in convoy.transfers for peer in transfer.receives.peers.tolist()}
    return 2 if readers <= writers else 1


def _offsets(convoy: Convoy) -> dict[int, int]:
    """The first element for each reader: blocks stand in the order of the readers."""
    sizes: dict[int, int] = {}
    for transfer in () if convoy.sums_in_place else convoy.transfers:
        for peer, rect in transfer.sends:
            sizes[peer] = sizes.get(peer, 0) + rect.volume
    offsets, end = {}, 0
    for peer in sorted(sizes):
        offsets[peer], end = end, end + sizes[peer]
    return offsets


class Window:
    """Shared memory as one rank sees it."""

    def __init__(self, shared: Shared, shelf: Shelf, rank: int, dtype: str) -> None:
        self.rank, self.shelf = rank, shelf
        self.ranks = frozenset(shared.blocks)
        self._shared, self._dtype = shared, np.dtype(dtype)
        self._notes: dict[int, dict[str, Any]] = {}

    def buffer(self, number: int, nbytes: int) -> Array:
        """The bytes of one of this rank's own buffers."""
        start = self.shelf.buffers[number]
        return self._shared.blocks[self.rank][start : start + nbytes]

    def slot(self, convoy: Convoy, turn: int, peer: int, elements: int) -> Array:
        """The flat block in which this rank packs what it has for a neighbour, at every second use."""
        slot = self.shelf.slots[convoy.number]
        return self._block(self.rank, slot.starts[turn % len(slot.starts)], slot.to[peer], elements)

    def slot_of(self, convoy: Convoy, turn: int, writer: int) -> Array:
        """The flat block in which a neighbour packs what it has for this rank; perhaps more behind it."""
        note = self._note(convoy, writer)
        starts, first = note["starts"], note["to"][str(self.rank)]
        return self._block(writer, starts[turn % len(starts)], first, note["elements"] - first)

    def sums(self, convoy: Convoy, turn: int, rank: int) -> Array:
        """The flat block that a rank brings to a sum, at every second use."""
        note = self._note(convoy, rank)
        starts = note["starts"]
        return self._block(rank, starts[turn % len(starts)], 0, convoy.elements)

    def lies_in_place(self, convoy: Convoy, rank: int) -> bool:
        """Whether others read what a rank wrote of a convoy in its buffer."""
        return "order" in self._note(convoy, rank)

    def stays(self, convoy: Convoy, rank: int) -> bool:
        """Whether a rank must wait until what it wrote of a convoy has been taken."""
        return len(self._note(convoy, rank)["starts"]) == 1

    def in_place(self, convoy: Convoy, rank: int) -> tuple[Array, Rect]:
        """A neighbour's buffer of the tensor of a convoy that lies in place, and its rect."""
        note = self._note(convoy, rank)
        rect, (start,) = Rect(tuple(note["start"]), tuple(note["size"])), note["starts"]
        return shaped(self._block(rank, start, 0, rect.volume), rect.size, note["order"]), rect

    def meeting(self, convoy: Convoy, what: int, ranks: list[int]) -> Exchange:
        """Where neighbours wait for each other."""
        return self._shared.meeting(3 * convoy.number + what, ranks)

    def _note(self, convoy: Convoy, rank: int) -> dict[str, Any]:
        if rank not in self._notes:
            self._notes[rank] = json.loads(self._shared.notes[rank])
        found: dict[str, Any] = self._notes[rank][str(convoy.number)]
        return found

    def _block(self, rank: int, start: int, first: int, elements: int) -> Array:
        """A flat array in a rank's memory: behind byte `start`, from element `first` on."""
        begin = start + first * self._dtype.itemsize
        return self._shared.blocks[rank][begin : begin + elements * self._dtype.itemsize].view(self._dtype)


def open_window(schedule: Schedule, tensors: int, communicator: Communicator) -> Window | None:
    """Memory for what this rank's neighbours read of it, if it has any; None where no rank of any host shares memory. `tensors`:
    how many the graph has. Collective."""
    shelf, rank = Shelf.of(schedule), communicator.rank
    note = shelf.note(schedule)
    shared = communicator.share(shelf.nbytes, 3 * tensors, note)
    parts = communicator.gather(bytes([shared is not None]))
    anybody = communicator.broadcast(None if parts is None else bytes([any(map(any, parts))]))
    return Window(shared or Alone(rank, shelf.nbytes, note), shelf, rank, schedule.dtype) if any(anybody) else None
