"""Steps moved to where they need memory for the shortest time.

In: the steps of one rank in graph order. Out: the same steps in another. Promise: what a step reads is what it read before: none
passes another that writes what it touches, or that touches what it writes; transfers keep their places.

    gradient a, gradient b, zero c, gradient c, update a, update b    =>    gradient a, update a, gradient b, update b, zero c, ...
"""

from __future__ import annotations

from collections.abc import Sequence

from dgraph.graph.node import Graph
from dgraph.schedule.buffer import Placement
from dgraph.schedule.step import Step, Update, Zero
from dgraph.schedule.touch import touch


def zero_late(steps: Sequence[Step], graph: Graph, placement: Placement) -> list[Step]:
    """The same with gradients zeroed right before something else touches them, so that their memory is needed no earlier."""
    waiting: dict[int, Zero] = {}
    result: list[Step] = []
    for step in steps:
        if isinstance(step, Zero) and not step.idle and step.buffer is not None and graph.ops[step.node].kind == "zero":
            waiting[step.buffer] = step
            continue
        result += [waiting.pop(number) for number in sorted(touch(step, graph, placement).all & waiting.keys())]
        result.append(step)
    return [*result, *waiting.values()]


def update_early(steps: Sequence[Step], forward: int, graph: Graph, placement: Placement) -> list[Step]:
    """The same with parameters updated as soon as their gradients are there and nobody needs their old values any more, so that
    the memory of gradients serves again; behind the `forward` steps of an evaluation."""
    written: dict[int, int] = {}
    read: dict[int, int] = {}
    behind: list[int] = []
    for k, step in enumerate(steps):
        now = touch(step, graph, placement)
        place = k
        if isinstance(step, Update):
            before = [written.get(number, 0) for number in now.all] + [read.get(number, 0) for number in now.writes]
            place = max(forward - 1, *before)
        behind.append(place)
        for numbers, last in ((now.writes, written), (now.reads, read)):
            last.update((number, max(place, last.get(number, 0))) for number in numbers)
    order = sorted(range(len(steps)), key=lambda k: (behind[k], isinstance(steps[k], Update), k))
    return [steps[k] for k in order]
