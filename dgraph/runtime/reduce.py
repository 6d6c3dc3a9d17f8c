"""Sums of one rect over the ranks that all wrote it, each of whom reads it: all-reduce.

In: a convoy, its arrays, a communicator, perhaps a window. Out: `BoundConvoy`. Promise: terms are added in the order of the
ranks, so the bits do not depend on whether they came by messages or were read in place.

    one phase       every rank adds up the terms of all: small sums; or merges them: moments
    two phases      rank k adds up share k of all terms, then every rank takes the shares of the others

A convoy of one tensor is summed where it lies; the tensors of a bucket are copied into one block, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgraph.kernels.call import Action, Array, Moment
from dgraph.plan.transfer import MOST_SUMMED, Convoy
from dgraph.rect import share
from dgraph.runtime.communicator import Communicator, Exchange, Message, both
from dgraph.runtime.convoy import BoundConvoy, Part, Stage, Use
from dgraph.runtime.merge import bind_merge
from dgraph.runtime.pack import flat, memory_order, shaped
from dgraph.runtime.sum import bind_copy, bind_sum
from dgraph.runtime.window import READY, SUMMED, TAKEN, Window


def bind_all_reduce(convoy: Convoy, parts: Sequence[Part], communicator: Communicator, window: Window | None,
                    moment: Moment, urgency: int | None = None) -> BoundConvoy:  # fmt: skip
    """The sum made ready. Collective over its ranks: made in the same order on all of them."""
    arrays = [part.read for part in parts if part.read is not None]
    if len(arrays) < len(parts):
        raise ValueError(f"{convoy.name}: an all-reduce of nothing")
    nbytes = convoy.elements * arrays[0].itemsize
    if len(convoy.group) > MOST_SUMMED:
        block, packs, unpacks = _block(convoy, arrays)
        total = communicator.all_reduce(convoy.group, block, convoy.number)
        return BoundConvoy([Use(packs, [Stage(total, unpacks)])], nbytes)
    ways = _Ways(convoy, communicator, window, moment, urgency)
    uses = _one_phase(ways, arrays) if convoy.is_one_phase(arrays[0].itemsize) else _two_phases(ways, arrays)
    return BoundConvoy(uses, nbytes)


def _block(convoy: Convoy, arrays: Sequence[Array],
           block: Array | None = None) -> tuple[Array, list[Action], list[Action]]:  # fmt: skip
    """The flat memory of a convoy, and what copies its tensors there and back: nothing if it is the memory of the only one."""
    if block is None and len(arrays) == 1:
        return flat(arrays[0]), [], []
    if block is None:
        block = np.empty(convoy.elements, dtype=arrays[0].dtype)
    packs: list[Action] = []
    unpacks: list[Action] = []
    at = 0
    for array in arrays:
        view = shaped(block[at : at + array.size], array.shape, memory_order(array))
        packs += bind_copy(view, array)
        unpacks += bind_copy(array, view)
        at += array.size
    return block, packs, unpacks


@dataclass(frozen=True, eq=False)
class _Ways:
    """How the ranks of a sum reach each other."""

    convoy: Convoy
    communicator: Communicator
    window: Window | None
    moment: Moment
    urgency: int | None

    @property
    def others(self) -> list[int]:
        return [rank for rank in self.convoy.group if rank != self.communicator.rank]

    @property
    def near(self) -> list[int]:
        return [rank for rank in self.others if self.window is not None and rank in self.window.ranks]

    @property
    def far(self) -> list[int]:
        return [rank for rank in self.others if rank not in self.near]

    def terms(self, turn: int, own: Array, arrived: dict[int, Array]) -> list[Array]:
        """The terms of the sum in the order of the ranks: one's own, those that arrived, those in the window."""
        found = {self.communicator.rank: own, **arrived}
        if self.window is not None:
            found |= {rank: self.window.sums(self.convoy, turn, rank) for rank in self.near}
        return [found[rank] for rank in self.convoy.group]

    def together(self, out: Array, terms: list[Array]) -> list[Action]:
        """Actions that set `out` to the sum of the terms, or to what they are merged to."""
        merge = self.convoy.merge
        if merge is None:
            return bind_sum(out, terms)
        half = out.size // 2
        return bind_merge(merge, (out[:half], out[half:]), [(term[:half], term[half:]) for term in terms], self.moment)

    def exchange(self, what: int, sends: dict[int, Array], receives: dict[int, Array]) -> Exchange:
        """Messages with those far away, and a meeting with those nearby."""
        tag = self.convoy.number
        messages = self.communicator.exchange(
            [Message(peer, tag, block) for peer, block in sends.items()],
            [Message(peer, tag, block) for peer, block in receives.items()],
            self.urgency,
        )
        return both(messages, self.meeting(what)) if self.near else messages

    def meeting(self, what: int) -> Exchange:
        """Where those nearby wait for each other."""
        if self.window is None:
            raise ValueError(f"{self.convoy.name}: a meeting without a window")
        return self.window.meeting(self.convoy, what, self.near)


def _one_phase(ways: _Ways, arrays: Sequence[Array]) -> list[Use]:
    """Whoever is far away gets the block; who is nearby reads it, in a slot of its own at every second use."""
    convoy, dtype = ways.convoy, arrays[0].dtype
    arrived = {rank: np.empty(convoy.elements, dtype=dtype) for rank in ways.far}
    alone = len(arrays) == 1
    uses, there = [], None
    for turn in range(2 if ways.near and not ways.far else 1):
        slot = ways.window.sums(convoy, turn, ways.communicator.rank) if ways.window and ways.near else None
        block, packs, unpacks = _block(convoy, arrays, slot)
        out = flat(arrays[0]) if alone else np.empty_like(block)
        if not alone:
            _, _, unpacks = _block(convoy, arrays, out)
        there = there or ways.exchange(READY, dict.fromkeys(ways.far, block), arrived)
        made = ways.together(out, ways.terms(turn, block, arrived))
        stages = [Stage(there, [*made, *(() if alone else unpacks)])]
        if ways.near and ways.far:
            stages.append(Stage(ways.meeting(TAKEN), ()))
        uses.append(Use(packs, stages))
    return uses


def _two_phases(ways: _Ways, arrays: Sequence[Array]) -> list[Use]:
    """The block is summed share by share where it lies."""
    convoy, rank, group = ways.convoy, ways.communicator.rank, ways.convoy.group
    slot = ways.window.sums(convoy, 0, rank) if ways.window and ways.near else None
    block, packs, unpacks = _block(convoy, arrays, None if len(arrays) == 1 else slot)
    shares = {r: slice(*share(block.size, len(group), k)) for k, r in enumerate(group)}
    mine = block[shares[rank]]
    arrived = {r: np.empty_like(mine) for r in ways.far}
    whole = ways.terms(0, block, dict.fromkeys(ways.far, block))
    terms = [arrived.get(r, term[shares[rank]]) for r, term in zip(group, whole, strict=True)]
    gather = [
        action
        for r, term in zip(group, whole, strict=True)
        if r in ways.near
        for action in bind_copy(block[shares[r]], term[shares[r]])
    ]
    first = ways.exchange(READY, {r: block[shares[r]] for r in ways.far}, arrived)
    second = ways.exchange(SUMMED, dict.fromkeys(ways.far, mine), {r: block[shares[r]] for r in ways.far})
    stages = [Stage(first, bind_sum(mine, terms)), Stage(second, [*gather, *unpacks])]
    return [Use(packs, [*stages, Stage(ways.meeting(TAKEN), ())] if ways.near else stages)]
