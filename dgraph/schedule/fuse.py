"""Chains of ops that one action does in fewer passes over memory.

In: the steps of one rank, the fusions of a backend. Out: the steps, those of a chain replaced by one `Fused`. Promise: a chain is a
run of steps with no transfer or zeroing at work between them, all of them forward or none; every result that a later step of the
chain reads is read as it was written, piece for piece; the last results are read by somebody; the longest chains are taken first.

    compute conv   compute affine   compute relu   =>   fused conv + affine + relu        what lay between may need no memory
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from dgraph.graph.node import Graph
from dgraph.kernels.backend import Key
from dgraph.kernels.call import Chain, Fusion
from dgraph.rect import Rect
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import NOWHERE, Compute, Fused, Step, Zero
from dgraph.schedule.touch import touch, written_ports

Fusions = Mapping[tuple[Key, ...], Fusion]


def fuse(steps: Sequence[Step], forward: int, fusions: Fusions, graph: Graph, placement: Placement,
         needed: frozenset[int]) -> tuple[list[Step], int]:  # fmt: skip
    """The steps with chains fused, and how many of them belong to an evaluation, as `forward` of the old ones did. `needed` are
    buffers that must hold what they should behind a run."""
    outside = _Outside.of(steps, graph, placement, needed)
    found: dict[int, Fused] = {}
    gone: set[int] = set()
    runs = _runs(steps, forward) if fusions else []
    for length in sorted({len(ops) for ops in fusions}, reverse=True):
        for run in runs:
            for first in range(len(run) - length + 1):
                places = run[first : first + length]
                fused = None if gone.intersection(places) else _fused(steps, places, fusions, graph, outside)
                if fused is not None:
                    found[places[-1]] = fused
                    gone.update(places)
    entries = [(k, found.get(k, step)) for k, step in enumerate(steps) if k in found or k not in gone]
    return [step for _, step in entries], sum(k < forward for k, _ in entries)


def _runs(steps: Sequence[Step], forward: int) -> list[list[int]]:
    """The places of steps that compute and have nothing at work between them."""
    runs: list[list[int]] = [[]]
    for k, step in enumerate(steps):
        if k == forward:
            runs.append([])
        if isinstance(step, Compute):
            runs[-1].append(k)
        elif not (isinstance(step, Zero) and step.idle):
            runs.append([])
    return runs


@dataclass(frozen=True)
class _Outside:
    """By which steps buffers are touched, and which are needed behind a run."""

    users: Mapping[int, frozenset[int]]
    needed: frozenset[int]

    @staticmethod
    def of(steps: Sequence[Step], graph: Graph, placement: Placement, needed: frozenset[int]) -> _Outside:
        users: dict[int, set[int]] = {}
        for k, step in enumerate(steps):
            for number in touch(step, graph, placement).all:
                users.setdefault(number, set()).add(k)
        return _Outside({number: frozenset(places) for number, places in users.items()}, needed)

    def inner(self, number: int, places: Sequence[int]) -> bool:
        """Whether nobody but these steps has to do with a buffer."""
        return number not in self.needed and self.users[number].issubset(places)


def _fused(steps: Sequence[Step], places: Sequence[int], fusions: Fusions, graph: Graph,
           outside: _Outside) -> Fused | None:  # fmt: skip
    """These steps as one, if there is a fusion that fits them."""
    parts = tuple(step for step in (steps[k] for k in places) if isinstance(step, Compute))
    fusion = fusions.get(tuple((part.call.op, part.call.gradient) for part in parts))
    if fusion is None:
        return None
    results, links = _Results(), list[dict[str, tuple[int, str]]]()
    for part in parts:
        link = results.join(part, written_ports(part, graph))
        if link is None or (links and not link):
            return None
        links.append(link)
    inner = frozenset(number for number in results.last if outside.inner(number, places))
    if any(parts[-1].ports[port][0] in inner for port in written_ports(parts[-1], graph)):
        return None
    results_inside = [
        (k, port) for k, part in enumerate(parts) for port in written_ports(part, graph) if part.ports[port][0] in inner
    ]
    chain = Chain(tuple(part.call for part in parts), tuple(links), frozenset(results_inside))
    return Fused(tuple(_without(part, inner) for part in parts), chain) if fusion.fits(chain) else None


def _without(part: Compute, inner: Collection[int]) -> Compute:
    """The part with those of its ports that lie in memory."""
    ports = {port: place for port, place in part.ports.items() if place[0] not in inner}
    return replace(part, ports=MappingProxyType(ports))


class _Results:
    """What a chain has written so far: buffer -> the last to write it (call, port), and where. `read` are the buffers that were
    read."""

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, str, Rect]] = {}
        self._read: set[int] = set()
        self._count = 0

    def join(self, part: Compute, written: Collection[str]) -> dict[str, tuple[int, str]] | None:
        """The links of the next part; None if it cannot be the next: it takes another piece than was written, or writes over what
        an earlier part has written or read."""
        links = {}
        for port, (number, rect) in part.ports.items():
            taken = port not in written or port in part.call.accumulate
            before = self.last.get(number)
            if before is not None and (rect != before[2] or not taken):
                return None
            if port in written and number in self._read:
                return None
            if before is not None:
                links[port] = before[:2]
        self._read.update(number for port, (number, _) in part.ports.items() if port not in written)
        for port in written:
            number, rect = part.ports[port]
            if number != NOWHERE:
                self.last[number] = (self._count, port, rect)
        self._count += 1
        return links
