"""How the steps of one rank are put in order.

In: a layout, a plan, a backend. Out: `Schedule`. Promise: a convoy starts right after the last writer of its tensors and is waited
for right before their first reader, or within it, where only a part of that needs what travels; in one global order on every rank;
nothing is left to be decided while running.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dgraph.graph.node import Graph
from dgraph.kernels.backend import Backend
from dgraph.kernels.call import Allocating
from dgraph.layout.assign import Layout
from dgraph.plan.make import Plan
from dgraph.plan.transfer import Convoy
from dgraph.schedule.arena import in_arena
from dgraph.schedule.buffer import Placement, memory_orders, place_tensors
from dgraph.schedule.early import update_early, zero_late
from dgraph.schedule.fuse import fuse
from dgraph.schedule.inplace import permitted
from dgraph.schedule.interior import Rule, arrange
from dgraph.schedule.node import node_steps
from dgraph.schedule.postpone import put_off
from dgraph.schedule.recompute import recompute
from dgraph.schedule.step import Compute, Feed, Fused, Measure, Schedule, Start, Step, Update, Wait, Zero
from dgraph.schedule.turn import Late, Turn, behind_gradients

ITEMSIZE = MappingProxyType({"float32": 4, "float64": 8})


@dataclass(frozen=True)
class Demand:
    """What a schedule makes room for, and what it may do.

    `states`: arrays of a parameter's shape that the optimizer keeps for each, and the bytes of scratch of an update; `batches`: how
    many there are in a training step, whose gradients add up; `ahead`: how many batches there is room to read ahead; `shown`:
    tensors that are looked at behind a run; `fusion`: whether chains of ops may be done as one; `reuse`: whether memory serves
    again when what was there is needed no more; `in_place`: whether results may be written over operands; `recompute`: ops
    whose results are computed again for gradients rather than kept; `evaluation`: no more than the forward nodes; `overlap` and
    `spread`: when computation is cut so that communication hides behind it (`dgraph.schedule.interior.Rule`); `late`: whether
    updates are put off into the next step (`dgraph.schedule.postpone`).
    """

    states: int = 0
    update_workspace: int = 0
    batches: int = 1
    ahead: int = 0
    shown: frozenset[str] = frozenset()
    fusion: bool = True
    reuse: bool = True
    in_place: bool = True
    recompute: frozenset[str] = frozenset()
    evaluation: bool = False
    overlap: bool | None = None
    spread: bool = False
    late: bool = False


DEMAND = Demand()


def make_schedule(layout: Layout, plan: Plan, backend: Backend, dtype: str = "float32", demand: Demand = DEMAND,
                  orders: Mapping[str, tuple[int, ...]] | None = None) -> Schedule:  # fmt: skip
    """The schedule of one rank. `orders`: the memory orders, if they are known already (they are the same on every rank)."""
    graph, itemsize = layout.graph, ITEMSIZE[dtype]
    late = behind_gradients(graph)
    if orders is None:
        orders = memory_orders(graph, backend.kernels, dtype)
    placement = place_tensors(layout, plan, orders, itemsize)
    kept = late.gradients if demand.batches > 1 else frozenset()
    by_node = {name: node_steps(layout, name, plan, placement, dtype, kept) for name in graph.ops}
    rule = Rule(demand.overlap, demand.spread, itemsize)
    steps, forward = _with_transfers(layout, plan, by_node, placement, rule)
    if demand.evaluation:
        steps = _waited(steps[:forward])
    lasting = demand.shown | {tensor.name for tensor in graph.kept}
    if demand.recompute:
        looked_at = placement.numbers(lasting)
        steps, placement = recompute(steps, forward, graph, placement, demand.recompute, looked_at)
    fusions = backend.fusions if demand.fusion else {}
    steps, forward = fuse(steps, forward, fusions, graph, placement, placement.numbers(lasting))
    steps = update_early(zero_late(steps, graph, placement), forward, graph, placement)
    steps, forward, moved = put_off(steps, forward, graph, plan) if demand.late else (steps, forward, frozenset[int]())
    updates = [step for step in steps if isinstance(step, Update)]
    fed = [step for step in steps if isinstance(step, Feed)]
    updated = sum(step.target[1].volume for step in updates if not step.follows)
    workspaces = [*_workspaces(steps, backend, demand), demand.update_workspace if updates else 0]
    permits = [permitted(step, backend, placement) if demand.in_place else frozenset() for step in steps]
    placement, scratch = in_arena(placement, steps, workspaces, graph, kept, lasting, demand.reuse, permits, moved)
    return Schedule(
        rank=plan.rank,
        dtype=dtype,
        placement=placement,
        steps=tuple(steps),
        turns=tuple(Turn.NEXT if k in moved else _turn(step, graph, late) for k, step in enumerate(steps)),
        forward=forward,
        scratch=scratch,
        staging_nbytes=sum(map(_staging, plan.convoys)) * itemsize,
        state_nbytes=updated * demand.states * itemsize,
        ahead_nbytes=demand.ahead * sum(rect.volume for step in fed for _, rect in step.ports.values()) * itemsize,
        library_nbytes=max(_temporaries(steps, backend), default=0),
    )


def _workspaces(steps: Sequence[Step], backend: Backend, demand: Demand) -> Iterator[int]:
    """Bytes of scratch of every step."""
    for step in steps:
        match step:
            case Compute(call=call):
                yield backend.kernels[call.op, call.gradient].workspace(call)
            case Fused(chain=chain):
                yield backend.fusions[chain.ops].workspace(chain)
            case Update() | Measure():
                yield demand.update_workspace
            case _:
                yield 0


def _temporaries(steps: Sequence[Step], backend: Backend) -> Iterator[int]:
    """Bytes that a library allocates by itself in every step that computes."""
    for step in steps:
        match step:
            case Compute(call=call):
                kernel = backend.kernels[call.op, call.gradient]
                yield kernel.temporary(call) if isinstance(kernel, Allocating) else 0
            case Fused(chain=chain):
                fusion = backend.fusions[chain.ops]
                yield fusion.temporary(chain) if isinstance(fusion, Allocating) else 0


def _staging(convoy: Convoy) -> int:
    """Elements packed to be sent and received."""
    alone = len(convoy.transfers) == 1
    if convoy.sums_in_place:
        return 0 if alone else 2 * convoy.elements
    return sum(transfer.sends.elements + transfer.receives.elements for transfer in convoy.transfers)


# --- order


def _with_transfers(layout: Layout, plan: Plan, by_node: Mapping[str, list[Step]], placement: Placement,
                    rule: Rule) -> tuple[list[Step], int]:  # fmt: skip
    """The nodes' steps in graph order with the transfers between them, what is needed first set on its way first; and how many
    belong to an evaluation."""
    graph = layout.graph
    position = {name: k for k, name in enumerate(graph.ops)}
    after: dict[int, list[Start]] = {}
    before: dict[int, list[Wait]] = {}
    for convoy in plan.convoys:
        after.setdefault(convoy.start, []).append(Start(convoy))
        before.setdefault(convoy.wait, []).append(Wait(convoy))
    steps: list[Step] = []
    forward = 0
    for name, k in position.items():
        starts = sorted(after.get(k, ()), key=lambda start: start.convoy.wait)
        steps += arrange(layout, name, by_node[name], before.get(k, ()), starts, placement, rule)
        if graph.ops[name].kind == "forward":
            forward = len(steps)
    return [*steps, *before.get(len(position), ())], forward


def _waited(steps: Sequence[Step]) -> list[Step]:
    """The steps, and the waits that they lack."""
    waited = {step.node for step in steps if isinstance(step, Wait)}
    return [*steps, *(Wait(step.convoy) for step in steps if isinstance(step, Start) and step.node not in waited)]


def _turn(step: Step, graph: Graph, late: Late) -> Turn:
    match step:
        case Start() | Wait():
            return late.transfer(step.convoy.transfers[0].tensor)
        case Zero() if graph.ops[step.node].kind == "zero":
            return late.zeroing(graph.ops[step.node].outputs[0][1])
        case _:
            return late.node(step.node)
