"""Updates that are put off into the next step, so that gradients travel behind its forward nodes.

In: the steps of one rank in order. Out: the same, where what follows upon a gradient that travels (the wait for it, the update, the
way of the parameter to its readers) stands before the first forward node that reads the parameter. Promise: every parameter goes
through the same updates, and whoever reads it finds what it would have found; ranks put off the same, to the same nodes.

    in its step     forward | gradients      | wait, update b, update a |
    put off         forward | gradients      | a wait, update a; forward of a | b wait, update b; forward of b | gradients ...

After Jayarajan et al. 2019 ("Priority-based Parameter Propagation for Distributed DNN Training") and Peng et al. 2019 ("A Generic
Communication Scheduler for Distributed DNN Training Acceleration"): what the next forward pass needs first is to come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dgraph.graph.node import Graph
from dgraph.plan.make import Plan
from dgraph.plan.transfer import Convoy
from dgraph.schedule.step import Compute, Feed, Fused, Start, Step, Update, Wait, Zero


def obstacle(graph: Graph) -> str:
    """Why no update of a graph can be put off; empty if they can."""
    measures = any(node.kind == "measure" for node in graph.ops.values())
    return "norms of all gradients are needed before the first update" if measures else ""


def due(graph: Graph, plan: Plan) -> dict[str, int]:
    """The gradients of parameters that travel, and the parameters: tensor -> the place, in the order of the nodes, of the first
    forward node that reads the parameter. Parameters that travel together are due together, or not put off."""
    position = {name: k for k, name in enumerate(graph.ops)}
    places: dict[str, int] = {}
    gradients: dict[str, str] = {}
    for node in graph.ops.values():
        if node.kind == "update" and node.op != "follow":
            (_, gradient), (_, parameter) = node.inputs[0], node.outputs[0]
            readers = [at for at, _ in graph.readers[parameter] if graph.ops[at].kind == "forward"]
            gradients[parameter] = gradient
            if readers and {gradient, parameter} & plan.transfers.keys():
                places[parameter] = min(position[at] for at in readers)
    for convoy in plan.convoys:
        together = gradients.keys() & set(convoy.tensors)
        if together <= places.keys():
            places |= dict.fromkeys(together, min((places[tensor] for tensor in together), default=0))
        else:
            places = {tensor: place for tensor, place in places.items() if tensor not in together}
    return places | {gradients[parameter]: place for parameter, place in places.items()}


def put_off(steps: Sequence[Step], forward: int, graph: Graph, plan: Plan) -> tuple[list[Step], int, frozenset[int]]:
    """The steps in their new order, how many of them stand among the forward nodes, and the places of those that were put off."""
    places = due(graph, plan)
    late: list[tuple[int, Step]] = []
    rest: list[Step] = []
    for step in steps[forward:]:
        place = _due_at(step, places, graph)
        if place is None:
            rest.append(step)
        else:
            late.append((place, step))
    late.sort(key=lambda entry: entry[0])
    position = {name: k for k, name in enumerate(graph.ops)}
    ordered: list[Step] = []
    moved: set[int] = set()
    for group in _with_waits(steps[:forward]):
        at = max((_place(step, position) for step in group), default=-1)
        while late and late[0][0] <= at:
            moved.add(len(ordered))
            ordered.append(late.pop(0)[1])
        ordered += group
    moved.update(range(len(ordered), len(ordered) + len(late)))
    ordered += [step for _, step in late]
    return [*ordered, *rest], len(ordered), frozenset(moved)


def _with_waits(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, each behind the waits right before it: an update hides what these wait for."""
    groups: list[list[Step]] = [[]]
    for step in steps:
        groups[-1].append(step)
        if not isinstance(step, Wait):
            groups.append([])
    return groups


def _due_at(step: Step, places: Mapping[str, int], graph: Graph) -> int | None:
    """Where a step behind the forward nodes is due; None where it is not put off."""
    match step:
        case Update(parameter=parameter, follows=False):
            return places.get(parameter)
        case Start(convoy=convoy) if graph.tensors[convoy.tensors[0]].role != "parameter":
            return None  # a gradient: it starts where it is done
        case Start(convoy=convoy) | Wait(convoy=convoy):
            return _of_convoy(convoy, places)
        case _:
            return None


def _of_convoy(convoy: Convoy, places: Mapping[str, int]) -> int | None:
    if not places.keys() >= set(convoy.tensors):
        return None
    return min(places[tensor] for tensor in convoy.tensors)


def _place(step: Step, position: Mapping[str, int]) -> int:
    """The place of a step in the order of the nodes; of a transfer that starts, that of the node behind which it does."""
    match step:
        case Fused(parts=parts):
            return max(position[part.node] for part in parts)
        case Start(convoy=convoy):
            return convoy.start
        case Compute() | Feed() | Zero() | Update():
            return position[step.node]
        case _:
            return -1
