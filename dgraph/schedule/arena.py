"""One block of memory for all that is needed for a while only.

In: lives of memory. Out: offsets into the block, and its bytes. Promise: what is needed at the same time lies apart. The largest
first, each into the smallest gap that is large enough (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net
Inference", greedy by size).

    bytes
      |  +--------- c ---------+
      |  +-- a --+   +-- b --+ |          a and b are not needed at the same time: one place
      +------------------------------> steps
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from dgraph.graph.node import Graph
from dgraph.schedule.buffer import Placement
from dgraph.schedule.inplace import Pair, chosen, joined
from dgraph.schedule.lifetime import Life, lives_of
from dgraph.schedule.step import Step
from dgraph.schedule.touch import touch

ALIGNMENT = 64
"""Bytes: what lies in the block starts at multiples of it."""
Name = TypeVar("Name", bound=Hashable)


def arrange(lives: Mapping[Name, Life]) -> tuple[dict[Name, int], int]:
    """The offset of everything, and the bytes of the block."""
    offsets: dict[Name, int] = {}
    placed = np.empty((4, 0), dtype=np.int64)  # first and last step, start and stop: by start
    total = 0
    for name, life in sorted(lives.items(), key=lambda entry: -entry[1].nbytes):
        size = -(-life.nbytes // ALIGNMENT) * ALIGNMENT
        start = offsets[name] = _best_fit(placed, life, size)
        columns = np.array([(*span, start, start + size) for span in life.spans]).T
        at = int(np.searchsorted(placed[2], start))
        placed = np.concatenate([placed[:, :at], columns, placed[:, at:]], axis=1)
        total = max(total, start + size)
    return offsets, total


def _best_fit(placed: np.ndarray[tuple[int, int], np.dtype[np.int64]], life: Life, size: int) -> int:
    """Where the smallest gap between what is needed at the same time begins that has so many bytes; else behind all of it."""
    met = np.any([(placed[0] <= last) & (placed[1] >= first) for first, last in life.spans], axis=0)
    there = placed[:, met]
    if not there.shape[1]:
        return 0
    ends = np.concatenate([[0], np.maximum.accumulate(there[3])])
    gaps = there[2] - ends[:-1]
    fitting = np.flatnonzero(gaps >= size)
    if not len(fitting):
        return int(ends[-1])
    return int(ends[fitting[np.argmin(gaps[fitting])]])


Scratch = tuple[tuple[int, int], ...]
"""Offset and bytes of the scratch of every step, and of what is done between runs."""


def in_arena(placement: Placement, steps: Sequence[Step], workspaces: Sequence[int], graph: Graph,
             kept: Collection[str], lasting: frozenset[str], reuse: bool,
             permits: Sequence[frozenset[Pair]], late: Collection[int] = ()) -> tuple[Placement, Scratch]:  # fmt: skip
    """The placement, with all buffers in one arena that are touched but neither last from run to run nor are read by neighbours;
    and the scratch, of so many bytes each, in the same. `kept` tensors last from batch to batch, `lasting` ones are looked at;
    without `reuse`, nothing lies where something else was; `permits` says of every step what it may write over what. `late`: the
    places of steps that were put off into the next run."""
    touches = [touch(step, graph, placement) for step in steps]
    shown = placement.numbers(lasting)
    shared = frozenset(number for number, buffer in enumerate(placement.buffers) if buffer.shared)
    alone = placement.numbers(tensor.name for tensor in graph.kept) | shared
    touched = frozenset(number for one in touches for number in one.all) | shown | shared
    there = placement.only(touched)
    nbytes = {number: placement.buffers[number].nbytes for number in sorted(touched - alone)}
    lives = lives_of(touches, nbytes, placement.numbers(kept) if reuse else nbytes.keys(), shown, late)
    over = chosen(permits, lives)
    homes, home = joined(lives, over)
    named: dict[tuple[str, int], Life] = {("buffer", number): life for number, life in homes.items()}
    if reuse:
        named |= {("scratch", k): Life(k, k, size) for k, size in enumerate(workspaces) if size}
        offsets, total = arrange(named)
        scratch = tuple((offsets.get(("scratch", k), 0), size) for k, size in enumerate(workspaces))
    else:
        named["scratch", 0] = Life(0, len(steps), max(workspaces))
        offsets, total = arrange(named)
        scratch = tuple((offsets["scratch", 0], size) for size in workspaces)
    placed = MappingProxyType({number: offsets["buffer", home[number]] for number in lives})
    there = replace(there, offsets=placed, over=MappingProxyType(over), arena_nbytes=total, lasting=lasting)
    return there, scratch
