"""From a planned convoy to one at work.

In: a convoy, the arrays of its tensors' writers and readers, a communicator, perhaps a window. Out: `BoundConvoy`. Promise: all
buffers are made once; what overlaps is added in the order of the ranks, so that all readers of one element get the same bits,
whatever way it came.

    near    ranks of the window: a reader takes what it needs from where the writer has it, in its buffer or packed beside it
    far     all others: messages travel packed, one a peer; or where nobody has a window and all read the same, as an all-gather

A reduce-scatter is no collective of the MPI's, which would choose the order of the terms: everybody sends every other its share,
as in an all-to-all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from dgraph.kernels.call import Action, Array, Moment
from dgraph.plan.kind import GATHERED
from dgraph.plan.message import Messages
from dgraph.plan.paint import corners, paint
from dgraph.plan.transfer import Convoy, Merge
from dgraph.rect import Rect
from dgraph.runtime.communicator import Communicator, Exchange, Message, both, parts_of
from dgraph.runtime.convoy import BoundConvoy, Part, Stage, Use
from dgraph.runtime.merge import bind_merge
from dgraph.runtime.pack import Packed, among, packed
from dgraph.runtime.reduce import bind_all_reduce
from dgraph.runtime.sum import bind_copy, bind_sum
from dgraph.runtime.window import READY, TAKEN, Window

ALWAYS = Moment()
"""Full batches of a training."""
Sources = list[tuple[int, Rect, Array]]
"""What a rank receives of a tensor: from whom, which rect, the array that has it."""


def bind_convoy(convoy: Convoy, parts: Sequence[Part], communicator: Communicator, window: Window | None,
                moment: Moment = ALWAYS, urgency: int | None = None) -> BoundConvoy:  # fmt: skip
    """A convoy made ready; `urgency` as `Communicator.exchange` has it. Collective over its ranks: made in the same order on all
    of them."""
    if convoy.sums_in_place:
        return bind_all_reduce(convoy, parts, communicator, window, moment, urgency)
    if convoy.kind in GATHERED and window is None:
        return _bind_gather(convoy, parts, communicator)
    return _bind_pull(convoy, parts, communicator, window, moment, urgency)


def _bind_gather(convoy: Convoy, parts: Sequence[Part], communicator: Communicator) -> BoundConvoy:
    """Every rank packs what it wrote once, for all."""
    rank = communicator.rank
    tensors: list[tuple[Messages, Array | None]] = []
    for part in parts:
        here = part.transfer.write_rect
        known = [*part.transfer.receives, *([(rank, here)] if here else [])]
        tensors.append((Messages.of(sorted(known, key=lambda entry: entry[0]), here.ndim), part.read))
    counts = [sum(rect.volume for m, _ in tensors for peer, rect in m if peer == member) for member in convoy.group]
    dtype = next(part.read.dtype for part in parts if part.read is not None)
    whole = np.empty(sum(counts), dtype=dtype)
    blocks = dict(zip(convoy.group, parts_of(whole, counts), strict=True))
    found = packed(tensors, lambda peer, elements: blocks[peer])
    packs: list[Action] = []
    sources: list[Sources] = []
    for part, (messages, _), views in zip(parts, tensors, found.views, strict=True):
        entries = _sources(messages, views)
        packs += [
            a
            for peer, _, view in entries
            if peer == rank and part.write is not None
            for a in bind_copy(view, part.write)
        ]
        sources.append([entry for entry in entries if entry[0] != rank])
    gather = communicator.all_gather(convoy.group, counts, whole, convoy.number)
    return BoundConvoy([Use(packs, [Stage(gather, _unpacking(parts, sources, rank))])], _sent(parts))


def _sent(parts: Sequence[Part]) -> int:
    """Bytes that this rank sends, as a plan counts them."""
    return sum(part.transfer.sends.elements for part in parts) * _itemsize(parts)


def _bind_pull(convoy: Convoy, parts: Sequence[Part], communicator: Communicator, window: Window | None,
               moment: Moment, urgency: int | None) -> BoundConvoy:  # fmt: skip
    """Every reader takes what it needs."""
    unpacking = _unpacking if convoy.merge is None else partial(_merging, convoy.merge, moment)
    near = window.ranks if window is not None else frozenset[int]()
    sends = [(among(part.transfer.sends, near, False), part.write) for part in parts]
    receives = [(among(part.transfer.receives, near, False), part.read) for part in parts]
    outgoing, incoming = packed(sends), packed(receives)
    messages = communicator.exchange(
        [Message(peer, convoy.number, block) for peer, block in outgoing.blocks.items()],
        [Message(peer, convoy.number, block) for peer, block in incoming.blocks.items()],
        urgency,
    )
    packs = _packing(parts, [m for m, _ in sends], outgoing)
    arriving = [_sources(m, views) for (m, _), views in zip(receives, incoming.views, strict=True)]
    if window is None:
        stage = Stage(messages, unpacking(parts, arriving, communicator.rank))
        return BoundConvoy([Use(packs, [stage])], outgoing.nbytes)
    mine, theirs, meetings = _near(convoy, parts, window)
    there = both(messages, meetings[0])
    uses = []
    for turn in range(2):
        sources = [[*far, *theirs[turn][k]] for k, far in enumerate(arriving)]
        stages = [Stage(there, unpacking(parts, sources, communicator.rank))]
        uses.append(Use([*packs, *mine[turn]], [*stages, *(Stage(meeting, ()) for meeting in meetings[1:])]))
    return BoundConvoy(uses, _sent(parts))


def _near(
    convoy: Convoy, parts: Sequence[Part], window: Window
) -> tuple[list[list[Action]], list[list[Sources]], list[Exchange]]:
    """For two uses in turn, how this rank packs for its neighbours and, by tensor, where they have what it takes of them; and where
    they meet: when all is there, and, if anything lies where it was written, when all is taken."""
    sends = [among(part.transfer.sends, window.ranks, True) for part in parts]
    receives = [among(part.transfer.receives, window.ranks, True) for part in parts]
    readers, writers = _peers(sends), _peers(receives)
    stays = bool(readers) and window.stays(convoy, window.rank)
    mine: list[list[Action]] = [[], []]
    theirs: list[list[Sources]] = []
    for turn in range(2):
        if readers and not window.lies_in_place(convoy, window.rank):
            block = partial(window.slot, convoy, turn)
            tensors = [(m, part.write) for m, part in zip(sends, parts, strict=True)]
            mine[turn] = _packing(parts, sends, packed(tensors, block))
        theirs.append(_near_sources(convoy, parts, receives, window, turn))
    meetings = [window.meeting(convoy, READY, writers)]
    if stays or any(window.stays(convoy, writer) for writer in writers):
        meetings.append(window.meeting(convoy, TAKEN, readers if stays else []))
    return mine, theirs, meetings


def _near_sources(
    convoy: Convoy, parts: Sequence[Part], receives: Sequence[Messages], window: Window, turn: int
) -> list[Sources]:
    """By tensor, where neighbours have what this rank takes of them."""
    placed = frozenset(w for w in _peers(receives) if window.lies_in_place(convoy, w))
    packed_there = [among(messages, placed, False) for messages in receives]
    tensors = [(messages, part.read) for messages, part in zip(packed_there, parts, strict=True)]
    views = packed(tensors, lambda peer, elements: window.slot_of(convoy, turn, peer)).views
    sources = [_sources(messages, found) for messages, found in zip(packed_there, views, strict=True)]
    for messages, found in zip(receives, sources, strict=True):
        for peer, rect in among(messages, placed, True):
            buffer, whole = window.in_place(convoy, peer)
            found.append((peer, rect, buffer[rect.slices(whole.start)]))
    return sources


def _peers(tensors: Sequence[Messages]) -> list[int]:
    return sorted({peer for messages in tensors for peer in messages.peers.tolist()})


def _sources(messages: Messages, views: Sequence[Array]) -> Sources:
    return [(peer, rect, view) for (peer, rect), view in zip(messages, views, strict=True)]


def _itemsize(parts: Sequence[Part]) -> int:
    return next(array.itemsize for part in parts for array in (part.write, part.read) if array is not None)


# --- packing and unpacking


def _packing(parts: Sequence[Part], sends: Sequence[Messages], blocks: Packed) -> list[Action]:
    """Copies of what this rank wrote into the blocks."""
    return [
        action
        for part, messages, views in zip(parts, sends, blocks.views, strict=True)
        for (_, rect), view in zip(messages, views, strict=True)
        if part.write is not None
        for action in bind_copy(view, part.write[rect.slices(part.transfer.write_rect.start)])
    ]


def _unpacking(parts: Sequence[Part], sources: Sequence[Sources], rank: int) -> list[Action]:
    """What brings the read rects up to date from what has arrived of each tensor."""
    return [action for part, found in zip(parts, sources, strict=True) for action in _reading(part, found, rank)]


def _merging(merge: Merge, moment: Moment, parts: Sequence[Part], sources: Sequence[Sources],
             rank: int) -> list[Action]:  # fmt: skip
    """What merges the moments that have arrived with those that are here; all have one rect."""
    mean, variance = (
        {peer: view for peer, _, view in arrived} | ({} if part.write is None else {rank: part.write})
        for part, arrived in zip(parts, sources, strict=True)
    )
    out, second = (part.read for part in parts)
    if out is None or second is None:
        return []
    return bind_merge(merge, (out, second), [(mean[peer], variance[peer]) for peer in merge.ranks], moment)


def _reading(part: Part, sources: Sources, rank: int) -> list[Action]:
    """Copies where everything falls beside everything else; else sums in the order of the ranks, cell by cell of the grid that all
    rects cut."""
    if part.read is None:
        return []
    transfer = part.transfer
    own = transfer.write_rect.intersect(transfer.read_rect)
    terms = list(sources)
    if own and part.write is not None:
        terms.append((rank, own, part.write[own.slices(transfer.write_rect.start)]))
    terms.sort(key=lambda term: term[0])
    actions: list[Action] = []
    for cell in _cells(transfer.read_rect, [rect for _, rect, _ in terms]):
        into = part.read[cell.slices(transfer.read_rect.start)]
        actions += bind_sum(into, [array[cell.slices(rect.start)] for _, rect, array in terms if cell in rect])
    return actions


def _cells(inside: Rect, rects: Sequence[Rect]) -> list[Rect]:
    """The rects and what they leave out, if nothing falls on anything else; otherwise the grid that all their faces cut."""
    counts, cell = paint(inside, corners(rects, inside.ndim))
    if counts.max() > 1:
        return [cell(index) for index in np.argwhere(counts >= 0)]
    return [*rects, *(cell(index) for index in np.argwhere(counts == 0))]
