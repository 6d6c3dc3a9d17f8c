"""A training step of several batches: what happens at which of them.

In: a training graph. Out: for nodes, zeroing and transfers a `Turn`. Promise: gradients of parameters start at zero with the first
batch, add up, and travel once, behind the last; updates follow. All else happens at every batch, running statistics included.

    batch 1      zero w.grad   forward   gradient (w.grad +=)
    batch 2                    forward   gradient (w.grad +=)   reduce w.grad   measure, update w

What is put off into the next step (`dgraph.schedule.postpone`) happens at its first batch, or when a run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dgraph.graph.node import Graph


class Turn(Enum):
    """At which batches of a training step something is done; NEXT: at the first one of the step behind."""

    EVERY = "every"
    FIRST = "first"
    LAST = "last"
    NEXT = "next"


@dataclass(frozen=True)
class Late:
    """What belongs to the end of a training step: `nodes` run, and `written` travels, behind the last batch; `gradients` are what
    these nodes read of the batches, summed over all of them."""

    nodes: frozenset[str]
    written: frozenset[str]
    gradients: frozenset[str]

    def node(self, name: str) -> Turn:
        """When a node runs."""
        return Turn.LAST if name in self.nodes else Turn.EVERY

    def zeroing(self, tensor: str) -> Turn:
        """When a tensor is set to zero."""
        if tensor in self.gradients:
            return Turn.FIRST
        return Turn.LAST if tensor in self.written else Turn.EVERY

    def transfer(self, tensor: str) -> Turn:
        """When a tensor travels."""
        return Turn.LAST if tensor in self.gradients or tensor in self.written else Turn.EVERY


def behind_gradients(graph: Graph) -> Late:
    """The end of a training step: measure and update nodes of parameters, and what only they read or write."""
    nodes = frozenset(name for name, op in graph.ops.items() if op.kind in ("measure", "update") and op.op != "follow")
    written = frozenset(tensor for name in nodes for _, tensor in graph.ops[name].outputs)
    read = frozenset(tensor for name in nodes for _, tensor in graph.ops[name].inputs)
    gradients = frozenset(tensor for tensor in read - written if graph.tensors[tensor].role == "gradient")
    return Late(nodes, written, gradients)
