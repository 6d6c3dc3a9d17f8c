"""How much the steps of a schedule have to do.

In: a schedule. Out: `Work` by node and verb. Promise: counted from pieces and rects, without running anything.

    operations    those of a point of the op's space, times the points of the piece; in a gradient, of each result
    bytes         every rect that a step reads or writes, once; twice where it is added to. What passes from op to op inside a fused
                  step does not count, and what a step does in scratch does not, either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dgraph.kernels.call import Call
from dgraph.ops import OPS
from dgraph.rect import Rect
from dgraph.schedule.step import NOWHERE, Compute, Feed, Fused, Measure, Schedule, Step, Update, Zero

Key = tuple[str, str]
"""A node and what it does: its verb in a trace."""


@dataclass(frozen=True)
class Work:
    """Of all steps of a node with one verb. `steps` is how many there are, pieces and batches apart."""

    kind: str
    flops: int = 0
    nbytes: int = 0
    steps: int = 1

    def and_more(self, other: Work) -> Work:
        """Both together."""
        flops, nbytes = self.flops + other.flops, self.nbytes + other.nbytes
        return replace(self, flops=flops, nbytes=nbytes, steps=self.steps + other.steps)


def work_of(schedule: Schedule, states: int, itemsize: int) -> dict[Key, Work]:
    """The work of everything but transfers; `states` is how many arrays an optimizer keeps of each parameter."""
    found: dict[Key, Work] = {}
    for step in schedule.steps:
        entry = _work(step, schedule, states, itemsize)
        if entry is not None:
            key, work = entry
            found[key] = found[key].and_more(work) if key in found else work
    return found


def _work(step: Step, schedule: Schedule, states: int, itemsize: int) -> tuple[Key, Work] | None:
    match step:
        case Compute(node=node):
            nbytes = itemsize * _touched([step])
            return (node, step.verb), Work(_kind(step.call), flops_of(step.call), nbytes)
        case Fused(node=node, parts=parts, chain=chain):
            kind, flops = " + ".join(map(_kind, chain.calls)), sum(map(flops_of, chain.calls))
            return (node, step.verb), Work(kind, flops, itemsize * _touched(parts))
        case Feed(node=node, ports=ports):
            nbytes = itemsize * sum(rect.volume for _, rect in ports.values())
            return (node, "feed"), Work("feed", 0, nbytes)
        case Zero(node=node, buffer=number) if number is not None and not step.idle:
            return (node, "zero"), Work("zero", 0, itemsize * schedule.placement.buffers[number].rect.volume)
        case Measure(node=node, pieces=pieces):
            volume = sum(piece.volume for piece in pieces)
            return (node, "measure"), Work("measure", 2 * volume, itemsize * volume)
        case Update(node=node, target=(_, rect)):
            kept = 0 if step.follows else states
            arrays = 3 + 2 * kept  # the parameter is read and written, the gradient read; states are read and written
            return (node, "update"), Work("update", (2 + 2 * kept) * rect.volume, arrays * itemsize * rect.volume)
    return None


def _kind(call: Call) -> str:
    return f"{call.op} gradient" if call.gradient else call.op


def flops_of(call: Call) -> int:
    """Operations of a piece; in a gradient, as many for every result."""
    op = OPS[call.op]
    given = () if op.gradient is None else tuple(f"{port}.delta" for port in op.gradient.by)
    results = sum(port.endswith(".delta") and port not in given for port in call.rects) if call.gradient else 1
    return op.flops * call.piece.volume * results


def _touched(parts: Iterable[Compute]) -> int:
    """Elements of all rects in memory, each once, of those that are added to twice."""
    places: dict[tuple[int, Rect], int] = {}
    for part in parts:
        for port, place in part.ports.items():
            if place[0] != NOWHERE:
                times = 2 if port in part.call.accumulate else 1
                places[place] = max(times, places.get(place, 0))
    return sum(times * rect.volume for (_, rect), times in places.items())
