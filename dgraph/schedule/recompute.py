"""Results of cheap ops that are computed again instead of kept (Chen, Xu, Zhang and Guestrin 2016, "Training Deep Nets with
Sublinear Memory Cost", section 4).

In: the steps of one rank. Out: the steps, with some of the forward ones a second time, right before the first gradient that reads
what they give. Promise: the same kernels on the same operands, so the same bits; no operand is kept for longer than without; what
a message brings is not computed again, and no message is sent for it.

             conv   relu   conv   ...   relu   conv.grad   relu.grad
    x         w------r-------------------r------------------r          needed by a gradient in any case
    y                w------r                                          kept, it would be there until relu.grad
    y again                              w------r-----------r
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from dgraph.graph.node import Graph
from dgraph.schedule.buffer import Buffer, Placement
from dgraph.schedule.step import NOWHERE, Compute, Step
from dgraph.schedule.touch import Touch, touch, written_ports


def recompute(steps: Sequence[Step], forward: int, graph: Graph, placement: Placement, ops: Collection[str],
              needed: frozenset[int]) -> tuple[list[Step], Placement]:  # fmt: skip
    """The steps, of which the first `forward` are those of an evaluation, with results of `ops` computed again, and the placement
    with buffers for these. `needed` are buffers that must hold what they should behind a run."""
    search = _Search.of(steps, forward, graph, placement, ops)
    found: dict[int, list[_Again]] = {}
    locked, gone = set(needed), set[int]()
    # The largest first, and from behind: of results of one size that are made of one another, every second one is kept.
    for place in sorted(range(forward), key=lambda place: (-search.nbytes(place), -place)):
        again = search.again(place, locked, gone)
        if again is not None:
            locked |= again.operands
            gone |= again.results
            found.setdefault(again.before, []).append(again)
    buffers, instead = [*placement.buffers], dict[int, int]()
    made: list[Step] = []
    for place, step in enumerate(steps):
        for again in sorted(found.get(place, ()), key=lambda again: max(again.made)):
            own = _fresh(again, buffers)
            made += [_done_again(steps[source], numbers, own, graph) for source, numbers in sorted(again.made.items())]
            instead |= {number: own[number] for number in again.results}
        made.append(_moved(step, instead) if place >= forward and isinstance(step, Compute) else step)
    return made, replace(placement, buffers=tuple(buffers))


@dataclass(frozen=True)
class _Again:
    """Forward steps to be done again before another: `made` says, by place, for which buffers; `results` are those that gradients
    read, `operands` what is read of others."""

    before: int
    made: Mapping[int, set[int]]
    results: frozenset[int]
    operands: frozenset[int]


@dataclass(frozen=True)
class _Search:
    """By which steps buffers are read and written; `lasting` are those of parameters and states."""

    steps: Sequence[Step]
    forward: int
    touches: Sequence[Touch]
    readers: Mapping[int, list[int]]
    writers: Mapping[int, list[int]]
    lasting: frozenset[int]
    placement: Placement
    ops: Collection[str]

    @staticmethod
    def of(steps: Sequence[Step], forward: int, graph: Graph, placement: Placement, ops: Collection[str]) -> _Search:
        touches = [touch(step, graph, placement) for step in steps]
        readers: dict[int, list[int]] = {}
        writers: dict[int, list[int]] = {}
        for place, now in enumerate(touches):
            for numbers, users in ((now.reads, readers), (now.writes, writers)):
                for number in numbers:
                    users.setdefault(number, []).append(place)
        lasting = placement.numbers(tensor.name for tensor in graph.kept)
        return _Search(steps, forward, touches, readers, writers, lasting, placement, ops)

    def nbytes(self, place: int) -> int:
        """Bytes of what gradients read of the results of a step."""
        return sum(self.placement.buffers[number].nbytes for number in self.touches[place].writes if self._late(number))

    def again(self, place: int, locked: Collection[int], gone: Collection[int]) -> _Again | None:
        """How what a step gives is computed again; None where no gradient reads it, or it is `locked`, or it cannot be: because it,
        or what it is made of, is no cheap op's, comes by a message or will be `gone` itself."""
        late = {number: self._late(number) for number in self.touches[place].writes}
        results = frozenset(number for number, readers in late.items() if readers)
        if not results or not all(self._is_made_by(number, place) and number not in locked for number in results):
            return None
        readers = [reader for number in results for reader in late[number]]
        if not all(isinstance(self.steps[reader], Compute) for reader in readers):
            return None
        made: dict[int, set[int]] = {place: set(results)}
        operands = set[int]()
        if not self._gather(place, min(readers), made, operands) or not operands.isdisjoint(gone):
            return None
        return _Again(min(readers), made, results, frozenset(operands))

    def _late(self, number: int) -> list[int]:
        """The steps behind the forward ones that read a buffer."""
        return [reader for reader in self.readers.get(number, ()) if reader >= self.forward]

    def _is_made_by(self, number: int, place: int) -> bool:
        """Whether a step is the only one that writes a buffer, does a cheap op, and adds to nothing."""
        step = self.steps[place]
        cheap = isinstance(step, Compute) and step.call.op in self.ops and not step.call.accumulate
        return cheap and self.writers.get(number) == [place] and place < self.forward

    def _gather(self, place: int, before: int, made: dict[int, set[int]], operands: set[int]) -> bool:
        """Adds what must be done again for a step to be, before another: what it reads must be there then, or be made again."""
        waiting = [place]
        while waiting:
            for number in self.touches[waiting.pop()].reads - self.lasting:
                if max(self.readers[number]) >= before:
                    operands.add(number)
                    continue
                source = self.writers.get(number, [self.forward])[0]
                if not self._is_made_by(number, source):
                    return False
                if source not in made:
                    waiting.append(source)
                made.setdefault(source, set()).add(number)
        return True


def _fresh(again: _Again, buffers: list[Buffer]) -> dict[int, int]:
    """Buffers for all that is computed again, by those that they stand for."""
    own: dict[int, int] = {}
    for number in sorted(number for numbers in again.made.values() for number in numbers):
        own[number] = len(buffers)
        buffers.append(replace(buffers[number], shared=False))
    return own


def _done_again(step: Step, numbers: Collection[int], own: Mapping[int, int], graph: Graph) -> Compute:
    """The step with those of its results that are wanted, in buffers of their `own`."""
    if not isinstance(step, Compute):
        raise TypeError(f"{step.node} computes nothing")
    dropped = {port for port in written_ports(step, graph) if step.ports[port][0] not in numbers}
    ports = {port: place for port, place in step.ports.items() if port not in dropped}
    rects = {port: rect for port, rect in step.call.rects.items() if port not in dropped}
    again = replace(step, call=replace(step.call, rects=rects), ports=MappingProxyType(ports), again=True)
    return _moved(again, own)


def _moved(step: Compute, instead: Mapping[int, int]) -> Compute:
    """The step with other buffers."""
    if not any(number in instead for number, _ in step.ports.values() if number != NOWHERE):
        return step
    ports = {port: (instead.get(number, number), rect) for port, (number, rect) in step.ports.items()}
    return replace(step, ports=MappingProxyType(ports))
