"""What a plan costs: bytes, messages and memory.

In: a program, ranks. Out: plain values. Promise: exact counts, those that a run has where no memory is shared.
"""

from __future__ import annotations

from typing import Any

from dgraph.plan.kind import GATHERED, REASONS
from dgraph.plan.transfer import Convoy, Transfer
from dgraph.program.backend import libraries
from dgraph.program.compiled import Program
from dgraph.schedule.make import ITEMSIZE
from dgraph.schedule.postpone import obstacle
from dgraph.schedule.turn import Turn, behind_gradients


def plan_summary(program: Program, ranks: range | list[int]) -> dict[str, Any]:
    """Bytes and messages of a training step, and memory, of some ranks: the result of `dgraph plan`. `size` is the number of all
    ranks; `ranks` lists those asked for, each with `rank`, `peak_nbytes`, of which `memory` says what it is for (as
    `Schedule.memory`), `spread_peak_nbytes`, the peak where ranks are on several hosts, `sent_nbytes`, `messages` and, by tensor,
    `tensors`; `libraries` are the ops by the library whose kernels do them; `updates` says when parameters are updated, and why.

    A tensor has its `kind` and `axes`, and why (`because`); how it travels (`way`); `convoy`, the first tensor of those that
    travel with it; and its `messages` (those of a convoy count at its first tensor), `sent_nbytes` and `received_nbytes`.
    Where ranks share memory, what would be sent is read instead.
    """
    entries = []
    for rank in ranks:
        plan = program.plan(rank)
        schedule = program.schedule(plan)
        spread = program.schedule(plan, spread=True) if program.ranks > 1 else schedule
        tensors = {t.tensor: _entry(program, convoy, t) for convoy in plan.convoys for t in convoy.transfers}
        entries.append(
            {
                "rank": rank,
                "peak_nbytes": schedule.peak_nbytes,
                "memory": schedule.memory,
                "spread_peak_nbytes": spread.peak_nbytes,
                "sent_nbytes": sum(t["sent_nbytes"] for t in tensors.values()),
                "messages": sum(t["messages"] for t in tensors.values()),
                "tensors": {name: tensors[name] for name in plan.transfers},
            }
        )
    return {
        "size": program.ranks,
        "ranks": entries,
        "libraries": dict(libraries(program.graph, program.backend)),
        "updates": _updates(program),
    }


def _updates(program: Program) -> str:
    """When parameters are updated, and why then."""
    if not program.training:
        return "none"
    if program.is_late(False):
        return "late: each before the next step reads the parameter, its gradient under way until then"
    if program.is_late(True):
        return "in the step; between hosts late: each before the next step reads the parameter"
    why = obstacle(program.graph)
    return f"in the step: {why or 'as asked for'}"


def _entry(program: Program, convoy: Convoy, transfer: Transfer) -> dict[str, Any]:
    """One tensor: what its transfer is, and what it costs in all batches of a step."""
    itemsize = ITEMSIZE[program.config.dtype]
    late = behind_gradients(program.graph).transfer(transfer.tensor) is not Turn.EVERY
    times = 1 if late else program.config.train.accumulate
    readers = {peer for t in convoy.transfers for peer in t.sends.peers.tolist()}
    messages = 1 if convoy.sums_in_place else len(readers)
    sent, received = transfer.sends.elements, transfer.receives.elements
    if transfer.sums_in_place:
        sent = received = transfer.read_rect.volume
    return {
        "kind": transfer.kind,
        "axes": list(transfer.axes),
        "because": REASONS[transfer.kind],
        "way": _way(program, convoy),
        "convoy": convoy.transfers[0].tensor,
        "messages": times * messages if transfer is convoy.transfers[0] else 0,
        "sent_nbytes": times * sent * itemsize,
        "received_nbytes": times * received * itemsize,
    }


def _way(program: Program, convoy: Convoy) -> str:
    """How a convoy gets from rank to rank: within a host if memory can be shared, and else."""
    if not program.config.messages.window:
        return "collective" if convoy.kind in GATHERED else "messages"
    in_place = convoy.is_read_in_place(ITEMSIZE[program.config.dtype])
    return f"window: {'read in place' if in_place else 'packed'}; else messages"
