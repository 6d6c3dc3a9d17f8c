"""What a plan costs: bytes, messages and memory.

In: a program, ranks. Out: plain values. Promise: exact counts, those that a run has.
"""

from __future__ import annotations

from typing import Any

from dgraph.program.backend import libraries
from dgraph.program.compiled import Program
from dgraph.schedule.turn import Turn, behind_gradients

COUNTED = ("messages", "sent_nbytes", "received_nbytes")


def plan_summary(program: Program, ranks: range | list[int]) -> dict[str, Any]:
    """Bytes and messages of a training step, and memory, of some ranks: the result of `dgraph plan`. `size` is the number of all
    ranks; `ranks` lists those asked for, each with `rank`, `peak_nbytes`, `sent_nbytes`, `messages` and, by tensor, `tensors`;
    `libraries` are the ops by the library whose kernels do them."""
    itemsize = 4 if program.config.dtype == "float32" else 8
    late, batches = behind_gradients(program.graph), program.config.train.accumulate
    entries = []
    for rank in ranks:
        plan = program.plan(rank)
        schedule = program.schedule(plan)
        tensors: dict[str, dict[str, Any]] = {}
        for name, transfer in plan.transfers.items():
            tensors[name] = {
                "kind": transfer.kind,
                "messages": len(transfer.sends),
                "sent_nbytes": transfer.sends.elements * itemsize,
                "received_nbytes": transfer.receives.elements * itemsize,
            }
            if transfer.all_reduce:
                block = transfer.read_rect.volume * itemsize
                tensors[name] |= {"messages": 1, "sent_nbytes": block, "received_nbytes": block}
            if late.transfer(name) is Turn.EVERY:
                tensors[name] |= {key: batches * tensors[name][key] for key in COUNTED}
        entries.append(
            {
                "rank": rank,
                "peak_nbytes": schedule.peak_nbytes,
                "sent_nbytes": sum(t["sent_nbytes"] for t in tensors.values()),
                "messages": sum(t["messages"] for t in tensors.values()),
                "tensors": tensors,
            }
        )
    return {"size": program.ranks, "ranks": entries, "libraries": dict(libraries(program.graph, program.backend))}
