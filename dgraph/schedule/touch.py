"""Which buffers a step touches.

In: a step, the graph, where tensors lie. Out: `Touch`. Promise: what is not named here is not needed while the step runs, so that
lifetimes, chains and aliases all rest on this one account.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dgraph.graph.node import Graph
from dgraph.plan.transfer import Convoy
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import NOWHERE, Compute, Feed, Fused, Measure, Start, Step, Update, Wait, Zero

EMPTY: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Touch:
    """The numbers of the buffers that a step reads, and of those that it writes; one that it adds into is in both."""

    reads: frozenset[int]
    writes: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        """Either."""
        return self.reads | self.writes


def touch(step: Step, graph: Graph, placement: Placement) -> Touch:
    """What one step touches; what lies nowhere is left out."""
    match step:
        case Compute():
            return _of_parts([step], [{}], graph)
        case Fused(parts=parts, chain=chain):
            return _of_parts(parts, chain.links, graph)
        case Feed(ports=ports):
            return Touch(EMPTY, _numbers(number for number, _ in ports.values()))
        case Zero(buffer=number, elided=elided):
            return Touch(EMPTY, EMPTY if elided else _numbers([number]))
        case Update(gradient=gradient, target=target, norms=norms):
            read = _numbers([gradient[0], target[0], *(number for number, _ in norms.values())])
            return Touch(read, _numbers([target[0]]))
        case Measure(update=update, row=row):
            return Touch(touch(update, graph, placement).reads, _numbers([row[0]]))
        case Start(convoy=convoy):
            return Touch(*_travelling(convoy, placement))
        case Wait(convoy=convoy):
            written, read = _travelling(convoy, placement)
            return Touch(written | read, read)


def _travelling(convoy: Convoy, placement: Placement) -> tuple[frozenset[int], frozenset[int]]:
    """The buffers that a convoy takes from, and those that it brings up to date."""
    places = [(placement.places[transfer.tensor], transfer) for transfer in convoy.transfers]
    written = _numbers(place.write for place, transfer in places if transfer.write_rect)
    return written, _numbers(place.read for place, transfer in places if transfer.read_rect)


def written_ports(step: Compute, graph: Graph) -> frozenset[str]:
    """The ports of a piece that it writes."""
    return frozenset(port for port, _ in graph.ops[step.node].outputs if port in step.ports)


def _of_parts(parts: Sequence[Compute], links: Sequence[Collection[str]], graph: Graph) -> Touch:
    """What these touch together; ports in `links` read what an earlier part has written."""
    reads, writes = set[int](), set[int]()
    for part, linked in zip(parts, links, strict=True):
        written = written_ports(part, graph)
        assigned = {part.ports[port][0] for port in written - part.call.accumulate}
        for port, (number, _) in part.ports.items():
            # What is added to a tensor that is joined twice adds to what the op itself has assigned.
            added = port in part.call.accumulate and number not in assigned
            if port in written:
                writes.add(number)
            if port not in linked and (port not in written or added):
                reads.add(number)
    return Touch(_numbers(reads), _numbers(writes))


def _numbers(numbers: Iterable[int | None]) -> frozenset[int]:
    return frozenset(number for number in numbers if number is not None and number != NOWHERE)
